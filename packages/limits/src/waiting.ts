import { clampTimer, type Deadline, type MillraceError, onAbort } from '@millrace/core'
import type { Answer, Gate } from './degraded.ts'
import { endsOf, unsent } from './ends.ts'
import { first, type Queued } from './flow.ts'
import { Heap, type HeapItem } from './heap.ts'
import type { AcquireOptions, LimiterSettings } from './limiter-options.ts'
import type { LimiterCounts } from './limiter-stats.ts'
import type { Subject } from './permit.ts'
import { createQueue, type Refused } from './queue.ts'
import { closedError, queueFull, queueTimeout, quotaExceeded, rateLimited, unavailable } from './refusals.ts'
import type { Demand } from './rules.ts'

/** An answer that lets the call in. */
export type Granted = Extract<Answer, { granted: true }>
type Denied = Extract<Answer, { granted: false }>

/** Lets calls in, at once or when their turn comes. */
export interface Waiting<P> {
  enter(demand: Demand, subject: Subject, options: AcquireOptions): Promise<P>
  /** Something came back to these: who waits for it is asked again. */
  freed(demand: Demand): void
  freedAll(): void
  readonly queued: number
  /** Rejects all that wait with `closed`, and all that come. */
  close(): void
}

export interface WaitingOptions<P> {
  readonly settings: LimiterSettings
  readonly counts: LimiterCounts
  readonly gate: Gate
  permit(demand: Demand, subject: Subject, answer: Granted, waitedMs: number): P
}

/** A call that has to wait: for its turn, or for the store's answer. */
class Waiter<P> implements Queued, HeapItem {
  readonly demand: Demand
  readonly subject: Subject
  readonly tenant: string
  readonly priority: number
  readonly weight: number
  readonly since: number
  readonly expiresAt: number
  /** What ends the wait first. */
  readonly bound: 'queueTimeout' | 'deadline'
  readonly deadline: Deadline | undefined
  readonly promise: Promise<P>
  slot = -1
  over = false
  resolve!: (permit: P) => void
  reject!: (reason: unknown) => void
  off: (() => void) | undefined

  constructor(demand: Demand, subject: Subject, options: AcquireOptions, queueMs: number, now: number) {
    this.demand = demand
    this.subject = subject
    this.tenant = subject.tenant ?? ''
    this.priority = demand.isCall ? (options.priority ?? 0) : first
    this.weight = weightOf(demand)
    this.deadline = options.deadline
    const leftMs = options.deadline?.remainingMs() ?? Number.POSITIVE_INFINITY
    this.since = now
    this.expiresAt = now + Math.min(queueMs, leftMs)
    this.bound = leftMs < queueMs ? 'deadline' : 'queueTimeout'
    this.promise = new Promise((resolve, reject) => {
      this.resolve = resolve
      this.reject = reject
    })
    if (this.deadline !== undefined) this.deadline.queued = true
  }
}

/** Of a shared store that cannot say when a place will be free. */
const pollMs = { least: 25, most: 100 } as const
/** What is reserved of a budget comes back with its next window, if its calls do not end before. */
const budgetPollMs = 1000
/** So many first asks may be under way at a store that takes its time; later ones stand in the queue. */
const maxAsking = 1000
/** So many of the queue: more while calls are let in, fewer when they are denied what others have. */
const asksAtOnce = { least: 4, most: 64 } as const

export function createWaiting<P>({ settings, counts, gate, permit }: WaitingOptions<P>): Waiting<P> {
  const { now, random, maxQueue } = settings
  const queue = createQueue<Waiter<P>>()
  const expiries = new Heap<Waiter<P>>((a, b) => a.expiresAt < b.expiresAt)
  /** Asked for the first time, ahead of any queue, at a store that takes its time. */
  const asking = new Set<Waiter<P>>()
  /** Too late to be asked: they wait for their end, or for the store to fail. */
  const late = new Set<Waiter<P>>()
  let stepping = false
  let underWay = 0
  let window: number = asksAtOnce.least
  /** Asks are counted, so that those that were denied together make the window smaller once. */
  let askCount = 0
  let narrowedAt = 0
  /** How long the store takes; after a slow answer it is believed to be fast again little by little. */
  let storeMs = 0
  let closed = false
  let timer: NodeJS.Timeout | undefined
  let timerAt = Number.POSITIVE_INFINITY
  /** How often something came back. */
  let frees = 0

  function enter(demand: Demand, subject: Subject, options: AcquireOptions): Promise<P> {
    const { signal } = options
    if (closed) return Promise.reject(closedError())
    if (signal?.aborted === true) return Promise.reject(signal.reason)
    if (demand.asks.length === 0) return Promise.resolve(permit(demand, subject, free, 0))
    const mustStand = queue.contends(demand) || asking.size >= maxAsking
    if (mustStand) return wait(demand, subject, options, undefined)
    const answer = gate.take(demand.asks)
    if ('then' in answer) return askAhead(demand, subject, options, answer)
    if (answer.granted) return Promise.resolve(permit(demand, subject, answer, 0))
    return wait(demand, subject, options, answer)
  }

  function begin(demand: Demand, subject: Subject, options: AcquireOptions): Waiter<P> {
    const waiter = new Waiter<P>(demand, subject, options, options.queueMs ?? settings.queueMs, now())
    if (options.signal !== undefined) waiter.off = onAbort(options.signal, (reason) => leave(waiter, reason))
    return waiter
  }

  /** Behind others, or after the denial of a first ask. */
  function wait(demand: Demand, subject: Subject, options: AcquireOptions, denied: Denied | undefined): Promise<P> {
    const waiter = begin(demand, subject, options)
    const refusal = denied === undefined ? undefined : refusalOf(waiter, denied)
    if (refusal !== undefined) end(waiter, refusal)
    else stand(waiter, denied, frees)
    return waiter.promise
  }

  function stand(waiter: Waiter<P>, denied: Denied | undefined, freesBefore: number): void {
    if (queue.size >= maxQueue) {
      counts.refused.queueFull++
      return end(waiter, queueFull(maxQueue))
    }
    queue.add(waiter)
    if (waiter.slot === -1 && waiter.expiresAt < Number.POSITIVE_INFINITY) expiries.push(waiter)
    if (denied !== undefined) queue.deniedFirst(waiter, refused(denied, freesBefore))
    pump()
  }

  /** A first ask that the store takes its time for: the caller may leave meanwhile. */
  function askAhead(demand: Demand, subject: Subject, options: AcquireOptions, asked: Promise<Answer>): Promise<P> {
    const waiter = begin(demand, subject, options)
    const freesBefore = frees
    const askedAt = now()
    asking.add(waiter)
    if (waiter.expiresAt < Number.POSITIVE_INFINITY) expiries.push(waiter)
    arm()
    void asked.then((answer) => {
      asking.delete(waiter)
      took(askedAt)
      if (answer.granted) letIn(waiter, answer)
      else if (!waiter.over) {
        const refusal = refusalOf(waiter, answer)
        if (refusal === undefined) stand(waiter, answer, freesBefore)
        else end(waiter, refusal)
      }
      arm()
    })
    return waiter.promise
  }

  function letIn(waiter: Waiter<P>, answer: Granted): void {
    if (waiter.over) return handOn(waiter, answer)
    const waitedMs = Math.max(0, now() - waiter.since)
    counts.waitedMs += waitedMs
    const granted = permit(waiter.demand, waiter.subject, answer, waitedMs)
    close(waiter)
    waiter.resolve(granted)
  }

  /** It came too late for its call: who waits for the same may have it, without another way to the store. */
  function handOn(waiter: Waiter<P>, answer: Granted): void {
    const heir = queue.heirOf(waiter)
    if (heir === undefined) return giveBack(waiter.demand, answer)
    queue.granted(heir)
    letIn(heir, answer)
  }

  function giveBack(demand: Demand, answer: Granted): void {
    const from = grantedBy(answer, gate)
    if (from === undefined) return
    const ended = gate.end(from, endsOf(demand.asks, answer.at, unsent))
    if (ended === undefined) freed(demand)
    else void ended.then(() => freed(demand))
  }

  function end(waiter: Waiter<P>, reason: unknown): void {
    if (waiter.over) return
    close(waiter)
    waiter.reject(reason)
  }

  function close(waiter: Waiter<P>): void {
    waiter.over = true
    waiter.off?.()
    expiries.remove(waiter)
    late.delete(waiter)
    if (waiter.deadline !== undefined) waiter.deadline.queued = false
  }

  /** It gives up: whoever stood behind it may have what it had not. */
  function leave(waiter: Waiter<P>, reason: unknown): void {
    end(waiter, reason)
    if (queue.remove(waiter)) pump()
  }

  /** Why the call is not to wait, if so. */
  function refusalOf(waiter: Waiter<P>, denied: Denied): MillraceError | undefined {
    const { waitMs } = denied
    if ('unavailable' in denied) return unavailable(denied.waitMs)
    if (denied.why === 'budget' && waitMs !== undefined) {
      counts.refused.quota++
      return quotaExceeded(waitMs, waiter.demand.asks[denied.index], denied.left)
    }
    const at = now()
    const isTooLong = waitMs === undefined ? waiter.expiresAt <= at : at + waitMs > waiter.expiresAt
    if (!isTooLong) return undefined
    counts.refused[waiter.bound]++
    return rateLimited(waitMs, waiter.bound, 'index' in denied ? waiter.demand.asks[denied.index] : undefined)
  }

  function refused(denied: Denied, freesBefore: number): Refused {
    const isSized = 'why' in denied && (denied.why === 'tokens' || denied.why === 'budget')
    return { index: 'index' in denied ? denied.index : 0, until: askAgainAt(denied, freesBefore), isSized }
  }

  function askAgainAt(denied: Denied, freesBefore: number): number {
    if (frees !== freesBefore) return 0 // the answer may be from before
    const { waitMs } = denied
    if (waitMs !== undefined) return now() + Math.max(1, waitMs) // no timer is finer
    if (!gate.isShared) return 'why' in denied && denied.why === 'budget' ? now() + budgetPollMs : Number.POSITIVE_INFINITY
    return now() + pollMs.least + random() * (pollMs.most - pollMs.least)
  }

  /** Asks for all whose turn it is, a window of them at a time where the store takes its time. */
  function pump(): void {
    if (stepping || closed) return
    stepping = true
    while (underWay < window) {
      const at = now()
      const waiter = queue.next(at)
      if (waiter === undefined) break
      if (isTooLate(waiter, at)) {
        queue.remove(waiter)
        late.add(waiter)
        continue
      }
      const freesBefore = frees
      const ask = ++askCount
      const answer = gate.take(waiter.demand.asks)
      if ('then' in answer) {
        underWay++
        void answer.then((told) => {
          underWay--
          took(at)
          resize(waiter, told, ask)
          decide(waiter, told, freesBefore)
          pump()
        })
      } else decide(waiter, answer, freesBefore)
    }
    stepping = false
    arm()
  }

  function took(askedAt: number): void {
    // What stands in for a store that fails takes no time.
    storeMs = gate.degraded ? 0 : Math.max(now() - askedAt, storeMs * 0.9)
  }

  function freedAll(): void {
    frees++
    storeMs = 0
    for (const waiter of late) queue.add(waiter)
    late.clear()
    queue.freeAll()
    if (queue.size > 0) pump()
  }

  /** Its answer would come after its end. Not in the first half of a wait: the store may be faster by now. */
  function isTooLate({ since, expiresAt }: Waiter<P>, at: number): boolean {
    return storeMs > 0 && expiresAt - at < Math.min(storeMs, (expiresAt - since) / 2)
  }

  function resize({ demand }: Waiter<P>, answer: Answer, ask: number): void {
    if (answer.granted) window = Math.min(asksAtOnce.most, window + 1)
    else if ('index' in answer && answer.index < demand.shared && ask > narrowedAt) {
      window = Math.max(asksAtOnce.least, Math.floor(window / 2))
      narrowedAt = askCount
    }
  }

  function decide(waiter: Waiter<P>, answer: Answer, freesBefore: number): void {
    if (answer.granted) {
      queue.granted(waiter)
      letIn(waiter, answer)
      return
    }
    if (waiter.over) return
    const refusal = refusalOf(waiter, answer)
    if (refusal === undefined) return queue.denied(waiter, refused(answer, freesBefore))
    end(waiter, refusal)
    queue.remove(waiter)
  }

  /** One timer for all. It keeps the process alive as long as somebody waits. */
  function arm(): void {
    if (queue.size === 0 && asking.size === 0 && late.size === 0) {
      clearTimeout(timer)
      timer = undefined
      return
    }
    const wakeAt = Math.min(
      // While the window is full nobody is asked, whoever's time has come: the next answer is what wakes.
      queue.size === 0 || underWay >= window ? Number.POSITIVE_INFINITY : queue.wakeAt,
      expiries.peek()?.expiresAt ?? Number.POSITIVE_INFINITY
    )
    if (timer !== undefined && timerAt <= wakeAt) return
    clearTimeout(timer)
    timerAt = wakeAt
    timer = setTimeout(wake, clampTimer(Math.ceil(wakeAt - now())))
  }

  function wake(): void {
    timer = undefined
    const at = now()
    for (let next = expiries.peek(); next !== undefined && next.expiresAt <= at; next = expiries.peek()) {
      counts.refused[next.bound]++
      end(next, queueTimeout(next.expiresAt - next.since, at - next.since))
      queue.remove(next)
    }
    pump()
    arm()
  }

  function freed({ asks }: Demand): void {
    frees++
    if (queue.size === 0) return
    for (const { key } of asks) queue.free(key)
    pump()
  }

  return {
    enter,
    freed,
    freedAll,
    get queued() {
      return queue.size + asking.size + late.size
    },
    close() {
      closed = true
      for (const waiter of [...queue.takeAll(), ...asking, ...late]) end(waiter, closedError())
      asking.clear()
      arm()
    }
  }
}

/** Of a call that no limit holds. */
const free: Granted = { granted: true, at: 0 }

/** Which store the end is to be told to, if any. */
export function grantedBy(answer: Granted, gate: Gate): Gate['store'] | undefined {
  if (!('degraded' in answer)) return gate.store
  return answer.degraded === 'localShare' ? answer.from : undefined
}

/** What a call counts in fair turns: its tokens, or one where it has none. */
function weightOf({ asks }: Demand): number {
  let weight = 0
  for (const ask of asks) if (ask.kind === 'rate') weight = Math.max(weight, ask.tokens)
  return weight === 0 ? 1 : weight
}
