import type { Flow, Lane } from './flow.ts'
import { turnOf } from './flow.ts'
import { Heap, type HeapItem } from './heap.ts'

/** What of a lane stands in one line. */
class Part<T> implements HeapItem {
  readonly lane: Lane
  readonly flows = new Heap<Flow<T>>((a, b) => orderOf(a) < orderOf(b))
  /** The lane's turn when it was last looked at. */
  start: number
  slot = -1

  constructor(lane: Lane) {
    this.lane = lane
    this.start = turnOf(lane)
  }
}

/**
 * Flows in the order of their turns. A tenant's turn moves as it is served, with all its flows: so lanes are ordered, and the
 * flows within each. Where a lane stands is looked at again when it comes first.
 */
export class Line<T> {
  readonly #parts = new Map<Lane, Part<T>>()
  readonly #heap = new Heap<Part<T>>(isPartBefore)

  get isEmpty(): boolean {
    return this.#heap.size === 0
  }

  add(flow: Flow<T>): void {
    let part = this.#parts.get(flow.lane)
    if (part === undefined) {
      part = new Part(flow.lane)
      this.#parts.set(flow.lane, part)
    }
    flow.line = this
    part.flows.push(flow)
    this.#place(part)
  }

  remove(flow: Flow<T>): void {
    const part = this.#parts.get(flow.lane) as Part<T>
    flow.line = undefined
    part.flows.remove(flow)
    if (part.flows.size > 0) return this.#place(part)
    this.#parts.delete(flow.lane)
    this.#heap.remove(part)
  }

  /** Its head has changed. */
  moved(flow: Flow<T>): void {
    const part = this.#parts.get(flow.lane) as Part<T>
    part.flows.moved(flow)
    this.#place(part)
  }

  /** The lane's turn has come nearer: that is not seen when it comes first. */
  sooner(lane: Lane): void {
    const part = this.#parts.get(lane)
    if (part !== undefined) this.#place(part)
  }

  first(): Flow<T> | undefined {
    for (let part = this.#heap.peek(); part !== undefined; part = this.#heap.peek()) {
      if (part.start === turnOf(part.lane)) return part.flows.peek()
      this.#place(part)
    }
    return undefined
  }

  #place(part: Part<T>): void {
    part.start = turnOf(part.lane)
    if (part.slot === -1) this.#heap.push(part)
    else this.#heap.moved(part)
  }
}

function orderOf<T>(flow: Flow<T> | undefined): number {
  return flow?.head?.order ?? 0
}

function isPartBefore<T>(a: Part<T>, b: Part<T>): boolean {
  if (a.lane.priority !== b.lane.priority) return a.lane.priority > b.lane.priority
  if (a.start !== b.start) return a.start < b.start
  return orderOf(a.flows.peek()) < orderOf(b.flows.peek())
}
