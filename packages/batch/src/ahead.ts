import type { Item } from './item.ts'

/** A binary heap of items that were read ahead, the longest on top; the earlier one among equals. */
export class Ahead<I> {
  readonly #heap: Item<I>[] = []

  get size(): number {
    return this.#heap.length
  }

  push(item: Item<I>): void {
    const heap = this.#heap
    let at = heap.length
    heap.push(item)
    while (at > 0) {
      const above = (at - 1) >> 1
      const parent = heap[above] as Item<I>
      if (!goesFirst(item, parent)) break
      heap[at] = parent
      at = above
    }
    heap[at] = item
  }

  pop(): Item<I> | undefined {
    const heap = this.#heap
    const top = heap[0]
    const last = heap.pop()
    if (last === undefined || last === top) return top
    let at = 0
    for (;;) {
      let below = 2 * at + 1
      const left = heap[below]
      if (left === undefined) break
      const right = heap[below + 1]
      if (right !== undefined && goesFirst(right, left)) below++
      const child = heap[below] as Item<I>
      if (!goesFirst(child, last)) break
      heap[at] = child
      at = below
    }
    heap[at] = last
    return top
  }
}

function goesFirst(a: Item<unknown>, b: Item<unknown>): boolean {
  return a.length > b.length || (a.length === b.length && a.index < b.index)
}
