import { randomBytes } from 'node:crypto'
import { type CallOptions, type ChatRequest, checkOptions, type JsonObject, type SharedLog, type Usage } from '@millrace/core'
import { createClock } from './clock.ts'
import type { Encryption } from './sealer.ts'
import type { Store } from './store.ts'

/** What a caller can say to the cache about one call. */
export interface CacheCallOptions {
  /** Lifetime of the answer if it is stored; 0 stores nothing. @default the cache's `ttlMs` */
  readonly ttlMs?: number | undefined
  /** An older answer counts as a miss, a stale one too. @default Infinity */
  readonly maxAgeMs?: number | undefined
  /** True: what this call fetches is not stored; a hit is still served. @default false */
  readonly noStore?: boolean | undefined
  /** True: the cache is neither asked nor told, and nobody joins this call. @default false */
  readonly bypass?: boolean | undefined
  /** True: the answer is fetched anew, and stored for the others. @default false */
  readonly refresh?: boolean | undefined
  /** Names under which `cache.invalidate({ tags })` finds what this call stores. No part of the key. @default none */
  readonly tags?: readonly string[] | undefined
}

declare module '@millrace/core' {
  interface CallOptions {
    readonly cache?: CacheCallOptions | undefined
  }
}

/** What `cache.wrap` takes beside key and computation. */
export interface WrapOptions extends CacheCallOptions {
  /** Ends this caller's wait, not that of others who share the computation. */
  readonly signal?: AbortSignal | undefined
  /** Whom it is for: part of the key. */
  readonly tenant?: string | undefined
}

/** A request at the `fetch` door, as `eligible` sees it. */
export interface CacheableFetch {
  readonly url: string
  readonly body: JsonObject
}

export interface CacheOptions {
  /**
   * A second tier that outlives the process and is shared by many: `createRedis()`, any Keyv, any Keyv storage adapter.
   * You close it.
   * @default none: memory only
   */
  readonly store?: Store | undefined
  /** First part of every key in the store; no other program may use it. @default 'cache' */
  readonly namespace?: string | undefined
  /** How long an answer is served. At most 30 days. @default 60000 */
  readonly ttlMs?: number | undefined
  /** How long after that an answer is still served at once, as `stale`, while one call fetches a new one. @default 0 */
  readonly staleWhileRevalidateMs?: number | undefined
  /**
   * How long after its lifetime an answer still serves, as `stale`, where the upstream fails before any content: by
   * network, timeout, rate limit, quota, overload, 5xx or an open breaker.
   * @default 0
   */
  readonly staleIfErrorMs?: number | undefined
  /** How long a refusal by 400, 404, 413 or 422 is given again, in memory and to the same request only. @default 0: never */
  readonly negativeTtlMs?: number | undefined
  /** Bound of the memory tier, by our own count of an entry's size; 0 keeps nothing in memory. @default 67108864 (64 MiB) */
  readonly maxBytes?: number | undefined
  /** Bound of the memory tier. @default 10000 */
  readonly maxEntries?: number | undefined
  /**
   * The largest answer that is stored, and how much of a running one is held for late askers.
   * @default 8388608 (8 MiB), or `maxBytes` if that is less and not 0
   */
  readonly maxEntryBytes?: number | undefined
  /** How long a lookup waits for the store before it is a miss. @default 50 */
  readonly storeTimeoutMs?: number | undefined
  /**
   * Who may share answers: part of every key, as `CallOptions.tenant` is. A function is asked for each call.
   * With a `store`, `scope` or `secret` is required.
   * @default derived from the credential the call is sent with, by HMAC: callers with the same key share
   */
  readonly scope?: string | ((options: CallOptions) => string) | undefined
  /**
   * Keys, scopes and seals become HMACs of it: only holders of the same secret share answers, nobody else can test a
   * guessed prompt against the keys or plant an answer. At least 16 characters.
   * @default none; scopes then use one made for this process
   */
  readonly secret?: string | undefined
  /** Encrypts what lies in the store (AES-256-GCM); the ring keeps old keys readable. @default none */
  readonly encryption?: Encryption | undefined
  /** Packs entries of 4 KB and more for the store. @default 'none' */
  readonly compression?: 'none' | 'zstd' | undefined
  /**
   * Overrules what may be cached: true caches, false goes past the cache, undefined leaves it to our rule. It sees the
   * request of `withCache`, or url and body at the `fetch` door.
   * @default our rule: requests for several choices go past the cache, at the fetch door also those with state at the provider
   */
  readonly eligible?: ((request: ChatRequest | CacheableFetch) => boolean | undefined) | undefined
  /** `recorded`: a streamed hit takes as long between its chunks as the answer took when it was made. @default 'fast' */
  readonly pace?: 'fast' | 'recorded' | undefined
  /**
   * One call for equal misses across processes: the log over which they follow each other, `createRedisLog()` of
   * `@millrace/streaming/redis`. Needs a `store` with commands, as `createRedis()` gives.
   * @default none: one call a process
   */
  readonly log?: SharedLog | undefined
  /** After how long without a sign of life another process takes over from the one that fetches. @default 3000 */
  readonly leaseMs?: number | undefined
  /** What an answer cost, in any unit, for `stats().moneySaved`; undefined where it is not known. @default none */
  readonly price?: ((usage: Usage, model: string) => number | undefined) | undefined
  /** Told of each failure of the store, for a log. Calls do not fail of it. */
  readonly onStoreError?: ((error: unknown) => void) | undefined
  /** Milliseconds on a clock that never jumps; for tests. @default performance.now, read once in a burst */
  readonly now?: (() => number) | undefined
}

/** The options with their defaults filled in. */
export type CacheSettings = {
  readonly [Name in keyof CacheOptions]-?: Name extends Unset ? CacheOptions[Name] | undefined : NonNullable<CacheOptions[Name]>
} & {
  /** The configured secret, or one of this process: what scopes are derived with. */
  readonly scopeSecret: string
}
type Unset = 'store' | 'scope' | 'secret' | 'encryption' | 'eligible' | 'log' | 'price' | 'onStoreError'

const mebibyte = 1024 * 1024

/** A month is for ever for a model's answer; what an entry's groups are called in the store lives twice as long. */
export const maxTtlMs: number = 30 * 24 * 3_600_000

const names: Readonly<Record<keyof CacheOptions, 1>> = {
  store: 1,
  namespace: 1,
  ttlMs: 1,
  staleWhileRevalidateMs: 1,
  staleIfErrorMs: 1,
  negativeTtlMs: 1,
  maxBytes: 1,
  maxEntries: 1,
  maxEntryBytes: 1,
  storeTimeoutMs: 1,
  scope: 1,
  secret: 1,
  encryption: 1,
  compression: 1,
  eligible: 1,
  pace: 1,
  log: 1,
  leaseMs: 1,
  price: 1,
  onStoreError: 1,
  now: 1
}

/** @throws {TypeError} for a wrong option; the text says what to write instead */
export function settle(options: CacheOptions): CacheSettings {
  checkOptions<CacheOptions>('createCache', options, names)
  const { store, scope, secret, log, namespace = 'cache', now = createClock() } = options
  const maxBytes = options.maxBytes === 0 ? 0 : whole('maxBytes', options.maxBytes ?? 64 * mebibyte)
  if (store !== undefined) checkStore(store)
  if (store !== undefined && scope === undefined && secret === undefined) {
    throw new TypeError(
      "a cache with a store is shared: say with whom. Write scope: 'my-service' (or a function that gives a tenant's name), or secret"
    )
  }
  if (scope !== undefined && typeof scope !== 'function' && (typeof scope !== 'string' || scope === '')) {
    throw new TypeError('scope must be a non-empty string or a function that gives one')
  }
  if (secret !== undefined && (typeof secret !== 'string' || secret.length < 16)) {
    throw new TypeError('secret must be a string of at least 16 characters')
  }
  if (typeof namespace !== 'string' || !/^[\w.:-]{1,100}$/.test(namespace)) {
    throw new TypeError("namespace must be 1 to 100 of the characters A-Z a-z 0-9 _ . : -, such as 'my-service:cache'")
  }
  if (log !== undefined) checkLog(log, store)
  isFunction('eligible', options.eligible, 'takes a request and gives true, false or undefined')
  isFunction('price', options.price, 'takes usage and model and gives a number')
  isFunction('onStoreError', options.onStoreError, 'takes the error')
  isFunction('now', now, 'gives milliseconds')
  return {
    store,
    namespace,
    ttlMs: lifetime('ttlMs', positive('ttlMs', options.ttlMs ?? 60_000)),
    staleWhileRevalidateMs: lifetime('staleWhileRevalidateMs', options.staleWhileRevalidateMs ?? 0),
    staleIfErrorMs: lifetime('staleIfErrorMs', options.staleIfErrorMs ?? 0),
    negativeTtlMs: lifetime('negativeTtlMs', options.negativeTtlMs ?? 0),
    maxBytes,
    maxEntries: whole('maxEntries', options.maxEntries ?? 10_000),
    maxEntryBytes: positive(
      'maxEntryBytes',
      options.maxEntryBytes ?? Math.min(8 * mebibyte, maxBytes || Number.POSITIVE_INFINITY)
    ),
    storeTimeoutMs: duration('storeTimeoutMs', options.storeTimeoutMs ?? 50, 0),
    scope,
    secret,
    scopeSecret: secret ?? randomBytes(32).toString('base64'),
    encryption: options.encryption,
    compression: oneOf('compression', ['none', 'zstd'], options.compression ?? 'none'),
    eligible: options.eligible,
    pace: oneOf('pace', ['fast', 'recorded'], options.pace ?? 'fast'),
    log,
    leaseMs: whole('leaseMs', duration('leaseMs', options.leaseMs ?? 3000, 100)),
    price: options.price,
    onStoreError: options.onStoreError,
    now
  }
}

/**
 * Refuses what a caller says wrongly about one call.
 *
 * @throws {TypeError} with the name of the option
 */
export function checkCall(asked: CacheCallOptions): void {
  checkOptions<CacheCallOptions>('options.cache', asked, callNames)
  const { ttlMs, maxAgeMs, tags } = asked
  if (ttlMs !== undefined && !(typeof ttlMs === 'number' && ttlMs >= 0)) throw wrongCall('ttlMs', 'a number from 0 up')
  if (maxAgeMs !== undefined && !(typeof maxAgeMs === 'number' && maxAgeMs >= 0))
    throw wrongCall('maxAgeMs', 'a number from 0 up')
  for (const name of ['noStore', 'bypass', 'refresh'] as const) {
    if (asked[name] !== undefined && typeof asked[name] !== 'boolean') throw wrongCall(name, 'true or false')
  }
  if (tags === undefined) return
  if (!areTags(tags) || tags.length > maxTags) throw wrongCall('tags', `a list of at most ${maxTags} non-empty strings`)
}

export function areTags(tags: unknown): tags is readonly string[] {
  return Array.isArray(tags) && tags.every((tag) => typeof tag === 'string' && tag !== '')
}

const callNames: Readonly<Record<keyof CacheCallOptions, 1>> = {
  ttlMs: 1,
  maxAgeMs: 1,
  noStore: 1,
  bypass: 1,
  refresh: 1,
  tags: 1
}

/** Each is looked up when an entry is read. */
const maxTags = 64

function wrongCall(name: string, what: string): TypeError {
  return new TypeError(`cache.${name} must be ${what}`)
}

function checkStore(store: Store): void {
  for (const name of ['get', 'set', 'delete'] as const) {
    if (typeof store?.[name] !== 'function') {
      throw new TypeError(`store must be a Keyv or a Keyv storage adapter: it has no ${name}(). Write store: new Keyv(...)`)
    }
  }
}

function checkLog(log: SharedLog, store: Store | undefined): void {
  if (typeof log?.write !== 'function' || typeof log.follow !== 'function') {
    throw new TypeError(
      "log must be a shared log: write log: createRedisLog({ command: redis.command }) of '@millrace/streaming/redis'"
    )
  }
  if (store?.command === undefined || store.prefix === undefined) {
    throw new TypeError("log needs a store that takes commands: write store: createRedis({ url }) of '@millrace/cache/redis'")
  }
}

function isFunction(name: string, value: unknown, what: string): void {
  if (value !== undefined && typeof value !== 'function') throw new TypeError(`${name} must be a function that ${what}`)
}

function oneOf<T extends string>(name: string, allowed: readonly T[], value: T): T {
  if (allowed.includes(value)) return value
  throw new TypeError(`${name} must be ${allowed.map((each) => `'${each}'`).join(' or ')}`)
}

function positive(name: string, value: number): number {
  if (typeof value === 'number' && value > 0 && Number.isFinite(value)) return value
  throw new TypeError(`${name} must be a finite number above 0, not ${shown(value)}`)
}

/** A text that looks like a number, as the environment gives them, is told from one. */
function shown(value: unknown): string {
  return typeof value === 'string' ? `the text ${JSON.stringify(value.slice(0, 40))}: write Number(...)` : String(value)
}

function fromZero(name: string, value: number): number {
  if (typeof value === 'number' && value >= 0 && Number.isFinite(value)) return value
  throw new TypeError(`${name} must be a finite number from 0 up, not ${shown(value)}`)
}

function lifetime(name: string, value: number): number {
  if (fromZero(name, value) <= maxTtlMs) return value
  throw new TypeError(`${name} must be at most ${maxTtlMs} (30 days), not ${value}`)
}

/** More than an hour is a mistake, or a timer that overflows. */
function duration(name: string, value: number, least: number): number {
  if (positive(name, value) >= least && value <= 3_600_000) return value
  throw new TypeError(
    `${name} must be ${least === 0 ? 'above 0' : `at least ${least}`} and at most 3600000 (an hour), not ${value}`
  )
}

function whole(name: string, value: number): number {
  if (Number.isInteger(positive(name, value))) return value
  throw new TypeError(`${name} must be a whole number, not ${value}`)
}
