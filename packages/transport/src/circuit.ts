/** `half-open`: one request is let through to see whether the origin has come back. */
export type BreakerState = 'closed' | 'open' | 'half-open'

/**
 * What a request says about its origin: `success` and `failure` are counted; `mistake` was answered, but not as it would
 * answer others; `neutral` says nothing.
 */
export type Verdict = 'success' | 'failure' | 'mistake' | 'neutral'

export interface CircuitLimits {
  readonly failureRate: number
  readonly minimumRequests: number
  readonly windowMs: number
  readonly openMs: number
}

const bucketCount = 10

/**
 * The state of one origin. No timers: it looks at the clock when it is asked. A class, for it is asked on every request.
 *
 * Tickets are numbers that only grow, so a result is known to be of the present state when its ticket is not below `#since`.
 */
export class Circuit {
  state: BreakerState = 'closed'
  /** How often it has opened. */
  opened = 0
  readonly #limits: CircuitLimits
  readonly #bucketMs: number
  readonly #ended: number[] = Array(bucketCount).fill(0)
  readonly #failed: number[] = Array(bucketCount).fill(0)
  #endedInWindow = 0
  #failedInWindow = 0
  /** Number of the youngest bucket, counted from the clock's zero. */
  #bucket = 0
  #ticket = 0
  #since = 0
  /** No request goes through before this, unless closed. */
  #nextProbeAt = 0

  constructor(limits: CircuitLimits) {
    this.#limits = limits
    this.#bucketMs = limits.windowMs / bucketCount
  }

  /** The ticket of a request that may go; `undefined` when it may not. Of a closed circuit all have the same. */
  enter(now: () => number): number | undefined {
    if (this.state === 'closed') return this.#ticket
    const at = now()
    if (at < this.#nextProbeAt) return undefined
    this.state = 'half-open'
    // A probe may hang for as long as its clocks let it: after openMs another one goes, and the first to be judged decides.
    this.#nextProbeAt = at + this.#limits.openMs
    return ++this.#ticket
  }

  /** As it will be for the next request: an open one whose time is over lets it through. */
  stateAt(now: number): BreakerState {
    return this.state === 'open' && this.waitMs(now) === 0 ? 'half-open' : this.state
  }

  /** How long no request will be let through, if no probe ends before. */
  waitMs(now: number): number {
    return Math.max(0, this.#nextProbeAt - now)
  }

  /** The end of a request that was let through. */
  leave(ticket: number, verdict: Verdict, now: () => number): void {
    // Begun before it last opened or closed: old news of what has been judged already.
    if (ticket < this.#since) return
    if (this.state === 'half-open') this.#judgeProbe(ticket, verdict, now)
    else if (verdict === 'success' || verdict === 'failure') this.#count(verdict, now())
  }

  #judgeProbe(ticket: number, verdict: Verdict, now: () => number): void {
    if (verdict === 'failure') this.#open(now())
    // A mistake was answered too. Were it not enough, then callers who only err would be let through one by one for ever.
    else if (verdict !== 'neutral') this.#close()
    // The place of the latest probe goes to the next request; an older one has lost its place already.
    else if (ticket === this.#ticket) this.#nextProbeAt = now()
  }

  #count(verdict: 'success' | 'failure', now: number): void {
    const slot = this.#turnTo(now)
    this.#ended[slot] = (this.#ended[slot] ?? 0) + 1
    this.#endedInWindow++
    if (verdict === 'success') return
    this.#failed[slot] = (this.#failed[slot] ?? 0) + 1
    this.#failedInWindow++
    // Judged at a failure only: a success is no reason to open, though it may be the one that makes the numbers enough.
    const { minimumRequests, failureRate } = this.#limits
    if (this.#endedInWindow >= minimumRequests && this.#failedInWindow / this.#endedInWindow >= failureRate) this.#open(now)
  }

  /** Forgets the buckets that have left the window, and gives the place of the present one. */
  #turnTo(now: number): number {
    const bucket = Math.floor(now / this.#bucketMs)
    // A clock whose steps are too large to be counted, or that gives no number, turns nothing.
    const isCounted = Number.isSafeInteger(bucket) && Number.isSafeInteger(this.#bucket)
    const from = isCounted ? Math.max(this.#bucket, bucket - bucketCount) : bucket
    for (let passed = from + 1; passed <= bucket; passed++) {
      const slot = passed % bucketCount
      this.#endedInWindow -= this.#ended[slot] ?? 0
      this.#failedInWindow -= this.#failed[slot] ?? 0
      this.#ended[slot] = 0
      this.#failed[slot] = 0
    }
    // A clock that goes back counts into the youngest bucket.
    if (isCounted) this.#bucket = Math.max(this.#bucket, bucket)
    return this.#bucket % bucketCount
  }

  #open(now: number): void {
    this.state = 'open'
    this.opened++
    this.#since = ++this.#ticket
    this.#nextProbeAt = now + this.#limits.openMs
  }

  #close(): void {
    this.state = 'closed'
    this.#since = ++this.#ticket
    this.#ended.fill(0)
    this.#failed.fill(0)
    this.#endedInWindow = 0
    this.#failedInWindow = 0
  }
}
