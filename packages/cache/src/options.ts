import { type CallOptions, checkOptions } from '@millrace/core'
import type { Store } from './store.ts'

/** What a caller can say to the cache about one call. */
export interface CacheCallOptions {
  /** Lifetime of the answer if it is stored; 0 stores nothing. @default the cache's `ttlMs` */
  readonly ttlMs?: number | undefined
  /** An older answer counts as a miss. @default Infinity */
  readonly maxAgeMs?: number | undefined
  /** True: what this call fetches is not stored; a hit is still served. @default false */
  readonly noStore?: boolean | undefined
  /** True: the cache is neither asked nor told, and nobody joins this call. @default false */
  readonly bypass?: boolean | undefined
  /** True: the answer is fetched anew, and stored for the others. @default false */
  readonly refresh?: boolean | undefined
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

export interface CacheOptions {
  /**
   * A second tier that outlives the process and is shared by many: any Keyv or Keyv storage adapter. You close it.
   * @default none: memory only
   */
  readonly store?: Store | undefined
  /** First part of every key in the store; no other program may use it. @default 'cache' */
  readonly namespace?: string | undefined
  /** How long an answer is served. @default 60000 */
  readonly ttlMs?: number | undefined
  /** Bound of the memory tier, by our own count of an entry's size. @default 67108864 (64 MiB) */
  readonly maxBytes?: number | undefined
  /** Bound of the memory tier. @default 10000 */
  readonly maxEntries?: number | undefined
  /**
   * The largest answer that is stored, and how much of a running one is held for late askers.
   * @default 8388608 (8 MiB), or `maxBytes` if that is less
   */
  readonly maxEntryBytes?: number | undefined
  /** How long a lookup waits for the store before it is a miss. @default 50 */
  readonly storeTimeoutMs?: number | undefined
  /**
   * Who may share answers: part of every key, as `CallOptions.tenant` is. A function is asked for each call. Keys know
   * nothing of credentials: where calls with different ones use one cache (or one store), give each credential a scope
   * or a tenant of its own, or they are served each other's answers.
   * With a `store`, `scope` or `secret` is required. @default 'process' in memory alone, 'secret' with a secret
   */
  readonly scope?: string | ((options: CallOptions) => string) | undefined
  /**
   * Keys become an HMAC and entries are signed with it: only holders of the same secret share answers, nobody else can
   * test a guessed prompt against the keys or plant an answer. At least 16 characters. @default none
   */
  readonly secret?: string | undefined
  /** Told of each failure of the store, for a log. Calls do not fail of it. */
  readonly onStoreError?: ((error: unknown) => void) | undefined
  /** Milliseconds on a clock that never jumps; for tests. @default performance.now */
  readonly now?: (() => number) | undefined
}

/** The options with their defaults filled in. */
export type CacheSettings = {
  readonly [Name in keyof CacheOptions]-?: Name extends Unset ? CacheOptions[Name] | undefined : NonNullable<CacheOptions[Name]>
}
type Unset = 'store' | 'secret' | 'onStoreError'

const mebibyte = 1024 * 1024

const names: Readonly<Record<keyof CacheOptions, 1>> = {
  store: 1,
  namespace: 1,
  ttlMs: 1,
  maxBytes: 1,
  maxEntries: 1,
  maxEntryBytes: 1,
  storeTimeoutMs: 1,
  scope: 1,
  secret: 1,
  onStoreError: 1,
  now: 1
}

/** @throws {TypeError} for a wrong option; the text says what to write instead */
export function settle(options: CacheOptions): CacheSettings {
  checkOptions<CacheOptions>('createCache', options, names)
  const { store, scope, secret, namespace = 'cache', onStoreError, now = () => performance.now() } = options
  const maxBytes = positive('maxBytes', options.maxBytes ?? 64 * mebibyte)
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
  if (onStoreError !== undefined && typeof onStoreError !== 'function') {
    throw new TypeError('onStoreError must be a function that takes the error')
  }
  if (typeof now !== 'function') throw new TypeError('now must be a function that gives milliseconds')
  return {
    store,
    namespace,
    ttlMs: positive('ttlMs', options.ttlMs ?? 60_000),
    maxBytes,
    maxEntries: whole('maxEntries', options.maxEntries ?? 10_000),
    maxEntryBytes: positive('maxEntryBytes', options.maxEntryBytes ?? Math.min(8 * mebibyte, maxBytes)),
    storeTimeoutMs: positive('storeTimeoutMs', options.storeTimeoutMs ?? 50),
    scope: scope ?? (secret === undefined ? 'process' : 'secret'),
    secret,
    onStoreError,
    now
  }
}

function checkStore(store: Store): void {
  for (const name of ['get', 'set', 'delete'] as const) {
    if (typeof store?.[name] !== 'function') {
      throw new TypeError(`store must be a Keyv or a Keyv storage adapter: it has no ${name}(). Write store: new Keyv(...)`)
    }
  }
}

function positive(name: string, value: number): number {
  if (typeof value === 'number' && value > 0 && Number.isFinite(value)) return value
  throw new TypeError(`${name} must be a finite number above 0, not ${value}`)
}

function whole(name: string, value: number): number {
  if (Number.isInteger(positive(name, value))) return value
  throw new TypeError(`${name} must be a whole number, not ${value}`)
}
