import type { HttpResponse } from '@millrace/core'
import type { Counter, News } from './store.ts'

/** What the headers of one response told of the provider's limits. */
export interface Reading {
  readonly news: News | undefined
  /** Headers that were understood. */
  readonly read: number
  /** Headers that make no sense: garbage, negative, repeated, absurd, or against one another. */
  readonly ignored: number
}

/**
 * Reads the rate-limit headers of OpenAI and what speaks like it (Azure, Groq, xAI, Together), Anthropic, Mistral, and the
 * IETF's drafts. On a refusal (429, 503 or 529) also how long it asks to be left alone: `retry-after-ms`, `retry-after`, or
 * when the counters that are used up are full again. Times of day are judged by the response's own `date`, so that a clock
 * that is off, here or there, does no harm. It never throws, whatever the headers hold.
 *
 * @example
 * const { news } = newsOf(await send(request))
 */
export function newsOf({ status, headers }: Pick<HttpResponse, 'status' | 'headers'>, now: number = Date.now()): Reading {
  const reader = new Reader(headers, now)
  const requests = reader.counter(requestNames) ?? reader.structured()
  const tokens = reader.counter(tokenNames)
  const pauseMs = isRefusal(status)
    ? (reader.retryAfterMs() ?? (status === 429 ? spentMs(requests, tokens) : undefined))
    : undefined
  const { even, read, ignored } = reader
  if (requests === undefined && tokens === undefined && pauseMs === undefined) {
    return read === 0 && ignored === 0 ? silent : { news: undefined, read, ignored }
  }
  return { news: { requests, tokens, even, pauseMs }, read, ignored }
}

/** Whether a status means that the provider has too much to do, with us or with all. */
export function isRefusal(status: number): boolean {
  return status === 429 || status === 503 || status === 529
}

const silent: Reading = { news: undefined, read: 0, ignored: 0 }

/** When the last of the counters that are used up is full again. */
function spentMs(...counters: readonly (Counter | undefined)[]): number | undefined {
  const resets = counters.map((counter) => (counter?.remaining === 0 ? (counter.resetMs ?? 0) : 0))
  return Math.max(...resets) || undefined
}

/** The headers of one counter. */
interface Names {
  readonly limit: string
  readonly remaining: string
  readonly reset?: string
  /** Azure: seconds in which the whole limit is refilled. */
  readonly period?: string
  /** How the reset is written. @default 'duration' */
  readonly as?: 'iso' | 'any'
  /** Full again all at once, not evenly. */
  readonly windowed?: true
}

// Those of the first line that a response has are taken.
const requestNames: readonly Names[] = [
  {
    limit: 'x-ratelimit-limit-requests',
    remaining: 'x-ratelimit-remaining-requests',
    reset: 'x-ratelimit-reset-requests',
    period: 'x-ratelimit-renewalperiod-requests'
  },
  anthropic('requests'),
  { limit: 'x-ratelimit-limit-req-minute', remaining: 'x-ratelimit-remaining-req-minute', windowed: true },
  { limit: 'x-ratelimit-limit', remaining: 'x-ratelimit-remaining', reset: 'x-ratelimit-reset', as: 'any', windowed: true },
  { limit: 'ratelimit-limit', remaining: 'ratelimit-remaining', reset: 'ratelimit-reset', as: 'any', windowed: true }
]
const tokenNames: readonly Names[] = [
  {
    limit: 'x-ratelimit-limit-tokens',
    remaining: 'x-ratelimit-remaining-tokens',
    reset: 'x-ratelimit-reset-tokens',
    period: 'x-ratelimit-renewalperiod-tokens'
  },
  // Anthropic shows in these "the most restrictive limit currently in effect".
  anthropic('tokens'),
  anthropic('input-tokens'),
  { limit: 'x-ratelimit-limit-tokens-minute', remaining: 'x-ratelimit-remaining-tokens-minute', windowed: true },
  { limit: 'ratelimitbysize-limit', remaining: 'ratelimitbysize-remaining', reset: 'ratelimitbysize-reset', windowed: true },
  { limit: 'x-ratelimitbysize-limit-minute', remaining: 'x-ratelimitbysize-remaining-minute', windowed: true }
]

function anthropic(what: string): Names {
  const prefix = `anthropic-ratelimit-${what}`
  return { limit: `${prefix}-limit`, remaining: `${prefix}-remaining`, reset: `${prefix}-reset`, as: 'iso' }
}

/** A day: nobody means a longer one, and year 9999 is a bug. */
const absurdMs = 86_400_000
const maxCount = 1e15
/** Anthropic's resets are whole seconds: of a shorter time, no window can be told. */
const leastIsoMs = 5000

/** A class, for there is one in each call. */
class Reader {
  even = true
  read = 0
  ignored = 0
  readonly #headers: HttpResponse['headers']
  readonly #now: number
  #clock: number | undefined

  constructor(headers: HttpResponse['headers'], now: number) {
    this.#headers = headers
    this.#now = now
  }

  counter(candidates: readonly Names[]): Counter | undefined {
    for (const names of candidates) {
      const limit = this.#headers[names.limit]
      const remaining = this.#headers[names.remaining]
      if (limit !== undefined || remaining !== undefined) return this.#counter(names, limit, remaining)
    }
    return undefined
  }

  #counter(names: Names, limitText: string | undefined, remainingText: string | undefined): Counter | undefined {
    const limit = this.#take(limitText, limitOf)
    const remaining = this.#take(remainingText, countOf)
    const resetText = names.reset === undefined ? undefined : this.#headers[names.reset]
    const periodMs = names.period === undefined ? undefined : this.#take(this.#headers[names.period], durationMs)
    let resetMs: number | undefined
    if (periodMs !== undefined && limit !== undefined && remaining !== undefined) {
      // Azure is seen to tell its resets in milliseconds, in whole seconds, or as 0: its period says the same without doubt.
      resetMs = (Math.max(0, limit - remaining) * periodMs) / limit
    } else if (names.as === 'iso') {
      const ms = this.#take(resetText, (text) => this.#untilMs(isoDate(text)))
      resetMs = ms !== undefined && ms >= leastIsoMs ? ms : undefined
    } else {
      resetMs = this.#take(resetText, names.as === 'any' ? (text) => this.#anyMs(text) : durationMs)
    }
    return this.#checked({ limit, remaining, resetMs }, names.windowed !== true)
  }

  /** `RateLimit: "default";r=50;t=30` and `RateLimit-Policy: "default";q=100;w=60`, or the draft before: `limit=100, remaining=50`. */
  structured(): Counter | undefined {
    const text = this.#headers.ratelimit
    if (text === undefined) return undefined
    const older = /^\s*limit=(\d+)\s*,\s*remaining=(\d+)\s*,\s*reset=(\d+)\s*$/.exec(text)
    if (older !== null) {
      const [, limit = '', remaining = '', reset = ''] = older
      return this.#checked({ limit: limitOf(limit), remaining: countOf(remaining), resetMs: durationMs(reset) }, false)
    }
    const policies = this.#take(this.#headers['ratelimit-policy'], itemsOf) ?? []
    let least: Counter | undefined
    for (const { name, values } of this.#take(text, itemsOf) ?? []) {
      const policy = policies.find((one) => one.name === name)
      if ((policy?.values.get('qu') ?? 'requests') !== 'requests') continue
      const remaining = countOf(values.get('r') ?? '')
      if (remaining === undefined) this.ignored++
      if (remaining === undefined || remaining >= (least?.remaining ?? Number.POSITIVE_INFINITY)) continue
      least = { limit: limitOf(policy?.values.get('q') ?? ''), remaining, resetMs: durationMs(values.get('t') ?? '') }
    }
    return least && this.#checked(least, false)
  }

  retryAfterMs(): number | undefined {
    const precise = this.#take(this.#headers['retry-after-ms'], (text) => durationMs(text, 1))
    // Azure is seen to send `retry-after-ms: 0` beside `retry-after: 1`.
    if (precise !== undefined && precise > 0) return precise
    const hint = this.#headers['retry-after']
    return (
      this.#take(hint, (text) => (text === '' ? undefined : (plainMs(text, 1000) ?? this.#untilMs(httpDate(text))))) ?? precise
    )
  }

  /** A header that is there and tells nothing is counted as ignored. */
  #take<T>(text: string | undefined, parse: (text: string) => T | undefined): T | undefined {
    if (text === undefined) return undefined
    const value = text.length > 1000 ? undefined : parse(text.trim())
    if (value === undefined) this.ignored++
    else this.read++
    return value
  }

  /** More left than there ever is: nobody knows which of the two is wrong. */
  #checked({ limit, remaining, resetMs }: Counter, even: boolean): Counter | undefined {
    if (limit !== undefined && remaining !== undefined && remaining > limit) {
      this.read -= Math.min(this.read, 2)
      this.ignored += 2
      return undefined
    }
    if (limit === undefined && remaining === undefined) return undefined
    if (!even && resetMs !== undefined) this.even = false
    return { limit, remaining, resetMs }
  }

  /** Seconds from now, or a time since 1970 in seconds or milliseconds. */
  #anyMs(text: string): number | undefined {
    const time = countOf(text)
    if (time === undefined || time < 1e9) return durationMs(text)
    return this.#untilMs(time < 1e11 ? time * 1000 : time)
  }

  /** A time that has just passed means now; one of another day means nothing. */
  #untilMs(time: number | undefined): number | undefined {
    if (time === undefined) return undefined
    this.#clock ??= httpDate(this.#headers.date ?? '') ?? this.#now
    return Math.abs(time - this.#clock) <= absurdMs ? Math.max(0, time - this.#clock) : undefined
  }
}

function countOf(text: string): number | undefined {
  if (!/^\d{1,16}$/.test(text)) return undefined
  const count = Number(text)
  return count <= maxCount ? count : undefined
}

/** A limit of 0 would allow nothing, ever: what it means is something else. */
function limitOf(text: string): number | undefined {
  return countOf(text) || undefined
}

function plainMs(text: string, unitMs: number): number | undefined {
  if (!/^\d{1,12}(\.\d{1,9})?$/.test(text)) return undefined
  const ms = Number(text) * unitMs
  return ms <= absurdMs ? ms : undefined
}

const unitsMs: Readonly<Record<string, number>> = { ns: 1e-6, us: 1e-3, µs: 1e-3, ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

/** `12ms`, `1m26.4s`, as Go prints them; a bare number is of seconds. OpenAI is seen to add the request's id: `0s, req_b17…`. */
function durationMs(text: string, unitMs = 1000): number | undefined {
  const duration = text.replace(/,\s*req_\w*$/, '')
  if (duration === '' || duration.length > 64) return undefined
  const plain = plainMs(duration, unitMs)
  if (plain !== undefined) return plain
  let sum = 0
  let end = 0
  for (const { 0: part, 1: amount, 2: unit = '', index } of duration.matchAll(/(\d{1,12}(?:\.\d{1,9})?)(ns|us|µs|ms|[smh])/gy)) {
    sum += Number(amount) * (unitsMs[unit] ?? Number.NaN)
    end = index + part.length
  }
  return end === duration.length && sum <= absurdMs ? sum : undefined
}

/** RFC 3339. */
function isoDate(text: string): number | undefined {
  if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$/.test(text)) return undefined
  return Date.parse(text) || undefined
}

/** The form that RFC 9110 has servers write. `Date.parse` alone is no help: "banana 1" is a date to it. */
function httpDate(text: string): number | undefined {
  if (!/^[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT$/.test(text)) return undefined
  return Date.parse(text) || undefined
}

interface Item {
  readonly name: string
  readonly values: ReadonlyMap<string, string>
}

/** A list of structured fields (RFC 9651), as much of it as these headers use: `"name";key=value, ...`. */
function itemsOf(text: string): readonly Item[] | undefined {
  const items: Item[] = []
  for (let from = 0; from < text.length; ) {
    const name = matchAt(/\s*("[^"\\]*"|[\w*.:/-]+)\s*/y, text, from)
    if (name === undefined) return undefined
    from += name[0].length
    const values = new Map<string, string>()
    for (;;) {
      const value = matchAt(/;\s*([a-z*][\w.*-]*)(?:=("[^"\\]*"|:[\w+/=]*:|[\w*.+:/-]+))?\s*/y, text, from)
      if (value === undefined) break
      from += value[0].length
      values.set(value[1] ?? '', unquoted(value[2] ?? ''))
    }
    items.push({ name: unquoted(name[1] ?? ''), values })
    if (from === text.length) break
    if (text[from++] !== ',' || from === text.length) return undefined
  }
  return items.length === 0 ? undefined : items
}

function matchAt(pattern: RegExp, text: string, from: number): RegExpExecArray | undefined {
  pattern.lastIndex = from
  return pattern.exec(text) ?? undefined
}

function unquoted(text: string): string {
  return text.startsWith('"') ? text.slice(1, -1) : text
}
