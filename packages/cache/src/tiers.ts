import { enclose, type Kind, open } from './envelope.ts'
import { createMemory, type Found, type Memory } from './memory.ts'
import { deepFreeze } from './plain.ts'
import { type GuardedStore, guardStore, type Store } from './store.ts'

export interface TiersOptions {
  readonly store: Store | undefined
  readonly namespace: string
  readonly secret: string | undefined
  readonly maxBytes: number
  readonly maxEntries: number
  readonly maxEntryBytes: number
  readonly storeTimeoutMs: number
  readonly now: () => number
  readonly onStoreError: ((error: unknown) => void) | undefined
}

/** Memory first, then the store, if there is one. */
export interface Tiers {
  /** Memory only: no wait. */
  peek(key: string): Found | undefined
  /** Memory and store. Equal lookups at the same time are one. Never rejects. */
  find(kind: Kind, key: string): Promise<Found | undefined>
  /** False when no tier takes it. `value` must be frozen plain JSON. */
  keep(kind: Kind, key: string, value: unknown, ttlMs: number): boolean
  clear(): Promise<void>
  close(): Promise<void>
  readonly memory: Memory
  readonly store: GuardedStore | undefined
  readonly corrupt: number
  /** Changes with every clear: what was asked for before it must not be kept after it. */
  readonly epoch: number
}

/** A clock of another machine may be ahead of ours by this much; an entry from further in the future is not believed. */
const maxSkewMs = 60_000

export function createTiers(options: TiersOptions): Tiers {
  const { namespace, secret, maxEntryBytes, storeTimeoutMs, now, onStoreError } = options
  const memory = createMemory(options)
  const lookups = new Map<string, Promise<Found | undefined>>()
  let epoch = 0
  let corrupt = 0

  function forget(): void {
    epoch++
    memory.clear()
  }

  const store =
    options.store === undefined
      ? undefined
      : guardStore(options.store, { namespace, timeoutMs: storeTimeoutMs, now, onCleared: forget, onError: onStoreError })

  async function look(from: GuardedStore, kind: Kind, key: string): Promise<Found | undefined> {
    const since = epoch
    const text = await from.read(key)
    if (text === undefined || text === null) return undefined
    const entry = open(kind, key, text, { maxChars: maxEntryBytes, secret })
    const ageMs = entry === undefined ? Number.NaN : Date.now() - entry.storedAt
    if (entry === undefined || ageMs < -maxSkewMs) {
      corrupt++
      from.remove(key)
      return undefined
    }
    // The store's own expiry is what counts where it has one; this also serves those that have none.
    if (ageMs >= entry.ttlMs || since !== epoch) return undefined
    const found: Found = { value: deepFreeze(entry.value), ageMs: Math.max(0, ageMs) }
    memory.set(key, found.value, entry.ttlMs, found.ageMs)
    return found
  }

  return {
    peek: memory.get,
    async find(kind, key) {
      const held = memory.get(key)
      if (held !== undefined || store === undefined) return held
      let lookup = lookups.get(key)
      if (lookup === undefined) {
        lookup = look(store, kind, key).finally(() => lookups.delete(key))
        lookups.set(key, lookup)
      }
      return lookup
    },
    keep(kind, key, value, ttlMs) {
      const inMemory = memory.set(key, value, ttlMs, 0)
      if (store === undefined) return inMemory
      const text = enclose(kind, key, { value, storedAt: Date.now(), ttlMs }, secret)
      if (text.length > maxEntryBytes) return inMemory
      store.write(key, text, ttlMs)
      return true
    },
    async clear() {
      forget()
      await store?.clear()
    },
    async close() {
      memory.clear()
      await store?.drain()
    },
    memory,
    store,
    get corrupt() {
      return corrupt
    },
    get epoch() {
      return epoch
    }
  }
}
