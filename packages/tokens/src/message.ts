import type { Message, ResponseFormat, Tool } from '@millrace/core'
import { maxPriming } from './model.ts'
import type { BesideMessages } from './tokenizer.ts'
import { toolText } from './tool-text.ts'

// OpenAI's rule: each message is wrapped in three tokens and its role is one.
const perMessage = 4
/** Around a call: it is written as a message to the tool. */
const perToolCall = 7
/** Parallel calls are written as one call of a tool that takes them as JSON. */
const parallelToolCalls = 16
const perToolList = 9
/** With a system message the list of tools is put into it, and saves one of its own. */
const toolListInSystem = -3

type Count = (text: string) => number

/** Tokens of one message, without what is charged once a request. */
export function messageTokens(message: Message, count: Count): number {
  let tokens = perMessage + count(textOf(message))
  if ('name' in message && message.name !== undefined) tokens += count(message.name) + (message.name === message.role ? 0 : 1)
  if (message.role !== 'assistant' || message.toolCalls === undefined) return tokens
  for (const call of message.toolCalls) tokens += perToolCall + count(call.name) + count(call.arguments)
  return message.toolCalls.length > 1 ? tokens + parallelToolCalls : tokens
}

/** Tokens that the tools add to a request of these messages. */
export function toolTokens(tools: readonly Tool[] | undefined, messages: readonly Message[], count: Count): number {
  if (tools === undefined || tools.length === 0) return 0
  return perToolList + count(toolText(tools)) + (messages.some(isPrompt) ? toolListInSystem : 0)
}

/** Around the schema of a structured answer; what the API charges for eight such requests stays below it. */
const perResponseFormat = 8

/** Tokens that the schema of a structured answer adds to a request. */
export function formatTokens(format: ResponseFormat | undefined, count: Count): number {
  return format?.type === 'json-schema' ? perResponseFormat + count(JSON.stringify(format)) : 0
}

/** Whether the message gives the model its instructions. */
export function isPrompt(message: Message): boolean {
  return message.role === 'system' || message.role === 'developer'
}

/**
 * How many parts of these messages are not counted: images, audio, files and parts the contract has no name for. What
 * they cost depends on the model and the provider, and counting their base64 as text would be wrong by a hundredfold.
 *
 * @example
 * if (uncountedParts(request.messages) > 0) console.warn('the count leaves out the images')
 */
export function uncountedParts(messages: readonly Message[]): number {
  let parts = 0
  for (const { content } of messages) {
    if (typeof content === 'string') continue
    for (const { type } of content) if (type !== 'text' && type !== 'reasoning') parts++
  }
  return parts
}

/** A count that no tokenizer exceeds, without loading one: a token is at least one byte. */
export function maxTokens(messages: readonly Message[], { tools, responseFormat }: BesideMessages): number {
  let most = maxPriming + formatTokens(responseFormat, Buffer.byteLength) + (tools === undefined || tools.length === 0 ? 0 : perToolList + Buffer.byteLength(toolText(tools)))
  for (const message of messages) most += messageTokens(message, Buffer.byteLength)
  return most
}

function textOf({ content }: Message): string {
  if (typeof content === 'string') return content
  let text = ''
  for (const part of content) if (part.type === 'text' || part.type === 'reasoning') text += part.text
  return text
}
