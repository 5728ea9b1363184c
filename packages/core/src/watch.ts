import { randomUUID } from 'node:crypto'
import type { CallOptions, Layer, Provider } from './call.ts'
import { type CallEnd, channels } from './channels.ts'
import { type Chunk, isContent } from './chunk.ts'

/** Told of each call's end, channels or not; for an object that keeps counts of its own. */
export type CallListener = (end: CallEnd) => void

/**
 * A layer that publishes the life of each call on the channels: start, first content, and its end exactly once, whether
 * the stream finished, failed, was aborted or was left. It gives calls that have no `callId` one.
 *
 * @example
 * const watched = pipe(provider, watch(service))
 */
export function watch(owner: object, listener?: CallListener): Layer<Provider> {
  const series = randomUUID().slice(0, 8)
  let calls = 0
  return (next) => (request, options) => {
    const callId = options.callId ?? `${series}-${++calls}`
    const named: CallOptions = options.callId === undefined ? { ...options, callId } : options
    return {
      [Symbol.asyncIterator]() {
        return watchIterator(next(request, named)[Symbol.asyncIterator](), begin())
      }
    }

    function begin(): Life {
      const startedAt = performance.now()
      if (channels.callStart.hasSubscribers) {
        channels.callStart.publish({ owner, callId, request, stream: options.stream !== false, startedAt })
      }
      return createLife(owner, callId, startedAt, options.signal, listener)
    }
  }
}

interface Life {
  see(chunk: Chunk): void
  end(outcome: CallEnd['outcome'], error?: unknown): void
  fail(error: unknown): void
  leave(): void
}

function createLife(
  owner: object,
  callId: string,
  startedAt: number,
  signal: AbortSignal | undefined,
  listener: CallListener | undefined
): Life {
  let ended = false
  let firstContentMs: number | undefined
  let contents = 0
  let start: Extract<Chunk, { type: 'start' }> | undefined
  let finish: CallEnd['finish']
  let usage: CallEnd['usage']
  let notes: CallEnd['notes'] = {}

  function end(outcome: CallEnd['outcome'], error?: unknown): void {
    if (ended) return
    ended = true
    if (listener === undefined && !channels.callEnd.hasSubscribers) return
    const elapsedMs = performance.now() - startedAt
    const { provider, model, id } = start ?? {}
    const message: CallEnd = {
      owner,
      callId,
      outcome,
      elapsedMs,
      firstContentMs,
      contents,
      provider,
      model,
      id,
      finish,
      usage,
      notes,
      error
    }
    listener?.(message)
    if (channels.callEnd.hasSubscribers) channels.callEnd.publish(message)
  }

  return {
    end,
    leave: () => end(signal?.aborted === true ? 'aborted' : 'abandoned'),
    fail(error) {
      end(signal?.aborted === true && error === signal.reason ? 'aborted' : 'error', error)
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

function watchIterator(source: AsyncIterator<Chunk>, life: Life): AsyncIterator<Chunk, undefined> {
  function took(result: IteratorResult<Chunk, unknown>): IteratorResult<Chunk, undefined> {
    if (result.done === true) {
      life.end('success')
      return { done: true, value: undefined }
    }
    life.see(result.value)
    return result
  }
  function failed(error: unknown): never {
    life.fail(error)
    throw error
  }
  return {
    next: () => source.next().then(took, failed),
    async return() {
      life.leave()
      await source.return?.()
      return { done: true, value: undefined }
    }
  }
}
