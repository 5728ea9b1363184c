import { collect, type ErrorCode, MillraceError } from '@millrace/core'
import { seededRandom } from '@millrace/testkit'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { createLimiter, withLimits } from '../src/index.ts'
import { limiterParts } from '../src/limiter.ts'

const tenant = 'acme'

afterEach(() => {
  vi.useRealTimers()
})

describe('a budget', () => {
  it('is never overshot by 100 calls at a time where maxUsd is a true bound', async () => {
    const seed = 3
    const random = seededRandom(seed)
    const limiter = createLimiter({ budgets: [{ usd: 1 }], queueMs: 5000, maxQueue: 10_000 })
    let spent = 0
    let refused = 0
    const call = async (): Promise<void> => {
      const usd = 0.001 + 0.02 * random()
      try {
        await limiter.run({ tenant, maxUsd: 0.021 }, async (permit) => {
          await new Promise(setImmediate)
          spent += usd
          permit.settle({ usd })
        })
      } catch (error) {
        expect(error).toMatchObject({ code: 'quota-exceeded', retryable: false })
        refused++
      }
    }
    const worker = async (): Promise<void> => {
      for (let index = 0; index < 5; index++) await call()
    }
    await Promise.all(Array.from({ length: 100 }, worker))
    expect(spent, `seed ${seed}`).toBeLessThanOrEqual(1 + 1e-9)
    expect(spent, `seed ${seed}`).toBeGreaterThan(1 - 0.021)
    expect(limiter.stats().refused.quota).toBe(refused)
  })

  it('is overshot by what the calls under way cost more than was said, and by no more', async () => {
    const limiter = createLimiter({ budgets: [{ tokens: 1000, per: 'hour' }] })
    const permits = await Promise.all(Array.from({ length: 10 }, () => limiter.acquire({ tenant, tokens: 100 })))
    let spent = 0
    for (const permit of permits) {
      permit.settle({ tokens: 150 })
      spent += 150
      await expect(limiter.acquire({ tenant, tokens: 100 }, { queueMs: 0 })).rejects.toMatchObject({
        code: expect.stringMatching(/quota-exceeded|rate-limited/)
      })
    }
    expect(spent).toBe(1000 + 10 * 50)
  })

  it('lets a call wait while its money is only reserved, and in when it comes back', async () => {
    const limiter = createLimiter({ budgets: [{ usd: 1 }] })
    const first = await limiter.acquire({ tenant, maxUsd: 0.9 })
    const second = limiter.acquire({ tenant, maxUsd: 0.5 })
    await limiter.acquire({ tenant: 'another', maxUsd: 0.5 })
    expect(limiter.stats().queued).toBe(1)
    first.settle({ usd: 0.1 })
    ;(await second).release()
  })

  it('says when a new one begins', async () => {
    const limiter = createLimiter({ budgets: [{ usd: 1, per: 1000 }], now: () => 250 })
    ;(await limiter.acquire({ tenant, maxUsd: 1 })).settle()
    await expect(limiter.acquire({ tenant, maxUsd: 0.01 })).rejects.toMatchObject({
      code: 'quota-exceeded',
      details: { resetMs: 750 }
    })
    await expect(limiter.acquire({ tenant: 'b', maxUsd: 2 })).rejects.toMatchObject({ code: 'quota-exceeded' })
  })

  it('begins anew with its window, for those that wait too', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance', 'Date'], now: 1_000_000 })
    const limiter = createLimiter({ budgets: [{ usd: 1, per: 10_000 }] })
    await limiter.acquire({ tenant, maxUsd: 1 }) // takes longer than its window
    const waiting = limiter.acquire({ tenant, maxUsd: 0.8 })
    await vi.advanceTimersByTimeAsync(9500)
    expect(limiter.stats()).toMatchObject({ queued: 1, running: 1 })
    await vi.advanceTimersByTimeAsync(1500)
    ;(await waiting).settle({ usd: 0.2 })
    await limiter.acquire({ tenant, maxUsd: 0.8 })
    expect(limiter.stats()).toMatchObject({ queued: 0, running: 2 })
  })

  it('in USD refuses a call of unknown price, and says what to give', async () => {
    const limiter = createLimiter({ budgets: [{ usd: 1, only: { provider: 'paid' } }] })
    const refused = limiter.acquire({ tenant, provider: 'paid', tokens: 10 })
    await expect(refused).rejects.toMatchObject({ code: 'invalid-request', details: { path: 'maxUsd' } })
    await expect(refused).rejects.toThrow(/`maxUsd`.*`price`/)
    await limiter.acquire({ tenant, provider: 'own', tokens: 10 })
    expect(limiter[limiterParts].needsPrice({ provider: 'paid' })).toBe(true)
    expect(limiter[limiterParts].needsPrice({ provider: 'own' })).toBe(false)
  })

  it('charges nothing for a call that was turned away, and all that was reserved for one that broke off', async () => {
    const limiter = createLimiter({ budgets: [{ usd: 1 }] })
    ;(await limiter.acquire({ tenant, maxUsd: 0.6 })).fail(Object.assign(new Error('429'), { status: 429 }))
    ;(await limiter.acquire({ tenant, maxUsd: 0.6 })).release()
    ;(await limiter.acquire({ tenant, maxUsd: 0.6 })).fail(new Error('reset'))
    await expect(limiter.acquire({ tenant, maxUsd: 0.6 })).rejects.toMatchObject({ code: 'quota-exceeded' })
    await limiter.acquire({ tenant, maxUsd: 0.4 })
  })

  const ours = (code: ErrorCode, details: object): unknown => new MillraceError(code, code, { details: details as never })
  it.each([
    ['a refused connection', ours('network', { phase: 'connect', errno: 'ECONNREFUSED' })],
    ['an unknown host', ours('network', { phase: 'dns' })],
    ['a failed handshake', ours('network', { phase: 'tls' })],
    ['an open breaker', ours('circuit-open', { origin: '', retryAfterMs: 1 })],
    ['a full queue', ours('queue-full', { limit: 1 })],
    ['no socket in time', ours('timeout', { clock: 'connect', limitMs: 1, elapsedMs: 1 })],
    ['a status of 500', ours('unavailable', { status: 500 })],
    ['a filtered prompt', ours('content-filtered', { status: 400 })],
    ['a status of 500 that an SDK tells', Object.assign(new Error('500'), { status: 500 })],
    ['a fetch', new TypeError('fetch failed', { cause: Object.assign(new Error(), { code: 'ECONNREFUSED' }) })],
    [
      'a fetch within an SDK',
      new Error('Connection error.', {
        cause: new TypeError('fetch failed', { cause: Object.assign(new AggregateError([]), { code: 'ECONNREFUSED' }) })
      })
    ],
    ['a fetch over a transport', new TypeError('fetch failed', { cause: ours('network', { phase: 'connect' }) })]
  ])('takes nothing for what was never answered: %s', async (_, error) => {
    const limiter = createLimiter({ budgets: [{ usd: 1 }], limits: [{ concurrency: 5 }] })
    ;(await limiter.acquire({ tenant, maxUsd: 1 })).fail(error)
    const provider = withLimits(limiter, { provider: 'p' })(() => ({
      [Symbol.asyncIterator]: () => ({ next: () => Promise.reject(error) })
    }))
    const request = { model: 'm', messages: [] }
    await expect(collect(provider(request, { tenant, limits: { maxUsd: 1 } }))).rejects.toBe(error)
    ;(await limiter.acquire({ tenant, maxUsd: 1 }, { queueMs: 0 })).release()
    expect(limiter.stats()).toMatchObject({ running: 0, refusals: 0 })
  })

  it.each([
    ['behind the request', ours('network', { phase: 'headers' })],
    ['of silence', ours('timeout', { clock: 'headers', limitMs: 1, elapsedMs: 1 })],
    ['of a reset', new TypeError('fetch failed', { cause: Object.assign(new Error(), { code: 'ECONNRESET' }) })]
  ])('takes all that was reserved for a failure %s: it may be billed', async (_, error) => {
    const limiter = createLimiter({ budgets: [{ usd: 1 }] })
    ;(await limiter.acquire({ tenant, maxUsd: 1 })).fail(error)
    await expect(limiter.acquire({ tenant, maxUsd: 0.1 })).rejects.toMatchObject({ code: 'quota-exceeded' })
  })

  it('keeps the ceiling through 100 calls that an open breaker did not let out', async () => {
    const limiter = createLimiter({ limits: [{ concurrency: 100 }] })
    const permits = await Promise.all(Array.from({ length: 100 }, () => limiter.acquire({})))
    for (const permit of permits) permit.fail(ours('circuit-open', { origin: '', retryAfterMs: 1 }))
    expect(Object.values(await limiter.limits())).toMatchObject([{ running: 0, ceiling: 100 }])
  })

  it.each([
    ['overloaded', 300_000],
    ['rate-limited', 3_600_000]
  ] as const)('%s with a hint of a day stops no longer than %i ms', async (code, maxMs) => {
    const limiter = createLimiter({ limits: [{ concurrency: 1 }], random: () => 0 })
    ;(await limiter.acquire({})).fail(ours(code, { retryAfterMs: 86_400_000 }))
    const [state] = Object.values(await limiter.limits())
    expect(state?.pausedMs).toBeGreaterThan(maxMs - 5000)
    expect(state?.pausedMs).toBeLessThanOrEqual(maxMs)
  })

  it('names no tenant when it refuses', async () => {
    const limiter = createLimiter({ budgets: [{ usd: 1 }] })
    const error = await limiter.acquire({ tenant: 'secret', maxUsd: 5 }).catch((caught: unknown) => caught)
    expect(JSON.stringify(error) + String(error)).not.toContain('secret')
  })
})
