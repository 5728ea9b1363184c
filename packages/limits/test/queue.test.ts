import { setTimeout as delay } from 'node:timers/promises'
import { seededRandom } from '@millrace/testkit'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { Queued } from '../src/flow.ts'
import { createLimiter, type LimitOptions, type LimitStore, type Permit } from '../src/index.ts'
import { createMemoryStore } from '../src/memory-store.ts'
import { createQueue, type Queue, type Refused } from '../src/queue.ts'

const terms = { concurrency: 1, requests: Infinity, tokens: Infinity, windowMs: 60_000, adaptive: false }

interface Call extends Queued {
  readonly name: string
}

interface CallOptions {
  readonly shared?: readonly string[]
  readonly own?: readonly string[]
  readonly priority?: number
  readonly tokens?: number
}

function call(name: string, tenant: string, { shared = ['all'], own = [], priority = 0, tokens = 1 }: CallOptions = {}): Call {
  const asks = [...shared, ...own].map((key) => ({ kind: 'rate', key, terms, tokens, place: true }) as const)
  return { name, tenant, priority, weight: tokens, demand: { asks, shared: shared.length, isCall: true } }
}

/** Lets in what is asked, until `allowed` says no; gives the names. */
function passOf(queue: Queue<Call>, now: number, allowed: (call: Call) => true | Refused): string[] {
  const names: string[] = []
  for (let next = queue.next(now); next !== undefined; next = queue.next(now)) {
    const answer = allowed(next)
    if (answer === true) {
      names.push(next.name)
      queue.granted(next)
    } else queue.denied(next, answer)
  }
  return names
}

describe('the order of the queue', () => {
  it('lets higher priorities go first, and of one tenant the first that came', () => {
    const queue = createQueue<Call>()
    for (const name of ['a', 'b']) queue.add(call(name, ''))
    for (const name of ['high a', 'high b']) queue.add(call(name, '', { priority: 1 }))
    queue.add(call('low', '', { priority: -1 }))
    expect(passOf(queue, 0, () => true)).toEqual(['high a', 'high b', 'a', 'b', 'low'])
    expect(queue.size).toBe(0)
  })

  it('does not let a thousand calls of one tenant delay ten of another', () => {
    const queue = createQueue<Call>()
    for (let index = 0; index < 1000; index++) queue.add(call(`many ${index}`, 'many', { tokens: 100 }))
    for (let index = 0; index < 10; index++) queue.add(call(`few ${index}`, 'few', { tokens: 100 }))
    const order = passOf(queue, 0, () => true)
    expect(order.findIndex((name) => name === 'few 9')).toBeLessThanOrEqual(21)
  })

  it('is fair over limits that share one: models of one provider', () => {
    const queue = createQueue<Call>()
    for (let index = 0; index < 1000; index++) queue.add(call(`many ${index}`, 'many', { shared: ['provider', 'model 1'] }))
    for (let index = 0; index < 10; index++) queue.add(call(`few ${index}`, 'few', { shared: ['provider', 'model 2'] }))
    expect(passOf(queue, 0, () => true).indexOf('few 9')).toBeLessThanOrEqual(21)
  })

  it.each([false, true])(
    'is fair to one of ten calls where another has a thousand of as many models, held by all: %s',
    (heldFirst) => {
      const queue = createQueue<Call>()
      for (let index = 0; index < 1000; index++)
        queue.add(call(`many ${index}`, 'many', { shared: ['provider', `model ${index}`] }))
      for (let index = 0; index < 10; index++) queue.add(call(`few ${index}`, 'few', { shared: ['provider', 'model'] }))
      if (heldFirst) passOf(queue, 0, () => ({ index: 0, until: 1, isSized: false }))
      expect(passOf(queue, 1, () => true).indexOf('few 9')).toBeLessThanOrEqual(21)
    }
  )

  it('names several before the first answer, in fair turns, and puts back who was denied', () => {
    const queue = createQueue<Call>()
    for (let index = 0; index < 5; index++) queue.add(call(`a${index}`, 'a'))
    for (let index = 0; index < 5; index++) queue.add(call(`b${index}`, 'b'))
    const asked = Array.from({ length: 6 }, () => queue.next(0) as Call)
    expect(asked.map(({ name }) => name)).toEqual(['a0', 'b0', 'a1', 'b1', 'a2', 'b2'])
    for (const one of asked.slice(0, 2)) queue.granted(one)
    for (const one of asked.slice(2)) queue.denied(one, { index: 0, until: 10, isSized: false })
    expect(queue.size).toBe(8)
    expect(queue.next(9)).toBeUndefined()
    expect(passOf(queue, 10, () => true)).toEqual(['a1', 'b1', 'a2', 'b2', 'a3', 'b3', 'a4', 'b4'])
  })

  it('asks nobody beside a large call that was denied for its size', () => {
    const queue = createQueue<Call>()
    const large = call('large', 'a', { tokens: 5000 })
    queue.add(large)
    for (let index = 0; index < 5; index++) queue.add(call(`small ${index}`, 'b'))
    for (let now = 0; now < 50; now += 10) {
      expect(queue.next(now)).toBe(large)
      const beside = queue.next(now)
      if (now > 0) expect(beside).toBeUndefined()
      queue.denied(large, { index: 0, until: now + 10, isSized: true })
      if (beside !== undefined) queue.granted(beside)
    }
    expect(queue.next(50)).toBe(large)
    queue.granted(large)
    expect(passOf(queue, 50, () => true)).toHaveLength(4)
  })

  it('finds who may have what came too late: as much of the same keys, of whatever tenant where none has keys of its own', () => {
    const queue = createQueue<Call>()
    const gone = call('gone', 'a', { tokens: 5 })
    queue.add(call('other size', 'a', { tokens: 6 }))
    queue.add(call('other key', 'a', { tokens: 5, shared: ['another'] }))
    queue.add(call('own key', 'a', { tokens: 5, own: ['own'] }))
    expect(queue.heirOf(gone)).toBeUndefined()
    queue.add(call('heir', 'b', { tokens: 5 }))
    const heir = queue.heirOf(gone) as Call
    expect(heir.name).toBe('heir')
    queue.granted(heir)
    expect(queue.size).toBe(3)
    expect(queue.heirOf(gone)).toBeUndefined()
  })

  it('gives tenants shares of tokens within 10 % of each other, whatever the size of their calls', () => {
    const seed = 7
    const random = seededRandom(seed)
    const queue = createQueue<Call>()
    const served = new Map<string, number>([
      ['small', 0],
      ['middle', 0],
      ['large', 0]
    ])
    const mean: Readonly<Record<string, number>> = { small: 50, middle: 500, large: 5000 }
    const add = (tenant: string): void => {
      queue.add(call(tenant, tenant, { tokens: Math.ceil((mean[tenant] ?? 1) * (0.5 + random())) }))
    }
    for (const tenant of served.keys()) for (let index = 0; index < 3; index++) add(tenant)
    let total = 0
    while (total < 5_000_000) {
      const next = queue.next(0)
      if (next === undefined) throw new Error(`the queue stood still, seed ${seed}`)
      queue.granted(next)
      served.set(next.tenant, (served.get(next.tenant) ?? 0) + next.weight)
      total += next.weight
      add(next.tenant)
    }
    for (const [tenant, tokens] of served) expect(tokens / (total / 3), `${tenant}, seed ${seed}`).toBeCloseTo(1, 1)
  })

  it('serves a tenant that always has one small call as well as one that always has one large', () => {
    const queue = createQueue<Call>()
    queue.add(call('backlog', 'other', { tokens: 10 }))
    const served: Record<string, number> = { large: 0, small: 0, other: 0 }
    queue.add(call('large', 'large', { tokens: 1000 }))
    queue.add(call('small', 'small', { tokens: 10 }))
    for (let turn = 0; turn < 10_000; turn++) {
      const next = queue.next(0) as Call
      // It comes again once it is served, as a caller that makes one call after the other.
      queue.granted(next)
      served[next.tenant] = (served[next.tenant] ?? 0) + next.weight
      queue.add(call(next.name, next.tenant, { tokens: next.weight }))
    }
    expect((served['large'] ?? 0) / (served['small'] ?? 1)).toBeCloseTo(1, 0)
    expect(served['small']).toBeGreaterThan(0)
  })

  it('does not let ever new tenants starve an old one', () => {
    const queue = createQueue<Call>()
    for (let index = 0; index < 5; index++) queue.add(call(`old ${index}`, 'old'))
    for (let index = 0; index < 5; index++) queue.add(call(`new ${index}`, `new ${index}`))
    let served = 0
    for (let turn = 0; turn < 200; turn++) {
      queue.add(call('another', `another ${turn}`))
      const next = queue.next(0) as Call
      if (next.tenant === 'old') served++
      queue.granted(next)
    }
    expect(served).toBe(5)
  })

  it('lets nobody pass a large call that waits for a shared limit, but those of higher priority', () => {
    const queue = createQueue<Call>()
    queue.add(call('large', 'a', { tokens: 5000 }))
    for (let index = 0; index < 5; index++) queue.add(call(`small ${index}`, 'b', { tokens: 1 }))
    const asked: string[] = []
    const onlySmall = (next: Call): true | Refused => {
      asked.push(next.name)
      return next.weight < 100 ? true : { index: 0, until: 1000, isSized: true }
    }
    expect(passOf(queue, 0, onlySmall)).toEqual([])
    queue.add(call('urgent', 'c', { tokens: 1, priority: 5 }))
    expect(passOf(queue, 1, onlySmall)).toEqual(['urgent'])
    expect(asked).toEqual(['large', 'urgent'])
    expect(queue.wakeAt).toBe(1000)
    expect(passOf(queue, 1000, () => true)).toHaveLength(6)
  })

  it('does not ask for a held call again before its time or before something came back', () => {
    const queue = createQueue<Call>()
    queue.add(call('held', 'a'))
    let asked = 0
    const never = (): Refused => ({ index: (asked++, 0), until: Infinity, isSized: true })
    for (let now = 0; now < 100; now++) passOf(queue, now, never)
    expect(asked).toBe(1)
    queue.free('another')
    passOf(queue, 100, never)
    expect(asked).toBe(1)
    queue.free('all')
    passOf(queue, 101, never)
    expect(asked).toBe(2)
  })

  it('lets others pass a tenant that is held by a limit of its own', () => {
    const queue = createQueue<Call>()
    for (let index = 0; index < 3; index++) queue.add(call(`held ${index}`, 'held', { own: ['tenant held'] }))
    for (let index = 0; index < 3; index++) queue.add(call(`free ${index}`, 'free', { own: ['tenant free'] }))
    const asked: string[] = []
    const order = passOf(queue, 0, (next) => {
      asked.push(next.name)
      return next.tenant === 'held' ? { index: 1, until: 50, isSized: true } : true
    })
    expect(order).toEqual(['free 0', 'free 1', 'free 2'])
    expect(asked.filter((name) => name.startsWith('held'))).toEqual(['held 0'])
    expect(queue.contends(call('', 'free', { own: ['tenant free'] }).demand)).toBe(false)
    expect(queue.contends(call('', 'held', { own: ['tenant held'] }).demand)).toBe(true)
    expect(queue.wakeAt).toBe(50)
    expect(passOf(queue, 50, () => true)).toEqual(['held 0', 'held 1', 'held 2'])
  })

  it('asks for the next when the head leaves', () => {
    const queue = createQueue<Call>()
    const large = call('large', 'a', { tokens: 5000, own: ['own'] })
    queue.add(large)
    queue.add(call('small', 'a', { own: ['own'] }))
    const isSmall = (next: Call): true | Refused => (next.weight === 1 ? true : { index: 1, until: Infinity, isSized: true })
    expect(passOf(queue, 0, isSmall)).toEqual([])
    expect(queue.remove(large)).toBe(true)
    expect(queue.remove(large)).toBe(false)
    expect(passOf(queue, 0, isSmall)).toEqual(['small'])
    expect(queue.contends(large.demand)).toBe(false)
  })

  it('never loses a call and keeps the order within a tenant, whatever comes, leaves and is denied', () => {
    for (const seed of [1, 2, 3, 4, 5, 6, 7, 8]) {
      const random = seededRandom(seed)
      const pick = (count: number): number => Math.floor(random() * count)
      const queue = createQueue<Call>()
      const inside = new Set<Call>()
      const added: Call[] = []
      const out: Call[] = []
      for (let now = 0; now < 400; now++) {
        for (let index = pick(6); index > 0; index--) {
          const tenant = `t${pick(4)}`
          const model = `m${pick(3)}`
          const made = call(`${added.length}`, tenant, {
            shared: ['p', model],
            own: pick(2) === 0 ? [] : [`own ${tenant}`],
            priority: pick(2),
            tokens: 1 + pick(100)
          })
          added.push(made)
          inside.add(made)
          queue.add(made)
        }
        if (pick(3) === 0) {
          const gone = [...inside][pick(inside.size)]
          if (gone !== undefined) {
            queue.remove(gone)
            inside.delete(gone)
          }
        }
        if (pick(3) === 0) queue.free(['p', 'm0', 'm1', 'm2', 'own t1'][pick(5)] as string)
        if (pick(20) === 0) queue.freeAll()
        let left = pick(5)
        passOf(queue, now, (next) => {
          expect(inside.has(next), `seed ${seed}: asked for one that is not queued`).toBe(true)
          if (left-- <= 0) return { index: pick(next.demand.asks.length), until: now + 1 + pick(10), isSized: true }
          inside.delete(next)
          out.push(next)
          return true
        })
        expect(queue.size, `seed ${seed}`).toBe(inside.size)
      }
      for (let now = 1000; queue.size > 0 && now < 1003; now++) {
        passOf(queue, now, (next) => {
          inside.delete(next)
          out.push(next)
          return true
        })
      }
      expect(queue.size, `seed ${seed}`).toBe(0)
      const flows = Map.groupBy(
        out,
        ({ tenant, priority, demand }) => `${tenant} ${priority} ${demand.asks.map(({ key }) => key)}`
      )
      for (const flow of flows.values()) {
        const numbers = flow.map(({ name }) => Number(name))
        expect(numbers, `seed ${seed}`).toEqual(numbers.toSorted((a, b) => a - b))
      }
      expect(queue.contends(call('', 't1', { shared: ['p', 'm0', 'm1', 'm2'], own: ['own t1'] }).demand)).toBe(false)
    }
  })

  it.each([
    ['one model', () => 'm'],
    ['each call its own model', (index: number) => `m${index}`]
  ])('takes no more than n log n for thirty times the calls: %s', (_, model) => {
    const askedFor = (calls: number): number => {
      const queue = createQueue<Call>()
      for (let index = 0; index < calls; index++) queue.add(call('', `t${index % 7}`, { shared: ['p', model(index)] }))
      let asked = 0
      let place = true
      const one = (): true | Refused => {
        asked++
        if (!place) return { index: 0, until: Infinity, isSized: true }
        place = false
        return true
      }
      while (queue.size > 0) {
        place = true
        queue.free('p')
        passOf(queue, 0, one)
      }
      return asked
    }
    const timed = (calls: number): number => {
      const from = process.cpuUsage()
      expect(askedFor(calls)).toBeLessThanOrEqual(2 * calls)
      return process.cpuUsage(from).user
    }
    timed(1000)
    const few = Math.min(timed(1000), timed(1000), timed(1000))
    expect(timed(30_000) / few).toBeLessThan(300) // quadratic is 900
  })
})

describe('two full providers', () => {
  it('cost a call of a new model no more when many wait', async () => {
    const timed = async (calls: number): Promise<number> => {
      const limits: LimitOptions[] = [{ by: 'provider', concurrency: 10 }, { concurrency: 10 }]
      const limiter = createLimiter({ limits, queueMs: Infinity })
      const held = await Promise.all(
        Array.from({ length: 20 }, (_, index) => limiter.acquire({ provider: index < 10 ? 'p' : 'q', model: 'full' }))
      )
      const from = process.cpuUsage()
      const all = Array.from({ length: calls }, (_, index) =>
        limiter.acquire({ provider: index % 2 === 0 ? 'p' : 'q', model: `m${index}` }).then((permit) => permit.settle())
      )
      for (const permit of held) permit.settle()
      await Promise.all(all)
      return process.cpuUsage(from).user
    }
    await timed(1000)
    const few = Math.min(await timed(1000), await timed(1000), await timed(1000))
    const many = Math.min(await timed(9000), await timed(9000))
    expect(many / few).toBeLessThan(40) // quadratic is 81
  })
})

describe('a queue before a store that takes its time', () => {
  it.each([5, 20])('lets in all that its places carry after a burst: %s ms', { timeout: 30_000 }, async (storeMs) => {
    const inner = createMemoryStore()
    const slow = async <T>(step: () => T): Promise<T> => {
      await delay(storeMs)
      return step()
    }
    const store: LimitStore = {
      ...inner,
      take: (asks) => slow(() => inner.take(asks)),
      end: (ends) => slow(() => inner.end(ends))
    }
    const limiter = createLimiter({ limits: [{ concurrency: 100 }], store, whenStoreFails: 'deny', queueMs: 3000 })
    const ended: Promise<boolean>[] = []
    const offer = (count: number): void => {
      for (let index = ended.length; index < count; index++) {
        const done = limiter.run({ tenant: `t${index % 3}` }, () => delay(50))
        ended.push(
          done.then(
            () => true,
            () => false
          )
        )
      }
    }
    const from = performance.now()
    for (let elapsedMs = 0; elapsedMs < 5000; elapsedMs = performance.now() - from) {
      offer(300 + elapsedMs * 0.4)
      await delay(5)
    }
    const done = (await Promise.all(ended)).filter(Boolean).length
    expect(done / ended.length).toBeGreaterThan(0.9)
    expect(limiter.stats()).toMatchObject({ queued: 0, running: 0 })
    await limiter.close()
  })

  it('keeps the places of a limit in use while three times as much is offered as it carries, and calls expire', async () => {
    const inner = createMemoryStore()
    let asked = 0
    const store: LimitStore = {
      ...inner,
      take: (asks) => (asked++, delay(20).then(() => inner.take(asks))),
      end: (ends) => delay(20).then(() => inner.end(ends))
    }
    const limiter = createLimiter({ limits: [{ concurrency: 20 }], store, whenStoreFails: 'deny', queueMs: 200 })
    const ended: Promise<boolean>[] = []
    const from = performance.now()
    for (let elapsedMs = 0; elapsedMs < 3000; elapsedMs = performance.now() - from) {
      while (ended.length < elapsedMs * 0.6) {
        const done = limiter.run({}, () => delay(60))
        ended.push(
          done.then(
            () => true,
            () => false
          )
        )
      }
      await delay(5)
    }
    const done = (await Promise.all(ended)).filter(Boolean).length
    expect(done).toBeGreaterThan((3000 * 20) / 100 / 2) // half of what 20 places carry at 100 ms a call
    expect(asked).toBeLessThan(ended.length * 3)
    expect(limiter.stats()).toMatchObject({ queued: 0, running: 0 })
    await limiter.close()
  })

  it('does not let small calls starve a large one', async () => {
    const inner = createMemoryStore()
    const store: LimitStore = { ...inner, take: (asks) => delay(5).then(() => inner.take(asks)) }
    const limits: LimitOptions[] = [{ by: 'provider', tokensPerMinute: 120_000, windowMs: 1000, adaptive: false }]
    const limiter = createLimiter({ limits, store, whenStoreFails: 'deny', queueMs: 20_000 })
    ;(await limiter.acquire({ tokens: 2000 })).settle()
    const order: string[] = []
    const calls = Array.from({ length: 200 }, (_, index) => {
      const name = index === 50 ? 'large' : 'small'
      return limiter.run({ tokens: index === 50 ? 1500 : 20, tenant: index === 50 ? 'large' : `t${index % 5}` }, () =>
        order.push(name)
      )
    })
    await Promise.all(calls)
    expect(order.indexOf('large')).toBeLessThan(190)
    await limiter.close()
  })

  it('gives what comes too late for one call to the next, without asking again', async () => {
    const inner = createMemoryStore()
    const answers: (() => void)[] = []
    const store: LimitStore = {
      ...inner,
      take: (asks) => new Promise((resolve) => answers.push(() => resolve(inner.take(asks))))
    }
    const limiter = createLimiter({ limits: [{ concurrency: 1 }], store, whenStoreFails: 'deny' })
    const answer = async (): Promise<void> => {
      answers.shift()?.()
      await delay(0)
    }
    const first = limiter.acquire({})
    const others = Array.from({ length: 10 }, () => limiter.acquire({}).catch(() => {}))
    while (answers.length > 0) await answer()
    const controller = new AbortController()
    const gone = limiter.acquire({}, { signal: controller.signal, priority: 1 })
    while (answers.length > 0) await answer()
    expect(limiter.stats()).toMatchObject({ queued: 11, granted: 1 })
    ;(await first).settle()
    controller.abort(new Error('gone'))
    await expect(gone).rejects.toThrow('gone')
    expect(answers.length).toBeGreaterThan(0)
    await answer()
    expect(limiter.stats()).toMatchObject({ queued: 9, running: 1, granted: 2 })
    await limiter.close()
    await Promise.all(others)
  })
})

describe('waiting', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance', 'Date'] })
  })
  afterEach(() => {
    vi.useRealTimers()
  })

  /** Takes as long as it says, and gives when each was let in. */
  function simulate(limits: readonly LimitOptions[]): {
    run(cost: { tenant?: string; model?: string; tokens?: number }, ms: number, priority?: number): void
    readonly started: { readonly at: number; readonly tenant: string; readonly tokens: number }[]
  } {
    const limiter = createLimiter({ limits, queueMs: Infinity, maxQueue: 100_000 })
    const started: { at: number; tenant: string; tokens: number }[] = []
    return {
      started,
      run(cost, ms, priority) {
        const work = async (): Promise<void> => {
          started.push({ at: performance.now(), tenant: cost.tenant ?? '', tokens: cost.tokens ?? 0 })
          await new Promise((resolve) => setTimeout(resolve, ms))
        }
        void limiter.run(cost, work, priority === undefined ? {} : { priority })
      }
    }
  }

  it('uses all of a rate for an hour, and none over it', async () => {
    const { run, started } = simulate([{ by: 'provider', requestsPerMinute: 60, adaptive: false }])
    for (let index = 0; index < 4000; index++) run({}, 500)
    await vi.advanceTimersByTimeAsync(3_600_000)
    const first = started[0]?.at ?? 0
    const inHour = started.filter(({ at }) => at - first < 3_600_000).length
    expect(inHour).toBeGreaterThan(3600 * 0.99) // and 60 at once after the rest
    expect(inHour).toBeLessThanOrEqual(3660)
    for (let index = 0; index + 120 < started.length; index++) {
      expect((started[index + 120]?.at ?? 0) - (started[index]?.at ?? 0)).toBeGreaterThanOrEqual(60_000 - 1)
    }
  })

  it('shares tokens a minute between tenants whose calls differ in size', async () => {
    const { run, started } = simulate([{ by: 'provider', tokensPerMinute: 60_000, adaptive: false }])
    for (let index = 0; index < 5000; index++) run({ tenant: 'small', tokens: 100 }, 10)
    for (let index = 0; index < 250; index++) run({ tenant: 'large', tokens: 2000 }, 10)
    await vi.advanceTimersByTimeAsync(600_000)
    // What went out at once, before anybody waited, is the first come's.
    const later = started.filter(({ at }) => at > (started[0]?.at ?? 0) + 1000)
    const of = (tenant: string): number =>
      later.filter((one) => one.tenant === tenant).reduce((sum, { tokens }) => sum + tokens, 0)
    expect(of('small') / of('large')).toBeGreaterThan(0.9)
    expect(of('small') / of('large')).toBeLessThan(1.1)
  })

  it('wakes by one timer, however many wait', async () => {
    const { run } = simulate([{ concurrency: 1 }])
    for (let index = 0; index < 1000; index++) run({ tenant: `t${index % 10}` }, 1_000_000)
    expect(vi.getTimerCount()).toBeLessThanOrEqual(2) // one of the call that runs
  })

  it('serves 30,000 calls of several tenants in time that grows about as their number', async () => {
    const timed = async (calls: number): Promise<number> => {
      const limiter = createLimiter({ limits: [{ concurrency: 1, adaptive: false }], queueMs: Infinity, maxQueue: calls })
      const from = process.cpuUsage()
      const all = Array.from({ length: calls }, (_, index) =>
        limiter.acquire({ tenant: `t${index % 5}`, tokens: 1 + (index % 9) }).then((permit) => permit.settle())
      )
      await Promise.all(all)
      return process.cpuUsage(from).user
    }
    await timed(1000)
    const few = Math.min(await timed(1000), await timed(1000), await timed(1000))
    expect((await timed(30_000)) / few).toBeLessThan(300)
  })

  it('refuses at once what would have to wait longer than it may, and says when to come back', async () => {
    const limiter = createLimiter({ limits: [{ by: 'model', requestsPerMinute: 1, adaptive: false }], queueMs: 30_000 })
    await limiter.acquire({ model: 'm' })
    await expect(limiter.acquire({ model: 'm' })).rejects.toMatchObject({
      code: 'rate-limited',
      retryable: true,
      details: { retryAfterMs: 60_000 }
    })
    const waiting = limiter.acquire({ model: 'm' }, { queueMs: 61_000 })
    expect(limiter.stats()).toMatchObject({ queued: 1, refused: { queueTimeout: 1 } })
    await vi.advanceTimersByTimeAsync(60_001)
    expect((await waiting).waitedMs).toBeGreaterThanOrEqual(60_000)
  })

  it('ends a wait of unknown length after queueMs', async () => {
    const limiter = createLimiter({ limits: [{ concurrency: 1 }] })
    await limiter.acquire({})
    const waiting = limiter.acquire({}, { queueMs: 5000 }).catch((error: unknown) => error)
    await vi.advanceTimersByTimeAsync(4990)
    expect(limiter.stats().queued).toBe(1)
    await vi.advanceTimersByTimeAsync(20)
    expect(await waiting).toMatchObject({ code: 'timeout', details: { clock: 'queue', limitMs: 5000 } })
    expect(limiter.stats()).toMatchObject({ queued: 0, refused: { queueTimeout: 1 } })
  })

  it('keeps to what is left of the deadline, and tells it that the call waits', async () => {
    const limiter = createLimiter({ limits: [{ concurrency: 1 }] })
    const first = await limiter.acquire({})
    const deadline = { queued: false, remainingMs: () => 1000, [Symbol.dispose]() {} }
    const late = limiter.acquire({}, { deadline }).catch((error: unknown) => error)
    expect(deadline.queued).toBe(true)
    await vi.advanceTimersByTimeAsync(1001)
    expect(await late).toMatchObject({ code: 'timeout', details: { clock: 'queue' } })
    expect(deadline.queued).toBe(false)
    expect(limiter.stats().refused.deadline).toBe(1)
    const second = limiter.acquire({}, { deadline })
    first.settle()
    await second
    expect(deadline.queued).toBe(false)
  })

  it('frees the place in the queue of a caller that gives up, and asks for the next', async () => {
    const limiter = createLimiter({ limits: [{ by: 'provider', tokensPerMinute: 6000, adaptive: false }] })
    await limiter.acquire({ tokens: 5900 })
    const controller = new AbortController()
    const large = limiter.acquire({ tokens: 5000 }, { signal: controller.signal }).catch((error: unknown) => error)
    const small = limiter.acquire({ tokens: 100 })
    await vi.advanceTimersByTimeAsync(10)
    expect(limiter.stats().queued).toBe(2)
    const reason = new Error('enough')
    controller.abort(reason)
    expect(await large).toBe(reason)
    await small
    expect(limiter.stats().queued).toBe(0)
    expect(vi.getTimerCount()).toBe(0)
  })

  it('takes no more than maxQueue, and none at all where it is 0', async () => {
    const limiter = createLimiter({ limits: [{ concurrency: 1 }], maxQueue: 2 })
    await limiter.acquire({})
    const waiting = [limiter.acquire({}), limiter.acquire({})]
    await expect(limiter.acquire({})).rejects.toMatchObject({ code: 'queue-full', details: { limit: 2 } })
    expect(limiter.stats()).toMatchObject({ queued: 2, refused: { queueFull: 1 } })
    await Promise.all([limiter.close(), ...waiting.map((one) => expect(one).rejects.toMatchObject({ code: 'closed' }))])
    const none = createLimiter({ limits: [{ concurrency: 1 }], maxQueue: 0 })
    const permit = await none.acquire({})
    await expect(none.acquire({})).rejects.toMatchObject({ code: 'queue-full' })
    permit.settle()
    await none.acquire({})
  })

  it('does not let a tenant fill the queue with calls that its own limit holds back, to the harm of others', async () => {
    const limiter = createLimiter({ limits: [{ concurrency: 10 }, { by: 'tenant', concurrency: 1 }], maxQueue: 50 })
    for (let index = 0; index < 51; index++) limiter.acquire({ tenant: 'greedy' }).catch(() => {})
    expect(limiter.stats()).toMatchObject({ queued: 50, running: 1 })
    const permits: Permit[] = []
    for (let index = 0; index < 5; index++) permits.push(await limiter.acquire({ tenant: `other ${index}` }))
    expect(limiter.stats()).toMatchObject({ queued: 50, running: 6 })
    for (const permit of permits) permit.settle()
    void limiter.close()
  })
})
