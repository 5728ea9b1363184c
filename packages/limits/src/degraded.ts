import { endsOf, unsent } from './ends.ts'
import { createMemoryStore, type MemoryStore } from './memory-store.ts'
import type { Wanted } from './rules.ts'
import type { Ask, BudgetAsk, End, LimitState, LimitStore, News, RateAsk, Terms, Verdict } from './store.ts'

/** What was decided without the store, which cannot be asked. */
export type Instead =
  | { readonly granted: true; readonly at: number; readonly degraded: 'allow' }
  | { readonly granted: true; readonly at: number; readonly degraded: 'localShare'; readonly from: LimitStore }
  /** Whether by the store's part or by none at all; that is worth another look when the store is asked again. */
  | { readonly granted: false; readonly unavailable: true; readonly waitMs: number }

export type Answer = Verdict | Instead

/** The store of a limiter, with what takes its place while it fails: nothing here throws or rejects, or waits for long. */
export interface Gate {
  take(asks: readonly Wanted[]): Answer | Promise<Answer>
  /** To the store that granted it. */
  end(from: LimitStore, ends: readonly End[]): undefined | Promise<void>
  learn(key: string, terms: Terms, news: News): void
  /** By what is known here, while the store cannot be asked. */
  state(key: string, terms: Terms): Promise<LimitState>
  readonly store: LimitStore
  /** Other processes have a part in it: that a place is free is not always heard of here. */
  readonly isShared: boolean
  readonly degraded: boolean
  readonly errors: number
  close(): Promise<void>
}

export interface GateOptions {
  readonly store: LimitStore | undefined
  readonly whenStoreFails: 'deny' | 'allow' | 'localShare'
  readonly processes: number
  readonly clock: (() => number) | undefined
  readonly now: () => number
  /** The store has begun to fail, or is there again: who waits is to be asked anew. */
  readonly changed: () => void
}

/** Of a place alone. */
const unbounded: Terms = {
  concurrency: Number.POSITIVE_INFINITY,
  requests: Number.POSITIVE_INFINITY,
  tokens: Number.POSITIVE_INFINITY,
  windowMs: 60_000,
  adaptive: false
}
/** After a failure the store is left alone for so long; then one call asks. */
const restMs = 1000
/** A store that has not answered by then has failed, whatever its own time limit. */
const patienceMs = 2000

export function createGate(options: GateOptions): Gate {
  const { whenStoreFails, processes, now, changed } = options
  const memoryOptions = options.clock === undefined ? {} : { now: options.clock }
  const store = options.store ?? createMemoryStore(memoryOptions)
  const shareOf = createShare(processes)
  let local: MemoryStore | undefined
  let askAgainAt = 0 // 0 while the store answers
  let probing = false
  let errors = 0
  /** Places that calls of this process have in the store. */
  const held = new Map<string, number>()
  /** How many of them the local share counts. */
  const counted = new Map<string, number>()
  /** Limits that were made ready since the store began to fail. */
  const begun = new Set<string>()

  /** A limit of the local share begins with no rate, for all may be used up, and with the places that calls have here. */
  function localStore(key: string, terms: Terms): MemoryStore {
    local ??= createMemoryStore(memoryOptions)
    if (begun.has(key)) return local
    begun.add(key)
    const place: RateAsk = { kind: 'rate', key, terms: unbounded, tokens: 0, place: true }
    let places = counted.get(key) ?? 0
    while (places < (held.get(key) ?? 0) && local.take([place]).granted) places++
    if (places > 0) counted.set(key, places)
    local.learn(
      key,
      { ...shareOf.terms(terms), adaptive: true },
      { even: true, requests: { remaining: 0 }, tokens: { remaining: 0 } }
    )
    return local
  }

  function add(places: Map<string, number>, key: string, change: number): void {
    const left = (places.get(key) ?? 0) + change
    if (left > 0) places.set(key, left)
    else places.delete(key)
  }

  function granted(asks: readonly Wanted[]): void {
    if (options.store === undefined) return
    for (const ask of asks) if (ask.kind === 'rate' && ask.place) add(held, ask.key, 1)
  }

  function ended(ends: readonly End[]): void {
    if (options.store === undefined) return
    for (const end of ends) {
      if (end.kind !== 'rate' || !end.place) continue
      add(held, end.key, -1)
      if (!counted.has(end.key)) continue
      add(counted, end.key, -1)
      local?.end([{ ...end, terms: shareOf.terms(end.terms), tokens: 0, usedTokens: 0, usedRequests: 1, outcome: 'none' }])
    }
  }

  function failed(): void {
    errors++
    const isNew = askAgainAt === 0
    askAgainAt = now() + restMs
    probing = false
    if (!isNew) return
    begun.clear()
    changed()
  }

  /** Of what is told to the store, not asked: that says nothing of whether calls can be let in. */
  function untold(): void {
    errors++
  }

  function answered(): void {
    probing = false
    if (askAgainAt === 0) return
    askAgainAt = 0
    changed()
  }

  function instead(asks: readonly Wanted[]): Answer {
    if (whenStoreFails === 'allow') return { granted: true, at: 0, degraded: 'allow' }
    if (whenStoreFails === 'deny') return { granted: false, unavailable: true, waitMs: Math.max(0, askAgainAt - now()) }
    local ??= createMemoryStore(memoryOptions)
    const from = local
    for (const ask of asks) if (ask.kind === 'rate') localStore(ask.key, ask.terms)
    const verdict = from.take(shareOf.asks(asks))
    return verdict.granted ? { granted: true, at: verdict.at, degraded: 'localShare', from } : verdict
  }

  /** Settles as the store does, or without it. */
  async function patient(asks: readonly Wanted[], asked: Promise<Verdict>): Promise<Answer> {
    const { promise: impatient, resolve } = Promise.withResolvers<undefined>()
    const timer = setTimeout(() => resolve(undefined), patienceMs)
    try {
      const verdict = await Promise.race([asked, impatient])
      if (verdict !== undefined) {
        answered()
        if (verdict.granted) granted(asks)
        return verdict
      }
      // A grant that comes yet is nobody's.
      asked.then(
        (late) => late.granted && giveBack(asks, late.at),
        () => errors++
      )
    } catch {
      // Counted by `failed`; the call goes on without the store.
    } finally {
      clearTimeout(timer)
    }
    failed()
    return instead(asks)
  }

  function giveBack(asks: readonly Wanted[], at: number): void {
    void tell(() => store.end(endsOf(asks, at, unsent)))
  }

  /** What the store tells, if it does in time. */
  async function known(key: string, terms: Terms): Promise<LimitState | undefined> {
    const { promise: impatient, resolve } = Promise.withResolvers<undefined>()
    const timer = setTimeout(() => resolve(undefined), patienceMs)
    try {
      return await Promise.race([store.state(key, terms), impatient])
    } catch {
      untold()
      return undefined
    } finally {
      clearTimeout(timer)
    }
  }

  function tell(step: () => undefined | Promise<void>): undefined | Promise<void> {
    try {
      return step()?.catch(untold)
    } catch {
      untold()
      return undefined
    }
  }

  const gate: Gate = {
    store,
    isShared: options.store !== undefined,
    get degraded() {
      return askAgainAt !== 0
    },
    get errors() {
      return errors
    },
    take(asks) {
      if (askAgainAt !== 0) {
        if (probing || now() < askAgainAt) return instead(asks)
        probing = true
      }
      try {
        const verdict = store.take(asks)
        if ('then' in verdict) return patient(asks, verdict)
        if (askAgainAt !== 0) answered()
        if (verdict.granted) granted(asks)
        return verdict
      } catch {
        failed()
        return instead(asks)
      }
    },
    end(from, ends) {
      if (from === local) return local.end(shareOf.ends(ends))
      ended(ends)
      return tell(() => from.end(ends))
    },
    learn(key, terms, news) {
      if (askAgainAt === 0) void tell(() => store.learn(key, terms, news))
      else if (whenStoreFails === 'localShare') localStore(key, terms).learn(key, shareOf.terms(terms), shareOf.news(news))
    },
    async state(key, terms) {
      if (askAgainAt === 0) {
        const told = await known(key, terms)
        if (told !== undefined) return told
      }
      if (whenStoreFails === 'localShare' && askAgainAt !== 0) return localStore(key, terms).state(key, shareOf.terms(terms))
      const { requests: requestsLeft, tokens: tokensLeft, concurrency: ceiling } = terms
      return { running: held.get(key) ?? 0, requestsLeft, tokensLeft, ceiling, pausedMs: 0 }
    },
    async close() {
      await local?.close()
      if (options.store === undefined) await store.close()
    }
  }
  return gate
}

/** One process's part of what all share. */
interface Share {
  terms(terms: Terms): Terms
  asks(asks: readonly Ask[]): Ask[]
  ends(ends: readonly End[]): End[]
  news(news: News): News
}

function createShare(processes: number): Share {
  const known = new WeakMap<Terms, Terms>()
  function terms(whole: Terms): Terms {
    const made = known.get(whole)
    if (made !== undefined) return made
    const part: Terms = {
      ...whole,
      concurrency: Math.max(1, Math.floor(whole.concurrency / processes)),
      requests: Math.max(1, whole.requests / processes),
      tokens: whole.tokens / processes
    }
    known.set(whole, part)
    return part
  }
  const ofRate = (ask: RateAsk): RateAsk => ({ ...ask, terms: terms(ask.terms) })
  const ofBudget = (ask: BudgetAsk): BudgetAsk => ({ ...ask, limit: ask.limit / processes })
  const ofCounter = (counter: News['requests']): News['requests'] =>
    counter && { ...counter, limit: divided(counter.limit), remaining: divided(counter.remaining) }
  const divided = (amount: number | undefined): number | undefined => (amount === undefined ? undefined : amount / processes)
  return {
    terms,
    asks: (asks) => asks.map((ask) => (ask.kind === 'rate' ? ofRate(ask) : ofBudget(ask))),
    ends: (ends) => ends.map((end) => (end.kind === 'rate' ? { ...end, terms: terms(end.terms) } : end)),
    news: (news) => ({ ...news, requests: ofCounter(news.requests), tokens: ofCounter(news.tokens) })
  }
}
