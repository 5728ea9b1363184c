/** What the retries of a layer came to. */
export interface RetryStats {
  /** Requests sent again, over all calls. */
  readonly retries: number
  /** Retries that the budget refused: the failure was handed on at once. */
  readonly denied: number
}

export interface BudgetOptions {
  /** What one call adds. */
  readonly ratio: number
  /** What there is at the start, and the most that is ever kept. */
  readonly reserve: number
}

/** Retries that all calls of a layer share. It has no clock: a provider that nobody calls earns nothing. */
export interface Budget {
  /** A call begins. */
  deposit(): void
  /** Whether one more request may be sent. */
  take(): boolean
  /** What was taken was not used. */
  putBack(): void
  stats(): RetryStats
}

/**
 * A token bucket of retries: never more than `reserve` + `ratio` * calls, however many calls fail at a time. Per-call limits
 * alone multiply the load of a provider that is down by `maxAttempts`, just when it can bear it least.
 */
export function createBudget({ ratio, reserve }: BudgetOptions): Budget {
  let left = reserve
  let retries = 0
  let denied = 0
  return {
    deposit() {
      left = Math.min(reserve, left + ratio)
    },
    take() {
      if (left < 1) {
        denied++
        return false
      }
      left--
      retries++
      return true
    },
    putBack() {
      left = Math.min(reserve, left + 1)
      retries--
    },
    stats: () => ({ retries, denied })
  }
}
