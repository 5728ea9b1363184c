import { AsyncResource } from 'node:async_hooks'
import {
  type Assembly,
  annotate,
  assemble,
  type Chunk,
  type ChunkIterator,
  type Completion,
  collect,
  hasEnded,
  incomplete,
  MillraceError,
  nextBatch,
  type UsageEstimate
} from '@millrace/core'

/** An answer as it comes. Read it once: by `for await`, or by `completion()`. */
export interface AnswerStream extends ChunkIterator, AsyncIterableIterator<Chunk, undefined>, AsyncDisposable {
  /** What has been received so far; also after an abort. Of text beyond 512 Ki characters only the beginning is kept. */
  readonly partial: Completion
  /**
   * Reads to the end and gives the whole answer, what was read before included.
   *
   * @throws {MillraceError} with what was received as `error.partial`; `signal.reason` on the caller's own abort
   */
  completion(): Promise<Completion>
  return(): Promise<IteratorResult<Chunk, undefined>>
}

/** Longest answers of today's models are about half a million characters; an endless stream must not fill memory. */
const maxPartialChars = 512 * 1024

export interface AnswerStreamOptions {
  /** The caller's own; what is ready and not yet handed over when it aborts is not handed over any more. */
  readonly signal?: AbortSignal | undefined
  readonly estimateUsage?: UsageEstimate | undefined
  readonly forgotten: ForgottenStreams
}

/** Ends the calls of streams that nobody holds any more: whoever forgets one half-read has its provider write on. */
export type ForgottenStreams = FinalizationRegistry<Reading>

export function watchForgotten(): ForgottenStreams {
  return new FinalizationRegistry(({ source }) => {
    Promise.resolve(source?.return?.()).catch(() => {}) // nobody is left to be told
  })
}

/** A call on its way to one stream. It does not refer to the stream, so that this may go. */
interface Reading {
  source?: AsyncIterator<Chunk>
}

export function createAnswerStream(
  start: () => AsyncIterable<Chunk>,
  { signal, estimateUsage, forgotten }: AnswerStreamOptions
): AnswerStream {
  const assembly: Assembly = assemble({ maxChars: maxPartialChars, estimateUsage })
  const reading: Reading = {}
  // The call runs in the async context in which it was asked for: who reads it may be a server, outside of the request's.
  const context = new AsyncResource('MillraceStream', { requireManualDestroy: true })
  let left = false
  let ready: readonly Chunk[] = []
  let at = 0
  /** What a read has to wait for: a pull, or the last of the reads that wait already. */
  let last: Promise<unknown> | undefined
  let waiting = 0
  /** Told again to who reads on. */
  let failure: { readonly error: unknown } | undefined

  function over(): void {
    left = true
    forgotten.unregister(reading)
  }

  /** A chunk that cannot be taken ends the stream; `for await` would not return it after a rejection. */
  function add(chunk: Chunk): void {
    try {
      assembly.add(chunk)
    } catch (error) {
      over()
      reading.source?.return?.().then(undefined, () => {})
      throw annotate(error, { partial: assembly.partial() })
    }
  }

  async function completion(): Promise<Completion> {
    if (reading.source === undefined) return collect(stream, { estimateUsage })
    // Some of it has been read already: the rest is, and the whole is what was kept of both.
    for await (const _ of stream);
    const whole = assembly.partial()
    if (whole.clipped !== true) return whole
    throw new MillraceError('protocol', `the beginning was read already, and only ${maxPartialChars} characters of it are kept`, {
      details: { reason: 'too-large' },
      partial: whole
    })
  }

  /** Each read waits for the one before it. When its turn comes it is made again, as if none was waiting. */
  function behind<R>(before: Promise<unknown>, read: () => Promise<R>): Promise<R> {
    const turn = (): Promise<R> => {
      const newest = last
      last = undefined
      try {
        return read()
      } finally {
        last = newest
      }
    }
    const mine = before.then(turn, turn)
    last = mine
    waiting++
    mine.then(settled, settled)
    return mine
  }
  function settled(): void {
    waiting--
    free()
  }
  function free(): void {
    if (waiting === 0) last = undefined
  }

  function took(batch: readonly Chunk[] | undefined): readonly Chunk[] | undefined {
    free()
    if (batch !== undefined) return batch
    forgotten.unregister(reading)
    if (!left && !assembly.finished) throw incomplete(assembly.partial())
    return undefined
  }
  function failed(error: unknown): never {
    free()
    forgotten.unregister(reading)
    failure = { error: annotate(error, { partial: assembly.partial() }) }
    throw failure.error
  }
  function one(arrived: readonly Chunk[] | undefined): IteratorResult<Chunk, undefined> {
    const batch = took(arrived)
    const [chunk] = batch ?? []
    if (batch === undefined || chunk === undefined) return { done: true, value: undefined }
    ready = batch
    at = 1
    add(chunk)
    return { done: false, value: chunk }
  }
  function all(arrived: readonly Chunk[] | undefined): readonly Chunk[] | undefined {
    const batch = took(arrived)
    if (batch !== undefined) for (const chunk of batch) add(chunk)
    return batch
  }
  /** What is ready and was not yet handed over is withheld once the caller has said that it is enough. */
  function isReady(): boolean {
    if (at === ready.length) return false
    if (signal?.aborted === true) throw signal.reason
    return true
  }
  function pull<R>(take: (arrived: readonly Chunk[] | undefined) => R): Promise<R> {
    const pulled = (reading.source === undefined ? context.runInAsyncScope(open) : nextBatch(reading.source)).then(take, failed)
    last = pulled
    return pulled
  }
  function open(): Promise<readonly Chunk[] | undefined> {
    reading.source = start()[Symbol.asyncIterator]()
    forgotten.register(stream, reading, reading)
    return nextBatch(reading.source)
  }

  const stream: AnswerStream = {
    get partial() {
      return assembly.partial()
    },
    // Not `async`: that would cost each chunk two more promises and three turns of the queue.
    next() {
      // One read at a time: a second one waits for the first.
      if (last !== undefined) return behind(last, stream.next)
      if (left) return Promise.resolve({ done: true, value: undefined })
      if (failure !== undefined) return Promise.reject(failure.error)
      try {
        if (isReady()) {
          const value = ready[at++] as Chunk
          add(value)
          return Promise.resolve({ done: false, value })
        }
        return pull(one)
      } catch (error) {
        return Promise.reject(error)
      }
    },
    nextBatch() {
      if (last !== undefined) return behind(last, stream.nextBatch)
      if (left) return Promise.resolve(undefined)
      if (failure !== undefined) return Promise.reject(failure.error)
      try {
        if (isReady()) {
          const rest = ready.slice(at)
          at = ready.length
          for (const chunk of rest) add(chunk)
          return Promise.resolve(rest)
        }
        return pull(all)
      } catch (error) {
        return Promise.reject(error)
      }
    },
    get ended() {
      return left || (reading.source !== undefined && at === ready.length && assembly.finished && hasEnded(reading.source))
    },
    async return() {
      over()
      await reading.source?.return?.()
      return { done: true, value: undefined }
    },
    completion,
    [Symbol.asyncIterator]() {
      return stream
    },
    async [Symbol.asyncDispose]() {
      await stream.return()
    }
  }
  // What prints an object as JSON takes what is enumerable: an answer is nobody's business there.
  return Object.defineProperty(stream, 'partial', { enumerable: false })
}
