import { type Chunk, hasEnded, type LinkedAbort, linkAbort, MillraceError, nextBatch, type SharedLogWriter } from '@millrace/core'
import type { EventWriter } from './event-format.ts'
import { plainEvents } from './plain-events.ts'
import { splitEvents } from './stream-place.ts'

/** A stream of chunks, or a function that begins one under a signal, which ends what cannot be returned while it is busy. */
export type ChunkSource = AsyncIterable<Chunk> | ((signal: AbortSignal) => AsyncIterable<Chunk>)

/** How a stream came to its end. */
export type StreamOutcome = 'finished' | 'failed' | 'cancelled' | 'abandoned'

/** Reads a provider's stream into logs, whether or not somebody follows them. */
export interface Pump {
  /** A reader has all events before number `position`. */
  read(position: number): void
  /** A reader waits for what comes, or ceases to. */
  waits(change: 1 | -1): void
  /** A word from elsewhere: `cancel`, or `read N`. */
  hear(word: string): void
  /** No reader waits, or has read, since the time given. */
  idleSince(time: number): boolean
  /** Ends it on purpose, as a stream that was cut. */
  cut(how: 'cancelled' | 'abandoned'): void
  /** Ends it with an error event. */
  fail(error: unknown): void
  /** Resolves when the logs have their end, however it came. */
  readonly done: Promise<void>
}

export interface PumpOptions {
  readonly source: ChunkSource
  readonly writer: EventWriter
  readonly logs: readonly SharedLogWriter[]
  readonly maxAheadBytes: number
  /** Told before the logs have their end; of a failed stream with its error. */
  readonly onOver: (outcome: StreamOutcome, error?: unknown) => void
}

/** The provider is read on while the fastest reader, here or elsewhere, is less than `maxAheadBytes` behind. */
export function startPump({ source, writer, logs, maxAheadBytes, onOver }: PumpOptions): Pump {
  const { promise: done, resolve: tellDone } = Promise.withResolvers<void>()
  let linked: LinkedAbort | undefined
  let iterator: AsyncIterator<Chunk, unknown> | undefined
  let over = false
  let finished = false
  /** Sizes of the events that no reader has had, the first of which is number `first`. */
  let unread: number[] = []
  let first = 0
  let aheadBytes = 0
  let goOn: (() => void) | undefined
  let waiting = 0
  let seenAt = performance.now()

  function append(events: readonly string[]): void {
    if (events.length === 0) return
    for (const event of events) {
      const size = Buffer.byteLength(event)
      unread.push(size)
      aheadBytes += size
    }
    for (const log of logs) log.append(events)
  }

  async function run(): Promise<void> {
    if (over) return // cancelled before it began
    try {
      iterator = begin()
      for (;;) {
        if (aheadBytes >= maxAheadBytes) await room()
        if (over) return
        const batch = await nextBatch(iterator)
        if (over) return // what a stopped source still gives is nobody's
        if (batch !== undefined) take(batch)
        if (batch === undefined || hasEnded(iterator)) return finish()
      }
    } catch (error) {
      fail(error)
    }
  }

  function begin(): AsyncIterator<Chunk, unknown> {
    if (typeof source !== 'function') return source[Symbol.asyncIterator]()
    linked = linkAbort()
    return source(linked.signal)[Symbol.asyncIterator]()
  }

  function room(): Promise<void> {
    return new Promise((resolve) => {
      goOn = resolve
    })
  }

  function wake(): void {
    goOn?.()
    goOn = undefined
  }

  function take(batch: readonly Chunk[]): void {
    const events: string[] = []
    try {
      for (const chunk of batch) {
        if (chunk.type === 'finish') finished = true
        for (const event of splitEvents(writer.write(chunk))) events.push(event)
      }
    } finally {
      append(events)
    }
  }

  function finish(): void {
    if (!finished) throw unfinished()
    append(splitEvents(writer.end()))
    end('finished')
  }

  function end(outcome: StreamOutcome, error?: unknown): void {
    over = true
    unread = []
    wake()
    onOver(outcome, error)
    void Promise.all(logs.map((log) => log.end())).then(() => tellDone())
  }

  /** Aborts first and returns second: a generator that is busy takes the return only when its read is done. */
  function leave(): void {
    const reason = new DOMException('the stream was ended', 'AbortError')
    linked?.abort(reason)
    try {
      iterator?.return?.().then(undefined, ignore)
    } catch (error) {
      ignore(error)
    }
  }

  function fail(error: unknown): void {
    if (over) return
    leave()
    append(lastWords(() => writer.fail(error), error))
    end('failed', error)
  }

  function cut(how: 'cancelled' | 'abandoned'): void {
    if (over) return
    leave()
    append(lastWords(() => (finished ? '' : writer.write({ type: 'finish', reason: 'cut' })) + writer.end()))
    end(how)
  }

  function read(position: number): void {
    seenAt = performance.now()
    if (over || position <= first) return
    const count = Math.min(position - first, unread.length)
    for (let at = 0; at < count; at++) aheadBytes -= unread[at] as number
    unread = unread.slice(count)
    first += count
    if (aheadBytes < maxAheadBytes) wake()
  }

  // The one who starts it knows it first, even where it ends at once.
  queueMicrotask(() => void run())
  return {
    read,
    waits(change) {
      waiting += change
      seenAt = performance.now()
    },
    hear(word) {
      if (word === 'cancel') return cut('cancelled')
      const position = /^read (\d{1,9})$/.exec(word)?.[1]
      if (position !== undefined) read(Number(position))
    },
    idleSince: (time) => waiting === 0 && seenAt <= time,
    cut,
    fail,
    done
  }
}

/** A format that throws at the end must not leave a stream without one. */
function lastWords(write: () => string, error?: unknown): readonly string[] {
  try {
    return splitEvents(write())
  } catch (thrown) {
    return [
      plainEvents()
        .begin()
        .fail(error ?? thrown)
    ]
  }
}

/** What a source fails with when it is left, nobody waits for: the stream has its end already. */
function ignore(_error: unknown): void {}

function unfinished(): MillraceError<'protocol'> {
  return new MillraceError('protocol', 'the stream of chunks ended without a finish', { details: { reason: 'incomplete' } })
}
