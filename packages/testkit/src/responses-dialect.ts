import type { IncomingHttpHeaders } from 'node:http'
import {
  type Answer,
  countTokensIn,
  type Dialect,
  isObject,
  type JsonObject,
  namedFrame,
  Refusal,
  readContent,
  readLimit,
  type ScriptedRequest,
  type ScriptedTool
} from './dialect.ts'
import { openaiDialect } from './openai-dialect.ts'

const roles: ReadonlySet<unknown> = new Set(['system', 'developer', 'user', 'assistant'])
/** What needs responses that were kept; this server keeps none and says so instead of answering without them. */
const kept = ['previous_response_id', 'conversation', 'background'] as const

/** OpenAI's Responses. */
export const responsesDialect: Dialect = {
  ...openaiDialect,
  read,
  plain: (answer) => finalResponse(answer),
  *frames(answer) {
    let number = 0
    const event = (type: string, fields: JsonObject) => namedFrame({ type, sequence_number: number++, ...fields })
    const begun = response(answer, 'in_progress')
    yield event('response.created', { response: begun })
    yield event('response.in_progress', { response: begun })
    for (const [index, { empty, item, pieces, part }] of items(answer).entries()) {
      const place = { item_id: item.id, output_index: index }
      const text = pieces.join('')
      yield event('response.output_item.added', { output_index: index, item: empty })
      if (part) {
        const spot = { ...place, content_index: 0 }
        yield event('response.content_part.added', { ...spot, part: textPart('') })
        for (const delta of pieces) {
          yield { ...event('response.output_text.delta', { ...spot, delta, logprobs: [] }), token: true }
        }
        yield event('response.output_text.done', { ...spot, text, logprobs: [] })
        yield event('response.content_part.done', { ...spot, part })
      } else {
        for (const delta of pieces) {
          yield { ...event('response.function_call_arguments.delta', { ...place, delta }), token: true }
        }
        yield event('response.function_call_arguments.done', { ...place, name: item.name, arguments: text })
      }
      yield event('response.output_item.done', { output_index: index, item })
    }
    yield event(`response.${finalStatus(answer)}`, { response: finalResponse(answer) })
  }
}

function read(body: JsonObject, headers: IncomingHttpHeaders): ScriptedRequest {
  const { model, input, instructions } = body
  if (typeof model !== 'string' || model === '') throw new Refusal(400, 'you must provide a model', 'model')
  for (const name of kept) {
    if (body[name]) throw new Refusal(400, `this server keeps no responses: ${name} must be absent`, name)
  }
  const list: unknown = typeof input === 'string' ? [{ role: 'user', content: input }] : input
  if (!Array.isArray(list) || list.length === 0) {
    throw new Refusal(400, 'input must be a text or an array with at least one item', 'input')
  }
  const system = readContent(instructions, 'instructions')
  const texts = system.chars > 0 ? [`system: ${system.text}`] : []
  let { chars } = system
  let prompt = ''
  for (const [index, item] of list.entries()) {
    const { role, text, chars: length } = readItem(item, `input[${index}]`)
    if (role === 'user') prompt = text
    texts.push(`${role}: ${text}`)
    chars += length
  }
  const tools = readTools(body.tools)
  if (tools.length > 0) chars += JSON.stringify(body.tools).length
  return {
    api: 'openai-responses',
    model,
    stream: body.stream === true,
    prompt,
    conversation: texts.join('\n'),
    userSpokeLast: isObject(list.at(-1)) && list.at(-1).role === 'user',
    tools,
    toolChoice: readToolChoice(body.tool_choice),
    maxTokens: readLimit(body.max_output_tokens, 'max_output_tokens'),
    includeUsage: true,
    tokensIn: countTokensIn(chars, list.length),
    headers,
    body
  }
}

/** A message, or anything else a conversation may hold (calls, their outputs, reasoning, references), which counts as its JSON. */
function readItem(item: unknown, path: string): { role: string; text: string; chars: number } {
  if (!isObject(item)) throw new Refusal(400, `${path} must be an object`, path, 'invalid_type')
  const { type = 'message', role, content } = item
  if (type !== 'message') {
    const text = JSON.stringify(item)
    return { role: String(type), text, chars: text.length }
  }
  if (!roles.has(role)) {
    throw new Refusal(400, `${path}.role must be one of ${[...roles].join(', ')}`, `${path}.role`, 'invalid_value')
  }
  return { role: String(role), ...readContent(content, `${path}.content`) }
}

/** Functions only: what the real API runs by itself, such as a web search, nobody runs here. */
function readTools(tools: unknown): ScriptedTool[] {
  if (tools === undefined || tools === null) return []
  if (!Array.isArray(tools)) throw new Refusal(400, 'tools must be an array', 'tools', 'invalid_type')
  return tools.flatMap((tool, index) => {
    if (!isObject(tool) || tool.type !== 'function') return []
    if (typeof tool.name === 'string') return [{ name: tool.name, parameters: tool.parameters }]
    throw new Refusal(400, `tools[${index}].name is missing`, `tools[${index}].name`)
  })
}

function readToolChoice(choice: unknown): string {
  if (typeof choice === 'string') return choice
  return isObject(choice) && choice.type === 'function' ? String(choice.name) : 'auto'
}

/** One item of the output as it begins and as it ends, and the pieces between. */
interface OutputItem {
  readonly empty: JsonObject
  readonly item: JsonObject
  readonly pieces: readonly string[]
  /** Of a message; absent for a call. */
  readonly part?: JsonObject | undefined
}

function items(answer: Answer): OutputItem[] {
  const { number, text, toolCalls } = answer
  const status = finalStatus(answer)
  const calls = toolCalls.map(({ id, name, arguments: pieces }, index) => {
    const item = {
      type: 'function_call',
      id: `fc_scripted_${number}_${index}`,
      call_id: id,
      name,
      arguments: pieces.join(''),
      status
    }
    return { empty: { ...item, arguments: '', status: 'in_progress' }, item, pieces }
  })
  if (text.length === 0 && calls.length > 0) return calls
  const part = textPart(text.join(''))
  const message = { type: 'message', id: `msg_scripted_${number}`, role: 'assistant', content: [part], status }
  return [{ empty: { ...message, content: [], status: 'in_progress' }, item: message, pieces: text, part }, ...calls]
}

function textPart(text: string): JsonObject {
  return { type: 'output_text', text, annotations: [], logprobs: [] }
}

function finalStatus({ finish }: Answer): 'completed' | 'incomplete' {
  return finish === 'length' ? 'incomplete' : 'completed'
}

function finalResponse(answer: Answer): JsonObject {
  const { request, tokensOut } = answer
  const status = finalStatus(answer)
  return {
    ...response(answer, status),
    completed_at: status === 'completed' ? createdAt(answer) : null,
    incomplete_details: status === 'completed' ? null : { reason: 'max_output_tokens' },
    output: items(answer).map(({ item }) => item),
    usage: {
      input_tokens: request.tokensIn,
      input_tokens_details: { cached_tokens: 0, cache_write_tokens: 0 },
      output_tokens: tokensOut,
      output_tokens_details: { reasoning_tokens: 0 },
      total_tokens: request.tokensIn + tokensOut
    }
  }
}

/** The response without its output and usage (OpenAI's schema has no null for one that is not known yet); what the request set is told again. */
function response(answer: Answer, status: string): JsonObject {
  const { number, request } = answer
  const { body } = request
  const tools: readonly unknown[] = Array.isArray(body.tools) ? body.tools : []
  return {
    id: `resp_scripted_${number}`,
    object: 'response',
    created_at: createdAt(answer),
    status,
    background: false,
    completed_at: null,
    error: null,
    incomplete_details: null,
    instructions: body.instructions ?? null,
    max_output_tokens: body.max_output_tokens ?? null,
    max_tool_calls: body.max_tool_calls ?? null,
    model: request.model,
    output: [],
    parallel_tool_calls: body.parallel_tool_calls ?? true,
    previous_response_id: null,
    reasoning: { effort: null, summary: null, ...fieldsOf(body.reasoning) },
    service_tier: 'default',
    store: false,
    temperature: body.temperature ?? 1,
    text: { format: { type: 'text' }, verbosity: 'medium', ...fieldsOf(body.text) },
    tool_choice: body.tool_choice ?? 'auto',
    tools: tools.map((tool) =>
      isObject(tool) && tool.type === 'function' ? { description: null, parameters: null, strict: true, ...tool } : tool
    ),
    top_logprobs: body.top_logprobs ?? 0,
    top_p: body.top_p ?? 1,
    truncation: body.truncation ?? 'disabled',
    metadata: body.metadata ?? {}
  }
}

function createdAt({ number }: Answer): number {
  return 1_780_000_000 + number
}

function fieldsOf(value: unknown): JsonObject {
  return isObject(value) ? value : {}
}
