import { type Entry, type Kind, readEntry, writeEntry } from './entry.ts'
import { createGroups, type Groups, type Stamps, unreadMs } from './groups.ts'
import { createMemory, type Held, type Memory } from './memory.ts'
import { type CacheSettings, maxTtlMs } from './options.ts'
import { compact, deepFreeze, hasEscapedNames } from './plain.ts'
import type { Sealer } from './sealer.ts'
import { type GuardedStore, guardStore } from './store.ts'

/** Memory first, then the store, if there is one. */
export interface Tiers {
  /** In memory, of groups that still hold, and looked after lately: no wait. */
  peek(key: string): Held | undefined
  /** In memory or in the store. Equal lookups at the same time are one. Never rejects. */
  find(kind: Kind, key: string, groups: readonly string[]): Promise<Held | undefined>
  /** The same past memory: what another process has stored meanwhile. Never rejects. */
  findStored(kind: Kind, key: string, groups: readonly string[]): Promise<Held | undefined>
  /** What an answer that is fetched from now on is kept under. */
  begin(groups: readonly string[]): Beginning | Promise<Beginning>
  /** False when no tier takes it. `value` must be plain JSON; a copy of it is kept. */
  keep(kind: Kind, key: string, value: unknown, rule: KeepRule): boolean
  /** Keeps a refusal, in memory alone, beside the answers, for one credential. */
  keepRefusal(key: string, by: string, value: unknown, rule: RefusalRule, ttlMs: number): boolean
  peekRefusal(key: string, by: string): Held | undefined
  close(): Promise<void>
  readonly memory: Memory
  readonly groups: Groups
  readonly store: GuardedStore | undefined
  /** Entries in the store that could not be believed. */
  readonly corrupt: number
}

/** How things stood when a call began: what was forgotten since must not be kept. */
export interface Beginning {
  readonly epoch: number
  /** `undefined`: the store is not there, so the answer stays in memory. */
  readonly stamps: Stamps | undefined
}

export type RefusalRule = Beginning & { readonly groups: readonly string[] }

export interface KeepRule extends Beginning {
  readonly groups: readonly string[]
  readonly ttlMs: number
  /** False: in memory only. @default true */
  readonly storing?: boolean | undefined
  /** Writes the entry where a lease says that it may, in place of a plain write. */
  readonly commit?: ((entryKey: string, text: string, ttlMs: number) => void) | undefined
}

export function createTiers(settings: CacheSettings, sealer: Sealer): Tiers {
  const { namespace, maxEntryBytes, storeTimeoutMs, now, onStoreError } = settings
  const memory = createMemory(settings)
  const lookups = new Map<string, Promise<Held | undefined>>()
  const staleMs = Math.max(settings.staleWhileRevalidateMs, settings.staleIfErrorMs)
  let corrupt = 0

  const store =
    settings.store === undefined ? undefined : guardStore(settings.store, { timeoutMs: storeTimeoutMs, onError: onStoreError })
  const groups = createGroups({
    store,
    namespace,
    prefix: settings.store?.prefix,
    now,
    onOverflow: () => memory.clear()
  })

  const entryKey = (key: string): string => `${namespace}:e:${key}`

  function held(key: string): Held | undefined {
    const found = memory.get(key)
    if (found === undefined || found.epoch === groups.epoch) return found
    if (groups.hold(found.groups, found.epoch)) {
      found.epoch = groups.epoch
      return found
    }
    memory.delete(key)
    return undefined
  }

  async function read(kind: Kind, key: string, asked: readonly string[]): Promise<Held | undefined> {
    const mine = held(key)
    // Past its time: another process may have fetched a new one.
    if (mine === undefined || now() - mine.storedAt >= mine.ttlMs) return (await readStore(kind, key, asked)) ?? held(key)
    // Another process may have forgotten it. A store that does not say has nothing against it.
    const { epoch } = groups
    await groups.look(mine.groups)
    if (!groups.hold(mine.groups, epoch)) return readStore(kind, key, asked)
    mine.checkedAt = now()
    return mine
  }

  async function readStore(kind: Kind, key: string, asked: readonly string[]): Promise<Held | undefined> {
    const from = store as GuardedStore
    const [text] = await Promise.all([from.read(entryKey(key)), groups.look(asked)])
    if (text === undefined) return undefined
    const entry = readEntry(sealer, kind, key, text)
    if (entry === undefined) {
      corrupt++
      void from.remove(entryKey(key))
      return undefined
    }
    const epoch = await groups.confirm(entry.stamps)
    return epoch === undefined ? undefined : take(key, entry, epoch)
  }

  function take(key: string, entry: Entry, epoch: number): Held | undefined {
    const ageMs = Date.now() - entry.storedAt
    // The store's own expiry is what counts where it has one; this also serves those that have none.
    if (ageMs >= entry.keepMs) return undefined
    const at = now()
    const storedAt = at - Math.max(0, ageMs)
    const found: Held = {
      value: deepFreeze(entry.value),
      storedAt,
      ttlMs: entry.ttlMs,
      keepUntil: storedAt + entry.keepMs,
      groups: Object.keys(entry.stamps),
      epoch,
      checkedAt: at,
      retryAt: 0
    }
    if (!groups.hold(found.groups, epoch)) return undefined
    memory.set(key, found)
    return found
  }

  return {
    peek(key) {
      const found = held(key)
      return found === undefined || store === undefined || now() - found.checkedAt < unreadMs ? found : undefined
    },
    find(kind, key, asked) {
      let lookup = lookups.get(key)
      if (lookup === undefined) {
        lookup = read(kind, key, asked).finally(() => lookups.delete(key))
        lookups.set(key, lookup)
      }
      return lookup
    },
    findStored: readStore,
    begin(of) {
      const { epoch } = groups
      if (store === undefined) return { epoch, stamps: undefined }
      return groups.stamp(of).then((stamps) => ({ epoch, stamps }))
    },
    keep(kind, key, given, { epoch, stamps, groups: of, ttlMs: asked, storing = true, commit }) {
      if (!groups.hold(of, epoch)) return false
      const value = compact(given)
      const ttlMs = Math.min(asked, maxTtlMs)
      const keepMs = ttlMs + staleMs
      const at = now()
      const entry: Held = {
        value,
        storedAt: at,
        ttlMs,
        keepUntil: at + keepMs,
        groups: of,
        epoch,
        checkedAt: at,
        retryAt: 0
      }
      const inMemory = memory.set(key, entry)
      if (store === undefined || stamps === undefined || !storing || hasEscapedNames(value)) return inMemory
      const text = writeEntry(sealer, kind, key, { value, storedAt: Date.now(), ttlMs, keepMs, stamps })
      if (text.length > maxEntryBytes) return inMemory
      if (commit === undefined) store.write(entryKey(key), text, Math.ceil(keepMs))
      else commit(entryKey(key), text, Math.ceil(keepMs))
      return true
    },
    keepRefusal(key, by, given, { epoch, groups: of }, ttlMs) {
      if (!groups.hold(of, epoch)) return false
      const at = now()
      return memory.set(refusalOf(key, by), {
        value: compact(given),
        storedAt: at,
        ttlMs,
        keepUntil: at + ttlMs,
        groups: of,
        epoch,
        checkedAt: at,
        retryAt: 0
      })
    },
    peekRefusal: (key, by) => held(refusalOf(key, by)),
    async close() {
      memory.clear()
      await store?.drain()
    },
    memory,
    groups,
    store,
    get corrupt() {
      return corrupt
    }
  }
}

const refusalOf = (key: string, by: string): string => `!${by}${key}`
