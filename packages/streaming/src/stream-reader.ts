import { type ChunkIterator, type LinkedAbort, linkAbort, type SharedLog } from '@millrace/core'
import type { EventFormat } from './event-format.ts'
import { operate } from './operate.ts'
import type { Place } from './stream-place.ts'

/** The events of one stream, each with an id that says where to go on behind it. May be iterated again, from the same place. */
export interface StreamEvents extends AsyncIterable<string> {
  /** Tells the writers of responses that these are whole events, written as they are; also where there are none. */
  readonly readyTexts: true
  /**
   * Nothing is left: the stream had ended when it was resumed, and this place is its end. Answer 204 then, without a body,
   * and an `EventSource` ceases to come back.
   */
  readonly ended: boolean
  [Symbol.asyncIterator](): ChunkIterator<string>
}

/** What is told of a reader. */
export interface ReaderHooks {
  /** The reader begins, with its first read; `fail` ends it from outside, with an error event. */
  onBegin(reader: RunningReader): void
  onLeave(reader: RunningReader): void
  readonly forgotten: ForgottenReaders
}

export interface RunningReader {
  /** It waits for an event, or has been given one since the time given. */
  activeSince(time: number): boolean
  fail(error: unknown): void
  /** Nobody holds it any more. */
  forget(): void
}

/** Ends the readers that nobody holds any more: whoever forgets one half-read would have it counted, and held, for ever. */
export type ForgottenReaders = FinalizationRegistry<RunningReader>

export function watchForgottenReaders(): ForgottenReaders {
  return new FinalizationRegistry((reader) => reader.forget())
}

/** What the stream that is read is told, as it happens. */
export interface Heard {
  /** It has so many events, the last ones of so many characters: when it begins, and whenever it has got some. */
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
    hooks,
    ended
  }: {
    readonly format: EventFormat
    readonly signal: AbortSignal | undefined
    readonly heard: Heard
    readonly hooks: ReaderHooks
    readonly ended: boolean
  }
): StreamEvents {
  return {
    readyTexts: true,
    ended,
    [Symbol.asyncIterator]() {
      const slices = sliced(log, { id, offset }, format, signal)
      let position = offset
      let seenAt = performance.now()
      let waiting = false
      let left = false
      // Nothing here may refer to the iterator, or it is never forgotten; but one that waits is: its reader may hold the read alone.
      let itself: WeakRef<object> | undefined
      const held: { iterator?: object | undefined } = {}
      const self: RunningReader = {
        activeSince: (time) => waiting || seenAt > time,
        fail: slices.fail,
        forget() {
          leave()
          slices.leave()
        }
      }
      function leave(): void {
        if (left) return
        left = true
        wait(false)
        slices.over()
        hooks.forgotten.unregister(self)
        hooks.onLeave(self)
      }
      function watch(iterator: ChunkIterator<string>): ChunkIterator<string> {
        itself = new WeakRef(iterator)
        return iterator
      }
      function wait(on: boolean): void {
        if (waiting === on) return
        waiting = on
        held.iterator = on ? itself?.deref() : undefined
        seenAt = performance.now()
        heard.waits(on ? 1 : -1)
      }
      const events = operate<Slice, string>(() => {
        const iterator = itself?.deref()
        if (iterator !== undefined) hooks.forgotten.register(iterator, self, self)
        hooks.onBegin(self)
        // A reader that has been elsewhere, or whose words were lost there, is heard of here.
        heard.read(position, 0)
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
          close: leave
        }
      })
      return watch(events(slices)[Symbol.asyncIterator]() as ChunkIterator<string>)
    }
  }
}

/** Events of the log, or the one that says that it cannot be read. */
type Slice = readonly string[] | string

interface Slices extends AsyncIterable<Slice> {
  /** Ends it behind what was read already. */
  fail(error: unknown): void
  over(): void
  /** Leaves the log, and waits for nothing. */
  leave(): void
}

/** What is read of a log, in bounded pieces. */
function sliced(log: SharedLog, { id, offset }: Place, format: EventFormat, signal: AbortSignal | undefined): Slices {
  let linked: LinkedAbort | undefined
  let batches: AsyncIterator<readonly string[]> | undefined
  let held: readonly string[] = []
  let at = 0
  let failing: { readonly error: unknown } | undefined
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
    fail(error) {
      failing ??= { error }
      linked?.abort(error)
    },
    over: () => linked?.[Symbol.dispose](),
    leave: () => void batches?.return?.().then(undefined, () => {}), // nobody is left to be told
    [Symbol.asyncIterator]: () => ({
      async next() {
        if (failed) return { done: true, value: undefined }
        try {
          if (at === held.length) {
            if (failing !== undefined) throw failing.error
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
