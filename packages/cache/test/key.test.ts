import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { inspect } from 'node:util'
import { type ChatRequest, checkRequest, type Json } from '@millrace/core'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { dropIgnored, type FieldClasses, groupOf, httpKeyOf, type KeyOptions, keyOf, scopeOf, wrapKeyOf } from '../src/key.ts'
import { equalJson, jsons, shuffled, texts, variantsOf } from './json-variants.ts'

const seed = 20261122
/** How many pairs of values that differ in one thing are compared; 1000000 is the long run. */
const pairs = Number(process.env.MILLRACE_KEY_PAIRS ?? 100_000)
const real = new URL('../../../../shared/real/', import.meta.url)
const from: KeyOptions = { origin: 'https://one.example', scope: 'shop' }
const secret = 'a secret of some length'
const request: ChatRequest = { model: 'm', messages: [{ role: 'user', content: 'x' }] }

// Values of the wrong type too: a key must not depend on their having been checked.
const requests: fc.Arbitrary<ChatRequest> = fc.record(
  {
    model: texts,
    messages: fc.array(
      fc.oneof(
        fc.record({ role: fc.constantFrom('user', 'system', 'assistant'), content: texts }),
        fc.record({
          role: fc.constant('user'),
          content: fc.array(fc.record({ type: fc.constant('text'), text: texts }), { maxLength: 2 })
        }),
        fc.record({
          role: fc.constant('assistant'),
          content: texts,
          toolCalls: fc.array(fc.record({ id: texts, name: texts, arguments: texts }))
        }),
        fc.record({ role: fc.constant('tool'), content: texts, toolCallId: texts })
      ),
      { maxLength: 4 }
    ),
    tools: fc.array(fc.record({ name: texts, description: texts, parameters: jsons }), { maxLength: 2 }),
    toolChoice: fc.constantFrom('auto', 'none', { name: 'f' }),
    responseFormat: fc.constantFrom({ type: 'text' }, { type: 'json' }),
    maxOutputTokens: fc.nat(),
    temperature: fc.double({ noNaN: true, min: 0, max: 2 }),
    topP: fc.double({ noNaN: true, min: 0, max: 1 }),
    stop: fc.array(texts, { maxLength: 3 }),
    seed: fc.integer(),
    extra: fc.dictionary(texts, jsons, { maxKeys: 3 }),
    unknownToTheContract: jsons
  },
  { requiredKeys: ['model', 'messages'], noNullPrototype: true }
) as fc.Arbitrary<object> as fc.Arbitrary<ChatRequest>

describe(`keys (fast-check seed ${seed}, ${pairs} pairs)`, () => {
  it('are equal for equal requests, whatever their property order at every level', () => {
    fc.assert(
      fc.property(requests, fc.infiniteStream(fc.double({ min: 0, max: 1, noNaN: true })), (asked, stream) => {
        const key = keyOf(asked, from)
        expect(key).toMatch(/^[0-9a-f]{64}$/)
        for (const order of [1, 2, 3]) {
          const other = shuffled(asked as unknown as Json, () => (stream.next().value as number) / order)
          expect(keyOf(other as unknown as ChatRequest, from)).toBe(key)
        }
      }),
      { seed, numRuns: 2000 }
    )
  })

  it('flip when any one thing in a request changes, anywhere', { timeout: 60_000 + pairs / 5 }, () => {
    let compared = 0
    let equal = 0
    const most = 500
    for (let round = 0; compared < pairs; round++) {
      for (const asked of fc.sample(requests, { seed: seed + round, numRuns: 200 })) {
        if (compared >= pairs) break
        const key = keyOf(asked, from)
        let taken = 0
        let [before, beforeKey] = [asked as unknown as Json, key]
        for (const changed of variantsOf(asked as unknown as Json)) {
          if (compared >= pairs || ++taken > most) break
          compared++
          const changedKey = keyOf(changed as unknown as ChatRequest, from)
          const same = equalJson(changed, asked as unknown as Json)
          if (same) equal++
          // Two changed ones stand closer still to each other. No expect per pair: it costs more than the pair.
          const close = equalJson(changed, before)
          if ((changedKey === key) !== same || (changedKey === beforeKey) !== close) {
            throw new Error(`wrong key, seed ${seed + round}:\n${inspect([asked, before, changed], { depth: 9 })}`)
          }
          ;[before, beforeKey] = [changed, changedKey]
        }
      }
    }
    expect(compared).toBeGreaterThanOrEqual(pairs)
    // Some changes change nothing (an empty text sliced, say), but they must stay few.
    expect(equal / compared).toBeLessThan(0.1)
  })

  it('flip with origin, scope, tenant, secret and kind, and with a field the contract does not know', () => {
    const all = [
      keyOf(request, from),
      keyOf(request, { ...from, origin: 'https://two.example' }),
      keyOf(request, { ...from, scope: 'other' }),
      keyOf(request, { ...from, tenant: '' }),
      keyOf(request, { ...from, tenant: 'a' }),
      keyOf(request, { ...from, tenant: 'A' }),
      keyOf(request, { ...from, secret }),
      keyOf(request, { ...from, secret: `${secret}.` }),
      keyOf({ ...request, reasoningEffort: 'high' } as never, from),
      keyOf({ ...request, reasoningEffort: null } as never, from),
      keyOf(JSON.parse('{"model":"m","messages":[{"role":"user","content":"x"}],"__proto__":{"a":1}}'), from),
      wrapKeyOf(request as never, from),
      wrapKeyOf(request as never, { ...from, secret }),
      httpKeyOf(request as never, from),
      httpKeyOf(request as never, { ...from, secret })
    ]
    expect(new Set(all).size).toBe(all.length)
  })

  it('cannot be moved from one part to the next', () => {
    const all = [
      keyOf(request, { origin: 'ab', scope: 'c' }),
      keyOf(request, { origin: 'a', scope: 'bc' }),
      keyOf(request, { origin: 'a', scope: 'b', tenant: 'c' }),
      keyOf(request, { origin: 'a', scope: 'b:c' }),
      keyOf(request, { origin: '', scope: 'abc' }),
      wrapKeyOf(['a', 'b'], { scope: 'c' }),
      wrapKeyOf('b', { scope: 'c', tenant: 'a' }),
      wrapKeyOf(['b'], { scope: 'c', tenant: 'a' })
    ]
    expect(new Set(all).size).toBe(all.length)
  })

  it('take an undefined field for an absent one, and -0 for 0', () => {
    expect(keyOf({ ...request, temperature: undefined }, from)).toBe(keyOf(request, from))
    expect(keyOf({ ...request, temperature: -0 }, from)).toBe(keyOf({ ...request, temperature: 0 }, from))
    expect(keyOf(request, { ...from, tenant: undefined, secret: undefined })).toBe(keyOf(request, from))
  })

  it('go by what a request holds at the time, not by which object it is', () => {
    const messages = [{ role: 'user' as const, content: 'x' }]
    const asked = { model: 'm', messages }
    const key = keyOf(asked, from)
    messages[0] = { role: 'user', content: 'y' }
    expect(keyOf(asked, from)).not.toBe(key)
    ;(messages[0] as { content: string }).content = 'x'
    expect(keyOf(asked, from)).toBe(key)
  })

  it('stay what they are from release to release: a change of them is a new keyVersion', () => {
    expect(keyOf(request, from)).toMatchInlineSnapshot(`"88cb442ae87feb02ab839ac20e99add5e1f882c1b7c510698e26486a19dd2b81"`)
    expect(keyOf(request, { ...from, tenant: 'a', secret })).toMatchInlineSnapshot(
      `"3c5b4196e2b1db435e470b6ca51ebb81edaa4c8cbe8b7f189d815e7ec0baddf0"`
    )
    expect(wrapKeyOf({ city: 'Basel' }, from)).toMatchInlineSnapshot(
      `"9bbbc25492e6cf207a82036bc43f3348de358652727b84daf6946ba8faa8beda"`
    )
    expect(httpKeyOf({ path: '/v1/chat/completions' }, from)).toMatchInlineSnapshot(
      `"08e38d7b677232ef0c31392af3595c654490dc9412b49a5a9a499ad4127b1b69"`
    )
    expect(groupOf('tag', 'prices', undefined)).toMatchInlineSnapshot(`"f4cbbac3502b42246b144f98de536200"`)
    expect(scopeOf('sk-1', secret)).toMatchInlineSnapshot(`"3b53c3501e109f5a53d012d41a43fe7df39c35769547e9768772bf976e550bee"`)
  })

  it('are given for every request that core lets through, however deep', () => {
    let value: Record<string, Json> = {}
    for (let level = 1; level < 200; level++) value = { a: value }
    const deep: ChatRequest = {
      model: 'm',
      messages: [{ role: 'user', content: [{ type: 'text', text: 'x', extra: { b: value } }] }]
    }
    const deepest: ChatRequest = {
      model: 'm',
      messages: [{ role: 'user', content: [{ type: 'text', text: 'x', extra: value }] }]
    }
    expect(() => checkRequest(deep)).toThrow(/deeper/)
    expect(() => checkRequest(deepest)).not.toThrow()
    expect(keyOf(deepest, from)).toHaveLength(64)
  })

  it('are refused for what is not JSON, without a word of it', () => {
    const cycle: { canary: unknown } = { canary: 'canary' }
    cycle.canary = cycle
    for (const wrong of [
      { canary: Number.NaN },
      [undefined],
      new Map([['canary', 1]]),
      Buffer.from('canary'),
      cycle,
      () => 'canary',
      1n
    ]) {
      for (const make of [
        () => keyOf({ ...request, extra: { wrong } } as never, from),
        () => wrapKeyOf(wrong as never, from),
        () => httpKeyOf({ wrong } as never, from)
      ]) {
        expect(make).toThrow(TypeError)
        expect(make).not.toThrow(/canary/)
      }
    }
    expect(() => wrapKeyOf(undefined as never, from)).toThrow(TypeError)
  })
})

describe('dropIgnored', () => {
  const keyed = dropIgnored({ model: 'keyed', stream: 'ignored', timeoutMs: 'ignored' })

  it('leaves out what is classed as ignored, at the top only, and keeps what is not classed', () => {
    expect(keyed({ model: 'm', stream: true, timeoutMs: 1, other: { stream: true } })).toEqual({
      model: 'm',
      other: { stream: true }
    })
  })

  it('gives the object itself when nothing is to be left out, and never changes it', () => {
    const plain = { model: 'm' }
    expect(keyed(plain)).toBe(plain)
    const asked = Object.freeze({ model: 'm', stream: true })
    keyed(asked)
    expect(asked).toEqual({ model: 'm', stream: true })
  })

  it('keeps a field called __proto__', () => {
    expect(Object.keys(keyed(JSON.parse('{"stream":true,"__proto__":{"a":1}}')))).toEqual(['__proto__'])
  })

  it('has a table that does not compile while a field is not classed, or one is classed that is gone', () => {
    interface Widened extends ChatRequest {
      readonly added?: string
    }
    const classes = { model: 'keyed', messages: 'keyed', tools: 'keyed', toolChoice: 'keyed', responseFormat: 'keyed', maxOutputTokens: 'keyed',
      temperature: 'keyed', topP: 'keyed', stop: 'keyed', seed: 'keyed', extra: 'keyed' } as const // biome-ignore format: one list
    const known: FieldClasses<ChatRequest> = classes
    // @ts-expect-error `added` is not classed
    const missing: FieldClasses<Widened> = classes
    // @ts-expect-error `gone` is no field
    const surplus: FieldClasses<ChatRequest> = { ...classes, gone: 'keyed' } satisfies FieldClasses<ChatRequest>
    expect([known, missing, surplus]).toHaveLength(3)
  })
})

describe('scopeOf and groupOf', () => {
  it('are equal for equal input and differ by every part of it', () => {
    const all = [
      scopeOf('sk-1', secret),
      scopeOf('sk-2', secret),
      scopeOf('', secret),
      scopeOf('sk-1', `${secret}.`),
      ...(['all', 'scope', 'tenant', 'tag'] as const).flatMap((kind) => [
        groupOf(kind, '', undefined),
        groupOf(kind, 'sk-1', undefined),
        groupOf(kind, 'sk-1', secret),
        groupOf(kind, 'sk-1', `${secret}.`)
      ])
    ]
    expect(new Set(all.map((digest) => digest.slice(0, 32))).size).toBe(all.length)
    expect(scopeOf('sk-1', secret)).toBe(scopeOf('sk-1', secret))
    expect(groupOf('tag', 'sk-1', secret)).toBe(groupOf('tag', 'sk-1', secret))
  })

  it('never meet a key made with the same words', () => {
    const words = ['credential', 'group', 'tag', 'chat', 'wrap', 'http', '', 'x']
    const all = words.flatMap((word) => [
      scopeOf(word, secret),
      groupOf('tag', word, secret),
      wrapKeyOf(word, { scope: word, secret }),
      wrapKeyOf(['credential', word], { scope: word, secret }),
      httpKeyOf(word, { origin: word, scope: word, secret })
    ])
    expect(new Set(all.map((digest) => digest.slice(0, 32))).size).toBe(all.length)
  })

  it('are hex of a fixed length, so that nothing of a prompt, credential, tenant or tag is in them', () => {
    fc.assert(
      fc.property(texts, texts, (canary, other) => {
        const options = { origin: other, scope: canary, tenant: canary, secret }
        expect(scopeOf(canary, secret)).toMatch(/^[0-9a-f]{64}$/)
        expect(groupOf('tenant', canary, undefined)).toMatch(/^[0-9a-f]{32}$/)
        expect(groupOf('tag', canary, secret)).toMatch(/^[0-9a-f]{32}$/)
        for (const key of [
          keyOf({ ...request, model: canary }, options),
          wrapKeyOf(canary, options),
          httpKeyOf(canary, options)
        ]) {
          expect(key).toMatch(/^[0-9a-f]{64}$/)
        }
      }),
      { seed, numRuns: 500 }
    )
  })
})

describe.skipIf(!existsSync(real))('keys of real traffic', () => {
  const read = (path: string): string => readFileSync(new URL(path, real), 'utf8')
  const askedOf = (content: string): ChatRequest => ({ model: 'm', messages: [{ role: 'user', content }] })

  it('are one for each group of recordings with equal bodies, and different for different ones', () => {
    const bodies: Json[] = []
    for (const folder of readdirSync(new URL('recordings/', real), { withFileTypes: true })) {
      if (!folder.isDirectory() || folder.name.startsWith('_')) continue
      for (const name of readdirSync(new URL(`recordings/${folder.name}/`, real))) {
        const body: unknown = JSON.parse(read(`recordings/${folder.name}/${name}`)).request?.body
        if (typeof body === 'string' && /^\s*[[{]/.test(body)) bodies.push(JSON.parse(body))
        else if (typeof body === 'object' && body !== null) bodies.push(body as Json)
      }
    }
    const keys = bodies.map((body) => httpKeyOf(body, from))
    let grouped = 0
    for (const [index, body] of bodies.entries()) {
      for (let other = 0; other < index; other++) {
        const equal = equalJson(body, bodies[other] as Json)
        if (equal) grouped++
        expect(keys[other] === keys[index]).toBe(equal)
      }
    }
    expect(bodies.length).toBeGreaterThan(300)
    expect(grouped).toBeGreaterThan(20)
  })

  it('differ for all paraphrases and all questions', () => {
    const paraphrases: { origin: string; similar: string }[] = JSON.parse(read('traces/gptcache_mock_pairs.json'))
    const questions = read('traces/mt_bench_questions.jsonl')
      .trim()
      .split('\n')
      .flatMap((line) => JSON.parse(line).turns as string[])
    const prompts = new Set([...paraphrases.flatMap(({ origin, similar }) => [origin, similar]), ...questions])
    for (const { origin, similar } of paraphrases) {
      expect(keyOf(askedOf(origin), from) === keyOf(askedOf(similar), from)).toBe(origin === similar)
    }
    expect(new Set([...prompts].map((prompt) => keyOf(askedOf(prompt), from))).size).toBe(prompts.size)
    expect(prompts.size).toBeGreaterThan(1000)
  })
})
