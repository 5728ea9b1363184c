import type { Usage } from '@millrace/core'
import { describe, expect, test } from 'vitest'
import { createPrices, type PriceOverride } from '../src/price.ts'
import { since } from './cpu.ts'

const usage: Usage = {
  input: { uncached: 1e5, cacheRead: 0, cacheWrite: 0 },
  output: { text: 1e5, reasoning: 0 },
  estimated: false,
  billed: true
}

const total = (overrides: Record<string, PriceOverride>, model: string, provider?: string): number | undefined =>
  createPrices({ overrides }).cost(usage, model, { provider })?.total

describe('an override', () => {
  test('wins over the table, and leaves the rest as the table has it', () => {
    const prices = createPrices({ overrides: { 'gpt-4o': { inputPerMillion: 2, contextWindow: 64_000 } } })
    expect(prices.cost(usage, 'gpt-4o')?.total).toBeCloseTo(0.2 + 1, 12)
    expect(prices.priceOf('gpt-4o')?.cacheReadPerMillion).toBe(1.25)
    expect(prices.contextWindow('gpt-4o')).toBe(64_000)
    expect(createPrices().cost(usage, 'gpt-4o')?.total).toBeCloseTo(1.25, 12)
  })

  test('holds whatever the prompt is long, where the table has a higher rate for long ones', () => {
    const prices = createPrices({ overrides: { 'gemini-2.5-pro': { inputPerMillion: 1 } } })
    const price = prices.priceOf('gemini-2.5-pro', { inputTokens: 300_000 })
    expect(price).toMatchObject({ inputPerMillion: 1, outputPerMillion: 15 })
  })

  test('gives a price to a model that nobody knows, once it has one for input and for output', () => {
    expect(total({ mine: { inputPerMillion: 1, outputPerMillion: 2 } }, 'Mine')).toBeCloseTo(0.3, 12)
    expect(total({ mine: { inputPerMillion: 1 } }, 'mine')).toBeUndefined()
    expect(total({ mine: { outputPerMillion: 1 } }, 'mine')).toBeUndefined()
    expect(createPrices({ overrides: { mine: { contextWindow: 1000 } } }).contextWindow('mine')).toBe(1000)
  })

  test('is taken as free when it says so', () => {
    expect(total({ local: { inputPerMillion: 0, outputPerMillion: 0 } }, 'local')).toBe(0)
  })

  test('of one provider does not hold at another', () => {
    const overrides = { 'azure/gpt-4o': { inputPerMillion: 0, outputPerMillion: 1 } }
    expect(total(overrides, 'gpt-4o', 'azure')).toBeCloseTo(0.1, 12)
    expect(total(overrides, 'gpt-4o', 'azure-openai')).toBeCloseTo(0.1, 12)
    expect(total(overrides, 'azure/gpt-4o')).toBeCloseTo(0.1, 12)
    expect(total(overrides, 'gpt-4o')).toBeCloseTo(1.25, 12)
    expect(total({ 'openai/gpt-4o': { inputPerMillion: 0 } }, 'gpt-4o')).toBeCloseTo(1, 12)
    expect(total({ 'my-gateway/gpt-4o': { inputPerMillion: 1, outputPerMillion: 1 } }, 'gpt-4o', 'my-gateway')).toBeCloseTo(
      0.2,
      12
    )
  })

  test.each([
    ['azure-openai/gpt-4o', 'azure/gpt-4o', undefined],
    ['azure-openai/gpt-4o', 'gpt-4o', 'azure'],
    ['Azure_OpenAI/gpt-4o', 'gpt-4o', 'az.ai.openai'],
    ['azure-openai:gpt-4o', 'azure/gpt-4o', undefined],
    ['azure-openai/*', 'gpt-4o', 'azure'],
    ['bedrock/mine', 'mine', 'aws'],
    ['aws/mine', 'bedrock/mine', undefined],
    ['my_gateway/mine', 'mine', 'my_gateway']
  ])('for %s holds for %s at %s: a provider has several names', (key, model, provider) => {
    expect(total({ [key]: { inputPerMillion: 1, outputPerMillion: 1 } }, model, provider)).toBeCloseTo(0.2, 12)
  })

  test("under the provider's own name wins over one under another name of it, whichever comes first", () => {
    const one = { inputPerMillion: 1, outputPerMillion: 1 }
    const two = { inputPerMillion: 2, outputPerMillion: 2 }
    expect(total({ 'bedrock/mine': one, 'aws/mine': two }, 'mine', 'aws')).toBeCloseTo(0.4, 12)
    expect(total({ 'aws/mine': two, 'bedrock/mine': one }, 'mine', 'aws')).toBeCloseTo(0.4, 12)
    expect(total({ 'bedrock/*': one, '*': two }, 'mine', 'aws')).toBeCloseTo(0.2, 12)
  })

  test('by its very name wins over a pattern, and a first pattern over a later one', () => {
    const overrides = {
      'ft:*': { inputPerMillion: 1, outputPerMillion: 1 },
      'ft:gpt-4.1:*': { inputPerMillion: 2, outputPerMillion: 2 },
      'ft:gpt-4.1:acme': { inputPerMillion: 3, outputPerMillion: 3 }
    }
    expect(total(overrides, 'ft:gpt-4.1:acme')).toBeCloseTo(0.6, 12)
    expect(total(overrides, 'ft:gpt-4.1:other')).toBeCloseTo(0.2, 12)
    const { 'ft:*': all, ...others } = overrides
    expect(total({ ...others, 'ft:*': all }, 'ft:gpt-4.1:other')).toBeCloseTo(0.4, 12)
  })

  test.each([
    ['llama-*', 'llama-4-scout', true],
    ['llama-*', 'my-llama-4', false],
    ['*-lite', 'x-lite', true],
    ['*-lite', 'x-lite-2', false],
    ['a*b*c', 'a-b-c', true],
    ['a*b*c', 'abc', true],
    ['a*b*c', 'ac', false],
    ['a*a', 'a', false],
    ['*', 'anything', true],
    ['a.c*', 'abc', false],
    ['**', 'x', true]
  ])('of the pattern %s for %s: %s', (pattern, model, holds) => {
    expect(total({ [pattern]: { inputPerMillion: 1, outputPerMillion: 1 } }, model) !== undefined).toBe(holds)
  })

  test('of a hostile pattern and name takes no time', () => {
    const prices = createPrices({ overrides: { [`${'a*'.repeat(100)}b`]: { inputPerMillion: 1, outputPerMillion: 1 } } })
    const start = process.cpuUsage()
    expect(prices.cost(usage, 'a'.repeat(250))).toBeNull()
    expect(since(start)).toBeLessThan(1000)
  })

  test('names a model of the table for a name of your own, which keeps its seller and its batch rate', () => {
    const overrides = { 'prod-chat': { sameAs: 'azure/gpt-4o' }, eu: { sameAs: 'gpt-4o', outputPerMillion: 11 } }
    const prices = createPrices({ overrides })
    expect(prices.cost(usage, 'prod-chat')).toMatchObject({ provider: 'azure', model: 'gpt-4o', total: 1.25 })
    expect(prices.cost(usage, 'prod-chat', { provider: 'my-gateway', batch: true })?.total).toBeCloseTo(0.625, 12)
    expect(prices.cost(usage, 'eu')?.total).toBeCloseTo(1.35, 12)
    expect(prices.contextWindow('prod-chat')).toBe(128_000)
  })
})

describe('refuses at creation, and says what to write', () => {
  test.each([
    [
      { 'gpt-4o': { inputPerMillion: -1 } },
      /overrides\["gpt-4o"\]\.inputPerMillion must be US dollars for a million tokens.*write/
    ],
    [{ 'gpt-4o': { outputPerMillion: Number.NaN } }, /outputPerMillion must be/],
    [{ 'gpt-4o': { outputPerMillion: Number.POSITIVE_INFINITY } }, /outputPerMillion must be/],
    [{ 'gpt-4o': { cacheReadPerMillion: '1' } }, /cacheReadPerMillion must be/],
    [{ 'gpt-4o': { contextWindow: -5 } }, /contextWindow must be tokens, a whole number above 0.*128_000/],
    [{ 'gpt-4o': { contextWindow: 0 } }, /contextWindow must be/],
    [{ 'gpt-4o': { contextWindow: 0.5 } }, /contextWindow must be/],
    [{ 'gpt-4o': { batchFactor: null } }, /batchFactor must be a factor.*0\.5/],
    [{ 'gpt-4o': { input: 1 } }, /has no option "input"; it has inputPerMillion/],
    [{ 'gpt-4o': 2 }, /takes an object/],
    [{ mine: { sameAs: 'nobody-knows' } }, /sameAs must be a model of the table/],
    [{ mine: { sameAs: 4 } }, /sameAs must be a model of the table/],
    [[], /overrides is an object by model/],
    [null, undefined]
  ])('%j', (overrides, message) => {
    const create = (): unknown => createPrices({ overrides: overrides as never })
    if (message === undefined) expect(create).not.toThrow()
    else expect(create).toThrow(expect.objectContaining({ name: 'TypeError', message: expect.stringMatching(message) }))
  })

  test('wrong options', () => {
    expect(() => createPrices({ provider: '' })).toThrow(TypeError)
    expect(() => createPrices({ overides: {} } as never)).toThrow(/has no option "overides"/)
  })
})

test('a name of the prototype is an ordinary name of a model', () => {
  const overrides = JSON.parse('{"__proto__": {"inputPerMillion": 1, "outputPerMillion": 1}}') as Record<string, PriceOverride>
  expect(total(overrides, '__proto__')).toBeCloseTo(0.2, 12)
  expect(total(overrides, 'constructor')).toBeUndefined()
})
