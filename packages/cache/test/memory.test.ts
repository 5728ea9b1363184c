import { describe, expect, it } from 'vitest'
import { createMemory } from '../src/memory.ts'
import { copyOf, deepFreeze, weigh } from '../src/plain.ts'

describe('the memory tier', () => {
  const make = (options: Partial<Parameters<typeof createMemory>[0]> = {}): ReturnType<typeof createMemory> =>
    createMemory({ maxBytes: 100_000, maxEntries: 100, maxEntryBytes: 50_000, now: () => 0, ...options })

  it('lets the least recently used go first, by count', () => {
    const memory = make({ maxEntries: 3 })
    for (const key of ['a', 'b', 'c']) memory.set(key, key, 1000, 0)
    memory.get('a')
    memory.set('d', 'd', 1000, 0)
    expect(['a', 'b', 'c', 'd'].map((key) => memory.get(key)?.value)).toEqual(['a', undefined, 'c', 'd'])
    expect(memory).toMatchObject({ entries: 3, evictions: 1 })
  })

  it('keeps to its bytes, and refuses what is too large for one entry together with what it replaces', () => {
    const memory = make()
    for (let n = 0; n < 50; n++) {
      expect(memory.set(`${n}`, 'x'.repeat(2000), 1000, 0)).toBe(true)
      expect(memory.bytes).toBeLessThanOrEqual(100_000)
    }
    expect(memory.evictions).toBeGreaterThan(20)
    expect(memory.set('49', 'x'.repeat(40_000), 1000, 0)).toBe(false)
    expect(memory.get('49')).toBeUndefined()
    memory.clear()
    expect(memory).toMatchObject({ entries: 0, bytes: 0 })
  })

  it('tells the age and drops what has expired, by its own clock alone', () => {
    let now = 0
    const memory = make({ now: () => now })
    memory.set('a', 1, 1000, 400)
    now = 599
    expect(memory.get('a')).toEqual({ value: 1, ageMs: 999 })
    now = 600
    expect(memory.get('a')).toBeUndefined()
    expect(memory.entries).toBe(0)
  })

  it('takes less memory than it counts', () => {
    const heap = (): number => {
      globalThis.gc?.()
      return process.memoryUsage().heapUsed
    }
    const memory = make({ maxBytes: 20_000_000, maxEntries: 100_000, maxEntryBytes: 6_000_000 })
    memory.set('warm', 1, 1e9, 0)
    const before = heap()
    for (let n = 0; n < 40_000; n++) {
      const words = JSON.parse(`{"n":${n},"words":["${`${n} é `.repeat(3)}",{"type":"text","text":"${`${n} Ω`.repeat(20)}"}]}`)
      memory.set(`${n}`.padStart(64, '0'), words, 1e9, 0)
    }
    expect(memory.bytes).toBeGreaterThan(15_000_000)
    expect(heap() - before).toBeLessThan(memory.bytes)
  })
})

describe('plain values', () => {
  it('are frozen and weighed at any depth and in a cycle', () => {
    let deep: unknown = 'x'
    for (let level = 0; level < 200_000; level++) deep = level % 2 ? [deep] : { deep }
    const cycle: Record<string, unknown> = { deep }
    cycle.self = cycle
    expect(Object.isFrozen(deepFreeze(cycle))).toBe(true)
    expect(weigh(cycle)).toBeGreaterThan(200_000 * 16)
  })

  it('are frozen below what is frozen already', () => {
    const value = Object.freeze({ open: { inside: 1 } })
    expect(Object.isFrozen(deepFreeze(value).open)).toBe(true)
  })

  it('are copied with every property, and share nothing', () => {
    const value = JSON.parse('{"a":[1,{"b":null}],"__proto__":{"c":1}}')
    const copy = copyOf(value)
    expect(JSON.stringify(copy)).toBe(JSON.stringify(value))
    expect(copy.a).not.toBe(value.a)
    expect(Object.getPrototypeOf(copy)).toBe(Object.prototype)
  })
})
