import { hash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { inspect } from 'node:util'
import { runInNewContext } from 'node:vm'
import type { Json } from '@millrace/core'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { canonical } from '../src/canonical.ts'
import { equalJson, jsons, shuffled, texts } from './json-variants.ts'

const seed = 20261122
const jcs = new URL('../../../../shared/real/suites/jcs/', import.meta.url)

describe(`canonical (fast-check seed ${seed})`, () => {
  it('gives one text whatever the order of properties, at every level', () => {
    fc.assert(
      fc.property(jsons, fc.infiniteStream(fc.double({ min: 0, max: 1, noNaN: true })), (value, stream) => {
        const random = (): number => stream.next().value as number
        expect(canonical(shuffled(value, random))).toBe(canonical(value))
      }),
      { seed, numRuns: 3000 }
    )
  })

  it('can be read back to the value, and to nothing else: no two values share a text, none is the beginning of another', () => {
    fc.assert(
      fc.property(jsons, (value) => {
        const { json, end } = readBack(canonical(value))
        expect(equalJson(json, value)).toBe(true)
        expect(end).toBe('')
      }),
      { seed, numRuns: 10_000 }
    )
  })

  it('gives different texts, none the beginning of another, for different values', () => {
    fc.assert(
      fc.property(jsons, jsons, (a, b) => {
        const [one, two] = [canonical(a), canonical(b)]
        expect(one === two).toBe(equalJson(a, b))
        if (one !== two) expect(one.startsWith(two) || two.startsWith(one)).toBe(false)
      }),
      { seed, numRuns: 10_000 }
    )
  })

  it('is well-formed, so that hashing it as UTF-8 loses nothing', () => {
    fc.assert(
      fc.property(jsons, (value) => {
        expect(canonical(value).isWellFormed()).toBe(true)
      }),
      { seed, numRuns: 3000 }
    )
  })

  it('gives a message the text that its general form has', () => {
    fc.assert(
      fc.property(
        fc.oneof(texts, fc.constantFrom('system', 'developer', 'user', 'assistant', 'tool')),
        texts,
        (role, content) => {
          const text = canonical({ role, content })
          expect(canonical({ content, role })).toBe(text)
          // The third field, absent to JSON, keeps it off the short way.
          expect(canonical({ role, content, name: undefined } as unknown as Json)).toBe(text)
          expect(canonical(Object.assign(Object.create(null), { role, content }))).toBe(text)
        }
      ),
      { seed, numRuns: 2000 }
    )
  })

  it('tells apart what careless keys mix up', () => {
    const values: Json[] = [1, '1', true, 'true', null, 'null', '', [], {}, [[]], [null], { a: null }, [1, 2], [12], ['a', 'b'], ['ab'],
      { a: 'b' }, [['a', 'b']], { a: 1, b: 2 }, { a: { b: 2 } }, '\ud800', '\ud801', '\udc00', '\ufffd', '\\ud800', '"\\ud800"',
      ['\ud83d', '\ude00'], ['\ud83d\ude00'], '\ud83d\ude00', 0.1, 0.10000000000000002, 5e-324, 0, 1e21, '1e21', 2 ** 53, 2 ** 53 + 2,
      'é', 'e\u0301', { role: 'a', content: 'b' }, { role: 'b', content: 'a' }, { role: 'a', content: ['b'] }, { role: 'a' }] // biome-ignore format: one list
    const hashes = new Set(values.map((value) => hash('sha256', canonical(value))))
    expect(hashes.size).toBe(values.length)
  })

  it('goes by the value of a number, not by how it was written', () => {
    for (const [one, other] of [
      ['1.0', '1'],
      ['1e2', '100'],
      ['-0', '0'],
      ['0.1e1', '1'],
      ['1E-7', '0.0000001']
    ] as const) {
      expect(canonical(JSON.parse(one))).toBe(canonical(JSON.parse(other)))
    }
  })

  it('takes an undefined property for absent', () => {
    expect(canonical({ a: 1, b: undefined } as unknown as Json)).toBe(canonical({ a: 1 }))
  })

  it.each(['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'length', ''])('counts a property called %j', (name) => {
    const read = (value: number): Json => JSON.parse(`{${JSON.stringify(name)}:${value}}`)
    expect(new Set([canonical(read(1)), canonical(read(2)), canonical({})]).size).toBe(3)
  })

  it('sees own properties only, even while somebody has polluted Object.prototype', () => {
    const plain = canonical({ content: 'x' })
    const prototype = Object.prototype as Record<string, unknown>
    try {
      prototype.role = 'user'
      expect(canonical({ content: 'x' })).toBe(plain)
      expect(canonical({ content: 'x', name: 'n' })).toBe(canonical(JSON.parse('{"name":"n","content":"x"}')))
    } finally {
      delete prototype.role
    }
  })

  it('orders keys by UTF-16 code units, few of them or many', () => {
    const keys = ['\ue000', '\ud83d\ude00', 'é', 'b', 'a', 'B', '10', '9', '']
    const ordered = ['', '10', '9', 'B', 'a', 'b', 'é', '\ud83d\ude00', '\ue000']
    const many = Array.from({ length: 300 }, (_, index) => `k${(index * 7) % 300}`)
    const namesIn = (names: string[]): string[] =>
      Object.keys(readBack(canonical(Object.fromEntries(names.map((name) => [name, null])))).json as object)
    // Not '10' and '9': an object always gives those first, whatever was read.
    const named = (names: string[]): string[] => names.filter((name) => !/^\d+$/.test(name))
    expect(named(namesIn(keys))).toEqual(named(ordered))
    expect(canonical({ '10': 0, '9': 0 })).toBe('{s2:10n0;s1:9n0;}')
    expect(namesIn(many)).toEqual(many.toSorted())
  })

  it('takes objects of another realm for what they are', () => {
    expect(canonical(runInNewContext('({ b: [1, { c: null }], a: { role: "user", content: "x" } })'))).toBe(
      canonical({ a: { role: 'user', content: 'x' }, b: [1, { c: null }] })
    )
    expect(() => canonical(runInNewContext('new Date()'))).toThrow(TypeError)
    expect(() => canonical(runInNewContext('new Map()'))).toThrow(TypeError)
  })

  it('refuses what JSON cannot carry, without showing it', () => {
    const cycle: Record<string, unknown> = { text: 'secret' }
    cycle.self = cycle
    const wrong: readonly unknown[] = [Number.NaN, Infinity, -Infinity, undefined, [undefined], [1, undefined], () => 'secret', 1n, Symbol('secret'),
      new Date(), new Map([['secret', 1]]), new Set(), new Error('secret'), /secret/, Promise.resolve(), new URL('https://secret.example'),
      cycle, [cycle], nested(100_000), Buffer.from('secret'), new Uint8Array(2), new String('secret'), new Number(1),
      new (class Secret { secret = 1 })(), Array(3), { toJSON: () => 'secret' }] // biome-ignore format: one list
    for (const value of wrong) {
      for (const place of [value, { role: 'user', content: value }, { secret: value }]) {
        if (place !== value && value === undefined) continue
        const error = errorOf(() => canonical(place as Json))
        expect(error).toBeInstanceOf(TypeError)
        expect((error as TypeError).message).not.toMatch(/secret/i)
      }
    }
  })

  it('takes 210 levels and no more', () => {
    expect(() => canonical(nested(210))).not.toThrow()
    expect(() => canonical(nested(211))).toThrow(/at most 210 levels/)
  })

  it('takes one object at two places for two equal ones', () => {
    const part = { a: [1] }
    expect(canonical([part, part])).toBe(canonical([{ a: [1] }, { a: [1] }]))
  })

  it.skipIf(!existsSync(jcs))('gives equal texts for the equal values of the RFC 8785 data', () => {
    const names = readdirSync(new URL('input/', jcs))
    expect(names.length).toBeGreaterThan(4)
    const all = names.map((name) => {
      const read = (folder: string): Json => JSON.parse(readFileSync(new URL(`${folder}/${name}`, jcs), 'utf8'))
      expect(canonical(read('input'))).toBe(canonical(read('output')))
      return canonical(read('input'))
    })
    expect(new Set(all).size).toBe(names.length)
  })
})

/** That many arrays, one in another. */
function nested(levels: number): Json {
  let value: Json = 'secret'
  for (let level = 0; level < levels; level++) value = [value]
  return value
}

function errorOf(work: () => unknown): unknown {
  try {
    return inspect(work())
  } catch (error) {
    return error
  }
}

/** The value a canonical text begins with, and what stands behind it: that this can be written proves the form. */
function readBack(text: string): { json: Json; end: string } {
  if (text.startsWith('e')) return readBack(JSON.parse(text.slice(1)))
  let at = 0
  const upTo = (mark: string): string => text.slice(at, (at = text.indexOf(mark, at) + 1) - 1)
  const string = (): string => {
    const length = Number(upTo(':'))
    return text.slice(at, (at += length))
  }
  const value = (): Json => {
    const type = text[at++]
    if (type === 's') return string()
    if (type === 'n') return Number(upTo(';'))
    if (type === 't' || type === 'f') return type === 't'
    if (type === 'z') return null
    if (type === '[') {
      const items: Json[] = []
      while (text[at] !== ']') items.push(value())
      at++
      return items
    }
    if (type !== '{') throw new Error(`no value begins with ${type}`)
    const entries: [string, Json][] = []
    while (text[at] !== '}') entries.push([value() as string, value()])
    at++
    return Object.fromEntries(entries)
  }
  const json = value()
  return { json, end: text.slice(at) }
}
