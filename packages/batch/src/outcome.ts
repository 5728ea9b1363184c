/**
 * What became of one item: `index` is its place in the input, from 0. `replayed` is true where a journal gave the outcome
 * and nothing ran.
 *
 * @example
 * if (outcome.status === 'fulfilled') console.log(outcome.index, outcome.value)
 */
export type Outcome<O> = Fulfilled<O> | Rejected

export interface Fulfilled<O> {
  readonly index: number
  readonly status: 'fulfilled'
  readonly value: O
  readonly replayed?: true
}

export interface Rejected {
  readonly index: number
  readonly status: 'rejected'
  readonly reason: unknown
  readonly replayed?: true
}

/** The outcome of an item that was run. */
export function outcomeOf<O>(index: number, status: Outcome<O>['status'], value: unknown): Outcome<O> {
  return status === 'fulfilled' ? { index, status, value: value as O } : { index, status, reason: value }
}

/** Whether the outcome comes later. */
export function isThenable<T>(value: unknown): value is PromiseLike<T> {
  if ((typeof value !== 'object' || value === null) && typeof value !== 'function') return false
  return 'then' in value && typeof value.then === 'function'
}
