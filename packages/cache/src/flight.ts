import { createLog, type LogReader, linkAbort, onAbort, startDeadline, type Timeouts } from '@millrace/core'
import type { Door } from './question.ts'

/** All that is ready of an upstream at once; undefined at its end. */
export interface Source<T> {
  nextBatch(): Promise<readonly T[] | undefined>
  /** Says with the last batch that there is no other, where it can. */
  readonly ended?: boolean | undefined
  return?(): Promise<unknown>
}

/** What came of an upstream call that ended by itself: all items, and when each of them came. */
export interface Run<T> {
  readonly items: readonly T[]
  /** Milliseconds since the call began. */
  readonly atMs: readonly number[]
}

export interface FlightOptions<T> {
  /** Starts the upstream call, under the flight's own signal. */
  readonly start: (signal: AbortSignal) => Source<T>
  readonly door: Pick<Door<T>, 'weigh' | 'freeze' | 'isLast'>
  /** Bound of what is held for late askers. A longer answer is neither joinable any more nor given to `onEnd`. */
  readonly maxBytes: number
  /** Milliseconds on a clock that never jumps. */
  readonly now: () => number
  /** Called once, when the last item is here and its bookkeeping follows. */
  readonly onFinish: () => void
  /** Called once, before any asker hears of the end; without a run when it failed (with the error) or was given up. */
  readonly onEnd: (run: Run<T> | undefined, error: unknown) => void
  /** Asked when the last asker has left, and each second after: whether somebody elsewhere still waits. @default nobody */
  readonly hasHeirs?: (() => Promise<boolean>) | undefined
}

/** One upstream call for many askers. */
export interface Flight<T> {
  /** Somebody who comes now still gets everything from the start. */
  readonly joinable: boolean
  join(options: JoinOptions): Asker<T>
  /** Reads on without being asked, as far as `maxBytes`, for those who follow elsewhere. */
  hurry(): void
}

export interface JoinOptions {
  readonly signal?: AbortSignal | undefined
  readonly timeouts?: Timeouts | undefined
}

export interface Asker<T> {
  readonly items: LogReader<T>
  /** Whether the upstream's bill goes to this asker: to the first one that is still there. Ask it when usage arrives. */
  pays(): boolean
}

const none: readonly never[] = []
const heirsMs = 1000
const finishMs = 1000

/**
 * Reads the upstream only when an asker has read everything there is, so one slow reader alone slows it down, as without
 * a cache. Each asker has its own signal and deadline; when the last one leaves, the upstream is aborted. An asker that
 * falls behind a faster one by more than half of `maxBytes` gets `protocol` with `reason: 'too-large'`.
 */
export function createFlight<T>(options: FlightOptions<T>): Flight<T> {
  const { start, door, maxBytes, now, onFinish, onEnd, hasHeirs } = options
  const upstream = linkAbort(undefined)
  const log = createLog<T>({ sizeOf: door.weigh, maxSize: maxBytes })
  const askers = new Set<object>()
  const startedAt = now()
  const atMs: number[] = []
  let source: Source<T> | undefined
  let weight = 0
  /** What has come and is not in the log yet. */
  let backlog: readonly T[] = none
  let reading = false
  let finished = false
  let hurried = false
  let paid = false
  let settled = false
  /** Nobody waits here, and it has been asked whether somebody does elsewhere. */
  let inherited = false
  let heirTimer: NodeJS.Timeout | undefined
  let finishTimer: NodeJS.Timeout | undefined

  function pull(): void {
    if (reading || log.state !== 'open') return
    if (backlog.length > 0) return takeIn(none)
    reading = true
    try {
      source ??= start(upstream.signal)
      source.nextBatch().then(takeIn, failed)
    } catch (error) {
      failed(error)
    }
  }

  function takeIn(batch: readonly T[] | undefined): void {
    try {
      took(batch)
    } catch (error) {
      failed(error) // not an item: an error for the askers, instead of silence
      stop(error)
    }
  }

  function took(batch: readonly T[] | undefined): void {
    reading = false
    if (log.state !== 'open') return
    if (batch === undefined) return ended()
    const wasFinished = finished
    if (batch.length > 0) backlog = batch
    do feed()
    while (backlog.length > 0 && askers.size === 0)
    // The rest when what is there has been read.
    if (backlog.length > 0) return
    if (source?.ended === true) return ended()
    // Read on to the true end by ourselves: many readers stop at the last item, and the answer is complete all the same.
    if (finished && !wasFinished) {
      onFinish()
      // Who has said its last word and stays open is not waited for.
      finishTimer = setTimeout(cutShort, finishMs).unref()
      pull()
    } else if (finished) pull()
    else if (askers.size === 0 && !inherited) desert()
    else if (hurried && (askers.size === 0 || weight < maxBytes)) pull()
  }

  /** As much of what has come as can be held without letting go of what nobody has read yet; at least one item. */
  function feed(): void {
    const at = now() - startedAt
    let fed = 0
    let count = 0
    for (const item of backlog) {
      const size = door.weigh(item)
      if (count > 0 && fed + size > maxBytes / 2) break
      count++
      fed += size
      weight += size
      finished ||= door.isLast(item)
      door.freeze(item)
      log.append(item)
      if (log.whole) atMs.push(at)
    }
    backlog = count === backlog.length ? none : backlog.slice(count)
  }

  /** Its last word was some time ago: it is kept as it is, and ends as soon as nobody reads on. */
  function cutShort(): void {
    if (log.state !== 'open') return
    settle(log.whole ? { items: [...log.items], atMs } : undefined, undefined)
    if (askers.size > 0) return
    log.end()
    stop(new DOMException('the answer is over', 'AbortError'))
  }

  function settle(run: Run<T> | undefined, error: unknown): void {
    clearTimers()
    if (settled) return
    settled = true
    onEnd(run, error)
  }

  function ended(): void {
    // First kept, then told: who asks again after the last item gets a hit.
    settle(log.whole ? { items: log.items, atMs } : undefined, undefined)
    log.end()
  }

  function failed(error: unknown): void {
    reading = false
    if (log.state !== 'open') return // the echo of our own abort
    settle(undefined, error)
    log.fail(error)
  }

  function leave(asker: object): void {
    // At the end it stays, as the one who pays.
    if (log.state !== 'open' || !askers.delete(asker) || askers.size > 0) return
    if (settled) cutShort()
    else if (!inherited && !(finished && reading)) desert()
  }

  /** Nobody in this process waits any more. */
  function desert(): void {
    if (log.state !== 'open') return
    if (hasHeirs === undefined) return abandon()
    inherited = true
    hasHeirs().then((wanted) => {
      if (log.state !== 'open') return
      inherited = askers.size === 0
      if (!inherited) return
      if (!wanted) return abandon()
      heirTimer = setTimeout(desert, heirsMs)
      hurry()
    }, abandon)
  }

  function abandon(): void {
    if (log.state !== 'open') return
    const reason = new DOMException('nobody waits for this answer any more', 'AbortError')
    settle(undefined, reason)
    log.fail(reason)
    stop(reason)
  }

  function stop(reason: unknown): void {
    upstream.abort(reason)
    // Whatever the upstream makes of its end, nobody is left to hear it.
    source?.return?.().then(undefined, () => {})
  }

  function clearTimers(): void {
    clearTimeout(heirTimer)
    clearTimeout(finishTimer)
  }

  function hurry(): void {
    hurried = true
    pull()
  }

  return {
    get joinable() {
      return log.whole && log.state === 'open' && !settled
    },
    hurry,
    join({ signal, timeouts }) {
      const asker = {}
      const linked = linkAbort(signal)
      // It may refuse its limit: then nobody has joined.
      const deadline = startDeadline('total', timeouts?.totalMs, (error) => linked.abort(error))
      askers.add(asker)
      function onLeave(): void {
        linked[Symbol.dispose]()
        deadline[Symbol.dispose]()
        leave(asker)
      }
      // An abort counts at once, also of an asker that is busy with what it has.
      onAbort(linked.signal, onLeave)
      return {
        items: log.follow(0, { signal: linked.signal, pull, onLeave }),
        pays() {
          if (paid || askers.values().next().value !== asker) return false
          paid = true
          return true
        }
      }
    }
  }
}
