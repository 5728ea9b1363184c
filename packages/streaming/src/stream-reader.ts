import { type ChunkIterator, type LinkedAbort, linkAbort, type SharedLog } from '@millrace/core'
import type { EventFormat } from './event-format.ts'
import { operate } from './operate.ts'
import type { Place } from './stream-place.ts'

/** The events of one stream, each with an id that says where to go on behind it. May be iterated again, from the same place. */
export interface StreamEvents extends AsyncIterable<string> {
  [Symbol.asyncIterator](): ChunkIterator<string>
}

/** What is told of a reader. */
export interface ReaderHooks {
  /** The reader begins, with its first read; `fail` ends it from outside, with an error event. */
  onBegin(reader: RunningReader): void
  onLeave(reader: RunningReader): void
}

export interface RunningReader {
  /** It waits for an event, or has been given one since the time given. */
  activeSince(time: number): boolean
  fail(error: unknown): void
}

/** What the stream that is read is told, as it happens. */
export interface Heard {
  /** It has got what makes it so many events, the last ones of so many characters. */
  read(position: number, chars: number): void
  waits(change: 1 | -1): void
}

/** A reader gets at most about so many characters at once, of which those that it has not taken are read by nobody. */
const maxBatchChars = 65_536

/**
 * Reads the events of a log from a place on. What the way to the log fails with is an error event at the end, without an id,
 * for the head of the answer has long been sent; only an abort of the reader's own is thrown.
 */
export function readEvents(
  log: SharedLog,
  { id, offset }: Place,
  {
    format,
    signal,
    heard,
    hooks
  }: {
    readonly format: EventFormat
    readonly signal: AbortSignal | undefined
    readonly heard: Heard
    readonly hooks: ReaderHooks
  }
): StreamEvents {
  return {
    [Symbol.asyncIterator]() {
      const slices = sliced(log, { id, offset }, format, signal)
      let position = offset
      let seenAt = performance.now()
      let waiting = false
      const self: RunningReader = {
        activeSince: (time) => waiting || seenAt > time,
        fail: slices.fail
      }
      function wait(on: boolean): void {
        if (waiting === on) return
        waiting = on
        seenAt = performance.now()
        heard.waits(on ? 1 : -1)
      }
      const events = operate<Slice, string>(() => {
        hooks.onBegin(self)
        return {
          take(slice, emit) {
            if (typeof slice === 'string') {
              emit(slice)
              return undefined
            }
            let chars = 0
            for (const text of slice) {
              chars += text.length
              emit(`id: ${id}/${++position}\n${text}`)
            }
            heard.read(position, chars)
            return undefined
          },
          waiting: () => wait(true),
          resting: () => wait(false),
          close() {
            wait(false)
            slices.over()
            hooks.onLeave(self)
          }
        }
      })
      return events(slices)[Symbol.asyncIterator]() as ChunkIterator<string>
    }
  }
}

/** Events of the log, or the one that says that it cannot be read. */
type Slice = readonly string[] | string

interface Slices extends AsyncIterable<Slice> {
  fail(error: unknown): void
  over(): void
}

/** What is read of a log, in bounded pieces. */
function sliced(log: SharedLog, { id, offset }: Place, format: EventFormat, signal: AbortSignal | undefined): Slices {
  let linked: LinkedAbort | undefined
  let batches: AsyncIterator<readonly string[]> | undefined
  let held: readonly string[] = []
  let at = 0
  let failed = false

  function begin(): AsyncIterator<readonly string[]> {
    linked = linkAbort(signal)
    return log.follow(id, { offset, signal: linked.signal })[Symbol.asyncIterator]()
  }

  function slice(): Slice {
    const from = at
    for (let chars = 0; at < held.length && chars < maxBatchChars; at++) chars += (held[at] as string).length
    return from === 0 && at === held.length ? held : held.slice(from, at)
  }

  return {
    fail: (error) => linked?.abort(error),
    over: () => linked?.[Symbol.dispose](),
    [Symbol.asyncIterator]: () => ({
      async next() {
        if (failed) return { done: true, value: undefined }
        try {
          if (at === held.length) {
            batches ??= begin()
            const result = await batches.next()
            if (result.done === true) return { done: true, value: undefined }
            held = result.value
            at = 0
          }
          return { done: false, value: slice() }
        } catch (error) {
          if (signal?.aborted === true) throw error
          failed = true
          return { done: false, value: format.begin().fail(error) }
        }
      },
      async return() {
        await batches?.return?.()
        return { done: true, value: undefined }
      }
    })
  }
}
