import { type HttpResponse, inputTokens, outputTokens, type Usage } from '@millrace/core'
import type { Estimator } from './estimate.ts'
import type { HeldPermit, LimiterParts } from './limiter.ts'
import type { Spent, Subject } from './permit.ts'
import { isRefusal, newsOf } from './rate-limit-headers.ts'
import { nothingSpent, spentOf } from './spent.ts'
import type { Counter } from './store.ts'
import { UsageTail, usageIn } from './usage-tail.ts'
import { groupOf, type WireCall } from './wire-cost.ts'

/** Of a 429 that says nothing about it. */
const defaultPauseMs = 1000
/** Pauses end apart by up to so much of them, lest all that wait start at once. */
const jitter = 0.1

/**
 * A little of what a provider allows is never asked for: while requests are on their way to it, a counter of ours that was full
 * refills sooner than its own, and without it each such moment ends in a few refusals. How fast it refills is told all the same.
 */
const spareShare = 0.03

function lessSpare(counter: Counter | undefined): Counter | undefined {
  if (counter?.limit === undefined) return counter
  const { limit, remaining, resetMs } = counter
  const spare = Math.floor(limit * spareShare)
  return { limit: limit - spare, remaining: remaining === undefined ? undefined : Math.max(0, remaining - spare), resetMs }
}

/** Tells the limiter what the head of a response says about the provider's limits. */
export function hear(
  parts: LimiterParts,
  held: HeldPermit,
  subject: Subject,
  { status, headers }: Pick<HttpResponse, 'status' | 'headers'>
): void {
  held.answered = true
  const { news, read, ignored } = newsOf({ status, headers })
  parts.counts.headersRead += read
  parts.counts.headersIgnored += ignored
  const known = news && { ...news, requests: lessSpare(news.requests), tokens: lessSpare(news.tokens) }
  const hint = news?.pauseMs ?? (status === 429 ? defaultPauseMs : undefined)
  if (hint !== undefined) {
    const pauseMs = hint * (1 + jitter * parts.random())
    parts.learn(subject, known === undefined ? { even: true, pauseMs } : { ...known, pauseMs })
  } else if (known !== undefined) parts.learn(subject, known)
  if (!isRefusal(status)) return
  held.heard = true
  held.refused()
}

/** A call that has its permit until its answer has been read, has failed or was given up. */
export class WiredCall {
  readonly tail: UsageTail = new UsageTail()
  readonly #parts: LimiterParts
  readonly #estimator: Estimator
  readonly #held: HeldPermit
  readonly #call: WireCall
  #off: (() => void) | undefined
  #isRefused = false
  #over = false

  constructor(parts: LimiterParts, estimator: Estimator, held: HeldPermit, call: WireCall) {
    this.#parts = parts
    this.#estimator = estimator
    this.#held = held
    this.#call = call
  }

  /** Called once, when the call is over: takes a listener off. */
  set off(off: () => void) {
    if (this.#over) off()
    else this.#off = off
  }

  hear(response: Pick<HttpResponse, 'status' | 'headers'>): void {
    const { onWire, maybeBilled } = this.#held
    if (onWire !== undefined && onWire.sent > 0) {
      // `limiter.send` has heard each attempt, and knows of a refusal behind a 200 too.
      this.#isRefused = maybeBilled === 0
      return
    }
    hear(this.#parts, this.#held, this.#held.subject, response)
    this.#isRefused = response.status >= 400
  }

  /** All of the answer has come. */
  ended(text?: string): void {
    if (this.#over) return
    this.#end(this.#spent(text === undefined ? this.tail.usage() : usageIn(text.slice(-16_384), text.slice(0, 4096))))
  }

  /** Nobody reads the rest: what it took is not known, unless the last word has been read. */
  left(): void {
    if (!this.#over) this.#end(this.#spent(this.tail.lastUsage()))
  }

  failed(error: unknown): void {
    if (this.#over) return
    this.#close()
    this.#held.fail(error, this.#isRefused ? nothingSpent : undefined)
  }

  #end(spent: Spent | undefined): void {
    this.#close()
    this.#held.settle(spent)
  }

  #close(): void {
    this.#over = true
    this.#off?.()
    this.#off = undefined
  }

  #spent(usage: Usage | undefined): Spent | undefined {
    if (this.#isRefused) return nothingSpent
    if (usage === undefined) return undefined
    const { subject } = this.#held
    const spent = spentOf(this.#parts, usage, subject)
    if (spent.tokens !== undefined) {
      const counted = { input: inputTokens(usage), output: outputTokens(usage) }
      this.#estimator.learn(groupOf(subject), this.#call.inputGuess, counted)
    }
    return spent
  }
}
