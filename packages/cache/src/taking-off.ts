import { hasEnded, nextBatch } from '@millrace/core'
import type { CacheInner } from './cache.ts'
import { createFlight, type Flight, type Run, type Source } from './flight.ts'
import type { LedLease } from './leases.ts'
import { maxAgeOf, type Question } from './question.ts'
import { type Role, shareCall } from './shared-call.ts'
import type { Beginning, KeepRule } from './tiers.ts'

/** A flight, and what is known of the call it shares with other processes, if it does. */
export interface SharedFlight<T> extends Flight<T> {
  readonly by: string
  /** What its answer belongs to, and since when: who asks after one of these was forgotten must not join. */
  readonly groups: readonly string[]
  readonly epoch: number
  /** The call in whose place this one is. */
  replaces: SharedFlight<unknown> | undefined
  /** The answer of a newer call is kept: what this one brings is not. */
  superseded: boolean
  readonly role: Role
  readonly known: Promise<void>
  /** How it ended. */
  readonly settled: 'kept' | 'failed' | 'elsewhere' | undefined
}

/** `without the store`: what comes of it is kept in memory alone, and shared within this process. */
export type Purpose = 'waited for' | 'background' | 'without the store'

export function takeOff<T>(self: CacheInner, question: Question<T>, purpose: Purpose): SharedFlight<T> {
  const { door, key, asked, start } = question
  const { tiers, settings, counts } = self
  const groups = question.groups()
  const by = question.by()
  const isBackground = purpose === 'background'
  const over = Promise.withResolvers<void>()
  let settled: SharedFlight<T>['settled']
  let begun: Beginning | undefined
  const { epoch } = tiers.groups
  const alone = purpose === 'without the store'
  const opening = alone ? { epoch, at: settings.now(), stamps: undefined } : tiers.begin(groups)

  const call =
    alone || self.sharing === undefined || asked.noStore === true
      ? undefined
      : shareCall<T>(self.sharing, {
          key,
          by,
          start: (signal) => start(signal, isBackground),
          door,
          anew: asked.refresh === true,
          current: tiers.groups.current,
          whole: question.whole,
          following: !isBackground,
          onFollowed: () => flight.hurry(),
          async stored() {
            const held = await tiers.findStored(door.kind, key, groups)
            if (held === undefined || settings.now() - held.storedAt >= Math.min(held.ttlMs, maxAgeOf(question))) return undefined
            return door.itemsOf(held.value)
          }
        })

  function open(signal: AbortSignal): Source<T> {
    if (call !== undefined && begun?.stamps !== undefined) return call.source(signal, begun.stamps)
    const items = start(signal, isBackground)[Symbol.asyncIterator]()
    return {
      nextBatch: () => nextBatch(items),
      get ended() {
        return hasEnded(items)
      },
      return: async () => items.return?.()
    }
  }

  const flight = createFlight<T>({
    start(signal) {
      if (!(opening instanceof Promise)) {
        begun = opening
        return open(signal)
      }
      // What is forgotten while the call runs must not be kept: how things stand is known before it begins.
      return late(async () => {
        begun = await opening
        signal.throwIfAborted()
        return open(signal)
      })
    },
    door,
    maxBytes: settings.maxEntryBytes,
    now: settings.now,
    hasHeirs: call && (async () => (await call.lease?.isWatched()) ?? false),
    // All that matters of it is here: `close` waits for the rest.
    onFinish: () => self.track(over.promise),
    onEnd(items, error) {
      over.resolve()
      if (self.flights.get(key) === shared) self.flights.delete(key)
      const { role } = shared
      if (role === 'idle' || role === 'found') {
        settled = 'elsewhere'
        return
      }
      let commit: ((lease: LedLease) => Promise<void>) | undefined
      const kept = keep(items, error, role, (entryKey, text, ttlMs) => {
        commit = (lease) => lease.commit(entryKey, text, ttlMs)
      })
      settled = kept ? 'kept' : 'failed'
      if (kept && shared.replaces !== undefined) shared.replaces.superseded = true
      shared.replaces = undefined
      counts[kept ? 'stored' : 'notStored']++
      if (call !== undefined) self.track(call.end(error, commit))
    }
  })

  function keep(items: Run<T> | undefined, error: unknown, role: Role, commit: NonNullable<KeepRule['commit']>): boolean {
    if (begun === undefined || asked.noStore === true || shared.superseded) return false
    if (role === 'follows' && call?.keepable !== true) return false
    const worth = items === undefined && error === undefined ? undefined : door.worth(items, error, settings.pace)
    if (worth === undefined) return false
    if (worth.refusal === true) {
      return settings.negativeTtlMs > 0 && tiers.keepRefusal(key, by, worth.value, { ...begun, groups }, settings.negativeTtlMs)
    }
    const ttlMs = asked.ttlMs ?? settings.ttlMs
    const storing = role === 'leads'
    const rule = { ...begun, groups, ttlMs, storing, commit: call?.lease === undefined ? undefined : commit }
    return ttlMs > 0 && tiers.keep(door.kind, key, worth.value, rule)
  }

  const shared: SharedFlight<T> = {
    get joinable() {
      return flight.joinable
    },
    join: flight.join,
    hurry: flight.hurry,
    by,
    groups,
    epoch,
    replaces: undefined,
    superseded: false,
    get role() {
      return call === undefined || (begun !== undefined && begun.stamps === undefined) ? 'leads' : (call.role ?? 'idle')
    },
    known: Promise.resolve(opening).then(({ stamps }) => (stamps === undefined ? undefined : call?.known)),
    get settled() {
      return settled
    }
  }
  return shared
}

/** A source that is opened by the first read. */
function late<T>(open: () => Promise<Source<T>>): Source<T> {
  let opening: Promise<Source<T>> | undefined
  let source: Source<T> | undefined
  return {
    async nextBatch() {
      opening ??= open()
      source = await opening
      return source.nextBatch()
    },
    get ended() {
      return source?.ended
    },
    return: async () => source?.return?.()
  }
}
