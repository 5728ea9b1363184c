import { isMillraceError } from '@millrace/core'
import { openaiError } from '@millrace/streaming'

/** A failure as Anthropic's clients understand it. */
export interface AnthropicError {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: { readonly type: 'error'; readonly error: { readonly type: string; readonly message: string } }
}

/**
 * An error as the answer of Anthropic's API to a call that failed before its head went out, and the last event of a stream
 * that broke later. The words are those of `openaiError`: nothing of the provider's prose, nothing of our configuration.
 */
export function anthropicError(error: unknown): AnthropicError {
  const { status: told, headers, body } = openaiError(error)
  const status = statusOf(error) ?? told
  return { status, headers, body: { type: 'error', error: { type: typeOf(status), message: body.error.message } } }
}

/** Where the two APIs differ: what is too much is 529 here. */
function statusOf(error: unknown): number | undefined {
  if (isMillraceError(error, 'overloaded') || isMillraceError(error, 'circuit-open') || isMillraceError(error, 'queue-full')) {
    return overloaded
  }
  return undefined
}

const overloaded = 529

function typeOf(status: number): string {
  return types.get(status) ?? (status < 500 ? 'invalid_request_error' : 'api_error')
}

const types: ReadonlyMap<number, string> = new Map([
  [401, 'authentication_error'],
  [402, 'billing_error'],
  [403, 'permission_error'],
  [404, 'not_found_error'],
  [413, 'request_too_large'],
  [429, 'rate_limit_error'],
  [504, 'timeout_error'],
  [overloaded, 'overloaded_error']
])
