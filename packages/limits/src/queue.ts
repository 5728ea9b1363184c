import { type Account, Entry, type Flow, first, type Group, isBefore, type Lane, type Queued, turnOf } from './flow.ts'
import { Heap } from './heap.ts'
import { Hold } from './hold.ts'
import { Line } from './line.ts'
import { coded, type Demand, type Wanted } from './rules.ts'

/**
 * Whose turn it is: by priority, then fair between tenants (start-time fair queueing, each call weighing what it takes),
 * then first come first served. It knows no clock and asks no store: `next` names who is to be asked, and is told the answer,
 * at once or after it has named others.
 *
 * A call that is denied a shared key holds it against all behind it, so that small calls do not starve a large one. One that is
 * denied a key of its tenant stands aside with its tenant's calls alone. Further attempts go first and stand behind no call: what
 * their own calls hold may be all that the others wait for.
 */
export interface Queue<T extends Queued> {
  readonly size: number
  add(call: T): void
  /** False where it is not queued. */
  remove(call: T): boolean
  /** Whether the demand has to stand behind somebody. */
  contends(demand: Demand): boolean
  /** The next to be asked, if any. */
  next(now: number): T | undefined
  granted(call: T): void
  denied(call: T, denial: Refused): void
  /** The same of a call that was asked before it was added; forgotten where calls of its own kind stand before it. */
  deniedFirst(call: T, denial: Refused): void
  /** Who may have what was granted to this call too late: the first that waits for just as much of the same keys. */
  heirOf(call: T): T | undefined
  /** When there may be somebody to ask who is held back now. */
  readonly wakeAt: number
  /** Something came back to this key: who was held by it may be asked. */
  free(key: string): void
  freeAll(): void
  /** Empties it. */
  takeAll(): T[]
}

/** What a call was told. */
export interface Refused {
  /** Which of its asks was denied. */
  readonly index: number
  /** It is not worth asking again before. */
  readonly until: number
  /** Whether a smaller call might be let in. */
  readonly isSized: boolean
}

export function createQueue<T extends Queued>(): Queue<T> {
  const entries = new Map<T, Entry<T>>()
  const groups = new Map<string, Group<T>>()
  const lanes = new Map<string, Lane>()
  const accounts = new Map<string, Account>()
  /** Who can be asked, as far as is known. */
  const ready = new Line<T>()
  /** By the shared key that was denied. */
  const holds = new Map<string, Hold<T>>()
  const timed = new Heap<Hold<T>>((a, b) => a.until < b.until)
  /** The first of their lines may be asked. */
  const opened = new Set<Hold<T>>()
  /** Flows by the key of their own that was denied. */
  const parkedBy = new Map<string, Set<Flow<T>>>()
  const parked = new Heap<Flow<T>>((a, b) => a.until < b.until)
  /** How many wait for a key: for a shared one without those held back by a limit of their own. */
  const waiting = new Map<string, number>()
  /** How many of them are further attempts of calls that have their place. */
  const attempts = new Map<string, number>()
  let sweepAt = sweepStep
  let served = 0 // start of the last turn: the virtual time of fair queueing
  let tenants = 0 // that have calls waiting
  let orders = 0

  function count({ lane }: Flow<T>, keys: readonly string[], change: number): void {
    if (change === 0) return
    for (const key of keys) {
      add(waiting, key, change)
      if (lane.priority === first) add(attempts, key, change)
    }
  }

  function accountOf(tenant: string): Account {
    const known = accounts.get(tenant)
    if (known !== undefined) return known
    if (accounts.size >= sweepAt) {
      for (const [name, account] of accounts) {
        if (account.waiting === 0 && account.finish <= served) accounts.delete(name)
      }
      sweepAt = accounts.size * 2 + sweepStep
    }
    const account: Account = { finish: 0, waiting: 0, isNew: true }
    accounts.set(tenant, account)
    return account
  }

  function laneOf({ tenant, priority }: T): Lane {
    const id = `${priority}|${coded(tenant)}`
    const known = lanes.get(id)
    if (known !== undefined) return known
    const lane: Lane = { id, priority, account: accountOf(tenant), flows: 0, start: served }
    lanes.set(id, lane)
    return lane
  }

  function flowOf(call: T): Flow<T> {
    const { asks, shared } = call.demand
    const { groupId, flowId } = idsOf(call)
    let group = groups.get(groupId)
    if (group === undefined) {
      group = { id: groupId, keys: asks.slice(0, shared).map(({ key }) => key), flows: new Map() }
      groups.set(groupId, group)
    }
    const known = group.flows.get(flowId)
    if (known !== undefined) return known
    const flow: Flow<T> = {
      id: flowId,
      group,
      lane: laneOf(call),
      ownKeys: asks.slice(shared).map(({ key }) => key),
      head: undefined,
      tail: undefined,
      length: 0,
      line: undefined,
      shownBy: undefined,
      until: 0,
      heldKey: undefined,
      slot: -1
    }
    flow.lane.flows++
    group.flows.set(flowId, flow)
    return flow
  }

  /** Into its flow by its age: one that was asked in vain is older than most. */
  function link(entry: Entry<T>): void {
    const { flow } = entry
    let next = flow.tail !== undefined && flow.tail.order < entry.order ? undefined : flow.head
    while (next !== undefined && next.order < entry.order) next = next.next
    const previous = next === undefined ? flow.tail : next.previous
    entry.previous = previous
    entry.next = next
    if (previous === undefined) flow.head = entry
    else previous.next = entry
    if (next === undefined) flow.tail = entry
    else next.previous = entry
    if (flow.head === entry && flow.heldKey === undefined) judge(flow)
  }

  function unlink(entry: Entry<T>): void {
    const { flow } = entry
    const wasHead = flow.head === entry
    if (entry.previous === undefined) flow.head = entry.next
    else entry.previous.next = entry.next
    if (entry.next === undefined) flow.tail = entry.previous
    else entry.next.previous = entry.previous
    entry.previous = entry.next = undefined
    if (!wasHead || flow.line === undefined) return
    hide(flow)
    if (flow.head === undefined) flow.line.remove(flow)
    else flow.line.moved(flow)
  }

  /** Has a new head: it stands with those that can be asked until it is known better. */
  function judge(flow: Flow<T>): void {
    if (flow.line === ready) return ready.moved(flow)
    flow.line?.remove(flow)
    ready.add(flow)
  }

  function leaveLine(flow: Flow<T>): void {
    flow.line?.remove(flow)
    hide(flow)
  }

  /** The next of the line it was taken from may be asked. */
  function hide(flow: Flow<T>): void {
    const { shownBy } = flow
    if (shownBy === undefined) return
    flow.shownBy = shownBy.shown = undefined
    opened.add(shownBy)
  }

  function show(hold: Hold<T>, now: number): void {
    opened.delete(hold)
    if (hold.isIdle) {
      timed.remove(hold)
      holds.delete(hold.key)
      return
    }
    if (hold.shown !== undefined) return
    const flow = hold.line.first()
    if (flow === undefined || hold.blocks(flow.head as Entry<T>, now)) return
    hold.line.remove(flow)
    hold.shown = flow
    flow.shownBy = hold
    ready.add(flow)
  }

  function open(hold: Hold<T>): void {
    hold.until = 0
    timed.remove(hold)
    opened.add(hold)
  }

  /** The holder has what it wanted, or wants it no more. */
  function release(entry: Entry<T>): void {
    const { holding } = entry
    if (holding === undefined) return
    entry.holding = holding.holder = undefined
    open(holding)
  }

  function withhold(entry: Entry<T>, key: string, { until, isSized }: Refused): void {
    let held = holds.get(key)
    if (held === undefined) {
      held = new Hold(key)
      holds.set(key, held)
    }
    if (entry.holding !== held) release(entry)
    const { holder } = held
    if (holder === undefined || holder === entry || isBefore(entry, holder)) {
      if (holder !== undefined) holder.holding = undefined
      held.holder = entry
      held.isSized = isSized
      held.until = until
      entry.holding = held
    } else if (held.until === 0) held.until = until
    timed.remove(held)
    if (held.until < Number.POSITIVE_INFINITY) timed.push(held)
  }

  function park(flow: Flow<T>, key: string, until: number): void {
    if (flow.heldKey !== undefined) return
    leaveLine(flow)
    flow.until = until
    flow.heldKey = key
    parked.push(flow)
    const others = parkedBy.get(key)
    if (others === undefined) parkedBy.set(key, new Set([flow]))
    else others.add(flow)
    count(flow, flow.group.keys, -flow.length)
  }

  function unpark(flow: Flow<T>): void {
    const { heldKey } = flow
    if (heldKey === undefined) return
    const others = parkedBy.get(heldKey)
    others?.delete(flow)
    if (others?.size === 0) parkedBy.delete(heldKey)
    flow.heldKey = undefined
    parked.remove(flow)
    count(flow, flow.group.keys, flow.length)
    if (flow.head !== undefined) ready.add(flow)
  }

  /** A tenant pays when it is asked for: else it would have all the asks that are under way at a time. */
  function charge(entry: Entry<T>): void {
    const { lane } = entry.flow
    entry.start = turnOf(lane)
    entry.isAsked = true
    lane.account.finish = entry.start + entry.call.weight
    lane.start = Math.max(served, lane.account.finish)
  }

  function refund(entry: Entry<T>): void {
    const { lane } = entry.flow
    entry.isAsked = false
    lane.account.finish -= entry.call.weight
    lane.start = Math.min(lane.start, entry.start)
    ready.sooner(lane)
  }

  function deny(entry: Entry<T>, denial: Refused): void {
    const key = entry.call.demand.asks[denial.index]?.key
    if (key === undefined) return
    if (denial.index < entry.call.demand.shared) withhold(entry, key, denial)
    else park(entry.flow, key, denial.until)
  }

  /** Out of everything. */
  function drop(entry: Entry<T>): void {
    const { flow } = entry
    const { group, lane } = flow
    const { account } = lane
    // A smaller call behind it may have what it had not.
    if (flow.head === entry) unpark(flow)
    if (!entry.isAsked) unlink(entry)
    release(entry)
    entries.delete(entry.call)
    flow.length--
    if (--account.waiting === 0) tenants--
    count(flow, flow.ownKeys, -1)
    if (flow.heldKey === undefined) count(flow, group.keys, -1)
    if (flow.length === 0) {
      unpark(flow)
      group.flows.delete(flow.id)
      if (group.flows.size === 0) groups.delete(group.id)
      if (--lane.flows === 0) lanes.delete(lane.id)
    }
    if (entries.size > 0) return
    accounts.clear()
    served = 0
  }

  const queue: Queue<T> = {
    get size() {
      return entries.size
    },
    get wakeAt() {
      return Math.min(timed.peek()?.until ?? Number.POSITIVE_INFINITY, parked.peek()?.until ?? Number.POSITIVE_INFINITY)
    },
    add(call) {
      const flow = flowOf(call)
      const { account } = flow.lane
      const entry = new Entry(call, flow, ++orders)
      entries.set(call, entry)
      flow.length++
      if (account.waiting++ === 0) tenants++
      count(flow, flow.ownKeys, 1)
      if (flow.heldKey === undefined) count(flow, flow.group.keys, 1)
      link(entry)
    },
    remove(call) {
      const entry = entries.get(call)
      if (entry === undefined) return false
      if (entry.isAsked) {
        refund(entry)
        entry.isAsked = true // in no list
      }
      drop(entry)
      return true
    },
    contends({ asks, isCall }) {
      const before = isCall ? waiting : attempts
      return before.size > 0 && asks.some(({ key }) => before.has(key))
    },
    next(now) {
      for (let hold = timed.peek(); hold !== undefined && hold.until <= now; hold = timed.peek()) open(hold)
      for (let flow = parked.peek(); flow !== undefined && flow.until <= now; flow = parked.peek()) unpark(flow)
      for (;;) {
        for (const one of opened) show(one, now)
        const flow = ready.first()
        if (flow === undefined) return undefined
        const entry = flow.head as Entry<T>
        const held = flow.group.keys.map((key) => holds.get(key)).find((one) => one?.blocks(entry, now))
        if (held === undefined) {
          unlink(entry)
          charge(entry)
          return entry.call
        }
        leaveLine(flow)
        held.line.add(flow)
      }
    },
    granted(call) {
      const entry = entries.get(call)
      if (entry === undefined) return
      if (!entry.isAsked) {
        unlink(entry)
        charge(entry)
      }
      const { account } = entry.flow.lane
      served = Math.max(served, entry.start)
      // Else ever new tenants would all come before the second call of an old one.
      if (account.isNew) served += call.weight / tenants
      account.isNew = false
      drop(entry)
    },
    denied(call, denial) {
      const entry = entries.get(call)
      if (entry === undefined) return
      if (entry.isAsked) {
        refund(entry)
        link(entry)
      }
      deny(entry, denial)
    },
    deniedFirst(call, denial) {
      const entry = entries.get(call)
      if (entry !== undefined && entry.flow.length === 1) deny(entry, denial)
    },
    heirOf(call) {
      const { groupId, flowId } = idsOf(call)
      const group = groups.get(groupId)
      if (group === undefined) return undefined
      const hasOwn = call.demand.asks.length > call.demand.shared
      let heir: Entry<T> | undefined
      for (const flow of hasOwn ? [group.flows.get(flowId)] : group.flows.values()) {
        const head = flow?.head
        if (head === undefined || !isSame(head.call.demand.asks, call.demand.asks)) continue
        if (heir === undefined || isBefore(head, heir)) heir = head
      }
      return heir?.call
    },
    free(key) {
      const held = holds.get(key)
      if (held !== undefined) open(held)
      for (const flow of parkedBy.get(key) ?? []) unpark(flow)
    },
    freeAll() {
      for (const held of holds.values()) open(held)
      for (const key of parkedBy.keys()) queue.free(key)
    },
    takeAll() {
      const calls = [...entries.keys()]
      for (const call of calls) queue.remove(call)
      return calls
    }
  }
  return queue
}

function add(counts: Map<string, number>, key: string, change: number): void {
  const left = (counts.get(key) ?? 0) + change
  if (left === 0) counts.delete(key)
  else counts.set(key, left)
}

/** Accounts of tenants that were served enough are swept when so many more have come. */
const sweepStep = 1000

function idsOf({ demand, tenant, priority }: Queued): { groupId: string; flowId: string } {
  let groupId = ''
  let ownId = ''
  for (const [index, { key }] of demand.asks.entries()) {
    if (index < demand.shared) groupId += coded(key)
    else ownId += coded(key)
  }
  return { groupId, flowId: `${priority}|${coded(tenant)}${ownId}` }
}

/** Whether they take the same of the same keys. */
function isSame(some: readonly Wanted[], others: readonly Wanted[]): boolean {
  return (
    some.length === others.length &&
    some.every((ask, index) => {
      const other = others[index] as Wanted
      if (ask.key !== other.key) return false
      if (ask.kind === 'rate') return other.kind === 'rate' && ask.tokens === other.tokens && ask.place === other.place
      return other.kind === 'budget' && ask.amount === other.amount
    })
  )
}
