import {
  abortable,
  type BesideMessages,
  checkBeside,
  checkMessage,
  checkOptions,
  type Message,
  MillraceError,
  type Part,
  type ResponseFormat,
  type Tool,
  type ToolCall,
  type ToolChoice
} from '@millrace/core'
import { charged } from './charged.ts'
import { type Cut, type CutRules, cut } from './cut.ts'
import { isPrompt, maxTokens, uncountedParts } from './message.ts'
import type { Tokenizer } from './tokenizer.ts'
import { truncateText } from './truncate.ts'

export interface FitOptions {
  /** Tokens the messages and what is sent beside them may take together, the tokenizer's safety factor counted in. */
  readonly budget: number
  readonly tokenizer: Tokenizer
  /** Sent with the messages, so counted with them. @default none */
  readonly tools?: readonly Tool[] | undefined
  /** Likewise. @default none */
  readonly responseFormat?: ResponseFormat | undefined
  /** Likewise: to force or forbid a tool costs a few tokens. @default none */
  readonly toolChoice?: ToolChoice | undefined
  /** What goes first; `middle` keeps as many of the first turns as a quarter of the budget holds. @default 'oldest' */
  readonly drop?: 'oldest' | 'middle' | undefined
  /**
   * Share of the budget that may be dropped beyond need: so that the prompt begins the same for turns in a row, which
   * providers bill at a fraction, and so that what is left begins with a user's message, as some of them demand. With 0
   * nearly every turn of a full conversation begins in another way. @default 1/8
   */
  readonly slack?: number | undefined
}

export interface SummarizeOptions extends FitOptions {
  readonly summarize: Summarize
  /** Ends the wait for `summarize`, which is handed it too. */
  readonly signal?: AbortSignal | undefined
}

/**
 * Tells what the dropped messages said, in at most `budget` tokens (the safety factor counted in); a longer text is cut.
 * The text becomes the content of a user message as it is, so let it say what it is. It is asked each time `fit` drops
 * something: while the same messages are dropped, and `slack` sees to it that they often are, give the same text.
 */
export type Summarize = (
  dropped: readonly Message[],
  options: { readonly budget: number; readonly signal?: AbortSignal | undefined }
) => Promise<string> | string

/** The tokens are counted when they are asked for, which after `tokenizers.close()` is too late. */
export interface FitResult {
  /** The very array that was given, when nothing had to go. */
  readonly messages: readonly Message[]
  /** Messages left out. */
  readonly dropped: number
  /** Those messages, the oldest first. */
  readonly droppedMessages: readonly Message[]
  /** Only with `summarize` and something dropped: what became of it. `none`: there was no room for it, or it was empty. */
  readonly summary?: 'whole' | 'cut' | 'none'
  /** What `messages` take, tools included, times the safety factor. */
  readonly tokens: number
  /** How many fewer those are than before. Counts all that was dropped, which `fit` itself does not. */
  readonly saved: number
  /** Parts that stayed and are not in `tokens`, such as audio and files. */
  readonly uncounted: number
}

/** Of the budget, and tokens: what is kept free for a summary. */
const summaryShare = 1 / 8
const maxSummary = 1024

/**
 * Leaves out the oldest messages until the rest fits. Instructions (system and developer messages), the last user message
 * and all that follows it stay; an assistant message that calls tools stays or goes together with their results, and a
 * message is never cut. What is left begins with a user's message where one is near (see `slack`), and of a turn that is too
 * long to be dropped the question stays and the oldest of the answer goes. Messages marked for caching are not preferred: a
 * mark says where a beginning ends, and is worth nothing behind a gap.
 *
 * Counts no more than what stays, and only what it has not counted before. Nothing is changed in place.
 *
 * With `summarize` what is dropped becomes one user message in its place, which every provider takes anywhere; a system
 * message would give the words of users and tools the weight of instructions. What follows it is then an answer, where one
 * is near, so that the roles go on taking turns.
 *
 * @throws {MillraceError} `context-overflow` when what must stay does not fit; `details` holds `limit` and `tokens`
 * @throws {TypeError} when an option is wrong
 *
 * @example
 * const { messages, dropped } = fit(history, { budget: 8000, tokenizer: tokenizerFor('gpt-4.1') })
 */
export function fit(messages: readonly Message[], options: SummarizeOptions): Promise<FitResult>
export function fit(messages: readonly Message[], options: FitOptions): FitResult
export function fit(messages: readonly Message[], given: FitOptions | SummarizeOptions): FitResult | Promise<FitResult> {
  checkOptions<Required<SummarizeOptions>>('fit', given as Required<SummarizeOptions>, {
    budget: 1,
    tokenizer: 1,
    tools: 1,
    responseFormat: 1,
    toolChoice: 1,
    drop: 1,
    slack: 1,
    summarize: 1,
    signal: 1
  })
  const { budget, tokenizer } = given
  if (typeof tokenizer?.countMessages !== 'function')
    throw new TypeError("tokenizer must be a tokenizer, such as tokenizerFor('gpt-4.1')")
  if (!(typeof budget === 'number' && budget >= 0)) {
    throw new TypeError(`budget must be a number of tokens of at least 0, not ${String(budget)}`)
  }
  if (!Array.isArray(messages)) throw new TypeError('fit takes an array of messages; of a request write (request.messages, ...)')
  checkDropping(given)
  checkBeside(besideOf(given))
  for (const [index, message] of messages.entries()) if (!isOurs(message)) checkMessage(message, index)
  const options = { ...given, budget: Math.floor(budget) }
  return 'summarize' in options && options.summarize !== undefined ? summarized(messages, options) : fitChecked(messages, options)
}

/** `fit` of what has been checked, for a whole number of tokens. */
export function fitChecked(messages: readonly Message[], options: FitOptions): FitResult {
  return isProven(messages, options) ? whole(messages, options) : fitted(messages, options, planned(messages, options))
}

/** @throws {TypeError} when one of these options is wrong */
export function checkDropping({
  drop = 'oldest',
  slack = 0,
  summarize
}: Pick<FitOptions, 'drop' | 'slack'> & { readonly summarize?: Summarize | undefined }): void {
  if (drop !== 'oldest' && drop !== 'middle') throw new TypeError(`drop must be 'oldest' or 'middle', not ${String(drop)}`)
  if (!(slack >= 0 && slack < 1)) throw new TypeError(`slack must be a share of the budget from 0 to below 1, not ${slack}`)
  if (summarize !== undefined && typeof summarize !== 'function')
    throw new TypeError(`summarize must be a function of the dropped messages, not ${typeof summarize}`)
}

function besideOf({ tools, responseFormat, toolChoice }: FitOptions): BesideMessages {
  return { tools, responseFormat, toolChoice }
}

/** Whether the bytes alone show that all fits. Most histories that do not fit are given up after a few of them. */
function isProven(messages: readonly Message[], options: FitOptions): boolean {
  const { budget, tokenizer } = options
  let least = 0
  for (const message of messages) {
    if (typeof message.content === 'string') least += message.content.length
    if (least > budget) return false
  }
  return charged(maxTokens(messages, { ...besideOf(options), model: tokenizer.model }), tokenizer.safetyFactor) <= budget
}

const partTypes: ReadonlySet<unknown> = new Set(['image', 'audio', 'file', 'other'])

const messageKeys: ReadonlySet<string> = new Set(['role', 'content', 'name', 'toolCalls', 'toolCallId', 'extra'])
const roles: ReadonlySet<unknown> = new Set(['system', 'developer', 'user', 'assistant', 'tool'])

/** What the counting would refuse is not to pass because it seems short. Cheap; `checkMessage` tells what is wrong. */
function isOurs(message: Message): boolean {
  if (typeof message !== 'object' || message === null || !roles.has(message.role)) return false
  for (const key of Object.keys(message)) if (!messageKeys.has(key)) return false
  const { content } = message
  if (typeof content !== 'string' && !(Array.isArray(content) && content.every(isPart))) return false
  if (message.role === 'tool') return typeof message.toolCallId === 'string' && message.toolCallId !== ''
  if (message.role !== 'assistant' || message.toolCalls === undefined) return true
  return Array.isArray(message.toolCalls) && message.toolCalls.every(isCall)
}

function isPart(part: Part | null | undefined): boolean {
  if (part?.type === 'text' || part?.type === 'reasoning') return typeof part.text === 'string'
  return partTypes.has(part?.type)
}

function isCall(call: ToolCall | null | undefined): boolean {
  return typeof call?.id === 'string' && typeof call.name === 'string' && typeof call.arguments === 'string'
}

function whole(messages: readonly Message[], options: FitOptions): FitResult {
  return {
    messages,
    dropped: 0,
    droppedMessages: [],
    saved: 0,
    get tokens() {
      return charged(options.tokenizer.countMessages(messages, besideOf(options)), options.tokenizer.safetyFactor)
    },
    get uncounted() {
      return uncountedParts(messages, options.tokenizer.model)
    }
  }
}

function planned(messages: readonly Message[], options: FitOptions, rules?: Pick<CutRules, 'reserve' | 'behind'>): Cut {
  const { budget, tokenizer, drop = 'oldest', slack = 1 / 8 } = options
  const { reserve = 0, behind = 'user' } = rules ?? {}
  const found = cut(messages, { tokenizer, beside: besideOf(options), budget, reserve, drop, slack, behind })
  const tokens = charged(found.tokens, tokenizer.safetyFactor)
  if (tokens > budget) throw overflow(tokens, found.kept, options)
  return found
}

function fitted(
  messages: readonly Message[],
  options: FitOptions,
  { kept, dropped, tokens }: Cut,
  summary?: FitResult['summary']
): FitResult {
  if (dropped.length === 0) return whole(messages, options)
  const { tokenizer } = options
  const taken = charged(tokens, tokenizer.safetyFactor)
  return {
    messages: kept,
    dropped: dropped.length,
    droppedMessages: dropped,
    ...(summary === undefined ? {} : { summary }),
    tokens: taken,
    get saved() {
      return charged(tokenizer.countMessages(messages, besideOf(options)), tokenizer.safetyFactor) - taken
    },
    get uncounted() {
      return uncountedParts(kept, tokenizer.model)
    }
  }
}

/** The same with a summary. */
export async function summarized(messages: readonly Message[], options: SummarizeOptions): Promise<FitResult> {
  const { budget, tokenizer, summarize, signal } = options
  signal?.throwIfAborted()
  if (isProven(messages, options) || planned(messages, options).dropped.length === 0) return whole(messages, options)
  const reserve = Math.min(maxSummary, Math.floor(budget * summaryShare))
  const found = planned(messages, options, { reserve, behind: 'assistant' })

  const { safetyFactor } = tokenizer
  const frame = tokenizer.countMessages([{ role: 'user', content: '' }]) - tokenizer.countMessages([])
  // The same each time, and not all that happens to be free: the same messages should be told in the same words.
  const room = Math.floor(Math.min(reserve, budget - found.tokens * safetyFactor) - frame * safetyFactor)
  if (room < 1) return fitted(messages, options, found, 'none')
  const told: unknown = await abortable(Promise.resolve(summarize(found.dropped, { budget: room, signal })), signal)
  if (typeof told !== 'string') throw new TypeError(`summarize must give a string, not ${typeof told}`)
  const content = truncateText(told, { tokenizer, budget: room })
  if (content === '') return fitted(messages, options, found, 'none')

  let place = found.gap
  // Not between a call and its results, which the messages between them may have left.
  while (found.kept[place]?.role === 'tool') place++
  const kept = found.kept.toSpliced(place, 0, { role: 'user', content })
  const tokens = found.tokens + frame + tokenizer.count(content)
  return fitted(messages, options, { ...found, kept, tokens }, content === told ? 'whole' : 'cut')
}

function overflow(tokens: number, kept: readonly Message[], options: FitOptions): MillraceError<'context-overflow'> {
  const { budget: limit, tools, responseFormat } = options
  const prompts = kept.filter(isPrompt).length
  const parts = [`${kept.length - prompts} message(s) of the last turn`]
  if (prompts > 0) parts.unshift(`${prompts} system or developer message(s)`)
  if (tools !== undefined && tools.length > 0) parts.push(`${tools.length} tool(s)`)
  if (responseFormat?.type === 'json-schema') parts.push('the schema of the answer')
  const message = `${parts.join(', ')} cannot be left out and take ${tokens} tokens; the budget is ${limit}`
  return new MillraceError('context-overflow', message, { details: { limit, tokens } })
}
