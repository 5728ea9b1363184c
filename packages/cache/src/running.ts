import { isMillraceError } from '@millrace/core'
import type { CacheInner } from './cache.ts'
import type { Held } from './memory.ts'
import type { Items, KeptReply, Leaving, Question, Reply, RunningReply } from './question.ts'
import { type Purpose, type SharedFlight, takeOff } from './taking-off.ts'

/** What has been found out of a question so far. */
export interface Asking<T> {
  readonly leaving: Leaving
  /** On `performance.now`. */
  readonly startedAt: number
  /** Asks the same question from the beginning. */
  readonly again: () => Reply<T> | Promise<Reply<T>>
  /** What is given where the upstream fails: an answer past its time. */
  readonly stale?: Held | undefined
  readonly purpose?: Purpose | undefined
}

/** Answers by a call under way, or by a new one. */
export function run<T>(self: CacheInner, question: Question<T>, asking: Asking<T>): RunningReply<T> | Promise<Reply<T>> {
  const { key, asked, callId } = question
  const { leaving, startedAt, stale, purpose = 'waited for' } = asking
  const running = self.flights.get(key) as SharedFlight<T> | undefined
  const joins = running !== undefined && asked.refresh !== true && mayJoin(self, question, running)
  const flight = joins ? running : takeOff(self, question, purpose)
  const asker = flight.join(question)
  if (!joins) {
    flight.replaces = running
    self.flights.set(key, flight)
  }
  const reply: RunningReply<T> = {
    get state() {
      if (joins) return 'joined'
      return flight.role === 'leads' ? 'miss' : flight.role === 'found' ? 'hit' : 'joined'
    },
    items: asker.items,
    pays: () => flight.role === 'leads' && asker.pays()
  }
  const elapsedMs = performance.now() - startedAt
  if (joins || stale !== undefined) {
    leaving.leave = () => void asker.items.return?.()
    const isForeign = joins && flight.by !== question.by()
    return begin(self, question, asking, { reply, joins, isForeign, elapsedMs })
  }
  if (self.sharing === undefined) self.announce('miss', { callId, elapsedMs })
  else void flight.known.then(() => self.announce(reply.state, { callId, elapsedMs }))
  return reply
}

/** Not where something was forgotten, of its groups or of ours, since it began. */
function mayJoin<T>({ tiers: { groups } }: CacheInner, question: Question<T>, running: SharedFlight<T>): boolean {
  return running.joinable && groups.hold(running.groups, running.epoch) && groups.hold(question.groups(), running.epoch)
}

/** A kept answer, counted. */
export function told<T>(self: CacheInner, { callId }: Question<T>, reply: KeptReply, startedAt: number): KeptReply {
  self.announce(reply.state, { callId, elapsedMs: performance.now() - startedAt, ageMs: reply.ageMs })
  return reply
}

interface Begun<T> {
  readonly reply: RunningReply<T>
  readonly joins: boolean
  /** Joined a call that is sent with another credential. */
  readonly isForeign: boolean
  readonly elapsedMs: number
}

/** Waits for the first content, while a failure can still be answered otherwise. */
async function begin<T>(
  self: CacheInner,
  question: Question<T>,
  { startedAt, stale, again }: Asking<T>,
  { reply, joins, isForeign, elapsedMs }: Begun<T>
): Promise<Reply<T>> {
  const { callId, signal, door } = question
  const first: T[] = []
  let failure: { readonly error: unknown } | undefined
  try {
    while (!first.some(door.isContent)) {
      const batch = await reply.items.nextBatch()
      if (batch === undefined) break
      for (const item of batch) first.push(item)
    }
  } catch (error) {
    failure = { error }
  }
  const isOut = failure === undefined ? first.some(door.isFailure) : door.isOutage(failure.error)
  if (isOut && stale !== undefined && signal?.aborted !== true && self.tiers.groups.hold(stale.groups, stale.epoch)) {
    void reply.items.return?.()
    const ageMs = self.settings.now() - stale.storedAt
    return told(self, question, { state: 'stale', value: stale.value, ageMs, refusal: false }, startedAt)
  }
  if (failure !== undefined && signal?.aborted !== true && !self.closing.aborted) {
    // Whose call this was has closed, or was refused for what is not ours: we are still here, and ask for ourselves.
    if (isForeign || (joins && isMillraceError(failure.error, 'closed'))) return again()
  }
  const { state } = reply
  self.announce(state, { callId, elapsedMs })
  if (failure !== undefined) throw failure.error
  return { state, items: withFirst(first, reply.items), pays: reply.pays }
}

/** The items with those in front that were read already. */
function withFirst<T>(first: readonly T[], rest: Items<T>): Items<T> {
  let at = 0
  return {
    async next() {
      const value = first[at]
      if (value === undefined) return rest.next()
      at++
      return { done: false, value }
    },
    async nextBatch() {
      if (at === first.length) return rest.nextBatch()
      const batch = first.slice(at)
      at = first.length
      return batch
    },
    get ended() {
      return at === first.length && rest.ended
    },
    return: () => rest.return?.() ?? Promise.resolve({ done: true, value: undefined })
  }
}
