import { checkOptions } from '@millrace/core'
import { believed, endRate, grantRate, hasPlace, learnRate, Rate, refillBoth, slack, stateOfRate, waitOf } from './rate.ts'
import type { Ask, BudgetAsk, BudgetEnd, Denial, End, LimitState, LimitStore, News, RateAsk, Terms, Verdict } from './store.ts'

export interface MemoryStoreOptions {
  /**
   * In milliseconds since 1970, never going back; for tests. @default performance.now() for rates, and Date.now() for the
   * windows of budgets
   */
  readonly now?: (() => number) | undefined
}

/** A `LimitStore` of which no step is a promise, but `close`. */
export interface MemoryStore extends LimitStore {
  take(asks: readonly Ask[]): Verdict
  end(ends: readonly End[]): undefined
  learn(key: string, terms: Terms, news: News): undefined
  state(key: string, terms: Terms): LimitState
}

/** What a budget has given out in its window. */
class Budget {
  window: number
  /** By the clock of rates, as the next: what was reserved before belongs to an older window. */
  beganAt: number
  endsAt: number
  spent = 0
  reserved = 0
  /** Calls that have something reserved. */
  running = 0

  constructor(window: number, at: number, endsAt: number) {
    this.window = window
    this.beganAt = at
    this.endsAt = endsAt
  }
}

const maxRates = 10_000
const maxBudgets = 100_000
/** A sweep frees at least so many, or is not tried again before so many more have come. */
const sweepStep = 1000

/**
 * Keeps limits and budgets in this process, each step synchronous.
 *
 * It holds 10,000 limits: of more, those unused for longest are forgotten, that is, full again; but none that has calls
 * running or a pause, so it may hold as many more as there are calls. Of a budget something is kept once a call was let in,
 * and for the whole of its window once something was spent: 100,000 of them. Beyond that a budget nobody has spent from yet
 * denies until a window ends, for to forget what another has spent would be to spend it again.
 *
 * @throws {TypeError} when an option is wrong
 *
 * @example
 * const store = createMemoryStore()
 * const terms = { concurrency: 8, requests: 500, tokens: 30_000, windowMs: 60_000, adaptive: false }
 * const verdict = store.take([{ kind: 'rate', key: 'openai', terms, tokens: 1200, place: true }])
 */
export function createMemoryStore(options: MemoryStoreOptions = {}): MemoryStore {
  checkOptions<MemoryStoreOptions>('createMemoryStore', options, { now: 1 })
  const now = options.now ?? (() => performance.now())
  const wallClock = options.now ?? (() => Date.now())
  const rates = new Map<string, Rate>()
  const budgets = new Map<string, Budget>()
  /** What the step at hand has looked at: it is the same when it is granted. */
  const looked: (Rate | Budget | undefined)[] = []
  let sweepRatesAt = maxRates
  let noRoomUntil = 0
  // The denial of the step at hand with the longest wait; -1 stands for a wait of which nobody knows the length.
  let deniedIndex = -1
  let deniedWhy: Denial = 'paused'
  let deniedMs = -1
  let deniedLeft = 0

  function deny(index: number, why: Denial, waitMs: number, left = 0): void {
    if (deniedIndex >= 0 && waitMs <= deniedMs) return
    deniedIndex = index
    deniedWhy = why
    deniedMs = waitMs
    deniedLeft = left
  }

  function rateOf(key: string, at: number): Rate {
    const known = rates.get(key)
    if (known !== undefined) return known
    if (rates.size >= sweepRatesAt) sweepRates(at)
    const rate = new Rate(at)
    rates.set(key, rate)
    return rate
  }

  function sweepRates(at: number): void {
    // What was used just now may belong to the step at hand.
    const idle = [...rates].filter(([, rate]) => rate.running === 0 && rate.pausedUntil <= at && rate.usedAt < at)
    idle.sort(([, one], [, other]) => one.usedAt - other.usedAt)
    for (const [key] of idle.slice(0, rates.size - maxRates + sweepStep)) rates.delete(key)
    sweepRatesAt = Math.max(maxRates, rates.size + sweepStep)
  }

  function lookAtRate({ key, terms, tokens, place }: RateAsk, index: number, at: number): void {
    const rate = rateOf(key, at)
    looked[index] = rate
    rate.usedAt = at
    refillBoth(rate, terms, at)
    if (rate.pausedUntil > at) deny(index, 'paused', rate.pausedUntil - at)
    if (place && !hasPlace(rate, terms, at)) deny(index, 'concurrency', -1)
    const others = rate.running - (place ? 0 : 1)
    const requestsMs = waitOf(rate.requests, believed(rate.toldRequests, others, at), terms.requests, terms.windowMs, 1, at)
    if (requestsMs > 0) deny(index, 'requests', requestsMs)
    if (!place && tokens === 0) return // debt in tokens is no reason to hold another attempt
    const tokensMs = waitOf(rate.tokens, believed(rate.toldTokens, others, at), terms.tokens, terms.windowMs, tokens, at)
    if (tokensMs > 0) deny(index, 'tokens', tokensMs)
  }

  function lookAtBudget({ key, limit, windowMs, amount }: BudgetAsk, index: number, at: number): void {
    const wall = wallClock()
    const window = Math.floor(wall / windowMs)
    let nextMs = (window + 1) * windowMs - wall
    const budget = budgets.get(key)
    looked[index] = budget
    if (budget === undefined) {
      if (budgets.size >= maxBudgets && !sweepBudgets(at)) return deny(index, 'budget', nextMs)
    } else if (window > budget.window || (window < budget.window && at >= budget.endsAt)) {
      begin(budget, window, at, nextMs)
    } else if (window < budget.window) {
      nextMs = budget.endsAt - at // the date was set back: what is spent stays so until its own window ends
    }
    const spent = budget?.spent ?? 0
    const reserved = budget?.reserved ?? 0
    const most = limit * (1 + slack)
    if (spent + amount > most) deny(index, 'budget', nextMs, limit - spent)
    else if (spent + reserved + amount > most) deny(index, 'budget', -1, limit - spent - reserved)
  }

  function begin(budget: Budget, window: number, at: number, nextMs: number): void {
    budget.window = window
    budget.beganAt = at
    budget.endsAt = at + nextMs
    budget.spent = budget.reserved = budget.running = 0
  }

  /** Whether there is room again. */
  function sweepBudgets(at: number): boolean {
    if (at < noRoomUntil) return false
    noRoomUntil = Number.POSITIVE_INFINITY
    for (const [key, { endsAt }] of budgets) {
      if (endsAt <= at) budgets.delete(key)
      else noRoomUntil = Math.min(noRoomUntil, endsAt)
    }
    return budgets.size < maxBudgets
  }

  function grantBudget({ key, windowMs, amount }: BudgetAsk, known: Budget | undefined, at: number): void {
    let budget = known
    if (budget === undefined) {
      const wall = wallClock()
      const window = Math.floor(wall / windowMs)
      budget = new Budget(window, at, at + (window + 1) * windowMs - wall)
      budgets.set(key, budget)
    }
    budget.reserved += amount
    budget.running += 1
  }

  function endBudget({ key, at, amount, used }: BudgetEnd): void {
    const budget = budgets.get(key)
    if (budget === undefined || at < budget.beganAt) return
    budget.spent += used
    budget.running -= 1
    // Sums of fractions leave a rest.
    budget.reserved = budget.running > 0 ? Math.max(0, budget.reserved - amount) : 0
    if (budget.running <= 0 && budget.spent === 0) budgets.delete(key)
  }

  return {
    take(asks) {
      const at = now()
      deniedIndex = -1
      deniedMs = -1
      for (let index = 0; index < asks.length; index++) {
        const ask = asks[index] as Ask
        if (ask.kind === 'rate') lookAtRate(ask, index, at)
        else lookAtBudget(ask, index, at)
      }
      if (deniedIndex >= 0) {
        const waitMs = deniedMs < 0 ? undefined : deniedMs
        if (deniedWhy !== 'budget') return { granted: false, index: deniedIndex, why: deniedWhy, waitMs }
        return { granted: false, index: deniedIndex, why: deniedWhy, waitMs, left: Math.max(0, deniedLeft) }
      }
      for (let index = 0; index < asks.length; index++) {
        const ask = asks[index] as Ask
        if (ask.kind === 'rate') grantRate(looked[index] as Rate, ask)
        else grantBudget(ask, looked[index] as Budget | undefined, at)
      }
      return { granted: true, at }
    },
    end(ends) {
      const at = now()
      for (let index = 0; index < ends.length; index++) {
        const end = ends[index] as End
        if (end.kind === 'budget') endBudget(end)
        else {
          const rate = rates.get(end.key)
          if (rate !== undefined) endRate(rate, end, at)
        }
      }
      return undefined
    },
    learn(key, terms, news) {
      if (!terms.adaptive) return undefined
      const at = now()
      learnRate(rateOf(key, at), terms, news, at)
      return undefined
    },
    state(key, terms) {
      const at = now()
      return stateOfRate(rates.get(key) ?? new Rate(at), terms, at)
    },
    async close() {
      rates.clear()
      budgets.clear()
    }
  }
}
