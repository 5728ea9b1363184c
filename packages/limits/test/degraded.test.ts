import { setTimeout as delay } from 'node:timers/promises'
import { requireRedis, startRedis } from '@millrace/testkit'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { createLimiter, type LimiterOptions, type LimitStore, type Permit } from '../src/index.ts'
import { createMemoryStore } from '../src/memory-store.ts'
import { createRedisLimits } from '../src/redis.ts'
import type { End } from '../src/store.ts'
import { connect } from './redis-connection.ts'

/** A store over a memory store that works, rejects or hangs as it is told. */
function fragile(): LimitStore & { mode: 'works' | 'rejects' | 'throws' | 'hangs'; asked: number; ended: number } {
  const inner = createMemoryStore()
  /** Told when it is there again, as the Redis store does. */
  const owed: (readonly End[])[] = []
  const through = <T>(step: () => T): Promise<T> => {
    if (self.mode === 'throws') throw new Error('thrown')
    if (self.mode === 'rejects') return Promise.reject(new Error('gone'))
    if (self.mode === 'hangs') return new Promise(() => {})
    return Promise.resolve(step())
  }
  const self = {
    mode: 'works' as 'works' | 'rejects' | 'throws' | 'hangs',
    asked: 0,
    ended: 0,
    take: (asks: Parameters<LimitStore['take']>[0]) => {
      self.asked++
      return through(() => {
        for (const ends of owed.splice(0)) inner.end(ends)
        return inner.take(asks)
      })
    },
    end: (ends: Parameters<LimitStore['end']>[0]) => {
      self.ended++
      if (self.mode !== 'works') owed.push(ends)
      return through(() => inner.end(ends))
    },
    learn: (...args: Parameters<LimitStore['learn']>) => through(() => inner.learn(...args)),
    state: (...args: Parameters<LimitStore['state']>) => through(() => inner.state(...args)),
    close: () => inner.close()
  }
  return self
}

afterEach(() => {
  vi.useRealTimers()
})

/** A limiter over a store that fails, on a clock of the test's own. */
function failing(options: Omit<LimiterOptions, 'store'> = {}): {
  store: ReturnType<typeof fragile>
  limiter: ReturnType<typeof createLimiter>
} {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance', 'Date'] })
  const store = fragile()
  return { store, limiter: createLimiter({ limits: [{ concurrency: 4 }], processes: 2, ...options, store }) }
}

describe('while the store fails', () => {
  it.each(['rejects', 'throws'] as const)('denies, where that is chosen: it %s', async (mode) => {
    const { store, limiter } = failing({ whenStoreFails: 'deny' })
    store.mode = mode
    await expect(limiter.acquire({})).rejects.toMatchObject({ code: 'unavailable', retryable: true })
    expect(limiter.stats()).toMatchObject({ degraded: true, storeErrors: 1, granted: 0 })
  })

  it('allows, where that is chosen, and tells it', async () => {
    const { store, limiter } = failing({ whenStoreFails: 'allow' })
    store.mode = 'rejects'
    const permits = await Promise.all(Array.from({ length: 10 }, () => limiter.acquire({})))
    expect(permits.map(({ degraded }) => degraded)).toEqual(Array.from({ length: 10 }, () => 'allow'))
    expect(limiter.stats()).toMatchObject({ degraded: true, degradedCalls: 10, running: 10 })
    for (const permit of permits) permit.settle()
    expect(store.ended).toBe(0)
    expect(limiter.stats().running).toBe(0)
  })

  it('holds calls to its part of the limits, where that is chosen', async () => {
    const { store, limiter } = failing({ budgets: [{ tokens: 1000 }] })
    store.mode = 'rejects'
    const permits = [await limiter.acquire({ tokens: 100 }), await limiter.acquire({ tokens: 100 })]
    expect(permits[0]?.degraded).toBe('localShare')
    const third = limiter.acquire({ tokens: 100 })
    expect(limiter.stats()).toMatchObject({ queued: 1, running: 2 })
    permits[0]?.settle({ tokens: 300 })
    ;(await third).settle({ tokens: 100 })
    await expect(limiter.acquire({ tokens: 200 })).rejects.toMatchObject({ code: 'quota-exceeded' })
    expect(store.ended).toBe(0)
  })

  it('does not ask it for a second, then asks by one call', async () => {
    const { store, limiter } = failing({ whenStoreFails: 'allow' })
    store.mode = 'rejects'
    for (let index = 0; index < 50; index++) await limiter.acquire({})
    expect(store.asked).toBe(1)
    await vi.advanceTimersByTimeAsync(1001)
    await Promise.all(Array.from({ length: 50 }, () => limiter.acquire({})))
    expect(store.asked).toBe(2)
    store.mode = 'works'
    await vi.advanceTimersByTimeAsync(1001)
    await limiter.acquire({})
    expect(limiter.stats()).toMatchObject({ degraded: false, storeErrors: 2 })
    expect((await limiter.acquire({})).degraded).toBeUndefined()
    expect(store.asked).toBe(4)
  })

  it('does not wait for a store that hangs', async () => {
    const { store, limiter } = failing({ whenStoreFails: 'allow' })
    store.mode = 'hangs'
    const waiting = limiter.acquire({})
    await vi.advanceTimersByTimeAsync(2001)
    expect((await waiting).degraded).toBe('allow')
  })

  it('lets a caller leave while the store is asked, and gives back what comes too late', async () => {
    const store = createMemoryStore()
    let answer = (): void => {}
    const slow: LimitStore = {
      ...store,
      take: (asks) =>
        new Promise((resolve) => {
          answer = () => resolve(store.take(asks))
        })
    }
    const limiter = createLimiter({ limits: [{ concurrency: 1 }], store: slow, processes: 1 })
    const controller = new AbortController()
    const left = limiter.acquire({}, { signal: controller.signal })
    const reason = new Error('gone')
    controller.abort(reason)
    await expect(left).rejects.toBe(reason)
    answer()
    await delay(0)
    expect((await limiter.limits())['limits[0] provider= model=']).toMatchObject({ running: 0 })
    expect(limiter.stats()).toMatchObject({ running: 0, queued: 0, granted: 0 })
  })

  it('tells ends to the store that granted them, and counts those that fail', async () => {
    const { store, limiter } = failing()
    const unhandled = vi.fn<() => void>()
    process.on('unhandledRejection', unhandled)
    const whole = await limiter.acquire({})
    store.mode = 'rejects'
    whole.settle()
    limiter.learn({}, { even: true, pauseMs: 10 })
    await vi.advanceTimersByTimeAsync(0)
    expect(store.ended).toBe(1)
    expect(limiter.stats().storeErrors).toBeGreaterThanOrEqual(1)
    const part = await limiter.acquire({}, { queueMs: 100 })
    expect(part.degraded).toBe('localShare')
    store.mode = 'works'
    await vi.advanceTimersByTimeAsync(1500)
    const back = await limiter.acquire({})
    expect(back.degraded).toBeUndefined()
    part.settle()
    expect(store.ended).toBe(1)
    back.settle()
    expect(store.ended).toBe(2)
    await vi.advanceTimersByTimeAsync(10)
    process.off('unhandledRejection', unhandled)
    expect(unhandled).not.toHaveBeenCalled()
  })

  it('asks those that wait anew when the store fails and when it is there again', async () => {
    const { store, limiter } = failing({ limits: [{ concurrency: 1 }], processes: 1, queueMs: Infinity })
    const first = await limiter.acquire({})
    const order: string[] = []
    const waiting = Array.from({ length: 3 }, (_, index) =>
      limiter.acquire({}).then((permit): Permit => {
        order.push(`${index} ${permit.degraded ?? 'store'}`)
        return permit
      })
    )
    await vi.advanceTimersByTimeAsync(200)
    expect(order).toEqual([])
    store.mode = 'rejects'
    await vi.advanceTimersByTimeAsync(200)
    expect(order).toEqual([]) // the one place is taken by a call of this process
    first.settle()
    await vi.advanceTimersByTimeAsync(200)
    expect(order).toEqual(['0 localShare'])
    store.mode = 'works'
    await vi.advanceTimersByTimeAsync(1500)
    expect(order).toEqual(['0 localShare', '1 store'])
    ;(await waiting[1])?.settle()
    await vi.advanceTimersByTimeAsync(200)
    expect(order).toEqual(['0 localShare', '1 store', '2 store'])
  })

  it('asks in the second half of a wait too, though the store was slow before it failed', async () => {
    const { store, limiter } = failing({ limits: [{ concurrency: 1 }], processes: 1 })
    store.mode = 'hangs'
    const asked = limiter.acquire({})
    await vi.advanceTimersByTimeAsync(2000)
    const first = await asked
    const second = limiter.acquire({}, { queueMs: 4000 })
    await vi.advanceTimersByTimeAsync(3500)
    first.settle()
    await vi.advanceTimersByTimeAsync(100)
    expect(await Promise.race([second, 'waits'])).toMatchObject({ degraded: 'localShare' })
  })

  it('goes on asking the store when only an end or a lesson fails', async () => {
    const { store, limiter } = failing({ limits: [{ concurrency: 4, requestsPerMinute: 600 }], processes: 1, queueMs: 0 })
    const permits = await Promise.all(Array.from({ length: 4 }, () => limiter.acquire({})))
    store.mode = 'rejects'
    permits[0]?.settle()
    limiter.learn({}, { even: true, requests: { remaining: 1 } })
    await vi.advanceTimersByTimeAsync(0)
    expect(limiter.stats()).toMatchObject({ degraded: false, storeErrors: 2 })
    store.mode = 'works'
    const next = await limiter.acquire({})
    expect(next.degraded).toBeUndefined()
    await expect(limiter.acquire({})).rejects.toMatchObject({ code: 'rate-limited' })
    expect(limiter.stats()).toMatchObject({ running: 4, degradedCalls: 0 })
  })

  it('lets no second burst in by its part of a rate', async () => {
    const { store, limiter } = failing({ limits: [{ requestsPerMinute: 600, adaptive: false }], processes: 1, queueMs: 0 })
    const goesIn = async (): Promise<boolean> => {
      const permit = await limiter.acquire({}).catch(() => undefined)
      permit?.settle()
      return permit !== undefined
    }
    for (let index = 0; index < 600; index++) expect(await goesIn()).toBe(true)
    store.mode = 'rejects'
    for (let index = 0; index < 100; index++) expect(await goesIn()).toBe(false)
    expect(limiter.stats().degraded).toBe(true)
    await vi.advanceTimersByTimeAsync(1000)
    let count = 0
    while (await goesIn()) count++
    expect(count).toBeGreaterThanOrEqual(9)
    expect(count).toBeLessThanOrEqual(10)
  })

  it('counts the places of calls that the store let in, until they end', async () => {
    const { store, limiter } = failing({ limits: [{ concurrency: 4 }], processes: 1, queueMs: 100 })
    const before = await Promise.all(Array.from({ length: 3 }, () => limiter.acquire({})))
    store.mode = 'rejects'
    const during = [await limiter.acquire({})]
    expect(during[0]?.degraded).toBe('localShare')
    const late = limiter.acquire({}).catch((error: unknown) => error)
    await vi.advanceTimersByTimeAsync(200)
    expect(await late).toMatchObject({ code: 'timeout' })
    for (const permit of before) {
      permit.settle()
      during.push(await limiter.acquire({}))
    }
    expect(limiter.stats().running).toBe(4)
    for (const permit of during) permit.settle()
    expect(Object.values(await limiter.limits())).toMatchObject([{ running: 0 }])
  })

  it.each(['rejects', 'throws', 'hangs'] as const)('tells how the limits stand by what is known here: it %s', async (mode) => {
    const { store, limiter } = failing({ limits: [{ concurrency: 4, requestsPerMinute: 60 }] })
    await limiter.acquire({})
    store.mode = mode
    const asked = limiter.limits()
    await vi.advanceTimersByTimeAsync(2001)
    expect(Object.values(await asked)).toMatchObject([{ running: 1, ceiling: 4, requestsLeft: 60 }])
    const another = limiter.acquire({}, { queueMs: 10_000 })
    await vi.advanceTimersByTimeAsync(8001)
    await another
    expect(Object.values(await limiter.limits())).toMatchObject([{ running: 2, ceiling: 2 }])
  })

  it('denies those that wait as well', async () => {
    const { store, limiter } = failing({ limits: [{ concurrency: 1 }], whenStoreFails: 'deny' })
    await limiter.acquire({})
    const waiting = Array.from({ length: 5 }, () => limiter.acquire({}).catch((error: unknown) => error))
    await vi.advanceTimersByTimeAsync(100)
    store.mode = 'rejects'
    await vi.advanceTimersByTimeAsync(200)
    for (const error of await Promise.all(waiting)) expect(error).toMatchObject({ code: 'unavailable' })
    expect(limiter.stats().queued).toBe(0)
  })
})

const { server, skip } = await requireRedis()
await server?.stop()

describe.skipIf(skip !== undefined)('over a Redis that is taken away', () => {
  it.each(['stopped', 'killed'] as const)('goes on by itself and comes back: %s', { timeout: 60_000 }, async (how) => {
    let redis = await startRedis()
    if (redis === undefined) throw new Error('no Redis')
    const { port } = redis
    const connection = await connect(redis.url)
    const store = createRedisLimits({ command: connection.command, commandTimeoutMs: 200 })
    const limiter = createLimiter({ limits: [{ concurrency: 4 }], store, processes: 2 })
    try {
      const before = await limiter.acquire({})
      expect(before.degraded).toBeUndefined()
      if (how === 'stopped') redis.pause()
      else await redis.kill()
      const from = performance.now()
      const during = await limiter.acquire({})
      expect(performance.now() - from).toBeLessThan(2000)
      expect(during.degraded).toBe('localShare')
      expect(limiter.stats().degraded).toBe(true)
      before.settle()
      if (how === 'stopped') redis.resume()
      else redis = await startRedis({ port })
      const until = performance.now() + 20_000
      for (;;) {
        const permit = await limiter.acquire({})
        permit.settle()
        if (permit.degraded === undefined) break
        if (performance.now() > until) throw new Error('it never came back')
        await delay(100)
      }
      expect(limiter.stats().degraded).toBe(false)
      during.settle()
      expect(limiter.stats().running).toBe(0)
    } finally {
      await limiter.close()
      await store.close()
      await connection.close()
      await redis?.stop()
    }
  })
})
