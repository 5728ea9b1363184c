import { type ChatRequest, isJsonObject, type Json, type JsonObject, type Message, type Part, type Tool } from '@millrace/core'

/** Fields of OpenAI's request that have a name of their own in the contract; all others travel in `extra`. */
const named = new Set([
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
])

/** A shape the contract has no words for; the request is then passed on to the provider untouched. */
class Foreign extends Error {}

/**
 * OpenAI's chat request as one of ours, or `undefined` for what only the provider understands: several choices, custom
 * tools, parts and roles that came later. Wrong values are carried over; core's check names them.
 */
export function readRequest(body: JsonObject): ChatRequest | undefined {
  if (body.n !== undefined && body.n !== 1) return undefined
  const extra = Object.fromEntries(Object.entries(body).filter(([key, value]) => !named.has(key) && value !== null)) as Record<
    string,
    Json
  >
  delete extra.n
  try {
    return withoutUndefined({
      model: body.model as string,
      messages: Array.isArray(body.messages) ? body.messages.map(readMessage) : (body.messages as never),
      tools: Array.isArray(body.tools) ? body.tools.map(readTool) : undefined,
      toolChoice: readToolChoice(body.tool_choice ?? undefined),
      responseFormat: readFormat(body.response_format ?? undefined),
      maxOutputTokens: (body.max_completion_tokens ?? body.max_tokens ?? undefined) as number | undefined,
      temperature: (body.temperature ?? undefined) as number | undefined,
      topP: (body.top_p ?? undefined) as number | undefined,
      stop: typeof body.stop === 'string' ? [body.stop] : ((body.stop ?? undefined) as readonly string[] | undefined),
      seed: (body.seed ?? undefined) as number | undefined,
      extra: Object.keys(extra).length > 0 ? extra : undefined
    })
  } catch (error) {
    if (error instanceof Foreign) return undefined
    throw error
  }
}

/** What answers carry and requests need not. */
const answered: ReadonlySet<string> = new Set(['refusal', 'audio', 'annotations', 'function_call'])

function readMessage(message: Json): Message {
  if (!isJsonObject(message)) return message as never
  const { role, content, tool_calls: calls, tool_call_id: toolCallId, ...extra } = message
  if (role === 'function' || isJsonObject(message.function_call)) throw new Foreign()
  const rest = Object.fromEntries(
    Object.entries(extra).filter(([key, value]) => key !== 'name' && value !== null && !answered.has(key))
  )
  return withoutUndefined({
    role: role as Message['role'],
    content:
      content === null || content === undefined ? '' : Array.isArray(content) ? content.map(readPart) : (content as string),
    name: role === 'tool' ? undefined : ((message.name ?? undefined) as string | undefined),
    toolCallId: toolCallId as string | undefined,
    toolCalls: Array.isArray(calls) ? calls.map(readToolCall) : undefined,
    extra: Object.keys(rest).length > 0 ? rest : undefined
  }) as Message
}

function readToolCall(call: Json): { id: string; name: string; arguments: string } {
  if (!isJsonObject(call) || !isJsonObject(call.function)) throw new Foreign()
  return { id: call.id as string, name: call.function.name as string, arguments: call.function.arguments as string }
}

function readPart(part: Json): Part {
  if (!isJsonObject(part)) return part as never
  const image = isJsonObject(part.image_url) ? part.image_url : {}
  const audio = isJsonObject(part.input_audio) ? part.input_audio : {}
  if (part.type === 'text' && typeof part.text === 'string') return { type: 'text', text: part.text }
  if (part.type === 'image_url' && typeof image.url === 'string') {
    return withoutUndefined({ type: 'image' as const, url: image.url, detail: image.detail as 'auto' | undefined })
  }
  if (part.type === 'input_audio' && typeof audio.data === 'string') {
    return { type: 'audio', data: audio.data, format: audio.format as string }
  }
  return { type: 'other', value: part }
}

function readTool(tool: Json): Tool {
  if (!isJsonObject(tool) || tool.type !== 'function' || !isJsonObject(tool.function)) throw new Foreign()
  const { name, description, parameters, strict } = tool.function
  return withoutUndefined({
    name: name as string,
    description: (description ?? undefined) as string | undefined,
    parameters: (parameters ?? undefined) as JsonObject | undefined,
    strict: (strict ?? undefined) as boolean | undefined
  })
}

function readToolChoice(choice: Json | undefined): ChatRequest['toolChoice'] {
  if (choice === undefined || choice === 'auto' || choice === 'none' || choice === 'required') return choice
  if (!isJsonObject(choice) || choice.type !== 'function' || !isJsonObject(choice.function)) throw new Foreign()
  return { name: choice.function.name as string }
}

function readFormat(format: Json | undefined): ChatRequest['responseFormat'] {
  if (!isJsonObject(format)) return format as undefined
  if (format.type === 'text') return { type: 'text' }
  if (format.type === 'json_object') return { type: 'json' }
  if (format.type !== 'json_schema' || !isJsonObject(format.json_schema)) throw new Foreign()
  const { name, schema, description, strict } = format.json_schema
  return withoutUndefined({
    type: 'json-schema' as const,
    name: name as string,
    schema: schema as JsonObject,
    description: (description ?? undefined) as string | undefined,
    strict: (strict ?? undefined) as boolean | undefined
  })
}

/** Keys without a value are left out, as `exactOptionalPropertyTypes` and a stable cache key want it. */
function withoutUndefined<T extends object>(value: T): T {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined)) as T
}
