import { inspect } from 'node:util'
import type { Clock } from './call.ts'
import type { Facts } from './chunk.ts'
import type { Completion } from './completion.ts'
import type { WirePhase } from './wire.ts'

/** What can go wrong, as a closed union; `error.details` is typed by it. */
export type ErrorCode = keyof ErrorDetails

/** What a provider's refusal always tells, when it came as an HTTP response. */
interface HttpDetails {
  readonly status?: number | undefined
  /** The provider's own short name of the error, such as `insufficient_quota`. Never its prose: that may quote the prompt. */
  readonly providerCode?: string | undefined
}

interface RetryDetails extends HttpDetails {
  /** How long the provider asked to be left alone, in milliseconds. */
  readonly retryAfterMs?: number | undefined
}

export interface ErrorDetails {
  /** No usable connection, or it broke. `errno` is the system's name, such as `ECONNREFUSED`. */
  network: { readonly phase: WirePhase; readonly errno?: string | undefined }
  /** A clock fired; which one, and after how long. */
  timeout: { readonly clock: Clock; readonly limitMs: number; readonly elapsedMs: number }
  /** 429: too many requests or tokens just now. */
  'rate-limited': RetryDetails
  /** 429 with an exhausted quota, 402, or a budget of ours that is spent. `resetMs`: until that begins anew. */
  'quota-exceeded': HttpDetails & { readonly resetMs?: number | undefined }
  /** 503 or 529. */
  overloaded: RetryDetails
  /** Any other 5xx, 408, 409. */
  unavailable: RetryDetails
  'circuit-open': { readonly origin: string; readonly retryAfterMs: number }
  'queue-full': { readonly limit: number }
  /** 401 or 403. */
  unauthorized: HttpDetails
  /** The request is wrong: refused here before a socket opened (`path` names the field), or by the provider. */
  'invalid-request': HttpDetails & { readonly path?: string | undefined }
  /** The prompt does not fit the model's window, or cannot be made to fit. */
  'context-overflow': HttpDetails & { readonly limit?: number | undefined; readonly tokens?: number | undefined }
  /** The provider refused the prompt for its content. A finish with `content-filter` is a success instead. */
  'content-filtered': HttpDetails
  /** What came back is not what the protocol promises. `incomplete`: the stream ended without a finish reason. */
  protocol: HttpDetails & { readonly reason: 'incomplete' | 'malformed' | 'too-large' | 'encoding' | 'unexpected' }
  /** The object was closed. */
  closed: Readonly<Record<never, never>>
}

/** Where an error arose; filled in by the layers it passes. */
export interface ErrorContext {
  readonly provider?: string | undefined
  readonly model?: string | undefined
  /** The provider's own id of the request, for its support desk. */
  readonly requestId?: string | undefined
  /** Requests made for this call so far. */
  readonly attempt?: number | undefined
  /** Where several providers were asked: whom, and what each failed with. */
  readonly tried?: readonly Facts[] | undefined
}

export interface MillraceErrorInit<C extends ErrorCode> {
  readonly details: ErrorDetails[C]
  readonly context?: ErrorContext | undefined
  /** Kept as it is when it is ours or the system's; of any other only name, code and frames are kept. */
  readonly cause?: unknown
  /** @default by code: network, timeout, rate-limited, overloaded, unavailable, circuit-open, queue-full and an incomplete stream are */
  readonly retryable?: boolean | undefined
  readonly partial?: Completion | undefined
  readonly providerMessage?: string | undefined
}

const brand: unique symbol = Symbol.for('@millrace/error') as never

const retryableCodes: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'network',
  'timeout',
  'rate-limited',
  'overloaded',
  'unavailable',
  'circuit-open',
  'queue-full'
])

/**
 * The one class of error. Its message, `inspect` and `toJSON` hold no content, no header and no secret; `partial` and
 * `providerMessage` may, and are therefore not enumerable.
 *
 * @example
 * try {
 *   await adapter.complete(request)
 * } catch (error) {
 *   if (isMillraceError(error, 'rate-limited')) await setTimeout(error.details.retryAfterMs ?? 1000)
 *   else throw error
 * }
 */
export class MillraceError<C extends ErrorCode = ErrorCode> extends Error {
  override readonly name = 'MillraceError'
  readonly code: C
  readonly details: ErrorDetails[C]
  /** Whether the same request may succeed later. It does not say that nothing was billed. */
  readonly retryable: boolean
  readonly context: ErrorContext
  /** What was received before the error: the text so far, tool calls so far, usage so far. Not enumerable. */
  declare readonly partial: Completion | undefined
  /** The provider's own words, clipped and with credentials removed. May quote the prompt. Not enumerable. */
  declare readonly providerMessage: string | undefined

  constructor(code: C, message: string, init: MillraceErrorInit<C>) {
    super(message)
    this.code = code
    this.details = init.details
    this.retryable = init.retryable ?? (retryableCodes.has(code) || isIncomplete(code, init.details))
    this.context = init.context ?? {}
    hide(this, 'partial', init.partial)
    hide(this, 'providerMessage', init.providerMessage)
    if (init.cause !== undefined) hide(this, 'cause', quiet(init.cause))
    hide(this, brand, true)
    hide(this, inspect.custom, render)
  }

  toJSON(): { name: string; code: C; message: string; retryable: boolean; details: ErrorDetails[C]; context: ErrorContext } {
    const { name, code, message, retryable, details, context } = this
    return { name, code, message, retryable, details, context }
  }
}

/** The stack, and what `toJSON` shows; the cause by name and code only, for its message is not ours. */
function render(this: MillraceError, depth: number, options: object): string {
  const { code, retryable, details, context } = this
  const cause = causeName(this.cause)
  const facts = inspect({ code, retryable, details, context, ...(cause === undefined ? {} : { cause }) }, { ...options, depth })
  return `${this.stack ?? `${this.name}: ${this.message}`} ${facts}`
}

function hide(error: Error, key: PropertyKey, value: unknown): void {
  Object.defineProperty(error, key, { value, enumerable: false, writable: true, configurable: true })
}

/**
 * A cause that loggers may print, which they do without asking (pino joins the messages of all causes). Most messages are
 * not ours: `JSON.parse` quotes the text it could not read. A system error names only a call and an address.
 */
function quiet(cause: unknown): unknown {
  if (isMillraceError(cause)) return cause
  if (!(cause instanceof Error)) return new Error(`a thrown ${typeof cause}`)
  const { name, message, stack, code, syscall } = cause as NodeJS.ErrnoException
  if (typeof code === 'string' && typeof syscall === 'string') return cause
  const header = message === '' ? name : `${name}: ${message}`
  const frames = stack?.startsWith(header) === true ? stack.slice(header.length) : ''
  const told = new Error(typeof code === 'string' ? code : '')
  hide(told, 'name', name)
  hide(told, 'stack', `${name}${told.message === '' ? '' : `: ${told.message}`}${frames}`)
  return typeof code === 'string' ? Object.assign(told, { code }) : told
}

function isIncomplete(code: ErrorCode, details: object): boolean {
  return code === 'protocol' && (details as ErrorDetails['protocol']).reason === 'incomplete'
}

function causeName(cause: unknown): string | undefined {
  if (cause === undefined || cause === null) return undefined
  if (!(cause instanceof Error)) return typeof cause
  const code = (cause as { code?: unknown }).code
  return typeof code === 'string' ? `${cause.name} ${code}` : cause.name
}

/**
 * Whether `error` is a `MillraceError`, of this `code` if one is given. Works across two copies of the package.
 *
 * @example
 * if (isMillraceError(error, 'timeout')) console.log(error.details.clock)
 */
export function isMillraceError(error: unknown): error is MillraceError
export function isMillraceError<C extends ErrorCode>(error: unknown, code: C): error is MillraceError<C>
export function isMillraceError(error: unknown, code?: ErrorCode): boolean {
  if (typeof error !== 'object' || error === null || (error as Record<symbol, unknown>)[brand] !== true) return false
  return code === undefined || (error as MillraceError).code === code
}

/**
 * Adds what a layer knows to an error on its way out, and gives it back: context it lacks, and what was received so far.
 * What is there already stays; an error that is not ours passes unchanged.
 *
 * @example
 * throw annotate(error, { context: { provider: 'openai' } })
 */
export function annotate(error: unknown, facts: { context?: ErrorContext; partial?: Completion | undefined }): unknown {
  if (!isMillraceError(error)) return error
  const open = error as { context: ErrorContext; partial: Completion | undefined }
  if (facts.context !== undefined) open.context = { ...facts.context, ...withoutUndefined(error.context) }
  if (facts.partial !== undefined && error.partial === undefined) hide(error, 'partial', facts.partial)
  return error
}

function withoutUndefined(context: ErrorContext): ErrorContext {
  return Object.fromEntries(Object.entries(context).filter(([, value]) => value !== undefined))
}
