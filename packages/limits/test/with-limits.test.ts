import { setTimeout as delay } from 'node:timers/promises'
import {
  type CallOptions,
  CallTally,
  type ChatRequest,
  type Chunk,
  collect,
  isMillraceError,
  MillraceError,
  nextBatch,
  type Provider,
  startDeadline,
  type Usage
} from '@millrace/core'
import { createLimiter, type Limiter, type LimiterOptions, type Permit, withLimits } from '@millrace/limits'
import { afterEach, describe, expect, it } from 'vitest'

const request: ChatRequest = {
  model: 'm',
  messages: [{ role: 'user', content: 'How long is the coast of Norway?' }],
  maxOutputTokens: 50
}
const usage: Usage = {
  input: { uncached: 30, cacheRead: 10, cacheWrite: 0 },
  output: { text: 20, reasoning: 0 },
  estimated: false,
  billed: true
}
const start: Chunk = { type: 'start', provider: 'p', model: 'm' }
const answer: readonly Chunk[] = [
  start,
  { type: 'text', text: 'Long.' },
  { type: 'usage', usage },
  { type: 'finish', reason: 'stop' }
]

const limiters: Limiter[] = []
afterEach(async () => {
  for (const limiter of limiters.splice(0)) await limiter.close()
})

function limited(provider: Provider, options: LimiterOptions = { limits: [{ tokensPerMinute: 60_000, concurrency: 4 }] }) {
  const limiter = createLimiter({ ...options, now: () => 0 })
  limiters.push(limiter)
  return { limiter, provider: withLimits(limiter, { provider: 'p' })(provider) }
}

async function* answering(): AsyncGenerator<Chunk, undefined> {
  yield* answer
}

/** Tokens that are left of 60,000, with a clock that stands still. */
async function left(limiter: Limiter): Promise<number> {
  return Object.values(await limiter.limits())[0]?.tokensLeft ?? 60_000
}

describe('withLimits', () => {
  it('reserves an estimate while the call runs, and settles it with the usage', async () => {
    const { limiter, provider } = limited(answering)
    const iterator = provider(request, {})[Symbol.asyncIterator]()
    expect(limiter.stats().running).toBe(0)
    await iterator.next()
    expect(limiter.stats().running).toBe(1)
    const reserved = 60_000 - (await left(limiter))
    // The text's tokens, and as many as the answer may have.
    expect(reserved).toBeGreaterThan(50)
    expect(reserved).toBeLessThan(80)
    while ((await iterator.next()).done !== true) {}
    expect(limiter.stats()).toMatchObject({ running: 0, granted: 1 })
    expect(60_000 - (await left(limiter))).toBe(60)
  })

  it('hands on all chunks as they are, in their batches, and tells nothing of a call that did not wait', async () => {
    const { provider } = limited(answering)
    const chunks: Chunk[] = []
    const iterator = provider(request, {})[Symbol.asyncIterator]()
    for (let batch = await nextBatch(iterator); batch !== undefined; batch = await nextBatch(iterator)) chunks.push(...batch)
    expect(chunks).toEqual(answer)
  })

  it('tells in a note right behind the start how long a call waited, and tells the tally', async () => {
    const limiter = createLimiter({ limits: [{ concurrency: 1 }] })
    limiters.push(limiter)
    const provider = withLimits(limiter, { provider: 'p' })(answering)
    const permit = await limiter.acquire({ provider: 'p', model: 'm' })
    const tally = new CallTally()
    const waiting = collect(provider(request, { tally }))
    await delay(40)
    expect(limiter.stats().queued).toBe(1)
    permit.settle()
    const { notes, text } = await waiting
    expect(text).toBe('Long.')
    expect(notes.limits?.waitedMs).toBeGreaterThan(30)
    expect(tally.otherMs).toBeGreaterThan(30)
  })

  it('takes what the call itself says it takes, and waits no longer than it says', async () => {
    const { limiter, provider } = limited(answering, { limits: [{ tokensPerMinute: 1000 }] })
    await expect(collect(provider(request, { limits: { tokens: 5000 } }))).rejects.toSatisfy((error) =>
      isMillraceError(error, 'rate-limited')
    )
    const iterator = provider(request, { limits: { tokens: 900 } })[Symbol.asyncIterator]()
    await iterator.next()
    // No time passes in this test: 900 more would be there in 48 s.
    await expect(collect(provider(request, { limits: { tokens: 900, queueMs: 10 } }))).rejects.toSatisfy(
      (error) => isMillraceError(error, 'rate-limited') && Number(error.details.retryAfterMs) > 1000
    )
    await iterator.return?.()
    expect(limiter.stats().running).toBe(0)
  })

  it('counts no tokens of an answer that is not billed', async () => {
    const { limiter, provider } = limited(async function* () {
      yield start
      yield { type: 'usage', usage: { ...usage, billed: false } }
      yield { type: 'finish', reason: 'stop' }
    })
    await collect(provider(request, {}))
    expect(await left(limiter)).toBe(60_000)
  })

  it('counts the prompt and what was received when the reader leaves early', async () => {
    let returned = false
    const { limiter, provider } = limited(async function* () {
      try {
        yield start
        yield { type: 'text', text: 'x'.repeat(400) }
        yield { type: 'text', text: 'y'.repeat(400) }
      } finally {
        returned = true
      }
    })
    for await (const chunk of provider(request, {})) if (chunk.type === 'text') break
    expect(returned).toBe(true)
    expect(limiter.stats().running).toBe(0)
    const spent = 60_000 - (await left(limiter))
    expect(spent).toBeGreaterThan(100)
    expect(spent).toBeLessThan(130)
  })

  it('gives all back when the caller aborts while it waits, and sends nothing', async () => {
    let sent = 0
    const { limiter, provider } = limited(
      async function* () {
        sent++
        yield* answer
      },
      { limits: [{ concurrency: 1 }] }
    )
    const permit = await limiter.acquire({ provider: 'p', model: 'm' })
    const controller = new AbortController()
    const call = collect(provider(request, { signal: controller.signal }))
    const reason = new Error('stopped by the test')
    setTimeout(() => controller.abort(reason), 10)
    await expect(call).rejects.toBe(reason)
    expect(limiter.stats()).toMatchObject({ queued: 0, running: 1 })
    permit.settle()
    expect(limiter.stats().running).toBe(0)
    expect(sent).toBe(0)
  })

  it('gives its place in the queue up when the reader leaves while it waits', async () => {
    const { limiter, provider } = limited(answering, { limits: [{ concurrency: 1 }] })
    const permit = await limiter.acquire({ provider: 'p', model: 'm' })
    const iterator = provider(request, {})[Symbol.asyncIterator]()
    const reading = iterator.next()
    await delay(5)
    expect(limiter.stats().queued).toBe(1)
    await iterator.return?.()
    expect(await reading).toEqual({ done: true, value: undefined })
    expect(limiter.stats().queued).toBe(0)
    permit.settle()
    expect(limiter.stats().running).toBe(0)
  })

  it('lowers what is asked of a provider that refuses, and passes its error on', async () => {
    const refusal = new MillraceError('rate-limited', 'too many', { details: { status: 429 } })
    const { limiter, provider } = limited(async function* () {
      yield await Promise.reject(refusal)
    })
    await expect(collect(provider(request, {}))).rejects.toBe(refusal)
    expect(limiter.stats()).toMatchObject({ running: 0, refusals: 1 })
    expect(await left(limiter)).toBe(60_000)
  })

  it('counts the estimated usage of an answer that broke off', async () => {
    const { limiter, provider } = limited(async function* () {
      yield start
      yield { type: 'text', text: 'z'.repeat(200) }
      throw new MillraceError('network', 'gone', { details: { phase: 'body' } })
    })
    await expect(collect(provider(request, {}))).rejects.toThrow('gone')
    const spent = 60_000 - (await left(limiter))
    expect(spent).toBeGreaterThan(50)
    expect(spent).toBeLessThan(80)
    expect(limiter.stats().running).toBe(0)
  })

  it('gives the place back when the provider throws at its start', async () => {
    const { limiter, provider } = limited(() => {
      throw new TypeError('wrong')
    })
    await expect(collect(provider(request, {}))).rejects.toThrow('wrong')
    expect(limiter.stats().running).toBe(0)
    expect(await left(limiter)).toBe(60_000)
  })

  it.each([
    ['no deadline', Number.POSITIVE_INFINITY],
    ['a deadline', 60_000]
  ])('gives the place of a forgotten stream with %s back when it is collected', async (_, totalMs) => {
    const { limiter, provider } = limited(answering)
    using deadline = startDeadline('total', totalMs, () => {})
    await (async () => {
      await provider(request, { deadline })[Symbol.asyncIterator]().next()
    })()
    expect(limiter.stats().running).toBe(1)
    for (let round = 0; round < 100 && limiter.stats().running > 0; round++) {
      globalThis.gc?.()
      await delay(5)
    }
    expect(limiter.stats().running).toBe(0)
  })

  it('holds nothing after 10,000 calls that end in every way', async () => {
    let number = 0
    const { limiter, provider } = limited(
      async function* () {
        const kind = number++ % 4
        if (kind === 0) throw new MillraceError('unavailable', 'no', { details: { status: 500 } })
        yield start
        if (kind === 1) throw new Error('broken')
        yield* answer.slice(1)
      },
      { limits: [{ concurrency: 50 }] }
    )
    const one = async (index: number): Promise<void> => {
      const iterator = provider(request, {})[Symbol.asyncIterator]()
      try {
        await iterator.next()
        if (index % 3 === 0) await iterator.return?.()
        else while ((await iterator.next()).done !== true) {}
      } catch {
        // What it fails with is told by the tests above.
      }
    }
    await Promise.all(Array.from({ length: 10_000 }, (_, index) => one(index)))
    expect(limiter.stats()).toMatchObject({ running: 0, queued: 0, granted: 10_000 })
  })

  it('learns how long the answers of a model are', async () => {
    const { limiter, provider } = limited(async function* () {
      yield start
      yield { type: 'usage', usage: { ...usage, input: { ...usage.input, uncached: 1 }, output: { text: 3000, reasoning: 0 } } }
      yield { type: 'finish', reason: 'stop' }
    })
    const open: ChatRequest = { model: 'm', messages: request.messages }
    const reservedOf = async (): Promise<number> => {
      const before = await left(limiter)
      const iterator = provider(open, {})[Symbol.asyncIterator]()
      await iterator.next()
      const reserved = before - (await left(limiter))
      while ((await iterator.next()).done !== true) {}
      return reserved
    }
    expect(await reservedOf()).toBeLessThan(400)
    expect(await reservedOf()).toBeGreaterThan(3000)
  })

  it('holds a budget in USD by the price of the longest answer, and settles it with that of the usage', async () => {
    const price = (spent: Usage): number => spent.output.text / 100
    const { provider } = limited(answering, { budgets: [{ usd: 1 }], price })
    const options: CallOptions = { tenant: 'a' }
    // 50 tokens at most are 0.50: two at a time, and 0.20 each in truth.
    for (let call = 0; call < 3; call++) await collect(provider(request, options))
    await expect(collect(provider({ ...request, maxOutputTokens: 90 }, options))).rejects.toSatisfy((error) =>
      isMillraceError(error, 'quota-exceeded')
    )
  })

  const badPrices: readonly (readonly [string, () => number])[] = [
    [
      'throws',
      () => {
        throw new Error('no price of this model')
      }
    ],
    ['is NaN', () => Number.NaN],
    ['is negative', () => -1],
    ['is Infinity', () => Number.POSITIVE_INFINITY]
  ]
  it.each(badPrices)('settles as reserved, counts it, and goes on, where the price of an answer %s', async (_, bad) => {
    let asked = 0
    // The first price is that of the reservation, of the model that was asked for.
    const price = (): number => (asked++ % 2 === 0 ? 0.4 : bad())
    const { limiter, provider } = limited(answering, { limits: [{ concurrency: 1 }], budgets: [{ usd: 1 }], price, queueMs: 0 })
    for (let call = 1; call <= 2; call++) {
      expect((await collect(provider(request, {}))).text).toBe('Long.')
      expect(limiter.stats()).toMatchObject({ running: 0, priceFailures: call })
    }
    await expect(collect(provider(request, {}))).rejects.toSatisfy((error) => isMillraceError(error, 'quota-exceeded'))
  })

  it.each(badPrices)("does not hide the provider's own error, nor keep the place, where the price %s", async (_, price) => {
    const broken = new MillraceError('network', 'gone', { details: { phase: 'body' } })
    const { limiter, provider } = limited(
      async function* () {
        yield start
        yield { type: 'text', text: 'some' }
        throw broken
      },
      { limits: [{ concurrency: 1 }], price }
    )
    await expect(collect(provider(request, {}))).rejects.toBe(broken)
    for await (const chunk of provider(request, {})) if (chunk.type === 'text') break
    expect(limiter.stats()).toMatchObject({ running: 0, priceFailures: 2 })
  })

  it.each([Number.NaN, -5, Number.POSITIVE_INFINITY, 999_999_999_999])(
    'settles as reserved where the usage tells %f tokens',
    async (text) => {
      const { limiter, provider } = limited(async function* () {
        yield start
        yield { type: 'usage', usage: { ...usage, output: { text, reasoning: 0 } } }
        yield { type: 'finish', reason: 'stop' }
      })
      await collect(provider(request, {}))
      expect(limiter.stats()).toMatchObject({ running: 0, usageIgnored: 1 })
      const spent = 60_000 - (await left(limiter))
      expect(spent).toBeGreaterThan(50)
      expect(spent).toBeLessThan(80)
      // Nor is it learned.
      await provider(request, {})[Symbol.asyncIterator]().next()
      expect(60_000 - (await left(limiter))).toBe(2 * spent)
    }
  )

  it.each([
    ['before a head has come is a silence', [], 1],
    ['behind the head is the caller\u2019s own', [start], 0]
  ] as const)('a total timeout %s', async (_, chunks, refusals) => {
    const { limiter, provider } = limited(async function* () {
      yield* chunks
      throw new MillraceError('timeout', 'late', { details: { clock: 'total', limitMs: 1, elapsedMs: 1 } })
    })
    await expect(collect(provider(request, {}))).rejects.toThrow('late')
    expect(limiter.stats()).toMatchObject({ running: 0, refusals })
  })

  it.each([
    ['proxied', (permit: Permit) => new Proxy(permit, {})],
    ['derived', (permit: Permit) => Object.create(permit) as Permit],
    ['copied', (permit: Permit) => ({ ...permit })]
  ])('takes a permit that is %s for none', async (_, made) => {
    const { limiter, provider } = limited(answering, { limits: [{ by: [], concurrency: 2 }] })
    await limiter.run({}, (permit) => collect(provider(request, { permit: made(permit) })))
    expect(limiter.stats()).toMatchObject({ running: 0, granted: 2 })
  })

  it('has each call inside another of one limiter wait for its own permit but the first', async () => {
    const { limiter, provider } = limited(answering, { budgets: [{ by: [], tokens: 200 }] })
    const agent: Provider = (asked, options) =>
      (async function* () {
        for (let call = 0; call < 5; call++) yield* provider(asked, options)
      })()
    const outer = withLimits(limiter, { provider: 'p' })(agent)
    await expect(collect(outer(request, {}))).rejects.toSatisfy((error) => isMillraceError(error, 'quota-exceeded'))
    expect(limiter.stats().granted).toBe(2)
  })

  it('leaves the permit it was handed alone once its call has failed', async () => {
    const { limiter, provider } = limited(() => {
      throw new MillraceError('unavailable', 'down', { details: { status: 500 } })
    })
    await limiter.run({ provider: 'p', model: 'm' }, async (permit) => {
      for (let call = 0; call < 2; call++) {
        const iterator = provider(request, { permit })[Symbol.asyncIterator]()
        await expect(iterator.next()).rejects.toThrow('down')
        await iterator.return?.()
        expect(limiter.stats()).toMatchObject({ running: 1, granted: 1 })
      }
    })
    expect(limiter.stats().running).toBe(0)
  })

  it('passes on what a provider throws, and gives the place back, though it cannot be read', async () => {
    const { proxy, revoke } = Proxy.revocable({}, {})
    revoke()
    const { limiter, provider } = limited(async function* () {
      yield start
      throw proxy
    })
    const iterator = provider(request, {})[Symbol.asyncIterator]()
    await iterator.next()
    expect(await iterator.next().catch((error: unknown) => error === proxy)).toBe(true)
    expect(limiter.stats().running).toBe(0)
  })

  it('refuses wrong options with what to write instead', () => {
    const limiter = createLimiter()
    limiters.push(limiter)
    expect(() => withLimits({} as Limiter, { provider: 'p' })).toThrow(/createLimiter/)
    expect(() => withLimits(limiter, { provider: '' })).toThrow(/name of the provider/)
    expect(() => withLimits(limiter, { provider: 'p', modle: 1 } as never)).toThrow(/no option "modle"/)
  })
})
