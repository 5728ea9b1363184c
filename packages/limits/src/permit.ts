/** Whom and what a call is for: limits and budgets are kept by these. */
export interface Subject {
  readonly provider?: string | undefined
  readonly model?: string | undefined
  readonly tenant?: string | undefined
}

/** What a call is expected to take. */
export interface Cost extends Subject {
  /** Tokens that the provider will count against its rate: input and the output that is likely. @default 0 */
  readonly tokens?: number | undefined
  /** The most tokens it can use, for budgets in tokens. @default tokens */
  readonly maxTokens?: number | undefined
  /** The most it can cost, for budgets in USD. Needed where one holds the call. */
  readonly maxUsd?: number | undefined
}

/** What a call took in truth. What is left out is as it was expected. */
export interface Spent {
  readonly tokens?: number | undefined
  readonly usd?: number | undefined
}

/** The right to make one call. One of `settle`, `fail` and `release` ends it; what comes later changes nothing. */
export interface Permit {
  /** How long the call waited for it. */
  readonly waitedMs: number
  /** Set when the store could not be asked, and what was done instead. */
  readonly degraded?: 'allow' | 'localShare' | undefined
  /** The call is over. */
  settle(spent?: Spent): void
  /** The call failed. A refusal by rate or overload, or silence, lowers how much is asked of the provider. */
  fail(error: unknown, spent?: Spent): void
  /** Nothing was sent: all of it is given back. */
  release(): void
}
