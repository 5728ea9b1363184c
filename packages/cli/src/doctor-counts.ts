import { isJsonObject, type Json, type JsonObject } from '@millrace/core'

/** What `GET /v1/stats` tells, as far as the checks need it. All but `running` and `cacheBytes` only rise. */
export interface Counts {
  readonly calls: number
  readonly aborted: number
  readonly running: number
  /** Tokens of messages that were dropped. */
  readonly tokensFitted: number
  /** Requests sent again. */
  readonly retries: number
  /** Sockets opened, and requests over all of them. */
  readonly opened: number
  readonly requests: number
  readonly reused: number
  /** 0 without a cache. */
  readonly cacheBytes: number
}

/** Of a gateway's `GET /v1/stats`; undefined when it is no gateway's. */
export function readCounts(stats: Json | undefined): Counts | undefined {
  if (!isJsonObject(stats) || typeof stats.calls !== 'number' || !isJsonObject(stats.origins)) return undefined
  const origins = Object.values(stats.origins).filter((origin) => isJsonObject(origin))
  const overAll = (field: string): number => origins.reduce((sum, origin) => sum + numberOf(origin, field), 0)
  return {
    calls: stats.calls,
    aborted: numberOf(stats, 'aborted'),
    running: numberOf(stats, 'running'),
    tokensFitted: numberOf(stats, 'tokensFitted'),
    retries: numberOf(stats, 'retries'),
    opened: overAll('opened'),
    requests: overAll('requests'),
    reused: overAll('reused'),
    cacheBytes: isJsonObject(stats.cache) ? numberOf(stats.cache, 'bytes') : 0
  }
}

/** What has happened between two readings. */
export function rise(before: Counts, after: Counts): Counts {
  return Object.fromEntries(Object.entries(after).map(([name, value]) => [name, value - before[name as keyof Counts]])) as {
    -readonly [K in keyof Counts]: number
  }
}

export function numberOf(from: JsonObject, field: string): number {
  const value = from[field]
  return typeof value === 'number' ? value : 0
}
