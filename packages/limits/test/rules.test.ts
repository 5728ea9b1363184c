import { seededRandom } from '@millrace/testkit'
import { describe, expect, it } from 'vitest'
import { type Cost, createLimiter, type Subject } from '../src/index.ts'
import { checkLimiterOptions, type LimiterOptions } from '../src/limiter-options.ts'
import { createRules, type Rules } from '../src/rules.ts'

function rulesOf(options: LimiterOptions): Rules {
  const { rates, budgets } = checkLimiterOptions(options)
  return createRules(rates, budgets)
}
const keysOf = (rules: Rules, subject: Subject): string[] => rules.demand({ ...subject, tokens: 1 }).asks.map(({ key }) => key)

describe('rules', () => {
  it('ask of each limit that holds the call, and put those kept by tenant last', () => {
    const rules = rulesOf({
      limits: [
        { by: 'tenant', concurrency: 2 },
        { by: 'provider', requestsPerMinute: 600 },
        { only: { model: 'large' }, concurrency: 1 },
        { only: { provider: 'other' }, concurrency: 1 }
      ],
      budgets: [{ tokens: 100 }, { by: 'provider', tokens: 1000, per: 'hour' }]
    })
    const { asks, shared } = rules.demand({ provider: 'p', model: 'large', tenant: 't', tokens: 5, maxTokens: 50 })
    expect(asks.map(({ kind }) => kind)).toEqual(['rate', 'rate', 'budget', 'rate', 'budget'])
    expect(shared).toBe(3)
    expect(asks[2]).toMatchObject({ limit: 1000, windowMs: 3_600_000, amount: 50, unit: 'tokens' })
    expect(asks[4]).toMatchObject({ limit: 100, windowMs: 86_400_000, amount: 50 })
    expect(rules.demand({ model: 'small', tokens: 5 }).asks.filter(({ kind }) => kind === 'rate')).toHaveLength(2)
  })

  it('counts a rate in its window', () => {
    const rules = rulesOf({ limits: [{ requestsPerMinute: 600, tokensPerMinute: 60_000, windowMs: 1000 }] })
    expect(rules.demand({}).asks[0]).toMatchObject({
      terms: { requests: 10, tokens: 1000, windowMs: 1000, concurrency: Infinity, adaptive: true }
    })
  })

  it('refuse more tokens than a limit ever has, for good', async () => {
    const limiter = createLimiter({ limits: [{ tokensPerMinute: 1000 }] })
    await expect(limiter.acquire({ tokens: 1001 })).rejects.toMatchObject({ code: 'rate-limited', retryable: false })
    await limiter.acquire({ tokens: 1000 })
    expect(limiter.stats().refused.tooLarge).toBe(1)
  })

  it('are named in errors, with numbers and without whom they hold', async () => {
    const limiter = createLimiter({
      limits: [{ requestsPerMinute: 2, tokensPerMinute: 9000 }],
      budgets: [{ tokens: 5000 }, { by: [], usd: 0.3, only: { model: 'dear' } }],
      queueMs: 0
    })
    const told = (cost: Cost): Promise<string> =>
      limiter.acquire(cost).then(
        () => 'let in',
        (error: Error) => error.message
      )
    const tenant = 'canary'
    await limiter.run({ tenant, tokens: 960 }, () => 0)
    expect(await told({ tenant, tokens: 1000, maxTokens: 4117 })).toBe(
      'budgets[0] (by tenant): 4040 of 5000 tokens left, the call may take 4117: set maxOutputTokens, or a lower one'
    )
    expect(await told({ model: 'dear', maxUsd: 0.5 })).toBe(
      'budgets[1]: 0.3 of 0.3 USD left, the call may take 0.5: give it a lower maxUsd'
    )
    expect(await told({ model: 'dear' })).toMatch(/^budgets\[1\] is in USD and the price of the call is not known/)
    expect(await told({ tokens: 9001 })).toBe(
      'the call needs 9001 tokens and limits[0] (by provider, model) never has more than 9000'
    )
    for (const expected of ['let in', 'limits[0] (by provider, model) would make the call wait longer than queueMs allows']) {
      expect(await told({ tenant, tokens: 1 })).toBe(expected)
    }
    expect(() => createLimiter({ budgets: [{ usd: 1, per: 32 * 86_400_000 }] })).toThrow(/per is 31 days/)
  })

  it('never make one key of two subjects, limits or names, whatever is in them', () => {
    const seed = 11
    const random = seededRandom(seed)
    const pieces = ['', '1', ':', '|', '1:', '|r0|', '0:', 'a', '#', '\n', 'x'.repeat(128), 'x'.repeat(129)]
    const value = (): string =>
      Array.from({ length: Math.floor(random() * 4) }, () => pieces[Math.floor(random() * pieces.length)]).join('')
    const seen = new Map<string, string>()
    for (const name of ['a', 'a|r0', '1:a', 'a|r0|1:b']) {
      const rules = rulesOf({
        name,
        limits: [{ by: ['provider', 'model', 'tenant'], concurrency: 1 }, { by: ['provider', 'model'] }, { by: 'model' }]
      })
      for (let round = 0; round < 2000; round++) {
        const subject = { provider: value(), model: value(), tenant: value() }
        const [first, second, third] = keysOf(rules, subject)
        const { provider, model, tenant } = subject
        // The one by tenant comes last.
        for (const [key, parts] of [
          [first, [name, 1, provider, model]],
          [second, [name, 2, model]],
          [third, [name, 0, provider, model, tenant]]
        ] as const) {
          const id = JSON.stringify(parts)
          expect(seen.get(key ?? '') ?? id, `seed ${seed}`).toBe(id)
          seen.set(key ?? '', id)
          expect(key?.length).toBeLessThan(600)
        }
      }
    }
  })

  it('make the same keys again for more subjects than they remember, long and short, and without a part', () => {
    const rules = rulesOf({ limits: [{ by: [] }, { by: 'model' }, { by: ['provider', 'model', 'tenant'], concurrency: 1 }] })
    const subjects = Array.from({ length: 2500 }, (_, index) => ({
      provider: `p${index % 3}`,
      model: index % 7 === 0 ? undefined : `m${index % 50}`,
      tenant: `${index % 11 === 0 ? 'x'.repeat(200) : ''}${index}`
    }))
    const first = subjects.map((subject) => keysOf(rules, subject))
    expect(new Set(first.map(([all]) => all)).size).toBe(1)
    expect(new Set(first.map(([, model]) => model)).size).toBe(51)
    expect(new Set(first.map(([, , each]) => each)).size).toBe(2500)
    expect(subjects.map((subject) => keysOf(rules, subject))).toEqual(first)
    expect(subjects.toReversed().map((subject) => keysOf(rules, subject))).toEqual(first.toReversed())
  })

  it('count a part that is left out as one of its own', () => {
    const rules = rulesOf({ limits: [{ by: 'model' }] })
    expect(keysOf(rules, {})).toEqual(keysOf(rules, { model: '', provider: 'any' }))
    expect(keysOf(rules, {})).not.toEqual(keysOf(rules, { model: 'm' }))
  })
})
