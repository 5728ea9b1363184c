import { type ErrorCode, isMillraceError } from '@millrace/core'
import type { Outcome } from './ends.ts'

/** What a failed call says of the provider, and what it used where nobody knows better. */
export function verdictOn(error: unknown): Outcome {
  if (isMillraceError(error)) {
    const isRefusal = refusals.has(error.code) || (isMillraceError(error, 'timeout') && silences.has(error.details.clock))
    const isUnsent = unsentCodes.has(error.code) || (isMillraceError(error, 'timeout') && !silences.has(error.details.clock))
    const used = isUnsent || unbilled.has(error.code) ? 0 : undefined
    return { tokens: used, usd: used, requests: isUnsent ? 0 : 1, outcome: isRefusal ? 'refused' : 'none' }
  }
  // An error of an SDK: the OpenAI and Anthropic clients and AI SDK tell the status in one of these.
  const { status, statusCode } = (typeof error === 'object' && error !== null ? error : {}) as Record<string, unknown>
  const code = typeof status === 'number' ? status : statusCode
  const isRefused = code === 429 || code === 503 || code === 529
  const used = isRefused || (typeof code === 'number' && code >= 400 && code < 500) ? 0 : undefined
  return { tokens: used, usd: used, requests: 1, outcome: isRefused ? 'refused' : 'none' }
}

const refusals: ReadonlySet<ErrorCode> = new Set(['rate-limited', 'overloaded', 'circuit-open'])
/** The provider was asked and did not answer in time. */
const silences: ReadonlySet<string> = new Set(['headers', 'first-chunk', 'idle', 'total'])
/** It did not reach the provider. */
const unsentCodes: ReadonlySet<ErrorCode> = new Set(['circuit-open', 'queue-full', 'closed'])
/** The provider has turned it away, and charges nothing. */
const unbilled: ReadonlySet<ErrorCode> = new Set([
  'rate-limited',
  'quota-exceeded',
  'overloaded',
  'unauthorized',
  'invalid-request',
  'context-overflow'
])
