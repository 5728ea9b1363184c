import { type HttpResponse, isJsonObject, type Json } from '@millrace/core'

/** A hint longer than this is not waited for. */
export const maxHintMs = 60_000

/** A day: nobody means a longer one, and year 9999 is a bug. */
const absurdMs = 86_400_000

/**
 * How long a refusal asks to be left alone, in milliseconds. The first of these that makes sense: `retry-after-ms` (OpenAI,
 * Azure), `retry-after` in seconds or as an HTTP date, Google's `RetryInfo` in `body`, and on a 429 the reset times of those
 * limits that have nothing left (`x-ratelimit-reset-*`, `anthropic-ratelimit-*-reset`), the longest of them.
 *
 * Garbage, negative, repeated and absurd values (more than a day) give `undefined`. The headers of a 2xx are no hint: they
 * were written before anything went wrong. A time of day is compared with the response's own `date`, so that a clock that
 * is off, here or there, does no harm.
 *
 * @example
 * const waitMs = retryAfterMs(response, parseJson(text)) ?? 1000
 */
export function retryAfterMs(
  { status, headers }: Pick<HttpResponse, 'status' | 'headers'>,
  body?: Json,
  now: number = Date.now()
): number | undefined {
  if (status < 300) return retryInfoMs(body)
  const clock = httpDate(headers.date, now) ?? now
  const precise = numberOf(headers['retry-after-ms'], 1)
  // Azure is seen to send `retry-after-ms: 0` beside `retry-after: 1`.
  if (precise !== undefined && precise > 0) return precise
  const hint = headers['retry-after']
  return (
    numberOf(hint, 1000) ??
    untilMs(httpDate(hint, clock), clock) ??
    precise ??
    retryInfoMs(body) ??
    (status === 429 ? resetMs(headers, clock) : undefined)
  )
}

function numberOf(text: string | undefined, unitMs: number): number | undefined {
  if (text === undefined || !/^\s*\d{1,12}(\.\d{1,9})?\s*$/.test(text)) return undefined
  return sane(Number(text) * unitMs)
}

function sane(ms: number): number | undefined {
  return ms <= absurdMs ? ms : undefined
}

/** A time that has just passed means now; one of another day means nothing. */
function untilMs(time: number | undefined, now: number): number | undefined {
  if (time === undefined || Math.abs(time - now) > absurdMs) return undefined
  return Math.max(0, time - now)
}

const months = 'JanFebMarAprMayJunJulAugSepOctNovDec'
const clockTime = '(?<hour>[01]\\d|2[0-3]):(?<minute>[0-5]\\d):(?<second>[0-5]\\d|60)'
const month = '(?<month>Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)'
/** The three forms of RFC 9110, section 5.6.7. `Date.parse` is no help: "banana 1" is a date to it, the last one local time. */
const dateForms = [
  new RegExp(`^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?<day>\\d\\d) ${month} (?<year>\\d{4}) ${clockTime} GMT$`),
  new RegExp(`^(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (?<day>\\d\\d)-${month}-(?<year>\\d\\d) ${clockTime} GMT$`),
  new RegExp(`^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ${month} (?<day>[ \\d]\\d) ${clockTime} (?<year>\\d{4})$`)
]

function httpDate(text: string | undefined, now: number): number | undefined {
  if (text === undefined) return undefined
  for (const form of dateForms) {
    const groups = form.exec(text.trim())?.groups
    if (groups === undefined) continue
    const { day, month: name = '', year = '', hour, minute, second } = groups
    const fullYear = year.length === 2 ? centuryOf(Number(year), now) : Number(year)
    const time = Date.UTC(fullYear, months.indexOf(name) / 3, Number(day), Number(hour), Number(minute), Number(second))
    // A 31st of February is a day of March to `Date.UTC`; a leap second may pass midnight.
    return second === '60' || new Date(time).getUTCDate() === Number(day) ? time : undefined
  }
  return undefined
}

/** Two digits that seem to lie more than 50 years ahead are of the past (RFC 9110, section 5.6.7). */
function centuryOf(year: number, now: number): number {
  const thisYear = new Date(now).getUTCFullYear()
  const full = thisYear - (thisYear % 100) + year
  return full > thisYear + 50 ? full - 100 : full
}

/** The body may be a list with one error, as Google's streams without `alt=sse` have it. */
function retryInfoMs(body: Json | undefined): number | undefined {
  const answer: Json | undefined = Array.isArray(body) ? body[0] : body
  const error = isJsonObject(answer) ? answer.error : undefined
  const details = isJsonObject(error) ? error.details : undefined
  if (!Array.isArray(details)) return undefined
  for (const detail of details as readonly Json[]) {
    if (!isJsonObject(detail) || typeof detail['@type'] !== 'string') continue
    if (!detail['@type'].endsWith('google.rpc.RetryInfo')) continue
    const { retryDelay } = detail
    return typeof retryDelay === 'string' && retryDelay.endsWith('s') ? durationMs(retryDelay) : undefined
  }
  return undefined
}

function resetMs(headers: HttpResponse['headers'], now: number): number | undefined {
  const resets: (number | undefined)[] = []
  for (const what of ['requests', 'tokens']) {
    if (!isSpent(headers[`x-ratelimit-remaining-${what}`])) continue
    // OpenAI is seen to add the request's id: `0s,req_b17…`.
    resets.push(durationMs(headers[`x-ratelimit-reset-${what}`]?.replace(/,\s*req_\w*$/, '')))
  }
  for (const what of ['requests', 'tokens', 'input-tokens', 'output-tokens']) {
    if (!isSpent(headers[`anthropic-ratelimit-${what}-remaining`])) continue
    resets.push(untilMs(isoDate(headers[`anthropic-ratelimit-${what}-reset`]), now))
  }
  const known = resets.filter((ms) => ms !== undefined)
  return known.length === 0 ? undefined : Math.max(...known)
}

/** Where a limit does not say what is left, it may be the one that was hit. */
function isSpent(remaining: string | undefined): boolean {
  return remaining === undefined || Number(remaining) <= 0
}

/** RFC 3339. */
function isoDate(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$/.test(text)) return undefined
  const time = Date.parse(text)
  return Number.isNaN(time) ? undefined : time
}

const unitMs: Readonly<Record<string, number>> = { ns: 1e-6, us: 1e-3, µs: 1e-3, ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

/** `12ms`, `1m26.4s`, as Go prints them; a bare number is of seconds. */
function durationMs(text: string | undefined): number | undefined {
  if (text === undefined || text.length > 64) return undefined
  const seconds = numberOf(text, 1000)
  if (seconds !== undefined) return seconds
  let sum = 0
  let end = 0
  for (const { 0: part, 1: amount, 2: unit = '', index } of text.matchAll(/(\d{1,12}(?:\.\d{1,9})?)(ns|us|µs|ms|[smh])/gy)) {
    sum += Number(amount) * (unitMs[unit] ?? Number.NaN)
    end = index + part.length
  }
  return end > 0 && end === text.length ? sane(sum) : undefined
}
