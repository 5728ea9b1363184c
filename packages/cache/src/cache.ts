import {
  type CacheLookup,
  type CallOptions,
  type ChatRequest,
  channels,
  checkOptions,
  inputTokens,
  linkAbort,
  MillraceError,
  outputTokens,
  type Usage
} from '@millrace/core'
import { createCachedFetch, type FetchOptions } from './fetch.ts'
import { groupOf, scopeOf } from './key.ts'
import { createLeases } from './leases.ts'
import { areTags, type CacheableFetch, type CacheOptions, type CacheSettings, settle, type WrapOptions } from './options.ts'
import { createSealer } from './sealer.ts'
import type { Sharing } from './shared-call.ts'
import { type CacheStats, type Counts, countOf, createCounts } from './stats.ts'
import type { SharedFlight } from './taking-off.ts'
import { createTiers, type Tiers } from './tiers.ts'
import { type Key, wrapWith } from './wrap.ts'

/** What `cache.invalidate` forgets: everything that belongs to any of these. */
export interface Invalidation {
  readonly tags?: readonly string[] | undefined
  /** As the cache's `scope` gave it. */
  readonly scope?: string | undefined
  /** As `CallOptions.tenant` said. */
  readonly tenant?: string | undefined
}

/** A cache for whole answers and for any JSON value. Make one with `createCache`. */
export interface Cache extends AsyncDisposable {
  /**
   * The value under this key: from a tier, from a computation under way, or computed now. What comes back is a frozen copy,
   * shared by all who ask. What is not plain JSON (a Date, a Float32Array, undefined) is handed to all who asked at the same
   * time as it is, and not kept.
   *
   * @throws what `compute` throws, shared by all who asked at the same time and not kept; `signal.reason`;
   * `TypeError` when the key is not plain JSON
   *
   * @example
   * const vector = await cache.wrap({ model, text }, (signal) => embed(model, text, { signal }))
   */
  wrap<T>(key: Key, compute: (signal: AbortSignal) => Promise<T>, options?: WrapOptions): Promise<T>
  /**
   * A `fetch` that answers equal requests to a model from the cache, for any SDK: chat, Responses, Messages, embeddings.
   * What it does not know goes through untouched. See `FetchOptions`.
   *
   * @throws {TypeError} when `fetch` is no function, or an option is wrong
   *
   * @example
   * const client = new OpenAI({ fetch: cache.fetch(transport.fetch) })
   */
  fetch(fetch: typeof globalThis.fetch, options?: FetchOptions): typeof globalThis.fetch
  /**
   * The kept value in memory under a ready key (`keyOf`), frozen, or undefined. It asks nobody, waits for nothing and is
   * not counted; where a store may have been told to forget it, it may be half a second behind.
   */
  peek(key: string): unknown
  stats(): CacheStats
  /**
   * Forgets what belongs to a tag, a scope or a tenant; a refresh or a call under way that began before is not kept
   * either. It costs one command a group, however many entries there are. Other processes stop serving theirs within a
   * second, as long as they reach the store.
   *
   * @throws {MillraceError} `unavailable` when the store did not take it; here it is forgotten all the same
   * @throws {TypeError} when nothing is named
   *
   * @example
   * await cache.invalidate({ tags: ['document:12'] })
   */
  invalidate(what: Invalidation): Promise<void>
  /** `invalidate` for all of this cache's namespace; keys of others survive. */
  clear(): Promise<void>
  /** Ends refreshes in the background and lets writes under way end. Calls after it go past the cache. The store stays open: it is yours. Safe to call twice. */
  close(): Promise<void>
  readonly [inner]: CacheInner
}

/** Where the doors find what they need of a cache. Nothing reachable from it shows the secret or an answer. */
export const inner: unique symbol = Symbol('millrace.cache')

/** What the doors need, and nobody else. */
export interface CacheInner {
  readonly settings: CacheSettings
  readonly tiers: Tiers
  readonly flights: Map<string, SharedFlight<unknown>>
  /** Until when a key is not to be fetched anew in the background: `Infinity` while it is. */
  readonly refreshing: Map<string, number>
  readonly sharing: Sharing | undefined
  readonly counts: Counts
  /** Aborted by `close`. */
  readonly closing: AbortSignal
  /** @throws whatever the scope function throws */
  scopeOf(call: CallOptions, credential: string): string
  /**
   * Tells credentials apart that share a scope: what one of them is refused is not told to the others. Sixteen bits, from
   * which nothing can be guessed; a mix-up shares a failure that is not one's own.
   */
  byOf(scope: string, credential: string): string
  /** As the option says. @throws what it throws, or `TypeError` for what is neither true, false nor undefined */
  isEligible(request: ChatRequest | CacheableFetch): boolean | undefined
  groupsOf(scope: string, tenant: string | undefined, tags: readonly string[] | undefined): readonly string[]
  announce(state: CacheLookup['state'], lookup: { callId: string | undefined; elapsedMs: number; ageMs?: number }): void
  /** Counts what an answer without an upstream call saved, and gives its usage as not billed. */
  saved(usage: Usage, model: string): Usage
  /** `close` waits for it. It must not reject. */
  track(work: Promise<unknown>): void
}

/** What is under way at its end gets so long to be kept. */
const closeMs = 2000

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
  const { secret, encryption, compression, maxEntryBytes, log, leaseMs, namespace, price } = settings
  const sealer = createSealer({ secret, encryption, compression, maxChars: maxEntryBytes })
  const tiers = createTiers(settings, sealer)
  const closing = linkAbort(undefined)
  const tracked = new Set<Promise<unknown>>()
  const everything = groupOf('all', namespace, secret)
  const counts = createCounts()
  let moneySaved = 0
  let over: Promise<void> | undefined

  const prefix = settings.store?.prefix
  const leases =
    log === undefined || tiers.store === undefined || prefix === undefined
      ? undefined
      : createLeases({ store: tiers.store, namespace, prefix, leaseMs })

  // Most calls are of few scopes, and an HMAC costs as much as the rest of a hit.
  const scopeOfCredential = remembered((credential) => scopeOf(credential, settings.scopeSecret))
  const groupOfScope = remembered((scope) => groupOf('scope', scope, secret))

  function groupsNamed({ scope, tenant, tags = [] }: Invalidation): string[] {
    const groups = scope === undefined ? [] : [groupOfScope(scope)]
    if (tenant !== undefined) groups.push(groupOf('tenant', tenant, secret))
    for (const tag of new Set(tags)) groups.push(groupOf('tag', tag, secret))
    return groups
  }

  const self: CacheInner = {
    // Not as a field: what prints an object does not call getters, and it holds the secret.
    get settings() {
      return settings
    },
    tiers,
    flights: new Map(),
    refreshing: new Map(),
    sharing: leases && log && { leases, log, sealer, namespace, leaseMs },
    counts,
    closing: closing.signal,
    scopeOf(call, credential) {
      if (settings.scope === undefined) return scopeOfCredential(credential)
      const scope = typeof settings.scope === 'function' ? settings.scope(call) : settings.scope
      if (typeof scope !== 'string' || scope === '') throw new TypeError('scope(options) must give a non-empty string')
      return scope
    },
    byOf: (scope, credential) => scopeOf(credential, secret ?? scope).slice(0, 4),
    isEligible(request) {
      const answer: unknown = settings.eligible?.(request)
      if (answer === undefined || typeof answer === 'boolean') return answer
      throw new TypeError('eligible(request) must give true, false or undefined, at once')
    },
    groupsOf(scope, tenant, tags) {
      return [everything, ...groupsNamed({ scope, tenant, tags })]
    },
    announce(state, { callId = '', elapsedMs, ageMs }) {
      counts[countOf[state]]++
      if (!channels.cacheLookup.hasSubscribers) return
      channels.cacheLookup.publish({ owner: cache, callId, state, elapsedMs, ageMs })
    },
    saved(usage, model) {
      counts.tokensSaved += inputTokens(usage) + outputTokens(usage)
      if (price !== undefined) {
        const cost = costOf(price, usage, model)
        if (cost === undefined) counts.unpriced++
        else moneySaved += cost
      }
      return { ...usage, billed: false }
    },
    track(work) {
      tracked.add(work)
      void work.finally(() => tracked.delete(work))
    }
  }

  async function close(): Promise<void> {
    closing.abort(new MillraceError('closed', 'the cache was closed', { details: {} }))
    // Bounded: an upstream may have said its last word and never end.
    const { promise: expiry, resolve: expire } = Promise.withResolvers<'expired'>()
    const timer = setTimeout(expire, closeMs, 'expired')
    let outcome: unknown
    while (tracked.size > 0 && outcome !== 'expired') outcome = await Promise.race([Promise.all(tracked), expiry])
    clearTimeout(timer)
    await tiers.close()
  }

  const cache: Cache = {
    wrap: (name, compute, wrapOptions = {}) => wrapWith(self, name, compute, wrapOptions),
    fetch: (fetch, fetchOptions) => createCachedFetch(self, fetch, fetchOptions),
    peek: (key) => tiers.peekFresh(key)?.value,
    stats() {
      const { hits, stale, joined, misses } = counts
      const asked = hits + stale + joined + misses
      return {
        ...counts,
        storeErrors: tiers.store?.errors ?? 0,
        storeSkipped: tiers.store?.skipped ?? 0,
        writesRefused: tiers.store?.writesRefused ?? 0,
        corrupt: tiers.corrupt,
        evictions: tiers.memory.evictions,
        entries: tiers.memory.entries,
        bytes: tiers.memory.bytes,
        hitRate: asked === 0 ? null : (hits + stale + joined) / asked,
        moneySaved: price === undefined ? null : moneySaved
      }
    },
    async invalidate(what) {
      // Without types, nothing at all may come.
      checkOptions<Invalidation>('invalidate', what, { tags: 1, scope: 1, tenant: 1 })
      if (what.tags !== undefined && !areTags(what.tags)) throw new TypeError('tags must be a list of non-empty strings')
      const groups = groupsNamed(what)
      if (groups.length === 0) {
        throw new TypeError("invalidate needs to know what: tags, a scope or a tenant, such as { tags: ['document:12'] }")
      }
      await tiers.groups.forget(groups)
    },
    async clear() {
      tiers.memory.clear()
      await tiers.groups.forget([everything])
    },
    close() {
      over ??= close()
      return over
    },
    [Symbol.asyncDispose]: () => cache.close(),
    [inner]: self
  }
  return cache
}

/** A price that throws, or is no number, is not known: it must not fail a hit. */
function costOf(price: NonNullable<CacheOptions['price']>, usage: Usage, model: string): number | undefined {
  try {
    const cost: unknown = price(usage, model)
    return typeof cost === 'number' && Number.isFinite(cost) ? cost : undefined
  } catch {
    return undefined // counted as `unpriced`
  }
}

/** Remembers the last hundred results. */
function remembered(compute: (text: string) => string): (text: string) => string {
  const known = new Map<string, string>()
  return (text) => {
    let result = known.get(text)
    if (result === undefined) {
      if (known.size >= 100) known.clear()
      result = compute(text)
      known.set(text, result)
    }
    return result
  }
}
