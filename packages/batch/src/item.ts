import { type LinkedAbort, linkAbort } from '@millrace/core'
import type { BatchContext } from './batch-options.ts'
import type { FullWait } from './full-waits.ts'
import type { JournalEntry } from './journal.ts'

/** One item on its way; there is one for each, so it is small. */
export class Item<I> {
  readonly index: number
  readonly value: I
  length = 0
  attempt = 0
  /** How it has waited for a full queue of ours; those tries do not count as pauses. */
  full: FullWait | undefined
  entry: JournalEntry | undefined
  context: Context | undefined
  startedAt = 0
  /** False once its outcome is decided, whoever decided: what work says later is late. */
  open = true
  before: Item<I> | undefined
  after: Item<I> | undefined

  constructor(index: number, value: I) {
    this.index = index
    this.value = value
  }
}

/** The signal is made when somebody reads it: an AbortSignal costs ten times the rest of an item. */
export class Context implements BatchContext {
  readonly index: number
  readonly attempt: number
  readonly idempotencyKey: string | undefined
  #linked: LinkedAbort | undefined
  #aborted: { readonly reason: unknown } | undefined

  constructor(index: number, attempt: number, idempotencyKey: string | undefined) {
    this.index = index
    this.attempt = attempt
    this.idempotencyKey = idempotencyKey
  }

  get signal(): AbortSignal {
    if (this.#linked === undefined) {
      this.#linked = linkAbort()
      if (this.#aborted !== undefined) this.#linked.abort(this.#aborted.reason)
    }
    return this.#linked.signal
  }

  static abort(context: Context | undefined, reason: unknown): void {
    if (context === undefined) return
    context.#aborted = { reason }
    context.#linked?.abort(reason)
  }
}

/** The items that run, in the order of their start: the first is the one whose time is up first. */
export class RunningItems<I> {
  first: Item<I> | undefined
  #last: Item<I> | undefined
  size = 0

  add(item: Item<I>): void {
    item.before = this.#last
    if (this.#last === undefined) this.first = item
    else this.#last.after = item
    this.#last = item
    this.size++
  }

  remove(item: Item<I>): void {
    if (item.before === undefined) this.first = item.after
    else item.before.after = item.after
    if (item.after === undefined) this.#last = item.before
    else item.after.before = item.before
    item.before = undefined
    item.after = undefined
    this.size--
  }
  takeAll(): Item<I>[] {
    const items: Item<I>[] = []
    for (let item = this.first; item !== undefined; item = this.first) {
      this.remove(item)
      items.push(item)
    }
    return items
  }
}
