import { randomBytes } from 'node:crypto'
import { MillraceError } from '@millrace/core'
import { maxTtlMs } from './options.ts'
import type { GuardedStore } from './store.ts'

/** Group by group, the word that its entries are valid under. */
export type Stamps = Readonly<Record<string, string>>

/**
 * Groups of entries that are forgotten as a whole: all, a scope, a tenant, a tag. In the store each group has a random word;
 * an entry carries the words of its groups, and forgetting a group deletes its word. So it costs one command however many
 * entries there are, no key is searched for, and a word that the store has lost leaves its entries behind instead of
 * bringing old ones back. In this process a group is forgotten by number: what was begun before it does not count.
 */
export interface Groups {
  /** Grows with each group that is forgotten. */
  readonly epoch: number
  /** Whether none of the groups was forgotten since `epoch`. */
  hold(groups: readonly string[], epoch: number): boolean
  /** The words of new entries, made where there are none yet; undefined when the store does not say. */
  stamp(groups: readonly string[]): Promise<Stamps | undefined>
  /** The words as they are now, whatever was read lately; undefined when the store does not say. */
  current(groups: readonly string[]): Promise<Stamps | undefined>
  /**
   * Looks whether another process has forgotten any of the groups; `hold` knows afterwards. Undefined when that was looked
   * at lately; else a promise that never rejects: false, the store did not say.
   */
  look(groups: readonly string[]): Promise<boolean> | undefined
  /** Whether an entry's words are those of its groups, as far as they were looked at. */
  confirm(stamps: Stamps): boolean
  /** @throws {MillraceError} `unavailable` when the store did not take it; here they are forgotten all the same */
  forget(groups: readonly string[]): Promise<void>
}

/** How long another process' word may go unread; with the same for memory's entries, a second in all. */
export const unreadMs = 500
/** Groups known at a time; past it all is forgotten here, and read again. */
const maxKnown = 20_000
const wordPattern = /^[0-9a-f]{16}$/

/** A group's word when it was last read; `undefined`: there was none. */
interface Known {
  readonly word: string | undefined
  readonly readAt: number
}

export interface GroupsOptions {
  readonly store: GuardedStore | undefined
  readonly namespace: string
  /** What `command` puts before the store's keys. */
  readonly prefix: string | undefined
  readonly now: () => number
  /** Too much was forgotten to be kept in mind: memory is to be emptied. */
  readonly onOverflow: () => void
}

export function createGroups({ store, namespace, prefix, now, onOverflow }: GroupsOptions): Groups {
  const known = new Map<string, Known>()
  const forgotten = new Map<string, number>()
  /** What began before it has outlived what we keep in mind. */
  let floor = 0

  const keyOf = (group: string): string => `${namespace}:g:${group}`

  function forgetHere(groups: readonly string[]): void {
    self.epoch++
    if (forgotten.size + groups.length > maxKnown) overflow()
    for (const group of groups) {
      forgotten.set(group, self.epoch)
      known.delete(group)
    }
  }

  function overflow(): void {
    floor = ++self.epoch
    forgotten.clear()
    known.clear()
    onOverflow()
  }

  function learn(group: string, word: string | undefined, readAt: number): void {
    const before = known.get(group)
    if (before?.word !== undefined && before.word !== word) forgetHere([group])
    if (known.size >= maxKnown) overflow()
    known.set(group, { word, readAt })
  }

  function unread(groups: readonly string[]): readonly string[] {
    const oldest = now() - unreadMs
    const isUnread = (group: string): boolean => !((known.get(group)?.readAt ?? Number.NEGATIVE_INFINITY) > oldest)
    return groups.some(isUnread) ? groups.filter(isUnread) : none
  }

  function look(groups: readonly string[]): Promise<boolean> | undefined {
    const asked = unread(groups)
    return asked.length === 0 ? undefined : read(asked)
  }

  /** False: the store did not say. */
  async function read(asked: readonly string[]): Promise<boolean> {
    const readAt = now()
    const since = self.epoch
    const words = await store?.readMany(asked.map(keyOf))
    if (words === undefined) return false
    asked.forEach((group, at) => {
      // What was forgotten here meanwhile must not come back by an answer that is older.
      if ((forgotten.get(group) ?? 0) > since) return
      const word = words[at]
      learn(group, word !== undefined && wordPattern.test(word) ? word : undefined, readAt)
    })
    return true
  }

  /** Of several processes that make a group's word at the same time, one wins where the store has commands; else the last. */
  async function make(group: string): Promise<void> {
    const fresh = randomBytes(8).toString('hex')
    const readAt = now()
    if (store?.command === undefined || prefix === undefined) {
      if (await store?.put(keyOf(group), fresh, 2 * maxTtlMs)) learn(group, fresh, readAt)
      return
    }
    const done = await store.command(['SET', prefix + keyOf(group), fresh, 'NX', 'GET', 'PX', `${2 * maxTtlMs}`])
    const there = typeof done?.reply === 'string' && wordPattern.test(done.reply) ? done.reply : undefined
    if (there !== undefined || done?.reply === null) learn(group, there ?? fresh, readAt)
    // Not waited for: it would be a second deadline.
    else void mend(group, done?.reply)
  }

  /** Removes what lies in the place of a word and is none, or no text at all: the next one makes it. */
  async function mend(group: string, found: unknown): Promise<void> {
    const key = keyOf(group)
    // A refusal, or no answer, says nothing of what lies there.
    const type = typeof found === 'string' ? 'foreign' : (await store?.command?.(['TYPE', prefix + key]))?.reply
    if (type !== undefined && type !== 'string' && type !== 'none') await store?.remove(key)
  }

  const wordOf = (group: string): string | undefined => known.get(group)?.word

  // A plain field: it is read for each hit.
  const self: { -readonly [Name in keyof Groups]: Groups[Name] } = {
    epoch: 0,
    hold: (groups, since) =>
      since === self.epoch || (since >= floor && groups.every((group) => (forgotten.get(group) ?? 0) <= since)),
    look,
    async current(groups) {
      if (!(await read(groups))) return undefined
      return Object.fromEntries(groups.map((group) => [group, wordOf(group) ?? '']))
    },
    async stamp(groups) {
      if ((await look(groups)) === false) return undefined
      const missing = groups.filter((group) => wordOf(group) === undefined)
      if (missing.length > 0) await Promise.all(missing.map(make))
      const stamps: Record<string, string> = {}
      for (const group of groups) {
        const word = wordOf(group)
        if (word === undefined) return undefined
        stamps[group] = word
      }
      return stamps
    },
    confirm(stamps) {
      for (const group in stamps) if (wordOf(group) !== stamps[group]) return false
      return true
    },
    async forget(groups) {
      forgetHere(groups)
      if (store === undefined) return
      const before = await store.readMany(groups.map(keyOf))
      const removed = await Promise.all(groups.map((group) => store.remove(keyOf(group))))
      // Some adapters say yes to what failed: only what can be read back is so.
      const after = removed.every(Boolean) ? await store.readMany(groups.map(keyOf)) : undefined
      // Nothing that was read while they were removed counts.
      forgetHere(groups)
      if (before !== undefined && after?.every((word, at) => word === undefined || word !== before[at])) return
      throw new MillraceError(
        'unavailable',
        'invalidated in this process only: the store did not take it; call it again once it is back',
        {
          details: {}
        }
      )
    }
  }
  return self
}

const none: readonly string[] = []
