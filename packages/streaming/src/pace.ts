import { type Chunk, checkOptions } from '@millrace/core'
import { checkNoSource, checkSource, shown } from './check-source.ts'
import { type Operator, operate, type Step } from './operate.ts'
import { createPaceQueue, type PaceQueue } from './pace-queue.ts'
import { readAhead } from './pace-source.ts'

export interface PaceOptions {
  /** How fast text goes out while nothing piles up, in characters (UTF-16 code units) a second. @default 300 */
  readonly charsPerSecond?: number | undefined
  /** How long a character is kept at most: text that piles up goes out faster. `Infinity` never hurries. @default 1000 */
  readonly maxLagMs?: number | undefined
  /** How often a piece goes out; less often where that would be less than a character. @default 33 */
  readonly intervalMs?: number | undefined
  /** How much is read ahead and held, in characters of text and JSON; then the source waits. From 256 up. @default 16384 */
  readonly maxHeldChars?: number | undefined
}

/**
 * Gives text, refusals and reasoning in small pieces at an even rate, however they come: in bursts, or all at once from a
 * cache. The first piece goes out as soon as there is text. All other chunks keep their place and cost no time. The end is
 * `maxLagMs` late at most, as long as `maxHeldChars` in that time (16,384 characters a second) is more than the source gives.
 *
 * No piece ends inside an emoji or a letter of several code points that was there whole. The source is read ahead, also
 * while the reader is away; a reader that comes late is given what it missed in one piece. What is held goes out at once
 * before an error, and is let go when the reader leaves.
 *
 * Bound: `maxHeldChars`, and what the source gives at once (a batch).
 *
 * @throws {TypeError} at creation, when an option is wrong
 *
 * @example
 * for await (const text of pipe(adapter.stream(request), pace({ charsPerSecond: 200 }), onlyText())) page.append(text)
 */
export function pace(options: PaceOptions = {}): Operator<Chunk> {
  checkNoSource('pace', options)
  checkOptions<PaceOptions>('pace', options, { charsPerSecond: 1, maxLagMs: 1, intervalMs: 1, maxHeldChars: 1 })
  const { charsPerSecond = 300, maxLagMs = 1000, intervalMs = 33, maxHeldChars = 16_384 } = options
  if (!(typeof charsPerSecond === 'number' && charsPerSecond >= 1 && charsPerSecond <= 1e6)) {
    throw new TypeError(`charsPerSecond must be from 1 to 1000000, not ${shown(charsPerSecond)}`)
  }
  if (!(typeof maxLagMs === 'number' && maxLagMs >= 0)) {
    throw new TypeError(`maxLagMs must be milliseconds from 0 up, or Infinity, not ${shown(maxLagMs)}`)
  }
  if (!(typeof intervalMs === 'number' && intervalMs >= 1 && intervalMs <= 1000)) {
    throw new TypeError(`intervalMs must be from 1 to 1000, not ${shown(intervalMs)}`)
  }
  // Less could be full of one letter that waits for its end.
  if (!(Number.isSafeInteger(maxHeldChars) && maxHeldChars >= 256)) {
    throw new TypeError(`maxHeldChars must be a whole number from 256 up, not ${shown(maxHeldChars)}`)
  }
  const rate = charsPerSecond / 1000
  const tickMs = Math.max(intervalMs, 1 / rate)
  const segmenter = new Intl.Segmenter(undefined, { granularity: 'grapheme' })
  return (source, request) => {
    checkSource(source)
    return {
      [Symbol.asyncIterator]() {
        const queue = createPaceQueue(segmenter)
        const { news, shrunk } = readAhead(source, queue, maxHeldChars)
        const step = pacing(queue, shrunk, rate, maxLagMs, tickMs)
        return operate(() => step)({ [Symbol.asyncIterator]: () => news }, request)[Symbol.asyncIterator]()
      }
    }
  }
}

function pacing(queue: PaceQueue, shrunk: () => void, rate: number, maxLagMs: number, tickMs: number): Step<'more', Chunk> {
  let lastAt = Number.NEGATIVE_INFINITY
  let paused = true
  let credit = 0 // characters that may go out at the even rate

  function give(emit: (chunk: Chunk) => void): void {
    const now = performance.now()
    queue.give(0, now, emit) // what is no text costs no time
    const { since } = queue
    if (since !== undefined) {
      // After a pause the first piece goes out at once, and is no larger than the next.
      if (paused) lastAt = Math.max(lastAt, since - tickMs)
      paused = false
      if (now >= lastAt + tickMs) givePiece(now, emit)
    }
    shrunk()
  }

  function givePiece(now: number, emit: (chunk: Chunk) => void): void {
    credit += (now - lastAt) * rate
    const even = Math.floor(credit + 1e-6)
    // All that is held goes out evenly up to its time; the last tick before that time is its last.
    const behind = queue.charsDue(lastAt, now, maxLagMs - tickMs)
    const given = queue.give(Math.max(even, behind), now - 2 * tickMs, emit)
    paused = queue.chars === 0
    credit = paused || behind > even ? 0 : Math.min(credit - given, 1)
    lastAt = now
  }

  return {
    get dueAt() {
      if (queue.size === 0) return undefined
      const { since } = queue
      if (since === undefined) return 0
      return (paused ? Math.max(lastAt, since - tickMs) : lastAt) + tickMs
    },
    take(_, emit) {
      give(emit)
      return undefined
    },
    overdue: give,
    flush(emit) {
      queue.close()
      queue.give(Number.POSITIVE_INFINITY, 0, emit)
    }
  }
}
