import {
  type CallTally,
  type ChatRequest,
  checkOptions,
  checkRequest,
  type Facts,
  type Layer,
  type Message,
  MillraceError,
  type Provider
} from '@millrace/core'
import { BudgetChunks, type Prepared } from './budget-chunks.ts'
import { type CompressMessagesOptions, compressMessages, isMarked } from './compress-messages.ts'
import { checkDropping, type FitOptions, type FitResult, fitChecked, type Summarize, summarized } from './fit.ts'
import { type Change, savedTokens } from './saved.ts'
import type { Tokenizer, Tokenizers } from './tokenizer.ts'

export interface TokenBudgetOptions {
  /** Not closed by the layer. */
  readonly tokenizers: Tokenizers
  /**
   * Tokens the model can hold, prompt and answer together; of several models behind the layer, the smallest. A function of
   * the model's name may give none: what is not known is not cut, and the request passes.
   */
  readonly contextWindow: number | ((model: string) => number | null | undefined)
  /** Tokens kept free for the answer of a request without `maxOutputTokens`. @default a quarter of the window, at most 4096 */
  readonly reserve?: number | undefined
  /** Takes needless whitespace out of every request first, see `compressMessages`. @default false */
  readonly compress?: boolean | Pick<CompressMessagesOptions, 'roles'> | undefined
  /** What goes first, see `fit`. @default 'oldest' */
  readonly drop?: FitOptions['drop']
  /** Share of the budget that may be dropped beyond need, to keep the prompt's beginning, see `fit`. @default 1/8 */
  readonly slack?: number | undefined
  /** Puts a summary in the place of what is dropped, see `fit`. Its signal aborts with the call. @default none */
  readonly summarize?: Summarize | undefined
}

/**
 * A layer that fits `request.messages` into the model's window and tells in a note of `tokens` what it did: `dropped`
 * messages, `saved` tokens (exact up to 64 KiB of text, beyond that extrapolated), with `compress` how many messages it sent
 * `compressed`, with `summarize` what became of the `summary`. A request that stays as it is passes as the same object; one whose bytes
 * alone prove that it fits is not even counted.
 *
 * @throws {MillraceError} `context-overflow` at the first chunk, when what must stay does not fit; `invalid-request` for one
 * that no provider could answer
 * @throws {TypeError} at creation, when an option is wrong; at the first chunk, when a function gives no number
 *
 * @example
 * const provider = pipe(base, withTokenBudget({ tokenizers, contextWindow: 128_000 }))
 */
export function withTokenBudget(options: TokenBudgetOptions): Layer<Provider> {
  checkOptions<TokenBudgetOptions>('withTokenBudget', options, {
    tokenizers: 1,
    contextWindow: 1,
    reserve: 1,
    compress: 1,
    drop: 1,
    slack: 1,
    summarize: 1
  })
  const { tokenizers, contextWindow, reserve, compress, drop, slack, summarize } = options
  if (typeof tokenizers?.for !== 'function') throw new TypeError('tokenizers must be what createTokenizers() gives')
  if (typeof contextWindow !== 'function') checkWindow(contextWindow, 'contextWindow')
  const most = typeof contextWindow === 'function' ? Number.POSITIVE_INFINITY : contextWindow
  if (reserve !== undefined && !(Number.isSafeInteger(reserve) && reserve >= 0 && reserve < most)) {
    throw new TypeError(`reserve must be a whole number of tokens from 0 to below contextWindow, not ${reserve}`)
  }
  checkDropping(options)
  const compression = compress === true ? {} : compress === false ? undefined : compress
  if (compression !== undefined) compressMessages([], compression)

  function prepare(request: ChatRequest, signal: () => AbortSignal, tally: CallTally | undefined): Prepared | Promise<Prepared> {
    checkRequest(request)
    const { model, tools, responseFormat, toolChoice } = request
    const tokenizer = tokenizers.for(model)
    // A mark on the request itself has the provider cache all of it.
    const stays = compression === undefined || isMarked(request.extra)
    const { messages } = stays ? request : compressMessages(request.messages, compression)
    const changed = (result?: FitResult): Prepared => {
      const after = result?.messages ?? messages
      if (after === request.messages) return { request }
      const facts = factsOf({
        request,
        messages,
        after,
        result,
        tokenizer,
        isCompressing: compression !== undefined
      })
      return { request: { ...request, messages: after }, facts }
    }

    const window = typeof contextWindow === 'function' ? (contextWindow(model) ?? undefined) : contextWindow
    if (window === undefined) return changed()
    checkWindow(window, `what contextWindow gives for ${JSON.stringify(model)}`)
    const answer = request.maxOutputTokens ?? reserve ?? Math.min(4096, Math.floor(window / 4))
    if (answer > window) throw noRoom(window, answer)
    const fitting = { budget: window - answer, tokenizer, tools, responseFormat, toolChoice, drop, slack }
    if (summarize === undefined) return changed(fitChecked(messages, fitting))
    const startedAt = performance.now()
    return summarized(messages, { ...fitting, summarize, signal: signal() })
      .finally(() => tally?.waited(performance.now() - startedAt))
      .then(changed)
  }

  return (next) => (request, callOptions) => ({
    [Symbol.asyncIterator]: () => new BudgetChunks((signal) => prepare(request, signal, callOptions.tally), next, callOptions)
  })
}

interface Changed {
  readonly request: ChatRequest
  /** Its messages compressed, before they were fitted. */
  readonly messages: readonly Message[]
  readonly after: readonly Message[]
  readonly result: FitResult | undefined
  readonly tokenizer: Tokenizer
  readonly isCompressing: boolean
}

function factsOf({ request, messages, after, result, tokenizer, isCompressing }: Changed): Facts {
  const { dropped = 0, droppedMessages = [], summary } = result ?? {}
  const originals = new Map<Message, Message>()
  for (const [index, message] of messages.entries()) {
    const original = request.messages[index] as Message
    if (message !== original) originals.set(message, original)
  }
  const changes: Change[] = droppedMessages.map((message) => ({ before: originals.get(message) ?? message }))
  let compressed = 0
  for (const message of after) {
    const before = originals.get(message)
    if (before === undefined) continue
    changes.push({ before, after: message })
    compressed++
  }
  const saved = savedTokens({ before: request.messages, after, changes }, tokenizer, request)
  return { dropped, saved, ...(summary && { summary }), ...(isCompressing && { compressed }) }
}

function checkWindow(window: unknown, name: string): void {
  if (Number.isSafeInteger(window) && (window as number) > 0) return
  throw new TypeError(`${name} must be a whole number of tokens above 0, not ${String(window)}`)
}

function noRoom(limit: number, tokens: number): MillraceError<'context-overflow'> {
  const message = `the answer alone is to have ${tokens} tokens; the model's window is ${limit}`
  return new MillraceError('context-overflow', message, { details: { limit, tokens } })
}
