import type { CallPermit } from './call-permit.ts'
import { type Outcome, unsent } from './ends.ts'
import type { HeldPermit } from './limiter.ts'
import type { Spent, Subject } from './permit.ts'
import type { Demand } from './rules.ts'
import type { LimitStore, News } from './store.ts'
import { verdictOn } from './verdict.ts'
import type { Granted } from './waiting.ts'

/** Told what becomes of permits. */
export interface PermitOwner {
  readonly random: () => number
  learn(subject: Subject, news: News): void
  ended(demand: Demand, from: LimitStore | undefined, at: number, outcome: Outcome): void
  /** An attempt was refused, and the call goes on. */
  refused(demand: Demand, from: LimitStore | undefined, at: number): void
}

/** A class, for there is one in each call. */
export class LivePermit implements HeldPermit {
  readonly subject: Subject
  readonly waitedMs: number
  readonly degraded: 'allow' | 'localShare' | undefined
  heard = false
  onWire: CallPermit | undefined
  answered = false
  inUse = false
  maybeBilled = 0
  ownRefusal: unknown
  readonly #owner: PermitOwner
  readonly #demand: Demand
  readonly #from: LimitStore | undefined
  readonly #at: number
  #over = false
  /** Its refusal has been told, so that its end tells nothing of the provider. */
  #wasRefused = false

  constructor(
    owner: PermitOwner,
    demand: Demand,
    subject: Subject,
    answer: Granted,
    from: LimitStore | undefined,
    waitedMs: number
  ) {
    this.subject = subject
    this.waitedMs = waitedMs
    this.degraded = 'degraded' in answer ? answer.degraded : undefined
    this.#owner = owner
    this.#demand = demand
    this.#from = from
    this.#at = answer.at
  }

  /** The permit itself, where this owner gave it and it has not been ended; a proxy of one is none. */
  static of(permit: object | undefined, owner: PermitOwner): LivePermit | undefined {
    return typeof permit === 'object' && #owner in permit && permit.#owner === owner && !permit.#over ? permit : undefined
  }

  covers({ asks }: Demand): boolean {
    const own = this.#demand.asks
    return asks.every(({ key }) => own.some((ask) => ask.key === key))
  }

  settle(spent: Spent = nothing): void {
    if (this.#over) return
    checkSpent(spent)
    this.#end({ tokens: spent.tokens, usd: spent.usd, requests: 1, outcome: this.#wasRefused ? 'none' : 'ok' })
  }

  fail(error: unknown, spent: Spent = nothing): void {
    if (this.#over) return
    checkSpent(spent)
    const verdict = verdictOn(error, this)
    const { tokens = verdict.tokens, usd = verdict.usd } = spent
    // What was used was sent.
    this.#end({
      tokens,
      usd,
      requests: spent.tokens === undefined ? verdict.requests : 1,
      outcome: this.#wasRefused ? 'none' : verdict.outcome
    })
    const { pauseMs } = verdict
    if (this.heard || pauseMs === undefined) return
    // Spread, so that not all come back at the same moment.
    this.#owner.learn(this.subject, { even: true, pauseMs: pauseMs * (1 + 0.2 * this.#owner.random()) })
  }

  release(): void {
    if (!this.#over) this.#end(unsent)
  }

  refused(): void {
    if (this.#over) return
    this.#wasRefused = true
    this.#owner.refused(this.#demand, this.#from, this.#at)
  }

  #end(outcome: Outcome): void {
    this.#over = true
    this.#owner.ended(this.#demand, this.#from, this.#at, outcome)
  }
}

const nothing: Spent = {}

/** A wrong number would stand in a budget for the rest of the day. */
function checkSpent(spent: Spent): void {
  if (typeof spent !== 'object' || spent === null) {
    throw new TypeError('what a call spent is an object such as { tokens: 1234, usd: 0.01 }')
  }
  checkAmount('tokens', spent.tokens)
  checkAmount('usd', spent.usd)
}

function checkAmount(name: string, value: number | undefined): void {
  if (value === undefined || (typeof value === 'number' && value >= 0 && value < Number.POSITIVE_INFINITY)) return
  throw new TypeError(`${name} that a call spent is a number from 0 up, not ${typeof value === 'number' ? value : typeof value}`)
}
