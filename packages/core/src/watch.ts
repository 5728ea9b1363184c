import { randomUUID } from 'node:crypto'
import type { CallOptions, Layer, Provider } from './call.ts'
import { type CallEnd, channels } from './channels.ts'
import { type Chunk, isContent, isFromCache, type StartChunk, type Usage } from './chunk.ts'
import { ChunkBatches, hasEnded, nextBatch } from './chunk-iterator.ts'
import { MillraceError } from './error.ts'
import type { ChatRequest } from './request.ts'

/** Told of a call's end. */
export type CallListener = (end: CallEnd) => void

export interface WatchOptions {
  /** Told of each call's end, channels or not; for an object that keeps counts of its own. It must not throw. */
  readonly listener?: CallListener | undefined
  /** What a usage costs in USD, `undefined` where that is not known. One that throws knows none. @default none */
  readonly price?: PriceOf | undefined
}

/**
 * What a billed usage costs in USD, at this model of this provider; both by the names that the answer gave. `undefined` where
 * that is not known.
 */
export type PriceOf = (usage: Usage, model: string, provider: string) => number | undefined

/**
 * A layer that publishes the life of each call on the channels: start (with the first read), first content, and its end
 * exactly once, whether the stream finished, failed, was aborted or was left. It gives calls that have no `callId` one.
 *
 * @example
 * const watched = pipe(provider, watch(service))
 */
export function watch(owner: object, options: WatchOptions = {}): Layer<Provider> {
  const series = randomUUID().slice(0, 8)
  let calls = 0
  const watcher: Watcher = { owner, ...options }
  return (next) => (request, call) => ({
    [Symbol.asyncIterator]() {
      const callId = call.callId ?? `${series}-${++calls}`
      const named: CallOptions = call.callId === undefined ? { ...call, callId } : call
      return new WatchedCall(watcher, next, request, named, callId)
    }
  })
}

interface Watcher extends WatchOptions {
  readonly owner: object
}

/** A call and its life. A class, for it is the hot path: one object a call. */
class WatchedCall extends ChunkBatches {
  readonly #watcher: Watcher
  readonly #next: Provider
  readonly #request: ChatRequest
  readonly #options: CallOptions
  readonly #callId: string
  #source: AsyncIterator<Chunk, unknown> | undefined
  #startedAt = 0
  #told = false
  #firstContentMs: number | undefined
  /** When content came last; kept only while somebody listens. */
  #lastContentMs: number | undefined
  #contents = 0
  #start: StartChunk | undefined
  #finish: CallEnd['finish']
  #usage: CallEnd['usage']
  #notes: CallEnd['notes'] = noNotes

  constructor(watcher: Watcher, next: Provider, request: ChatRequest, options: CallOptions, callId: string) {
    super()
    this.#watcher = watcher
    this.#next = next
    this.#request = request
    this.#options = options
    this.#callId = callId
  }

  protected async pull(): Promise<readonly Chunk[] | undefined> {
    if (this.over) return undefined
    try {
      if (this.#startedAt === 0) this.#begin()
      const source = (this.#source ??= this.#next(this.#request, this.#options)[Symbol.asyncIterator]())
      const batch = await nextBatch(source)
      if (batch !== undefined) this.#seeAll(batch)
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
      owner: this.#watcher.owner,
      callId: this.#callId,
      request: this.#request,
      options: this.#options,
      stream: stream !== false,
      startedAt: this.#startedAt
    })
  }

  #end(): void {
    this.over = true
    if (this.#finish === undefined) this.#tell('error', endedEarly())
    else this.#tell('success')
  }

  #seeAll(batch: readonly Chunk[]): void {
    const before = this.#contents
    for (const chunk of batch) this.#see(chunk)
    if (this.#contents === before) return
    const isFirst = this.#firstContentMs === undefined
    const { hasSubscribers } = channels.callContent
    if (!isFirst && !hasSubscribers) return
    const elapsedMs = performance.now() - this.#startedAt
    if (isFirst) this.#firstContentMs = elapsedMs
    if (!hasSubscribers) return
    const last = this.#lastContentMs
    this.#lastContentMs = elapsedMs
    channels.callContent.publish({
      owner: this.#watcher.owner,
      callId: this.#callId,
      elapsedMs,
      gapMs: last === undefined ? undefined : elapsedMs - last,
      chunks: batch,
      start: this.#start
    })
  }

  #see(chunk: Chunk): void {
    if (chunk.type === 'start') this.#start = chunk
    else if (chunk.type === 'note') this.#notes = { ...this.#notes, [chunk.from]: chunk.facts }
    else if (chunk.type === 'usage') this.#usage = chunk.usage
    else if (chunk.type === 'finish') this.#finish = chunk.reason
    else if (isContent(chunk)) this.#contents++
  }

  #tell(outcome: CallEnd['outcome'], error?: unknown): void {
    if (this.#told) return
    this.#told = true
    const { hasSubscribers } = channels.callEnd
    const { owner, listener } = this.#watcher
    if (listener === undefined && !hasSubscribers) return
    const start = this.#start
    const elapsedMs = performance.now() - this.#startedAt
    const message: CallEnd = {
      owner,
      callId: this.#callId,
      outcome,
      elapsedMs,
      firstContentMs: this.#firstContentMs,
      contents: this.#contents,
      provider: start?.provider,
      model: start?.model,
      id: start?.id,
      finish: this.#finish,
      usage: this.#usage,
      cost: this.#cost(),
      overheadMs: outcome === 'success' ? this.#overheadMs(elapsedMs) : undefined,
      notes: this.#notes,
      error
    }
    listener?.(message)
    if (hasSubscribers) channels.callEnd.publish(message)
  }

  #cost(): number | undefined {
    const { price } = this.#watcher
    const usage = this.#usage
    if (price === undefined || usage === undefined) return undefined
    try {
      const billed = usage.billed ? usage : { ...usage, billed: true }
      const cost: unknown = price(billed, this.#start?.model ?? this.#request.model, this.#start?.provider ?? '')
      return typeof cost === 'number' && cost >= 0 && cost < Number.POSITIVE_INFINITY ? cost : undefined
    } catch {
      return undefined // a price list of the caller's must not fail the call; what is unpriced is counted where costs are
    }
  }

  #overheadMs(elapsedMs: number): number | undefined {
    const spentMs = this.#options.stream === false ? elapsedMs : this.#firstContentMs
    const { cache, provider, limits } = this.#notes
    if (spentMs === undefined || cache?.state === 'joined') return undefined
    if (isFromCache(cache)) return spentMs
    const waitedMs = provider?.waitedMs
    if (typeof waitedMs !== 'number') return undefined
    return Math.max(0, spentMs - waitedMs - (typeof limits?.waitedMs === 'number' ? limits.waitedMs : 0))
  }
}

const noNotes: CallEnd['notes'] = Object.freeze({})

/** What `collect` will throw at such a stream; said here too, so that no listener counts it as a success. */
function endedEarly(): MillraceError<'protocol'> {
  return new MillraceError('protocol', 'the stream ended without a finish reason', { details: { reason: 'incomplete' } })
}
