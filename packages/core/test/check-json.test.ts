import { readdirSync, readFileSync } from 'node:fs'
import { runInNewContext } from 'node:vm'
import { describe, expect, it, test } from 'vitest'
import { checkJson, isMillraceError, parseJson } from '../src/index.ts'
import { suite } from './real.ts'

function refusal(value: unknown): string | undefined {
  try {
    checkJson(value, 'x')
    return undefined
  } catch (error) {
    if (!isMillraceError(error, 'invalid-request')) throw error
    return error.message
  }
}

function nest(depth: number, wrap: (inner: unknown) => unknown): unknown {
  let value: unknown = 1
  for (let level = 0; level < depth; level++) value = wrap(value)
  return value
}

describe('checkJson', () => {
  it('accepts plain JSON, null prototypes and absent properties', () => {
    expect(refusal({ a: [1, 'b', true, null, { c: -0 }], d: undefined })).toBeUndefined()
    expect(refusal(Object.assign(Object.create(null), { a: 1 }))).toBeUndefined()
  })

  it('accepts plain objects of another realm', () => {
    expect(refusal(runInNewContext('({ a: [{ b: 1 }] })'))).toBeUndefined()
    expect(refusal(runInNewContext('({ a: new Date() })'))).toContain('x.a')
  })

  it('refuses a cycle, and accepts an object that appears twice', () => {
    const shared = { type: 'string' }
    expect(refusal({ a: shared, b: [shared, shared], c: { d: shared } })).toBeUndefined()
    const loop: { inner: { back?: unknown }[] } = { inner: [{}] }
    ;(loop.inner[0] as { back?: unknown }).back = loop
    expect(refusal(loop)).toBe('x.inner[0].back refers back to an object around it (a cycle)')
    const self: unknown[] = []
    self.push(self)
    expect(refusal(self)).toBe('x[0] refers back to an object around it (a cycle)')
  })

  it('refuses nesting deeper than 200, and 200 000 levels without overflowing the stack', () => {
    for (const wrap of [(inner: unknown) => [inner], (inner: unknown) => ({ a: inner })]) {
      expect(refusal(nest(200, wrap))).toBeUndefined()
      expect(refusal(nest(201, wrap))).toContain('is nested deeper than 200')
      expect(refusal(nest(200_000, wrap))).toContain('is nested deeper than 200')
    }
  })

  it('clips a path in its message', () => {
    expect(refusal({ ['k'.repeat(100_000)]: Number.NaN })?.length).toBeLessThan(300)
    expect(refusal(nest(201, (inner) => ({ long_name: inner })))?.length).toBeLessThan(300)
  })

  it('looks at a million numbers in reasonable time', () => {
    const values = Array.from({ length: 1_000_000 }, (_, index) => index)
    const startedAt = performance.now()
    expect(refusal({ values })).toBeUndefined()
    expect(performance.now() - startedAt).toBeLessThan(2000)
  })

  const folder = suite('json')
  test.skipIf(!folder)('judges whatever JSON.parse accepts without a crash', () => {
    if (!folder) return
    const tests = new URL('test_parsing/', folder)
    let parsed = 0
    for (const name of readdirSync(tests)) {
      const value = parseJson(readFileSync(new URL(encodeURIComponent(name), tests), 'utf8'))
      if (value === undefined) {
        expect(name).not.toMatch(/^y_/)
        continue
      }
      parsed++
      const problem = refusal(value)
      if (name.startsWith('y_')) expect([name, problem]).toEqual([name, undefined])
    }
    expect(parsed).toBeGreaterThan(95)
  })
})

describe('parseJson', () => {
  it('answers undefined to what is no JSON', () => {
    expect(parseJson('{"a":1}')).toEqual({ a: 1 })
    expect(parseJson('null')).toBeNull()
    for (const text of ['', '{', 'undefined', '<html>', '{"a":NaN}']) expect(parseJson(text)).toBeUndefined()
  })
})
