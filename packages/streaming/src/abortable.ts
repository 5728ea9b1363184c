import { type ChunkIterator, hasEnded, nextBatch, onAbort } from '@millrace/core'
import { checkSource } from './check-source.ts'
import { leave, leaveUnheard } from './leave.ts'
import { ReadLine } from './read-line.ts'

/**
 * Ends a stream of anything when `signal` aborts: the read that waits rejects with `signal.reason` at once, although the
 * source may be busy, what was ready is withheld, and the source is returned. Once the signal has aborted, nothing is read.
 *
 * One listener a stream, taken off at its end. A stream that is neither read on nor left stays on the signal.
 *
 * @throws {TypeError} at creation, without a signal. The stream throws `signal.reason`, unwrapped
 *
 * @example
 * for await (const event of abortable(request.signal)(parseSSE(response.body))) console.log(event.data)
 */
export function abortable(signal: AbortSignal): <T>(source: AsyncIterable<T>) => AsyncIterable<T> {
  if (typeof (signal as Partial<AbortSignal> | null | undefined)?.aborted !== 'boolean') {
    throw new TypeError('abortable takes an AbortSignal: write abortable(controller.signal)')
  }
  return (source) => {
    checkSource(source)
    return { [Symbol.asyncIterator]: () => iterate(source[Symbol.asyncIterator](), signal) }
  }
}

const done: IteratorReturnResult<undefined> = Object.freeze({ done: true, value: undefined })

const isDone = (result: IteratorResult<unknown, undefined>): boolean => result.done === true
const isUndefined = (batch: unknown): boolean => batch === undefined

interface Read {
  begin(): void
  end(): void
  fail(error: unknown): void
  behind: Read | undefined
}

/**
 * No step of `operate`: that one is over with its source, and here what a source that has ended gave, and the reader has
 * not taken yet, is withheld too.
 */
function iterate<T>(source: AsyncIterator<T>, signal: AbortSignal): ChunkIterator<T> {
  let state: 'new' | 'open' | 'aborted' | 'over' = 'new'
  const line = new ReadLine<Read>()
  let off: (() => void) | undefined

  function over(): void {
    state = 'over'
    off?.()
  }

  function abort(reason: unknown): void {
    state = 'aborted'
    leaveUnheard(source)
    if (line.first !== undefined) fail(reason)
  }

  function fail(error: unknown): void {
    over()
    line.leave()?.fail(error)
    endAll()
  }

  function endAll(): void {
    for (let left = line.leave(); left !== undefined; left = line.leave()) left.end()
  }

  const one = () => source.next() as Promise<IteratorResult<T, undefined>>
  const all = () => nextBatch(source)

  /** A reader that does not wait for its reads gets them in order: the first in the line is under way. */
  function read<R>(take: () => Promise<R>, isEnd: (result: R) => boolean, end: R): Promise<R> {
    if (state === 'new') {
      state = 'open'
      off = onAbort(signal, abort)
    }
    if ((state as string) === 'aborted') {
      over()
      return Promise.reject(signal.reason)
    }
    if (state === 'over') return Promise.resolve(end)
    const { promise, resolve, reject } = Promise.withResolvers<R>()
    const own: Read = { begin, end: () => resolve(end), fail: reject, behind: undefined }
    const took = (result: R): void => {
      if (line.first !== own) return // it has been answered already
      line.leave()
      resolve(result)
      if (isEnd(result) || hasEnded(source)) {
        over()
        endAll()
      } else line.first?.begin()
    }
    const failed = (error: unknown): void => {
      if (line.first === own) fail(error)
    }
    function begin(): void {
      try {
        take().then(took, failed)
      } catch (error) {
        failed(error)
      }
    }
    line.join(own)
    if (line.first === own) begin()
    return promise
  }

  return {
    next: () => read(one, isDone, done),
    nextBatch: () => read(all, isUndefined, undefined),
    get ended() {
      return state === 'over'
    },
    async return() {
      const wasOpen = state === 'new' || state === 'open'
      const isReading = line.first !== undefined
      over()
      endAll()
      if (wasOpen && isReading) leaveUnheard(source)
      else if (wasOpen) await leave(source)
      return done
    }
  }
}
