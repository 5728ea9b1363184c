import { randomUUID } from 'node:crypto'
import type { CallOptions, Layer, Provider } from './call.ts'
import { type CallEnd, channels } from './channels.ts'
import { type Chunk, isContent } from './chunk.ts'
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
      return watchIterator(
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

function watchIterator(open: () => AsyncIterator<Chunk>, begin: () => Life): AsyncIterator<Chunk, undefined> {
  let life: Life | undefined
  let source: AsyncIterator<Chunk> | undefined
  let over = false

  function took(result: IteratorResult<Chunk, unknown>): IteratorResult<Chunk, undefined> {
    if (result.done === true) {
      over = true
      life?.end()
      return { done: true, value: undefined }
    }
    life?.see(result.value)
    return result
  }
  function failed(error: unknown): Promise<never> {
    over = true
    life?.fail(error)
    return Promise.reject(error)
  }
  return {
    next() {
      if (over) return Promise.resolve({ done: true, value: undefined })
      try {
        life ??= begin()
        source ??= open()
        return source.next().then(took, failed)
      } catch (error) {
        return failed(error)
      }
    },
    async return() {
      over = true
      life?.leave()
      await source?.return?.()
      return { done: true, value: undefined }
    }
  }
}
