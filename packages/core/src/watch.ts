import { randomUUID } from 'node:crypto'
import type { CallOptions, Layer, Provider } from './call.ts'
import { type CallEnd, channels } from './channels.ts'
import { type Chunk, isContent } from './chunk.ts'
import { ChunkBatches, nextBatch } from './chunk-iterator.ts'
import { MillraceError } from './error.ts'
import type { ChatRequest } from './request.ts'

/** Told of each call's end, channels or not; for an object that keeps counts of its own. It must not throw. */
export type CallListener = (end: CallEnd) => void

/**
 * A layer that publishes the life of each call on the channels: start (with the first read), first content, and its end
 * exactly once, whether the stream finished, failed, was aborted or was left. It gives calls that have no `callId` one.
 *
 * @example
 * const watched = pipe(provider, watch(service))
 */
export function watch(owner: object, listener?: CallListener): Layer<Provider> {
  const series = randomUUID().slice(0, 8)
  let calls = 0
  return (next) => (request, options) => ({
    [Symbol.asyncIterator]() {
      const callId = options.callId ?? `${series}-${++calls}`
      const named: CallOptions = options.callId === undefined ? { ...options, callId } : options
      return new WatchedChunks(
        () => next(request, named)[Symbol.asyncIterator](),
        () => createLife({ owner, callId, request, options, listener })
      )
    }
  })
}

interface Life {
  see(chunk: Chunk): void
  /** The stream ended by itself. */
  end(): void
  fail(error: unknown): void
  leave(): void
}

interface Call {
  readonly owner: object
  readonly callId: string
  readonly request: ChatRequest
  readonly options: CallOptions
  readonly listener: CallListener | undefined
}

function createLife({ owner, callId, request, options, listener }: Call): Life {
  const { signal } = options
  const startedAt = performance.now()
  let ended = false
  let firstContentMs: number | undefined
  let contents = 0
  let start: Extract<Chunk, { type: 'start' }> | undefined
  let finish: CallEnd['finish']
  let usage: CallEnd['usage']
  let notes: CallEnd['notes'] = {}

  if (channels.callStart.hasSubscribers) {
    channels.callStart.publish({ owner, callId, request, stream: options.stream !== false, startedAt })
  }

  function tell(outcome: CallEnd['outcome'], error?: unknown): void {
    if (ended) return
    ended = true
    if (listener === undefined && !channels.callEnd.hasSubscribers) return
    const elapsedMs = performance.now() - startedAt
    const { provider, model, id } = start ?? {}
    const told = { firstContentMs, contents, provider, model, id, finish, usage, notes, error }
    const message: CallEnd = { owner, callId, outcome, elapsedMs, ...told }
    listener?.(message)
    if (channels.callEnd.hasSubscribers) channels.callEnd.publish(message)
  }

  return {
    end() {
      if (finish === undefined) tell('error', endedEarly())
      else tell('success')
    },
    leave() {
      // Many readers leave at `finish`, one read before the end: nothing was abandoned.
      if (finish !== undefined) tell('success')
      else tell(signal?.aborted === true ? 'aborted' : 'abandoned')
    },
    fail(error) {
      tell(signal?.aborted === true && error === signal.reason ? 'aborted' : 'error', error)
    },
    see(chunk) {
      if (chunk.type === 'start') start = chunk
      else if (chunk.type === 'note') notes = { ...notes, [chunk.from]: chunk.facts }
      else if (chunk.type === 'usage') usage = chunk.usage
      else if (chunk.type === 'finish') finish = chunk.reason
      else if (isContent(chunk)) {
        contents++
        if (firstContentMs !== undefined) return
        firstContentMs = performance.now() - startedAt
        if (channels.callContent.hasSubscribers) channels.callContent.publish({ owner, callId, elapsedMs: firstContentMs })
      }
    }
  }
}

/** What `collect` will throw at such a stream; said here too, so that no listener counts it as a success. */
function endedEarly(): MillraceError<'protocol'> {
  return new MillraceError('protocol', 'the stream ended without a finish reason', { details: { reason: 'incomplete' } })
}

class WatchedChunks extends ChunkBatches {
  readonly #open: () => AsyncIterator<Chunk>
  readonly #begin: () => Life
  #life: Life | undefined
  #source: AsyncIterator<Chunk> | undefined
  #over = false

  constructor(open: () => AsyncIterator<Chunk>, begin: () => Life) {
    super()
    this.#open = open
    this.#begin = begin
  }

  protected async pull(): Promise<readonly Chunk[] | undefined> {
    if (this.#over) return undefined
    try {
      this.#life ??= this.#begin()
      this.#source ??= this.#open()
      const batch = await nextBatch(this.#source)
      if (batch === undefined) {
        this.#over = true
        this.#life.end()
      } else for (const chunk of batch) this.#life.see(chunk)
      return batch
    } catch (error) {
      this.#over = true
      this.#life?.fail(error)
      throw error
    }
  }

  async return(): Promise<IteratorResult<Chunk, undefined>> {
    this.#over = true
    this.clear()
    this.#life?.leave()
    await this.#source?.return?.()
    return { done: true, value: undefined }
  }
}
