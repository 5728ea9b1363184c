import { type Entry, type Flow, isBefore } from './flow.ts'
import type { HeapItem } from './heap.ts'
import { Line } from './line.ts'

/** A shared key that was denied to a call: who comes after that call stands in line, from one pass to the next. */
export class Hold<T> implements HeapItem {
  readonly key: string
  readonly line: Line<T> = new Line()
  /** The first of those it was denied to. */
  holder: Entry<T> | undefined
  /** Until then, or until something comes back, the holder need not be asked again. */
  until = 0
  /** Denied for how much it wants: a smaller call might be let in where it is not. */
  isSized = false
  /** The first of the line, taken out of it to be asked. */
  shown: Flow<T> | undefined
  slot = -1

  constructor(key: string) {
    this.key = key
  }

  get isIdle(): boolean {
    return this.holder === undefined && this.shown === undefined && this.line.isEmpty
  }

  /** Nobody passes the holder, nor asks beside it for what it may be too large for. */
  blocks(entry: Entry<T>, now: number): boolean {
    const { holder } = this
    if (holder === undefined || isBefore(entry, holder)) return false
    return this.until > now || (this.isSized && holder.isAsked)
  }
}
