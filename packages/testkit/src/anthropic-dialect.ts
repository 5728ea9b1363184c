import type { IncomingHttpHeaders } from 'node:http'
import {
  type Answer,
  type BucketState,
  countTokensIn,
  type Dialect,
  isObject,
  type JsonObject,
  namedFrame,
  type RateState,
  Refusal,
  readBearer,
  readContent,
  readLimit,
  retryHeaders,
  type ScriptedRequest,
  type ScriptedTool
} from './dialect.ts'

const stopReasons = { stop: 'end_turn', length: 'max_tokens', 'tool-calls': 'tool_use' } as const
const errorTypes: Readonly<Record<number, string>> = {
  400: 'invalid_request_error',
  401: 'authentication_error',
  404: 'not_found_error',
  413: 'request_too_large',
  429: 'rate_limit_error',
  529: 'overloaded_error'
}

/** Anthropic's messages. */
export const anthropicDialect: Dialect = {
  read,
  // Since its version 1 the official client sends a bearer token; most others send the older header.
  keyOf: (headers) => (typeof headers['x-api-key'] === 'string' ? headers['x-api-key'] : readBearer(headers)),
  refusal({ status, message }) {
    return { type: 'error', error: { type: errorTypes[status] ?? 'api_error', message } }
  },
  headers(number, rate) {
    return { 'request-id': `req_scripted_${number}`, ...(rate && rateHeaders(rate)) }
  },
  plain(answer) {
    const uses = answer.toolCalls.map(({ id, name, arguments: pieces }) => ({
      type: 'tool_use',
      id,
      name,
      input: parseInput(pieces.join(''))
    }))
    const text = answer.text.length > 0 ? [{ type: 'text', text: answer.text.join('') }] : []
    return writeMessage(answer, [...text, ...uses], stopReasons[answer.finish], answer.tokensOut)
  },
  *frames(answer) {
    yield namedFrame({ type: 'message_start', message: writeMessage(answer, [], null, 1) })
    yield namedFrame({ type: 'ping' })
    let index = 0
    if (answer.text.length > 0) {
      yield namedFrame({ type: 'content_block_start', index, content_block: { type: 'text', text: '' } })
      for (const text of answer.text) {
        yield { ...namedFrame({ type: 'content_block_delta', index, delta: { type: 'text_delta', text } }), token: true }
      }
      yield namedFrame({ type: 'content_block_stop', index: index++ })
    }
    for (const { id, name, arguments: pieces } of answer.toolCalls) {
      yield namedFrame({ type: 'content_block_start', index, content_block: { type: 'tool_use', id, name, input: {} } })
      yield namedFrame({ type: 'content_block_delta', index, delta: { type: 'input_json_delta', partial_json: '' } })
      for (const piece of pieces) {
        const delta = { type: 'input_json_delta', partial_json: piece }
        yield { ...namedFrame({ type: 'content_block_delta', index, delta }), token: true }
      }
      yield namedFrame({ type: 'content_block_stop', index: index++ })
    }
    const delta = { stop_reason: stopReasons[answer.finish], stop_sequence: null }
    yield namedFrame({ type: 'message_delta', delta, usage: { output_tokens: answer.tokensOut } })
    yield namedFrame({ type: 'message_stop' })
  }
}

/** Anthropic's count of the tokens of a request, which costs none. */
export const countTokensDialect: Dialect = {
  ...anthropicDialect,
  read(body, headers) {
    return { ...readMessages(body, headers), api: 'anthropic-count-tokens', stream: false, maxTokens: 0, tokensIn: 0 }
  },
  plain({ request }) {
    return { input_tokens: readMessages(request.body, request.headers).tokensIn }
  }
}

function read(body: JsonObject, headers: IncomingHttpHeaders): ScriptedRequest {
  const request = readMessages(body, headers)
  if (body.max_tokens === undefined) throw new Refusal(400, 'max_tokens: field required')
  return request
}

function readMessages(body: JsonObject, headers: IncomingHttpHeaders): ScriptedRequest {
  const { model, messages } = body
  if (headers['anthropic-version'] === undefined) throw new Refusal(400, 'anthropic-version: header is required')
  if (typeof model !== 'string' || model === '') throw new Refusal(400, 'model: field required')
  if (!Array.isArray(messages) || messages.length === 0) throw new Refusal(400, 'messages: at least one message is required')
  const system = readContent(body.system, 'system')
  let prompt = ''
  let userSpokeLast = false
  let chars = system.chars
  const texts = [`system: ${system.text}`]
  for (const [index, message] of messages.entries()) {
    const path = `messages.${index}`
    if (!isObject(message)) throw new Refusal(400, `${path}: must be an object`)
    const { role, content } = message
    if (role !== 'user' && role !== 'assistant') throw new Refusal(400, `${path}.role: must be 'user' or 'assistant'`)
    const { text, chars: length } = readContent(content, `${path}.content`)
    if (text === '' && length === 0) throw new Refusal(400, `${path}: content must not be empty`)
    const isResult = Array.isArray(content) && content.some((part) => isObject(part) && part.type === 'tool_result')
    userSpokeLast = role === 'user' && !isResult
    if (userSpokeLast) prompt = text
    texts.push(`${role}: ${text}${isResult ? JSON.stringify(content) : ''}`)
    chars += length
  }
  const tools = readTools(body.tools)
  if (tools.length > 0) chars += JSON.stringify(body.tools).length
  return {
    api: 'anthropic',
    model,
    stream: body.stream === true,
    prompt,
    conversation: texts.join('\n'),
    userSpokeLast,
    tools,
    toolChoice: readToolChoice(body.tool_choice),
    maxTokens: readLimit(body.max_tokens, 'max_tokens'),
    includeUsage: true,
    tokensIn: countTokensIn(chars, messages.length),
    headers,
    body
  }
}

function readTools(tools: unknown): ScriptedTool[] {
  if (tools === undefined) return []
  if (!Array.isArray(tools)) throw new Refusal(400, 'tools: must be an array')
  return tools.map((tool, index) => {
    if (isObject(tool) && typeof tool.name === 'string') return { name: tool.name, parameters: tool.input_schema }
    throw new Refusal(400, `tools.${index}.name: field required`)
  })
}

function readToolChoice(choice: unknown): string {
  if (!isObject(choice)) return 'auto'
  if (choice.type === 'any') return 'required'
  return choice.type === 'tool' ? String(choice.name) : String(choice.type)
}

/** A call cut by `max_tokens` has no whole input; the real API gives an empty one then. */
function parseInput(json: string): unknown {
  try {
    return JSON.parse(json)
  } catch {
    return {}
  }
}

function writeMessage({ number, request }: Answer, content: readonly object[], stop: string | null, tokens: number): JsonObject {
  return {
    id: `msg_scripted_${number}`,
    type: 'message',
    role: 'assistant',
    model: request.model,
    content,
    stop_reason: stop,
    stop_sequence: null,
    usage: {
      input_tokens: request.tokensIn,
      cache_creation_input_tokens: 0,
      cache_read_input_tokens: 0,
      output_tokens: tokens
    }
  }
}

function rateHeaders({ requests, tokens, waitMs }: RateState): Record<string, string> {
  return { ...counterHeaders('requests', requests), ...counterHeaders('tokens', tokens), ...retryHeaders(waitMs) }
}

function counterHeaders(what: string, state: BucketState | undefined): Record<string, string> {
  if (state === undefined) return {}
  return {
    [`anthropic-ratelimit-${what}-limit`]: String(state.limit),
    [`anthropic-ratelimit-${what}-remaining`]: String(state.remaining),
    [`anthropic-ratelimit-${what}-reset`]: new Date(Date.now() + state.resetMs).toISOString()
  }
}
