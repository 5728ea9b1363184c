import { isMillraceError, type Layer, type Send } from '@millrace/core'
import type { CallPermit } from './call-permit.ts'
import { createGate } from './degraded.ts'
import { endsOf, refusalOf } from './ends.ts'
import { createLimiterFetch, type Fetch, type LimiterFetchOptions } from './limiter-fetch.ts'
import { type AcquireOptions, checkAcquireOptions, checkLimiterOptions, type LimiterOptions } from './limiter-options.ts'
import { createLimiterSend } from './limiter-send.ts'
import { createCounts, type LimiterCounts, type LimiterStats } from './limiter-stats.ts'
import { LivePermit, type PermitOwner } from './live-permit.ts'
import type { Cost, Permit, Subject } from './permit.ts'
import { createRules, type Demand } from './rules.ts'
import type { End, LimitState, LimitStore, News } from './store.ts'
import { createWaiting, grantedBy } from './waiting.ts'

/** A permit as the doors of this package hold it. */
export interface HeldPermit extends Permit {
  readonly subject: Subject
  /** Set by who has read the provider's answer on the wire and learned from it: `fail` then does not learn its hint again. */
  heard: boolean
  /** Set where it was handed down with a call by who asked for it. */
  onWire: CallPermit | undefined
  /** The head of the answer has come: what ends the call behind it is no silence. */
  answered: boolean
  /** A call goes by it that was handed it: it lets no other in beside that. */
  inUse: boolean
  /** Attempts that were sent and not turned away, as far as is known. */
  maybeBilled: number
  /** What our own limits refused a further attempt with: it says nothing of the provider. */
  ownRefusal: unknown
  /** Whether all that the demand is counted by is held by it. */
  covers(demand: Demand): boolean
  /** An attempt was refused (429, overload): lowers the ceiling. The call goes on, and ends the permit as ever. */
  refused(): void
}

/** What `limiter.send`, `limiter.fetch` and `withLimits` use of a limiter. */
export interface LimiterParts {
  readonly price: LimiterOptions['price']
  readonly estimate: LimiterOptions['estimate']
  readonly random: () => number
  readonly now: () => number
  /** Plain numbers to add to. */
  readonly counts: LimiterCounts
  /** Whether a budget in USD holds the subject: the call then needs `maxUsd`. */
  needsPrice(subject: Subject): boolean
  acquire(cost: Cost, options?: AcquireOptions): Promise<HeldPermit>
  /** A request only, no place and no tokens: for attempts of a call after its first. It need not be ended. */
  acquireRequest(subject: Subject, options?: AcquireOptions): Promise<HeldPermit>
  /** The permit itself, where this limiter gave it and it has not been ended. */
  own(permit: object | undefined): HeldPermit | undefined
  /** Whether a call for the subject may go by the permit: limits and budgets count it by nothing else. */
  covers(held: HeldPermit, subject: Subject): boolean
  /** Never throws; failures of the store are counted. */
  learn(subject: Subject, news: News): void
}

/** Where `withLimits` finds the parts of a limiter. */
export const limiterParts: unique symbol = Symbol.for('@millrace/limits.parts') as never

/** Holds calls to their limits and budgets. */
export interface Limiter extends AsyncDisposable {
  /**
   * The right to make one call, when there is room for it. End it with `settle`, `fail` or `release`, or the room is lost.
   * Rejects with `signal.reason` when the signal aborts.
   *
   * @throws {TypeError} for a cost that is none
   * @throws {MillraceError} `rate-limited` where the wait would outlast `queueMs` or the deadline (`retryAfterMs` says how long
   * it would be), or the call needs more than a limit ever has; `timeout` of the clock `queue`; `queue-full`;
   * `quota-exceeded` where a budget is spent; `invalid-request` without a price under a budget in USD; `unavailable` where the
   * store fails and nobody is let in; `closed`
   *
   * @example
   * const permit = await limiter.acquire({ provider: 'openai', model, tokens: 1200 }, { signal })
   */
  acquire(cost: Cost, options?: AcquireOptions): Promise<Permit>
  /**
   * Does `work` with a permit and ends it: as work did with `permit.settle`, else as expected, or as failed when it throws.
   *
   * @example
   * const answer = await limiter.run({ model, tokens: 1200 }, async (permit) => {
   *   const answer = await ask()
   *   permit.settle({ tokens: answer.usage.total_tokens })
   *   return answer
   * })
   */
  run<T>(cost: Cost, work: (permit: Permit) => T | Promise<T>, options?: AcquireOptions): Promise<T>
  /** Feeds what a provider has told to all adaptive limits that hold the subject. `send` and `fetch` do it by themselves. */
  learn(subject: Subject, news: News): void
  /**
   * For the wire, inside retries: one more request of the limits for each attempt of a call after its first, a whole permit for
   * a request that has none, and what the provider tells of its limits is learned.
   */
  readonly send: Layer<Send>
  /** The same around any `fetch`, for SDKs. */
  fetch(fetch: Fetch, options?: LimiterFetchOptions): Fetch
  stats(): LimiterStats
  /**
   * How the limits stand: of the last 100 providers and models that were asked for. Those kept by tenant are left out. While the
   * store fails, what this process knows of them.
   */
  limits(): Promise<Readonly<Record<string, LimitState>>>
  /**
   * Refuses new calls with `closed`, those that wait too. Calls that run go on. A store that was given stays open: close it
   * after the calls.
   */
  close(): Promise<void>
  /** For `withLimits`. */
  readonly [limiterParts]: LimiterParts
}

/**
 * Limits, budgets and the queue before them. Without options nothing is held back.
 *
 * @throws {TypeError} when an option is wrong
 *
 * @example
 * await using limiter = createLimiter({
 *   limits: [{ concurrency: 20, requestsPerMinute: 500, tokensPerMinute: 200_000 }],
 *   budgets: [{ by: 'tenant', usd: 5, per: 'day' }]
 * })
 * await limiter.run({ provider: 'openai', model: 'gpt-4.1', tenant: 'acme', tokens: 1200, maxUsd: 0.02 }, () => ask())
 */
export function createLimiter(options: LimiterOptions = {}): Limiter {
  const settings = checkLimiterOptions(options)
  const rules = createRules(settings.rates, settings.budgets)
  const counts = createCounts()
  const gate = createGate({ ...settings, changed: () => waiting.freedAll() })
  const seen = new Map<string, Subject>()
  let running = 0
  let lastProvider: string | undefined
  let lastModel: string | undefined
  let closing: Promise<void> | undefined

  function tell(demand: Demand, from: LimitStore | undefined, ends: readonly End[]): void {
    // A store of our own is gone by then.
    if (from === undefined || (closing !== undefined && from !== settings.store)) return
    const told = gate.end(from, ends)
    if (told === undefined) waiting.freed(demand)
    else void told.then(() => waiting.freed(demand))
  }

  const owner: PermitOwner = {
    random: settings.random,
    learn,
    ended(demand, from, at, outcome) {
      if (demand.isCall) running--
      if (outcome.outcome === 'refused') counts.refusals++
      tell(demand, from, endsOf(demand.asks, at, outcome))
    },
    refused(demand, from, at) {
      counts.refusals++
      tell(demand, from, refusalOf(demand.asks, at))
    }
  }

  const waiting = createWaiting({
    settings,
    counts,
    gate,
    permit(demand, subject, answer, waitedMs): LivePermit {
      counts.granted++
      if ('degraded' in answer) counts.degradedCalls++
      if (demand.isCall) running++
      return new LivePermit(owner, demand, subject, answer, grantedBy(answer, gate), waitedMs)
    }
  })

  function remember(subject: Subject): void {
    const { provider, model } = subject
    if (provider === lastProvider && model === lastModel && seen.size > 0) return
    lastProvider = provider
    lastModel = model
    const id = JSON.stringify([provider, model])
    seen.delete(id)
    seen.set(id, { provider, model })
    if (seen.size <= maxSeen) return
    for (const oldest of seen.keys()) {
      seen.delete(oldest)
      break
    }
  }

  // Not `async`: that would cost each call two more promises.
  function acquire(cost: Cost, terms: AcquireOptions = none): Promise<LivePermit> {
    try {
      if (terms !== none) checkAcquireOptions(terms)
      const demand = rules.demand(cost)
      remember(cost)
      return waiting.enter(demand, cost, terms)
    } catch (error) {
      if (isMillraceError(error, 'rate-limited')) counts.refused.tooLarge++
      return Promise.reject(error)
    }
  }

  function acquireRequest(subject: Subject, terms: AcquireOptions = none): Promise<LivePermit> {
    return waiting.enter(rules.requests(subject), subject, terms)
  }

  function learn(subject: Subject, news: News): void {
    for (const { key, terms } of rules.kept(subject)) {
      if (terms.adaptive) gate.learn(key, terms, news)
    }
    if (waiting.queued > 0) waiting.freed(rules.requests(subject))
  }

  const parts: LimiterParts = {
    price: settings.price,
    estimate: settings.estimate,
    random: settings.random,
    now: settings.now,
    counts,
    needsPrice: rules.needsPrice,
    acquire,
    acquireRequest,
    own: (permit) => LivePermit.of(permit, owner),
    covers: (held, subject) => held.covers(rules.demand({ ...subject, maxUsd: 0 })),
    learn
  }

  const limiter: Limiter = {
    acquire,
    async run(cost, work, terms) {
      const permit = await acquire(cost, terms)
      try {
        const value = await work(permit)
        permit.settle()
        return value
      } catch (error) {
        permit.fail(error)
        throw error
      }
    },
    learn,
    send: createLimiterSend(parts),
    fetch: createLimiterFetch(parts),
    stats: () => ({
      ...counts,
      refused: { ...counts.refused },
      storeErrors: counts.storeErrors + gate.errors,
      running,
      queued: waiting.queued,
      degraded: gate.degraded
    }),
    async limits() {
      const kept = [...seen.values()].flatMap((subject) => rules.kept(subject)).filter(({ byTenant }) => !byTenant)
      const byLabel = new Map(kept.map((one) => [one.label, one] as const))
      const states = [...byLabel.values()].map(async ({ key, terms, label }) => [label, await gate.state(key, terms)] as const)
      return Object.fromEntries(await Promise.all(states))
    },
    close() {
      closing ??= (waiting.close(), gate.close())
      return closing
    },
    [Symbol.asyncDispose]: () => limiter.close(),
    [limiterParts]: parts
  }
  return limiter
}

const none: AcquireOptions = {}
/** So many providers and models are remembered for `limits()`. */
const maxSeen = 100
