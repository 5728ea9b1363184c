import { hash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import type { Json } from '@millrace/core'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { canonical } from '../src/canonical.ts'

const seed = 20261122
const jcs = new URL('../../../../shared/real/suites/jcs/', import.meta.url)

/** The same value with the properties of every object in another order. */
function shuffled(value: Json, random: () => number): Json {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map((item) => shuffled(item, random))
  const entries = Object.entries(value).map(([key, child]) => [key, shuffled(child as Json, random), random()] as const)
  entries.sort((a, b) => a[2] - b[2])
  return Object.fromEntries(entries)
}

describe(`canonical (fast-check seed ${seed})`, () => {
  it('gives one text whatever the order of properties', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.infiniteStream(fc.double({ min: 0, max: 1, noNaN: true })), (value, stream) => {
        const random = (): number => stream.next().value as number
        expect(canonical(shuffled(value as Json, random))).toBe(canonical(value as Json))
      }),
      { seed, numRuns: 2000 }
    )
  })

  it('gives different texts, none the beginning of another, for different values', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.jsonValue(), (a, b) => {
        const equal = JSON.stringify(sorted(a)) === JSON.stringify(sorted(b))
        const [one, two] = [canonical(a), canonical(b)]
        expect(one === two).toBe(equal)
        if (!equal) expect(one.startsWith(two) || two.startsWith(one)).toBe(false)
      }),
      { seed, numRuns: 10_000 }
    )
  })

  it('tells apart what careless keys mix up', () => {
    const values: Json[] = [1, '1', true, 'true', null, 'null', '', [], {}, [[]], [null], { a: null }, [1, 2], [12], ['a', 'b'], ['ab'],
      { a: 'b' }, [['a', 'b']], { a: 1, b: 2 }, { a: { b: 2 } }, '\ud800', '\ud801', '\udc00', '\ufffd', '\\ud800', '"\\ud800"',
      '\ud800\udc00', 0.1, 0.10000000000000002, 1e21, '1e21', 'é', 'e\u0301'] // biome-ignore format: one list
    const hashes = new Set(values.map((value) => hash('sha256', canonical(value))))
    expect(hashes.size).toBe(values.length)
  })

  it('takes an undefined property for absent, and minus zero for zero, as JSON text does', () => {
    expect(canonical({ a: 1, b: undefined })).toBe(canonical({ a: 1 }))
    expect(canonical(-0)).toBe(canonical(0))
  })

  it('counts a property called __proto__', () => {
    expect(canonical(JSON.parse('{"__proto__":1}'))).not.toBe(canonical({}))
  })

  it('refuses what JSON cannot carry, without showing it', () => {
    const cycle: Record<string, unknown> = {}
    cycle.self = cycle
    let deep: unknown = 'secret'
    for (let level = 0; level < 100_000; level++) deep = [deep]
    for (const value of [
      Number.NaN,
      Infinity,
      undefined,
      [undefined],
      () => 1,
      1n,
      Symbol('s'),
      new Date(),
      new Map(),
      cycle,
      deep,
      Buffer.from('secret'),
      Array(3)
    ]) {
      expect(() => canonical(value as Json)).toThrow(TypeError)
      expect(() => canonical(value as Json)).not.toThrow(/secret/)
    }
  })

  it.skipIf(!existsSync(jcs))('gives equal texts for the equal values of the RFC 8785 data', () => {
    const names = readdirSync(new URL('input/', jcs))
    expect(names.length).toBeGreaterThan(4)
    const texts = names.map((name) => {
      const read = (folder: string): Json => JSON.parse(readFileSync(new URL(`${folder}/${name}`, jcs), 'utf8'))
      expect(canonical(read('input'))).toBe(canonical(read('output')))
      return canonical(read('input'))
    })
    expect(new Set(texts).size).toBe(names.length)
  })
})

function sorted(value: Json): Json {
  if (typeof value !== 'object' || value === null) return Object.is(value, -0) ? 0 : value
  if (Array.isArray(value)) return value.map(sorted)
  return Object.entries(value)
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, child]) => ['entry', key, sorted(child as Json)] as const)
    .reduce<Json>((all, entry) => [...(all as Json[]), entry], ['object'])
}
