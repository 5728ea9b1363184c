import { type ErrorCode, type HttpResponse, isJsonObject, type Json, MillraceError, parseJson } from '@millrace/core'
import { readRefusal, retryAfterMs } from '@millrace/transport'
import { redact } from './redact.ts'

interface Origin {
  readonly name: string
  readonly secrets: readonly string[]
}

/** The error of a response that is not 200. */
export async function httpError(response: HttpResponse, origin: Origin): Promise<MillraceError> {
  const text = await readRefusal(response.body)
  const body = parseJson(text)
  return providerError(response.status, body ?? text, origin, retryAfterMs(response, body))
}

/**
 * A provider's refusal as one of our codes, by status, then by the provider's own code, then by the few wordings for a
 * full context window (providers agree on no code for it). Its prose goes to `providerMessage` only.
 */
export function providerError(status: number, body: Json, origin: Origin, retryAfter?: number): MillraceError {
  const { providerCode, prose } = readError(body, origin.secrets)
  const code = codeOf(status, providerCode, prose)
  const details = {
    status,
    ...(providerCode === undefined ? {} : { providerCode }),
    ...(retryAfter === undefined ? {} : { retryAfterMs: retryAfter })
  }
  const name = providerCode === undefined ? '' : `, ${providerCode}`
  return new MillraceError<ErrorCode>(code, `${origin.name} ${said[code] ?? 'refused the request'} (${status}${name})`, {
    details: code === 'protocol' ? { ...details, reason: 'unexpected' } : details,
    context: { provider: origin.name },
    providerMessage: prose === '' ? undefined : redact(prose, origin.secrets)
  })
}

const said: Partial<Readonly<Record<ErrorCode, string>>> = {
  'rate-limited': 'asks for fewer requests',
  'quota-exceeded': 'says the quota is used up',
  overloaded: 'is overloaded',
  unavailable: 'failed',
  unauthorized: 'does not accept the credentials',
  'invalid-request': 'refused the request',
  'context-overflow': 'says the prompt is longer than the context window',
  'content-filtered': 'refused the prompt for its content',
  protocol: 'answered with an unexpected status'
}

const quota: ReadonlySet<string> = new Set([
  'insufficient_quota',
  'billing_hard_limit_reached',
  'billing_not_active',
  'credit_balance_too_low'
])
const filtered: ReadonlySet<string> = new Set(['content_filter', 'content_policy_violation', 'ResponsibleAIPolicyViolation'])
const overflow: ReadonlySet<string> = new Set(['context_length_exceeded', 'too_many_prompt_tokens', 'request_too_large'])
const overflowProse =
  /maximum context length|prompt (?:is )?too long|exceeds? (?:the )?(?:max|context)|context (?:length|window) exceeded/i

function codeOf(status: number, providerCode: string | undefined, prose: string): ErrorCode {
  const named = (names: ReadonlySet<string>): boolean => providerCode !== undefined && names.has(providerCode)
  if (status === 401 || status === 403) return 'unauthorized'
  if (status === 402 || (status === 429 && named(quota))) return 'quota-exceeded'
  if (status === 429) return 'rate-limited'
  if (status === 503 || status === 529) return 'overloaded'
  if (status >= 500 || status === 408 || status === 409) return 'unavailable'
  if (status < 400) return 'protocol'
  if (named(filtered)) return 'content-filtered'
  if (named(overflow) || overflowProse.test(prose)) return 'context-overflow'
  return 'invalid-request'
}

/** Shapes seen in recordings: `{ error: { message, type, code } }`, `{ error: 'text' }`, `{ detail }`, `{ message }`, HTML. */
function readError(body: Json, secrets: readonly string[]): { providerCode: string | undefined; prose: string } {
  if (typeof body === 'string') return { providerCode: undefined, prose: body }
  if (!isJsonObject(body)) return { providerCode: undefined, prose: '' }
  const error = isJsonObject(body.error) ? body.error : body
  const inner = isJsonObject(error.innererror) ? error.innererror.code : undefined
  const prose = [error.message, body.error, body.detail].find((value) => typeof value === 'string') ?? ''
  return { providerCode: [error.code, error.type, inner].find((value) => isShortName(value, secrets)), prose }
}

/** A name, not prose, not a number repeated from the status, and not a credential that was echoed: safe to show. */
function isShortName(value: unknown, secrets: readonly string[]): value is string {
  return typeof value === 'string' && /^[A-Za-z][\w.-]{0,63}$/.test(value) && redact(value, secrets) === value
}
