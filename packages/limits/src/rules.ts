import { hash } from 'node:crypto'
import { MillraceError } from '@millrace/core'
import type { By } from './limiter-options.ts'
import type { Cost, Subject } from './permit.ts'
import type { BudgetAsk, RateAsk, Terms } from './store.ts'

/** What limits and budgets have in common. */
export interface Rule {
  readonly by: readonly By[]
  readonly only: Subject
  /** Its place in the options, for people. */
  readonly label: string
  /** First part of its keys: no two rules of a limiter have the same. */
  readonly prefix: string
}

/** One limit, as it is asked. */
export interface RateRule extends Rule {
  readonly terms: Terms
}

/** One budget, as it is asked. */
export interface BudgetRule extends Rule {
  readonly unit: 'usd' | 'tokens'
  readonly limit: number
  readonly windowMs: number
}

/** An ask, with what it takes to end it and to tell of it: `limits[0] (by provider, model)`, never what it is kept by. */
export type Wanted =
  | (RateAsk & { readonly label?: string })
  | (BudgetAsk & { readonly label?: string; readonly unit: 'usd' | 'tokens' })

/** What one call asks of the store. */
export interface Demand {
  readonly asks: readonly Wanted[]
  /** The first so many are shared by all tenants; the rest are its tenant's own. */
  readonly shared: number
  /** False for a further attempt of a call that has its permit. */
  readonly isCall: boolean
}

/** A limit that holds a subject, and where it is kept. */
export interface Kept {
  readonly key: string
  readonly terms: Terms
  readonly byTenant: boolean
  /** By what it is kept, for people. */
  readonly label: string
}

export interface Rules {
  /**
   * @throws {TypeError} for a cost that is none
   * @throws {MillraceError} `rate-limited`, not retryable, for more tokens than a limit ever has; `invalid-request` where a
   * budget in USD holds a call of unknown price
   */
  demand(cost: Cost): Demand
  /** One request of each limit, no place and no tokens. */
  requests(subject: Subject): Demand
  kept(subject: Subject): Kept[]
  needsPrice(subject: Subject): boolean
}

/** What a call asks of which limit and budget. Those kept by tenant come last. */
export function createRules(rates: readonly RateRule[], budgets: readonly BudgetRule[]): Rules {
  const isOwn = (rule: Rule): boolean => rule.by.includes('tenant')
  const limits = [...rates.filter((rule) => !isOwn(rule)), ...rates.filter(isOwn)].map((rule) => new Keyed(rule, isOwn(rule)))
  const purses = [...budgets.filter((rule) => !isOwn(rule)), ...budgets.filter(isOwn)].map((rule) => new Keyed(rule, isOwn(rule)))
  const needsMax = purses.filter(({ rule }) => rule.unit === 'usd')

  function rateAsks(subject: Subject, tokens: number, place: boolean, own: boolean, asks: Wanted[]): void {
    for (const limit of limits) {
      if (limit.own !== own || !limit.holds(subject)) continue
      const { terms } = limit.rule
      if (tokens > terms.tokens) throw tooLarge(tokens, terms.tokens, limit.name)
      asks.push({ kind: 'rate', key: limit.key(subject), terms, tokens, place, label: limit.name })
    }
  }

  function budgetAsks(cost: Cost, own: boolean, asks: Wanted[]): void {
    for (const purse of purses) {
      if (purse.own !== own || !purse.holds(cost)) continue
      const { limit, windowMs, unit } = purse.rule
      const amount = unit === 'usd' ? cost.maxUsd : (cost.maxTokens ?? cost.tokens ?? 0)
      if (amount === undefined) throw unpriced(purse.name)
      asks.push({ kind: 'budget', key: purse.key(cost), limit, windowMs, amount, unit, label: purse.name })
    }
  }

  return {
    demand(cost) {
      checkCost(cost)
      const asks: Wanted[] = []
      const tokens = cost.tokens ?? 0
      rateAsks(cost, tokens, true, false, asks)
      if (purses.length > 0) budgetAsks(cost, false, asks)
      const shared = asks.length
      rateAsks(cost, tokens, true, true, asks)
      if (purses.length > 0) budgetAsks(cost, true, asks)
      return { asks, shared, isCall: true }
    },
    requests(subject) {
      const asks: Wanted[] = []
      rateAsks(subject, 0, false, false, asks)
      const shared = asks.length
      rateAsks(subject, 0, false, true, asks)
      return { asks, shared, isCall: false }
    },
    kept(subject) {
      return limits
        .filter((limit) => limit.holds(subject))
        .map((limit) => ({ key: limit.key(subject), terms: limit.rule.terms, byTenant: limit.own, label: limit.label(subject) }))
    },
    needsPrice: (subject) => needsMax.some((purse) => purse.holds(subject))
  }
}

/** A rule and the keys it made: most calls are for a few models and tenants, and to make a key anew costs more than the ask. */
class Keyed<R extends Rule> {
  readonly rule: R
  readonly own: boolean
  /** For people. */
  readonly name: string
  /** By the values of `by`, one level for each. */
  #keys: Branch = new Map()
  #made = 0

  constructor(rule: R, own: boolean) {
    this.rule = rule
    this.own = own
    this.name = rule.by.length === 0 ? rule.label : `${rule.label} (by ${rule.by.join(', ')})`
  }

  holds(subject: Subject): boolean {
    const { only } = this.rule
    return (
      (only.provider === undefined || only.provider === subject.provider) &&
      (only.model === undefined || only.model === subject.model) &&
      (only.tenant === undefined || only.tenant === subject.tenant)
    )
  }

  key(subject: Subject): string {
    const { by, prefix } = this.rule
    if (by.length === 0) return prefix
    let known: Branch | string | undefined = this.#keys
    for (let index = 0; index < by.length && known !== undefined; index++) {
      known = (known as Branch).get(subject[by[index] as By])
    }
    return (known as string | undefined) ?? this.#make(subject)
  }

  #make(subject: Subject): string {
    const { by, prefix } = this.rule
    const values = by.map((part) => subject[part])
    const key = values.reduce((made: string, value = '') => made + coded(value), prefix)
    if (values.some((value = '') => value.length > longest)) return key
    if (this.#made === maxKeys) {
      this.#keys = new Map()
      this.#made = 0
    }
    this.#made++
    const last = values.pop()
    let branch = this.#keys
    for (const value of values) {
      const next = (branch.get(value) as Branch | undefined) ?? new Map()
      branch.set(value, next)
      branch = next
    }
    branch.set(last, key)
    return key
  }

  label(subject: Subject): string {
    const values = this.rule.by.map((part) => `${part}=${subject[part] ?? ''}`)
    return [this.rule.label, ...values].join(' ')
  }
}

type Branch = Map<string | undefined, Branch | string>

const maxKeys = 1000
/** Longer values are not kept. */
const longest = 128

/** So that no two lists of values make one key, whatever is in them; long ones by their digest, for keys are kept. */
export function coded(value: string): string {
  return value.length > longest ? `#${hash('sha256', value)}` : `${value.length}:${value}`
}

function checkCost(cost: Cost): void {
  if (typeof cost !== 'object' || cost === null) {
    throw new TypeError(
      `a cost is an object such as { provider, model, tokens: 500 }, not ${cost === null ? 'null' : typeof cost}`
    )
  }
  for (const name in cost) checkName(name)
  checkPart('provider', cost.provider)
  checkPart('model', cost.model)
  checkPart('tenant', cost.tenant)
  checkAmount('tokens', cost.tokens)
  checkAmount('maxTokens', cost.maxTokens)
  checkAmount('maxUsd', cost.maxUsd)
}

/** A `switch`, for it is done in each call. */
function checkName(name: string): void {
  switch (name as keyof Cost) {
    case 'provider':
    case 'model':
    case 'tenant':
    case 'tokens':
    case 'maxTokens':
    case 'maxUsd':
      return
    default:
      throw new TypeError(
        `a cost has no field ${JSON.stringify(name)}; it has provider, model, tenant, tokens, maxTokens, maxUsd`
      )
  }
}

function checkPart(name: string, value: unknown): void {
  if (value !== undefined && typeof value !== 'string') throw new TypeError(`${name} of a cost is a string, not ${typeof value}`)
}

function checkAmount(name: string, value: number | undefined): void {
  if (value === undefined || (value >= 0 && value < Number.POSITIVE_INFINITY && typeof value === 'number')) return
  throw new TypeError(`${name} of a cost is a number from 0 up, not ${typeof value === 'number' ? value : typeof value}`)
}

function tooLarge(tokens: number, limit: number, name: string): MillraceError<'rate-limited'> {
  return new MillraceError('rate-limited', `the call needs ${tokens} tokens and ${name} never has more than ${limit}`, {
    details: {},
    retryable: false
  })
}

function unpriced(name: string): MillraceError<'invalid-request'> {
  return new MillraceError(
    'invalid-request',
    `${name} is in USD and the price of the call is not known: give \`maxUsd\` with its cost, or \`price\` to createLimiter`,
    { details: { path: 'maxUsd' } }
  )
}
