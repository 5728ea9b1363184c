import {
  type Assembly,
  annotate,
  assemble,
  type Chunk,
  type Completion,
  collect,
  incomplete,
  MillraceError,
  nextBatch
} from '@millrace/core'

/** An answer as it comes. Read it once: by `for await`, or by `completion()`. */
export interface AnswerStream extends AsyncIterableIterator<Chunk, undefined>, AsyncDisposable {
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

/** `signal`: the caller's own; what is ready and not yet handed over when it aborts is not handed over any more. */
export function createAnswerStream(start: () => AsyncIterable<Chunk>, signal?: AbortSignal): AnswerStream {
  const assembly: Assembly = assemble({ maxChars: maxPartialChars })
  let source: AsyncIterator<Chunk> | undefined
  let left = false
  let ready: readonly Chunk[] = []
  let at = 0
  let pulling: Promise<IteratorResult<Chunk, undefined>> | undefined

  /** A chunk that cannot be taken ends the stream; `for await` would not return it after a rejection. */
  function add(chunk: Chunk): void {
    try {
      assembly.add(chunk)
    } catch (error) {
      left = true
      source?.return?.().then(undefined, () => {})
      throw annotate(error, { partial: assembly.partial() })
    }
  }

  async function completion(): Promise<Completion> {
    if (source === undefined) return collect(stream)
    // Some of it has been read already: the rest is, and the whole is what was kept of both.
    for await (const _ of stream);
    const whole = assembly.partial()
    if (whole.clipped !== true) return whole
    throw new MillraceError('protocol', `the beginning was read already, and only ${maxPartialChars} characters of it are kept`, {
      details: { reason: 'too-large' },
      partial: whole
    })
  }

  const again = (): Promise<IteratorResult<Chunk, undefined>> => stream.next()
  function took(batch: readonly Chunk[] | undefined): IteratorResult<Chunk, undefined> {
    pulling = undefined
    const [chunk] = batch ?? []
    if (batch !== undefined && chunk !== undefined) {
      ready = batch
      at = 1
      add(chunk)
      return { done: false, value: chunk }
    }
    if (!left && !assembly.finished) throw incomplete(assembly.partial())
    return { done: true, value: undefined }
  }
  function failed(error: unknown): never {
    pulling = undefined
    throw annotate(error, { partial: assembly.partial() })
  }

  const stream: AnswerStream = {
    get partial() {
      return assembly.partial()
    },
    // Not `async`: that would cost each chunk two more promises and three turns of the queue.
    next() {
      // One read at a time: a second one waits for the first.
      if (pulling !== undefined) return pulling.then(again, again)
      if (left) return Promise.resolve({ done: true, value: undefined })
      try {
        const value = ready[at]
        // What is ready and was not yet handed over is withheld: the caller has said that it is enough.
        if (value !== undefined && signal?.aborted === true) throw signal.reason
        if (value !== undefined) {
          at++
          add(value)
          return Promise.resolve({ done: false, value })
        }
        source ??= start()[Symbol.asyncIterator]()
        pulling = nextBatch(source).then(took, failed)
        return pulling
      } catch (error) {
        return Promise.reject(error)
      }
    },
    async return() {
      left = true
      await source?.return?.()
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
  return stream
}
