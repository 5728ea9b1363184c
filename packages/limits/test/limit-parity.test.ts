import { requireRedis } from '@millrace/testkit'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createMemoryStore } from '../src/memory-store.ts'
import { createRedisStore } from '../src/redis-store.ts'
import type { Ask, End, LimitStore, News, Terms } from '../src/store.ts'
import { dayMs } from './asks.ts'
import { type Connection, connect } from './redis-connection.ts'

const seed = 20_261_123
const { server, skip } = await requireRedis()
let connection: Connection
let spaces = 0

beforeAll(async () => {
  if (server !== undefined) connection = await connect(server.url)
})
afterAll(async () => {
  await connection?.close()
  await server?.stop()
})

const infinity = Number.POSITIVE_INFINITY

/** One limit for each key, as a limiter has them, with the terms drawn once a run. */
interface Plan {
  readonly terms: readonly Terms[]
  readonly budgets: readonly { readonly limit: number; readonly windowMs: number }[]
  readonly steps: readonly Step[]
}

type Step =
  | { readonly step: 'pass'; readonly ms: number }
  | {
      readonly step: 'take'
      readonly rates: readonly number[]
      readonly budgets: readonly number[]
      readonly tokens: number
      readonly amount: number
      readonly place: boolean
    }
  | {
      readonly step: 'end'
      readonly which: number
      readonly share: number
      readonly usedRequests: 0 | 1
      readonly outcome: 'ok' | 'refused' | 'none'
    }
  | { readonly step: 'learn'; readonly rate: number; readonly news: News }

const someOf = (...values: number[]): fc.Arbitrary<number> => fc.constantFrom(...values)
const counter = fc.option(
  fc.record({
    limit: fc.option(fc.integer({ min: -1, max: 200 }), { nil: undefined }),
    remaining: fc.option(fc.integer({ min: -1, max: 200 }), { nil: undefined }),
    resetMs: fc.option(fc.integer({ min: -1, max: 70_000 }), { nil: undefined })
  }),
  { nil: undefined }
)
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      step: fc.constant('pass' as const),
      ms: fc.oneof(
        { weight: 4, arbitrary: fc.nat(300) },
        { weight: 4, arbitrary: fc.nat(30_000) },
        { weight: 4, arbitrary: fc.double({ min: 0, max: 50, noNaN: true }) },
        // Long enough for a ceiling to be lifted, and for what was told to lapse.
        { weight: 1, arbitrary: someOf(90_000, 700_000) }
      )
    })
  },
  {
    weight: 8,
    arbitrary: fc.record({
      step: fc.constant('take' as const),
      rates: fc.uniqueArray(fc.nat(2), { maxLength: 3 }),
      budgets: fc.uniqueArray(fc.nat(1), { maxLength: 2 }),
      tokens: fc.oneof(fc.nat(60), fc.double({ min: 0, max: 90, noNaN: true })),
      amount: fc.double({ min: 0, max: 0.4, noNaN: true }),
      place: fc.boolean()
    })
  },
  {
    weight: 6,
    arbitrary: fc.record({
      step: fc.constant('end' as const),
      which: fc.nat(),
      share: fc.double({ min: 0, max: 2.5, noNaN: true }),
      usedRequests: fc.constantFrom(0 as const, 1 as const),
      outcome: fc.constantFrom('ok' as const, 'refused' as const, 'none' as const)
    })
  },
  {
    weight: 2,
    arbitrary: fc.record({
      step: fc.constant('learn' as const),
      rate: fc.nat(2),
      news: fc.record({
        even: fc.boolean(),
        requests: counter,
        tokens: counter,
        pauseMs: fc.option(fc.nat(3000), { nil: undefined })
      })
    })
  }
)
const plan: fc.Arbitrary<Plan> = fc.record({
  terms: fc.array(
    fc.record({
      concurrency: someOf(infinity, 1, 3, 7),
      requests: someOf(infinity, 1, 5, 30),
      tokens: someOf(infinity, 50, 333.3),
      windowMs: someOf(1000, 7000, 60_000),
      adaptive: fc.boolean()
    }),
    { minLength: 3, maxLength: 3 }
  ),
  budgets: fc.array(fc.record({ limit: someOf(0.3, 1, 2.5), windowMs: someOf(10_000, 60_000) }), { minLength: 2, maxLength: 2 }),
  steps: fc.array(step, { minLength: 40, maxLength: 80 })
})

type Call = { readonly asks: readonly Ask[]; readonly at: readonly number[] }

const asksOf = ({ terms, budgets }: Plan, taken: Extract<Step, { step: 'take' }>): Ask[] => [
  ...taken.rates.map(
    (index): Ask => ({
      kind: 'rate',
      key: `rate ${index}`,
      terms: terms[index] as Terms,
      tokens: taken.tokens,
      place: taken.place
    })
  ),
  ...taken.budgets.map(
    (index): Ask => ({
      kind: 'budget',
      key: `budget ${index}`,
      amount: taken.amount,
      ...(budgets[index] as { limit: number; windowMs: number })
    })
  )
]

function endsOf(asks: readonly Ask[], at: number, { share, usedRequests, outcome }: Extract<Step, { step: 'end' }>): End[] {
  return asks.map((ask) => {
    if (ask.kind === 'rate') return { ...ask, at, usedTokens: ask.tokens * share, usedRequests, outcome }
    return { kind: 'budget', key: ask.key, windowMs: ask.windowMs, at, amount: ask.amount, used: ask.amount * Math.min(1, share) }
  })
}

/** @throws {Error} when a store gave out more than there is */
function check(taken: number, limit: number, what: string): void {
  if (taken > limit * (1 + 1e-8)) throw new Error(`${taken} of ${limit} in ${what}`)
}

/** What no sequence of steps may break, counted beside the stores. */
class Watch {
  readonly spent = new Map<string, number>()
  readonly running = new Map<string, number>()

  take(asks: readonly Ask[], time: number): void {
    for (const ask of asks) {
      if (ask.kind === 'rate') {
        const running = (this.running.get(ask.key) ?? 0) + (ask.place ? 1 : 0)
        if (ask.place) check(running, ask.terms.concurrency, ask.key)
        this.running.set(ask.key, running)
      } else {
        check(this.#count(ask, Math.floor(time / ask.windowMs), ask.amount), ask.limit, ask.key)
      }
    }
  }

  end(ends: readonly End[]): void {
    for (const end of ends) {
      if (end.kind === 'rate') this.running.set(end.key, (this.running.get(end.key) ?? 0) - (end.place ? 1 : 0))
      else this.#count(end, Math.floor(end.at / end.windowMs), end.used - end.amount)
    }
  }

  #count({ key }: { readonly key: string }, window: number, amount: number): number {
    const name = `${key} ${window}`
    const total = (this.spent.get(name) ?? 0) + amount
    this.spent.set(name, total)
    return total
  }
}

/** Sums come out a little otherwise in another order: to a denied take, one store writes down what was refilled, the other does not. */
function alike(told: object | undefined): object {
  return Object.fromEntries(
    Object.entries(told ?? {}).map(([name, value]) => {
      if (typeof value !== 'number' || !Number.isFinite(value)) return [name, value]
      return [name, expect.toSatisfy((other) => Math.abs((other as number) - value) <= 1e-6 + Math.abs(value) * 1e-9, `${value}`)]
    })
  )
}

/** Goes through a plan on all stores at once and compares each answer. */
async function follow(
  of: Plan,
  stores: readonly LimitStore[],
  clock: { time: number }
): Promise<{ takes: number; granted: number }> {
  const watch = new Watch()
  const open: Call[] = []
  let [takes, granted] = [0, 0]
  for (const now of of.steps) {
    if (now.step === 'pass') clock.time += now.ms
    else if (now.step === 'take') {
      const asks = asksOf(of, now)
      const [verdict, ...others] = await Promise.all(stores.map((store) => store.take(asks)))
      for (const other of others)
        expect(other).toEqual(alike(verdict?.granted ? { granted: true, at: other.granted ? other.at : 0 } : verdict))
      takes++
      if (!verdict?.granted) continue
      granted++
      watch.take(asks, clock.time)
      open.push({ asks, at: [verdict, ...others].map((each) => (each?.granted ? each.at : 0)) })
    } else if (now.step === 'end') {
      const [call] = open.splice(now.which % Math.max(1, open.length), 1)
      if (call === undefined) continue
      watch.end(endsOf(call.asks, call.at[0] as number, now))
      await Promise.all(stores.map((store, index) => store.end(endsOf(call.asks, call.at[index] as number, now))))
    } else {
      await Promise.all(stores.map((store) => store.learn(`rate ${now.rate}`, of.terms[now.rate] as Terms, now.news)))
    }
  }
  for (const [index, terms] of of.terms.entries()) {
    const [state, ...others] = await Promise.all(stores.map((store) => store.state(`rate ${index}`, terms)))
    for (const other of others) expect(other).toEqual(alike(state))
    expect(state?.running).toBe(watch.running.get(`rate ${index}`) ?? 0)
  }
  return { takes, granted }
}

describe('both stores', () => {
  test.skipIf(skip !== undefined)(`agree on every verdict and number whatever they are asked (seed ${seed})`, async () => {
    let [takes, granted] = [0, 0]
    await fc.assert(
      fc.asyncProperty(plan, async (of) => {
        const clock = { time: 20_000 * dayMs + 1 }
        const redis = createRedisStore({
          command: connection.command,
          namespace: `parity ${++spaces}`,
          leaseMs: 60_000,
          commandTimeoutMs: 10_000,
          now: () => clock.time
        })
        try {
          const counted = await follow(of, [createMemoryStore({ now: () => clock.time }), redis], clock)
          takes += counted.takes
          granted += counted.granted
        } finally {
          await redis.close()
        }
      }),
      { seed, numRuns: 120 }
    )
    expect(granted / takes).toBeGreaterThan(0.2)
    expect(granted / takes).toBeLessThan(0.8)
  })

  test(`keep their promises in memory over many more plans (seed ${seed})`, async () => {
    await fc.assert(
      fc.asyncProperty(plan, async (of) => {
        const clock = { time: 20_000 * dayMs + 1 }
        await follow(of, [createMemoryStore({ now: () => clock.time })], clock)
      }),
      { seed, numRuns: 1000 }
    )
  })

  test(`never grant more than a full bucket and its refill in any stretch of time (seed ${seed})`, () => {
    const arrivals = fc.array(fc.record({ ms: fc.oneof(fc.nat(50), fc.nat(5000)), tokens: fc.integer({ min: 1, max: 40 }) }), {
      minLength: 200,
      maxLength: 400
    })
    fc.assert(
      fc.property(arrivals, someOf(1, 10, 100), (all, requests) => {
        let time = 20_000 * dayMs
        const store = createMemoryStore({ now: () => time })
        const terms: Terms = { concurrency: infinity, requests, tokens: 200, windowMs: 10_000, adaptive: false }
        const granted: { at: number; tokens: number }[] = []
        for (const { ms, tokens } of all) {
          time += ms
          if (store.take([{ kind: 'rate', key: 'k', terms, tokens, place: false }]).granted) granted.push({ at: time, tokens })
        }
        let [overRequests, overTokens] = [0, 0]
        for (const [from, first] of granted.entries()) {
          let sum = 0
          for (const [count, { at, tokens }] of granted.slice(from).entries()) {
            const windows = (at - first.at) / terms.windowMs
            sum += tokens
            overRequests = Math.max(overRequests, count + 1 - requests * (1 + windows))
            overTokens = Math.max(overTokens, sum - terms.tokens * (1 + windows))
          }
        }
        expect(granted.length).toBeGreaterThan(0)
        expect(overRequests).toBeLessThan(1e-6)
        expect(overTokens).toBeLessThan(1e-6)
      }),
      { seed, numRuns: 30 }
    )
  })
})
