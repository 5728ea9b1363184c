import { isJsonObject, type Json } from './json.ts'

/** The statuses behind the names that errors inside a stream carry instead of one. */
const statusOfName: ReadonlyMap<string, number> = new Map([
  ['invalid_request_error', 400],
  ['invalid_prompt', 400],
  ['content_filter', 400],
  ['context_length_exceeded', 400],
  ['authentication_error', 401],
  ['invalid_api_key', 401],
  ['billing_error', 402],
  ['permission_error', 403],
  ['not_found_error', 404],
  ['request_too_large', 413],
  ['rate_limit_error', 429],
  ['rate_limit_exceeded', 429],
  ['insufficient_quota', 429],
  ['api_error', 500],
  ['server_error', 500],
  ['timeout_error', 504],
  ['overloaded_error', 529]
])

/**
 * The HTTP status that an error object inside a 200 stands for, by its `status`, `code` or `type`, number or name; 500 when
 * none of them says.
 *
 * @example
 * errorStatus({ type: 'overloaded_error', message: 'Overloaded' }) // 529
 */
export function errorStatus(error: Json | undefined): number {
  if (!isJsonObject(error)) return 500
  for (const value of [error.status, error.code, error.type]) {
    const number = typeof value === 'string' && /^[45]\d\d$/.test(value) ? Number(value) : value
    if (typeof number === 'number' && number >= 400 && number <= 599) return number
    const named = typeof value === 'string' ? statusOfName.get(value) : undefined
    if (named !== undefined) return named
  }
  return 500
}
