import type { ErrorCode } from '@millrace/core'
import { tellError } from './told-error.ts'

/** A failure as OpenAI's clients understand it. */
export interface OpenAIError {
  readonly status: number
  /** `retry-after` and `retry-after-ms`, where it is known. */
  readonly headers: Readonly<Record<string, string>>
  readonly body: {
    readonly error: {
      readonly message: string
      readonly type: string
      readonly param: string | null
      readonly code: string
    }
  }
}

/**
 * An error as the answer of OpenAI's API to a call that failed before its head went out; `openaiEvents()` writes the same
 * body at the end of a stream that broke later. It tells the code in OpenAI's words where there are some, and a fixed
 * sentence: nothing of the provider's prose, nothing of our configuration. The field of the caller's own request that was
 * refused is `param`, by OpenAI's name.
 *
 * @example
 * const { status, headers, body } = openaiError(error)
 * return Response.json(body, { status, headers })
 */
export function openaiError(error: unknown): OpenAIError {
  const told = tellError(error)
  if (told.code === 'internal') return answer(500, 'server_error', 'internal_error', told.message)
  const status = told.status ?? statuses[told.code]
  const type = told.code === 'rate-limited' ? 'requests' : status < 500 ? 'invalid_request_error' : 'server_error'
  const code = codes[told.code] ?? told.code.replaceAll('-', '_')
  const headers: Record<string, string> = {}
  if (told.retryAfterMs !== undefined) {
    headers['retry-after'] = String(Math.ceil(told.retryAfterMs / 1000))
    headers['retry-after-ms'] = String(told.retryAfterMs)
  }
  if (told.path === undefined) return answer(status, type, code, told.message, null, headers)
  const param = openaiPath(told.path)
  return answer(
    status,
    type,
    code,
    told.message.replace(told.path, () => param),
    param,
    headers
  )
}

function answer(
  status: number,
  type: string,
  code: string,
  message: string,
  param: string | null = null,
  headers: Readonly<Record<string, string>> = {}
): OpenAIError {
  return { status, headers, body: { error: { message, type, param, code } } }
}

const statuses: Readonly<Record<ErrorCode, number>> = {
  network: 502,
  timeout: 504,
  'rate-limited': 429,
  'quota-exceeded': 429,
  overloaded: 503,
  unavailable: 502,
  'circuit-open': 503,
  'queue-full': 503,
  // The credentials of this service are wrong, not the caller's.
  unauthorized: 502,
  'invalid-request': 400,
  'context-overflow': 400,
  'content-filtered': 400,
  protocol: 502,
  closed: 503
}

/** The names OpenAI's own API uses, where it has one. */
const codes: Readonly<Partial<Record<ErrorCode, string>>> = {
  'rate-limited': 'rate_limit_exceeded',
  'quota-exceeded': 'insufficient_quota',
  'context-overflow': 'context_length_exceeded',
  'content-filtered': 'content_filter'
}

const fields: ReadonlyMap<string, string> = new Map([
  ['maxOutputTokens', 'max_tokens'],
  ['topP', 'top_p'],
  ['toolChoice', 'tool_choice'],
  ['responseFormat', 'response_format'],
  ['toolCalls', 'tool_calls'],
  ['toolCallId', 'tool_call_id']
])

/** The field by the name the client knows: in front, and in front within a message. */
function openaiPath(path: string): string {
  return path.replace(/^extra\./, '').replace(/^\w+|(?<=^messages\[\d+\]\.)\w+/g, (field) => fields.get(field) ?? field)
}
