import { type Chunk, collect, type FinishReason } from '@millrace/core'
import { describe, expect, it } from 'vitest'
import { condense, isAnswer, isChunk, isJson } from '../src/answer.ts'
import { answer, finish, start, usage } from './scripted.ts'

const note: Chunk = { type: 'note', from: 'provider', facts: { rateLimits: {} } }
const call = (index: number, text: string, rest: { id?: string; name?: string } = {}): Chunk => ({
  type: 'tool-call',
  index,
  arguments: text,
  ...rest
})

/** One of everything, in small pieces. */
const varied: Chunk[] = [
  start,
  note,
  { type: 'reasoning', text: 'I ' },
  { type: 'reasoning', text: 'think' },
  { type: 'reasoning', text: '', signature: 's1' },
  { type: 'reasoning', text: 'more', signature: 's2' },
  { type: 'text', text: 'Hel' },
  { type: 'text', text: 'lo' },
  { type: 'refusal', text: 'no' },
  { type: 'refusal', text: 'pe' },
  { type: 'text', text: '!' },
  call(0, '', { id: 'c0', name: 'f' }),
  call(0, '{"a":'),
  call(0, '1}'),
  call(1, '', { id: 'c1', name: 'g' }),
  call(1, '[]'),
  { type: 'extra', name: 'logprobs', value: { content: [1] } },
  { type: 'usage', usage },
  finish('tool-calls')
]

async function* of(chunks: readonly Chunk[]): AsyncGenerator<Chunk, void, undefined> {
  yield* chunks
}

describe('what is kept of a stream', () => {
  it('is its chunks without notes, neighbours of one kind merged, and collects to the same completion', async () => {
    const kept = condense(varied)
    expect(kept).toEqual({
      chunks: [
        start,
        { type: 'reasoning', text: 'I think', signature: 's1' },
        { type: 'reasoning', text: 'more', signature: 's2' },
        { type: 'text', text: 'Hello' },
        { type: 'refusal', text: 'nope' },
        { type: 'text', text: '!' },
        { type: 'tool-call', index: 0, id: 'c0', name: 'f', arguments: '{"a":1}' },
        { type: 'tool-call', index: 1, id: 'c1', name: 'g', arguments: '[]' },
        { type: 'extra', name: 'logprobs', value: { content: [1] } },
        { type: 'usage', usage },
        finish('tool-calls')
      ]
    })
    expect(isAnswer(kept)).toBe(true)
    expect(await collect(of(kept.chunks))).toEqual({ ...(await collect(of(varied))), notes: {} })
  })

  it('is every chunk by itself with its time in whole milliseconds, where the times are given', () => {
    const kept = condense(
      varied,
      varied.map((_, index) => index * 10.4)
    )
    expect(kept.chunks).toEqual(varied.filter(({ type }) => type !== 'note'))
    expect(kept.atMs?.slice(0, 4)).toEqual([0, 21, 31, 42])
    expect(isAnswer(kept)).toBe(true)
  })
})

describe('a complete, valid answer', () => {
  const wrong: readonly (readonly [string, unknown])[] = [
    ...(['length', 'content-filter', 'cut', 'other', 'new-reason'] as FinishReason[]).map(
      (reason) => [`that finished by ${reason}`, { chunks: answer('a', reason) }] as const
    ),
    ['without a finish', { chunks: answer('a').slice(0, -1) }],
    ['with two finishes', { chunks: [...answer('a'), finish()] }],
    ['with something behind its finish', { chunks: [...answer('a'), { type: 'text', text: 'b' }] }],
    ['without a start', { chunks: answer('a').slice(1) }],
    ['with two starts', { chunks: [start, ...answer('a')] }],
    ['with a note', { chunks: [start, note, ...answer('a').slice(1)] }],
    ['without content', { chunks: [start, { type: 'text', text: '' }, finish()] }],
    ['with usage twice', { chunks: [start, { type: 'usage', usage }, ...answer('a').slice(1)] }],
    ['with arguments that break off', { chunks: [start, call(0, '{"a":', { name: 'f' }), finish('tool-calls')] }],
    ['with arguments twice', { chunks: [start, call(0, '{}', { name: 'f' }), call(0, '{}'), finish('tool-calls')] }],
    [
      'with a negative count',
      {
        chunks: [
          start,
          { type: 'text', text: 'a' },
          { type: 'usage', usage: { ...usage, output: { text: -1, reasoning: 0 } } },
          finish()
        ]
      }
    ],
    [
      'with half a usage',
      { chunks: [start, { type: 'text', text: 'a' }, { type: 'usage', usage: { input: usage.input } }, finish()] }
    ],
    ['with a piece of no text', { chunks: [start, { type: 'text', text: 1 }, finish()] }],
    ['with a chunk nobody knows', { chunks: [start, { type: 'text', text: 'a' }, { type: 'sound' }, finish()] }],
    ['with too few times', { chunks: answer('a'), atMs: [0, 1] }],
    ['with times that go back', { chunks: answer('a'), atMs: [0, 5, 4, 6] }],
    ['with times that never come', { chunks: answer('a'), atMs: [0, 1, 2, Number.POSITIVE_INFINITY] }],
    ['that is a list', answer('a')],
    ['that is null', null],
    ['that is text', 'a']
  ]

  for (const [what, value] of wrong) it(`is not one ${what}`, () => expect(isAnswer(value)).toBe(false))

  it('is text, a refusal, reasoning or tool calls with arguments that parse', () => {
    for (const middle of [
      { type: 'text', text: 'a' },
      { type: 'refusal', text: 'a' },
      { type: 'reasoning', text: '', signature: 's' },
      call(3, '{"a":1}', { id: 'x' })
    ] as Chunk[]) {
      expect(isAnswer({ chunks: [start, middle, finish()] })).toBe(true)
    }
  })

  it('may call a tool that takes nothing with no arguments at all, as providers do', () => {
    expect(isAnswer({ chunks: [start, call(0, '', { id: 'a', name: 'f' }), finish('tool-calls')] })).toBe(true)
  })

  it('has calls whose pieces come in turns', () => {
    const turns = [call(0, '{"a"', { name: 'f' }), call(1, '[', { name: 'g' }), call(0, ':1}'), call(1, ']')]
    expect(isAnswer({ chunks: [start, ...turns, finish('tool-calls')] })).toBe(true)
    expect(isAnswer(condense([start, ...turns, finish('tool-calls')]))).toBe(true)
  })
})

describe('a chunk', () => {
  it('is known by its fields, whatever the reason of a finish, notes too', () => {
    for (const chunk of [...varied, finish('length')]) expect(isChunk(chunk)).toBe(true)
    for (const chunk of [
      null,
      1,
      {},
      { type: 'note', from: 'cache' },
      { type: 'extra', name: 'a' },
      { type: 'start', provider: 'a' }
    ]) {
      expect(isChunk(chunk)).toBe(false)
    }
  })
})

describe('plain JSON', () => {
  it('is what JSON carries unbent, not too deep, and no trap', () => {
    const nested = (depth: number): unknown => JSON.parse('['.repeat(depth) + ']'.repeat(depth))
    for (const value of [null, 0, '', [], { a: undefined }, nested(200)]) expect(isJson(value)).toBe(true)
    const traps = [
      undefined,
      Number.NaN,
      1n,
      new Date(),
      new Map(),
      [undefined],
      nested(201),
      JSON.parse('{"a":{"__proto__":1}}')
    ]
    for (const value of traps) expect(isJson(value)).toBe(false)
  })
})
