import { checkOptions } from '@millrace/core'
import type { BatchOptions, Work } from './batch-options.ts'
import type { Outcome } from './outcome.ts'
import type { Progress } from './progress.ts'
import { createRun } from './run.ts'

/** Outcomes as they come, once: to be read by one `for await`. Leaving that aborts what runs. */
export interface Batch<O> extends AsyncIterableIterator<Outcome<O>, undefined, undefined>, AsyncDisposable {
  /** How far it is, at this moment. */
  readonly progress: Progress
  return(): Promise<IteratorReturnResult<undefined>>
  [Symbol.asyncIterator](): Batch<O>
}

/**
 * Runs `work` over the items, `concurrency` at a time, and yields one outcome for each. Nothing is pulled before the first
 * outcome is asked for, and then only when there is room: memory is flat for any length, and an endless input is fine. One
 * failure touches no other item; work that fails with a limit's "come back later" holds back all, once, and is tried again.
 * An item with a `queue-full` waits by itself, 100 to 200 ms and then twice as long each time, up to 10 s, and shorter again
 * once another has succeeded; it keeps its place among those that run. After 60 s of waiting in all it is rejected.
 *
 * An abort by `signal` yields every item that was pulled (those that run as rejected with the signal's reason, at once),
 * then the loop throws that reason. Work that fails with `closed` ends it more gently, as all items behind it would fail so:
 * what runs is finished and yielded, then the loop throws that error. An input that fails is no longer pulled: what runs is finished and yielded, then the
 * loop throws the input's error. Leaving the loop aborts what runs, without waiting for it, and ends the input.
 *
 * @throws {TypeError} for items that cannot be iterated (a string is taken for a mistake), and for wrong options
 *
 * @example
 * for await (const outcome of batch(prompts, (prompt, { signal }) => ask(prompt, signal), { concurrency: 20 })) {
 *   if (outcome.status === 'fulfilled') console.log(outcome.index, outcome.value)
 *   else console.error(outcome.index, outcome.reason)
 * }
 */
export function batch<I, O>(items: Iterable<I> | AsyncIterable<I>, work: Work<I, O>, options: BatchOptions<I> = {}): Batch<O> {
  if (typeof items !== 'object' || items === null || !(Symbol.asyncIterator in items || Symbol.iterator in items)) {
    const given = (items as unknown) instanceof Promise ? 'a Promise: await it first' : shown(items)
    throw new TypeError(`batch takes an array of items, or anything else that can be iterated, not ${given}`)
  }
  if (typeof work !== 'function') throw new TypeError(`batch takes a function that does the work, not ${shown(work)}`)
  checkOptions<BatchOptions<I>>('batch', options, {
    concurrency: 1,
    order: 1,
    signal: 1,
    itemTimeoutMs: 1,
    maxBuffered: 1,
    onProgress: 1,
    pause: 1,
    maxPauses: 1,
    length: 1,
    lookahead: 1,
    journal: 1
  })
  for (const name of ['onProgress', 'pause', 'length'] as const) {
    const given = options[name]
    if (given !== undefined && typeof given !== 'function') throw new TypeError(`${name} must be a function, not ${shown(given)}`)
  }
  const { journal } = options
  if (journal !== undefined && typeof journal?.begin !== 'function') {
    throw new TypeError(`journal must come from await openJournal(path); it is ${shown(journal)}`)
  }
  const { concurrency = 16, order = 'completion', itemTimeoutMs = Number.POSITIVE_INFINITY, length, lookahead = 1000 } = options
  wholeNumber('concurrency', concurrency, 1)
  const { maxBuffered = defaultBuffer(order, concurrency), maxPauses = 5 } = options
  wholeNumber('maxBuffered', maxBuffered, 1)
  if (maxBuffered < concurrency)
    throw new TypeError(`maxBuffered must be at least concurrency (${concurrency}), not ${maxBuffered}`)
  wholeNumber('maxPauses', maxPauses, 0)
  wholeNumber('lookahead', lookahead, 1)
  if (typeof itemTimeoutMs !== 'number' || !(itemTimeoutMs > 0))
    throw new TypeError(`itemTimeoutMs must be more than 0 ms, or Infinity, not ${shown(itemTimeoutMs)}`)
  if (order !== 'completion' && order !== 'input') {
    throw new TypeError(`order must be 'completion' or 'input', not ${shown(order)}`)
  }
  if (length !== undefined && order === 'input') {
    throw new TypeError("length starts items out of order, which order: 'input' takes back: leave out one of the two")
  }
  return createRun(items, work, {
    ...options,
    concurrency,
    order,
    itemTimeoutMs,
    maxBuffered,
    maxPauses,
    lookahead
  })
}

/** In input order one item that takes very long holds back all behind it: the places are to go on with them meanwhile. */
function defaultBuffer(order: 'completion' | 'input', concurrency: number): number {
  return Math.min(Number.MAX_SAFE_INTEGER, Math.max(order === 'input' ? 1000 : 0, concurrency * 10))
}

function wholeNumber(name: string, value: number, least: number): void {
  if (Number.isSafeInteger(value) && value >= least) return
  throw new TypeError(`${name} must be a whole number of at least ${least}, not ${shown(value)}`)
}

/** A wrong argument as an error tells it. */
function shown(value: unknown): string {
  if (typeof value === 'string') return `the string ${JSON.stringify(value)}`
  if (value instanceof Promise) return 'a Promise'
  if (Array.isArray(value)) return 'an array'
  return typeof value === 'object' && value !== null ? 'an object' : typeof value === 'function' ? 'a function' : String(value)
}
