import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { compact, copyOf, deepFreeze, weigh } from '../src/plain.ts'

const seed = 20261123

function isFrozen(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return true
  return Object.isFrozen(value) && Object.values(value).every(isFrozen)
}

describe('plain values', () => {
  it('are frozen and weighed at any depth and in a cycle', () => {
    let deep: unknown = 'x'
    for (let level = 0; level < 200_000; level++) deep = level % 2 ? [deep] : { deep }
    const cycle: Record<string, unknown> = { deep, list: Array.from({ length: 5000 }, () => ({ a: [1] })) }
    cycle.self = cycle
    expect(Object.isFrozen(deepFreeze(cycle))).toBe(true)
    expect((cycle.list as object[]).every(isFrozen)).toBe(true)
    expect(weigh(cycle)).toBeGreaterThan(200_000 * 16)
  })

  it('are frozen and weighed in good time where one object stands in many places', () => {
    let doubled: unknown = { a: 'x' }
    for (let level = 0; level < 60; level++) doubled = [doubled, doubled]
    const startedAt = performance.now()
    deepFreeze(doubled)
    expect(weigh(doubled)).toBeLessThan(1_000_000)
    expect(performance.now() - startedAt).toBeLessThan(1000)
  })

  it(`are frozen all through, also below what is frozen already (fast-check seed ${seed})`, () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 6 }), (value) => {
        expect(isFrozen(deepFreeze(value))).toBe(true)
      }),
      { seed, numRuns: 500 }
    )
    const value = Object.freeze({ open: { inside: [1] } })
    expect(isFrozen(deepFreeze(value))).toBe(true)
  })

  it('are copied with every property, and share nothing', () => {
    const value = JSON.parse('{"a":[1,{"b":null}],"__proto__":{"c":1}}')
    const copy = copyOf(value)
    expect(JSON.stringify(copy)).toBe(JSON.stringify(value))
    expect(copy.a).not.toBe(value.a)
    expect(Object.getPrototypeOf(copy)).toBe(Object.prototype)
  })

  it('become compact as a frozen copy that leaves the original as it was', () => {
    const value = { text: `${'x'.repeat(100)}é`.slice(50), list: [1.5, { a: null }], absent: undefined }
    const kept = compact(value)
    expect(kept).toEqual({ text: value.text, list: [1.5, { a: null }] })
    expect(isFrozen(kept)).toBe(true)
    expect(Object.isFrozen(value.list)).toBe(false)
  })

  it('weigh more with every character, element and name', () => {
    for (const [less, more] of [
      ['x', 'x'.repeat(20)],
      [[1], [1, 2]],
      [[1], [1.5]],
      [[0], [-0]],
      [{ a: 1 }, { a: 1, b: 1, c: 1, d: 1, e: 1 }],
      [{ text: '' }, { someNameOfItsOwn: '' }]
    ] as const) {
      expect(weigh(more)).toBeGreaterThan(weigh(less))
    }
  })
})
