import { type Account, Entry, type Flow, type Group, isBefore, type Queued, top } from './flow.ts'
import { Heap } from './heap.ts'
import { coded, type Demand } from './rules.ts'

/**
 * Whose turn it is: by priority, then fair between tenants (start-time fair queueing, each call weighing what it takes),
 * then first come first served. It knows no time and asks no store: `next` names who is to be asked, and is told the answer.
 *
 * A head that is denied a shared key holds it against all behind it for the rest of a pass, so that small calls do not
 * starve a large one. One that is denied a key of its tenant stands aside with its tenant's calls alone.
 */
export interface Queue<T extends Queued> {
  readonly size: number
  add(call: T): void
  /** False where it is not queued. */
  remove(call: T): boolean
  /** Whether the demand has to stand behind somebody. */
  contends(demand: Demand): boolean
  /** Begins to go through all heads. */
  startPass(now: number): void
  /** The next to be asked, or `undefined` when the pass is over. The answer is told before it is called again. */
  next(now: number): T | undefined
  granted(call: T): void
  /** Denied the `index`th of its asks, and not worth asking again before `until`. */
  denied(call: T, index: number, until: number): void
  /** The same of a call that was asked before it was added; forgotten where others stand before it. */
  deniedFirst(call: T, index: number, until: number): void
  /** When a pass is worth while again, by the last one. */
  readonly wakeAt: number
  /** Something came back to this key: who was held by it may be asked. */
  free(key: string): void
  freeAll(): void
  /** Empties it. */
  takeAll(): T[]
}

export function createQueue<T extends Queued>(): Queue<T> {
  const entries = new Map<T, Entry<T>>()
  const groups = new Map<string, Group<T>>()
  const ready = new Heap<Group<T>>((a, b) => isBefore(top(a), top(b)))
  const parked = new Heap<Flow<T>>((a, b) => a.until < b.until)
  const holders = new Map<string, Set<Group<T> | Flow<T>>>()
  /** How many wait for a key: for a shared one without those held back by a limit of their own. */
  const waiting = new Map<string, number>()
  const accounts = new Map<string, Account>()
  let sweepAt = sweepStep
  let served = 0 // start of the last turn: the virtual time of fair queueing
  let tenants = 0 // that have calls waiting
  let orders = 0
  // One pass.
  const held = new Set<string>()
  let aside: Group<T>[] = []
  let current: Group<T> | undefined
  let wakeAt = Number.POSITIVE_INFINITY

  function count(keys: readonly string[], change: number): void {
    if (change === 0) return
    for (const key of keys) {
      const left = (waiting.get(key) ?? 0) + change
      if (left === 0) waiting.delete(key)
      else waiting.set(key, left)
    }
  }

  function hold(holder: Group<T> | Flow<T>, key: string, until: number): void {
    holder.until = until
    holder.heldKey = key
    const others = holders.get(key)
    if (others === undefined) holders.set(key, new Set([holder]))
    else others.add(holder)
  }

  function letGo(holder: Group<T> | Flow<T>): void {
    const { heldKey } = holder
    if (heldKey === undefined) return
    const others = holders.get(heldKey)
    others?.delete(holder)
    if (others?.size === 0) holders.delete(heldKey)
    holder.heldKey = undefined
    holder.until = 0
  }

  /** Its head may have changed, and whether anything in it can be asked. */
  function place(group: Group<T>): void {
    if (group === current || group.isAside) return // put back by the pass
    if (group.active.size === 0) ready.remove(group)
    else if (group.slot === -1) ready.push(group)
    else ready.moved(group)
  }

  function park(flow: Flow<T>, key: string, until: number): void {
    hold(flow, key, until)
    flow.group.active.remove(flow)
    parked.push(flow)
    count(flow.group.keys, -flow.length)
  }

  function unpark(flow: Flow<T>): void {
    letGo(flow)
    parked.remove(flow)
    if (flow.head === undefined) return
    count(flow.group.keys, flow.length)
    flow.group.active.push(flow)
    place(flow.group)
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
    const account: Account = { finish: 0, waiting: 0 }
    accounts.set(tenant, account)
    return account
  }

  function flowOf(call: T): Flow<T> {
    const { asks, shared } = call.demand
    let groupId = ''
    let ownId = ''
    for (const [index, { key }] of asks.entries()) {
      if (index < shared) groupId += coded(key)
      else ownId += coded(key)
    }
    let group = groups.get(groupId)
    if (group === undefined) {
      const keys = asks.slice(0, shared).map(({ key }) => key)
      const active = new Heap<Flow<T>>(isBefore)
      group = {
        id: groupId,
        keys,
        flows: new Map(),
        active,
        heldFor: undefined,
        until: 0,
        heldKey: undefined,
        isAside: false,
        slot: -1
      }
      groups.set(groupId, group)
    }
    const id = `${call.priority}|${coded(call.tenant)}${ownId}`
    let flow = group.flows.get(id)
    if (flow === undefined) {
      flow = {
        id,
        group,
        account: accountOf(call.tenant),
        priority: call.priority,
        ownKeys: asks.slice(shared).map(({ key }) => key),
        head: undefined,
        tail: undefined,
        length: 0,
        start: 0,
        until: 0,
        heldKey: undefined,
        slot: -1
      }
      group.flows.set(id, flow)
    }
    return flow
  }

  /** Takes it out, and leaves the flow without it: at its new place, or gone. */
  function unlink(entry: Entry<T>): void {
    const { flow } = entry
    const { group } = flow
    const wasHead = flow.head === entry
    // A smaller call behind it may have what it had not.
    if (wasHead && flow.heldKey !== undefined) unpark(flow)
    if (entry.previous === undefined) flow.head = entry.next
    else entry.previous.next = entry.next
    if (entry.next === undefined) flow.tail = entry.previous
    else entry.next.previous = entry.previous
    entries.delete(entry.call)
    flow.length--
    if (--flow.account.waiting === 0) tenants--
    count(flow.ownKeys, -1)
    if (flow.heldKey === undefined) count(group.keys, -1)
    if (flow.head === undefined) {
      group.active.remove(flow)
      group.flows.delete(flow.id)
    } else if (wasHead) {
      flow.start = Math.max(served, flow.account.finish)
      group.active.moved(flow)
    }
    if (group.heldFor === entry) {
      letGo(group)
      group.heldFor = undefined
    }
    if (group.flows.size === 0) groups.delete(group.id)
    place(group)
    if (entries.size > 0) return
    accounts.clear()
    served = 0
  }

  function deny(call: T, index: number, until: number): void {
    const entry = entries.get(call)
    const key = call.demand.asks[index]?.key
    if (entry === undefined || key === undefined) return
    const { flow } = entry
    const { group } = flow
    if (index < call.demand.shared) {
      letGo(group)
      group.heldFor = entry
      hold(group, key, until)
    } else if (flow.head === entry && flow.heldKey === undefined) {
      park(flow, key, until)
      place(group)
    }
  }

  function putAside(group: Group<T>): void {
    group.isAside = true
    aside.push(group)
  }

  function putBack(): void {
    const group = current
    current = undefined
    if (group !== undefined) place(group)
  }

  return {
    get size() {
      return entries.size
    },
    get wakeAt() {
      return wakeAt
    },
    add(call) {
      const flow = flowOf(call)
      const entry = new Entry(call, flow, ++orders)
      entries.set(call, entry)
      entry.previous = flow.tail
      if (flow.tail !== undefined) flow.tail.next = entry
      flow.tail = entry
      flow.length++
      if (flow.account.waiting++ === 0) tenants++
      count(flow.ownKeys, 1)
      if (flow.heldKey === undefined) count(flow.group.keys, 1)
      if (flow.head !== undefined) return
      flow.head = entry
      flow.start = Math.max(served, flow.account.finish)
      flow.group.active.push(flow)
      place(flow.group)
    },
    remove(call) {
      const entry = entries.get(call)
      if (entry !== undefined) unlink(entry)
      return entry !== undefined
    },
    contends: ({ asks }) => entries.size > 0 && asks.some(({ key }) => waiting.has(key)),
    startPass(now) {
      wakeAt = Number.POSITIVE_INFINITY
      for (let flow = parked.peek(); flow !== undefined && flow.until <= now; flow = parked.peek()) unpark(flow)
    },
    next(now) {
      for (let group = ready.pop(); group !== undefined; group = ready.pop()) {
        const head = top(group).head as Entry<T>
        if (group.keys.some((key) => held.has(key))) {
          putAside(group)
        } else if (group.heldFor === head && group.until > now) {
          const key = group.heldKey as string
          held.add(key)
          putAside(group)
          wakeAt = Math.min(wakeAt, group.until)
          if (waiting.get(key) === entries.size) break // all others wait for it as well
        } else {
          current = group
          return head.call
        }
      }
      const blocked = aside
      aside = []
      held.clear()
      for (const group of blocked) {
        group.isAside = false
        place(group)
      }
      wakeAt = Math.min(wakeAt, parked.peek()?.until ?? Number.POSITIVE_INFINITY)
      return undefined
    },
    granted(call) {
      const entry = entries.get(call)
      if (entry !== undefined) {
        const { flow } = entry
        const { account } = flow
        served = Math.max(served, flow.start)
        // Else ever new tenants would all come before the second call of an old one.
        if (account.finish === 0) served += call.weight / tenants
        account.finish = Math.max(account.finish, flow.start) + call.weight
        unlink(entry)
      }
      putBack()
    },
    denied(call, index, until) {
      deny(call, index, until)
      putBack()
    },
    deniedFirst(call, index, until) {
      const flow = entries.get(call)?.flow
      if (flow !== undefined && top(flow.group) === flow && flow.head?.call === call) deny(call, index, until)
    },
    free(key) {
      for (const holder of holders.get(key) ?? []) {
        if ('active' in holder) letGo(holder)
        else unpark(holder)
      }
    },
    freeAll() {
      for (const key of holders.keys()) this.free(key)
    },
    takeAll() {
      const calls = [...entries.keys()]
      for (const call of calls) this.remove(call)
      return calls
    }
  }
}

/** Accounts of tenants that were served enough are swept when so many more have come. */
const sweepStep = 1000
