import {
  type Chunk,
  type Completion,
  clampTimer,
  hasEnded,
  type LinkedAbort,
  linkAbort,
  nextBatch,
  onAbort,
  startDeadline
} from '@millrace/core'
import { beginTexts } from './event-texts.ts'
import { isTelling, notesOf } from './first-content.ts'
import { plainEvents } from './plain-events.ts'
import { type SSEWriteOptions, tooLong } from './sse-options.ts'
import { checkItems, type SSESource } from './sse-source.ts'

/** What is written next. */
export interface Piece {
  /** Whole events, or a heartbeat; of the last piece also `''`. */
  readonly text: string
  readonly last: boolean
}

export interface Head {
  readonly notes: Completion['notes']
  /** There is something to write: `read` will not wait. */
  readonly ready: boolean
}

/** A stream as the pieces that are written to a socket, each made when it is asked for: the law of both writers. */
export interface EventWriting extends Disposable {
  /**
   * Waits for the first content, at most `headWithinMs`.
   *
   * @throws what the source failed with before it, and why what it gave cannot be written; the stream is over then
   */
  head(): Promise<Head>
  /** All events that are ready, in one piece; in silence a heartbeat. One read at a time; it never rejects. */
  read(): Promise<Piece>
  /** Why the stream broke. */
  readonly failure: { readonly error: unknown } | undefined
  /** Nobody reads any more: the source is aborted and returned at once, a read that waits gets `last`. Safe to call twice. */
  [Symbol.dispose](): void
}

/** Events that are ready together go out together, up to this many characters and the event that reaches it. */
const maxPieceChars = 65_536

/** A head does not wait behind more chunks without content. */
const maxAhead = 1024

const heartbeat: Piece = Object.freeze({ text: ':\n\n', last: false })
const nothingMore: Piece = Object.freeze({ text: '', last: true })
const none: readonly never[] = Object.freeze([])

/**
 * Reads `source` only while somebody waits for a piece. `stopped` is called when `maxDurationMs` have passed or the signal
 * aborts, be it while the last piece is still on its way: one who is busy writing must be told.
 */
export function beginWriting(source: SSESource, options: SSEWriteOptions, stopped?: () => void): EventWriting {
  const { format = plainEvents(), heartbeatMs = 15_000, headWithinMs = 10_000, maxDurationMs, onError } = options
  const texts = beginTexts(format)
  // `ended` and `failed`: nothing more comes, what is ready and the last event are still to be written; `over`: nothing is.
  let state: 'open' | 'ended' | 'failed' | 'over' = 'open'
  let failure: { readonly error: unknown } | undefined
  let linked: LinkedAbort | undefined
  let iterator: AsyncIterator<Chunk | string, unknown> | undefined
  let reading = false
  let ready: readonly (Chunk | string)[] = none
  let at = 0
  let held = ''
  let wake: (() => void) | undefined
  let give: ((piece: Piece) => void) | undefined
  let quietSince = 0
  let timer: NodeJS.Timeout | undefined

  const deadline = startDeadline('total', maxDurationMs, ({ details }) => fail(tooLong(details)))
  const offAbort = onAbort(options.signal, fail)

  // ---- the source

  function pull(): void {
    reading = true
    try {
      iterator ??= begin()
      nextBatch(iterator).then(took, broke)
    } catch (error) {
      linked?.abort(error)
      broke(error)
    }
  }

  function begin(): AsyncIterator<Chunk | string, unknown> {
    let items = source
    if (typeof items === 'function') {
      linked = linkAbort()
      items = items(linked.signal)
      checkItems(items)
    }
    if (items.readyTexts === true) texts.write('') // so that to have none is no lack
    return items[Symbol.asyncIterator]()
  }

  function took(batch: readonly (Chunk | string)[] | undefined): void {
    reading = false
    if (state !== 'open') return // it was on its way when the reader left
    if (batch !== undefined) {
      ready = at === ready.length ? batch : [...ready.slice(at), ...batch]
      at = 0
    }
    if (batch === undefined || (iterator !== undefined && hasEnded(iterator))) state = 'ended'
    wake?.()
  }

  function broke(error: unknown): void {
    reading = false
    if (state !== 'open') return // what a source fails with when it is left, nobody waits for
    state = 'failed'
    failure = { error }
    wake?.()
  }

  /** Ends the stream from outside. What is ready is let go. */
  function fail(error: unknown): void {
    if (state !== 'failed' && state !== 'over') {
      stop(error)
      wake?.()
    }
    stopped?.()
  }

  function stop(error: unknown): void {
    const running = state === 'open'
    state = 'failed'
    failure = { error }
    clear()
    if (running) abandon()
  }

  /** Aborts first and returns second: a generator takes the return only when its read is done, so it is not waited for. */
  function abandon(): void {
    linked?.abort(new DOMException('the reader has left the stream', 'AbortError'))
    try {
      iterator?.return?.().then(undefined, tell)
    } catch (error) {
      tell(error)
    }
  }

  function tell(error: unknown): void {
    // In a microtask: a hearer that throws is an uncaught exception, and the stream gets its end all the same.
    if (onError !== undefined) queueMicrotask(() => onError(error))
  }

  function clear(): void {
    ready = none
    at = 0
    held = ''
  }

  function over(): void {
    state = 'over'
    clear()
    clearTimeout(timer)
    timer = undefined
  }

  // ---- the pieces

  /** The next piece, if there is something to say. */
  function piece(): Piece | undefined {
    const text = gather()
    if (at < ready.length || state === 'open') return text === '' ? undefined : { text, last: false }
    if (state === 'over') return nothingMore
    const last = lastText()
    over()
    return { text: text + last, last: true }
  }

  /** What is ready, as one text. */
  function gather(): string {
    let text = held
    held = ''
    try {
      while (at < ready.length && text.length < maxPieceChars) text += texts.write(ready[at++] as Chunk | string)
    } catch (error) {
      stop(error) // what was written before it goes out
    }
    return text
  }

  /** Writes up to the first content, for what cannot be written must show while it can still have a status of its own. */
  function writeFirst(): void {
    try {
      while (at < ready.length) {
        const item = ready[at++] as Chunk | string
        held += texts.write(item)
        if (isTelling(item)) return
      }
      if (state === 'ended') texts.checkEnd()
    } catch (error) {
      stop(error)
    }
    if (state !== 'failed') return
    over()
    throw failure?.error
  }

  function lastText(): string {
    try {
      if (state === 'ended') return texts.end()
    } catch (error) {
      failure = { error }
    }
    tell(failure?.error)
    try {
      return texts.fail(failure?.error)
    } catch (error) {
      failure = { error }
      tell(error)
      return '' // a format that cannot even tell of an error
    }
  }

  // ---- the reader

  /** Something has come: gives it to the reader, or goes for more. */
  function look(): void {
    const next = piece()
    if (next !== undefined) settle(next)
    else if (!reading) pull()
  }

  function settle(next: Piece): void {
    const to = give
    give = wake = undefined
    to?.(next)
  }

  // One timer for many reads: it is not moved at each, it looks when it fires and sleeps for the rest.
  function arm(): void {
    if (timer !== undefined || heartbeatMs === Number.POSITIVE_INFINITY) return
    const leftMs = heartbeatMs - (performance.now() - quietSince)
    timer = setTimeout(beat, clampTimer(Math.max(1, Math.ceil(leftMs)))).unref()
  }

  function beat(): void {
    timer = undefined
    if (give === undefined) return // it is being written: the next read arms again
    if (performance.now() - quietSince >= heartbeatMs) settle(heartbeat)
    else arm()
  }

  const isReady = (): boolean => state !== 'open' || ready.length > maxAhead || ready.some(isTelling)

  return {
    async head() {
      const { promise, resolve } = Promise.withResolvers<void>()
      const late = setTimeout(resolve, clampTimer(headWithinMs))
      wake = () => {
        if (isReady()) resolve()
        else if (!reading) pull()
      }
      if (headWithinMs === 0) resolve()
      else wake()
      await promise
      clearTimeout(late)
      wake = undefined
      const head = { notes: notesOf(ready), ready: isReady() }
      writeFirst()
      return head
    },
    read() {
      const next = piece()
      if (next !== undefined) return Promise.resolve(next)
      const { promise, resolve } = Promise.withResolvers<Piece>()
      quietSince = performance.now()
      give = resolve
      wake = look
      arm()
      if (!reading) pull()
      return promise
    },
    get failure() {
      return failure
    },
    [Symbol.dispose]() {
      deadline[Symbol.dispose]()
      offAbort()
      if (state === 'over') return
      const running = state === 'open'
      over()
      if (running) abandon()
      wake?.()
    }
  }
}
