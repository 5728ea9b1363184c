import type { HeapItem } from './heap.ts'
import type { Hold } from './hold.ts'
import type { Line } from './line.ts'
import type { Demand } from './rules.ts'

/** A call that waits, as the queue sees it. */
export interface Queued {
  readonly demand: Demand
  /** '' for none: all calls without one are one tenant. */
  readonly tenant: string
  /** `first` for further attempts of calls that have their place. */
  readonly priority: number
  /** What its turn costs its tenant. */
  readonly weight: number
}

/** Before all priorities that calls have. */
export const first: number = Number.POSITIVE_INFINITY

/** A queued call with its place: one of a list, so that it can leave from the middle. While it is asked for it is in none. */
export class Entry<T> {
  readonly call: T
  readonly flow: Flow<T>
  readonly order: number
  previous: Entry<T> | undefined
  next: Entry<T> | undefined
  /** Its turn is being asked for. */
  isAsked = false
  /** When its turn was, in units of service; set once it is asked. */
  start = 0
  /** The shared key that was denied to it. */
  holding: Hold<T> | undefined

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
  readonly lane: Lane
  readonly ownKeys: readonly string[]
  /** The first that is not being asked for. */
  head: Entry<T> | undefined
  tail: Entry<T> | undefined
  /** With those that are being asked for. */
  length: number
  /** Where it stands; in none while it is parked or all its calls are being asked for. */
  line: Line<T> | undefined
  /** The hold whose line it was taken from, to be asked. */
  shownBy: Hold<T> | undefined
  /** Set while its tenant's own limit holds it back: until when, and which. */
  until: number
  heldKey: string | undefined
}

/** The flows that need the same shared keys. */
export interface Group<T> {
  readonly id: string
  readonly keys: readonly string[]
  readonly flows: Map<string, Flow<T>>
}

/** The flows of one tenant and priority: they have one turn, whatever keys they need. */
export interface Lane {
  readonly id: string
  readonly priority: number
  readonly account: Account
  flows: number
  start: number
}

/** What a tenant has been served, or is being asked for. */
export interface Account {
  finish: number
  waiting: number
  isNew: boolean
}

/** When the lane's turn is, in units of service: the account moves with its other lanes too. */
export function turnOf({ start, account }: Lane): number {
  return Math.max(start, account.finish)
}

/** Whether `a` goes first. */
export function isBefore<T>(a: Entry<T>, b: Entry<T>): boolean {
  const { priority } = a.flow.lane
  if (priority !== b.flow.lane.priority) return priority > b.flow.lane.priority
  const startA = a.isAsked ? a.start : turnOf(a.flow.lane)
  const startB = b.isAsked ? b.start : turnOf(b.flow.lane)
  return startA === startB ? a.order < b.order : startA < startB
}
