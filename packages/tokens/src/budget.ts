import {
  type CallOptions,
  type ChatRequest,
  type Chunk,
  checkOptions,
  checkRequest,
  type Layer,
  MillraceError,
  type NoteChunk,
  type Provider
} from '@millrace/core'
import { fit } from './fit.ts'
import { maxTokens } from './message.ts'
import type { Tokenizers } from './tokenizer.ts'

export interface TokenBudgetOptions {
  /** Not closed by the layer. */
  readonly tokenizers: Tokenizers
  /** Tokens the model can hold, prompt and answer together; of several models behind the layer, the smallest. */
  readonly contextWindow: number
  /** Tokens kept free for the answer of a request without `maxOutputTokens`. @default a quarter of contextWindow, at most 4096 */
  readonly reserve?: number | undefined
}

/**
 * A layer that fits `request.messages` into the model's window and tells in a note of `tokens` what it left out. A request
 * that fits passes as the same object; one whose bytes alone prove it is not even counted.
 *
 * @throws {MillraceError} `context-overflow` at the first chunk, when what must stay does not fit; `invalid-request` for one
 * that no provider could answer
 * @throws {TypeError} at creation, when an option is wrong
 *
 * @example
 * const provider = pipe(base, withTokenBudget({ tokenizers, contextWindow: 128_000 }))
 */
export function withTokenBudget(options: TokenBudgetOptions): Layer<Provider> {
  checkOptions<TokenBudgetOptions>('withTokenBudget', options, { tokenizers: 1, contextWindow: 1, reserve: 1 })
  if (typeof options.tokenizers?.for !== 'function')
    throw new TypeError('tokenizers is missing: pass what createTokenizers() gives')
  const { tokenizers, contextWindow, reserve = Math.min(4096, Math.floor(contextWindow / 4)) } = options
  if (!(Number.isSafeInteger(contextWindow) && contextWindow > 0)) {
    throw new TypeError(`contextWindow must be a whole number of tokens above 0, not ${contextWindow}`)
  }
  if (!(Number.isSafeInteger(reserve) && reserve >= 0 && reserve < contextWindow)) {
    throw new TypeError(`reserve must be a whole number of tokens from 0 to below contextWindow, not ${reserve}`)
  }

  function fitted(request: ChatRequest): { request: ChatRequest; note?: NoteChunk } {
    checkRequest(request)
    const { messages, tools, responseFormat } = request
    const budget = contextWindow - (request.maxOutputTokens ?? reserve)
    const tokenizer = tokenizers.for(request.model)
    if (maxTokens(messages, request) * tokenizer.safetyFactor <= budget) return { request }
    if (budget < 0) throw noRoom(contextWindow, contextWindow - budget)
    const result = fit(messages, { budget, tokenizer, tools, responseFormat })
    if (result.dropped === 0) return { request }
    const { dropped, saved } = result
    return {
      request: { ...request, messages: result.messages },
      note: { type: 'note', from: 'tokens', facts: { dropped, saved } }
    }
  }

  return (next) => (request, callOptions) => ({
    [Symbol.asyncIterator]: () => budgetIterator(next, () => fitted(request), callOptions)
  })
}

function budgetIterator(
  next: Provider,
  prepare: () => { request: ChatRequest; note?: NoteChunk },
  options: CallOptions
): AsyncIterator<Chunk, undefined> {
  let source: AsyncIterator<Chunk, undefined> | undefined
  let note: NoteChunk | undefined
  let left = false

  // Only here is anything counted: a call nobody reads costs nothing, and an overflow rejects instead of throwing.
  async function start(): Promise<IteratorResult<Chunk, undefined>> {
    const prepared = prepare()
    source = next(prepared.request, options)[Symbol.asyncIterator]()
    const first = await source.next()
    if (first.done !== true) note = prepared.note
    return first
  }

  return {
    next() {
      if (source === undefined) return left ? Promise.resolve({ done: true, value: undefined }) : start()
      if (note === undefined || left) return source.next()
      const value = note
      note = undefined
      return Promise.resolve({ done: false, value })
    },
    async return() {
      left = true
      await source?.return?.()
      return { done: true, value: undefined }
    }
  }
}

function noRoom(limit: number, tokens: number): MillraceError<'context-overflow'> {
  const message = `maxOutputTokens takes ${tokens} tokens; contextWindow is ${limit}`
  return new MillraceError('context-overflow', message, { details: { limit, tokens } })
}
