import { checkOptions, type Message, MillraceError, type ResponseFormat, type Tool } from '@millrace/core'
import { isPrompt, uncountedParts } from './message.ts'
import type { Tokenizer } from './tokenizer.ts'

export interface FitOptions {
  /** Tokens the messages and tools may take together, the tokenizer's safety factor counted in. */
  readonly budget: number
  readonly tokenizer: Tokenizer
  /** Sent with the messages, so counted with them. @default none */
  readonly tools?: readonly Tool[] | undefined
  /** Likewise. @default none */
  readonly responseFormat?: ResponseFormat | undefined
}

export interface FitResult {
  /** The very array that was given, when nothing had to go. */
  readonly messages: readonly Message[]
  /** What they take, tools included, times the safety factor. */
  readonly tokens: number
  /** Messages left out. */
  readonly dropped: number
  /** Tokens left out, times the safety factor. */
  readonly saved: number
  /** Parts that stayed and are not in `tokens`: images, audio, files. */
  readonly uncounted: number
}

/**
 * Leaves out the oldest messages until the rest fits. Instructions (system and developer messages), the last user message
 * and all that follows it stay; an assistant message that calls tools stays or goes together with their results. Linear
 * in the number of messages; nothing is changed in place.
 *
 * @throws {MillraceError} `context-overflow` when what must stay does not fit; `details` holds `limit` and `tokens`
 * @throws {TypeError} when `budget` is not a number of at least 0
 *
 * @example
 * const { messages, dropped } = fit(history, { budget: 8000, tokenizer: tokenizerFor('gpt-4.1') })
 */
export function fit(messages: readonly Message[], options: FitOptions): FitResult {
  checkOptions<FitOptions>('fit', options, { budget: 1, tokenizer: 1, tools: 1, responseFormat: 1 })
  const { budget, tokenizer, tools } = options
  const beside = { tools, responseFormat: options.responseFormat }
  if (typeof tokenizer?.countMessages !== 'function')
    throw new TypeError("tokenizer must be a tokenizer, such as tokenizerFor('gpt-4.1')")
  if (!(budget >= 0)) throw new TypeError(`budget must be a number of tokens of at least 0, not ${budget}`)
  const charged = (tokens: number): number => Math.ceil(tokens * tokenizer.safetyFactor)
  const all = tokenizer.countMessages(messages, beside)
  if (charged(all) <= budget) {
    return { messages, tokens: charged(all), dropped: 0, saved: 0, uncounted: uncountedParts(messages) }
  }

  const units = unitsOf(messages)
  const kept = mustStay(messages, units)
  const staying = messages.filter((_, index) => kept.has(units[index] as number))
  let tokens = tokenizer.countMessages(staying, beside)
  if (charged(tokens) > budget) throw overflow(budget, charged(tokens), staying, tools)

  const frame = tokenizer.countMessages([])
  const cost = new Map<number, number>()
  for (const [index, message] of messages.entries()) {
    const unit = units[index] as number
    if (!kept.has(unit)) cost.set(unit, (cost.get(unit) ?? 0) + tokenizer.countMessages([message]) - frame)
  }
  // The newest first, and the first that does not fit ends it: a conversation with holes misleads the model.
  for (const unit of [...cost.keys()].toReversed()) {
    const grown = tokens + (cost.get(unit) as number)
    if (charged(grown) > budget) break
    tokens = grown
    kept.add(unit)
  }
  const fitted = messages.filter((_, index) => kept.has(units[index] as number))
  return {
    messages: fitted,
    tokens: charged(tokens),
    dropped: messages.length - fitted.length,
    saved: charged(all) - charged(tokens),
    uncounted: uncountedParts(fitted)
  }
}

/** For each message the number of its unit, which stays or goes as one: that of its tool's call, or its own index. */
function unitsOf(messages: readonly Message[]): readonly number[] {
  const callers = new Map<string, number>()
  return messages.map((message, index) => {
    if (message.role === 'tool') return callers.get(message.toolCallId) ?? index
    if (message.role === 'assistant') for (const { id } of message.toolCalls ?? []) callers.set(id, index)
    return index
  })
}

function mustStay(messages: readonly Message[], units: readonly number[]): Set<number> {
  const lastUser = messages.findLastIndex(({ role }) => role === 'user')
  const turn = lastUser === -1 ? messages.length - 1 : lastUser
  const kept = new Set<number>()
  for (const [index, message] of messages.entries()) {
    if (index >= turn || isPrompt(message)) kept.add(units[index] as number)
  }
  return kept
}

function overflow(
  limit: number,
  tokens: number,
  staying: readonly Message[],
  tools: readonly Tool[] | undefined
): MillraceError<'context-overflow'> {
  const prompts = staying.filter(isPrompt).length
  const parts = [`${staying.length - prompts} message(s) of the last turn`]
  if (prompts > 0) parts.unshift(`${prompts} system or developer message(s)`)
  if (tools !== undefined && tools.length > 0) parts.push(`${tools.length} tool(s)`)
  const what = parts.join(', ')
  return new MillraceError('context-overflow', `${what} cannot be left out and take ${tokens} tokens; the budget is ${limit}`, {
    details: { limit, tokens }
  })
}
