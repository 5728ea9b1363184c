import { type ErrorCode, isMillraceError } from '@millrace/core'

/** What somebody outside is told of an error: all of it is safe to show to a stranger. */
export interface ToldError {
  /** `internal` for whatever is not one of ours. */
  readonly code: ErrorCode | 'internal'
  readonly message: string
  readonly retryable: boolean
  /** Whole milliseconds. */
  readonly retryAfterMs?: number | undefined
  /** Of what was refused here, where the code alone does not say it: 404 for a stream that is not there. */
  readonly status?: number | undefined
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
  const isOurs = error.context.provider === undefined
  // A refusal by a provider has a status, and never a path.
  const refusedHere =
    (code === 'invalid-request' || code === 'context-overflow') && (status === undefined || (path !== undefined && isOurs))
  const retryMs = waitOf(retryAfterMs)
  return {
    code,
    message: refusedHere ? error.message : ((isOurs ? ownSentences[code] : undefined) ?? sentences[code]),
    retryable,
    ...(retryMs === undefined ? {} : { retryAfterMs: retryMs }),
    ...(refusedHere && status !== undefined ? { status } : {}),
    ...(refusedHere && path !== undefined ? { path } : {})
  }
}

/** What no client could use, such as `NaN` of a clock of somebody else's, is not told. */
function waitOf(ms: number | undefined): number | undefined {
  const isWait = ms !== undefined && ms >= 0 && Number.isSafeInteger(Math.ceil(ms))
  return isWait ? Math.ceil(ms) : undefined
}

/** Of what no provider had a part in: a store of ours that is away, a process that died. */
const ownSentences: Readonly<Partial<Record<ErrorCode, string>>> = {
  network: 'a connection that the service needs could not be made, or broke',
  unavailable: 'a part of the service failed',
  protocol: 'the answer broke off or could not be read'
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
