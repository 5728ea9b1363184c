import { createRedis, type RedisStore } from '@millrace/cache/redis'
import type { SharedLog } from '@millrace/core'
import type { LimitStore } from '@millrace/limits'
import { createRedisLimits } from '@millrace/limits/redis'
import { createRedisLog } from '@millrace/streaming/redis'
import { type FreezableProxy, startFreezableProxy } from './freezable-proxy.ts'

/** What replicas share through one Redis. */
export interface Backends {
  readonly redis: RedisStore
  readonly cacheLog: SharedLog
  readonly streamLog: SharedLog
  readonly limits: LimitStore
  /** The address for those with a connection of their own. */
  readonly url: string
  /** There where faults may be injected. */
  readonly proxy: FreezableProxy | undefined
}

/** Neither waits for Redis nor fails when it is away: each part has its own way to go on without it. */
export async function openBackends(url: string, faults: boolean, opened: AsyncDisposable[]): Promise<Backends> {
  const proxy = faults ? await proxyTo(url, opened) : undefined
  const reached = proxy === undefined ? url : through(url, proxy.port)
  const redis = createRedis({ url: reached })
  opened.push(redis)
  const { command } = redis
  const cacheLog = createRedisLog({ command, namespace: 'millrace:cache-log' })
  const streamLog = createRedisLog({ command, namespace: 'millrace:streams' })
  const limits = createRedisLimits({ command })
  opened.push(cacheLog, streamLog, { [Symbol.asyncDispose]: () => limits.close() })
  return { redis, cacheLog, streamLog, limits, url: reached, proxy }
}

/** TLS names the server it expects, so there is no proxy before one that speaks it. */
async function proxyTo(url: string, opened: AsyncDisposable[]): Promise<FreezableProxy | undefined> {
  const { protocol, hostname, port } = new URL(url)
  if (protocol !== 'redis:') return undefined
  const proxy = await startFreezableProxy({ host: hostname.replace(/^\[|\]$/g, ''), port: Number(port || 6379) })
  opened.push(proxy)
  return proxy
}

function through(url: string, port: number): string {
  const address = new URL(url)
  address.hostname = '127.0.0.1'
  address.port = String(port)
  return address.href
}
