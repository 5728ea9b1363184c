import type { Item } from './item.ts'
import { Ring } from './ring.ts'

const firstMs = 100
const longestMs = 5000
/** What one item waits in all: a queue that stays full for so long is not about to empty. */
const allMs = 60_000
/** The timer looks for all that are due, at most this often. */
const grainMs = 5

/** One item's waiting, over all its tries. */
export class FullWait {
  tries = 0
  step = 0
  successes = 0
  waitedMs = 0
  sinceMs = 0
  dueMs = 0
}

/**
 * Items that found a full queue of ours. That says nothing of others, which may use another one, so each waits by itself;
 * they keep their places among those that run. One timer for all.
 */
export class FullWaits<I> {
  readonly #onDue: () => void
  readonly #waiting = new Set<Item<I>>()
  readonly #due = new Ring<Item<I>>()
  #successes = 0
  #timer: NodeJS.Timeout | undefined
  #timerMs = 0
  #held: 'ref' | 'unref' = 'unref'
  /** Those that wait and those that are due. */
  size = 0

  constructor(onDue: () => void) {
    this.#onDue = onDue
  }

  /** Whether there is one to `take`. */
  get due(): boolean {
    return this.#due.size > 0
  }

  /** False where the item has waited for as long as it may. */
  add(item: Item<I>): boolean {
    item.full ??= new FullWait()
    const wait = item.full
    if (wait.waitedMs >= allMs) return false
    wait.tries++
    // Something has succeeded since: the queue moves.
    if (wait.successes !== this.#successes) wait.step = 0
    wait.successes = this.#successes
    // Up to twice as long, so that those that came together do not come together again.
    const ms = Math.min(longestMs, firstMs * 2 ** wait.step++) * (1 + Math.random())
    wait.sinceMs = performance.now()
    wait.dueMs = wait.sinceMs + Math.min(ms, allMs - wait.waitedMs)
    this.#waiting.add(item)
    this.size++
    this.#arm(wait.dueMs)
    return true
  }

  /** A place may be free: for the one that has waited longest in all, before a new item takes it. */
  succeeded(): void {
    if (this.#waiting.size === 0) return
    this.#successes++
    const now = performance.now()
    let next: Item<I> | undefined
    let mostMs = -1
    for (const item of this.#waiting) {
      const { sinceMs, waitedMs } = item.full as FullWait
      const ms = now - sinceMs
      if (ms < firstMs || waitedMs + ms <= mostMs) continue
      next = item
      mostMs = waitedMs + ms
    }
    if (next !== undefined) this.#move(next, now)
  }

  take(): Item<I> {
    this.size--
    return this.#due.shift() as Item<I>
  }

  takeAll(): Item<I>[] {
    const items = [...this.#due.takeAll(), ...this.#waiting]
    this.#waiting.clear()
    this.size = 0
    this.stop()
    return items
  }

  /** Whether the timer keeps the process alive. */
  hold(held: 'ref' | 'unref'): void {
    this.#held = held
    this.#timer?.[held]()
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #move(item: Item<I>, now: number): void {
    const wait = item.full as FullWait
    wait.waitedMs += now - wait.sinceMs
    this.#waiting.delete(item)
    this.#due.push(item)
  }

  #arm(dueMs: number): void {
    if (this.#timer !== undefined && this.#timerMs <= dueMs) return
    clearTimeout(this.#timer)
    this.#timerMs = dueMs
    const ms = Math.max(grainMs, Math.ceil(dueMs - performance.now()))
    this.#timer = setTimeout(() => this.#look(), ms)[this.#held]()
  }

  #look(): void {
    this.#timer = undefined
    const now = performance.now()
    let nextMs = Number.POSITIVE_INFINITY
    for (const item of this.#waiting) {
      const { dueMs } = item.full as FullWait
      if (dueMs <= now) this.#move(item, now)
      else nextMs = Math.min(nextMs, dueMs)
    }
    if (nextMs !== Number.POSITIVE_INFINITY) this.#arm(nextMs)
    this.#onDue()
  }
}
