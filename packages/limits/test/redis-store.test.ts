import { setTimeout as delay } from 'node:timers/promises'
import { inspect } from 'node:util'
import { isMillraceError } from '@millrace/core'
import { probeLeaks, type RedisServer, requireRedis, startRedis } from '@millrace/testkit'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { createRedisLimits, type RedisLimits, type RedisLimitsOptions } from '../src/redis.ts'
import { createRedisStore } from '../src/redis-store.ts'
import { budgetAsk, budgetEnd, dayMs, grantedAt, rateAsk, rateEnd } from './asks.ts'
import { type Connection, connect } from './redis-connection.ts'
import { storeBehaviour } from './store-behaviour.ts'

const { server: shared, skip } = await requireRedis()

let connection: Connection
let spaces = 0
const opened: (() => unknown)[] = []

beforeAll(async () => {
  if (shared !== undefined) connection = await connect(shared.url)
})
afterEach(async () => {
  for (const close of opened.splice(0).toReversed()) await close()
})
afterAll(async () => {
  await connection?.close()
  await shared?.stop()
})

const newSpace = (): string => `space ${++spaces}`

function limits(options: Partial<RedisLimitsOptions> = {}): RedisLimits {
  const store = createRedisLimits({ command: connection.command, namespace: newSpace(), commandTimeoutMs: 5000, ...options })
  opened.push(() => store.close())
  return store
}

/** A Redis of the test's own. */
async function ownServer(port?: number, args: string[] = []): Promise<{ server: RedisServer; own: Connection }> {
  const server = await startRedis({ port, args })
  if (server === undefined) throw new Error('Redis did not start a second time')
  const own = await connect(server.url)
  opened.push(
    () => server.stop(),
    () => own.close()
  )
  return { server, own }
}

const failure = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => undefined,
    (error: unknown) => error
  )

async function until(condition: () => boolean | Promise<boolean>, limitMs = 10_000): Promise<void> {
  const end = performance.now() + limitMs
  while (!(await condition())) {
    if (performance.now() > end) throw new Error('it never came to pass')
    await delay(10)
  }
}

const one = rateAsk({ concurrency: 1 })
const running = async (store: RedisLimits): Promise<number> => (await store.state('k', one.terms)).running

describe('createRedisLimits', () => {
  it('refuses wrong options and says what to write', () => {
    const command = async (): Promise<unknown> => undefined
    expect(() => createRedisLimits({ url: 'redis://h' } as never)).toThrow(/createRedis\(\{ url \}\)\.command/)
    expect(() => createRedisLimits({} as never)).toThrow(/command must be a function/)
    expect(() => createRedisLimits({ command, lease: 1 } as never)).toThrow(/no option "lease"/)
    for (const namespace of ['', 'a{b', 'a}b', 1 as never]) {
      expect(() => createRedisLimits({ command, namespace })).toThrow(/namespace/)
    }
    for (const ms of [0, -1, 1.5, Number.NaN, 2 ** 31]) {
      expect(() => createRedisLimits({ command, leaseMs: ms })).toThrow(/leaseMs/)
      expect(() => createRedisLimits({ command, commandTimeoutMs: ms })).toThrow(/commandTimeoutMs/)
    }
  })

  it('gives each of its steps the same time, whenever it began', async () => {
    const store = createRedisLimits({ command: () => new Promise(() => {}), commandTimeoutMs: 300 })
    const times: number[] = []
    const step = async (): Promise<void> => {
      const startedAt = performance.now()
      expect(await failure(store.state('k', one.terms))).toMatchObject({ code: 'timeout', details: { limitMs: 300 } })
      times.push(performance.now() - startedAt)
    }
    const steps = [step()]
    for (const ms of [100, 100, 150]) {
      await delay(ms)
      steps.push(step())
    }
    await Promise.all(steps)
    const bare = performance.now()
    await delay(300)
    const slack = performance.now() - bare - 300 + 150
    for (const ms of times) {
      expect(ms).toBeGreaterThan(295)
      expect(ms).toBeLessThan(300 + slack)
    }
    await store.close()
  })

  it('tells of a command that has lost its client, and of an answer that is none', async () => {
    const lost = createRedisLimits({ command: () => Promise.reject(new TypeError('no this')) })
    expect(await failure(lost.take([one]))).toMatchObject({ code: 'network', message: expect.stringMatching(/sendCommand/) })
    for (const reply of [null, 'OK', [], ['1', 'x'], [1, 2]]) {
      const odd = createRedisLimits({ command: async () => reply })
      expect(await failure(odd.take([one]))).toMatchObject({ code: 'protocol' })
      await odd.close()
    }
    await lost.close()
  })
})

describe.skipIf(skip !== undefined)('limits in Redis', () => {
  storeBehaviour(() => {
    let time = 20_000 * dayMs
    const store = createRedisStore({
      command: connection.command,
      namespace: newSpace(),
      leaseMs: 10_000,
      commandTimeoutMs: 5000,
      now: () => time
    })
    opened.push(() => store.close())
    return { store, pass: (ms) => void (time += ms) }
  })

  it('gives a hundred processes one limit, one place and one budget', async () => {
    const namespace = newSpace()
    const stores = Array.from({ length: 100 }, () => limits({ namespace }))
    const asks = [rateAsk({ concurrency: 50, requests: 40, tokens: 10_000 }, { tokens: 10 }), budgetAsk(3, 0.1)] as const
    const verdicts = await Promise.all(stores.map((store) => store.take(asks)))
    expect(verdicts.filter(({ granted }) => granted).length).toBe(30)
  })

  it('keeps namespaces and keys apart', async () => {
    const [first, second] = [limits(), limits()]
    grantedAt(await first.take([one]))
    grantedAt(await second.take([one]))
    grantedAt(await first.take([rateAsk({ concurrency: 1 }, { key: 'other' })]))
    expect(await first.take([one])).toMatchObject({ granted: false })
  })

  it('gives each of its keys an end', async () => {
    const namespace = newSpace()
    const store = limits({ namespace })
    grantedAt(await store.take([one, rateAsk({ requests: 5 }, { key: 'a' }), budgetAsk(1, 1)]))
    await store.learn('a', one.terms, { even: true, pauseMs: 5 * 3_600_000 })
    const keys = (await connection.command(['KEYS', `{${namespace}}:*`])) as string[]
    expect(keys.length).toBe(5)
    for (const key of keys) {
      const ttl = Number(await connection.command(['PTTL', key]))
      expect(ttl, key).toBeGreaterThan(3_500_000)
      expect(ttl, key).toBeLessThan(2.1 * dayMs)
    }
    expect(Number(await connection.command(['PTTL', `{${namespace}}:v1:rate:=a`]))).toBeGreaterThan(5 * 3_600_000)
  })

  it('keeps a limit for a day while calls run, and for about an hour at rest', async () => {
    const namespace = newSpace()
    const store = limits({ namespace })
    const ttl = async (): Promise<number> => Number(await connection.command(['PTTL', `{${namespace}}:v1:rate:=k`]))
    for (let count = 0; count < 3; count++) {
      const at = grantedAt(await store.take([one]))
      expect(await ttl()).toBeGreaterThan(dayMs)
      await store.end([rateEnd(one, at)])
      expect(await ttl()).toBeGreaterThan(3_600_000)
      expect(await ttl()).toBeLessThan(2 * 3_600_000)
    }
    // A slow refill outlasts both.
    const slow = rateAsk({ requests: 2, windowMs: 20 * dayMs })
    await store.end([rateEnd(slow, grantedAt(await store.take([slow])))])
    expect(await ttl()).toBeGreaterThan(9 * dayMs)
  })

  it('has a lease for whatever it holds, even with a Redis that has lost all', async () => {
    const { own } = await ownServer()
    const namespace = newSpace()
    const store = limits({ command: own.command, namespace, leaseMs: 60_000 })
    const leases = async (): Promise<number> => Number(await own.command(['ZCARD', `{${namespace}}:v1:leases`]))
    const free = rateAsk({}, { place: false })
    grantedAt(await store.take([free]))
    expect(await leases()).toBe(0) // holds nothing
    grantedAt(await store.take([one]))
    expect(await leases()).toBe(1)
    await own.command(['FLUSHALL'])
    grantedAt(await store.take([one]))
    expect(await leases()).toBe(1)
    await store.close()
    expect(await own.command(['KEYS', '*'])).toEqual([`{${namespace}}:v1:rate:=k`])
  })

  it('counts an end once that is told twice in one step', async () => {
    const store = limits()
    const many = rateAsk({ concurrency: 9 }, { tokens: 5 })
    const budget = budgetAsk(10, 4)
    const at = grantedAt(await store.take([many, budget]))
    grantedAt(await store.take([many]))
    const ends = [rateEnd(many, at), budgetEnd(budget, at, 4)]
    await store.end([...ends, ...ends])
    expect(await store.state('k', many.terms)).toMatchObject({ running: 1 })
    expect(await store.take([budgetAsk(10, 6)])).toMatchObject({ granted: true })
  })

  it('works on a node of a cluster, which refuses scripts that touch two slots', async () => {
    const { own } = await ownServer(undefined, ['--cluster-enabled', 'yes'])
    await own.command(['CLUSTER', 'ADDSLOTSRANGE', '0', '16383'])
    await until(async () => /cluster_state:ok/.test(String(await own.command(['CLUSTER', 'INFO']))))
    const namespace = newSpace()
    const asks = [rateAsk({ concurrency: 2 }, { key: '{a}' }), rateAsk({ concurrency: 2 }, { key: 'b' }), budgetAsk(9, 1)]
    const gone = createRedisLimits({ command: own.command, namespace, leaseMs: 100 })
    grantedAt(await gone.take(asks))
    const store = limits({ command: own.command, namespace })
    grantedAt(await store.take(asks))
    expect(await store.take(asks)).toMatchObject({ granted: false })
    await gone.close()
    grantedAt(await store.take(asks))
  })

  it('is not stopped by a clock of Redis that is set back', async () => {
    let time = 20_000 * dayMs + 3_600_000
    const settings = { command: connection.command, namespace: newSpace(), leaseMs: 10_000, commandTimeoutMs: 5000 }
    const store = createRedisStore({ ...settings, now: () => time })
    opened.push(() => store.close())
    const ask = rateAsk({ requests: 6, windowMs: 60_000 })
    const budget = budgetAsk(1, 1, { windowMs: 3_600_000 })
    for (let count = 0; count < 6; count++) grantedAt(await store.take([ask]))
    await store.end([budgetEnd(budget, grantedAt(await store.take([budget])), 1)])
    await store.learn('paused', ask.terms, { even: true, pauseMs: 1000 })
    await store.learn('told', ask.terms, { even: false, requests: { limit: 6, remaining: 0, resetMs: 1000 } })
    time -= dayMs
    expect(await store.take([ask])).toMatchObject({ granted: false, waitMs: 10_000 })
    expect(await store.state('paused', ask.terms)).toMatchObject({ pausedMs: 1000 })
    expect(await store.take([rateAsk(ask.terms, { key: 'told' })])).toMatchObject({ granted: false, waitMs: 1000 })
    expect(await store.take([budget])).toMatchObject({ granted: false })
    time += 10_000
    grantedAt(await store.take([ask]))
  })

  it('spends no budget twice when the clock of Redis is set back a little at the edge of its window', async () => {
    let time = 20_000 * dayMs + 1000
    const settings = { command: connection.command, namespace: newSpace(), leaseMs: 10_000, commandTimeoutMs: 5000 }
    const store = createRedisStore({ ...settings, now: () => time })
    opened.push(() => store.close())
    const [most, rest] = [budgetAsk(10, 8), budgetAsk(10, 1)]
    await store.end([budgetEnd(most, grantedAt(await store.take([most])), 8)])
    time -= 2000
    expect(await store.take([most])).toMatchObject({ granted: false, waitMs: dayMs + 1000 })
    await store.end([budgetEnd(rest, grantedAt(await store.take([rest])), 1)])
    time += 2000
    expect(await store.take([most])).toMatchObject({ granted: false, waitMs: dayMs - 1000, left: 1 })
    time += dayMs
    grantedAt(await store.take([most]))
  })

  it('goes on when Redis forgets its scripts', async () => {
    const store = limits()
    const at = grantedAt(await store.take([one]))
    await connection.command(['SCRIPT', 'FLUSH'])
    await store.end([rateEnd(one, at)])
    await connection.command(['SCRIPT', 'FLUSH'])
    const taken = await Promise.all(Array.from({ length: 20 }, () => store.take([one])))
    expect(taken.filter(({ granted }) => granted).length).toBe(1)
    expect(store.stats()).toMatchObject({ errors: 0, owed: 0, held: 1 })
  })

  it('gives back what a process held that is gone, and counts what it had reserved of a budget as spent', async () => {
    const namespace = newSpace()
    const gone = createRedisStore({
      command: connection.command,
      namespace,
      leaseMs: 1000,
      commandTimeoutMs: 500,
      now: () => 1e12
    })
    const ask = rateAsk({ concurrency: 3 })
    const budget = budgetAsk(10, 4)
    for (let count = 0; count < 2; count++) grantedAt(await gone.take([ask, budget]))
    const later = createRedisStore({
      command: connection.command,
      namespace,
      leaseMs: 1000,
      commandTimeoutMs: 500,
      now: () => 1e12 + 1001
    })
    expect(await later.state('k', ask.terms)).toMatchObject({ running: 0 })
    expect(await later.take([budgetAsk(10, 3)])).toMatchObject({ granted: false, why: 'budget', waitMs: expect.any(Number) })
    // The end of one that was given up comes too late to change anything.
    await gone.end([rateEnd(ask, 1e12), budgetEnd(budget, 1e12, 4)])
    for (let count = 0; count < 3; count++) grantedAt(await later.take([ask]))
    expect(await later.take([ask])).toMatchObject({ granted: false })
    expect(await later.take([budgetAsk(10, 2)])).toMatchObject({ granted: true })
    await gone.close()
    await later.close()
  })

  it('keeps the places of calls that take longer than the lease', async () => {
    const namespace = newSpace()
    const [store, other] = [limits({ namespace, leaseMs: 300 }), limits({ namespace })]
    const at = grantedAt(await store.take([one]))
    await delay(900)
    expect(await other.take([one])).toMatchObject({ granted: false })
    await store.end([rateEnd(one, at)])
    grantedAt(await other.take([one]))
  })

  it('gives its places back when it is closed, twice, and takes nothing after', async () => {
    const namespace = newSpace()
    const [store, other] = [limits({ namespace }), limits({ namespace })]
    const many = rateAsk({ concurrency: 2000 })
    await Promise.all(Array.from({ length: 1500 }, () => store.take([many])))
    expect(await running(other)).toBe(1500)
    await Promise.all([store.close(), store.close()])
    expect(await running(other)).toBe(0)
    expect(isMillraceError(await failure(store.take([one])), 'closed')).toBe(true)
  })

  it('rejects in time while Redis is frozen, and gives back what it took all the same', async () => {
    const { server, own } = await ownServer()
    const store = limits({ command: own.command, commandTimeoutMs: 100, leaseMs: 1000 })
    const ask = rateAsk({ concurrency: 20, tokens: 1000, windowMs: dayMs }, { tokens: 10 })
    const budget = budgetAsk(100, 1)
    const at = grantedAt(await store.take([ask, budget]))
    server.pause()
    const startedAt = performance.now()
    const failures = await Promise.all([
      ...Array.from({ length: 10 }, () => failure(store.take([ask, budget]))),
      failure(store.end([rateEnd(ask, at), budgetEnd(budget, at, 50)])),
      failure(store.learn('k', ask.terms, { even: true })),
      failure(store.state('k', ask.terms))
    ])
    expect(performance.now() - startedAt).toBeLessThan(1500)
    for (const error of failures) expect(error).toMatchObject({ code: 'timeout', details: { clock: 'total', limitMs: 100 } })
    expect(store.stats()).toMatchObject({ owed: 11, held: 0 })
    server.resume()
    await until(() => store.stats().owed === 0)
    expect(await store.state('k', ask.terms)).toMatchObject({ running: 0, tokensLeft: expect.closeTo(990, 0) })
    expect(await store.take([budgetAsk(100, 50)])).toMatchObject({ granted: true })
    expect(await store.take([budgetAsk(100, 1)])).toMatchObject({ granted: false })
  })

  it('gives back a take of which the answer got lost', async () => {
    const lossy = { lose: false }
    const store = limits({
      leaseMs: 300,
      command: async (args) => {
        const reply = await connection.command(args)
        if (lossy.lose && args.includes('take')) throw new Error('connection lost')
        return reply
      }
    })
    lossy.lose = true
    expect(await failure(store.take([one]))).toMatchObject({ code: 'network' })
    lossy.lose = false
    expect(await store.take([one])).toMatchObject({ granted: false })
    await until(async () => (await running(store)) === 0, 2000)
    const at = grantedAt(await store.take([one]))
    await until(() => store.stats().owed === 0, 2000)
    expect(await running(store)).toBe(1) // repeating it did not take the place of another
    await store.end([rateEnd(one, at)])
  })

  it('sends an end again that failed, and counts it once', async () => {
    let lose = false
    const store = limits({
      command: async (args) => {
        const reply = await connection.command(args)
        if (lose && args.includes('end')) throw new Error('connection lost')
        return reply
      }
    })
    const budget = budgetAsk(10, 4)
    const at = grantedAt(await store.take([one, budget]))
    lose = true
    expect(await failure(store.end([rateEnd(one, at), budgetEnd(budget, at, 4)]))).toMatchObject({ code: 'network' })
    lose = false
    await until(() => store.stats().owed === 0)
    expect(await store.take([budgetAsk(10, 6)])).toMatchObject({ granted: true })
    expect(await running(store)).toBe(0)
  })

  it('gives the request of an unsent further attempt back once, though the answer got lost', async () => {
    let lose = false
    const store = limits({
      command: async (args) => {
        const reply = await connection.command(args)
        if (lose && args.includes('end')) throw new Error('connection lost')
        return reply
      }
    })
    const attempt = rateAsk({ requests: 10, windowMs: dayMs }, { place: false })
    let at = 0
    for (let count = 0; count < 4; count++) at = grantedAt(await store.take([attempt]))
    lose = true
    expect(await failure(store.end([rateEnd(attempt, at, { usedRequests: 0, outcome: 'none' })]))).toMatchObject({
      code: 'network'
    })
    expect(store.stats()).toMatchObject({ owed: 0 })
    // A refusal told twice lowers the ceiling once.
    await failure(store.end([rateEnd(attempt, at, { outcome: 'refused' })]))
    expect(store.stats()).toMatchObject({ owed: 1 })
    const errors = store.stats().errors
    await until(() => store.stats().errors > errors)
    lose = false
    await until(() => store.stats().owed === 0)
    expect(await store.state('k', attempt.terms)).toMatchObject({ requestsLeft: expect.closeTo(7, 1) })
  })

  it('rejects at once while Redis is gone, and works with one that comes back empty', async () => {
    const { server, own } = await ownServer()
    const store = limits({ command: own.command, leaseMs: 500 })
    const at = grantedAt(await store.take([one]))
    await server.kill()
    const error = await failure(store.take([one]))
    expect(error).toMatchObject({ code: 'network' })
    expect(await failure(store.end([rateEnd(one, at)]))).toMatchObject({ code: 'network' })
    await ownServer(server.port)
    await until(async () => (await failure(store.state('k', one.terms))) === undefined)
    await until(() => store.stats().owed === 0)
    const next = grantedAt(await store.take([one]))
    expect(await store.take([one])).toMatchObject({ granted: false })
    await store.end([rateEnd(one, next)])
    expect(await running(store)).toBe(0)
  })

  it('tells what Redis refuses by its first word only', async () => {
    const { own } = await ownServer()
    const store = limits({ command: own.command })
    const secret = rateAsk({ concurrency: 1 }, { key: 'canary-tenant' })
    grantedAt(await store.take([secret]))
    await own.command(['CONFIG', 'SET', 'maxmemory', '1'])
    const error = await failure(store.take([rateAsk({}, { key: 'canary-tenant-2' })]))
    expect(error).toMatchObject({ code: 'unavailable', details: { providerCode: 'OOM' } })
    expect(inspect(error, { depth: 10, showHidden: true })).not.toContain('canary')
    await own.command(['CONFIG', 'SET', 'maxmemory', '0'])
  })

  it('does not grow with what it owes while Redis is away', async () => {
    const store = limits({ command: () => Promise.reject(new Error('away')) })
    for (let count = 0; count < 11_000; count++) await failure(store.take([one]))
    expect(store.stats()).toMatchObject({ owed: 10_000, dropped: 1000, errors: 11_000 })
  })

  it('gives back a take that arrives when nobody undoes it any more, though the process goes on', async () => {
    let heldUpMs = 0
    const store = limits({
      leaseMs: 300,
      commandTimeoutMs: 50,
      command: async (args) => {
        const ms = heldUpMs
        heldUpMs = 0
        await delay(ms)
        return connection.command(args)
      }
    })
    const busy = rateAsk({}, { key: 'other' })
    heldUpMs = 700
    const late = store.take([one])
    expect(await failure(late)).toMatchObject({ code: 'timeout' })
    const kept: number[] = []
    let hasArrived = false
    await until(async () => {
      kept.push(grantedAt(await store.take([busy])))
      await delay(25)
      // The calls overlap: the process always has one.
      if (kept.length > 1) await store.end([rateEnd(busy, kept.shift() ?? 0)])
      const now = await running(store)
      hasArrived ||= now === 1
      return hasArrived && now === 0
    })
    expect(await store.state('other', busy.terms)).toMatchObject({ running: 1 })
    grantedAt(await store.take([one]))
  })

  it('gets back by its lease what it could not tell of, though the process goes on', async () => {
    let away = false
    const store = limits({
      leaseMs: 1000,
      command: (args) => (away ? Promise.reject(new Error('away')) : connection.command(args))
    })
    const taken: number[] = []
    for (let count = 0; count < 11; count++) {
      taken.push(...(await Promise.all(Array.from({ length: 1000 }, () => store.take([rateAsk()])))).map(grantedAt))
    }
    away = true
    await Promise.all(taken.map((at) => failure(store.end([rateEnd(rateAsk(), at)]))))
    expect(store.stats()).toMatchObject({ owed: 10_000, dropped: 1000, held: 0 })
    away = false
    const busy = rateAsk({}, { key: 'other' })
    await until(async () => {
      const at = grantedAt(await store.take([busy]))
      await delay(20)
      await store.end([rateEnd(busy, at)])
      return (await running(store)) === 0
    }, 30_000)
    expect(store.stats()).toMatchObject({ owed: 0 })
  }, 60_000)

  it('leaves nothing behind, closed with calls running or without', async () => {
    const probe = probeLeaks()
    for (let count = 0; count < 20; count++) {
      const store = createRedisLimits({ command: connection.command, namespace: 'leaks', leaseMs: 300 })
      const at = grantedAt(await store.take([one]))
      if (count % 2 === 0) await store.end([rateEnd(one, at)])
      await store.close()
    }
    await probe.check()
    expect(await connection.command(['KEYS', '{leaks}:*'])).toEqual(['{leaks}:v1:rate:=k'])
  })
})
