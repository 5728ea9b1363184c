import { getEventListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { type Clock, MillraceError } from '@millrace/core'
import { seededRandom } from '@millrace/testkit'
import { describe, expect, it } from 'vitest'
import { createLimiter, type LimiterOptions, type LimitStore } from '../src/index.ts'
import { limiterParts } from '../src/limiter.ts'
import { createMemoryStore } from '../src/memory-store.ts'

const timeout = (clock: Clock): MillraceError =>
  new MillraceError('timeout', '', { details: { clock, limitMs: 1, elapsedMs: 1 } })
const rateLimited = (retryAfterMs?: number): MillraceError =>
  new MillraceError('rate-limited', '', { details: retryAfterMs === undefined ? {} : { retryAfterMs } })

const key = 'limits[0] provider=p model=m'
const subject = { provider: 'p', model: 'm' }
const oneLimit = { limits: [{ concurrency: 10, requestsPerMinute: 100, tokensPerMinute: 10_000 }], now: () => 5_000 }

describe('a permit', () => {
  it('ends once, whatever is called afterwards', async () => {
    const limiter = createLimiter(oneLimit)
    const permit = await limiter.acquire({ ...subject, tokens: 1000 })
    expect(limiter.stats()).toMatchObject({ running: 1, granted: 1 })
    permit.settle({ tokens: 400 })
    permit.release()
    permit.fail(rateLimited(1000))
    permit.settle({ tokens: 9000 })
    expect(limiter.stats()).toMatchObject({ running: 0, refusals: 0 })
    expect((await limiter.limits())[key]).toMatchObject({ running: 0, tokensLeft: 9600, requestsLeft: 99, pausedMs: 0 })
  })

  it('gives all of it back on release, and counts as expected what settle leaves out', async () => {
    const limiter = createLimiter(oneLimit)
    const first = await limiter.acquire({ ...subject, tokens: 1000 })
    first.release()
    expect((await limiter.limits())[key]).toMatchObject({ running: 0, tokensLeft: 10_000, requestsLeft: 100 })
    const second = await limiter.acquire({ ...subject, tokens: 1000 })
    second.settle()
    expect((await limiter.limits())[key]).toMatchObject({ running: 0, tokensLeft: 9000, requestsLeft: 99 })
  })

  it.each([
    ['429', rateLimited()],
    ['an overload', new MillraceError('overloaded', '', { details: {} })],
    ['no head', timeout('headers')],
    ['no first content', timeout('first-chunk')],
    ['silence', timeout('idle')],
    ['no end', timeout('total')],
    ['a 429 of an SDK', Object.assign(new Error('429'), { status: 429 })],
    ['a 529 of AI SDK', Object.assign(new Error('529'), { statusCode: 529 })]
  ])('lowers the ceiling when it fails by %s', async (_, error) => {
    const limiter = createLimiter(oneLimit)
    const permits = await Promise.all(Array.from({ length: 10 }, () => limiter.acquire(subject)))
    permits[0]?.fail(error)
    expect(limiter.stats().refusals).toBe(1)
    expect((await limiter.limits())[key]?.ceiling).toBeCloseTo(9)
  })

  it.each([
    ['a bug', new TypeError('no')],
    ['an open breaker', new MillraceError('circuit-open', '', { details: { origin: '', retryAfterMs: 1 } })],
    ['no socket', timeout('connect')],
    ['the wait for a place', timeout('queue')],
    ['a wrong request', new MillraceError('invalid-request', '', { details: {} })],
    ['a broken line', new MillraceError('network', '', { details: { phase: 'body' } })],
    ['nothing', undefined]
  ])('does not when it fails by %s', async (_, error) => {
    const limiter = createLimiter(oneLimit)
    const permits = await Promise.all(Array.from({ length: 10 }, () => limiter.acquire(subject)))
    permits[0]?.fail(error)
    expect(limiter.stats().refusals).toBe(0)
    expect((await limiter.limits())[key]?.ceiling).toBe(10)
  })

  it('pauses for as long as a refusal asked, and up to a fifth longer', async () => {
    const limiter = createLimiter({ ...oneLimit, random: () => 0.5 })
    ;(await limiter.acquire(subject)).fail(rateLimited(10_000))
    expect((await limiter.limits())[key]?.pausedMs).toBeCloseTo(11_000)
    await expect(limiter.acquire(subject, { queueMs: 5000 })).rejects.toMatchObject({ code: 'rate-limited' })
  })

  it('does not learn a hint again that was read on the wire, nor count its refusal twice', async () => {
    const limiter = createLimiter(oneLimit)
    const permit = await limiter[limiterParts].acquire(subject)
    permit.heard = true
    permit.refused()
    permit.fail(rateLimited(10_000))
    expect(limiter.stats().refusals).toBe(1)
    expect((await limiter.limits())[key]).toMatchObject({ pausedMs: 0, running: 0 })
  })

  it('asks for one request and nothing else for a further attempt', async () => {
    const limiter = createLimiter({ limits: [{ concurrency: 1, requestsPerMinute: 2, tokensPerMinute: 100 }], now: () => 0 })
    const parts = limiter[limiterParts]
    await parts.acquire({ ...subject, tokens: 100 })
    await parts.acquireRequest(subject)
    expect(limiter.stats().running).toBe(1)
    await expect(parts.acquireRequest(subject, { queueMs: 0 })).rejects.toMatchObject({ code: 'rate-limited' })
  })

  it('throws for spending that is none, and stays', async () => {
    const limiter = createLimiter(oneLimit)
    const permit = await limiter.acquire(subject)
    expect(() => permit.settle({ tokens: Number.NaN })).toThrow(TypeError)
    expect(() => permit.settle({ usd: -1 })).toThrow('usd that a call spent')
    expect(limiter.stats().running).toBe(1)
    permit.settle()
    expect(limiter.stats().running).toBe(0)
  })
})

describe('run', () => {
  it('gives what work gives and settles as work said, or as expected', async () => {
    const limiter = createLimiter(oneLimit)
    const value = await limiter.run({ ...subject, tokens: 1000 }, async (permit) => {
      permit.settle({ tokens: 10 })
      return 42
    })
    expect(value).toBe(42)
    expect(await limiter.run({ ...subject, tokens: 1000 }, () => 'plain')).toBe('plain')
    expect((await limiter.limits())[key]?.tokensLeft).toBe(8990)
  })

  it('ends the permit of work that throws or rejects, and throws the same', async () => {
    const limiter = createLimiter(oneLimit)
    const error = rateLimited()
    const thrown = limiter.run(subject, () => {
      throw error
    })
    await expect(thrown).rejects.toBe(error)
    await expect(limiter.run(subject, () => Promise.reject(error))).rejects.toBe(error)
    expect(limiter.stats()).toMatchObject({ running: 0, refusals: 2 })
  })

  const traps: readonly (readonly [string, () => unknown])[] = [
    [
      'a proxy that throws when it is read',
      () =>
        new Proxy(
          {},
          {
            get() {
              throw new Error('trap')
            }
          }
        )
    ],
    [
      'a revoked proxy',
      () => {
        const { proxy, revoke } = Proxy.revocable({}, {})
        revoke()
        return proxy
      }
    ],
    [
      'an error whose cause cannot be read',
      () =>
        Object.defineProperty(new Error('x'), 'cause', {
          get() {
            throw new Error('trap')
          }
        })
    ],
    ['a code that is no text', () => Object.assign(new Error('x'), { code: Object.create(null) })],
    ['a code of symbols', () => Object.assign(new Error('x'), { code: [Symbol('x')] })]
  ]
  it.each(traps)('gives the place back and throws the same, where what is thrown is %s', async (_, make) => {
    const limiter = createLimiter({ limits: [{ concurrency: 1 }], queueMs: 0 })
    const thrown = make()
    const same = await limiter
      .run(subject, () => {
        throw thrown
      })
      .catch((error: unknown) => error === thrown)
    expect(same).toBe(true)
    expect(limiter.stats().running).toBe(0)
    ;(await limiter.acquire(subject)).settle()
  })

  it('does not begin work whose caller has gone', async () => {
    const limiter = createLimiter(oneLimit)
    let begun = 0
    const reason = new Error('gone')
    await expect(limiter.run(subject, () => begun++, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    expect(begun).toBe(0)
  })

  it('leaves no listener on one signal over 10,000 calls, waiting or not', async () => {
    const limiter = createLimiter({ limits: [{ concurrency: 50 }] })
    const { signal } = new AbortController()
    let most = 0
    const call = async (): Promise<void> => {
      await new Promise(setImmediate)
      most = Math.max(most, getEventListeners(signal, 'abort').length)
    }
    for (let round = 0; round < 10; round++) {
      await Promise.all(Array.from({ length: 1000 }, () => limiter.run(subject, call, { signal })))
    }
    expect(limiter.stats().granted).toBe(10_000)
    expect(most).toBeGreaterThan(100)
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  })

  it('rejects all that wait when their signal aborts, and leaves nothing', async () => {
    const limiter = createLimiter({ limits: [{ concurrency: 1 }] })
    const permit = await limiter.acquire(subject)
    const controller = new AbortController()
    const waiting = Array.from({ length: 1000 }, () => limiter.acquire(subject, { signal: controller.signal }))
    const reason = new Error('enough')
    controller.abort(reason)
    expect(limiter.stats().queued).toBe(0)
    const outcomes = await Promise.allSettled(waiting)
    expect(outcomes.every((one) => one.status === 'rejected' && one.reason === reason)).toBe(true)
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
    permit.settle()
    await limiter.acquire(subject)
  })
})

describe('the limiter', () => {
  it('holds nothing back without limits', async () => {
    const limiter = createLimiter()
    await Promise.all(Array.from({ length: 1000 }, () => limiter.acquire({})))
    expect(limiter.stats()).toMatchObject({ granted: 1000, running: 1000, queued: 0 })
  })

  it('costs no promise but the one it returns while there is room', async () => {
    const limiter = createLimiter(oneLimit)
    const turns: string[] = []
    const acquired = limiter.acquire(subject).then(() => turns.push('acquired'))
    const bare = Promise.resolve().then(() => turns.push('bare'))
    await Promise.all([acquired, bare])
    expect(turns).toEqual(['acquired', 'bare'])
  })

  it('learns a limit that nobody has configured', async () => {
    const limiter = createLimiter({ limits: [{}], now: () => 0 })
    await limiter.acquire(subject)
    expect((await limiter.limits())[key]?.requestsLeft).toBe(Number.POSITIVE_INFINITY)
    limiter.learn(subject, { requests: { limit: 100, remaining: 0, resetMs: 60_000 }, even: true })
    expect((await limiter.limits())[key]?.requestsLeft).toBe(0)
    limiter.learn({ ...subject, model: 'another' }, { even: true, pauseMs: 100_000 })
    expect((await limiter.limits())[key]?.pausedMs).toBe(0)
  })

  it('keeps what is said of a provider from limits by tenant, unless they are adaptive', async () => {
    const limiter = createLimiter({ limits: [{ by: 'tenant', requestsPerMinute: 10 }], now: () => 0 })
    await limiter.acquire({ ...subject, tenant: 'a' })
    limiter.learn({ ...subject, tenant: 'a' }, { even: true, pauseMs: 100_000 })
    await limiter.acquire({ ...subject, tenant: 'a' }, { queueMs: 0 })
    expect(limiter.stats().granted).toBe(2)
  })

  it('rejects those that wait and those that come when it is closed, twice safely, and lets calls end', async () => {
    const limiter = createLimiter({ limits: [{ concurrency: 1 }] })
    const permit = await limiter.acquire(subject)
    const waiting = limiter.acquire(subject)
    const closed = limiter.close()
    await expect(waiting).rejects.toMatchObject({ code: 'closed' })
    await closed
    await limiter.close()
    await expect(limiter.acquire(subject)).rejects.toMatchObject({ code: 'closed' })
    permit.settle()
    expect(limiter.stats().running).toBe(0)
  })

  it('names the limits it remembers, a hundred at most', async () => {
    const limiter = createLimiter({
      limits: [
        { by: 'model', concurrency: 5 },
        { by: 'tenant', concurrency: 5 }
      ]
    })
    for (let index = 0; index < 500; index++) (await limiter.acquire({ model: `m${index}`, tenant: 'secret' })).settle()
    const names = Object.keys(await limiter.limits())
    expect(names).toHaveLength(100)
    expect(names.join()).not.toContain('secret')
  })
})

describe('over a store that takes its time', () => {
  it.each([1, 2, 3, 4])('loses no call and no place, whoever leaves when, and never lets in too many: seed %i', async (seed) => {
    const random = seededRandom(seed)
    const inner = createMemoryStore()
    const later = async <T>(step: () => T): Promise<T> => {
      if (random() < 0.5) await new Promise(setImmediate)
      if (random() < 0.1) await delay(random() * 5)
      const value = step()
      if (random() < 0.3) await new Promise(setImmediate)
      return value
    }
    const store: LimitStore = {
      take: (asks) => later(() => inner.take(asks)),
      end: (ends) => later(() => inner.end(ends)),
      learn: (...news) => later(() => inner.learn(...news)),
      state: (...of) => later(() => inner.state(...of)),
      close: () => inner.close()
    }
    const limits = [{ concurrency: 7 }, { by: 'tenant', concurrency: 2 }] as const
    const limiter = createLimiter({ limits, store, processes: 1, queueMs: 30_000 })
    let running = 0
    let most = 0
    let done = 0
    let left = 0
    const calls = Array.from({ length: 600 }, async (_, index) => {
      const controller = new AbortController()
      if (random() < 0.3) setTimeout(() => controller.abort(controller), random() * 200)
      const work = async (): Promise<void> => {
        most = Math.max(most, ++running)
        await delay(random() * 4)
        running--
        if (random() < 0.2) throw new Error('work')
      }
      try {
        await limiter.run({ tenant: `t${index % 9}`, tokens: 10 }, work, { signal: controller.signal, priority: index % 2 })
        done++
      } catch (error) {
        if (error === controller) left++
        else if ((error as Error).message === 'work') done++
        else throw error
      }
    })
    await Promise.all(calls)
    expect(done + left, `seed ${seed}`).toBe(600)
    expect(most, `seed ${seed}`).toBeLessThanOrEqual(7)
    await delay(50) // what was given back late
    expect(limiter.stats()).toMatchObject({ running: 0, queued: 0, storeErrors: 0 })
    const states = Object.values(await limiter.limits())
    expect(states.map((state) => state.running)).toEqual([0])
  })
})

describe('wrong options', () => {
  const wrong: readonly (readonly [string, unknown, string])[] = [
    ['no object', null, 'createLimiter takes an object of options'],
    ['an unknown name', { limit: [] }, 'createLimiter has no option "limit"'],
    ['limits that are no list', { limits: {} }, 'limits must be an array'],
    ['an unknown name in a limit', { limits: [{ rpm: 5 }] }, 'limits[0] has no option "rpm"'],
    ['concurrency 0', { limits: [{ concurrency: 0 }] }, 'limits[0].concurrency must be a whole number of at least 1'],
    ['concurrency 1.5', { limits: [{ concurrency: 1.5 }] }, 'whole number'],
    ['concurrency Infinity', { limits: [{ concurrency: Infinity }] }, 'leave it out'],
    [
      'requests NaN',
      { limits: [{ requestsPerMinute: Number.NaN }] },
      'limits[0].requestsPerMinute must be a number above 0, not NaN'
    ],
    ['requests below 0', { limits: [{ requestsPerMinute: -5 }] }, 'above 0, not -5'],
    ['requests Infinity', { limits: [{ requestsPerMinute: Infinity }] }, 'leave it out for no limit'],
    ['tokens 0', { limits: [{ tokensPerMinute: 0 }] }, 'limits[0].tokensPerMinute must be a number above 0'],
    ['tokens as text', { limits: [{ tokensPerMinute: '500' }] }, 'not string'],
    ['not one request a window', { limits: [{ requestsPerMinute: 30, windowMs: 1000 }] }, 'give a longer windowMs'],
    ['windowMs 0', { limits: [{ requestsPerMinute: 1, windowMs: 0 }] }, 'limits[0].windowMs must be a number above 0'],
    ['a limit of nothing', { limits: [{ by: 'tenant' }] }, 'limits[0] limits nothing'],
    ['an unknown part', { limits: [{ by: 'user', concurrency: 1 }] }, `limits[0].by must be 'provider', 'model', 'tenant'`],
    ['a part twice', { limits: [{ by: ['model', 'model'] }] }, 'each once'],
    ['an unknown part in only', { limits: [{ only: { user: 'a' } }] }, 'limits[0].only has no option "user"'],
    ['a number in only', { limits: [{ only: { model: 5 } }] }, 'limits[0].only.model must be a string'],
    [
      'the same limit twice',
      { limits: [{ concurrency: 1 }, { by: ['model', 'provider'], concurrency: 2 }] },
      'the same one twice'
    ],
    ['a budget of nothing', { budgets: [{}] }, 'budgets[0] needs usd or tokens, one of them'],
    ['a budget of both', { budgets: [{ usd: 1, tokens: 1 }] }, 'one of them'],
    ['a budget of NaN', { budgets: [{ usd: Number.NaN }] }, 'budgets[0].usd must be a number above 0'],
    ['a budget per week', { budgets: [{ usd: 1, per: 'week' }] }, `or 'hour' or 'day'`],
    ['the same budget twice', { budgets: [{ usd: 1 }, { usd: 2 }] }, 'budgets holds the same one twice'],
    ['an empty name', { name: '' }, 'name must be a non-empty string'],
    ['a store that is none', { store: {} }, 'store must be a LimitStore'],
    ['an unknown way to fail', { whenStoreFails: 'retry' }, `'deny', 'allow' or 'localShare'`],
    ['half a process', { processes: 0.5 }, 'processes must be a whole number'],
    ['a queue below 0', { maxQueue: -1 }, 'maxQueue must be a whole number of at least 0'],
    ['a wait of NaN', { queueMs: Number.NaN }, 'queueMs must be a number of milliseconds'],
    ['a price that is no function', { price: 5 }, 'price must be a function'],
    ['a clock that is no function', { now: 5 }, 'now must be a function']
  ]
  it.each(wrong)('are a TypeError that says what to write: %s', (_, options, text) => {
    expect(() => createLimiter(options as LimiterOptions)).toThrow(TypeError)
    expect(() => createLimiter(options as LimiterOptions)).toThrow(text)
  })

  it('asks how many processes share a store, unless nobody has a share', () => {
    const store = { take() {}, end() {}, learn() {}, state() {}, close() {} } as never
    expect(() => createLimiter({ store })).toThrow('give processes')
    createLimiter({ store, processes: 4 })
    createLimiter({ store, whenStoreFails: 'deny' })
  })

  it.each([
    ['a text', '500', 'a cost is an object'],
    ['null', null, 'not null'],
    ['an unknown field', { token: 5 }, 'a cost has no field "token"'],
    ['NaN', { tokens: Number.NaN }, 'tokens of a cost is a number from 0 up, not NaN'],
    ['a negative number', { maxTokens: -1 }, 'maxTokens of a cost'],
    ['Infinity', { maxUsd: Infinity }, 'maxUsd of a cost'],
    ['a number as text', { tokens: '5' }, 'not string'],
    ['a number for a tenant', { tenant: 5 }, 'tenant of a cost is a string']
  ])('of a call are a rejected TypeError: a cost of %s', async (_, cost, text) => {
    const limiter = createLimiter(oneLimit)
    const acquired = limiter.acquire(cost as never)
    await expect(acquired).rejects.toThrow(TypeError)
    await expect(acquired).rejects.toThrow(text)
    await expect(limiter.acquire({}, { priority: Number.NaN })).rejects.toThrow('priority must be')
    await expect(limiter.acquire({}, { queueMs: -1 })).rejects.toThrow('queueMs must be')
    expect(limiter.stats()).toMatchObject({ running: 0, queued: 0 })
  })
})
