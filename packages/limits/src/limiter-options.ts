import { type ChatRequest, checkOptions, type Deadline, type PriceOf } from '@millrace/core'
import type { Cost, Subject } from './permit.ts'
import { type BudgetRule, coded, type RateRule, type Rule } from './rules.ts'
import type { LimitStore } from './store.ts'

/** A part of the subject by which a limit or a budget is kept apart. */
export type By = 'provider' | 'model' | 'tenant'

/** One limit. Without any number it holds nothing back until the provider has told what it allows. */
export interface LimitOptions {
  /** Each combination of these has the limit for itself. @default ['provider', 'model'] */
  readonly by?: By | readonly By[] | undefined
  /** Holds only for calls of this provider, model or tenant. @default all */
  readonly only?: Subject | undefined
  /** Calls at a time. @default Infinity */
  readonly concurrency?: number | undefined
  /** @default Infinity */
  readonly requestsPerMinute?: number | undefined
  /** Input and output together. @default Infinity */
  readonly tokensPerMinute?: number | undefined
  /**
   * How much may come at once after a rest: what the rate allows in so long. A provider that holds 600 a minute as 10 a second
   * wants 1000.
   * @default 60000
   */
  readonly windowMs?: number | undefined
  /** Whether headers and refusals of the provider lower it. @default true, unless it is kept by tenant */
  readonly adaptive?: boolean | undefined
}

/** What may be spent in an hour or a day: `usd` or `tokens`, one of them. */
export interface BudgetOptions {
  /** @default 'tenant' */
  readonly by?: By | readonly By[] | undefined
  /** Holds only for calls of this provider, model or tenant. @default all */
  readonly only?: Subject | undefined
  readonly usd?: number | undefined
  readonly tokens?: number | undefined
  /** Or a number of milliseconds. Hours and days are those of UTC. @default 'day' */
  readonly per?: 'hour' | 'day' | number | undefined
}

/** What a request is expected to take; what is left out is estimated as without the option. */
export type EstimateOf = (request: ChatRequest) => Pick<Cost, 'tokens' | 'maxTokens' | 'maxUsd'>

export interface LimiterOptions {
  /** A call needs a place in each limit that holds it. @default none */
  readonly limits?: readonly LimitOptions[] | undefined
  /** @default none */
  readonly budgets?: readonly BudgetOptions[] | undefined
  /** Processes with the same name on one store share. @default 'default' */
  readonly name?: string | undefined
  /** Where limits are kept: `createRedisLimits()` for many processes. You close it. @default in this process */
  readonly store?: LimitStore | undefined
  /**
   * What a call gets while the store cannot be asked: an `unavailable` error, a permit, or its part of the limits, counted in
   * this process.
   * @default 'localShare'
   */
  readonly whenStoreFails?: 'deny' | 'allow' | 'localShare' | undefined
  /** How many processes share the limits; needed for `localShare` with a store. */
  readonly processes?: number | undefined
  /** Calls that may wait; the next is refused with `queue-full`. 0 lets none wait. @default 10000 */
  readonly maxQueue?: number | undefined
  /** The longest wait of a call. `Infinity` lifts it. @default 60000 */
  readonly queueMs?: number | undefined
  /** What usage costs, for budgets in USD: `withLimits` and `limiter.fetch` ask it. @default none */
  readonly price?: PriceOf | undefined
  /** Tokens of a request, for `withLimits`; of a `limiter.fetch`, `cost` tells them. @default by the length of its text */
  readonly estimate?: EstimateOf | undefined
  /** For tests. @default Math.random */
  readonly random?: (() => number) | undefined
  /** Milliseconds on a clock that never jumps back; for tests. @default performance.now */
  readonly now?: (() => number) | undefined
}

/** What a call can say about its wait. `CallOptions` fits. */
export interface AcquireOptions {
  /** Ends the wait: it rejects with `signal.reason`. */
  readonly signal?: AbortSignal | undefined
  /** Of the whole call: no wait goes beyond what is left of it. */
  readonly deadline?: Deadline | undefined
  /** Higher goes first. @default 0 */
  readonly priority?: number | undefined
  /** @default the limiter's */
  readonly queueMs?: number | undefined
}

/** The options, checked and with their defaults. */
export interface LimiterSettings {
  readonly rates: readonly RateRule[]
  readonly budgets: readonly BudgetRule[]
  readonly store: LimitStore | undefined
  readonly whenStoreFails: 'deny' | 'allow' | 'localShare'
  readonly processes: number
  readonly maxQueue: number
  readonly queueMs: number
  readonly price: PriceOf | undefined
  readonly estimate: EstimateOf | undefined
  readonly random: () => number
  /** As it was given. */
  readonly clock: (() => number) | undefined
  readonly now: () => number
}

/** @throws {TypeError} that says what to write instead */
export function checkLimiterOptions(options: LimiterOptions): LimiterSettings {
  checkOptions<LimiterOptions>('createLimiter', options, {
    limits: 1,
    budgets: 1,
    name: 1,
    store: 1,
    whenStoreFails: 1,
    processes: 1,
    maxQueue: 1,
    queueMs: 1,
    price: 1,
    estimate: 1,
    random: 1,
    now: 1
  })
  const { name = 'default', store, whenStoreFails = 'localShare', processes, maxQueue = 10_000, queueMs = 60_000 } = options
  const { limits = [], budgets = [], now } = options
  if (typeof name !== 'string' || name === '') throw new TypeError('name must be a non-empty string, the same in all processes')
  if (store !== undefined && typeof store?.take !== 'function') {
    throw new TypeError('store must be a LimitStore, as createRedisLimits() gives; leave it out to keep limits in this process')
  }
  if (!['deny', 'allow', 'localShare'].includes(whenStoreFails)) {
    throw new TypeError(`whenStoreFails must be 'deny', 'allow' or 'localShare'`)
  }
  if (processes !== undefined) wholeNumber('processes', processes, 1)
  if (store !== undefined && whenStoreFails === 'localShare' && processes === undefined) {
    throw new TypeError(
      `a limiter with a store needs to know how many processes share it: give processes, or whenStoreFails: 'deny' or 'allow'`
    )
  }
  wholeNumber('maxQueue', maxQueue, 0)
  if (!(typeof queueMs === 'number' && queueMs >= 0)) {
    throw new TypeError('queueMs must be a number of milliseconds from 0 up, or Infinity for no limit')
  }
  for (const [option, given] of Object.entries({
    price: options.price,
    estimate: options.estimate,
    random: options.random,
    now
  })) {
    if (given !== undefined && typeof given !== 'function') throw new TypeError(`${option} must be a function`)
  }
  if (!Array.isArray(limits)) throw new TypeError('limits must be an array of limits, such as [{ requestsPerMinute: 500 }]')
  if (!Array.isArray(budgets)) throw new TypeError('budgets must be an array of budgets, such as [{ usd: 5 }]')
  const rates = limits.map((limit, index) => rateRule(limit, index, name))
  const purses = budgets.map((budget, index) => budgetRule(budget, index, name))
  noTwins('limits', rates, ({ terms }) => terms.windowMs)
  noTwins('budgets', purses, ({ unit, windowMs }) => `${unit} ${windowMs}`)
  return {
    rates,
    budgets: purses,
    store,
    whenStoreFails,
    processes: processes ?? 1,
    maxQueue,
    queueMs,
    price: options.price,
    estimate: options.estimate,
    random: options.random ?? Math.random,
    clock: now,
    now: now ?? (() => performance.now())
  }
}

/** No names are checked: options of calls, with more in them, are passed on as they are. */
export function checkAcquireOptions({ priority, queueMs }: AcquireOptions): void {
  if (priority !== undefined && !Number.isFinite(priority)) throw new TypeError(`priority must be a finite number, higher first`)
  if (queueMs !== undefined && !(typeof queueMs === 'number' && queueMs >= 0)) {
    throw new TypeError('queueMs must be a number of milliseconds from 0 up, or Infinity for no limit')
  }
}

function rateRule(limit: LimitOptions, index: number, name: string): RateRule {
  const at = `limits[${index}]`
  checkOptions<LimitOptions>(at, limit, {
    by: 1,
    only: 1,
    concurrency: 1,
    requestsPerMinute: 1,
    tokensPerMinute: 1,
    windowMs: 1,
    adaptive: 1
  })
  const by = parts(at, limit.by ?? ['provider', 'model'])
  const { concurrency = Number.POSITIVE_INFINITY, windowMs = minuteMs, adaptive = !by.includes('tenant') } = limit
  if (limit.concurrency !== undefined) wholeNumber(`${at}.concurrency`, limit.concurrency, 1)
  positive(`${at}.windowMs`, windowMs, 'the minute is the default')
  if (typeof adaptive !== 'boolean') throw new TypeError(`${at}.adaptive must be true or false`)
  const windows = windowMs / minuteMs
  const requests = perWindow(`${at}.requestsPerMinute`, limit.requestsPerMinute, windows)
  const tokens = perWindow(`${at}.tokensPerMinute`, limit.tokensPerMinute, windows)
  const isBound = limit.concurrency !== undefined || limit.requestsPerMinute !== undefined || limit.tokensPerMinute !== undefined
  if (!isBound && !adaptive) {
    throw new TypeError(`${at} limits nothing: give concurrency, requestsPerMinute or tokensPerMinute, or leave it adaptive`)
  }
  const terms = { concurrency, requests, tokens, windowMs, adaptive }
  return { by, only: subject(at, limit.only), prefix: `${coded(name)}|r${index}|`, label: `limits[${index}]`, terms }
}

function budgetRule(budget: BudgetOptions, index: number, name: string): BudgetRule {
  const at = `budgets[${index}]`
  checkOptions<BudgetOptions>(at, budget, { by: 1, only: 1, usd: 1, tokens: 1, per: 1 })
  const by = parts(at, budget.by ?? 'tenant')
  const { usd, tokens, per = 'day' } = budget
  if ((usd === undefined) === (tokens === undefined)) throw new TypeError(`${at} needs usd or tokens, one of them`)
  const unit = usd === undefined ? 'tokens' : 'usd'
  const limit = (usd ?? tokens) as number
  positive(`${at}.${unit}`, limit, 'leave the budget out where there is none')
  const windowMs = per === 'day' ? 1440 * minuteMs : per === 'hour' ? 60 * minuteMs : per
  positive(`${at}.per`, windowMs, `or 'hour' or 'day'`)
  if (windowMs > 31 * 1440 * minuteMs) throw new TypeError(`${at}.per is 31 days (2678400000) at most, not ${windowMs}`)
  return { by, only: subject(at, budget.only), prefix: `${coded(name)}|b${index}|`, label: at, unit, limit, windowMs }
}

const minuteMs = 60_000
const allParts: readonly By[] = ['provider', 'model', 'tenant']

function parts(at: string, by: By | readonly By[]): readonly By[] {
  const list: readonly By[] = typeof by === 'string' ? [by] : by
  const isList = Array.isArray(list) && list.every((part) => allParts.includes(part)) && new Set(list).size === list.length
  if (!isList) throw new TypeError(`${at}.by must be 'provider', 'model', 'tenant' or a list of them, each once`)
  return allParts.filter((part) => list.includes(part))
}

function subject(at: string, only: Subject = {}): Subject {
  checkOptions<Subject>(`${at}.only`, only, { provider: 1, model: 1, tenant: 1 })
  for (const [part, value] of Object.entries(only)) {
    if (value !== undefined && typeof value !== 'string') throw new TypeError(`${at}.only.${part} must be a string`)
  }
  return { ...only }
}

function perWindow(option: string, perMinute: number | undefined, windows: number): number {
  if (perMinute === undefined) return Number.POSITIVE_INFINITY
  positive(option, perMinute, 'leave it out for no limit')
  const size = perMinute * windows
  if (size < 1) throw new TypeError(`${option} allows not even 1 in its window: give a longer windowMs`)
  return size
}

function positive(option: string, value: number, cure: string): void {
  if (typeof value === 'number' && value > 0 && value < Number.POSITIVE_INFINITY) return
  throw new TypeError(`${option} must be a number above 0, not ${told(value)}; ${cure}`)
}

function wholeNumber(option: string, value: number, low: number): void {
  if (Number.isSafeInteger(value) && value >= low) return
  throw new TypeError(`${option} must be a whole number of at least ${low}, not ${told(value)}; leave it out for the default`)
}

function told(value: unknown): string {
  return typeof value === 'number' ? String(value) : typeof value
}

function noTwins<R extends Rule>(option: string, rules: readonly R[], also: (rule: R) => unknown): void {
  const seen = new Set<string>()
  for (const rule of rules) {
    const { provider, model, tenant } = rule.only
    const id = JSON.stringify([rule.by, provider ?? null, model ?? null, tenant ?? null, also(rule)])
    if (seen.has(id)) throw new TypeError(`${option} holds the same one twice (same by, only and window): make them one`)
    seen.add(id)
  }
}
