import { type ChatRequest, type Json, type JsonObject, type Message, type Part, parseJson } from '@millrace/core'
import { refuse } from './fields.ts'

export interface AnthropicRequestOptions {
  readonly stream: boolean
  readonly maxOutputTokens: number
}

/** A request in Anthropic's words. @throws {MillraceError} `invalid-request` for what the API cannot carry */
export function writeAnthropicRequest(request: ChatRequest, { stream, maxOutputTokens }: AnthropicRequestOptions): JsonObject {
  const { model, messages, tools, toolChoice, responseFormat, temperature, topP, stop, seed, extra = {} } = request
  if (seed !== undefined) throw refuse('seed', 'is unknown to the Messages API; leave it out')
  for (const key of ofOpenAI)
    if (extra[key] !== undefined) throw refuse(`extra.${key}`, 'is a field of OpenAI that the Messages API does not know')
  for (const key of ours)
    if (extra[key] !== undefined) throw refuse(`extra.${key}`, 'has a field of its own in the request; set that instead')
  const system = messages.filter(isSystem).flatMap((message) => blocksOf(message))
  return {
    ...extra,
    model,
    max_tokens: request.maxOutputTokens ?? maxOutputTokens,
    system: system.length > 0 ? system : undefined,
    messages: writeTurns(messages.filter((message) => !isSystem(message))),
    tools: tools?.map(({ name, description, parameters, extra: more }) => ({
      name,
      description,
      input_schema: parameters ?? { type: 'object' },
      ...more
    })),
    tool_choice: writeToolChoice(toolChoice),
    output_config: writeOutputConfig(responseFormat, extra.output_config),
    temperature,
    top_p: topP,
    stop_sequences: stop,
    ...(stream ? { stream } : {})
  }
}

const ours = [
  'model',
  'messages',
  'system',
  'max_tokens',
  'tools',
  'tool_choice',
  'temperature',
  'top_p',
  'stop_sequences',
  'stream'
]
const ofOpenAI = [
  'audio',
  'frequency_penalty',
  'logit_bias',
  'logprobs',
  'modalities',
  'n',
  'parallel_tool_calls',
  'prediction',
  'presence_penalty',
  'reasoning_effort',
  'store',
  'stream_options',
  'top_logprobs',
  'user',
  'verbosity'
]

const isSystem = ({ role }: Message): boolean => role === 'system' || role === 'developer'

/** Results of tools are blocks of a user turn, all in the turn right behind their calls; equal roles in a row are one turn. */
function writeTurns(messages: readonly Message[]): JsonObject[] {
  const turns: { role: 'user' | 'assistant'; content: Json[] }[] = []
  for (const message of messages) {
    const role = message.role === 'assistant' ? 'assistant' : 'user'
    const last = turns.at(-1)
    if (last?.role === role) last.content.push(...blocksOf(message))
    else turns.push({ role, content: blocksOf(message) })
  }
  return turns
}

function blocksOf(message: Message): Json[] {
  const content: Json[] =
    typeof message.content === 'string'
      ? message.content === ''
        ? []
        : [{ type: 'text', text: message.content, ...message.extra }]
      : message.content.flatMap((part) => writePart(part))
  if (message.role === 'tool') return [{ type: 'tool_result', tool_use_id: message.toolCallId, content, ...message.extra }]
  if (message.role !== 'assistant' || message.toolCalls === undefined) return content
  const calls = message.toolCalls.map(({ id, name, arguments: text }) => {
    const input = parseJson(text === '' ? '{}' : text)
    if (input === undefined) throw refuse('messages.toolCalls.arguments', 'must be JSON: the Messages API takes the parsed value')
    return { type: 'tool_use', id, name, input }
  })
  return [...content, ...calls]
}

function writePart(part: Part): Json[] {
  switch (part.type) {
    case 'text':
      return [{ type: 'text', text: part.text, ...part.extra }]
    case 'image':
      return [{ type: 'image', source: sourceOf(part.url), ...part.extra }]
    case 'file':
      return [
        {
          type: 'document',
          source: part.fileId === undefined ? sourceOf(part.url ?? '') : { type: 'file', file_id: part.fileId },
          title: part.filename,
          ...part.extra
        }
      ]
    case 'reasoning':
      return part.signature === undefined
        ? []
        : [{ type: 'thinking', thinking: part.text, signature: part.signature, ...part.extra }]
    case 'other':
      return [part.value]
    case 'audio':
      throw refuse('messages.content', 'holds an audio part, which the Messages API does not take')
  }
}

function sourceOf(url: string): JsonObject {
  // A data URL is cut by position: a regular expression over megabytes of base64 is slow.
  const comma = url.indexOf(';base64,')
  if (!url.startsWith('data:') || comma === -1) return { type: 'url', url }
  return { type: 'base64', media_type: url.slice(5, comma), data: url.slice(comma + 8) }
}

function writeToolChoice(choice: ChatRequest['toolChoice']): JsonObject | undefined {
  if (choice === undefined) return undefined
  if (typeof choice === 'object') return { type: 'tool', name: choice.name }
  return { type: choice === 'required' ? 'any' : choice }
}

function writeOutputConfig(format: ChatRequest['responseFormat'], given: Json | undefined): Json | undefined {
  if (format === undefined || format.type === 'text') return given
  if (format.type === 'json')
    throw refuse('responseFormat', "is 'json', but the Messages API takes JSON only by a schema: use 'json-schema'")
  return { ...(given as JsonObject | undefined), format: { type: 'json_schema', schema: format.schema } }
}
