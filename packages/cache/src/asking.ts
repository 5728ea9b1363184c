import { type ErrorCode, hasEnded, isMillraceError, type Json, type LogReader, nextBatch, type Timeouts } from '@millrace/core'
import type { CacheInner } from './cache.ts'
import type { Kind } from './entry.ts'
import { type Asker, createFlight, type Flight, type Run, type Source } from './flight.ts'
import type { LedLease } from './leases.ts'
import type { Held } from './memory.ts'
import type { CacheCallOptions } from './options.ts'
import { type Role, shareCall } from './shared-call.ts'
import type { Beginning as Begun, KeepRule } from './tiers.ts'

/** What is asked of the cache, by whichever door: a kind of answer that comes in items. */
export interface Question<T> {
  readonly kind: Kind
  readonly key: string
  /** Whose credential it is sent with, as `byOf` tells: another one's failure is not shared. */
  readonly by: () => string
  /** The groups that what is kept belongs to. Called in the same turn when memory does not have the answer. */
  readonly groups: () => readonly string[]
  readonly asked: CacheCallOptions
  readonly callId: string | undefined
  readonly signal: AbortSignal | undefined
  readonly timeouts: Timeouts | undefined
  /** The upstream call, under a signal that belongs to all who ask. `background`: nobody waits for it. */
  readonly start: (signal: AbortSignal, background: boolean) => AsyncIterable<T>
  /**
   * What is kept of a whole run: frozen plain JSON; undefined when it must not be. `refusal`: it is a deterministic 400,
   * 404, 413 or 422, for the negative cache. `error` is what the run ended with.
   */
  readonly worth: (run: Run<T> | undefined, error: unknown) => Worth | undefined
  /** The items of what was kept. */
  readonly itemsOf: (value: unknown) => readonly T[]
  readonly weigh: (item: T) => number
  /** After it only bookkeeping follows. */
  readonly isLast: (item: T) => boolean
  /** Whether the answer has begun with this item: before it, a failure can still be answered otherwise. */
  readonly isContent: (item: T) => boolean
  /** Whether this item tells of a failure that an answer past its time is better than. @default failures are errors */
  readonly isFailure?: ((item: T) => boolean) | undefined
  /** Items as JSON, for askers in other processes; undefined for what cannot be told. */
  readonly encode: (item: T) => Json | undefined
  readonly decode: (json: Json) => T | undefined
}

export interface Worth {
  readonly value: unknown
  readonly refusal?: boolean | undefined
}

/** Answered from what was kept, or by a call under way. */
export type Reply<T> = KeptReply | RunningReply<T>

export interface KeptReply {
  readonly state: 'hit' | 'stale'
  readonly value: unknown
  readonly ageMs: number
  readonly refusal: boolean
}

export interface RunningReply<T> {
  /** Known for certain once items have come: `hit` when another process had stored it just before we called. */
  readonly state: 'miss' | 'joined' | 'hit'
  readonly items: Items<T>
  /** Whether the upstream's bill goes to this asker. Ask it when usage arrives. */
  pays(): boolean
}

/** Read one by one, or all that is there at once. */
export type Items<T> = Pick<LogReader<T>, 'next' | 'nextBatch' | 'ended' | 'return'>

/** Set while a reply is waited for: leaves without it. */
export interface Leaving {
  leave?: (() => void) | undefined
}

/** After a refresh that failed, the next one waits so long. */
const refreshPauseMs = 1000
/** A refresh that nobody waits for ends by itself. */
const refreshMs = 600_000

/**
 * Answers from memory in the same turn; else by the store, by a call under way, or by a new one. Every way counts once.
 *
 * @throws whatever the upstream throws before the answer is known; `signal.reason`
 */
export function ask<T>(self: CacheInner, question: Question<T>, leaving: Leaving): Reply<T> | Promise<Reply<T>> {
  const startedAt = performance.now()
  const { tiers } = self
  if (question.asked.refresh === true) return run(self, question, leaving, startedAt, undefined)
  const held = tiers.peek(question.key)
  const kept = held === undefined ? undefined : serve(self, question, held)
  if (kept !== undefined) return tell(self, question, startedAt, kept)
  const refusal = self.settings.negativeTtlMs > 0 ? tiers.peekRefusal(question.key) : undefined
  if (refusal !== undefined) {
    const ageMs = self.settings.now() - refusal.storedAt
    if (ageMs <= maxAgeOf(question)) {
      return tell(self, question, startedAt, { state: 'hit', value: refusal.value, ageMs, refusal: true })
    }
  }
  question.groups()
  if (tiers.store === undefined || (held !== undefined && !tiers.store.available)) {
    return run(self, question, leaving, startedAt, fallback(self, question, held))
  }
  return askStore(self, question, leaving, startedAt)
}

async function askStore<T>(self: CacheInner, question: Question<T>, leaving: Leaving, startedAt: number): Promise<Reply<T>> {
  const { tiers } = self
  const { key, kind, signal } = question
  const errors = tiers.store?.errors
  // Another asker's answer may come into memory meanwhile.
  const held = (await tiers.find(kind, key, question.groups())) ?? tiers.peek(key)
  signal?.throwIfAborted()
  const kept = held === undefined ? undefined : serve(self, question, held)
  if (kept !== undefined) return tell(self, question, startedAt, kept)
  // A store that was too slow for this call, or for one beside it, is not waited for a second time.
  const silent = tiers.store?.errors !== errors
  return run(self, question, leaving, startedAt, fallback(self, question, held), silent ? 'without the store' : 'waited for')
}

function maxAgeOf({ asked }: { readonly asked: CacheCallOptions }): number {
  return asked.maxAgeMs ?? Number.POSITIVE_INFINITY
}

/** A hit, or a stale answer that is being refreshed; undefined where the caller must wait for a new one. */
function serve<T>(self: CacheInner, question: Question<T>, held: Held): KeptReply | undefined {
  const { now, staleWhileRevalidateMs } = self.settings
  const at = now()
  const ageMs = Math.max(0, at - held.storedAt)
  if (ageMs > maxAgeOf(question)) return undefined
  if (ageMs < held.ttlMs) return { state: 'hit', value: held.value, ageMs, refusal: false }
  if (ageMs >= held.ttlMs + staleWhileRevalidateMs) return undefined
  if (at >= held.retryAt) refresh(self, question, held)
  return { state: 'stale', value: held.value, ageMs, refusal: false }
}

/** What is given where the upstream fails: an answer past its time. */
function fallback<T>(self: CacheInner, question: Question<T>, held: Held | undefined): Held | undefined {
  if (held === undefined) return undefined
  const ageMs = self.settings.now() - held.storedAt
  const usable = ageMs < held.ttlMs + self.settings.staleIfErrorMs && ageMs <= maxAgeOf(question)
  return usable ? held : undefined
}

function tell<T>(self: CacheInner, { callId }: Question<T>, startedAt: number, reply: KeptReply): KeptReply {
  self.announce(reply.state, { callId, elapsedMs: performance.now() - startedAt, ageMs: reply.ageMs })
  return reply
}

/** One refresh a key at a time, in the background; across processes too, where they share calls. */
function refresh<T>(self: CacheInner, question: Question<T>, held: Held): void {
  const { key } = question
  if (self.flights.has(key) || self.refreshing.has(key) || self.closing.aborted) return
  self.refreshing.add(key)
  const flight = takeOff(self, question, 'background')
  const join = (): void => {
    // Until it is known that this process makes the call, there may be nothing to join.
    if (flight.role === 'leads' && !self.flights.has(key)) self.flights.set(key, flight)
  }
  void flight.known.then(join)
  const work = drain(flight.join({ signal: self.closing, timeouts: { totalMs: refreshMs } })).then(
    () => flight.settled,
    () => 'failed' // the stale answer serves on, and the failure is counted
  )
  self.track(
    work.then((outcome) => {
      self.refreshing.delete(key)
      if (outcome === 'kept') self.counts.refreshes++
      else if (outcome !== 'elsewhere') self.counts.refreshErrors++
      held.retryAt = self.settings.now() + refreshPauseMs
    })
  )
}

async function drain<T>({ items }: Asker<T>): Promise<void> {
  while ((await items.nextBatch()) !== undefined);
}

/** A flight, and what is known of the call it shares with other processes, if it does. */
export interface SharedFlight<T> extends Flight<T> {
  readonly by: string
  readonly role: Role
  readonly known: Promise<void>
  /** How it ended. */
  readonly settled: 'kept' | 'failed' | 'elsewhere' | undefined
}

function run<T>(
  self: CacheInner,
  question: Question<T>,
  leaving: Leaving,
  startedAt: number,
  stale: Held | undefined,
  purpose: Purpose = 'waited for'
): RunningReply<T> | Promise<Reply<T>> {
  const { key, asked, callId } = question
  const running = asked.refresh === true ? undefined : (self.flights.get(key) as SharedFlight<T> | undefined)
  const joins = running?.joinable === true
  const flight = joins ? running : takeOff(self, question, purpose)
  if (!joins) self.flights.set(key, flight as SharedFlight<unknown>)
  const asker = flight.join(question)
  const state = (): 'miss' | 'joined' | 'hit' => {
    if (joins) return 'joined'
    return flight.role === 'leads' ? 'miss' : flight.role === 'found' ? 'hit' : 'joined'
  }
  const elapsedMs = performance.now() - startedAt
  const count = (): void => self.announce(state(), { callId, elapsedMs })
  const reply: RunningReply<T> = {
    get state() {
      return state()
    },
    items: asker.items,
    pays: () => flight.role === 'leads' && asker.pays()
  }
  if (!joins && stale === undefined) {
    if (self.sharing === undefined) count()
    else void flight.known.then(() => self.announce(state(), { callId, elapsedMs: performance.now() - startedAt }))
    return reply
  }
  leaving.leave = () => void asker.items.return?.()
  return begin(self, question, leaving, { reply, foreign: joins && flight.by !== question.by(), joins, count, stale })
}

interface Beginning<T> {
  readonly reply: RunningReply<T>
  readonly joins: boolean
  /** Joined a call that is sent with another credential. */
  readonly foreign: boolean
  readonly count: () => void
  readonly stale: Held | undefined
}

/** Waits for the first content, while a failure can still be answered otherwise. */
async function begin<T>(
  self: CacheInner,
  question: Question<T>,
  leaving: Leaving,
  { reply, joins, foreign, count, stale }: Beginning<T>
): Promise<Reply<T>> {
  const { signal, isContent, isFailure } = question
  const first: T[] = []
  function instead(): KeptReply | undefined {
    if (stale === undefined) return undefined
    const ageMs = self.settings.now() - stale.storedAt
    return tell(self, question, performance.now(), { state: 'stale', value: stale.value, ageMs, refusal: false })
  }
  try {
    while (!first.some(isContent)) {
      const batch = await reply.items.nextBatch()
      if (batch === undefined) break
      first.push(...batch)
    }
  } catch (error) {
    if (signal?.aborted !== true) {
      const kept = isOutage(error) ? instead() : undefined
      if (kept !== undefined) return kept
      // Whose call this was has closed, or was refused for what is not ours: we are still here, and ask for ourselves.
      const isTheirs = foreign || (joins && isMillraceError(error, 'closed'))
      if (isTheirs && !self.closing.aborted) return ask(self, question, leaving)
    }
    count()
    throw error
  }
  if (stale !== undefined && isFailure !== undefined && first.some(isFailure)) {
    const kept = instead()
    void reply.items.return?.()
    if (kept !== undefined) return kept
  }
  count()
  return { ...reply, state: reply.state, items: withFirst(first, reply.items) }
}

/** What an older answer is better than. A refused key or a wrong request is told. */
function isOutage(error: unknown): boolean {
  return isMillraceError(error) && outages.has(error.code)
}

const outages: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'network',
  'timeout',
  'rate-limited',
  'quota-exceeded',
  'overloaded',
  'unavailable',
  'circuit-open',
  'queue-full',
  'protocol'
])

/** The items with those in front that were read already. */
function withFirst<T>(first: readonly T[], rest: Items<T>): Items<T> {
  let waiting = first
  return {
    async next() {
      const value = waiting[0]
      if (value === undefined) return rest.next()
      waiting = waiting.slice(1)
      return { done: false, value }
    },
    async nextBatch() {
      if (waiting.length === 0) return rest.nextBatch()
      const batch = waiting
      waiting = []
      return batch
    },
    get ended() {
      return waiting.length === 0 && rest.ended
    },
    return: () => rest.return?.() ?? Promise.resolve({ done: true, value: undefined })
  }
}

/** `without the store`: what comes of it is kept in memory alone, and shared within this process. */
type Purpose = 'waited for' | 'background' | 'without the store'

function takeOff<T>(self: CacheInner, question: Question<T>, purpose: Purpose): SharedFlight<T> {
  const { key, kind, asked, start, encode, decode, isContent, itemsOf } = question
  const { tiers, settings, counts } = self
  const groups = question.groups()
  const by = question.by()
  const isBackground = purpose === 'background'
  let settled: SharedFlight<T>['settled']
  let begun: Begun | undefined
  const alone = purpose === 'without the store'
  const opening = alone ? { epoch: tiers.groups.epoch, stamps: undefined } : tiers.begin(groups)

  const call =
    alone || self.sharing === undefined || asked.noStore === true || asked.refresh === true
      ? undefined
      : shareCall<T>(self.sharing, {
          key,
          by,
          start: (signal) => start(signal, isBackground),
          encode,
          decode,
          isContent,
          following: !isBackground,
          onFollowed: () => flight.hurry(),
          async stored() {
            const held = await tiers.findStored(kind, key, groups)
            if (held === undefined || settings.now() - held.storedAt >= Math.min(held.ttlMs, maxAgeOf(question))) return undefined
            return itemsOf(held.value)
          }
        })

  function open(signal: AbortSignal): Source<T> {
    if (call !== undefined) return call.source(signal)
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
    weigh: question.weigh,
    maxBytes: settings.maxEntryBytes,
    isLast: question.isLast,
    now: settings.now,
    hasHeirs: call && (async () => (await call.lease?.isWatched()) ?? false),
    onEnd(items, error) {
      if (self.flights.get(key) === shared) self.flights.delete(key)
      const role = call?.role ?? 'leads'
      if (role === 'idle' || role === 'found') {
        settled = 'elsewhere'
        return
      }
      let commit: ((lease: LedLease) => Promise<void>) | undefined
      const kept = keep(items, error, role, (entryKey, text, ttlMs) => {
        commit = (lease) => lease.commit(entryKey, text, ttlMs)
      })
      settled = kept ? 'kept' : 'failed'
      counts[kept ? 'stored' : 'notStored']++
      if (call !== undefined) self.track(call.end(error, commit))
    }
  })

  function keep(items: Run<T> | undefined, error: unknown, role: Role, commit: NonNullable<KeepRule['commit']>): boolean {
    if (begun === undefined || asked.noStore === true || self.closing.aborted) return false
    const worth = items === undefined && error === undefined ? undefined : question.worth(items, error)
    if (worth === undefined) return false
    if (worth.refusal === true) {
      return settings.negativeTtlMs > 0 && tiers.keepRefusal(key, worth.value, { ...begun, groups }, settings.negativeTtlMs)
    }
    const ttlMs = asked.ttlMs ?? settings.ttlMs
    const storing = role === 'leads'
    const rule = { ...begun, groups, ttlMs, storing, commit: call?.lease === undefined ? undefined : commit }
    return ttlMs > 0 && tiers.keep(kind, key, worth.value, rule)
  }

  const shared: SharedFlight<T> = {
    get joinable() {
      return flight.joinable
    },
    join: flight.join,
    hurry: flight.hurry,
    by,
    get role() {
      return call === undefined ? 'leads' : (call.role ?? 'idle')
    },
    known: call?.known ?? Promise.resolve(),
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
