import { type ErrorCode, isMillraceError, type MillraceError } from '@millrace/core'
import { type Outcome, unsent } from './ends.ts'
import type { HeldPermit } from './limiter.ts'
import { maxOverloadPauseMs, maxRatePauseMs } from './rate-limit-headers.ts'

export interface CallVerdict extends Outcome {
  /** The provider's hint when to come back. */
  readonly pauseMs?: number | undefined
}

/** What is known of the attempts of a call. */
type Attempts = Pick<HeldPermit, 'answered' | 'maybeBilled' | 'ownRefusal'>

/**
 * What a failed call says of the provider, and what it used where nobody knows better: nothing where it never reached the provider or
 * was turned away with a status, else all that was reserved, for what was sent may be billed. A silence is a refusal; a call that
 * ran out of its own time behind the answer's head, or in a queue of ours, is none, nor is one that a breaker did not let out.
 * Attempts before the last that may be billed count as well.
 */
export function verdictOn(error: unknown, attempts: Attempts): CallVerdict {
  try {
    const known = knownCause(error)
    if (known !== undefined && known === attempts.ownRefusal) return withOthers({ ...unsent, requests: 1 }, attempts.maybeBilled)
    const outcome = outcomeOf(known, attempts)
    // The last attempt itself is among those that may be billed, unless it was turned away by its status or not sent.
    const others = attempts.maybeBilled - (outcome === unsent || toldStatus(known) !== undefined ? 0 : 1)
    return { ...withOthers(outcome, others), pauseMs: pauseOf(known) }
  } catch {
    // What was thrown resists being read: a proxy, a getter. Its thrower gets it back as it is.
    return sentAndUnknown
  }
}

function withOthers(outcome: Outcome, maybeBilled: number): Outcome {
  return maybeBilled > 0 ? { ...outcome, tokens: undefined, usd: undefined, requests: 1 } : outcome
}

function pauseOf(error: unknown): number | undefined {
  const isOverload = isMillraceError(error, 'overloaded')
  if (!isOverload && !isMillraceError(error, 'rate-limited')) return undefined
  const { retryAfterMs } = error.details
  return retryAfterMs === undefined ? undefined : Math.min(retryAfterMs, isOverload ? maxOverloadPauseMs : maxRatePauseMs)
}

function outcomeOf(error: unknown, attempts: Attempts): Outcome {
  if (isMillraceError(error)) return ours(error, attempts)
  if (isUnconnected(error) || isNoAddress(error)) return unsent
  const status = statusOf(error)
  if (status === undefined) return sentAndUnknown
  return { ...turnedAway, outcome: status === 429 || status === 503 || status === 529 ? 'refused' : 'none' }
}

function ours(error: MillraceError, { answered }: Attempts): Outcome {
  if (unsentCodes.has(error.code)) return unsent
  if (isMillraceError(error, 'network')) return unsentPhases.has(error.details.phase) ? unsent : sentAndUnknown
  if (isMillraceError(error, 'timeout')) {
    const { clock } = error.details
    if (!silences.has(clock)) return unsent
    const isOwn = clock === 'total' && (answered || (error.partial?.text ?? '') !== '')
    return { ...sentAndUnknown, outcome: isOwn ? 'none' : 'refused' }
  }
  if (!unbilled.has(error.code) && toldStatus(error) === undefined) return sentAndUnknown
  return { ...turnedAway, outcome: refusals.has(error.code) ? 'refused' : 'none' }
}

/** The error where it is one of ours and can be read. */
export function millraceError(error: unknown): MillraceError | undefined {
  try {
    return isMillraceError(error) ? error : undefined
  } catch {
    // A proxy that throws. Its thrower gets it back as it is.
    return undefined
  }
}

/** The status that it was turned away with, if any. */
function toldStatus(error: unknown): number | undefined {
  return isMillraceError(error) ? statusOf(error.details) : statusOf(error)
}

/** The first of an error and its causes that tells what happened, if any: SDKs and `fetch` wrap what they are given. */
function knownCause(error: unknown): unknown {
  let at = error
  for (let depth = 0; depth < 5 && typeof at === 'object' && at !== null; depth++) {
    if (isMillraceError(at) || statusOf(at) !== undefined || isUnconnected(at) || isNoAddress(at)) return at
    at = (at as { readonly cause?: unknown }).cause
  }
  return undefined
}

const sentAndUnknown: Outcome = { tokens: undefined, usd: undefined, requests: 1, outcome: 'none' }
const turnedAway: Outcome = { tokens: 0, usd: 0, requests: 1, outcome: 'none' }

/** As the OpenAI and Anthropic clients tell it, or the AI SDK. */
function statusOf(error: unknown): number | undefined {
  const { status, statusCode } = (error ?? {}) as Record<string, unknown>
  const told = typeof status === 'number' ? status : statusCode
  return typeof told === 'number' && told >= 400 ? told : undefined
}

function isUnconnected(error: unknown): boolean {
  const { code } = (error ?? {}) as { readonly code?: unknown }
  return typeof code === 'string' && unconnected.has(code)
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
