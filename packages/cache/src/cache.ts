import { type CacheLookup, type CallOptions, type ChatRequest, channels, type Json } from '@millrace/core'
import { isJson } from './answer.ts'
import type { Flight } from './flight.ts'
import { keyOf, wrapKeyOf } from './key.ts'
import { type CacheOptions, settle, type WrapOptions } from './options.ts'
import { deepFreeze } from './plain.ts'
import { createTiers, type Tiers } from './tiers.ts'
import { createWork, type Work } from './work.ts'

/** What a cache did since it was created. Every lookup is exactly one of hits, joined, misses and bypassed. */
export interface CacheStats {
  /** Answered from a tier. */
  readonly hits: number
  /** Shared somebody else's call. */
  readonly joined: number
  /** Made an upstream call. */
  readonly misses: number
  /** Did not ask the cache: by option, after `close`, for several choices, or because no key could be made. */
  readonly bypassed: number
  /** Answers that were kept. */
  readonly stored: number
  /** Upstream calls whose answer was not kept: failed, given up, cut, filtered, invalid, too large, or told not to. */
  readonly notStored: number
  /** Calls of the store that failed or took too long. */
  readonly storeErrors: number
  /** Calls of the store that were not made, because it failed or was too slow shortly before. */
  readonly storeSkipped: number
  /** Entries in the store that were damaged, foreign or of another version: treated as misses and deleted. */
  readonly corrupt: number
  /** Entries that left memory for lack of room. */
  readonly evictions: number
  /** In memory now. */
  readonly entries: number
  readonly bytes: number
  /** Share of lookups without an upstream call, hits and joined; null before the first. */
  readonly hitRate: number | null
  /** Tokens, in and out, of the answers that were served without an upstream call. */
  readonly tokensSaved: number
}

/** A cache for whole answers and for any JSON value. Make one with `createCache`, and use it through `withCache` or `wrap`. */
export interface Cache extends AsyncDisposable {
  /**
   * The value under this key: from a tier, from a computation under way, or computed now. The value comes back frozen.
   * What is not plain JSON (a Date, a Map, undefined) is handed to all who asked at the same time, and not kept.
   *
   * @throws what `compute` throws, shared by all who asked at the same time and not kept; `signal.reason`;
   * `TypeError` when the key is not plain JSON
   *
   * @example
   * const vector = await cache.wrap({ model, text }, (signal) => embed(model, text, { signal }))
   */
  wrap<T>(key: Json, compute: (signal: AbortSignal) => Promise<T>, options?: WrapOptions): Promise<T>
  stats(): CacheStats
  /**
   * Forgets every answer of this cache's namespace; keys of others survive. Other processes stop serving theirs when
   * they next ask the store, at the latest when the answer's lifetime ends.
   *
   * @throws {MillraceError} `unavailable` when the store did not take it; memory is cleared all the same
   */
  clear(): Promise<void>
  /** Lets writes under way end. Calls after it go past the cache. The store stays open: it is yours. Safe to call twice. */
  close(): Promise<void>
  readonly [inner]: CacheInner
}

/** Where `withCache` finds what it needs of a cache. Nothing reachable from it shows the secret or an answer. */
export const inner: unique symbol = Symbol('millrace.cache')

/** What `withCache` needs, and nobody else. */
export interface CacheInner {
  readonly maxEntryBytes: number
  readonly tiers: Tiers
  readonly flights: Map<string, Flight>
  readonly counts: Counts
  readonly closed: boolean
  /** `undefined` when no key can be made: the scope function failed, or the request is no JSON any more. */
  keyFor(request: ChatRequest, options: CallOptions, origin: string): string | undefined
  announce(state: CacheLookup['state'], lookup: { callId: string | undefined; startedAt: number; ageMs?: number }): void
  keep(kind: 'chat' | 'wrap', key: string, value: unknown, rule: KeepRule): void
}

/** Whether and for how long a call's answer may be kept; `epoch` as it was when the call began. */
export interface KeepRule {
  readonly noStore?: boolean | undefined
  readonly ttlMs?: number | undefined
  readonly epoch: number
}

interface Counts {
  hits: number
  joined: number
  misses: number
  bypassed: number
  stored: number
  notStored: number
  tokensSaved: number
}

/** Redis takes a lifetime as an integer; a year is for ever here. */
const maxTtlMs = 365 * 24 * 3_600_000

/**
 * Creates a cache: memory always, and a store behind it if you give one. No failure of the store ever fails a call.
 *
 * @throws {TypeError} for a wrong option
 *
 * @example
 * const cache = createCache({ ttlMs: 300_000 })
 * const cached = pipe(provider, withCache(cache, { origin: 'https://api.openai.com' }))
 */
export function createCache(options: CacheOptions = {}): Cache {
  const settings = settle(options)
  const tiers = createTiers(settings)
  const works = new Map<string, Work<unknown>>()
  const counts: Counts = { hits: 0, joined: 0, misses: 0, bypassed: 0, stored: 0, notStored: 0, tokensSaved: 0 }
  const { secret } = settings
  let closing: Promise<void> | undefined

  function scopeOf(call: CallOptions): string {
    const scope = typeof settings.scope === 'function' ? settings.scope(call) : settings.scope
    if (typeof scope !== 'string' || scope === '') throw new TypeError('scope(options) must give a non-empty string')
    return scope
  }

  const self: CacheInner = {
    maxEntryBytes: settings.maxEntryBytes,
    tiers,
    flights: new Map(),
    counts,
    get closed() {
      return closing !== undefined
    },
    keyFor(request, call, origin) {
      try {
        return keyOf(request, { origin, scope: scopeOf(call), tenant: call.tenant, secret })
      } catch {
        return undefined // counted as bypassed, and told in the note
      }
    },
    announce(state, { callId = '', startedAt, ageMs }) {
      counts[state === 'hit' ? 'hits' : state === 'miss' ? 'misses' : state === 'joined' ? 'joined' : 'bypassed']++
      if (!channels.cacheLookup.hasSubscribers) return
      channels.cacheLookup.publish({ owner: cache, callId, state, elapsedMs: performance.now() - startedAt, ageMs })
    },
    keep(kind, key, value, { noStore, ttlMs: asked, epoch }) {
      const ttlMs = asked ?? settings.ttlMs
      const kept =
        noStore !== true &&
        ttlMs > 0 &&
        epoch === tiers.epoch &&
        closing === undefined &&
        tiers.keep(kind, key, value, Math.min(ttlMs, maxTtlMs))
      counts[kept ? 'stored' : 'notStored']++
    }
  }

  async function wrap<T>(
    name: Json,
    compute: (signal: AbortSignal) => Promise<T>,
    { signal, tenant, ...asked }: WrapOptions = {}
  ): Promise<T> {
    signal?.throwIfAborted()
    const startedAt = performance.now()
    const told = { callId: undefined, startedAt }
    const key = wrapKeyOf(name, { scope: scopeOf({ signal, tenant, cache: asked }), tenant, secret })
    if (asked.bypass === true || closing !== undefined) {
      self.announce('bypass', told)
      return createWork(compute, () => {}).join(signal)
    }
    if (asked.refresh !== true) {
      const found = (await tiers.find('wrap', key)) ?? tiers.peek(key)
      if (found !== undefined && found.ageMs <= (asked.maxAgeMs ?? Number.POSITIVE_INFINITY)) {
        self.announce('hit', { ...told, ageMs: found.ageMs })
        return found.value as T
      }
      signal?.throwIfAborted()
      const running = works.get(key)
      if (running !== undefined) {
        self.announce('joined', told)
        return running.join(signal) as Promise<T>
      }
    }
    self.announce('miss', told)
    const rule: KeepRule = { ...asked, epoch: tiers.epoch }
    const work = createWork(compute, (outcome) => {
      if (works.get(key) === work) works.delete(key)
      if (outcome === undefined || !isJson(outcome.value)) counts.notStored++
      else self.keep('wrap', key, deepFreeze(outcome.value), rule)
    })
    works.set(key, work)
    return work.join(signal)
  }

  const cache: Cache = {
    wrap,
    stats() {
      const asked = counts.hits + counts.joined + counts.misses
      return {
        ...counts,
        storeErrors: tiers.store?.errors ?? 0,
        storeSkipped: tiers.store?.skipped ?? 0,
        corrupt: tiers.corrupt,
        evictions: tiers.memory.evictions,
        entries: tiers.memory.entries,
        bytes: tiers.memory.bytes,
        hitRate: asked === 0 ? null : (counts.hits + counts.joined) / asked
      }
    },
    async clear() {
      // What is under way began before the clear: it ends for those who wait, and nobody joins it any more.
      self.flights.clear()
      works.clear()
      await tiers.clear()
    },
    close() {
      closing ??= tiers.close()
      return closing
    },
    [Symbol.asyncDispose]: () => cache.close(),
    [inner]: self
  }
  return cache
}
