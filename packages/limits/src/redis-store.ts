import { randomBytes } from 'node:crypto'
import { isMillraceError, MillraceError } from '@millrace/core'
import { createRunScript } from './redis-command.ts'
import { createWords, nameOf, stateOf, verdictOf } from './redis-words.ts'
import type { Ask, End, LimitState, LimitStore, News, Terms, Verdict } from './store.ts'

/** A `LimitStore` for all processes with the same Redis and namespace. */
export interface RedisLimits extends LimitStore, AsyncDisposable {
  take(asks: readonly Ask[]): Promise<Verdict>
  /** Rejects when Redis could not be told; it is told again all the same, but of what would count twice: one request given back. */
  end(ends: readonly End[]): Promise<void>
  learn(key: string, terms: Terms, news: News): Promise<void>
  state(key: string, terms: Terms): Promise<LimitState>
  stats(): RedisLimitsStats
}

export interface RedisLimitsStats {
  /** Calls of this process that hold something. */
  readonly held: number
  /** Calls Redis has still to be told of: those whose end failed, and those whose take failed and may have been granted. */
  readonly owed: number
  /** Such calls given up, beyond 10,000: what they hold comes back by itself, a lease after the calls taken with them have ended. */
  readonly dropped: number
  /** Steps that failed. */
  readonly errors: number
}

export interface RedisStoreSettings {
  readonly command: (args: readonly string[]) => Promise<unknown>
  readonly namespace: string
  readonly leaseMs: number
  readonly commandTimeoutMs: number
  /** Told to the script instead of its own clock; for tests. */
  readonly now?: (() => number) | undefined
}

/**
 * What this process holds it holds under a name, which has a lease. Where something may be held that nobody will give back, the
 * next calls get another name: the old one is renewed only while it has calls, and all it held comes back with its lease.
 */
interface Name {
  readonly key: string
  readonly since: number
  calls: number
  owed: number
  isDoubtful: boolean
}

/** What a granted take has, until it is ended. */
interface Held {
  readonly id: string
  readonly name: Name
  left: number
}

/** What Redis has not heard of one call. */
interface Owed {
  readonly name: Name
  readonly keys: readonly string[]
  readonly words: readonly string[]
  /** Told again until then though it was heard: the take it undoes may have been held up on its way. */
  readonly until: number
  heard: boolean
}

const maxOwed = 10_000
const maxAtOnce = 200
/** So soon Redis is told again what it has not heard. */
const againMs = 250

export function createRedisStore(settings: RedisStoreSettings): RedisLimits {
  const { command, namespace, leaseMs, commandTimeoutMs, now } = settings
  const runScript = createRunScript(command, commandTimeoutMs, () => errors++)
  const words = createWords()
  // With the version of what is kept, which no other version is to read.
  const prefix = `{${namespace}}:v1:`
  const leases = `${prefix}leases`
  let name = newName()
  /** Those that have something, and the latest. */
  const names = new Set([name])
  // By the time of the verdict, which an end brings back; no two have the same.
  const held = new Map<number, Held>()
  let owed: Owed[] = []
  let takes = 0
  let dropped = 0
  let errors = 0
  let timer: NodeJS.Timeout | undefined
  let timerDueAt = 0
  let telling = false
  let closing: Promise<void> | undefined

  const keyOf = (item: Ask | End): string => `${prefix}${item.kind}:${nameOf(item.key)}`
  const rateKey = (key: string): string => `${prefix}rate:${nameOf(key)}`

  function newName(): Name {
    const key = `${prefix}held:${randomBytes(9).toString('base64url')}`
    return { key, since: performance.now(), calls: 0, owed: 0, isDoubtful: false }
  }

  /** For the next take. A name serves a lease at least, so that there are never many. */
  function nameNow(): Name {
    if (!name.isDoubtful || performance.now() - name.since < leaseMs) return name
    const old = name
    name = newName()
    names.add(name)
    forgetIfFree(old)
    return name
  }

  function forgetIfFree(old: Name): void {
    if (old !== name && old.calls === 0 && old.owed === 0) names.delete(old)
  }

  /** `rest` is of JSON, from the id of a take on. */
  function run(step: string, of: string, keys: readonly string[], rest: string): Promise<unknown> {
    const told = `[${now === undefined ? false : now()},${leaseMs}${rest === '' ? '' : `,${rest}`}]`
    return runScript([`${keys.length + 2}`, leases, of, ...keys, step, told])
  }

  function checkOpen(): void {
    if (closing !== undefined) throw new MillraceError('closed', 'this store of limits was closed', { details: {} })
  }

  /** Remembers a granted take under a time of its own. */
  function hold(id: string, of: Name, at: number, asks: readonly Ask[]): number {
    const left = asks.filter(leavesTrace).length
    if (left === 0) return at
    let own = at
    while (held.has(own)) own += 0.001
    held.set(own, { id, name: of, left })
    of.calls++
    names.add(of) // another may have taken its place meanwhile
    return own
  }

  /** The take that an end belongs to. */
  function letGo(item: End): Held | undefined {
    const call = leavesTrace(item) ? held.get(item.at) : undefined
    if (call === undefined || --call.left > 0) return call
    held.delete(item.at)
    call.name.calls--
    forgetIfFree(call.name)
    return call
  }

  /** One for each take, which is nearly always one in all. */
  function owedOf(ends: readonly End[]): Owed[] {
    const all: Owed[] = []
    for (const [of, items] of Map.groupBy(ends, (item) => letGo(item))) {
      const id = of?.id ?? ''
      const texts = items.map((item) => words.end(item, id))
      all.push({ name: of?.name ?? name, keys: items.map(keyOf), words: texts, until: 0, heard: false })
    }
    return all
  }

  function owe(calls: readonly Owed[]): void {
    for (const call of calls) {
      call.name.owed++
      names.add(call.name)
      owed.push(call)
    }
    for (const call of owed.splice(0, Math.max(0, owed.length - maxOwed))) {
      dropped++
      call.name.isDoubtful = true
      paid(call)
    }
    arm(againMs)
  }

  function paid({ name: of }: Owed): void {
    of.owed--
    forgetIfFree(of)
  }

  /**
   * One timer, armed while there is something to keep or to tell. A process that has nothing else to do may end. Armed
   * again, it is only brought forward.
   */
  function arm(afterMs: number = leaseMs / 3): void {
    if (closing !== undefined || telling || (held.size === 0 && owed.length === 0)) return
    const dueAt = performance.now() + Math.min(afterMs, leaseMs / 3)
    if (timer !== undefined && timerDueAt <= dueAt) return
    clearTimeout(timer)
    timerDueAt = dueAt
    timer = setTimeout(() => void tellAgain(), dueAt - performance.now()).unref()
  }

  async function tellAgain(): Promise<void> {
    timer = undefined
    telling = true
    const calls = owed.slice(0, maxAtOnce)
    let soonMs = againMs
    try {
      await run(
        'renew',
        name.key,
        [...names].filter((each) => each !== name).map(({ key }) => key),
        ''
      )
      await tell(calls)
      settle(calls)
      soonMs = 0
    } catch {
      // Counted in `errors`; the timer tries again.
    }
    telling = false
    arm(owed.some(({ heard }) => !heard) ? soonMs : undefined)
  }

  async function tell(calls: readonly Owed[]): Promise<void> {
    const [first] = calls
    if (calls.length === 1 && first !== undefined) return void (await run('end', first.name.key, first.keys, first.words.join()))
    for (const [of, some] of Map.groupBy(calls, (call) => call.name)) {
      const keys = some.flatMap((call) => call.keys)
      await run('end', of.key, keys, some.flatMap((call) => call.words).join())
    }
  }

  function settle(calls: readonly Owed[]): void {
    const told = new Set(calls)
    const time = performance.now()
    const again = calls.filter(({ until }) => until > time)
    owed = owed.filter((call) => !told.has(call))
    for (const call of calls) {
      call.heard = true
      if (call.until <= time) paid(call)
    }
    owed.push(...again)
  }

  async function end(): Promise<void> {
    clearTimeout(timer)
    try {
      await Promise.all([...names].map(({ key }) => run('close', key, [], '')))
    } catch {
      // Counted in `errors`. Nobody renews the leases any more: what is held comes back when they end.
    }
    held.clear()
    names.clear()
    owed = []
  }

  const self: RedisLimits = {
    async take(asks) {
      checkOpen()
      const id = (takes++).toString(36)
      const of = nameNow()
      let verdict: Verdict
      try {
        verdict = verdictOf(await run('take', of.key, asks.map(keyOf), [`"${id}"`, ...asks.map(words.ask)].join()))
      } catch (error) {
        // It may have been granted, or be yet.
        if (isMillraceError(error, 'network') && error.details.phase === 'connect') throw error // was never sent
        const traced = asks.filter(leavesTrace)
        const undo = traced.map((ask) => words.undo(ask, id))
        const until = performance.now() + leaseMs
        // However late: under a name that is not renewed it comes back.
        of.isDoubtful = true
        if (undo.length > 0) owe([{ name: of, keys: traced.map(keyOf), words: undo, until, heard: false }])
        throw error
      }
      if (!verdict.granted) return verdict
      const at = hold(id, of, verdict.at, asks)
      arm()
      return { granted: true, at }
    },
    async end(ends) {
      checkOpen()
      const calls = owedOf(ends.filter(mayRepeat))
      try {
        await tell([...calls, ...owedOf(ends.filter((item) => !mayRepeat(item)))])
      } catch (error) {
        owe(calls)
        throw error
      }
    },
    async learn(key, terms, news) {
      checkOpen()
      if (terms.adaptive) await run('learn', name.key, [rateKey(key)], words.news(terms, news))
    },
    async state(key, terms) {
      checkOpen()
      return stateOf(await run('state', name.key, [rateKey(key)], words.state(terms)))
    },
    stats: () => ({ held: held.size, owed: owed.length, dropped, errors }),
    close() {
      closing ??= end()
      return closing
    },
    [Symbol.asyncDispose]: () => self.close()
  }
  return self
}

/** What is taken without a trace cannot be given back once only, and comes back by itself: one request. */
function leavesTrace(item: Ask | End): boolean {
  return item.kind === 'budget' || item.place || item.tokens !== 0
}

/** An end without a trace counts each time it is told, but for a refusal, of which the second changes nothing. */
function mayRepeat(item: End): boolean {
  return leavesTrace(item) || (item.kind === 'rate' && item.outcome === 'refused')
}
