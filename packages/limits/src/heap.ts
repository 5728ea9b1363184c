/** What a heap holds: it writes into each item where it stands, so that one in the middle can be found again. */
export interface HeapItem {
  /** -1 while it is in no heap. */
  slot: number
}

/** A binary heap whose items may be moved and taken out: each step costs O(log n). */
export class Heap<T extends HeapItem> {
  readonly #items: T[] = []
  readonly #before: (a: T, b: T) => boolean

  constructor(before: (a: T, b: T) => boolean) {
    this.#before = before
  }

  get size(): number {
    return this.#items.length
  }

  peek(): T | undefined {
    return this.#items[0]
  }

  push(item: T): void {
    this.#items.push(item)
    this.#up(item, this.#items.length - 1)
  }

  pop(): T | undefined {
    const first = this.#items[0]
    if (first !== undefined) this.remove(first)
    return first
  }

  /** Nothing where it is not in the heap. */
  remove(item: T): void {
    const { slot } = item
    if (slot === -1) return
    item.slot = -1
    const last = this.#items.pop() as T
    if (last === item) return
    this.#settle(last, slot)
  }

  /** The item's rank has changed. */
  moved(item: T): void {
    if (item.slot !== -1) this.#settle(item, item.slot)
  }

  #settle(item: T, slot: number): void {
    this.#up(item, slot)
    if (item.slot === slot) this.#down(item, slot)
  }

  #up(item: T, from: number): void {
    let slot = from
    while (slot > 0) {
      const parentSlot = (slot - 1) >> 1
      const parent = this.#items[parentSlot] as T
      if (!this.#before(item, parent)) break
      this.#put(parent, slot)
      slot = parentSlot
    }
    this.#put(item, slot)
  }

  #down(item: T, from: number): void {
    const items = this.#items
    let slot = from
    for (;;) {
      let childSlot = 2 * slot + 1
      let child = items[childSlot]
      if (child === undefined) break
      const other = items[childSlot + 1]
      if (other !== undefined && this.#before(other, child)) {
        child = other
        childSlot++
      }
      if (!this.#before(child, item)) break
      this.#put(child, slot)
      slot = childSlot
    }
    this.#put(item, slot)
  }

  #put(item: T, slot: number): void {
    this.#items[slot] = item
    item.slot = slot
  }
}
