import type { ChatRequest, Json } from '@millrace/core'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { keyOf, wrapKeyOf } from '../src/key.ts'

const seed = 20261122
const from = { origin: 'https://one.example', scope: 'shop' }
const text = fc.string({ maxLength: 12, unit: 'binary' })

const requests: fc.Arbitrary<ChatRequest> = fc.record(
  {
    model: text,
    messages: fc.array(fc.record({ role: fc.constantFrom('user' as const, 'system' as const), content: text }), { maxLength: 4 }),
    tools: fc.array(fc.record({ name: text, description: text }), { maxLength: 2 }),
    toolChoice: fc.constantFrom('auto' as const, 'none' as const),
    responseFormat: fc.constantFrom({ type: 'text' as const }, { type: 'json' as const }),
    maxOutputTokens: fc.nat(),
    temperature: fc.double({ noNaN: true, min: 0, max: 2 }),
    topP: fc.double({ noNaN: true, min: 0, max: 1 }),
    stop: fc.array(text, { maxLength: 2 }),
    seed: fc.nat(),
    extra: fc.dictionary(text, fc.jsonValue({ maxDepth: 2 }) as fc.Arbitrary<Json>, { maxKeys: 3 })
  },
  { requiredKeys: ['model', 'messages'] }
)

describe(`keyOf (fast-check seed ${seed})`, () => {
  it('is 64 hex digits, equal for a copy with its properties in reverse order', () => {
    fc.assert(
      fc.property(requests, (request) => {
        const key = keyOf(request, from)
        expect(key).toMatch(/^[0-9a-f]{64}$/)
        expect(keyOf(Object.fromEntries(Object.entries(structuredClone(request)).toReversed()) as never, from)).toBe(key)
      }),
      { seed, numRuns: 1000 }
    )
  })

  it('flips when any one field changes', () => {
    fc.assert(
      fc.property(requests, requests, fc.nat(), (request, other, pick) => {
        const names = Object.keys(other) as (keyof ChatRequest)[]
        const name = names[pick % names.length] ?? 'model'
        const changed = { ...request, [name]: other[name] }
        // -0 and 0 are one value in JSON text, so they are compared as JSON text here.
        const same = JSON.stringify(sortDeep(changed)) === JSON.stringify(sortDeep(request))
        expect(keyOf(changed, from) === keyOf(request, from)).toBe(same)
      }),
      { seed, numRuns: 20_000 }
    )
  })

  it('flips with origin, scope, tenant and secret, and with a field the contract does not know', () => {
    const request: ChatRequest = { model: 'm', messages: [{ role: 'user', content: 'x' }] }
    const keys = [
      keyOf(request, from),
      keyOf(request, { ...from, origin: 'https://two.example' }),
      keyOf(request, { ...from, scope: 'other' }),
      keyOf(request, { ...from, tenant: '' }),
      keyOf(request, { ...from, tenant: 'a' }),
      keyOf(request, { ...from, secret: 'a secret of some length' }),
      keyOf({ ...request, reasoningEffort: 'high' } as never, from),
      keyOf(JSON.parse('{"model":"m","messages":[{"role":"user","content":"x"}],"__proto__":{"a":1}}'), from),
      wrapKeyOf(request as never, from)
    ]
    expect(new Set(keys).size).toBe(keys.length)
  })

  it('cannot be moved from one part to the next', () => {
    const request: ChatRequest = { model: 'm', messages: [{ role: 'user', content: 'x' }] }
    expect(keyOf(request, { origin: 'ab', scope: 'c' })).not.toBe(keyOf(request, { origin: 'a', scope: 'bc' }))
    expect(keyOf(request, { origin: 'a', scope: 'b', tenant: 'c' })).not.toBe(keyOf(request, { origin: 'a', scope: 'b:c' }))
  })

  it('takes an undefined field for an absent one', () => {
    const request: ChatRequest = { model: 'm', messages: [{ role: 'user', content: 'x' }] }
    expect(keyOf({ ...request, temperature: undefined }, from)).toBe(keyOf(request, from))
  })
})

function sortDeep(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(sortDeep)
  return Object.entries(value)
    .filter(([, child]) => child !== undefined)
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, child]) => ['entry', key, sortDeep(child)])
}
