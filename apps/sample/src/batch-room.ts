import type { Outcome } from '@millrace/batch'
import type { BatchAnswer, BatchItem } from './batches.ts'

type Outcomes = AsyncIterator<Outcome<BatchAnswer>>

/** Of lines under way, what is expected for them, and answers that are not read: what one batch may hold. */
const maxHeldBytes = 2 * 1024 * 1024
/** What is small counts as so much: also the number of answers that wait is bounded. */
const leastBytes = 16 * 1024
/** Of an answer, before any is known. */
const expectedBytes = 64 * 1024

/**
 * Gives `run` no more items than there is room for: 2 MiB of lines under way, answers that are not read, and answers to come,
 * expected to be as large as those before. One may always run. Where answers turn out larger than expected, those that are under
 * way then come on top. Answers are taken from `run` as they come, so that it holds none.
 */
export function withRoom(
  items: AsyncIterable<BatchItem>,
  run: (items: AsyncIterable<BatchItem>) => Outcomes
): AsyncIterableIterator<Outcome<BatchAnswer>> {
  const unread: { readonly outcome: Outcome<BatchAnswer>; readonly bytes: number }[] = []
  /** Bytes of lines under way, by index. */
  const underWay = new Map<number, number>()
  let held = 0
  let expected = expectedBytes
  let ended = false
  let failure: { readonly error: unknown } | undefined
  let started = false
  let news = Promise.withResolvers<void>()

  function tell(): void {
    news.resolve()
    news = Promise.withResolvers()
  }

  /** What waits for room goes on as well where nothing more is wanted. */
  function hasRoom(bytes: number): boolean {
    return ended || held === 0 || held + bytes + expected * (underWay.size + 1) <= maxHeldBytes
  }

  function hasNews(): boolean {
    return ended || unread.length > 0
  }

  async function* admitted(): AsyncGenerator<BatchItem> {
    let index = 0
    for await (const item of items) {
      const bytes = Math.max('bytes' in item ? item.bytes : 0, leastBytes)
      while (!hasRoom(bytes)) await news.promise
      if (ended) return
      underWay.set(index++, bytes)
      held += bytes
      yield item
    }
  }

  const outcomes = run(admitted())

  async function takeAll(): Promise<void> {
    try {
      for (let step = await outcomes.next(); step.done !== true; step = await outcomes.next()) take(step.value)
    } catch (error) {
      failure = { error }
    }
    ended = true
    tell()
  }

  function take(outcome: Outcome<BatchAnswer>): void {
    held -= underWay.get(outcome.index) ?? 0
    underWay.delete(outcome.index)
    const size = outcome.status === 'fulfilled' && 'text' in outcome.value ? Buffer.byteLength(outcome.value.text) : 0
    // A large one is remembered for a while: others of the batch are like it.
    expected = Math.max(size, expected * 0.9, expectedBytes)
    const bytes = Math.max(size, leastBytes)
    held += bytes
    unread.push({ outcome, bytes })
    tell()
  }

  return {
    async next() {
      if (!started) void takeAll()
      started = true
      while (!hasNews()) await news.promise
      const first = unread.shift()
      if (first !== undefined) {
        held -= first.bytes
        tell()
        return { done: false, value: first.outcome }
      }
      const failed = failure
      failure = undefined
      if (failed !== undefined) throw failed.error
      return { done: true, value: undefined }
    },
    async return() {
      ended = true
      unread.length = 0
      tell()
      await outcomes.return?.()
      return { done: true, value: undefined }
    },
    [Symbol.asyncIterator]() {
      return this
    }
  }
}
