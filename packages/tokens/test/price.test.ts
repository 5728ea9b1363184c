import type { Usage } from '@millrace/core'
import { heapAfterGc } from '@millrace/testkit'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type CostPart, contextWindow, cost, createPrices } from '../src/price.ts'

const seed = 20_261_123

function usage(
  uncached: number,
  text: number,
  more: Partial<Record<'cacheRead' | 'cacheWrite' | 'reasoning', number>> = {}
): Usage {
  const { cacheRead = 0, cacheWrite = 0, reasoning = 0 } = more
  return { input: { uncached, cacheRead, cacheWrite }, output: { text, reasoning }, estimated: false, billed: true }
}

const million = usage(1e6, 1e6)
const november = new Date('2026-11-20T12:00:00Z')

describe('published prices, in US dollars for a million tokens, as of 2026-11-20', () => {
  test.each([
    // model, input, cache read, cache write, output
    ['gpt-4o', 2.5, 1.25, undefined, 10], // openai.com/api/pricing, unchanged since 2024-10
    ['gpt-4o-mini', 0.15, 0.075, undefined, 0.6],
    ['gpt-4.1', 2, 0.5, undefined, 8], // since 2025-04-14
    ['gpt-4.1-mini', 0.4, 0.1, undefined, 1.6],
    ['gpt-5', 1.25, 0.125, undefined, 10], // since 2025-08-07
    ['o3', 2, 0.5, undefined, 8], // since 2025-06-10
    ['gpt-6.2-sol', 2, 0.1, 2.5, 10], // developers.openai.com/api/docs/models/gpt-6.2-sol
    ['claude-sonnet-4-5', 3, 0.3, 3.75, 15], // platform.claude.com/docs/en/about-claude/pricing
    ['claude-haiku-4-5', 1, 0.1, 1.25, 5],
    ['claude-opus-5-5', 4, 0.2, 5, 20],
    ['claude-sonnet-5-5', 2, 0.1, 2.5, 10], // cache reads were 0.20 before 2026-10-07
    ['gemini-2.5-flash', 0.3, 0.03, undefined, 2.5], // ai.google.dev/gemini-api/docs/pricing
    ['gemini-2.5-pro', 1.25, 0.125, undefined, 10]
  ])('%s', (model, input, cacheRead, cacheWrite, output) => {
    const price = createPrices().priceOf(model, { at: november })
    expect(price?.inputPerMillion).toBe(input)
    expect(price?.cacheReadPerMillion).toBe(cacheRead)
    expect(price?.cacheWritePerMillion).toBe(cacheWrite)
    expect(price?.outputPerMillion).toBe(output)
  })

  test('a real call: 12,000 tokens read from the cache, 800 new, 350 of output', () => {
    const called = cost(usage(800, 300, { cacheRead: 12_000, reasoning: 50 }), 'gpt-4.1-mini', { at: november })
    expect(called).toMatchObject({ currency: 'USD', estimated: false, assumed: [], provider: 'openai', model: 'gpt-4.1-mini' })
    expect(called?.input).toBeCloseTo(0.00032, 12)
    expect(called?.cacheRead).toBeCloseTo(0.0012, 12)
    expect(called?.output).toBeCloseTo(0.00048, 12)
    expect(called?.reasoning).toBeCloseTo(0.00008, 12)
    expect(called?.total).toBeCloseTo(0.00208, 12)
  })
})

describe('what makes a call dearer or cheaper', () => {
  test('the hour for which a prompt is cached at Anthropic, and the twelve hours at OpenAI', () => {
    const written = usage(0, 0, { cacheWrite: 1e6 })
    expect(cost(written, 'claude-sonnet-4-5')?.total).toBeCloseTo(7.5, 9) // above 200,000 tokens it was twice 3.75
    expect(cost(usage(0, 0, { cacheWrite: 1e5 }), 'claude-sonnet-4-5')?.total).toBeCloseTo(0.375, 9)
    expect(cost(usage(0, 0, { cacheWrite: 1e5 }), 'claude-sonnet-4-5', { longCacheWrites: true })?.total).toBeCloseTo(0.6, 9)
    expect(cost(usage(0, 0, { cacheWrite: 1e5 }), 'gpt-6.2-sol', { longCacheWrites: true })?.total).toBeCloseTo(0.5, 9)
  })

  test('a long prompt: the whole request is charged at the higher rates, cached tokens count towards it', () => {
    expect(cost(usage(200_000, 1000), 'gemini-2.5-pro')?.total).toBeCloseTo(0.25 + 0.01, 9)
    expect(cost(usage(200_001, 1000), 'gemini-2.5-pro')?.total).toBeCloseTo(0.5000025 + 0.015, 9)
    expect(cost(usage(1, 0, { cacheRead: 200_000 }), 'gemini-2.5-pro')?.cacheRead).toBeCloseTo(0.05, 9)
  })

  test('the date, and the time of day', () => {
    const before = new Date('2025-06-01T00:00:00Z')
    expect(cost(million, 'o3', { at: before })?.total).toBe(50)
    expect(cost(million, 'o3', { at: november })?.total).toBe(10)
    const night = new Date('2026-01-01T00:29:59Z')
    const day = new Date('2026-01-01T00:30:00Z')
    expect(cost(million, 'deepseek-chat', { at: night })?.total).toBeCloseTo(0.685, 9)
    expect(cost(million, 'deepseek-chat', { at: day })?.total).toBeCloseTo(1.37, 9)
    expect(cost(million, 'claude-sonnet-5-5', { at: new Date('2026-10-01') })).not.toBeNull()
    expect(createPrices().priceOf('claude-sonnet-5-5', { at: new Date('2026-10-01') })?.cacheReadPerMillion).toBe(0.2)
  })

  test('a batch: half at the providers that publish it, null at those that do not', () => {
    for (const model of ['gpt-4.1', 'claude-sonnet-5', 'gemini-2.5-flash', 'groq/llama-3.1-8b-instant', 'mistral-large-2512']) {
      const once = cost(usage(1000, 1000), model)
      expect(cost(usage(1000, 1000), model, { batch: true })?.total).toBeCloseTo((once?.total ?? Number.NaN) / 2, 12)
    }
    expect(cost(million, 'deepseek-chat', { batch: true })).toBeNull()
    expect(cost(million, 'grok-4.7', { batch: true })).toBeNull()
    const own = createPrices({ overrides: { 'grok-4.7': { batchFactor: 0.8 } } })
    expect(own.cost(usage(1000, 0), 'grok-4.7', { batch: true })?.total).toBeCloseTo(0.0016, 12)
  })

  test('a batch with cached tokens: both discounts at OpenAI and Anthropic, the cache alone at Google', () => {
    const read = usage(0, 0, { cacheRead: 100_000 })
    expect(cost(read, 'claude-sonnet-5', { batch: true })?.total).toBeCloseTo(0.01, 12)
    expect(cost(read, 'gemini-2.5-flash', { batch: true })?.total).toBeCloseTo(0.003, 12)
  })

  test('a provider that asks something for the request itself', () => {
    expect(cost(usage(1000, 0), 'sonar')).toMatchObject({ input: 0.001, request: 0.012 })
  })

  test('reasoning at a rate of its own, or at that of other output', () => {
    const reasoned = usage(0, 1e6, { reasoning: 1e6 })
    expect(cost(reasoned, 'sonar-deep-research')).toMatchObject({ output: 8, reasoning: 3 })
    expect(cost(reasoned, 'o3')).toMatchObject({ output: 8, reasoning: 8, assumed: [] })
  })
})

describe('usage that was not billed', () => {
  const hit: Usage = { ...usage(1000, 1000, { cacheRead: 10, cacheWrite: 10, reasoning: 10 }), billed: false }

  test('costs nothing, and can be asked what it saved', () => {
    expect(cost(hit, 'gpt-4o')).toMatchObject({ total: 0, input: 0, cacheRead: 0, output: 0, reasoning: 0, request: 0 })
    expect(cost(hit, 'sonar')?.total).toBe(0)
    expect(cost({ ...hit, billed: true }, 'gpt-4o')?.total).toBeGreaterThan(0.0125)
  })

  test('of an unknown model is null too: null always says that the model is not in the table', () => {
    expect(cost(hit, 'nobody-knows')).toBeNull()
  })
})

describe('what is not known', () => {
  const unknown = ['nobody-knows', '', ' ', '*', '/', ':', 'openai/', '__proto__', 'constructor', 'toString', 'hasOwnProperty']

  test.each(unknown)('%j has no price and no window, with any provider', (model) => {
    const prices = createPrices({ overrides: { 'my-model': { inputPerMillion: 1, outputPerMillion: 1 } } })
    for (const provider of [undefined, 'openai', 'azure', 'nobody', '__proto__', 'constructor', '']) {
      expect(prices.cost(million, model, { provider })).toBeNull()
      expect(prices.cost(usage(0, 0), model, { provider })).toBeNull()
      expect(prices.contextWindow(model, provider)).toBeNull()
      expect(prices.priceOf(model, { provider })).toBeNull()
    }
  })

  test('a name as long as a prompt is not looked up, nor kept', () => {
    expect(cost(million, 'gpt-4o'.padEnd(1_000_000, '-'))).toBeNull()
    expect(contextWindow('gpt-4o', 'x'.repeat(1_000_000))).toBeNull()
  })

  test('a provider that is not known has no prices, even of a model that is', () => {
    expect(cost(million, 'gpt-4o', { provider: 'my-gateway' })).toBeNull()
    expect(cost(million, 'gpt-4o', { provider: 'not-openai' })).toBeNull()
    expect(cost(million, 'acme/gpt-4o')).toBeNull()
  })

  test('a model that the table has without a price, or as free of charge, is null and not 0', () => {
    expect(cost(million, 'gemma-4-31b-it', { provider: 'google' })).toBeNull()
    expect(contextWindow('gemma-4-31b-it', 'google')).toBe(262_144)
    const free = createPrices({ overrides: { 'gemma-4-31b-it': { inputPerMillion: 0, outputPerMillion: 0 } } })
    expect(free.cost(million, 'gemma-4-31b-it')?.total).toBe(0)
  })

  test('a price that the table has from another seller only is null', () => {
    expect(cost(million, 'gpt-oss-120b', { provider: 'openai' })).toBeNull()
    expect(cost(million, 'openai/gpt-oss-120b', { provider: 'groq' })?.total).toBeCloseTo(0.75, 9)
  })

  test('output has no fallback: an embedding model that answers is null, one that does not is priced', () => {
    expect(cost(usage(1e6, 0), 'text-embedding-3-small')?.total).toBe(0.02)
    expect(cost(usage(1e6, 1), 'text-embedding-3-small')).toBeNull()
    expect(cost(usage(1e6, 0, { reasoning: 1 }), 'text-embedding-3-small')).toBeNull()
  })

  test('cached tokens without a rate are charged at the dearest that could hold, and the cost says so', () => {
    const cached = usage(0, 0, { cacheRead: 1e5, cacheWrite: 1e5 })
    expect(cost(cached, 'gpt-3.5-turbo')).toMatchObject({
      cacheRead: 0.05,
      cacheWrite: 0.125,
      assumed: ['cacheRead', 'cacheWrite'],
      estimated: true
    })
    expect(cost(usage(1000, 0), 'gpt-3.5-turbo')).toMatchObject({ assumed: [], estimated: false })
    const atBedrock = cost(cached, 'us.anthropic.claude-sonnet-4-6', { longCacheWrites: true })
    expect(atBedrock?.assumed).toEqual(['cacheWrite'])
    expect(atBedrock?.cacheWrite).toBeCloseTo(0.825, 9)
  })

  test('a usage that is no count is null', () => {
    for (const wrong of [-1, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(cost(usage(wrong, 0), 'gpt-4o')).toBeNull()
      expect(cost(usage(0, wrong), 'gpt-4o')).toBeNull()
      expect(cost(usage(0, 0, { cacheRead: wrong }), 'gpt-4o')).toBeNull()
      expect(cost(usage(0, 0, { cacheWrite: wrong }), 'gpt-4o')).toBeNull()
      expect(cost(usage(0, 0, { reasoning: wrong }), 'gpt-4o')).toBeNull()
    }
  })

  test('a date that is none is refused', () => {
    expect(() => cost(million, 'gpt-4o', { at: new Date('never') })).toThrow(/write at: new Date/)
  })
})

test('tokens that we counted ourselves make the cost an estimate', () => {
  expect(cost({ ...million, estimated: true }, 'gpt-4o')?.estimated).toBe(true)
})

test('the same model has two prices at two providers', () => {
  const model = 'llama-3.3-70b-versatile'
  expect(cost(million, model)).toBeNull()
  expect(cost(million, model, { provider: 'groq' })?.total).toBeCloseTo(1.38, 9)
  expect(cost(million, 'o4-mini', { provider: 'azure' })?.provider).toBe('azure')
  const claude = 'claude-haiku-4-5-20251001'
  expect(cost(usage(1e5, 0), claude)?.total).toBeCloseTo(0.1, 9)
  expect(cost(usage(1e5, 0), claude, { provider: 'bedrock' })?.total).toBeCloseTo(0.11, 9)
  expect(createPrices({ provider: 'bedrock' }).cost(usage(1e5, 0), claude)?.total).toBeCloseTo(0.11, 9)
})

describe('context windows', () => {
  test.each([
    ['gpt-3.5-turbo', 16_385],
    ['gpt-4', 8_192],
    ['gpt-4-turbo', 128_000],
    ['gpt-4o', 128_000],
    ['gpt-4o-mini', 128_000],
    ['gpt-4.1', 1_000_000], // OpenAI says 1,047,576; the table rounds down
    ['o3', 200_000],
    ['o4-mini', 200_000],
    ['gpt-5', 400_000],
    ['gpt-6-sol', 1_050_000],
    ['gpt-6.2-sol', 1_050_000],
    ['ft:gpt-4o-2024-08-06:acme::a1', 128_000],
    ['claude-3-5-sonnet-latest', 200_000],
    ['claude-sonnet-4-5', 200_000],
    ['claude-opus-4-8', 1_000_000],
    ['claude-sonnet-5-5', 1_000_000],
    ['gemini-2.5-pro', 1_048_576],
    ['gemini-2.5-flash', 1_048_576],
    ['gemini-3.1-pro-preview', 1_048_576],
    ['mistral-large-latest', 128_000],
    ['groq/llama-3.3-70b-versatile', 131_072],
    ['deepseek-v4-pro', 1_000_000],
    ['grok-4.7', 500_000],
    ['command-r-plus', 128_000]
  ])('%s: %i tokens', (model, tokens) => {
    expect(contextWindow(model)).toBe(tokens)
  })
})

describe(`for any usage of any model (seed ${seed})`, () => {
  const count = fc.oneof(
    fc.constantFrom(0, 1, 271_999, 272_000, Number.MIN_VALUE, Number.MAX_SAFE_INTEGER, Number.MAX_VALUE),
    fc.nat(),
    fc.double({ min: 0, noNaN: true, noDefaultInfinity: true })
  )
  const any = fc.record({
    input: fc.record({ uncached: count, cacheRead: count, cacheWrite: count }),
    output: fc.record({ text: count, reasoning: count }),
    estimated: fc.boolean(),
    billed: fc.boolean()
  })
  const models = ['gpt-4o', 'gpt-3.5-turbo', 'gpt-5.4', 'o1-pro', 'claude-sonnet-4-5', 'gemini-2.5-pro', 'sonar', 'deepseek-chat']
  const options = fc.record({
    batch: fc.constantFrom(undefined, true as const),
    longCacheWrites: fc.constantFrom(undefined, true as const),
    at: fc.date({ noInvalidDate: true, min: new Date('2020-01-01'), max: new Date('2030-01-01') })
  })
  const order: readonly CostPart[] = ['input', 'cacheRead', 'cacheWrite', 'output', 'reasoning', 'request']

  test('the parts add up, and no amount is negative, infinite or no number', () => {
    let priced = 0
    fc.assert(
      fc.property(any, fc.constantFrom(...models), options, (given, model, how) => {
        const known = cost(given, model, how)
        if (known === null) {
          expect(how.batch).toBe(true)
          return
        }
        priced++
        const parts = order.map((part) => known[part])
        for (const amount of [known.total, ...parts]) {
          expect(Number.isFinite(amount)).toBe(true)
          expect(amount).toBeGreaterThanOrEqual(0)
        }
        expect(parts.reduce((sum, part) => sum + part, 0)).toBe(known.total)
        if (!given.billed) expect(known.total).toBe(0)
      }),
      { seed, numRuns: 2000 }
    )
    expect(priced).toBeGreaterThan(1000)
  })

  test('a batch never costs more, and one more token never less', () => {
    const some = fc.integer({ min: 0, max: 400_000 })
    fc.assert(
      fc.property(some, some, some, fc.constantFrom(...models), (uncached, cacheRead, text, model) => {
        const at = november
        const once = cost(usage(uncached, text, { cacheRead }), model, { at })?.total ?? Number.NaN
        const batched = cost(usage(uncached, text, { cacheRead }), model, { at, batch: true })
        if (batched !== null) expect(batched.total).toBeLessThanOrEqual(once)
        expect(cost(usage(uncached + 1, text, { cacheRead }), model, { at })?.total).toBeGreaterThan(once)
      }),
      { seed, numRuns: 500 }
    )
  })
})

test('keeps no more than 500 names, however many are asked for, and answers the first anew', async () => {
  const prices = createPrices()
  const ask = (round: number): void => {
    for (let index = 0; index < 10_000; index++) prices.contextWindow(`${round}-${index}-`.padEnd(250, 'x'), 'openai')
  }
  ask(0)
  const before = await heapAfterGc()
  ask(1)
  // 10,000 names and their answers are 4 MB.
  expect((await heapAfterGc()) - before).toBeLessThan(1_000_000)
  expect(prices.contextWindow('gpt-4o')).toBe(128_000)
})
