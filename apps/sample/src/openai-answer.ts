import {
  type Chunk,
  type Completion,
  type FinishReason,
  inputTokens,
  isMillraceError,
  type Json,
  outputTokens,
  type Usage
} from '@millrace/core'

/** Where an `extra` chunk goes back to in OpenAI's shape; what has no place there is left out. */
const extrasOfMessage: ReadonlySet<string> = new Set(['annotations', 'audio', 'images', 'function_call', 'reasoning_details'])
const extrasOfAnswer: ReadonlySet<string> = new Set(['citations', 'search_results', 'prompt_filter_results'])

/** A whole answer in OpenAI's shape. */
export function writeCompletion(completion: Completion, id: string, created: number): object {
  const { model, text, refusal, reasoning, toolCalls, extras, finish, usage } = completion
  const thought = reasoning.map((block) => block.text).join('')
  return {
    id: completion.id ?? id,
    object: 'chat.completion',
    created,
    model,
    choices: [
      {
        index: 0,
        message: {
          role: 'assistant',
          content: text === '' && toolCalls.length > 0 ? null : text,
          refusal: refusal ?? null,
          ...(thought === '' ? {} : { reasoning_content: thought }),
          ...(toolCalls.length === 0 ? {} : { tool_calls: toolCalls.map(writeToolCall) }),
          ...ofExtras(extras, extrasOfMessage)
        },
        logprobs: logprobsOf(extras),
        finish_reason: reasonOf[finish]
      }
    ],
    ...(usage === undefined ? {} : { usage: writeUsage(usage) }),
    ...ofExtras(extras, extrasOfAnswer)
  }
}

/** Writes chunks as the events of OpenAI's stream, `[DONE]` last. */
export interface EventWriter {
  /** The events of one chunk; `''` where it has none. */
  write(chunk: Chunk): string
  end(): string
}

export function createEventWriter(id: string, created: number, includeUsage: boolean): EventWriter {
  let head = { id, object: 'chat.completion.chunk', created, model: '' }
  let usage: Usage | undefined

  const event = (more: object): string => `data: ${JSON.stringify({ ...head, ...more })}\n\n`
  const choice = (delta: object, more: object = {}): string =>
    event({ choices: [{ index: 0, delta, logprobs: null, finish_reason: null, ...more }] })

  return {
    write(chunk) {
      switch (chunk.type) {
        case 'start':
          head = { ...head, id: chunk.id ?? id, model: chunk.model }
          return choice({ role: 'assistant', content: '', refusal: null })
        case 'text':
          return choice({ content: chunk.text })
        case 'refusal':
          return choice({ refusal: chunk.text })
        case 'reasoning':
          return chunk.text === '' ? '' : choice({ reasoning_content: chunk.text })
        case 'tool-call': {
          const { index, id: callId, name, arguments: text } = chunk
          const first = callId === undefined ? {} : { id: callId, type: 'function' }
          return choice({
            tool_calls: [{ index, ...first, function: { ...(name === undefined ? {} : { name }), arguments: text } }]
          })
        }
        case 'extra':
          if (chunk.name === 'logprobs') return choice({}, { logprobs: chunk.value })
          if (extrasOfMessage.has(chunk.name)) return choice({ [chunk.name]: chunk.value })
          return extrasOfAnswer.has(chunk.name) ? event({ choices: [], [chunk.name]: chunk.value }) : ''
        case 'usage':
          usage = chunk.usage
          return ''
        case 'finish':
          return choice({}, { finish_reason: reasonOf[chunk.reason] })
        case 'note':
          return ''
      }
    },
    end() {
      const last = includeUsage && usage !== undefined ? event({ choices: [], usage: writeUsage(usage) }) : ''
      return `${last}data: [DONE]\n\n`
    }
  }
}

/**
 * A cut answer is as long as it was allowed to be. `other` is a reason of the provider's own (`error`, a malformed function
 * call): OpenAI's clients know no such word and take `stop` for success, but `length` for an answer that may lack its end.
 */
const reasonOf: Readonly<Record<FinishReason, string>> = {
  stop: 'stop',
  length: 'length',
  'tool-calls': 'tool_calls',
  'content-filter': 'content_filter',
  cut: 'length',
  other: 'length'
}

function writeToolCall({ id, name, arguments: text }: Completion['toolCalls'][number]): object {
  return { id, type: 'function', function: { name, arguments: text } }
}

function writeUsage(usage: Usage): object {
  const input = inputTokens(usage)
  const output = outputTokens(usage)
  return {
    prompt_tokens: input,
    completion_tokens: output,
    total_tokens: input + output,
    prompt_tokens_details: { cached_tokens: usage.input.cacheRead },
    completion_tokens_details: { reasoning_tokens: usage.output.reasoning }
  }
}

function ofExtras(extras: Completion['extras'], names: ReadonlySet<string>): Record<string, Json> {
  return Object.fromEntries(extras.filter(({ name }) => names.has(name)).map(({ name, value }) => [name, value]))
}

/** The log probabilities of a streamed answer come in pieces; together they are one list. */
function logprobsOf(extras: Completion['extras']): Json {
  const pieces = extras
    .filter(({ name }) => name === 'logprobs')
    .map(({ value }) => value as { content?: Json[]; refusal?: Json[] })
  if (pieces.length === 0) return null
  if (pieces.length === 1) return pieces[0] as Json
  return { content: pieces.flatMap(({ content }) => content ?? []), refusal: null }
}

/** An error as OpenAI's clients understand it: nothing of the provider's prose, nothing of our configuration. */
export function writeError(error: unknown): { status: number; body: object; retryAfterMs?: number } {
  if (!isMillraceError(error)) return { status: 500, body: errorBody('the gateway failed', 'server_error', 'internal_error') }
  const { code } = error
  const status = statuses[code]
  const details = error.details as { path?: string; retryAfterMs?: number }
  // The client knows the field by OpenAI's name.
  const param = details.path
    ?.replace(/^extra\./, '')
    .replace(/^\w+|(?<=^messages\[\d+\]\.)\w+/g, (field) => (Object.hasOwn(fields, field) ? (fields[field] as string) : field))
  const message = param === undefined ? error.message : error.message.replace(details.path as string, () => param)
  const type = code === 'rate-limited' ? 'requests' : status < 500 ? 'invalid_request_error' : 'server_error'
  const body = errorBody(message, type, codes[code] ?? code.replaceAll('-', '_'), param)
  return details.retryAfterMs === undefined ? { status, body } : { status, body, retryAfterMs: details.retryAfterMs }
}

const statuses = {
  network: 502,
  timeout: 504,
  'rate-limited': 429,
  'quota-exceeded': 429,
  overloaded: 503,
  unavailable: 502,
  'circuit-open': 503,
  'queue-full': 503,
  // The gateway's own credentials are wrong, not the caller's.
  unauthorized: 502,
  'invalid-request': 400,
  'context-overflow': 400,
  'content-filtered': 400,
  protocol: 502,
  closed: 503
} as const

const fields: Readonly<Record<string, string>> = {
  maxOutputTokens: 'max_tokens',
  topP: 'top_p',
  toolChoice: 'tool_choice',
  responseFormat: 'response_format',
  toolCalls: 'tool_calls',
  toolCallId: 'tool_call_id'
}

/** The names OpenAI's own API uses, where it has one. */
const codes: Readonly<Partial<Record<keyof typeof statuses, string>>> = {
  'rate-limited': 'rate_limit_exceeded',
  'quota-exceeded': 'insufficient_quota',
  'context-overflow': 'context_length_exceeded',
  'content-filtered': 'content_filter'
}

export function errorBody(message: string, type: string, code: string, param?: string): object {
  return { error: { message, type, param: param ?? null, code } }
}
