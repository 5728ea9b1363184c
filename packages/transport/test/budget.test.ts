import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createBudget } from '../src/budget.ts'

const seed = 20_261_123

describe('a budget', () => {
  test('begins with its reserve, then grants one retry for so many calls', () => {
    const budget = createBudget({ ratio: 0.25, reserve: 3 })
    expect([1, 2, 3, 4].map(() => budget.take())).toEqual([true, true, true, false])
    for (let call = 0; call < 3; call++) budget.deposit()
    expect(budget.take()).toBe(false)
    budget.deposit()
    expect([budget.take(), budget.take()]).toEqual([true, false])
    expect(budget.stats()).toEqual({ retries: 4, denied: 3 })
  })

  test('saves up no more than its reserve, however long all goes well', () => {
    const budget = createBudget({ ratio: 0.1, reserve: 10 })
    for (let call = 0; call < 100_000; call++) budget.deposit()
    let granted = 0
    while (budget.take()) granted++
    expect(granted).toBe(10)
  })

  test('takes back a retry that was not sent', () => {
    const budget = createBudget({ ratio: 0, reserve: 1 })
    budget.take()
    budget.putBack()
    budget.putBack()
    expect([budget.take(), budget.take()]).toEqual([true, false])
  })

  test('is without end when its reserve is', () => {
    const budget = createBudget({ ratio: 0, reserve: Number.POSITIVE_INFINITY })
    for (let retry = 0; retry < 100_000; retry++) expect(budget.take()).toBe(true)
    expect(budget.stats()).toEqual({ retries: 100_000, denied: 0 })
  })

  test(`never grants more than reserve + ratio * calls, in any order (seed ${seed})`, () => {
    const steps = fc.array(fc.constantFrom('call', 'take', 'put back' as const), { maxLength: 400 })
    fc.assert(
      fc.property(fc.double({ min: 0, max: 2, noNaN: true }), fc.integer({ min: 1, max: 20 }), steps, (ratio, reserve, order) => {
        const budget = createBudget({ ratio, reserve })
        let calls = 0
        let out = 0
        for (const step of order) {
          if (step === 'call') {
            budget.deposit()
            calls++
          } else if (step === 'take') {
            if (budget.take()) out++
          } else if (out > 0) {
            budget.putBack()
            out--
          }
          expect(out).toBeLessThanOrEqual(reserve + ratio * calls + 1e-6)
          expect(budget.stats().retries).toBe(out)
        }
      }),
      { seed, numRuns: 500 }
    )
  })
})
