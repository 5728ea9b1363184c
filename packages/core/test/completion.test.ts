import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { assemble, type ChatRequest, type Chunk, checkRequest, chunksOf, messageOf } from '../src/index.ts'
import { completions } from './arbitraries.ts'

function assembled(maxChars: number | undefined, chunks: Iterable<Chunk>) {
  const assembly = assemble({ maxChars })
  for (const chunk of chunks) assembly.add(chunk)
  return assembly.partial()
}

const text = (piece: string): Chunk => ({ type: 'text', text: piece })

describe('assemble', () => {
  it('tells what there is so far, and later chunks do not change what it told', () => {
    const assembly = assemble()
    assembly.add(text('a'))
    assembly.add({ type: 'tool-call', index: 0, id: 'i', name: 'n', arguments: '{' })
    assembly.add({ type: 'reasoning', text: 'h' })
    const before = assembly.partial()
    const copy = structuredClone(before)
    expect([assembly.finished, before.finish]).toEqual([false, 'other'])
    for (const chunk of [
      text('b'),
      { type: 'tool-call', index: 0, arguments: '}' },
      { type: 'reasoning', text: 'm', signature: 's' }
    ] as Chunk[])
      assembly.add(chunk)
    assembly.add({ type: 'extra', name: 'e', value: 1 })
    assembly.add({ type: 'note', from: 'cache', facts: {} })
    assembly.add({ type: 'finish', reason: 'length' })
    expect(before).toEqual(copy)
    expect([assembly.finished, assembly.partial().finish]).toEqual([true, 'length'])
  })

  it('keeps maxChars characters and says when there was more', () => {
    expect(assembled(5, [text('abc'), text('de')])).toMatchObject({ text: 'abcde' })
    expect(assembled(5, [text('abc'), text('de')])).not.toHaveProperty('clipped')
    expect(assembled(5, [text('abc'), text('def'), text('g')])).toMatchObject({ text: 'abcde', clipped: true })
    expect(assembled(0, [text('a')])).toMatchObject({ text: '', clipped: true })
    expect(assembled(0, [])).not.toHaveProperty('clipped')
    const late: Chunk[] = [
      { type: 'tool-call', index: 0, arguments: '' },
      { type: 'reasoning', text: '', signature: 's' }
    ]
    expect(assembled(3, [text('abcd'), ...late])).toMatchObject({ text: 'abc', toolCalls: [], reasoning: [], clipped: true })
  })

  it('counts reasoning, signatures, refusals, arguments and extras too', () => {
    const pieces: Chunk[] = [
      { type: 'reasoning', text: 'aaaa' },
      { type: 'reasoning', text: '', signature: 'aaaa' },
      { type: 'refusal', text: 'aaaa' },
      { type: 'tool-call', index: 0, arguments: 'aaaa' },
      { type: 'extra', name: 'e', value: 1 }
    ]
    for (const piece of pieces) {
      expect(assembled(10, [piece, piece])).not.toHaveProperty('clipped')
      expect(assembled(10, [piece, piece, piece]).clipped).toBe(true)
    }
    const { reasoning } = assembled(10, [{ type: 'reasoning', text: 'ab', signature: 'x'.repeat(20) }])
    expect(reasoning).toEqual([{ text: 'ab' }])
  })

  it('holds no more than maxChars whatever comes, and never half a surrogate pair (seed 12)', () => {
    fc.assert(
      fc.property(completions, fc.nat(60), (completion, maxChars) => {
        const kept = assembled(maxChars, chunksOf(completion))
        const chars = [
          kept.text,
          kept.refusal ?? '',
          ...kept.reasoning.flatMap((block) => [block.text, block.signature ?? '']),
          ...kept.toolCalls.map((call) => call.arguments)
        ]
        expect(chars.join('').length).toBeLessThanOrEqual(maxChars)
        for (const piece of chars) expect(piece.isWellFormed()).toBe(true)
        if (kept.clipped !== true) expect(kept).toEqual(completion)
        expect(kept.finish).toBe(completion.finish)
        expect(kept.usage).toEqual(completion.usage)
      }),
      { seed: 12, numRuns: 500 }
    )
  })

  it('measures an extra of any depth without overflowing the stack, and lets it go whole', () => {
    const deep = JSON.parse(`${'['.repeat(100_000)}${']'.repeat(100_000)}`)
    expect(assembled(1_000_000, [{ type: 'extra', name: 'e', value: deep }]).extras).toHaveLength(1)
    expect(assembled(1000, [{ type: 'extra', name: 'e', value: deep }])).toMatchObject({ extras: [], clipped: true })
    expect(assembled(1000, [{ type: 'extra', name: 'e', value: { ['k'.repeat(2000)]: 1 } }])).toMatchObject({ extras: [] })
  })

  it('takes hostile indexes and names of notes for what they are', () => {
    const odd: Chunk[] = [Number.NaN, -1, 2 ** 60, 0.5].map((index) => ({
      type: 'tool-call',
      index,
      id: 'i',
      name: 'n',
      arguments: '{}'
    }))
    const completion = assembled(undefined, [...odd, { type: 'note', from: '__proto__' as never, facts: { polluted: true } }])
    expect(completion.toolCalls).toHaveLength(4)
    expect((completion.notes as { polluted?: unknown }).polluted).toBeUndefined()
    expect(({} as { polluted?: unknown }).polluted).toBeUndefined()
  })

  it('says what to write instead of a wrong bound', () => {
    for (const maxChars of [-1, Number.NaN]) expect(() => assemble({ maxChars })).toThrow('maxChars must be a number from 0 up')
  })
})

describe('messageOf', () => {
  it('gives a message that a request may carry, with reasoning, text and tool calls (seed 13)', () => {
    fc.assert(
      fc.property(completions, (completion) => {
        const message = messageOf(completion)
        const request: ChatRequest = { model: 'm', messages: [{ role: 'user', content: 'x' }, message] }
        checkRequest(request)
        expect(message.toolCalls ?? []).toEqual(completion.toolCalls)
        const parts = typeof message.content === 'string' ? [{ type: 'text', text: message.content }] : message.content
        const joined = parts.map((part) => (part.type === 'text' ? (part as { text: string }).text : '')).join('')
        expect(joined).toBe(completion.text)
        expect(parts.filter((part) => part.type === 'reasoning')).toEqual(
          completion.reasoning.map((block) => ({ type: 'reasoning', ...block }))
        )
      }),
      { seed: 13 }
    )
  })
})
