import type { AssistantMessage, BesideMessages, Message, Part, ToolCall, ToolMessage } from '@millrace/core'
import { compactJson, formatText, parallelCallText, parallelResultText } from './call-text.ts'
import { dearest, type ModelRule, ruleOf } from './model.ts'
import { toolText } from './tool-text.ts'

// What the chat format adds, found by taking the tokens of the texts away from what the API charged. Written down for the
// model, a message is <|im_start|>, its role, <|im_sep|>, its content and <|im_end|>.
const perMessage = 4
/** A call goes to its tool: the role is `assistant to=functions.name`. */
const perToolCall = 6
const perToolResult = 6
/** Parallel calls and their results go to and come from one tool named multi_tool_use.parallel. */
const perParallel = 10
/** Tools and the schema of the answer stand in the first system message, or in one of their own. */
const perToolList = -1
const perResponseFormat = 4
/** Forced to call one tool, the model finds the name written for it already. */
const perForcedTool = 4
const perToolsForbidden = 1

// Reasoning models write more: channels, and for results also the tool's name. Only the start of the answer is shorter.
const chat = { start: 3, answer: 0, call: 0, result: 0 }
const harmony = { start: 2, answer: 2, call: 4, result: 2 }

type Count = (text: string) => number

/** What is counted, and how to come to terms with JSON. */
export interface Measure {
  readonly text: Count
  readonly compact: Count
  readonly parallelCalls: (calls: readonly ToolCall[]) => number
  readonly parallelResult: (result: string, opening: '[' | ' ') => number
}

/** In tokens. Both are to remember what they counted: to write down a `listedResult` costs more than to count it. */
export function measuring(text: Count, listed: Count): Measure {
  return {
    text,
    compact: (json) => text(compactJson(json)),
    parallelCalls: (calls) => text(parallelCallText(calls)),
    parallelResult: (result, opening) => listed(opening + result)
  }
}

/** A result of parallel calls in the list of them, whose opening character stands before it here. */
export function listedResult(result: string): string {
  // A piece ends between the comma and the space, so that these add up to the count of the whole list.
  return `${result[0]}${parallelResultText(result.slice(1))},`
}

/** Without parsing or escaping anything: a character is at most six when escaped, and a token is at least a byte. */
const bytes: Measure = {
  text: Buffer.byteLength,
  compact: Buffer.byteLength,
  parallelCalls: (calls) => calls.reduce((sum, call) => sum + Buffer.byteLength(call.name + call.arguments) + 60, 20),
  parallelResult: (result) => 6 * Buffer.byteLength(result) + 4
}

/** Tokens of one message by itself, the same for every model of a vocabulary. Images are not in it. */
export function messageTokens(message: Message, measure: Measure): number {
  const text = textOf(message)
  if (message.role === 'tool') return perToolResult + measure.text(text)
  const name = message.name === undefined ? 0 : measure.text(message.name) + (message.name === message.role ? 0 : 1)
  const calls = callsOf(message)
  if (calls === undefined) return perMessage + measure.text(text) + name
  // Text beside calls is a message before them.
  return (text === '' ? 0 : perMessage + measure.text(text)) + name + callTokens(calls, measure)
}

function callTokens(calls: readonly ToolCall[], measure: Measure): number {
  const [first, second] = calls
  if (second !== undefined) return perParallel + measure.parallelCalls(calls)
  return first === undefined ? 0 : perToolCall + measure.text(toolName(first.name)) + measure.compact(first.arguments)
}

/**
 * Tokens of a request beyond its messages' own: what stands before, between and after them, the tools, the schema of the
 * answer, images. Parallel results cost what they do only beside their calls, so that is here too: what belongs together
 * must be counted together.
 *
 * @throws {MillraceError} `invalid-request` for a schema that has a cycle
 */
export function requestTokens(messages: readonly Message[], beside: BesideMessages, rule: ModelRule, measure: Measure): number {
  const wrap = rule.layout === 'harmony' ? harmony : chat
  let tokens = rule.perRequest + wrap.start + besideTokens(messages, beside, rule, measure)
  const callers = new Map<string, AssistantMessage>()
  const answered = new Set<AssistantMessage>()
  const names = new Map<string, number>()
  /** Of the tool that answers; few tools answer many calls. */
  function nameTokens(name: string): number {
    const known = names.get(name) ?? measure.text(rule.layout === 'chat' ? name : toolName(name))
    names.set(name, known)
    return known
  }

  /** What the call that a result answers adds to it. */
  function resultTokens(message: ToolMessage): number {
    const caller = callers.get(message.toolCallId)
    const calls = caller?.toolCalls ?? []
    if (caller !== undefined && calls.length > 1) {
      const isFirst = !answered.has(caller)
      answered.add(caller)
      const text = textOf(message)
      return (isFirst ? perParallel : 0) + measure.parallelResult(text, isFirst ? '[' : ' ') - perToolResult - measure.text(text)
    }
    const call = calls.find(({ id }) => id === message.toolCallId)
    return wrap.result + (call === undefined ? 0 : nameTokens(call.name))
  }

  for (const message of messages) {
    if (message.role === 'assistant') {
      const calls = callsOf(message)
      if (calls === undefined || textOf(message) !== '') tokens += wrap.answer
      if (calls !== undefined) tokens += wrap.call
      for (const call of calls ?? []) callers.set(call.id, message)
      answered.delete(message)
    } else if (message.role === 'tool') {
      tokens += resultTokens(message)
    }
    if (typeof message.content !== 'string') tokens += imageTokens(message.content, rule)
  }
  return tokens
}

function besideTokens(
  messages: readonly Message[],
  { tools = [], toolChoice, responseFormat }: BesideMessages,
  rule: ModelRule,
  { text: count }: Measure
): number {
  let tokens = 0
  if (tools.length > 0) {
    tokens += rule.perToolList + perToolList + count(toolText(tools, rule.encoding === 'o200k_base' ? 'lines' : 'inline'))
    if (toolChoice === 'none') tokens += perToolsForbidden
    else if (typeof toolChoice === 'object') tokens += perForcedTool + count(toolChoice.name)
  }
  if (responseFormat?.type === 'json-schema') {
    tokens += perResponseFormat + count(formatText(responseFormat)) + (tools.length > 0 ? 1 : 0)
  } else if (tools.length === 0) return 0
  const prompt = rule.layout === 'chat' ? messages.find(isPrompt) : undefined
  return tokens + (prompt === undefined ? perMessage : joint(textOf(prompt), count))
}

/** What an empty line behind a text costs: often nothing, as it merges with a full stop. */
function joint(text: string, count: Count): number {
  const end = /[^\p{L}\p{M}\p{N}]*$/u.exec(text.slice(-64))?.[0] ?? ''
  return count(`${end}\n\n`) - count(end)
}

function imageTokens(parts: readonly Part[], { image }: ModelRule): number {
  let tokens = 0
  for (const part of parts) if (part.type === 'image') tokens += image?.(part) ?? 0
  return tokens
}

/** Whether the message gives the model its instructions. */
export function isPrompt(message: Message): boolean {
  return message.role === 'system' || message.role === 'developer'
}

/**
 * How many parts of these messages are not counted: audio, files, parts the contract has no name for, and images whose
 * size or whose price is not known (one at an https address, or for a model without a published rule). Counting their
 * base64 as text would be wrong by a hundredfold. Without a model, no image counts as known.
 *
 * @example
 * if (uncountedParts(request.messages, request.model) > 0) console.warn('the count leaves something out')
 */
export function uncountedParts(messages: readonly Message[], model?: string): number {
  const image = model === undefined ? undefined : ruleOf(model).image
  let parts = 0
  for (const { content } of messages) {
    if (typeof content === 'string') continue
    for (const part of content) {
      if (part.type === 'image' ? image?.(part) === undefined : part.type !== 'text' && part.type !== 'reasoning') parts++
    }
  }
  return parts
}

/**
 * A count that no tokenizer of this model (without one: of any model) exceeds, and that loads none: a token is at least one
 * byte.
 */
export function maxTokens(
  messages: readonly Message[],
  request: BesideMessages & { readonly model?: string | undefined }
): number {
  let most = requestTokens(messages, request, request.model === undefined ? dearest : ruleOf(request.model), bytes)
  for (const message of messages) most += messageTokens(message, bytes)
  return most
}

function textOf({ content }: Message): string {
  if (typeof content === 'string') return content
  let text = ''
  for (const part of content) if (part.type === 'text' || part.type === 'reasoning') text += part.text
  return text
}

function callsOf(message: Message): readonly ToolCall[] | undefined {
  return message.role === 'assistant' && message.toolCalls !== undefined && message.toolCalls.length > 0
    ? message.toolCalls
    : undefined
}

function toolName(name: string): string {
  return `functions.${name}`
}
