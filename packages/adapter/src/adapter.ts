import type { Batch } from '@millrace/batch'
import { type Cache, type CacheOptions, createCache, withCache } from '@millrace/cache'
import {
  type CallOptions,
  type ChatRequest,
  type Chunk,
  type Completion,
  checkOptions,
  collect,
  type Layer,
  type PriceOf,
  type Provider,
  type Timeouts,
  watch
} from '@millrace/core'
import { createLimiter, type Limiter, type LimiterOptions, type LimiterStats, withLimits } from '@millrace/limits'
import { type Operator, withOperators } from '@millrace/streaming'
import { createTokenizers, type TokenBudgetOptions, type Tokenizers, withTokenBudget } from '@millrace/tokens'
import { createTransport, type Transport, type TransportOptions, type TransportStats } from '@millrace/transport'
import { type AnswerStream, createAnswerStream, watchForgotten } from './answer-stream.ts'
import { type BatchOptions, batchOf } from './batch.ts'
import { type Candidate, candidatesOf, connectAll, identityOfAll, isWire, modelOf } from './candidates.ts'
import type { WireProvider } from './dialect.ts'
import { createFallback, type Fallback, type FallbackStats } from './fallback.ts'
import type { FallbackOptions } from './fallback-options.ts'
import { assemble, layersOf } from './layers.ts'
import { partialUsage } from './partial-usage.ts'
import { createRunningCalls } from './running-calls.ts'
import { type CallStats, createCallCounter } from './stats.ts'

export interface AdapterOptions {
  /**
   * `openai(...)`, `anthropic(...)`, or any function of your own that is a `Provider`; or a list of them: where one fails
   * before its first content, the next is asked.
   */
  readonly provider: WireProvider | Provider | readonly (WireProvider | Provider | Candidate)[]
  /** How providers of a list are chosen, and what moves a call on to the next. */
  readonly fallback?: FallbackOptions | undefined
  /** Options of a limiter that the adapter makes and closes, or a limiter of yours that it only uses. @default none */
  readonly limits?: LimiterOptions | Limiter | undefined
  /** Names who answers, for the cache's key. Needed only for a provider of your own together with a cache. */
  readonly origin?: string | undefined
  /** Options of a transport that the adapter makes and closes, or a transport of yours that it only uses. */
  readonly transport?: TransportOptions | Transport | undefined
  /** Options of a cache that the adapter makes and closes, or a cache of yours. @default no cache */
  readonly cache?: CacheOptions | Cache | undefined
  /** Fits prompts into a model's window; nothing is counted without it. @default prompts are sent as they are */
  readonly tokens?: TokenOptions | undefined
  /**
   * What a usage costs in USD, for `moneySpent` and `moneySaved`; `undefined` where that is not known. Such as `(usage, model, provider) => prices.cost(usage, model, { provider })?.total`, with
   * `createPrices()` of `@millrace/tokens`.
   * @default none
   */
  readonly price?: PriceOf | undefined
  /** What every stream runs through, such as `coalesce()`; the first stands nearest to the provider. @default none */
  readonly operators?: readonly Operator<Chunk>[] | undefined
  /** Limits of every call; a call may set its own. @default { connectMs: 10000, idleMs: 60000, totalMs: 300000 } */
  readonly timeouts?: Timeouts | undefined
}

/** The options of `withTokenBudget`. */
export interface TokenOptions extends Omit<TokenBudgetOptions, 'tokenizers'> {
  /** Tokenizers of yours, which the adapter only uses. @default its own, which it closes */
  readonly tokenizers?: Tokenizers | undefined
}

/** The options of `complete`, beside those every call has. */
export interface CompleteOptions extends CallOptions {
  /** Told what had been received when the caller's own signal ends the call, for then the call rejects with the signal's reason. */
  readonly onAbort?: ((partial: Completion) => void) | undefined
}

export interface AdapterStats extends CallStats, TransportStats {
  /** Absent without a cache. */
  readonly cache?: ReturnType<Cache['stats']> | undefined
  /** Absent without limits. */
  readonly limits?: LimiterStats | undefined
  /** Absent where there is one provider. */
  readonly fallback?: FallbackStats | undefined
}

export interface Adapter extends AsyncDisposable {
  /**
   * The whole answer.
   *
   * @throws {MillraceError} with what was received as `error.partial`; `signal.reason` on the caller's own abort
   */
  complete(request: ChatRequest, options?: CompleteOptions): Promise<Completion>
  /** The answer as it comes. Nothing is sent before the first chunk is asked for. */
  stream(request: ChatRequest, options?: CallOptions): AnswerStream
  /** Many requests, a bounded number at a time; outcomes come as they are known. Nothing is sent before the first is asked for. */
  batch(requests: Iterable<ChatRequest> | AsyncIterable<ChatRequest>, options?: BatchOptions): Batch<Completion>
  /** The same as a function, to put further layers around. */
  readonly provider: Provider
  stats(): AdapterStats
  /**
   * Refuses new calls with `closed`, lets running ones finish for `graceMs`, then ends them. Safe to call twice.
   * `graceMs` defaults to 10000.
   */
  close(options?: { readonly graceMs?: number }): Promise<void>
}

/**
 * One object that makes calls to a language model: pooled, retried, held to their deadlines, and, where asked for, cached
 * and fitted into the model's window.
 *
 * @throws {TypeError} for options that make no sense; the text says what to write instead
 *
 * @example
 * await using adapter = createAdapter({ provider: openai({ apiKey: process.env.OPENAI_API_KEY }), cache: {} })
 * const { text } = await adapter.complete({ model: 'gpt-5.6', messages: [{ role: 'user', content: 'Hello' }] })
 */
export function createAdapter(options: AdapterOptions): Adapter {
  checkOptions<AdapterOptions>('createAdapter', options, names)
  const { operators } = options
  if (operators !== undefined && !(Array.isArray(operators) && operators.every((operator) => typeof operator === 'function'))) {
    throw new TypeError('operators must be a list of operators, such as [coalesce()]')
  }
  if (options.price !== undefined && typeof options.price !== 'function') {
    throw new TypeError('price must be a function that takes usage, model and provider and gives USD or undefined')
  }
  const { totalMs = 300_000, ...timeouts } = checkTimeouts(options.timeouts)
  const candidates = candidatesOf(options.provider)
  const hasSeveral = Array.isArray(options.provider)
  if (options.fallback !== undefined && !hasSeveral) {
    throw new TypeError(
      'fallback needs several providers: provider takes a list, such as [openai({ apiKey }), anthropic({ apiKey })]'
    )
  }
  const who = identityOfAll(candidates, { origin: options.origin, hasCache: options.cache !== undefined })
  // Closed from the last to the first: the streams that the cache still runs, then the limits' places, then the sockets.
  const owned: (() => Promise<void>)[] = []
  let closeLimiter: (() => Promise<void>) | undefined
  if (options.limits !== undefined && (typeof options.limits !== 'object' || options.limits === null)) {
    throw new TypeError('limits must be the options of a limiter, such as { limits: [{ concurrency: 20 }] }, or a limiter')
  }
  const limiter = options.limits && own(options.limits, isLimiter, priced(options.price), (made) => (closeLimiter = made.close))
  const transport = own(
    options.transport,
    isTransport,
    (made) => createTransport(limiter === undefined ? made : { ...made, limits: made?.limits ?? limiter.send }),
    (made) => owned.push(() => made.close({ graceMs: 0 }))
  )
  if (limiter !== undefined && transport.limits !== limiter.send && candidates.some(({ provider }) => isWire(provider))) {
    throw new TypeError('the transport does not know the limits: make it with createTransport({ limits: limiter.send })')
  }
  if (closeLimiter !== undefined) owned.push(closeLimiter)
  const cache =
    options.cache === undefined ? undefined : own(options.cache, isCache, createCache, (made) => owned.push(() => made.close()))
  const adapter = {} as Adapter // known before it is whole: it is the `owner` in every message of its calls

  let fallback: Fallback | undefined
  const tokenizers = options.tokens && tokenizersOf(options.tokens, (made) => owned.push(() => made.close()))
  const calls = createRunningCalls(totalMs)
  const forgotten = watchForgotten()
  const counter = createCallCounter(options.price !== undefined)
  const layers = layersOf({
    limits: limiter && ((name) => withLimits(limiter, { provider: name })),
    fallback: hasSeveral
      ? (each) =>
          (fallback = createFallback(each, options.fallback, { ...wireTimeouts(options.transport), ...timeouts })).provider
      : undefined,
    cache: cache && withCache(cache, who),
    tokens: options.tokens && tokenizers && tokenBudget(options.tokens, tokenizers, candidates),
    operators: operators && withOperators(...operators),
    deadline: calls.layer,
    watch: watch(adapter, { listener: counter.add, price: options.price })
  })
  const assembled = assemble(connectAll(candidates, transport.send), layers)
  const provider: Provider = (request, call) => {
    if (call.signal !== undefined && typeof call.signal.aborted !== 'boolean') {
      throw new TypeError('signal must be an AbortSignal: pass the signal of your AbortController')
    }
    return assembled(request, {
      ...call,
      timeouts: call.timeouts === undefined ? timeouts : { ...timeouts, ...whatIsSet(checkTimeouts(call.timeouts)) }
    })
  }
  /** The options of a `complete` that was given none, put together once. */
  const plain: CallOptions = Object.freeze({ stream: false, timeouts })

  /** Not `async` itself: each such function costs a call three turns of the queue. */
  function complete(request: ChatRequest, asked?: CompleteOptions): Promise<Completion> {
    if (asked?.onAbort !== undefined) return completeOrTell(request, asked, asked.onAbort)
    const chunks = {
      // What the options are refused for is a rejection, as everything else that goes wrong.
      [Symbol.asyncIterator]() {
        const answer = asked === undefined ? assembled(request, plain) : provider(request, withoutStream(asked))
        return answer[Symbol.asyncIterator]()
      }
    }
    return tokenizers === undefined ? collect(chunks) : collect(chunks, { estimateUsage: partialUsage(tokenizers, request) })
  }

  async function completeOrTell(
    request: ChatRequest,
    asked: CompleteOptions,
    onAbort: (partial: Completion) => void
  ): Promise<Completion> {
    const call = withoutStream(asked)
    const stream = streamOf(request, call)
    try {
      return await stream.completion()
    } catch (error) {
      if (call.signal?.aborted === true && error === call.signal.reason) onAbort(stream.partial)
      throw error
    }
  }

  function streamOf(request: ChatRequest, call: CallOptions): AnswerStream {
    return createAnswerStream(() => provider(request, call), {
      signal: call.signal,
      estimateUsage: partialUsage(tokenizers, request),
      forgotten
    })
  }

  let closing: Promise<void> | undefined
  async function close(graceMs: number): Promise<void> {
    await calls.close(graceMs)
    // The calls have had the grace; what the transport still has is the last bytes of streams that are over.
    for (const end of owned.toReversed()) await end()
  }

  return Object.assign(adapter, {
    complete,
    stream: (request, call = {}) => streamOf(request, { ...call, stream: true }),
    batch: (requests, batchOptions = {}) => batchOf(requests, complete, batchOptions),
    provider,
    stats: () => ({
      ...counter.stats(calls.size),
      ...transport.stats(),
      ...(cache && { cache: cache.stats() }),
      ...(limiter && { limits: limiter.stats() }),
      ...(fallback && { fallback: fallback.stats() })
    }),
    close({ graceMs = 10_000 } = {}) {
      closing ??= close(graceMs)
      return closing
    },
    [Symbol.asyncDispose]: () => adapter.close()
  } satisfies Adapter)
}

function withoutStream({ onAbort: _, ...call }: CompleteOptions): CallOptions {
  return { ...call, stream: false }
}

const names: Readonly<Record<keyof AdapterOptions, 1>> = {
  provider: 1,
  fallback: 1,
  limits: 1,
  origin: 1,
  transport: 1,
  cache: 1,
  tokens: 1,
  price: 1,
  operators: 1,
  timeouts: 1
}

/** A thing that was handed in is used; options for one make one, which is then ours to close. */
function own<T, O extends object>(
  given: T | O | undefined,
  isMade: (value: T | O) => value is T,
  create: (options?: O) => T,
  keep: (made: T) => void
): T {
  if (typeof given === 'object' && given !== null && isMade(given)) return given
  const made = create(given as O | undefined)
  keep(made)
  return made
}

/** Clocks that the transport of the adapter runs where neither it nor the call says otherwise. */
function wireTimeouts(transport: AdapterOptions['transport']): Timeouts {
  return transport === undefined || isTransport(transport) ? {} : (transport.timeouts ?? {})
}

const isTransport = (value: TransportOptions | Transport): value is Transport => 'send' in value
const isLimiter = (value: LimiterOptions | Limiter): value is Limiter => 'acquire' in value
const isCache = (value: CacheOptions | Cache): value is Cache => 'wrap' in value

function checkTimeouts(timeouts: Timeouts = {}): Timeouts {
  if (typeof timeouts !== 'object' || timeouts === null)
    throw new TypeError('timeouts must be an object, such as { totalMs: 60_000 }')
  for (const [name, value] of Object.entries(timeouts)) {
    if (!timeoutNames.has(name)) throw new TypeError(`timeouts.${name} is unknown: use ${[...timeoutNames].join(', ')}`)
    if (value !== undefined && !(typeof value === 'number' && value > 0)) {
      throw new TypeError(`timeouts.${name} must be a number of milliseconds above 0, or Infinity to lift the limit`)
    }
  }
  return timeouts
}

const timeoutNames: ReadonlySet<string> = new Set(['connectMs', 'headersMs', 'firstChunkMs', 'idleMs', 'totalMs'])

/** A limit that is `undefined` is one that was not given. */
function whatIsSet(timeouts: Timeouts): Timeouts {
  return Object.fromEntries(Object.entries(timeouts).filter(([, value]) => value !== undefined))
}

function tokenizersOf({ tokenizers }: TokenOptions, keep: (made: Tokenizers) => void): Tokenizers {
  if (tokenizers !== undefined) return tokenizers
  const made = createTokenizers()
  keep(made)
  return made
}

/** The adapter's price list serves its budgets too. */
const priced =
  (price: PriceOf | undefined) =>
  (options?: LimiterOptions): Limiter =>
    createLimiter({ price, ...options })

/** What is fitted must fit wherever the call may go: the smallest window of the models that the providers call it. */
function smallestWindow({ contextWindow }: TokenOptions, candidates: readonly Candidate[]): TokenOptions['contextWindow'] {
  if (typeof contextWindow !== 'function') return contextWindow
  return (model) => {
    const windows = candidates.map((candidate) => contextWindow(modelOf(candidate, model)) ?? Number.POSITIVE_INFINITY)
    const smallest = Math.min(...windows)
    return smallest === Number.POSITIVE_INFINITY ? undefined : smallest
  }
}

function tokenBudget(options: TokenOptions, tokenizers: Tokenizers, candidates: readonly Candidate[]): Layer<Provider> {
  checkOptions<TokenOptions>('tokens', options, {
    contextWindow: 1,
    reserve: 1,
    compress: 1,
    drop: 1,
    slack: 1,
    summarize: 1,
    tokenizers: 1
  })
  return withTokenBudget({ ...options, contextWindow: smallestWindow(options, candidates), tokenizers })
}
