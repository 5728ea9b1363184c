import { randomUUID } from 'node:crypto'
import type { CallOptions, Layer, Provider } from './call.ts'
import { type CallEnd, channels } from './channels.ts'
import { type Chunk, isContent, type StartChunk, type Usage } from './chunk.ts'
import { ChunkBatches, hasEnded, nextBatch } from './chunk-iterator.ts'
import { MillraceError } from './error.ts'
import type { ChatRequest } from './request.ts'
import { CallTally } from './tally.ts'

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
      return new WatchedCall(watcher, next, request, call, call.callId ?? `${series}-${++calls}`)
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
  readonly #tally: CallTally
  #source: AsyncIterator<Chunk, unknown> | undefined
  #startedAt = 0
  /** Inside our reads, until the first content of a stream: the time between them is the reader's. */
  #readingMs = 0
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
    this.#callId = callId
    this.#tally = new CallTally(options.tally, (error) => this.#endUnread(error))
    this.#options = { ...options, callId, tally: this.#tally }
  }

  protected async pull(): Promise<readonly Chunk[] | undefined> {
    if (this.over) return undefined
    const isTimed = this.#firstContentMs === undefined || this.#options.stream === false
    const from = isTimed ? performance.now() : 0
    try {
      if (this.#startedAt === 0) this.#begin(from)
      const source = (this.#source ??= this.#next(this.#request, this.#options)[Symbol.asyncIterator]())
      const batch = await nextBatch(source)
      if (isTimed) this.#readingMs += performance.now() - from
      if (batch !== undefined) this.#seeAll(batch)
      if (batch === undefined || hasEnded(source)) this.#finished()
      return batch
    } catch (error) {
      this.over = true
      this.#end(error)
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

  #begin(now: number): void {
    this.#startedAt = now
    if (!channels.callStart.hasSubscribers) return
    const { stream } = this.#options
    channels.callStart.publish({
      owner: this.#watcher.owner,
      callId: this.#callId,
      call: this.#tally,
      request: this.#request,
      options: this.#options,
      stream: stream !== false,
      startedAt: this.#startedAt
    })
  }

  #finished(): void {
    this.over = true
    if (this.#finish === undefined) this.#tell('error', endedEarly())
    else this.#tell('success')
  }

  #end(error: unknown): void {
    const { signal } = this.#options
    this.#tell(signal?.aborted === true && error === signal.reason ? 'aborted' : 'error', error)
  }

  /** Somebody inside has ended the call; whoever reads it will hear of it when it reads on, if ever. */
  #endUnread(error: unknown): void {
    if (this.#startedAt === 0) return
    if (this.#finish !== undefined) this.#tell('success')
    else this.#end(error)
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
      call: this.#tally,
      request: this.#request,
      stream: this.#options.stream !== false,
      elapsedMs,
      gapMs: last === undefined ? undefined : elapsedMs - last,
      chunks: batch,
      start: this.#start
    })
  }

  #see(chunk: Chunk): void {
    if (chunk.type === 'start') this.#start = isStart(chunk) ? chunk : undefined
    else if (chunk.type === 'note') this.#notes = { ...this.#notes, [chunk.from]: chunk.facts }
    else if (chunk.type === 'usage') this.#usage = isUsage(chunk.usage) ? chunk.usage : undefined
    else if (chunk.type === 'finish') this.#finish = chunk.reason
    else if (isContent(chunk)) this.#contents++
  }

  #tell(outcome: CallEnd['outcome'], error?: unknown): void {
    if (this.#told) return
    this.#told = true
    const { hasSubscribers } = channels.callEnd
    const { owner, listener } = this.#watcher
    const worth = this.#worth()
    this.#tally.worth({ spentUsd: worth.cost ?? undefined, savedUsd: worth.saved })
    if (listener === undefined && !hasSubscribers) return
    const start = this.#start
    const elapsedMs = performance.now() - this.#startedAt
    const message: CallEnd = {
      owner,
      callId: this.#callId,
      call: this.#tally,
      outcome,
      elapsedMs,
      request: this.#request,
      stream: this.#options.stream !== false,
      firstContentMs: this.#firstContentMs,
      contents: this.#contents,
      provider: start?.provider,
      model: start?.model,
      id: start?.id,
      finish: this.#finish,
      usage: this.#usage,
      ...worth,
      overheadMs: outcome === 'success' ? this.#overheadMs() : undefined,
      notes: this.#notes,
      error
    }
    try {
      listener?.(message)
    } finally {
      if (hasSubscribers) channels.callEnd.publish(message)
    }
  }

  /** By our own prices, or by those of who watches further in. */
  #worth(): Pick<CallEnd, 'cost' | 'saved'> {
    const own = this.#priceOf()
    if (typeof own === 'number') return this.#usage?.billed === true ? { cost: own } : { saved: own }
    const { spentUsd, savedUsd } = this.#tally
    return { cost: spentUsd ?? (savedUsd === undefined ? own : undefined), saved: savedUsd }
  }

  #priceOf(): number | null | undefined {
    const { price } = this.#watcher
    const usage = this.#usage
    if (price === undefined || usage === undefined) return undefined
    try {
      const billed = usage.billed ? usage : { ...usage, billed: true }
      const cost: unknown = price(billed, this.#start?.model ?? this.#request.model, this.#start?.provider ?? '')
      return typeof cost === 'number' && cost >= 0 && cost < Number.POSITIVE_INFINITY ? cost : null
    } catch {
      return null // a price list of the caller's must not fail the call; it is told as unpriced
    }
  }

  #overheadMs(): number | undefined {
    const { cache } = this.#notes
    const { providerMs, otherMs } = this.#tally
    if (this.#contents === 0 || cache?.state === 'joined') return undefined
    // A hit has waited for nobody; behind anything else stands a provider, and where it does not tell its time, nobody knows ours.
    if (providerMs === undefined && cache?.state !== 'hit') return undefined
    return Math.max(0, this.#readingMs - (providerMs ?? 0) - otherMs)
  }
}

/** Providers may be anybody's: listeners get names that are names. */
function isStart({ provider, model, id }: StartChunk): boolean {
  return typeof provider === 'string' && typeof model === 'string' && (id === undefined || typeof id === 'string')
}

/** More than any model takes or gives in a call: beyond, somebody has made it up, and a sum would never recover. */
const maxTokens = 1e9

/** What is no count is no usage. */
function isUsage(usage: Usage): boolean {
  const { input, output } = (usage as Partial<Usage> | null) ?? {}
  return (
    isCount(input?.uncached) &&
    isCount(input?.cacheRead) &&
    isCount(input?.cacheWrite) &&
    isCount(output?.text) &&
    isCount(output?.reasoning)
  )
}

function isCount(value: unknown): boolean {
  return typeof value === 'number' && value >= 0 && value <= maxTokens
}

const noNotes: CallEnd['notes'] = Object.freeze({})

/** What `collect` will throw at such a stream; said here too, so that no listener counts it as a success. */
function endedEarly(): MillraceError<'protocol'> {
  return new MillraceError('protocol', 'the stream ended without a finish reason', { details: { reason: 'incomplete' } })
}
