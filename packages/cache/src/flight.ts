import { type CallOptions, type Chunk, createLog, linkAbort, onAbort, startDeadline } from '@millrace/core'
import { deepFreeze, weigh } from './plain.ts'

export interface FlightOptions {
  /** Starts the upstream call, under the flight's own signal. */
  readonly start: (signal: AbortSignal) => AsyncIterable<Chunk>
  /** Bound of what is held for late askers. A longer answer is neither joinable any more nor given to `onEnd`. */
  readonly maxBytes: number
  /** Called once: with the chunks of an answer that came to its end, or `undefined` when it failed or was given up. */
  readonly onEnd: (chunks: readonly Chunk[] | undefined) => void
}

/** One upstream call for many askers. */
export interface Flight {
  /** Somebody who comes now still gets everything from the start. */
  readonly joinable: boolean
  join(options: CallOptions): Asker
}

export interface Asker {
  readonly chunks: AsyncIterator<Chunk, undefined>
  /** Whether the upstream's bill goes to this asker: to the first one that is still there. Ask it when usage arrives. */
  pays(): boolean
}

/**
 * Reads the upstream only when an asker has read everything there is, so one slow reader alone slows it down, as without
 * a cache. Each asker has its own signal and deadline; when the last one leaves, the upstream is aborted. An asker that
 * falls behind a faster one by more than half of `maxBytes` gets `protocol` with `reason: 'too-large'`.
 */
export function createFlight({ start, maxBytes, onEnd }: FlightOptions): Flight {
  const upstream = linkAbort(undefined)
  const log = createLog<Chunk>({ sizeOf: weigh, maxSize: maxBytes })
  const askers = new Set<object>()
  let source: AsyncIterator<Chunk> | undefined
  let reading = false
  let finished = false
  let paid = false

  function pull(): void {
    if (reading || log.state !== 'open') return
    reading = true
    try {
      source ??= start(upstream.signal)[Symbol.asyncIterator]()
      source.next().then(takeIn, failed)
    } catch (error) {
      failed(error)
    }
  }

  function takeIn(result: IteratorResult<Chunk, unknown>): void {
    try {
      took(result)
    } catch (error) {
      failed(error) // not a chunk: an error for the askers, instead of silence
    }
  }

  function took(result: IteratorResult<Chunk, unknown>): void {
    reading = false
    if (log.state !== 'open') return
    if (result.done === true) {
      // First kept, then told: who asks again after the last chunk gets a hit.
      onEnd(log.whole ? log.items : undefined)
      log.end()
      return
    }
    log.append(deepFreeze(result.value))
    const first = !finished
    finished ||= result.value.type === 'finish'
    // Read on to the true end by ourselves: many readers stop at the finish, and the answer is complete all the same.
    if (finished && first) pull()
    else if (askers.size === 0) abandon()
  }

  function failed(error: unknown): void {
    reading = false
    if (log.state !== 'open') return // the echo of our own abort
    onEnd(undefined)
    log.fail(error)
  }

  function leave(asker: object): void {
    if (!askers.delete(asker) || askers.size > 0) return
    if (!(finished && reading)) abandon()
  }

  function abandon(): void {
    if (log.state !== 'open') return
    const reason = new DOMException('nobody waits for this answer any more', 'AbortError')
    onEnd(undefined)
    log.fail(reason)
    upstream.abort(reason)
    // Whatever the upstream makes of its end, nobody is left to hear it.
    source?.return?.().then(undefined, () => {})
  }

  return {
    get joinable() {
      return log.whole && log.state === 'open'
    },
    join({ signal, timeouts }) {
      const asker = {}
      askers.add(asker)
      const linked = linkAbort(signal)
      const deadline = startDeadline('total', timeouts?.totalMs, (error) => linked.abort(error))
      function onLeave(): void {
        linked[Symbol.dispose]()
        deadline[Symbol.dispose]()
        leave(asker)
      }
      // An abort counts at once, also of an asker that is busy with what it has.
      onAbort(linked.signal, onLeave)
      return {
        chunks: log.follow(0, { signal: linked.signal, pull, onLeave }) as AsyncIterator<Chunk, undefined>,
        pays() {
          if (paid || askers.values().next().value !== asker) return false
          paid = true
          return true
        }
      }
    }
  }
}
