import {
  type ChatRequest,
  type Extra,
  isJsonObject,
  type Json,
  type JsonObject,
  type Message,
  type Part,
  type Tool,
  type ToolCall
} from '@millrace/core'

/** Fields of OpenAI's request that have a place of their own; all others travel in `extra`. */
const named = [
  'n',
  'model',
  'messages',
  'tools',
  'tool_choice',
  'response_format',
  'max_tokens',
  'max_completion_tokens',
  'temperature',
  'top_p',
  'stop',
  'seed',
  'stream',
  'stream_options'
]

/** A shape the contract has no words for; the request is then passed on to the provider untouched. */
class Foreign extends Error {}

/**
 * OpenAI's chat request as one of ours, or `undefined` for what only the provider understands: several choices, custom
 * tools, fields and parts that came later. No field is dropped: what has no name in the contract travels in an `extra`, and
 * where there is none the whole request is foreign. Wrong values are carried over; core's check names them.
 */
export function readRequest(body: JsonObject): ChatRequest | undefined {
  try {
    return readBody(body)
  } catch (error) {
    if (error instanceof Foreign) return undefined
    throw error
  }
}

function readBody(body: JsonObject): ChatRequest {
  if ((body.n ?? 1) !== 1 || typeof (body.stream ?? false) !== 'boolean') throw new Foreign()
  // The contract has one bound; which of two different ones holds is the provider's to say.
  if (isGiven(body.max_tokens) && isGiven(body.max_completion_tokens)) throw new Foreign()
  // Their answers come in pieces of an `extra` that only the client knows how to join.
  if (isGiven(body.functions) || isGiven(body.audio)) throw new Foreign()
  const streamOptions = readStreamOptions(body.stream_options ?? {})
  const extra = { ...rest(body, named), ...(streamOptions === undefined ? {} : { stream_options: streamOptions }) }
  return withoutUndefined({
    model: body.model as string,
    messages: Array.isArray(body.messages) ? body.messages.map(readMessage) : (body.messages as never),
    tools: Array.isArray(body.tools) ? body.tools.map(readTool) : ((body.tools ?? undefined) as never),
    toolChoice: readToolChoice(body.tool_choice ?? undefined),
    responseFormat: readFormat(body.response_format ?? undefined),
    maxOutputTokens: (body.max_completion_tokens ?? body.max_tokens ?? undefined) as number | undefined,
    temperature: (body.temperature ?? undefined) as number | undefined,
    topP: (body.top_p ?? undefined) as number | undefined,
    stop: typeof body.stop === 'string' ? [body.stop] : ((body.stop ?? undefined) as readonly string[] | undefined),
    seed: (body.seed ?? undefined) as number | undefined,
    extra: Object.keys(extra).length > 0 ? extra : undefined
  })
}

/** What remains for the provider: the usage is always asked of it, and told to the client that asked for it. */
function readStreamOptions(options: Json): Extra | undefined {
  if (!isJsonObject(options) || typeof (options.include_usage ?? false) !== 'boolean') throw new Foreign()
  return rest(options, ['include_usage'])
}

function readMessage(message: Json): Message {
  if (!isJsonObject(message)) return message as never
  const { role, content, tool_calls: calls } = message
  if (role === 'function' || isGiven(message.function_call)) throw new Foreign()
  // The contract has a name for those who speak; a tool's goes along as it is.
  const ours = ['role', 'content', 'tool_calls', 'tool_call_id', ...(role === 'tool' ? [] : ['name'])]
  return withoutUndefined({
    role: role as Message['role'],
    content: role === 'assistant' ? readAnswer(content, calls) : readContent(content),
    name: role === 'tool' ? undefined : ((message.name ?? undefined) as string | undefined),
    toolCallId: (message.tool_call_id ?? undefined) as string | undefined,
    toolCalls: Array.isArray(calls) ? calls.map(readToolCall) : ((calls ?? undefined) as never),
    extra: rest(message, ours)
  }) as Message
}

/** An assistant's content may be null: the contract has `''` for it beside tool calls, and nothing without them. */
function readAnswer(content: Json | undefined, calls: Json | undefined): Message['content'] {
  if (isGiven(content)) return readContent(content)
  if (!isGiven(calls)) throw new Foreign()
  return ''
}

function readContent(content: Json | undefined): Message['content'] {
  if (!Array.isArray(content)) return (content ?? undefined) as string
  // Beside tool calls it would go out as null.
  if (content.length === 0) throw new Foreign()
  return content.map(readPart)
}

function readToolCall(call: Json): ToolCall {
  if (!isJsonObject(call) || call.type !== 'function' || !isJsonObject(call.function)) throw new Foreign()
  hasOnly(call, ['id', 'type', 'function'])
  hasOnly(call.function, ['name', 'arguments'])
  return { id: call.id as string, name: call.function.name as string, arguments: call.function.arguments as string }
}

/** A part with more inside than the contract has names for is carried whole, as one of another kind. */
function readPart(part: Json): Part {
  if (!isJsonObject(part)) return part as never
  if (part.type === 'text' && typeof part.text === 'string') {
    return withoutUndefined({ type: 'text' as const, text: part.text, extra: rest(part, ['type', 'text']) })
  }
  const { image_url: image, input_audio: audio } = part
  if (part.type === 'image_url' && isJsonObject(image) && rest(image, ['url', 'detail']) === undefined && isText(image.url)) {
    const detail = image.detail ?? undefined
    if (detail === undefined || detail === 'low' || detail === 'high' || detail === 'auto') {
      return withoutUndefined({ type: 'image' as const, url: image.url, detail, extra: rest(part, ['type', 'image_url']) })
    }
  }
  if (part.type === 'input_audio' && isJsonObject(audio) && rest(audio, ['data', 'format']) === undefined) {
    const { data, format } = audio
    if (typeof data === 'string' && isText(format)) {
      return withoutUndefined({ type: 'audio' as const, data, format, extra: rest(part, ['type', 'input_audio']) })
    }
  }
  return { type: 'other', value: part }
}

function readTool(tool: Json): Tool {
  if (!isJsonObject(tool) || tool.type !== 'function' || !isJsonObject(tool.function)) throw new Foreign()
  const { name, description, parameters, strict } = tool.function
  hasOnly(tool.function, ['name', 'description', 'parameters', 'strict'])
  return withoutUndefined({
    name: name as string,
    description: (description ?? undefined) as string | undefined,
    parameters: (parameters ?? undefined) as JsonObject | undefined,
    strict: (strict ?? undefined) as boolean | undefined,
    extra: rest(tool, ['type', 'function'])
  })
}

function readToolChoice(choice: Json | undefined): ChatRequest['toolChoice'] {
  if (choice === undefined || choice === 'auto' || choice === 'none' || choice === 'required') return choice
  if (!isJsonObject(choice) || choice.type !== 'function' || !isJsonObject(choice.function)) throw new Foreign()
  hasOnly(choice, ['type', 'function'])
  hasOnly(choice.function, ['name'])
  return { name: choice.function.name as string }
}

function readFormat(format: Json | undefined): ChatRequest['responseFormat'] {
  if (!isJsonObject(format)) return format as undefined
  if (format.type === 'json_schema') return readSchema(format)
  hasOnly(format, ['type'])
  if (format.type === 'text') return { type: 'text' }
  if (format.type === 'json_object') return { type: 'json' }
  throw new Foreign()
}

function readSchema(format: JsonObject): ChatRequest['responseFormat'] {
  hasOnly(format, ['type', 'json_schema'])
  // The contract wants a schema; OpenAI does without.
  if (!isJsonObject(format.json_schema) || !isGiven(format.json_schema.schema)) throw new Foreign()
  const { name, schema, description, strict } = format.json_schema
  hasOnly(format.json_schema, ['name', 'schema', 'description', 'strict'])
  return withoutUndefined({
    type: 'json-schema' as const,
    name: name as string,
    schema: schema as JsonObject,
    description: (description ?? undefined) as string | undefined,
    strict: (strict ?? undefined) as boolean | undefined
  })
}

/** Null counts as absent, as OpenAI has it. */
function isGiven(value: Json | undefined): boolean {
  return value !== undefined && value !== null
}

function isText(value: Json | undefined): value is string {
  return typeof value === 'string' && value !== ''
}

/** The fields beside those we know; `undefined` when there are none. */
function rest(object: JsonObject, known: readonly string[]): Extra | undefined {
  const entries = Object.entries(object).filter(([key, value]) => isGiven(value) && !known.includes(key))
  return entries.length > 0 ? (Object.fromEntries(entries) as Extra) : undefined
}

function hasOnly(object: JsonObject, known: readonly string[]): void {
  if (rest(object, known) !== undefined) throw new Foreign()
}

/** Keys without a value are left out, as `exactOptionalPropertyTypes` and a stable cache key want it. */
function withoutUndefined<T extends object>(value: T): T {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined)) as T
}
