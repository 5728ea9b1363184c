import type { Chunk } from '@millrace/core'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { limitTokens, type RunningCount } from '../src/index.ts'
import { fed, finish, from, gather, start, text } from './source.ts'

const seed = 20_261_122

/** Words, where an `-ing` joined to its stem costs nothing: pieces merge, and a count can fall, as with real tokens. */
const countOf = (whole: string): number =>
  (whole.match(/\S+/g) ?? []).reduce((sum, word) => sum + (/ing\b/.test(word) ? 1 : Math.ceil(word.length / 4)), 0)

function words(): RunningCount {
  let whole = ''
  return {
    push(piece) {
      whole += piece
      return countOf(whole)
    }
  }
}

const textOf = (chunks: readonly Chunk[], type: string): string =>
  chunks.map((chunk) => (chunk.type === type && 'text' in chunk ? chunk.text : '')).join('')

test(`delivers a prefix of at most max tokens, beyond which the next character is too much (seed ${seed})`, async () => {
  const cut = fc.array(fc.constantFrom('one ', 'streaming', ' stream', 'ing ', 'a', ' ', '😀 ', 'x'.repeat(300)), {
    maxLength: 30
  })
  await fc.assert(
    fc.asyncProperty(cut, fc.integer({ min: 1, max: 20 }), async (parts, max) => {
      const whole = parts.join('')
      const chunks = await gather(limitTokens(max, words)(from([start, ...parts.map(text), finish])))
      const delivered = textOf(chunks, 'text')
      expect(whole.startsWith(delivered)).toBe(true)
      expect(countOf(delivered)).toBeLessThanOrEqual(max)
      if (delivered === whole) {
        expect(chunks.at(-1)).toEqual(finish)
        return
      }
      expect(chunks.at(-1)).toEqual({ type: 'finish', reason: 'cut' })
      const [next] = whole.slice(delivered.length)
      expect(countOf(delivered + next)).toBeGreaterThan(max)
    }),
    { seed, numRuns: 300 }
  )
})

test('returns the source with the chunk that crosses the limit, before the reader has asked again', async () => {
  const source = fed()
  const stream = limitTokens(2, words)(source)[Symbol.asyncIterator]()
  source.give(text('one two three'))
  expect((await stream.next()).value).toEqual(text('one two '))
  expect(source.returned).toBe(1)
  expect(source.reads).toBe(1)
  expect((await stream.next()).value).toMatchObject({
    type: 'usage',
    usage: { output: { text: 2 }, estimated: true, billed: true }
  })
  expect((await stream.next()).value).toEqual({ type: 'finish', reason: 'cut' })
  expect((await stream.next()).done).toBe(true)
})

test('counts text and reasoning together, each as its own text, and tells them apart in usage', async () => {
  const chunks: Chunk[] = [start, { type: 'reasoning', text: 'let me see' }, text('yes it is so'), finish]
  const cut = await gather(limitTokens(5, words)(from(chunks)))
  expect(textOf(cut, 'reasoning')).toBe('let me see')
  expect(textOf(cut, 'text')).toBe('yes it ')
  expect(cut.at(-2)).toMatchObject({ usage: { output: { reasoning: 3, text: 2 } } })
})

test('leaves usage to the provider where it came before the cut', async () => {
  const usage: Chunk = {
    type: 'usage',
    usage: {
      input: { uncached: 9, cacheRead: 0, cacheWrite: 0 },
      output: { text: 9, reasoning: 0 },
      estimated: false,
      billed: true
    }
  }
  const cut = await gather(limitTokens(1, words)(from([start, usage, text('one two'), finish])))
  expect(cut.filter(({ type }) => type === 'usage')).toEqual([usage])
})

test('passes a stream within the limit untouched, object by object', async () => {
  const call: Chunk = { type: 'tool-call', index: 0, id: 'a', name: 'f', arguments: '{"long":"arguments are not counted"}' }
  const chunks = [start, text('one'), call, finish]
  const passed = await gather(limitTokens(1, words)(from(chunks)))
  expect(passed).toHaveLength(4)
  for (const [index, chunk] of passed.entries()) expect(chunk).toBe(chunks[index])
})

test('delivers the cut although the source cannot close, and tells it at the very end', async () => {
  const boom = new Error('cannot close')
  const source: AsyncIterable<Chunk> = {
    [Symbol.asyncIterator]: () => ({
      next: async () => ({ done: false, value: text('one two') }),
      async return() {
        throw boom
      }
    })
  }
  const got: Chunk[] = []
  await expect(async () => {
    for await (const chunk of limitTokens(1, words)(source)) got.push(chunk)
  }).rejects.toBe(boom)
  expect(got.map(({ type }) => type)).toEqual(['text', 'usage', 'finish'])
})

test('returns the source and rejects when the counter throws', async () => {
  const source = fed()
  source.give(text('one'))
  const broken = limitTokens(1, () => ({
    push() {
      throw new Error('closed')
    }
  }))
  await expect(gather(broken(source))).rejects.toThrow('closed')
  expect(source.returned).toBe(1)
})

test('refuses wrong options at creation', () => {
  for (const max of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) expect(() => limitTokens(max, words)).toThrow(TypeError)
  expect(() => limitTokens(1, undefined as never)).toThrow(/tokenizer\.counter/)
})
