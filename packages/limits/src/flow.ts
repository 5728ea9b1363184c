import type { Heap, HeapItem } from './heap.ts'
import type { Demand } from './rules.ts'

/** A call that waits, as the queue sees it. */
export interface Queued {
  readonly demand: Demand
  /** '' for none: all calls without one are one tenant. */
  readonly tenant: string
  readonly priority: number
  /** What its turn costs its tenant. */
  readonly weight: number
}

/** A queued call with its place: one of a list, so that it can leave from the middle. */
export class Entry<T> {
  readonly call: T
  readonly flow: Flow<T>
  readonly order: number
  previous: Entry<T> | undefined
  next: Entry<T> | undefined

  constructor(call: T, flow: Flow<T>, order: number) {
    this.call = call
    this.flow = flow
    this.order = order
  }
}

/** The calls of one tenant and priority that need the same keys, first come first served. */
export interface Flow<T> extends HeapItem {
  readonly id: string
  readonly group: Group<T>
  readonly account: Account
  readonly priority: number
  readonly ownKeys: readonly string[]
  head: Entry<T> | undefined
  tail: Entry<T> | undefined
  length: number
  /** When its turn is, in units of service. */
  start: number
  /** Set while its tenant's own limit holds it back: until when, and which. */
  until: number
  heldKey: string | undefined
}

/** The flows that need the same shared keys. */
export interface Group<T> extends HeapItem {
  readonly id: string
  readonly keys: readonly string[]
  readonly flows: Map<string, Flow<T>>
  /** Without those held back by their tenant's own limit. */
  readonly active: Heap<Flow<T>>
  /** The head that was denied a shared key, until when it need not be asked again. */
  heldFor: Entry<T> | undefined
  until: number
  heldKey: string | undefined
  /** Not to be asked again in this pass. */
  isAside: boolean
}

/** What a tenant has been served. */
export interface Account {
  finish: number
  waiting: number
}

/** Of a group in which something can be asked. */
export function top<T>(group: Group<T>): Flow<T> {
  return group.active.peek() as Flow<T>
}

/** Whether `a` goes first. */
export function isBefore<T>(a: Flow<T>, b: Flow<T>): boolean {
  if (a.priority !== b.priority) return a.priority > b.priority
  if (a.start !== b.start) return a.start < b.start
  return (a.head?.order ?? 0) < (b.head?.order ?? 0)
}
