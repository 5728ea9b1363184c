import { randomBytes } from 'node:crypto'
import { isMillraceError, MillraceError } from '@millrace/core'
import { runScript } from './redis-command.ts'
import { askWords, endWords, nameOf, newsWords, stateOf, stateWords, undoWords, verdictOf } from './redis-words.ts'
import type { Ask, End, LimitState, LimitStore, News, Terms, Verdict } from './store.ts'

/** A `LimitStore` for all processes with the same Redis and namespace. */
export interface RedisLimits extends LimitStore, AsyncDisposable {
  take(asks: readonly Ask[]): Promise<Verdict>
  /** Rejects when Redis could not be told; it is told again all the same. */
  end(ends: readonly End[]): Promise<void>
  learn(key: string, terms: Terms, news: News): Promise<void>
  state(key: string, terms: Terms): Promise<LimitState>
  stats(): RedisLimitsStats
}

export interface RedisLimitsStats {
  /** Calls of this process that hold something. */
  readonly held: number
  /** Items Redis has still to be told of: ends that failed, and what a failed take may have taken. */
  readonly owed: number
  /** Such items given up, beyond 10,000: what they hold comes back when this process has ended. */
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

/** What a granted take has, until it is ended. */
interface Held {
  readonly id: string
  left: number
}

interface Owed {
  readonly key: string
  readonly words: readonly string[]
  /** Told again until then though it was heard: the take it undoes may have been held up on its way. */
  readonly until: number
  heard: boolean
}

const maxOwed = 10_000
const maxAtOnce = 500
/** So soon Redis is told again what it has not heard. */
const againMs = 250

export function createRedisStore(settings: RedisStoreSettings): RedisLimits {
  const { command, namespace, leaseMs, commandTimeoutMs, now } = settings
  const prefix = `{${namespace}}:`
  const processId = randomBytes(9).toString('base64url')
  const common = [`${prefix}leases`, `${prefix}held:${processId}`]
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

  async function run(step: string, keys: readonly string[], words: readonly string[]): Promise<unknown> {
    const head = [step, processId, `${leaseMs}`, now === undefined ? '' : `${now()}`, prefix]
    try {
      return await runScript(command, commandTimeoutMs, [...common, ...keys], [...head, ...words])
    } catch (error) {
      errors++
      throw error
    }
  }

  function checkOpen(): void {
    if (closing !== undefined) throw new MillraceError('closed', 'this store of limits was closed', { details: {} })
  }

  /** Remembers a granted take under a time of its own. */
  function hold(id: string, at: number, asks: readonly Ask[]): number {
    const left = asks.filter(leavesTrace).length
    if (left === 0) return at
    let own = at
    while (held.has(own)) own += 0.001
    held.set(own, { id, left })
    return own
  }

  /** The id of the take that an end belongs to. */
  function letGo(item: End): string {
    const call = leavesTrace(item) ? held.get(item.at) : undefined
    if (call === undefined) return ''
    if (--call.left === 0) held.delete(item.at)
    return call.id
  }

  function owe(items: readonly Owed[]): void {
    owed.push(...items)
    const over = owed.length - maxOwed
    if (over > 0) {
      owed.splice(0, over)
      dropped += over
    }
    arm(againMs)
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
    const items = owed.slice(0, maxAtOnce)
    try {
      await run('renew', [], [])
      if (items.length > 0) await tell(items)
      settle(items)
    } catch {
      // Counted in `errors`; the timer tries again.
    }
    telling = false
    arm(owed.some(({ heard }) => !heard) ? againMs : undefined)
  }

  async function tell(items: readonly Owed[]): Promise<void> {
    await run(
      'end',
      items.map(({ key }) => key),
      items.flatMap(({ words }) => words)
    )
  }

  function settle(items: readonly Owed[]): void {
    const told = new Set(items)
    for (const item of items) item.heard = true
    const time = performance.now()
    owed = [...owed.filter((item) => !told.has(item)), ...items.filter(({ until }) => until > time)]
  }

  async function end(): Promise<void> {
    clearTimeout(timer)
    try {
      await run('close', [], [])
    } catch {
      // Counted in `errors`. Nobody renews the lease any more: what is held comes back when it ends.
    }
    held.clear()
    owed = []
  }

  const self: RedisLimits = {
    async take(asks) {
      checkOpen()
      const id = (takes++).toString(36)
      let verdict: Verdict
      try {
        verdict = verdictOf(await run('take', asks.map(keyOf), [id, ...asks.flatMap(askWords)]))
      } catch (error) {
        // It may have been granted, or be yet.
        if (isMillraceError(error, 'network') && error.details.phase === 'connect') throw error // was never sent
        const until = performance.now() + leaseMs
        owe(asks.filter(leavesTrace).map((ask) => ({ key: keyOf(ask), words: undoWords(ask, id), until, heard: false })))
        throw error
      }
      if (!verdict.granted) return verdict
      const at = hold(id, verdict.at, asks)
      arm()
      return { granted: true, at }
    },
    async end(ends) {
      checkOpen()
      const items = ends.map((item) => ({ key: keyOf(item), words: endWords(item, letGo(item)), until: 0, heard: false }))
      try {
        await tell(items)
      } catch (error) {
        owe(items)
        throw error
      }
    },
    async learn(key, terms, news) {
      checkOpen()
      if (terms.adaptive) await run('learn', [rateKey(key)], newsWords(terms, news))
    },
    async state(key, terms) {
      checkOpen()
      return stateOf(await run('state', [rateKey(key)], stateWords(terms)))
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
