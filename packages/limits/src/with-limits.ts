import {
  type CallOptions,
  type ChatRequest,
  type Chunk,
  ChunkBatches,
  checkOptions,
  type Facts,
  hasEnded,
  inputTokens,
  type Layer,
  type LinkedAbort,
  linkAbort,
  nextBatch,
  outputTokens,
  type Provider,
  type Usage
} from '@millrace/core'
import { CallPermit, permitOf } from './call-permit.ts'
import { createEstimator, type Estimator, estimateTokens, usageOf } from './estimate.ts'
import { type HeldPermit, type Limiter, type LimiterParts, limiterParts } from './limiter.ts'
import type { Cost, Spent, Subject } from './permit.ts'
import { spentOf } from './spent.ts'
import { millraceError } from './verdict.ts'

declare module '@millrace/core' {
  interface CallOptions {
    /** What this call takes of its limits, where the caller knows better than the estimate, and how long it may wait for them. */
    readonly limits?: CallLimits | undefined
  }
}

/** What one call can say to its limits. */
export interface CallLimits extends Pick<Cost, 'tokens' | 'maxTokens' | 'maxUsd'> {
  /** The longest wait. @default the limiter's */
  readonly queueMs?: number | undefined
}

export interface WithLimitsOptions {
  /** Whom the calls go to: limits kept by provider count them under this name. */
  readonly provider: string
}

/**
 * A layer whose calls wait for their limits before anything is sent. Tokens are reserved by estimate (the text's length, and what
 * this model's answers were like so far), budgets by `maxOutputTokens` or 4096; both are settled with the usage. A call that
 * is left or breaks off counts what it received; of one that was sent and brought nothing, all that was reserved counts, for it may
 * be billed; what never reached the provider or was turned away (any status from 400 up) counts nothing. Where `price` fails for an
 * answer, or its usage makes no sense, what was reserved counts too, and the answer goes on. A call that waited a millisecond or more tells so in a note of `limits`: `waitedMs`,
 * and `degraded` when the store could not be asked.
 *
 * A call that is handed a permit of the same limiter (`CallOptions.permit`, inside `limiter.run`) goes by that: it is settled with
 * the usage, and left to who asked for it where the call fails. One at a time, and only where the permit was asked for with the
 * provider, model and tenant that limits and budgets count the call by: else the call waits for its own.
 *
 * Put `limiter.send` into the transport beside it: it hears the provider's headers and pays for retries.
 *
 * @throws {MillraceError} at the first chunk, as `limiter.acquire` does
 * @throws {TypeError} at creation, when an option is wrong
 *
 * @example
 * const provider = pipe(openai({ apiKey, transport }), withLimits(limiter, { provider: 'openai' }))
 */
export function withLimits(limiter: Limiter, options: WithLimitsOptions): Layer<Provider> {
  const parts = limiter?.[limiterParts]
  if (parts === undefined) throw new TypeError('withLimits takes what createLimiter() gives')
  checkOptions<WithLimitsOptions>('withLimits', options, { provider: 1 })
  const { provider } = options
  if (typeof provider !== 'string' || provider === '') {
    throw new TypeError("withLimits takes the name of the provider: withLimits(limiter, { provider: 'openai' })")
  }
  const layer: LimitsLayer = {
    parts,
    provider,
    estimator: createEstimator(),
    abandoned: new FinalizationRegistry(settleAbandoned)
  }
  return (next) => (request, callOptions) => ({
    [Symbol.asyncIterator]: () => new LimitedChunks(layer, next, request, callOptions)
  })
}

/** What all calls through one layer share. */
interface LimitsLayer {
  readonly parts: LimiterParts
  readonly provider: string
  readonly estimator: Estimator
  readonly abandoned: FinalizationRegistry<HeldPermit>
}

/** The stream of this permit was forgotten without being read to its end or left. */
function settleAbandoned(permit: HeldPermit): void {
  permit.settle()
}

/** One call: it waits when its first chunk is asked for. */
class LimitedChunks extends ChunkBatches {
  readonly #layer: LimitsLayer
  readonly #next: Provider
  readonly #request: ChatRequest
  readonly #options: CallOptions
  #starting: Promise<readonly Chunk[] | undefined> | undefined
  #waiting: LinkedAbort | undefined
  #source: AsyncIterator<Chunk, undefined> | undefined
  #permit: HeldPermit | undefined
  #handed: HeldPermit | undefined
  #left = false
  #inputGuess = 0
  #expectedInput = 0
  #receivedChars = 0
  #usage: Usage | undefined
  #model: string

  constructor(layer: LimitsLayer, next: Provider, request: ChatRequest, options: CallOptions) {
    super()
    this.#layer = layer
    this.#next = next
    this.#request = request
    this.#options = options
    this.#model = request.model
  }

  protected pull(): Promise<readonly Chunk[] | undefined> {
    if (this.#left || this.over) return ended
    if (this.#source !== undefined) return this.#read(this.#source)
    if (this.#starting === undefined) {
      this.#starting = this.#start()
      return this.#starting
    }
    // A read beside the first one waits for it; whether it failed is told there.
    const again = (): Promise<readonly Chunk[] | undefined> => this.pull()
    return this.#starting.then(again, () => undefined)
  }

  async #start(): Promise<readonly Chunk[] | undefined> {
    const { parts } = this.#layer
    const { tally, permit: outer } = this.#options
    const handed = permitOf(outer, parts)
    if (handed !== undefined && !handed.held.inUse && parts.covers(handed.held, this.#subject)) return this.#startWith(handed)
    let permit: HeldPermit
    const askedAt = parts.now()
    try {
      permit = await this.#acquire()
    } catch (error) {
      this.over = true
      tally?.waited(parts.now() - askedAt)
      // Nobody reads any more: what ended the wait was the reader's leaving.
      if (this.#left) return undefined
      throw error
    } finally {
      this.#waiting?.[Symbol.dispose]()
      this.#waiting = undefined
    }
    const { waitedMs, degraded } = permit
    if (waitedMs > 0) tally?.waited(waitedMs)
    if (this.#left) {
      permit.release()
      return undefined
    }
    try {
      const options = { ...this.#options, permit: new CallPermit(parts, permit, outer) }
      this.#source = this.#next(this.#request, options)[Symbol.asyncIterator]()
    } catch (error) {
      this.over = true
      permit.release()
      throw error
    }
    this.#permit = permit
    // A stream may be forgotten, and nobody would ever end it: where nobody reads, no deadline is heard.
    this.#layer.abandoned.register(this, permit, permit)
    const batch = await this.#read(this.#source)
    if (waitedMs < 1 && degraded === undefined) return batch
    const facts: Facts = { waitedMs, ...(degraded && { degraded }) }
    return batch?.toSpliced(1, 0, { type: 'note', from: 'limits', facts })
  }

  /** By the caller's own permit, which stays the caller's to end where the call fails: the next one may go by it too. */
  #startWith(handed: CallPermit): Promise<readonly Chunk[] | undefined> {
    this.#handed = handed.held
    handed.held.inUse = true
    handed.subject = this.#subject
    this.#inputGuess = this.#expectedInput = estimateTokens(this.#request)
    try {
      this.#source = this.#next(this.#request, { ...this.#options, permit: handed })[Symbol.asyncIterator]()
    } catch (error) {
      return Promise.reject(error).catch(this.#failed)
    }
    return this.#read(this.#source)
  }

  get #subject(): Subject {
    return { provider: this.#layer.provider, model: this.#request.model, tenant: this.#options.tenant }
  }

  #acquire(): Promise<HeldPermit> {
    const { parts, provider, estimator } = this.#layer
    const { model, maxOutputTokens } = this.#request
    const { signal, priority, deadline, limits } = this.#options
    const own = parts.estimate?.(this.#request)
    this.#inputGuess = estimateTokens(this.#request)
    const expected = estimator.expect(model, this.#inputGuess, maxOutputTokens)
    this.#expectedInput = expected.input
    const subject = this.#subject
    const maxTokens = limits?.maxTokens ?? own?.maxTokens ?? expected.maxInput + expected.maxOutput
    let maxUsd = limits?.maxUsd ?? own?.maxUsd
    if (maxUsd === undefined && parts.needsPrice(subject)) {
      maxUsd = parts.price?.(usageOf(expected.maxInput, expected.maxOutput), model, provider)
    }
    const cost = { ...subject, tokens: limits?.tokens ?? own?.tokens ?? expected.tokens, maxTokens, maxUsd }
    // The reader may leave while it waits.
    this.#waiting = linkAbort(signal)
    return parts.acquire(cost, { signal: this.#waiting.signal, deadline, priority, queueMs: limits?.queueMs })
  }

  #read(source: AsyncIterator<Chunk, undefined>): Promise<readonly Chunk[] | undefined> {
    try {
      return nextBatch(source).then(this.#took, this.#failed)
    } catch (error) {
      return Promise.reject(error).catch(this.#failed)
    }
  }

  // Made once a call, not once a batch.
  readonly #took = (batch: readonly Chunk[] | undefined): readonly Chunk[] | undefined => {
    if (batch !== undefined) {
      if (this.#permit !== undefined) this.#permit.answered = true
      for (const chunk of batch) this.#see(chunk)
    }
    if (batch === undefined || (this.#source !== undefined && hasEnded(this.#source))) {
      this.over = true
      ;(this.#take() ?? this.#handed)?.settle(this.#spent())
    }
    return batch
  }

  readonly #failed = (error: unknown): never => {
    this.over = true
    if (this.#handed !== undefined) {
      this.#handed.inUse = false
      this.#handed = undefined
    }
    const permit = this.#take()
    if (permit !== undefined) {
      const known = millraceError(error)
      this.#usage ??= known?.partial?.usage
      const isOwn = this.#options.signal?.aborted === true && known?.code !== 'timeout'
      const received = this.#receivedChars > 0 || this.#usage !== undefined ? this.#spent() : undefined
      if (isOwn) permit.settle(received ?? this.#spent())
      else permit.fail(error, received)
    }
    throw error
  }

  #see(chunk: Chunk): void {
    switch (chunk.type) {
      case 'text':
      case 'refusal':
      case 'reasoning':
        this.#receivedChars += chunk.text.length
        break
      case 'tool-call':
        this.#receivedChars += chunk.arguments.length
        break
      case 'usage':
        this.#usage = chunk.usage
        break
      case 'start':
        this.#model = chunk.model
        break
    }
  }

  /** The permit, if it has not been ended. */
  #take(): HeldPermit | undefined {
    const permit = this.#permit
    this.#permit = undefined
    if (permit !== undefined) this.#layer.abandoned.unregister(permit)
    return permit
  }

  #spent(): Spent {
    const { parts, provider, estimator } = this.#layer
    const told = this.#usage
    const usage = told ?? usageOf(this.#expectedInput, Math.ceil(this.#receivedChars / 4))
    const spent = spentOf(parts, usage, { model: this.#model, provider })
    if (told?.estimated === false && told.billed && spent.tokens !== undefined) {
      const counted = { input: inputTokens(told), output: outputTokens(told) }
      estimator.learn(this.#request.model, this.#inputGuess, counted)
    }
    return spent
  }

  async return(): Promise<IteratorResult<Chunk, undefined>> {
    this.#left = true
    this.clear()
    this.#waiting?.abort(new DOMException('the reader has left the stream', 'AbortError'))
    this.over = true
    const returned = this.#source?.return?.()
    ;(this.#take() ?? this.#handed)?.settle(this.#spent())
    await returned
    return { done: true, value: undefined }
  }
}

const ended: Promise<undefined> = Promise.resolve(undefined)
