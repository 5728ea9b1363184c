import { type ErrorCode, isMillraceError } from '@millrace/core'

/** What somebody outside is told of an error: all of it is safe to show to a stranger. */
export interface ToldError {
  /** `internal` for whatever is not one of ours. */
  readonly code: ErrorCode | 'internal'
  readonly message: string
  readonly retryable: boolean
  readonly retryAfterMs?: number | undefined
  /** The field of the caller's request that was refused. */
  readonly path?: string | undefined
}

/**
 * An error in words for strangers: a fixed sentence for each code, so that no address, name or configuration of ours gets
 * out, whatever the message says. Only what was refused here of the caller's own request keeps its message: it names the
 * field.
 */
export function tellError(error: unknown): ToldError {
  if (!isMillraceError(error)) return { code: 'internal', message: 'the stream failed', retryable: false }
  const { code, retryable } = error
  const { status, path, retryAfterMs } = error.details as { status?: number; path?: string; retryAfterMs?: number }
  const refusedHere = (code === 'invalid-request' || code === 'context-overflow') && status === undefined
  return {
    code,
    message: refusedHere ? error.message : sentences[code],
    retryable,
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    ...(refusedHere && path !== undefined ? { path } : {})
  }
}

const sentences: Readonly<Record<ErrorCode, string>> = {
  network: 'the provider could not be reached, or the connection to it broke',
  timeout: 'the answer took too long',
  'rate-limited': 'too many requests or tokens just now',
  'quota-exceeded': 'the quota is used up',
  overloaded: 'the provider is overloaded',
  unavailable: 'the provider failed',
  'circuit-open': 'the provider has failed again and again, and is left alone for a while',
  'queue-full': 'too many requests are waiting already',
  unauthorized: 'the provider does not accept the credentials of this service',
  'invalid-request': 'the provider refused the request',
  'context-overflow': 'the prompt is longer than the context window of the model',
  'content-filtered': 'the provider refused the prompt for its content',
  protocol: 'the answer of the provider broke off or could not be read',
  closed: 'the service is closing'
}
