import { type Entry, type Kind, readEntry, writeEntry } from './entry.ts'
import { createGroups, type Groups, type Stamps, unreadMs } from './groups.ts'
import { createMemory, type Held, type Memory } from './memory.ts'
import { type CacheSettings, maxTtlMs } from './options.ts'
import { deepFreeze, hasEscapedNames } from './plain.ts'
import type { Sealer } from './sealer.ts'
import { type GuardedStore, guardStore } from './store.ts'

/** Memory first, then the store, if there is one. */
export interface Tiers {
  /** In memory, of groups that still hold, and looked after lately: no wait. */
  peek(key: string): Held | undefined
  /** The same, within its lifetime. */
  peekFresh(key: string): Held | undefined
  /** In memory or in the store. Equal lookups at the same time are one. */
  find(kind: Kind, key: string, groups: readonly string[], give: Give): void
  /** In the store alone: what another process has stored meanwhile. Never rejects. */
  findStored(kind: Kind, key: string, groups: readonly string[]): Promise<Held | undefined>
  /** What an answer that is fetched from now on is kept under. */
  begin(groups: readonly string[]): Beginning | Promise<Beginning>
  /** False when no tier takes it. `value` must be compact (see `plain.ts`). */
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

/** A clock of another machine may be ahead of ours by this much. */
const maxSkewMs = 60_000

/** `said` is false when the store did not answer. Must not throw. */
type Give = (found: Held | undefined, said: boolean) => void

/** How things stood when a call began: what was forgotten since must not be kept. */
export interface Beginning {
  readonly epoch: number
  /** On the clock `now`. */
  readonly at: number
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
  const lookups = new Map<string, Give[]>()
  const staleMs = Math.max(settings.staleWhileRevalidateMs, settings.staleIfErrorMs)
  let corrupt = 0
  let closed = false

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

  /** Callbacks in place of promises: there may be thousands of these at a time. */
  function read(kind: Kind, key: string, asked: readonly string[], give: Give): void {
    const mine = held(key)
    if (mine === undefined) return readStore(kind, key, asked, give)
    // Past its time: another process may have fetched a new one.
    if (now() - mine.storedAt >= mine.ttlMs) {
      return readStore(kind, key, asked, (found, said) => give(found ?? held(key), said))
    }
    // Or have forgotten it. A store that does not say has nothing against it.
    const confirmed = (said = true): void => {
      if (said && (mine.stamps === undefined || !groups.confirm(mine.stamps))) {
        memory.delete(key)
        return readStore(kind, key, asked, give)
      }
      mine.checkedAt = now()
      give(mine, said)
    }
    const looking = groups.look(mine.groups)
    if (looking === undefined) confirmed()
    else void looking.then(confirmed)
  }

  function readStore(kind: Kind, key: string, asked: readonly string[], give: Give): void {
    const looking = groups.look(asked)
    store?.ask(entryKey(key), (text, said) => {
      // Also where nothing is stored: who asks goes on to join a call, and must know what was forgotten since it began.
      const opened = (): void => (text === undefined ? give(undefined, said) : open(kind, key, text, give))
      if (looking === undefined) opened()
      else void looking.then(opened)
    })
  }

  function open(kind: Kind, key: string, text: string, give: Give): void {
    const entry = readEntry(sealer, kind, key, text)
    if (entry === undefined) {
      corrupt++
      store?.distrust()
      void store?.remove(entryKey(key))
      return give(undefined, true)
    }
    const looking = groups.look(Object.keys(entry.stamps))
    if (looking === undefined) give(take(key, entry), true)
    else void looking.then((said) => give(said ? take(key, entry) : undefined, said))
  }

  function take(key: string, entry: Entry): Held | undefined {
    const ageMs = Date.now() - entry.storedAt
    // Of a clock that is ahead of ours: not believed, but perhaps ours is behind, and the others are served by it.
    if (ageMs < -maxSkewMs) return undefined
    // The store's own expiry is what counts where it has one; this also serves those that have none.
    if (ageMs >= entry.keepMs || !groups.confirm(entry.stamps)) return undefined
    const at = now()
    const storedAt = at - Math.max(0, ageMs)
    const found: Held = {
      value: deepFreeze(entry.value),
      storedAt,
      ttlMs: entry.ttlMs,
      keepUntil: storedAt + entry.keepMs,
      groups: Object.keys(entry.stamps),
      stamps: entry.stamps,
      epoch: groups.epoch,
      checkedAt: at
    }
    memory.set(key, found)
    return found
  }

  return {
    peek(key) {
      const found = held(key)
      return found === undefined || store === undefined || now() - found.checkedAt < unreadMs ? found : undefined
    },
    peekFresh(key) {
      const found = held(key)
      // Without a time to be stale in, memory has looked at the clock already.
      if (found === undefined || (staleMs === 0 && store === undefined)) return found
      const at = now()
      if (at - found.storedAt >= found.ttlMs) return undefined
      return store === undefined || at - found.checkedAt < unreadMs ? found : undefined
    },
    find(kind, key, asked, give) {
      const waiting = lookups.get(key)
      if (waiting !== undefined) {
        waiting.push(give)
        return
      }
      const all = [give]
      lookups.set(key, all)
      read(kind, key, asked, (found, said) => {
        lookups.delete(key)
        for (const each of all) each(found, said)
      })
    },
    findStored: (kind, key, asked) => new Promise((resolve) => readStore(kind, key, asked, resolve)),
    begin(of) {
      const { epoch } = groups
      const at = now()
      if (store === undefined) return { epoch, at, stamps: undefined }
      return groups.stamp(of).then((stamps) => ({ epoch, at, stamps }))
    },
    keep(kind, key, value, { epoch, at: beganAt, stamps, groups: of, ttlMs: asked, storing = true, commit }) {
      if (closed || !groups.hold(of, epoch)) return false
      const ttlMs = Math.min(asked, maxTtlMs)
      const keepMs = ttlMs + staleMs
      const at = now()
      const entry: Held = {
        value,
        storedAt: at,
        ttlMs,
        keepUntil: at + keepMs,
        groups: of,
        stamps,
        epoch,
        // What other processes have forgotten since it began is not known yet.
        checkedAt: store === undefined ? at : beganAt
      }
      const inMemory = memory.set(key, entry)
      if (store === undefined || stamps === undefined || !storing || hasEscapedNames(value)) return inMemory
      const text = writeEntry(sealer, kind, key, { value, storedAt: Date.now(), ttlMs, keepMs, stamps })
      if (text.length > maxEntryBytes) return inMemory
      if (commit === undefined) store.write(entryKey(key), text, Math.ceil(keepMs))
      else commit(entryKey(key), text, Math.ceil(keepMs))
      return true
    },
    keepRefusal(key, by, value, { epoch, groups: of }, ttlMs) {
      if (closed || !groups.hold(of, epoch)) return false
      const at = now()
      return memory.set(refusalOf(key, by), {
        value,
        storedAt: at,
        ttlMs,
        keepUntil: at + ttlMs,
        groups: of,
        epoch,
        checkedAt: at
      })
    },
    peekRefusal: (key, by) => held(refusalOf(key, by)),
    async close() {
      closed = true
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
