import { type ErrorCode, isMillraceError, type MillraceError } from '@millrace/core'
import { type Outcome, unsent } from './ends.ts'
import type { HeldPermit } from './limiter.ts'

/**
 * What a failed call says of the provider, and what it used where nobody knows better: nothing where it never reached the provider or
 * was turned away with a status, else all that was reserved, for what was sent may be billed. A silence is a refusal; a call that
 * ran out of its own time behind the answer's head, or in a queue of ours, is none, nor is one that a breaker did not let out.
 */
export function verdictOn(error: unknown, held: Pick<HeldPermit, 'answered'>): Outcome {
  if (isMillraceError(error)) return ours(error, held)
  if (unconnected.has(String(codeOf(error))) || isNoAddress(error)) return unsent
  const status = statusOf(error)
  if (status === undefined) return sentAndUnknown
  return { ...turnedAway, outcome: status === 429 || status === 503 || status === 529 ? 'refused' : 'none' }
}

function ours(error: MillraceError, { answered }: Pick<HeldPermit, 'answered'>): Outcome {
  if (unsentCodes.has(error.code)) return unsent
  if (isMillraceError(error, 'network')) return unsentPhases.has(error.details.phase) ? unsent : sentAndUnknown
  if (isMillraceError(error, 'timeout')) {
    const { clock } = error.details
    if (!silences.has(clock)) return unsent
    const isOwn = clock === 'total' && (answered || (error.partial?.text ?? '') !== '')
    return { ...sentAndUnknown, outcome: isOwn ? 'none' : 'refused' }
  }
  const { status } = error.details as { readonly status?: number | undefined }
  if (!unbilled.has(error.code) && !(status !== undefined && status >= 400)) return sentAndUnknown
  return { ...turnedAway, outcome: refusals.has(error.code) ? 'refused' : 'none' }
}

/** The first of an error and its causes that tells what happened: SDKs and `fetch` wrap what they are given. */
export function knownCause(error: unknown): unknown {
  let at = error
  for (let depth = 0; depth < 5 && typeof at === 'object' && at !== null; depth++) {
    if (isMillraceError(at) || statusOf(at) !== undefined || unconnected.has(String(codeOf(at))) || isNoAddress(at)) return at
    at = (at as { readonly cause?: unknown }).cause
  }
  return error
}

const sentAndUnknown: Outcome = { tokens: undefined, usd: undefined, requests: 1, outcome: 'none' }
const turnedAway: Outcome = { tokens: 0, usd: 0, requests: 1, outcome: 'none' }

/** As the OpenAI and Anthropic clients tell it, or the AI SDK. */
function statusOf(error: unknown): number | undefined {
  const { status, statusCode } = (error ?? {}) as Record<string, unknown>
  const told = typeof status === 'number' ? status : statusCode
  return typeof told === 'number' && told >= 400 ? told : undefined
}

function codeOf(error: unknown): unknown {
  return ((error ?? {}) as { readonly code?: unknown }).code
}

/** A fetch of the platform that does not even try: it has no code for that. */
function isNoAddress(error: unknown): boolean {
  return error instanceof Error && (error.message === 'bad port' || error.message === 'unknown scheme')
}

/** No connection came about. */
const unconnected: ReadonlySet<string> = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EADDRNOTAVAIL',
  'UND_ERR_CONNECT_TIMEOUT',
  'CERT_HAS_EXPIRED',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'ERR_TLS_CERT_ALTNAME_INVALID'
])
const unsentPhases: ReadonlySet<string> = new Set(['dns', 'connect', 'tls'])
const refusals: ReadonlySet<ErrorCode> = new Set(['rate-limited', 'overloaded'])
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
