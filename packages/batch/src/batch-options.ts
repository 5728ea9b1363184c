import type { Journal } from './journal.ts'
import type { Progress } from './progress.ts'

/** What work is told about the item it runs for. */
export interface BatchContext {
  /** The item's place in the input, from 0. */
  readonly index: number
  /** Counts from 1; more than 1 is a try again behind a pause. */
  readonly attempt: number
  /** The same in every attempt, and after a crash; `undefined` without a journal. */
  readonly idempotencyKey: string | undefined
  /** Aborts with the batch, when the loop is left, and on `itemTimeoutMs`. Made when it is read: `{ ...context }` lacks it. */
  readonly signal: AbortSignal
}

/** From an item to its value. What it throws, at once or later, is the reason of a rejected outcome. */
export type Work<I, O> = (item: I, context: BatchContext) => O | PromiseLike<O>

export interface BatchOptions<I> {
  /** Items that work runs for at a time. @default 16 */
  readonly concurrency?: number | undefined
  /** In which order outcomes come: as they are known, or as the items were. @default 'completion' */
  readonly order?: 'completion' | 'input' | undefined
  /**
   * Aborting it ends the batch: every item that was pulled is yielded as rejected with `signal.reason`, then the loop throws
   * that reason.
   */
  readonly signal?: AbortSignal | undefined
  /**
   * Limit of one attempt at one item, in milliseconds; then its outcome is a `timeout`, even if work goes on. A wait for a full
   * queue does not count. @default Infinity
   */
  readonly itemTimeoutMs?: number | undefined
  /**
   * Items that have been started and whose outcome has not been taken: where the reader is slow, or the first in order, no
   * more start. At least `concurrency`. @default 10 times `concurrency`, in order `input` 1000 at the least
   */
  readonly maxBuffered?: number | undefined
  /** Told how far the batch is, at most every 100 ms and once at the end. */
  readonly onProgress?: ((progress: Progress) => void) | undefined
  /**
   * How long nothing new is started after this error, in milliseconds; the item is then tried again. `undefined` rejects the
   * item, but for a `queue-full`. @default `retryAfterMs` of `rate-limited` and `overloaded`
   */
  readonly pause?: ((error: unknown) => number | undefined) | undefined
  /** How often one item is tried again behind a pause; 0 is never. A `queue-full` does not count; 0 rejects it, too. @default 5 */
  readonly maxPauses?: number | undefined
  /**
   * A guess at how long an item takes, in any unit: the longest of those read ahead goes first, so that none begins last.
   * Only with order `completion`.
   */
  readonly length?: ((item: I) => number) | undefined
  /** Items read ahead for `length`. @default 1000 */
  readonly lookahead?: number | undefined
  /** Where outcomes are kept, so that a batch that was killed goes on where it was; not those with `closed` or `queue-full`. */
  readonly journal?: Journal<I> | undefined
}

/** The options of a batch with their defaults in place. */
export type RunOptions<I> = BatchOptions<I> & {
  readonly [Name in 'concurrency' | 'itemTimeoutMs' | 'maxBuffered' | 'maxPauses' | 'lookahead']: number
} & { readonly order: 'completion' | 'input' }
