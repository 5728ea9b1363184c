import { checkOptions, isMillraceError } from '@millrace/core'
import type { BatchContext } from './batch-options.ts'
import { type QueueOptions, type Where, whereOf, wholeNumber } from './queue-options.ts'

/** What `work` is told about the item it runs for. */
export interface QueueContext extends BatchContext {
  /** The same each time this item runs, on whichever machine. */
  readonly idempotencyKey: string
  /** What `limiter` let the call in with; give it on as `CallOptions.permit`. */
  readonly permit: object | undefined
}

/** What a call is expected to take, as the limiter has it. */
export interface ItemCost {
  readonly provider?: string | undefined
  readonly model?: string | undefined
  readonly tenant?: string | undefined
  readonly tokens?: number | undefined
  readonly maxTokens?: number | undefined
  readonly maxUsd?: number | undefined
}

/** The part of a limiter of `@millrace/limits` that a worker uses. */
export interface SharedLimiter {
  run<T>(
    cost: ItemCost,
    work: (permit: object) => T | Promise<T>,
    options: { readonly signal: AbortSignal; readonly queueMs: number }
  ): Promise<T>
}

export interface BatchWorkerOptions<I, O> extends QueueOptions {
  /** What it throws, at once or later, is the reason of a rejected outcome. It may run twice for an item: see `lockMs`. */
  readonly work: (item: I, context: QueueContext) => O | PromiseLike<O>
  /** Items that work runs for at a time, in this process. @default 16 */
  readonly concurrency?: number | undefined
  /** Work waits for it, however long its `queueMs`. With a store in Redis, all workers together keep to its limits. */
  readonly limiter?: SharedLimiter | undefined
  /** @default no tokens, of no model and no tenant */
  readonly cost?: ((item: I) => ItemCost) | undefined
  /**
   * How long no worker of this queue takes an item after this error, in milliseconds, at most a day; the item then runs again. `undefined`
   * rejects the item. @default `retryAfterMs` of `rate-limited` and `overloaded`
   */
  readonly pause?: ((error: unknown) => number | undefined) | undefined
  /** How often one item runs again behind a pause; 0 is never. @default 20 */
  readonly maxPauses?: number | undefined
  /**
   * A worker that is silent for so long counts as dead; its items run again elsewhere within half of that more. A live one says a
   * word every quarter of it: one whose event loop stands still for longer makes work run twice, with the same idempotency key.
   * At least 500. @default 30_000
   */
  readonly lockMs?: number | undefined
  /** How often an item runs again because its worker died; it may be what kills them. @default 3 */
  readonly maxStalls?: number | undefined
  /** Of one result as JSON; a larger one is rejected. @default 1_048_576 */
  readonly maxResultBytes?: number | undefined
}

type Defaulted = 'concurrency' | 'cost' | 'pause' | 'maxPauses' | 'lockMs' | 'maxStalls' | 'maxResultBytes'

export interface WorkerSettings<I, O>
  extends Where,
    Required<{ readonly [K in Defaulted]: Exclude<BatchWorkerOptions<I, O>[K], undefined> }>,
    Pick<BatchWorkerOptions<I, O>, 'work' | 'limiter'> {}

/** @throws {TypeError} that says what an option must be */
export function workerSettings<I, O>(options: BatchWorkerOptions<I, O>): WorkerSettings<I, O> {
  checkOptions<BatchWorkerOptions<I, O>>('createBatchWorker', options, {
    name: 1,
    connection: 1,
    prefix: 1,
    redisTimeoutMs: 1,
    work: 1,
    concurrency: 1,
    limiter: 1,
    cost: 1,
    pause: 1,
    maxPauses: 1,
    lockMs: 1,
    maxStalls: 1,
    maxResultBytes: 1
  })
  const { work, concurrency = 16, limiter, cost = () => ({}), pause = retryAfter, maxPauses = 20 } = options
  const { lockMs = 30_000, maxStalls = 3, maxResultBytes = 1_048_576 } = options
  if (typeof work !== 'function') throw new TypeError('work must be a function of an item')
  if (typeof pause !== 'function') throw new TypeError('pause must be a function from an error to milliseconds, or undefined')
  if (typeof cost !== 'function') throw new TypeError('cost must be a function from an item to what it costs')
  if (limiter !== undefined && typeof limiter?.run !== 'function') {
    throw new TypeError('limiter must be one that createLimiter() of @millrace/limits made')
  }
  return {
    ...whereOf(options),
    work,
    concurrency: wholeNumber('concurrency', concurrency, 1),
    limiter,
    cost,
    pause,
    maxPauses: wholeNumber('maxPauses', maxPauses, 0),
    lockMs: wholeNumber('lockMs', lockMs, 500),
    maxStalls: wholeNumber('maxStalls', maxStalls, 0),
    maxResultBytes: wholeNumber('maxResultBytes', maxResultBytes, 1)
  }
}

function retryAfter(error: unknown): number | undefined {
  if (isMillraceError(error, 'rate-limited') || isMillraceError(error, 'overloaded')) return error.details.retryAfterMs
  return undefined
}
