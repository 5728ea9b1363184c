import { randomUUID } from 'node:crypto'
import type { CallOptions, Layer, Provider } from './call.ts'
import { type CallEnd, channels } from './channels.ts'
import { type Chunk, isContent, type StartChunk } from './chunk.ts'
import { ChunkBatches, hasEnded, nextBatch } from './chunk-iterator.ts'
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
      return new WatchedCall(owner, next, request, named, callId, listener)
    }
  })
}

/** A call and its life. A class, for it is the hot path: one object a call. */
class WatchedCall extends ChunkBatches {
  readonly #owner: object
  readonly #next: Provider
  readonly #request: ChatRequest
  readonly #options: CallOptions
  readonly #callId: string
  readonly #listener: CallListener | undefined
  #source: AsyncIterator<Chunk, unknown> | undefined
  #startedAt = 0
  #told = false
  #firstContentMs: number | undefined
  #contents = 0
  #start: StartChunk | undefined
  #finish: CallEnd['finish']
  #usage: CallEnd['usage']
  #notes: CallEnd['notes'] = noNotes

  constructor(
    owner: object,
    next: Provider,
    request: ChatRequest,
    options: CallOptions,
    callId: string,
    listener: CallListener | undefined
  ) {
    super()
    this.#owner = owner
    this.#next = next
    this.#request = request
    this.#options = options
    this.#callId = callId
    this.#listener = listener
  }

  protected async pull(): Promise<readonly Chunk[] | undefined> {
    if (this.over) return undefined
    try {
      if (this.#startedAt === 0) this.#begin()
      const source = (this.#source ??= this.#next(this.#request, this.#options)[Symbol.asyncIterator]())
      const batch = await nextBatch(source)
      if (batch !== undefined) for (const chunk of batch) this.#see(chunk)
      if (batch === undefined || hasEnded(source)) this.#end()
      return batch
    } catch (error) {
      this.over = true
      const { signal } = this.#options
      this.#tell(signal?.aborted === true && error === signal.reason ? 'aborted' : 'error', error)
      throw error
    }
  }

  async return(): Promise<IteratorResult<Chunk, undefined>> {
    this.over = true
    this.clear()
    // Many readers leave at `finish`, one read before the end: nothing was abandoned. One that has read nothing has no life.
    if (this.#startedAt === 0) return { done: true, value: undefined }
    if (this.#finish !== undefined) this.#tell('success')
    else this.#tell(this.#options.signal?.aborted === true ? 'aborted' : 'abandoned')
    await this.#source?.return?.()
    return { done: true, value: undefined }
  }

  #begin(): void {
    this.#startedAt = performance.now()
    if (!channels.callStart.hasSubscribers) return
    const { stream } = this.#options
    channels.callStart.publish({
      owner: this.#owner,
      callId: this.#callId,
      request: this.#request,
      stream: stream !== false,
      startedAt: this.#startedAt
    })
  }

  #end(): void {
    this.over = true
    if (this.#finish === undefined) this.#tell('error', endedEarly())
    else this.#tell('success')
  }

  #see(chunk: Chunk): void {
    if (chunk.type === 'start') this.#start = chunk
    else if (chunk.type === 'note') this.#notes = { ...this.#notes, [chunk.from]: chunk.facts }
    else if (chunk.type === 'usage') this.#usage = chunk.usage
    else if (chunk.type === 'finish') this.#finish = chunk.reason
    else if (isContent(chunk)) {
      this.#contents++
      if (this.#firstContentMs === undefined) this.#seeFirst()
    }
  }

  #seeFirst(): void {
    const elapsedMs = performance.now() - this.#startedAt
    this.#firstContentMs = elapsedMs
    if (channels.callContent.hasSubscribers) {
      channels.callContent.publish({ owner: this.#owner, callId: this.#callId, elapsedMs })
    }
  }

  #tell(outcome: CallEnd['outcome'], error?: unknown): void {
    if (this.#told) return
    this.#told = true
    const { hasSubscribers } = channels.callEnd
    if (this.#listener === undefined && !hasSubscribers) return
    const start = this.#start
    const message: CallEnd = {
      owner: this.#owner,
      callId: this.#callId,
      outcome,
      elapsedMs: performance.now() - this.#startedAt,
      firstContentMs: this.#firstContentMs,
      contents: this.#contents,
      provider: start?.provider,
      model: start?.model,
      id: start?.id,
      finish: this.#finish,
      usage: this.#usage,
      notes: this.#notes,
      error
    }
    this.#listener?.(message)
    if (hasSubscribers) channels.callEnd.publish(message)
  }
}

const noNotes: CallEnd['notes'] = Object.freeze({})

/** What `collect` will throw at such a stream; said here too, so that no listener counts it as a success. */
function endedEarly(): MillraceError<'protocol'> {
  return new MillraceError('protocol', 'the stream ended without a finish reason', { details: { reason: 'incomplete' } })
}
