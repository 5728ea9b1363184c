import { type ChatRequest, type Json, type JsonObject, type Message, type Part, type PromptMessage } from '@millrace/core'
import { refuse } from './fields.ts'

export interface OpenAIRequestOptions {
  readonly stream: boolean
  readonly maxTokensField: 'max_completion_tokens' | 'max_tokens'
}

/** A request in OpenAI's words. @throws {MillraceError} `invalid-request` for what one choice a call cannot carry */
export function writeOpenAIRequest(request: ChatRequest, { stream, maxTokensField }: OpenAIRequestOptions): JsonObject {
  const { model, messages, tools, toolChoice, responseFormat, maxOutputTokens, temperature, topP, stop, seed, extra } = request
  if (extra !== undefined) checkExtra(extra)
  return {
    ...extra,
    model,
    messages: messages.map(writeMessage),
    tools: tools?.map(({ name, description, parameters, strict, extra: more }) => ({
      type: 'function',
      function: { name, description, parameters, strict },
      ...more
    })),
    tool_choice:
      typeof toolChoice === 'object' ? { type: 'function', function: toolChoice as JsonObject & { name: string } } : toolChoice,
    response_format: writeFormat(responseFormat),
    [maxTokensField]: maxOutputTokens,
    temperature,
    top_p: topP,
    stop,
    seed,
    // The last chunk of a stream tells the usage only when asked to.
    ...(stream ? { stream, stream_options: { include_usage: true, ...(extra?.stream_options as JsonObject | undefined) } } : {})
  }
}

function checkExtra(extra: JsonObject): void {
  for (const key of ours)
    if (extra[key] !== undefined) throw refuse(`extra.${key}`, 'has a field of its own in the request; set that instead')
  if (extra.n !== undefined && extra.n !== 1) {
    throw refuse('extra.n', 'asks for several choices, which one answer cannot carry; use transport.fetch or cache.fetch')
  }
}

const ours = [
  'model',
  'messages',
  'tools',
  'tool_choice',
  'response_format',
  'max_completion_tokens',
  'max_tokens',
  'temperature',
  'top_p',
  'stop',
  'seed',
  'stream'
]

function writeFormat(format: ChatRequest['responseFormat']): JsonObject | undefined {
  if (format === undefined) return undefined
  if (format.type === 'text') return { type: 'text' }
  if (format.type === 'json') return { type: 'json_object' }
  const { name, schema, description, strict } = format
  return { type: 'json_schema', json_schema: { name, schema, description, strict } }
}

function writeMessage(message: Message): JsonObject {
  // Most messages are a role and a text, which is what the API calls them too.
  if (
    typeof message.content === 'string' &&
    message.extra === undefined &&
    message.role !== 'assistant' &&
    message.role !== 'tool'
  ) {
    return message as JsonObject & PromptMessage
  }
  const content =
    typeof message.content === 'string'
      ? message.content
      : message.content.filter((part) => part.type !== 'reasoning').map(writePart)
  if (message.role === 'tool') return { role: 'tool', tool_call_id: message.toolCallId, content, ...message.extra }
  const named = { role: message.role, name: message.name }
  if (message.role !== 'assistant' || message.toolCalls === undefined) return { ...named, content, ...message.extra }
  return {
    ...named,
    content: content.length === 0 ? null : content,
    tool_calls: message.toolCalls.map((call) => ({
      id: call.id,
      type: 'function',
      function: { name: call.name, arguments: call.arguments }
    })),
    ...message.extra
  }
}

function writePart(part: Part): Json {
  switch (part.type) {
    case 'text':
      return { type: 'text', text: part.text, ...part.extra }
    case 'image':
      return { type: 'image_url', image_url: { url: part.url, detail: part.detail }, ...part.extra }
    case 'audio':
      return { type: 'input_audio', input_audio: { data: part.data, format: part.format }, ...part.extra }
    case 'file':
      return { type: 'file', file: { file_id: part.fileId, file_data: part.url, filename: part.filename }, ...part.extra }
    case 'other':
      return part.value
    case 'reasoning':
      return null // filtered out above
  }
}
