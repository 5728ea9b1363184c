/** Counts of a limiter since it was created; plain numbers that its parts add to. */
export interface LimiterCounts {
  /** Permits given. */
  granted: number
  /** Calls that got none, by the reason. */
  readonly refused: {
    /** `maxQueue` calls waited already. */
    queueFull: number
    /** It waited `queueMs`, or would have had to wait longer. */
    queueTimeout: number
    /** The call's own deadline came first, or would have. */
    deadline: number
    /** A budget was spent. */
    quota: number
    /** It wanted more than a limit ever has. */
    tooLarge: number
  }
  /** Time that calls waited, of all that were let in. */
  waitedMs: number
  /** Rate-limit headers of providers that were understood. */
  headersRead: number
  /** And those that made no sense. */
  headersIgnored: number
  /** Answers with usage that makes no sense: settled as reserved. */
  usageIgnored: number
  /** How often `price` threw or gave no amount for an answer: settled as reserved. */
  priceFailures: number
  /** How often providers refused for rate or overload, or were silent. */
  refusals: number
  /** Permits given without the store. */
  degradedCalls: number
  /** Failures of the store. */
  storeErrors: number
}

export interface LimiterStats extends Readonly<LimiterCounts> {
  /** Permits not ended yet. */
  readonly running: number
  /** Calls that wait. */
  readonly queued: number
  /** The store cannot be asked now. */
  readonly degraded: boolean
}

export function createCounts(): LimiterCounts {
  return {
    granted: 0,
    refused: { queueFull: 0, queueTimeout: 0, deadline: 0, quota: 0, tooLarge: 0 },
    waitedMs: 0,
    headersRead: 0,
    headersIgnored: 0,
    usageIgnored: 0,
    priceFailures: 0,
    refusals: 0,
    degradedCalls: 0,
    storeErrors: 0
  }
}
