import type { ChatRequest, Chunk } from '@millrace/core'
import { heapAfterGc } from '@millrace/testkit'
import type { Attributes } from '@opentelemetry/api'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type CapturedCall, type ContentOptions, createContentCapture } from '../src/content.ts'

const seed = 20261107
const runs = { seed, numRuns: 2000 }
const model = 'gpt-5.6'

function start(request: unknown, options: ContentOptions = {}, onFailure: () => void = () => {}): CapturedCall {
  return createContentCapture(options, onFailure).start(request as ChatRequest)
}

const texts = fc.oneof(
  fc.constantFrom(
    '',
    '"',
    '\\',
    '\\u0041',
    '\0',
    '\ud83d',
    '\ude00',
    '😀',
    '…',
    '{',
    '{"a":1}',
    '[1,',
    '__proto__',
    'https://a.test/b?c'
  ),
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.string({ unit: fc.constantFrom('a', '"', '\n', '\u0001', '\ud83d', '\ude00', '日'), maxLength: 1500 })
)

const cycle: { self?: unknown } = {}
cycle.self = cycle

let deep: unknown = 'deep'
for (let depth = 0; depth < 20_000; depth++) deep = [deep]

const bad = (): never => {
  throw new Error('hostile')
}
const throwing: unknown = new Proxy([], { get: bad, has: bad, getOwnPropertyDescriptor: bad, ownKeys: bad, getPrototypeOf: bad })
const { proxy: revoked, revoke } = Proxy.revocable([], {})
revoke()
const lying = (length: unknown): unknown => {
  return new Proxy([{ role: 'user', content: 'hi' }], { get: (on, key) => (key === 'length' ? length : Reflect.get(on, key)) })
}

/** Values that no request may have. fast-check looks into what it generates, so it gets their numbers only. */
const hostileValues: readonly unknown[] = [
  cycle,
  deep,
  throwing,
  revoked,
  10n,
  Symbol('s'),
  bad,
  Object.assign([], { length: 4e9 }),
  new String('text'),
  { toJSON: bad },
  { toString: bad },
  Object.defineProperty({}, 'type', { get: bad, enumerable: true }),
  Object.defineProperty({}, 'role', { get: bad, enumerable: true }),
  ...[Number.NaN, Number.POSITIVE_INFINITY, 1.5, -1, '7', 1e9, {}].map(lying)
]
class Hostile {
  readonly index: number
  constructor(index: number) {
    this.index = index
  }
}
const hostile: fc.Arbitrary<unknown> = fc.oneof(
  fc.anything({ withBigInt: true, withSparseArray: true, withNullPrototype: true, withDate: true }),
  fc.nat(hostileValues.length - 1).map((index) => new Hostile(index))
)

/** `value` with the hostile values in their places. */
function armed(value: unknown): unknown {
  if (value instanceof Hostile) return hostileValues[value.index]
  if (Array.isArray(value)) return value.map(armed)
  if (typeof value !== 'object' || value === null || value instanceof Date) return value
  return Object.fromEntries(Object.entries(value).map(([key, child]) => [key, armed(child)]))
}

const orHostile = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<unknown> =>
  fc.oneof({ weight: 9, arbitrary: value }, { weight: 1, arbitrary: hostile })
const field = orHostile(texts)

const parts: fc.Arbitrary<unknown> = orHostile(
  fc.record(
    {
      type: orHostile(fc.constantFrom('text', 'reasoning', 'image', 'audio', 'file', 'other')),
      text: field,
      url: orHostile(
        fc.oneof(
          texts,
          texts.map((text) => `data:image/png;base64,${text}`),
          fc.webUrl({ withQueryParameters: true })
        )
      ),
      data: field,
      format: field,
      fileId: field,
      value: hostile
    },
    { requiredKeys: ['type'] }
  )
)
const messages = orHostile(
  fc.array(
    orHostile(
      fc.record(
        {
          role: orHostile(fc.constantFrom('system', 'developer', 'user', 'assistant', 'tool')),
          content: fc.oneof(field, orHostile(fc.array(parts, { maxLength: 5 }))),
          toolCallId: field,
          toolCalls: orHostile(fc.array(orHostile(fc.record({ id: field, name: field, arguments: field })), { maxLength: 3 }))
        },
        { requiredKeys: ['role', 'content'] }
      )
    ),
    { maxLength: 12 }
  )
)
const requests = orHostile(
  fc.record(
    { messages, tools: orHostile(fc.array(orHostile(fc.record({ name: field, description: field })), { maxLength: 4 })) },
    { requiredKeys: ['messages'] }
  )
)
const chunks = fc.array(
  orHostile(
    fc.oneof(
      fc.record({ type: fc.constantFrom('text', 'refusal', 'reasoning'), text: field }),
      fc.record({ type: fc.constant('tool-call'), index: orHostile(fc.nat(3)), id: field, name: field, arguments: field }),
      fc.record({ type: fc.constant('extra'), name: field, value: hostile })
    )
  ),
  { maxLength: 12 }
)
const finishes = fc.constantFrom('stop', 'tool-calls', 'cut', undefined)

describe(`for any request and any stream (fast-check seed ${seed})`, () => {
  test('nothing throws, and every attribute is valid, well-formed JSON of at most maxChars', () => {
    let failures = 0
    let kept = 0
    fc.assert(
      fc.property(requests, chunks, finishes, fc.integer({ min: 256, max: 3000 }), (request, given, finish, maxChars) => {
        const call = start(armed(request), { maxChars }, () => failures++)
        call.add(armed(given) as Chunk[])
        for (const json of Object.values(call.attributes(finish))) {
          kept++
          const text = json as string
          expect(text.length).toBeLessThanOrEqual(maxChars)
          expect(text.isWellFormed()).toBe(true)
          expect(Array.isArray(JSON.parse(text))).toBe(true)
        }
      }),
      runs
    )
    expect(failures).toBeGreaterThan(1000)
    expect(kept).toBeGreaterThan(1000)
  })

  test('nothing that the hook replaces is in an attribute, wherever it stands and however long the text is', () => {
    const secret = 'S3CR3T'
    const mark = (value: unknown): unknown => {
      if (typeof value === 'string') return `${secret}${value}${secret}`
      return Array.isArray(value) ? value.map(mark) : value
    }
    const marked = texts.map((text) => `${text}${secret}${text}`)
    const anyPart = fc.record({
      type: fc.constantFrom('text', 'reasoning', 'image', 'audio', 'file', 'other'),
      text: marked,
      url: fc.oneof(marked, fc.constantFrom(`https://${secret}.test/${secret}`, `data:${secret}/${secret};base64,${secret}`)),
      data: marked,
      format: marked,
      value: fc.record({ type: marked })
    })
    const anyMessage = fc.record({
      role: fc.constantFrom('system', 'user', 'assistant', 'tool'),
      content: fc.oneof(marked, fc.array(anyPart, { maxLength: 4 })),
      toolCallId: marked,
      toolCalls: fc.array(fc.record({ id: marked, name: marked, arguments: marked }), { maxLength: 2 })
    })
    const redact = (text: string): string => text.replaceAll(new RegExp(secret, 'gi'), '_')
    fc.assert(
      fc.property(
        fc.array(anyMessage, { maxLength: 8 }),
        chunks,
        fc.integer({ min: 256, max: 3000 }),
        (list, given, maxChars) => {
          const call = start({ model, messages: list, tools: [{ name: secret, description: secret }] }, { maxChars, redact })
          call.add(given.map((chunk) => armed(withFields(chunk, mark))) as Chunk[])
          const all = Object.values(call.attributes('stop')).join('')
          expect(all.toUpperCase()).not.toContain(secret)
          expect(unescapedAll(all).toUpperCase()).not.toContain(secret)
        }
      ),
      runs
    )
  })

  test('the hook sees each text that fits exactly once, and only what it gives is recorded', () => {
    const shape = fc.array(fc.tuple(fc.constantFrom('system', 'user', 'assistant', 'tool'), fc.integer({ min: 1, max: 3 })), {
      maxLength: 10
    })
    fc.assert(
      fc.property(shape, fc.array(fc.nat(3), { maxLength: 5 }), (list, calls) => {
        const made: string[] = []
        const make = (): string => {
          const text = `original-${made.length}`
          made.push(text)
          return text
        }
        const conversation = list.map(([role, count]) => ({
          role,
          content: count === 1 ? make() : Array.from({ length: count }, () => ({ type: 'text', text: make() })),
          ...(role === 'assistant' ? { toolCalls: [{ id: make(), name: make(), arguments: make() }] } : {}),
          ...(role === 'tool' ? { toolCallId: make() } : {})
        }))
        const seen: string[] = []
        const call = start(
          { model, messages: conversation, tools: [{ name: make(), description: make() }] },
          {
            maxChars: 65_536,
            redact(text) {
              seen.push(text)
              return `given-${seen.length}`
            }
          }
        )
        for (const index of new Set(calls)) {
          call.add([{ type: 'tool-call', index, id: make(), name: make(), arguments: make() }])
        }
        call.add([{ type: 'text', text: make() }])
        const all = Object.values(call.attributes('stop')).join('')
        expect(seen.toSorted()).toEqual(made.toSorted())
        expect(all).not.toContain('original')
        expect(all.match(/"given-\d+"/g)?.length).toBe(made.length)
      }),
      { seed, numRuns: 500 }
    )
  })

  test('it does not matter in which pieces an answer comes', () => {
    const plain = fc.tuple(fc.constantFrom('text', 'refusal', 'reasoning'), texts)
    const call = fc.tuple(fc.nat(2), texts)
    fc.assert(
      fc.property(
        fc.array(plain),
        fc.array(call),
        fc.infiniteStream(fc.nat(9)),
        fc.integer({ min: 256, max: 9000 }),
        (said, called, sizes, maxChars) => {
          const whole = [
            ...said.map(([type, text]) => ({ type, text })),
            ...called.map(([index, json]) => ({ type: 'tool-call', index, arguments: json }))
          ] as Chunk[]
          expect(
            answer(
              whole.flatMap((chunk) => [...inPieces(chunk, sizes)]),
              maxChars
            )
          ).toEqual(answer(whole, maxChars))
        }
      ),
      runs
    )
  })
})

function answer(given: readonly Chunk[], maxChars: number): Attributes {
  const call = start({ model, messages: [] }, { maxChars })
  call.add(given)
  return call.attributes('stop')
}

function* inPieces(chunk: Chunk, sizes: Iterator<number>): Generator<Chunk> {
  const [key, text] = chunk.type === 'tool-call' ? ['arguments', chunk.arguments] : ['text', 'text' in chunk ? chunk.text : '']
  let at = 0
  do {
    const size = 1 + sizes.next().value
    yield { ...chunk, [key]: text.slice(at, at + size) }
    at += size
  } while (at < text.length)
}

function withFields(chunk: unknown, change: (value: unknown) => unknown): unknown {
  if (typeof chunk !== 'object' || chunk === null || !('arguments' in chunk || 'text' in chunk)) return chunk
  const changed: Record<string, unknown> = { ...chunk }
  for (const name of ['text', 'id', 'name', 'arguments']) if (name in changed) changed[name] = change(changed[name])
  return changed
}

function unescapedAll(text: string): string {
  return text.replaceAll(/\\u([\da-f]{4})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
}

/** Flat, and different each time: V8 would share what is repeated. */
const bigText = (bytes: number, letter = 'x'): string => Buffer.alloc(bytes, letter).toString('latin1')

describe('what it costs', () => {
  test('a list of four billion bad messages, parts or tools comes to an end', () => {
    let failures = 0
    const endless = Object.assign([], { length: 4e9 })
    const call = start(
      {
        messages: [
          { role: 'user', content: endless },
          { role: 'user', content: [] }
        ],
        tools: endless
      },
      {},
      () => failures++
    )
    const again = start({ messages: endless }, {}, () => failures++)
    expect(call.attributes()['gen_ai.input.messages']).toContain('{"type":"omitted","parts":4000000000}')
    expect(again.attributes()['gen_ai.input.messages']).toBe('[{"role":"omitted","parts":[],"messages":4000000000}]')
    expect(failures).toBeGreaterThan(100)
    expect(failures).toBeLessThan(2000)
  })

  test('a prompt of 10 MB costs less than to write it as JSON once', () => {
    const one = { model, messages: [{ role: 'user', content: bigText(10e6, '"') }] }
    const many = {
      model,
      messages: Array.from({ length: 100_000 }, (_, index) => ({ role: 'user', content: bigText(100, 'abc'[index % 3]) }))
    }
    const secret = {
      model,
      messages: [{ role: 'assistant', content: '', toolCalls: [{ id: '1', name: 'f', arguments: bigText(10e6, '\\') }] }]
    }
    for (const request of [one, many, secret]) {
      const tries = Array.from({ length: 5 }, () => {
        const began = performance.now()
        start(request, { redact: (text) => text.replaceAll(/\d{9,}/g, '') })
        return performance.now() - began
      })
      const jsonBegan = performance.now()
      JSON.stringify(request)
      expect(Math.min(...tries)).toBeLessThan(performance.now() - jsonBegan)
    }
  })

  test('an open call keeps nothing of its prompt, and of an answer about maxChars of each kind', async () => {
    const open: CapturedCall[] = []
    const capture = createContentCapture({ redact: (text) => text }, () => {})
    const before = await heapAfterGc()
    for (let index = 0; index < 40; index++) {
      const call = capture.start({ model, messages: [{ role: 'user', content: bigText(1e6) }] })
      call.add([
        { type: 'text', text: bigText(1e6) },
        { type: 'tool-call', index: 0, arguments: bigText(1e6) }
      ])
      for (let piece = 0; piece < 20_000; piece++) call.add([{ type: 'reasoning', text: 'a' }])
      open.push(call)
    }
    const perCall = ((await heapAfterGc()) - before) / open.length
    // 8 K of the prompt and three times 9 K of the answer; the 3 MB they were cut from would be a hundred times that.
    expect(perCall).toBeLessThan(100_000)
  })
})
