import { type ErrorCode, isMillraceError } from '@millrace/core'

/** Whether an older answer is better than this error. A refused key or a wrong request is told. */
export function isOutage(error: unknown): boolean {
  return isMillraceError(error) && outages.has(error.code)
}

const outages: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'network',
  'timeout',
  'rate-limited',
  'quota-exceeded',
  'overloaded',
  'unavailable',
  'circuit-open',
  'queue-full',
  'protocol'
])

/**
 * The same of errors of others, as `wrap` meets them: by an HTTP status, a system's code, or the name that clients give to
 * lost connections and timeouts. A mistake in the program (a TypeError that `fetch` did not throw) is told.
 */
export function isOutageOfOthers(error: unknown): boolean {
  if (isMillraceError(error)) return isOutage(error)
  if (!(error instanceof Error)) return false
  const { status, code } = error as { status?: unknown; code?: unknown }
  if (typeof status === 'number') return isOutageStatus(status)
  if (typeof code === 'string' && /^(?:E[A-Z]+|UND_ERR_\w+)$/.test(code)) return true
  return /(?:Connection|Timeout|Network)\w*Error$/.test(nameOf(error)) || error.message === 'fetch failed'
}

function nameOf(error: Error): string {
  return error.name === 'Error' ? error.constructor.name : error.name
}

/** The same of an HTTP status. */
export function isOutageStatus(status: number): boolean {
  return status === 408 || status === 429 || status >= 500
}

/** Statuses of refusals that the same request gets again. Never 401, 403, 408, 409, 429 or 5xx. */
export const refusals: ReadonlySet<unknown> = new Set([400, 404, 413, 422])
