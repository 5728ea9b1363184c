import type { IncomingHttpHeaders } from 'node:http'
import {
  type Answer,
  type BucketState,
  countTokensIn,
  type Dialect,
  type Frame,
  isObject,
  type JsonObject,
  type RateState,
  Refusal,
  readBearer,
  readContent,
  readLimit,
  retryHeaders,
  type ScriptedRequest,
  type ScriptedTool
} from './dialect.ts'

const roles: ReadonlySet<unknown> = new Set(['system', 'developer', 'user', 'assistant', 'tool', 'function'])
const finishReasons = { stop: 'stop', length: 'length', 'tool-calls': 'tool_calls' } as const
const errorTypes: Readonly<Record<number, string>> = { 429: 'requests', 500: 'server_error', 503: 'server_error' }

/** OpenAI's chat completions. */
export const openaiDialect: Dialect = {
  read,
  keyOf: readBearer,
  refusal({ status, message, param, code }) {
    return { error: { message, type: errorTypes[status] ?? 'invalid_request_error', param, code } }
  },
  headers(number, rate) {
    return { 'x-request-id': `req_scripted_${number}`, ...(rate && rateHeaders(rate)) }
  },
  plain(answer) {
    const calls = answer.toolCalls.map(({ id, name, arguments: pieces }) => ({
      id,
      type: 'function',
      function: { name, arguments: pieces.join('') }
    }))
    const content = calls.length > 0 ? null : answer.text.join('')
    const message = { role: 'assistant', content, refusal: null, ...(calls.length > 0 && { tool_calls: calls }) }
    return {
      ...head(answer, 'chat.completion'),
      choices: [{ index: 0, message, logprobs: null, finish_reason: finishReasons[answer.finish] }],
      usage: usage(answer)
    }
  },
  *frames(answer) {
    const frame = (delta: object, token: boolean, finish: string | null = null): Frame => ({
      bytes: sse({
        ...head(answer, 'chat.completion.chunk'),
        choices: [{ index: 0, delta, logprobs: null, finish_reason: finish }],
        ...(answer.request.includeUsage && { usage: null })
      }),
      token
    })
    yield frame({ role: 'assistant', content: answer.toolCalls.length > 0 ? null : '', refusal: null }, false)
    for (const content of answer.text) yield frame({ content }, true)
    for (const [index, call] of answer.toolCalls.entries()) {
      const first = { index, id: call.id, type: 'function', function: { name: call.name, arguments: '' } }
      yield frame({ tool_calls: [first] }, false)
      for (const piece of call.arguments) yield frame({ tool_calls: [{ index, function: { arguments: piece } }] }, true)
    }
    yield frame({}, false, finishReasons[answer.finish])
    if (answer.request.includeUsage) {
      yield { bytes: sse({ ...head(answer, 'chat.completion.chunk'), choices: [], usage: usage(answer) }), token: false }
    }
    yield { bytes: 'data: [DONE]\n\n', token: false }
  }
}

function read(body: JsonObject, headers: IncomingHttpHeaders): ScriptedRequest {
  const { model, messages, n } = body
  if (typeof model !== 'string' || model === '') throw new Refusal(400, 'you must provide a model', 'model')
  if (!Array.isArray(messages) || messages.length === 0) {
    throw new Refusal(400, 'messages must be an array with at least one message', 'messages')
  }
  // The real API gives several choices; this one says so instead of giving one silently.
  if (n !== undefined && n !== null && n !== 1) throw new Refusal(400, 'this server gives one choice: n must be 1', 'n')
  let prompt = ''
  let chars = 0
  const texts: string[] = []
  for (const [index, message] of messages.entries()) {
    const path = `messages[${index}]`
    if (!isObject(message)) throw new Refusal(400, `${path} must be an object`, path, 'invalid_type')
    if (!roles.has(message.role)) {
      throw new Refusal(400, `${path}.role must be one of ${[...roles].join(', ')}`, `${path}.role`, 'invalid_value')
    }
    const content = readContent(message.content, `${path}.content`)
    const calls = message.tool_calls === undefined ? '' : JSON.stringify(message.tool_calls)
    if (message.role === 'user') prompt = content.text
    texts.push(`${String(message.role)}: ${content.text}${calls}`)
    chars += content.chars + calls.length
  }
  const tools = readTools(body.tools)
  if (tools.length > 0) chars += JSON.stringify(body.tools).length
  const options = body.stream_options
  return {
    api: 'openai',
    model,
    stream: body.stream === true,
    prompt,
    conversation: texts.join('\n'),
    userSpokeLast: isObject(messages.at(-1)) && messages.at(-1).role === 'user',
    tools,
    toolChoice: readToolChoice(body.tool_choice),
    maxTokens: Math.min(readLimit(body.max_tokens, 'max_tokens'), readLimit(body.max_completion_tokens, 'max_completion_tokens')),
    includeUsage: isObject(options) && options.include_usage === true,
    tokensIn: countTokensIn(chars, messages.length),
    headers,
    body
  }
}

function readTools(tools: unknown): ScriptedTool[] {
  if (tools === undefined || tools === null) return []
  if (!Array.isArray(tools)) throw new Refusal(400, 'tools must be an array', 'tools', 'invalid_type')
  return tools.map((tool, index) => {
    const definition: unknown = isObject(tool) ? tool.function : undefined
    if (isObject(definition) && typeof definition.name === 'string') {
      return { name: definition.name, parameters: definition.parameters }
    }
    const path = `tools[${index}].function.name`
    throw new Refusal(400, `${path} is missing`, path)
  })
}

function readToolChoice(choice: unknown): string {
  if (choice === undefined || choice === null) return 'auto'
  if (typeof choice === 'string') return choice
  const named: unknown = isObject(choice) ? choice.function : undefined
  if (isObject(named) && typeof named.name === 'string') return named.name
  throw new Refusal(400, "tool_choice must be 'none', 'auto', 'required' or a function", 'tool_choice', 'invalid_value')
}

function head({ number, request }: Answer, object: string): JsonObject {
  const created = 1_780_000_000 + number
  return { id: `chatcmpl-scripted-${number}`, object, created, model: request.model, system_fingerprint: 'fp_scripted' }
}

function usage({ request, tokensOut }: Answer): JsonObject {
  return {
    prompt_tokens: request.tokensIn,
    completion_tokens: tokensOut,
    total_tokens: request.tokensIn + tokensOut,
    prompt_tokens_details: { cached_tokens: 0, audio_tokens: 0 },
    completion_tokens_details: { reasoning_tokens: 0, audio_tokens: 0 }
  }
}

function rateHeaders({ requests, tokens, waitMs }: RateState): Record<string, string> {
  return { ...counterHeaders('requests', requests), ...counterHeaders('tokens', tokens), ...retryHeaders(waitMs) }
}

function counterHeaders(what: string, state: BucketState | undefined): Record<string, string> {
  if (state === undefined) return {}
  const { limit, remaining, resetMs } = state
  return {
    [`x-ratelimit-limit-${what}`]: String(limit),
    [`x-ratelimit-remaining-${what}`]: String(remaining),
    [`x-ratelimit-reset-${what}`]: resetMs < 1000 ? `${resetMs}ms` : `${resetMs / 1000}s`
  }
}

function sse(data: JsonObject): string {
  return `data: ${JSON.stringify(data)}\n\n`
}
