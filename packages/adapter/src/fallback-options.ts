import { checkOptions, type ErrorCode, isMillraceError, type MillraceError, type Timeouts } from '@millrace/core'
import type { Failure } from './cooling.ts'

/**
 * How one of several providers is chosen, and when the next is asked. A call moves on only before the first content of its
 * answer, asks each provider at most once, and never moves on by its caller's abort, its total deadline, or an error that is
 * not a `MillraceError`.
 *
 * | code | moves on | cools down | because |
 * |---|---|---|---|
 * | `network` | yes | yes | its connection, its name or its certificate: the next has another |
 * | `timeout` | but for `total` | but for `queue`, and for a clock that the call has set shorter | `connect`, `headers`, `first-chunk`: it is slow, and may be paid twice; `queue`: ours is full; `total`: no time is left |
 * | `rate-limited`, `quota-exceeded` | yes | if it has a `status` | the next has limits of its own; without a status it was a limit of ours, perhaps of one tenant |
 * | `overloaded` | yes | yes | its load is its own |
 * | `unavailable` | yes | if it has a `status` | the same; without a status the store of our limits failed |
 * | `circuit-open` | yes | yes | the breaker knows it to be down, and until when |
 * | `queue-full` | yes | no | our own queue, which empties by itself |
 * | `unauthorized` | yes | yes | the next has another key; a revoked one is seen in the note, in `stats()`, and when all fail |
 * | `protocol` | but for `too-large` | yes | it does not speak as promised; an answer that is too long has been paid and would be so again |
 * | `context-overflow` | yes | no | it is the request's length, and the next may have a larger window |
 * | `invalid-request` | if it was refused before a socket opened, 413, or by a name for an unknown model or field | an unknown model | the next may carry it; what is wrong for all is refused by each at once, without a request |
 * | `content-filtered` | no | no | whether another may judge the prompt is for you to say: add it to `on` |
 * | `closed` | never | no | we are closing |
 */
export interface FallbackOptions {
  /**
   * `ordered`: the first of the list that is not cooling down. `weighted`: drawn for each call by `weight` among those not
   * cooling down, and so are those that follow.
   * @default 'ordered'
   */
  readonly balance?: 'ordered' | 'weighted' | undefined
  /** The codes that move a call on, each within the bounds of the table. @default all of the table that do */
  readonly on?: readonly ErrorCode[] | undefined
  /**
   * How long a provider that failed is passed over for the same model, while another can answer. It doubles up to 60000 with
   * each failure after it; where the provider told how long, that is taken instead, up to 600000. Then one call at a time
   * asks it again, and the others follow when that was answered. 0 turns it off. @default 5000
   */
  readonly coolDownMs?: number | undefined
  /**
   * How long each wait of one provider may take, in the queue of its limits or for its `Retry-After`, while another is left
   * that is not cooling down. 0: no retries of the same one. @default 1000
   */
  readonly patienceMs?: number | undefined
  /** Numbers from 0 to 1, for `weighted`. @default Math.random */
  readonly random?: (() => number) | undefined
  /** Milliseconds that only grow. @default performance.now */
  readonly now?: (() => number) | undefined
}

/** The options with their defaults. */
export interface FallbackRules {
  readonly balance: 'ordered' | 'weighted'
  readonly coolDownMs: number
  readonly patienceMs: number
  readonly random: () => number
  readonly now: () => number
  movesOn(error: unknown): error is MillraceError
  /** Whether a failure tells of the provider, and not only of the request or of limits of ours. */
  coolsDown(error: MillraceError): boolean
}

/** @throws {TypeError} for options that make no sense */
export function checkFallback(options: FallbackOptions, timeouts: Timeouts): FallbackRules {
  checkOptions<FallbackOptions>('fallback', options, { balance: 1, on: 1, coolDownMs: 1, patienceMs: 1, random: 1, now: 1 })
  const { balance = 'ordered', on, coolDownMs = 5000, patienceMs = 1000 } = options
  const { random = Math.random, now = () => performance.now() } = options
  if (balance !== 'ordered' && balance !== 'weighted') throw new TypeError("balance must be 'ordered' or 'weighted'")
  if (on !== undefined && !(Array.isArray(on) && on.every((code) => Object.hasOwn(isKnown, code)))) {
    throw new TypeError(`on must be a list of error codes, of ${Object.keys(isKnown).join(', ')}`)
  }
  if (!(typeof coolDownMs === 'number' && coolDownMs >= 0 && Number.isFinite(coolDownMs))) {
    throw new TypeError('coolDownMs must be a number of milliseconds from 0 up; 0 turns it off')
  }
  if (!(typeof patienceMs === 'number' && patienceMs >= 0)) {
    throw new TypeError('patienceMs must be a number of milliseconds from 0 up, or Infinity to wait as if there was no other')
  }
  if (typeof random !== 'function') throw new TypeError('random must be a function that gives a number from 0 to 1')
  if (typeof now !== 'function') throw new TypeError('now must be a function that gives milliseconds')
  const codes: ReadonlySet<ErrorCode> = new Set(on ?? defaultCodes)
  return {
    balance,
    coolDownMs,
    patienceMs,
    random,
    now,
    movesOn: (error): error is MillraceError => isMillraceError(error) && codes.has(error.code) && !isFinal(error),
    coolsDown: (error) => coolsDown(error, timeouts)
  }
}

/** Whether a code may be named in `on`, and moves a call on without it. */
const isKnown: Readonly<Record<Exclude<ErrorCode, 'closed'>, 0 | 1>> = {
  network: 1,
  timeout: 1,
  'rate-limited': 1,
  'quota-exceeded': 1,
  overloaded: 1,
  unavailable: 1,
  'circuit-open': 1,
  'queue-full': 1,
  unauthorized: 1,
  protocol: 1,
  'context-overflow': 1,
  'invalid-request': 1,
  'content-filtered': 0
}
const defaultCodes = Object.entries(isKnown).flatMap(([code, moves]) => (moves === 1 ? [code as ErrorCode] : []))

/** What the next would say as well, or has no time to say, though its code is one of those that move on. */
function isFinal(error: MillraceError): boolean {
  if (isMillraceError(error, 'timeout')) return error.details.clock === 'total'
  if (isMillraceError(error, 'protocol')) return error.details.reason === 'too-large'
  if (!isMillraceError(error, 'invalid-request')) return false
  const { status, providerCode = '' } = error.details
  return status !== undefined && status !== 413 && !isUnknownModel(error) && !unknownField.has(providerCode)
}

function coolsDown(error: MillraceError, timeouts: Timeouts): boolean {
  switch (error.code) {
    case 'network':
    case 'overloaded':
    case 'circuit-open':
    case 'unauthorized':
    case 'protocol':
      return true
    case 'timeout':
      return isMillraceError(error, 'timeout') && isSlow(error, timeouts)
    case 'rate-limited':
    case 'quota-exceeded':
    case 'unavailable':
      return statusOf(error) !== undefined
    case 'invalid-request':
      return isUnknownModel(error)
    default:
      return false
  }
}

/** One call's short clock must not keep a provider from all others. */
function isSlow({ details: { clock, limitMs } }: MillraceError<'timeout'>, timeouts: Timeouts): boolean {
  switch (clock) {
    case 'connect':
      return true
    case 'headers':
      return limitMs >= (timeouts.headersMs ?? Number.POSITIVE_INFINITY)
    case 'first-chunk':
      return limitMs >= (timeouts.firstChunkMs ?? Number.POSITIVE_INFINITY)
    case 'idle':
      return limitMs >= (timeouts.idleMs ?? 60_000)
    default:
      return false
  }
}

/** Whether limits of ours were full, here or for this tenant: nothing was sent. */
export function isLimited(error: MillraceError): boolean {
  if (isMillraceError(error, 'timeout')) return error.details.clock === 'queue'
  const { code } = error
  return code === 'queue-full' || ((code === 'rate-limited' || code === 'quota-exceeded') && statusOf(error) === undefined)
}

/** What is remembered and told of an error. */
export function failureOf(error: MillraceError): Failure {
  return { code: error.code, status: statusOf(error) }
}

/** The status of the answer that refused the request, if one did. */
function statusOf({ details }: MillraceError): number | undefined {
  return 'status' in details ? details.status : undefined
}

/** How long the provider asked to be left alone. */
export function toldMs({ details }: MillraceError): number | undefined {
  return 'retryAfterMs' in details ? details.retryAfterMs : undefined
}

function isUnknownModel(error: MillraceError): boolean {
  if (!isMillraceError(error, 'invalid-request')) return false
  const { status, providerCode = '' } = error.details
  return status === 404 || status === 410 || unknownModel.has(providerCode)
}

// With status 400: Mistral's and Groq's names.
const unknownModel: ReadonlySet<string> = new Set(['model_not_found', 'invalid_model', 'model_decommissioned'])
const unknownField: ReadonlySet<string> = new Set(['unknown_parameter', 'unsupported_parameter', 'unsupported_value'])
