import type { HttpResponse } from '@millrace/core'
import { absurdMs, countOf, durationMs, httpDate, isoDate, itemsOf, limitOf, plainMs } from './header-values.ts'
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
 * that is off, here or there, does no harm. A counter that names neither requests nor tokens (`x-ratelimit-limit`) is taken for
 * requests where it comes with its reset, and else ignored. A 429 stops for an hour at most, longer only where counters that are
 * used up say so; a 503 or 529 for 5 minutes. It never throws, whatever the headers hold.
 *
 * @example
 * const { news } = newsOf(await send(request))
 */
export function newsOf({ status, headers }: Pick<HttpResponse, 'status' | 'headers'>, now: number = Date.now()): Reading {
  const reader = new Reader(headers, now)
  const requests = reader.counter(requestNames) ?? reader.structured()
  const tokens = reader.counter(tokenNames)
  const pauseMs = isRefusal(status) ? pauseOf(status, reader.retryAfterMs(), spentMs(requests, tokens)) : undefined
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

/** Of a 429. Only counters that are used up, of a day for example, may stop it for longer. */
export const maxRatePauseMs = 3_600_000
/** Of a provider that has too much to do: it does not know for how long, and one wrong header is not to stop all for a day. */
export const maxOverloadPauseMs = 300_000

function pauseOf(status: number, hintMs: number | undefined, spentForMs: number | undefined): number | undefined {
  if (status !== 429) return hintMs && Math.min(hintMs, maxOverloadPauseMs)
  return hintMs === undefined ? spentForMs : Math.min(hintMs, Math.max(maxRatePauseMs, spentForMs ?? 0))
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
  /** It does not say what it counts: believed only with its reset. Without, it may be a second's, a day's or none of ours. */
  readonly unnamed?: true
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
  {
    limit: 'x-ratelimit-limit',
    remaining: 'x-ratelimit-remaining',
    reset: 'x-ratelimit-reset',
    as: 'any',
    windowed: true,
    unnamed: true
  },
  {
    limit: 'ratelimit-limit',
    remaining: 'ratelimit-remaining',
    reset: 'ratelimit-reset',
    as: 'any',
    windowed: true,
    unnamed: true
  }
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
    if (names.unnamed === true && resetMs === undefined) {
      const told = (limit === undefined ? 0 : 1) + (remaining === undefined ? 0 : 1)
      this.read -= told
      this.ignored += told
      return undefined
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
      // Without a reset it is full again when its window ends, at the latest.
      const resetMs = durationMs(values.get('t') ?? policy?.values.get('w') ?? '')
      if (resetMs === undefined) this.ignored++
      else least = { limit: limitOf(policy?.values.get('q') ?? ''), remaining, resetMs }
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
