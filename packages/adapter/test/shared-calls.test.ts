import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import {
  type RedisServer,
  requireRedis,
  type ScriptedOptions,
  type ScriptedProvider,
  startScriptedProvider
} from '@millrace/testkit'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import type { Order, Outcome } from './shared-calls-main.ts'

const { server: redis, skip } = await requireRedis()

const ends: (() => unknown)[] = []
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end()
})
afterAll(() => redis?.stop())

interface Member {
  readonly child: ChildProcess
  order(order: Omit<Order, 'redisUrl' | 'baseURL'> & Partial<Order>): Promise<Outcome>
  /** The first text is here. */
  readonly text: Promise<unknown>
}

async function provider(options: ScriptedOptions): Promise<ScriptedProvider> {
  const started = await startScriptedProvider(options)
  ends.push(() => started.close())
  return started
}

async function member(baseURL: string): Promise<Member> {
  const child = fork(new URL('shared-calls-main.ts', import.meta.url), { execArgv: ['--conditions=@millrace/source'] })
  ends.push(() => void child.kill('SIGKILL'))
  await once(child, 'message')
  const { promise: text, resolve: hasText } = Promise.withResolvers<void>()
  return {
    child,
    text,
    order(order) {
      const { promise, resolve, reject } = Promise.withResolvers<Outcome>()
      child.once('exit', () => reject(new Error('gone')))
      child.on('message', (message) => (message === 'text' ? hasText() : resolve(message as Outcome)))
      child.send({ redisUrl: redis?.url as string, baseURL, ...order } satisfies Order)
      promise.catch(() => {}) // a member that is killed; whoever waits for it hears of it
      return promise
    }
  }
}

const members = (count: number, baseURL: string): Promise<Member[]> =>
  Promise.all(Array.from({ length: count }, () => member(baseURL)))

describe.skipIf(skip !== undefined)('one call for askers in several processes', () => {
  // Each test has a question of its own, so that none finds another's answer.
  beforeAll(() => (redis as RedisServer).resume())

  it.each([{ stream: true }, { stream: false }])(
    'makes one upstream call for 200 askers in four processes, stream: $stream',
    async ({ stream }) => {
      const upstream = await provider({ firstTokenMs: 100, tokensPerSecond: 200 })
      const all = await members(4, upstream.url)
      const outcomes = await Promise.all(all.map(({ order }) => order({ question: `stampede ${stream}`, askers: 50, stream })))
      const texts = outcomes.flatMap((outcome) => outcome.texts)
      expect(outcomes.flatMap((outcome) => outcome.errors)).toEqual([])
      expect(texts).toHaveLength(200)
      expect(new Set(texts).size).toBe(1)
      expect(upstream.stats().requests).toBe(1)
      expect(outcomes.reduce((sum, outcome) => sum + outcome.billed, 0)).toBe(1)
      const states = outcomes.flatMap((outcome) => outcome.states)
      expect(states.filter((state) => state === 'miss')).toHaveLength(1)
      expect(states.filter((state) => state === 'joined')).toHaveLength(199)
      // And afterwards it is a hit, everywhere.
      const later = await Promise.all(all.map(({ order }) => order({ question: `stampede ${stream}`, askers: 5, stream })))
      expect(new Set(later.flatMap((outcome) => outcome.states))).toEqual(new Set(['hit']))
      expect(upstream.stats().requests).toBe(1)
    }
  )

  it('gives a late process the beginning at once, and then what comes', async () => {
    const upstream = await provider({ tokensPerSecond: 60 })
    const [one, two] = (await members(2, upstream.url)) as [Member, Member]
    const first = one.order({ question: 'late', askers: 1, stream: true, announce: true })
    await one.text
    await delay(200)
    const second = two.order({ question: 'late', askers: 1, stream: true, announce: true })
    const order: string[] = []
    await Promise.all([two.text.then(() => order.push('second has text')), first.then(() => order.push('first is over'))])
    expect(order).toEqual(['second has text', 'first is over'])
    expect((await second).texts).toEqual((await first).texts)
    expect((await second).states).toEqual(['joined'])
    expect(upstream.stats().requests).toBe(1)
  })

  it.each([{ stream: true }, { stream: false }])(
    'takes over from a leader that is killed, before any content, stream: $stream',
    async ({ stream }) => {
      const upstream = await provider({ firstTokenMs: 2500 })
      const [leader, ...others] = (await members(4, upstream.url)) as [Member, ...Member[]]
      const lost = leader.order({ question: `killed ${stream}`, askers: 1, stream })
      while (upstream.stats().requests === 0) await delay(5)
      const outcomes = Promise.all(others.map(({ order }) => order({ question: `killed ${stream}`, askers: 20, stream })))
      await delay(300)
      leader.child.kill('SIGKILL')
      await expect(lost).rejects.toThrow('gone')
      const all = await outcomes
      expect(all.flatMap((outcome) => outcome.errors)).toEqual([])
      expect(all.flatMap((outcome) => outcome.texts)).toHaveLength(60)
      expect(new Set(all.flatMap((outcome) => outcome.texts)).size).toBe(1)
      expect(upstream.stats().requests).toBe(2)
      expect(all.reduce((sum, outcome) => sum + outcome.billed, 0)).toBe(1)
    }
  )

  it('ends a stream behind content with an error when its leader is killed, and never with another text', async () => {
    const upstream = await provider({ tokensPerSecond: 20 })
    const [leader, other] = (await members(2, upstream.url)) as [Member, Member]
    void leader.order({ question: 'killed in the middle', askers: 1, stream: true })
    while (upstream.stats().tokensOut === 0) await delay(5)
    const outcome = other.order({ question: 'killed in the middle', askers: 3, stream: true, announce: true })
    await other.text
    leader.child.kill('SIGKILL')
    expect((await outcome).errors).toEqual(['network', 'network', 'network'])
    const again = await other.order({ question: 'killed in the middle', askers: 1, stream: false })
    expect(again.errors).toEqual([])
  })

  it('goes on for those elsewhere when nobody waits here any more, and ends with the last of all', async () => {
    const upstream = await provider({ tokensPerSecond: 50, reply: () => 'word '.repeat(250) })
    const [leader, other] = (await members(2, upstream.url)) as [Member, Member]
    const left = leader.order({ question: 'inherited', askers: 1, stream: true, leaveAfterMs: 2500 })
    while (upstream.stats().tokensOut === 0) await delay(5)
    const stays = other.order({ question: 'inherited', askers: 1, stream: true })
    expect((await left).errors).toEqual(['left'])
    const outcome = await stays
    expect(outcome).toMatchObject({ errors: [], states: ['joined'] })
    expect(upstream.stats().requests).toBe(1)

    const both = [leader, other].map(({ order }) => order({ question: 'deserted', askers: 2, stream: true, leaveAfterMs: 500 }))
    for (const { errors } of await Promise.all(both)) expect(errors).toEqual(['left', 'left'])
    const at = performance.now()
    while (upstream.stats().openAnswers > 0) {
      if (performance.now() - at > 5000) throw new Error('the upstream call goes on for nobody')
      await delay(20)
    }
  })

  it('shares a failure once, and asks anew afterwards', async () => {
    let calls = 0
    const upstream = await provider({
      async reply() {
        calls++
        await delay(200)
        return calls === 1 ? { status: 400 } : 'fine'
      }
    })
    const all = await members(3, upstream.url)
    const outcomes = await Promise.all(all.map(({ order }) => order({ question: 'fails', askers: 5, stream: false })))
    expect(outcomes.flatMap((outcome) => outcome.errors)).toEqual(Array.from({ length: 15 }, () => 'invalid-request'))
    expect(calls).toBe(1)
    const [again] = await Promise.all(all.map(({ order }) => order({ question: 'fails', askers: 1, stream: false })))
    expect(again?.texts).toEqual(['fine'])
    expect(calls).toBe(2)
  })

  it('refreshes a stale answer once for all processes', async () => {
    const upstream = await provider({ firstTokenMs: 100 })
    const options = { ttlMs: 300, staleWhileRevalidateMs: 60_000 }
    const all = await members(4, upstream.url)
    const ask = (): Promise<Outcome[]> =>
      Promise.all(all.map(({ order }) => order({ question: 'stale', askers: 10, stream: true, options })))
    await ask()
    expect(upstream.stats().requests).toBe(1)
    await delay(400)
    const stale = await ask()
    expect(new Set(stale.flatMap((outcome) => outcome.states))).toEqual(new Set(['stale']))
    await delay(250)
    expect(upstream.stats().requests).toBe(2)
  })

  it('goes on without Redis, each process for itself', async () => {
    const upstream = await provider({ firstTokenMs: 50 })
    const all = await members(2, upstream.url)
    await Promise.all(
      all.map(({ order }) => order({ question: 'warm', askers: 1, stream: true, options: { storeTimeoutMs: 100 } }))
    )
    ;(redis as RedisServer).pause()
    const outcomes = await Promise.all(all.map(({ order }) => order({ question: 'frozen', askers: 20, stream: true })))
    ;(redis as RedisServer).resume()
    expect(outcomes.flatMap((outcome) => outcome.errors)).toEqual([])
    // One while they shared (two, where the machine was too busy), then one each.
    expect(upstream.stats().requests).toBeGreaterThanOrEqual(3)
  })
})
