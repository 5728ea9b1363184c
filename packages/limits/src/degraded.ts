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

  const localStore = (): MemoryStore => (local ??= createMemoryStore(memoryOptions))

  function failed(): void {
    errors++
    const isNew = askAgainAt === 0
    askAgainAt = now() + restMs
    probing = false
    if (isNew) changed()
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
    const from = localStore()
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
    void gate.end(store, endsOf(asks, at, unsent))
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
        return verdict
      } catch {
        failed()
        return instead(asks)
      }
    },
    end(from, ends) {
      const own = from === local ? shareOf.ends(ends) : ends
      try {
        return from.end(own)?.catch(failed)
      } catch {
        failed()
        return undefined
      }
    },
    learn(key, terms, news) {
      if (askAgainAt !== 0) {
        if (whenStoreFails === 'localShare') localStore().learn(key, shareOf.terms(terms), shareOf.news(news))
        return
      }
      try {
        store.learn(key, terms, news)?.catch(failed)
      } catch {
        failed()
      }
    },
    async state(key, terms) {
      if (askAgainAt !== 0 && local !== undefined) return local.state(key, shareOf.terms(terms))
      return store.state(key, terms)
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
