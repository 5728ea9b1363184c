import { type CallOptions, type ChatRequest, type Chunk, collect, inputTokens, onAbort, type Provider } from '@millrace/core'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { coalesce } from '../src/coalesce.ts'
import { limitTokens, type RunningCount } from '../src/limit-tokens.ts'
import { withOperators } from '../src/with-operators.ts'
import { batched } from './batched.ts'
import { fed, finish, from, gather, start, text } from './source.ts'

const seed = 20_261_122

/** Words, where `-ing` costs nothing: pieces merge, and a count can fall, as with real tokens. */
const countOf = (whole: string): number =>
  (whole.match(/\S+/g) ?? []).reduce((sum, word) => sum + Math.max(1, Math.ceil(word.replace(/ing$/, '').length / 4)), 0)

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
    fc.asyncProperty(cut, fc.integer({ min: 1, max: 150 }), async (parts, max) => {
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
      expect(chunks.at(-2)).toMatchObject({ usage: { output: { text: countOf(delivered) } } })
    }),
    { seed, numRuns: 500 }
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

test('makes one counter for each kind of text, and gives it each character once, a large answer in few pieces', async () => {
  let made = 0
  let pushes = 0
  let pushed = ''
  const counting = (): RunningCount => {
    made++
    return {
      push(piece) {
        pushes++
        pushed += piece
        return Math.ceil(pushed.length / 4)
      }
    }
  }
  const whole = 'word '.repeat(20_000)
  const cut = await gather(limitTokens(5000, counting)(from([start, text(whole), finish])))
  expect(textOf(cut, 'text')).toBe(whole.slice(0, 20_000))
  expect(made).toBe(1)
  expect(whole.startsWith(pushed)).toBe(true)
  expect(pushed.length).toBeLessThan(20_000 + 300)
  expect(pushes).toBeLessThan(600)
})

test('never delivers more than the limit, even by a counter that rises faster than tokens can', async () => {
  let total = 0
  const leaping = (): RunningCount => ({ push: (piece) => (total += piece.length * 50) })
  const cut = await gather(limitTokens(1000, leaping)(from([start, text('x'.repeat(300)), text('y'), finish])))
  expect(textOf(cut, 'text').length * 50).toBeLessThanOrEqual(1000)
  expect(cut.at(-1)).toEqual({ type: 'finish', reason: 'cut' })
})

test('tells in the estimated usage the arguments of tool calls, which are not limited, and the input it is given', async () => {
  const call: Chunk = { type: 'tool-call', index: 0, id: 'a', name: 'find', arguments: '{"q": "x"}' }
  const chunks = [start, text('one'), call, text(' two three'), finish]
  const usageOf = async (options?: { inputTokens: number }): Promise<unknown> =>
    (await collect(limitTokens(2, words, options)(from(chunks)))).usage
  const output = { text: 2 + countOf('find{"q": "x"}'), reasoning: 0 }
  expect(await usageOf()).toEqual({
    input: { uncached: 0, cacheRead: 0, cacheWrite: 0 },
    output,
    estimated: true,
    billed: true
  })
  expect(await usageOf({ inputTokens: 42 })).toMatchObject({ input: { uncached: 42 }, output })
})

test('counts the input of the request it belongs to as a layer, at the cut only', async () => {
  let counted = 0
  const count = (request: ChatRequest): number => {
    counted++
    return request.messages.length * 10
  }
  const provider: Provider = async function* ({ model }) {
    yield start
    yield text(model === 'long' ? 'one two three' : 'one')
    yield finish
  }
  const layered = withOperators(limitTokens(2, words, { inputTokens: count }))(provider)
  const messages = [
    { role: 'system' as const, content: 'be brief' },
    { role: 'user' as const, content: 'hi' }
  ]
  expect((await collect(layered({ model: 'short', messages }, {}))).usage).toBeUndefined()
  expect(counted).toBe(0)
  const { usage } = await collect(layered({ model: 'long', messages }, {}))
  expect(usage && inputTokens(usage)).toBe(20)
  // Without a request there is nothing to count.
  const { usage: alone } = await collect(limitTokens(2, words, { inputTokens: count })(from([start, text('one two three')])))
  expect(alone && inputTokens(alone)).toBe(0)
  expect(counted).toBe(1)
})

test('ends the stream with a TypeError when inputTokens gives no number, behind what was delivered', async () => {
  const provider: Provider = () => from([start, text('one two three')])
  const layered = withOperators(limitTokens(2, words, { inputTokens: () => Number.NaN }))(provider)
  const got: Chunk[] = []
  await expect(async () => {
    for await (const chunk of layered({ model: 'm', messages: [{ role: 'user', content: 'hi' }] }, {})) got.push(chunk)
  }).rejects.toThrow(/inputTokens must give a whole number/)
  expect(textOf(got, 'text')).toBe('one two ')
})

test('aborts a provider that is already busy with the read behind the crossing chunk, before the cut is delivered', async () => {
  const log: string[] = []
  const provider: Provider = async function* (_request, { signal }: CallOptions) {
    try {
      for (const word of ['one ', 'two ', 'three ', 'four ']) yield text(word)
      log.push('busy')
      await new Promise((_resolve, reject) =>
        onAbort(signal, (reason) => {
          log.push('aborted')
          reject(reason)
        })
      )
    } finally {
      log.push('closed')
    }
  }
  // The clock of coalesce delivers while its read of the provider is pending.
  const layered = withOperators(coalesce({ minChars: 1000, maxDelayMs: 5 }), limitTokens(4, words))(provider)
  const stream = layered({ model: 'm', messages: [{ role: 'user', content: 'hi' }] }, {})[Symbol.asyncIterator]()
  expect((await stream.next()).value).toEqual(text('one two three '))
  expect(log.slice(0, 2)).toEqual(['busy', 'aborted'])
  await new Promise(setImmediate)
  expect(log).toEqual(['busy', 'aborted', 'closed'])
  expect((await stream.next()).value).toMatchObject({ type: 'usage' })
  expect((await stream.next()).value).toEqual({ type: 'finish', reason: 'cut' })
})

test('refuses wrong options at creation', () => {
  for (const max of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) expect(() => limitTokens(max, words)).toThrow(TypeError)
  expect(() => limitTokens(1, undefined as never)).toThrow(/tokenizer\.counter/)
  for (const options of [{ inputTokens: -1 }, { inputTokens: '5' }, { input: 5 }, null]) {
    expect(() => limitTokens(1, words, options as never)).toThrow(TypeError)
  }
})

test('tells the usage of a cached answer as not billed, and takes what the budget dropped off the counted input', async () => {
  const messages = [{ role: 'user' as const, content: 'hi' }]
  const usageOf = async (notes: readonly Chunk[], input: number | (() => number)): Promise<unknown> => {
    const provider: Provider = () => from([start, ...notes, text('one two three')])
    return (await collect(withOperators(limitTokens(2, words, { inputTokens: input }))(provider)({ model: 'm', messages }, {})))
      .usage
  }
  const cached = (state: string): Chunk => ({ type: 'note', from: 'cache', facts: { state } })
  const saved = (tokens: number): Chunk => ({ type: 'note', from: 'tokens', facts: { saved: tokens } })
  for (const state of ['hit', 'stale', 'joined']) expect(await usageOf([cached(state)], 5)).toMatchObject({ billed: false })
  for (const state of ['miss', 'bypass']) expect(await usageOf([cached(state)], 5)).toMatchObject({ billed: true })
  expect(await usageOf([saved(30)], () => 100)).toMatchObject({ input: { uncached: 70 }, billed: true })
  expect(await usageOf([saved(300)], () => 100)).toMatchObject({ input: { uncached: 0 } })
  expect(await usageOf([saved(30)], 100)).toMatchObject({ input: { uncached: 100 } })
})

test('tells the usage of the provider as it was told, where it came with the chunk that crosses', async () => {
  const told: Chunk = {
    type: 'usage',
    usage: {
      input: { uncached: 1000, cacheRead: 0, cacheWrite: 0 },
      output: { text: 2000, reasoning: 0 },
      estimated: false,
      billed: true
    }
  }
  const whole = batched([start, text('one two three'), text(' four'), told, finish])
  expect(await gather(limitTokens(2, words)(whole))).toEqual([start, text('one two '), told, { type: 'finish', reason: 'cut' }])
  expect(whole.returned).toBe(1)
})

test('delivers no half of a pair that comes in two chunks, and joins the halves of one within the limit', async () => {
  const bytes = (): RunningCount => {
    let whole = ''
    return { push: (piece) => Buffer.byteLength((whole += piece)) }
  }
  const halves = [text('a\ud83d'), text('\ude00 b')]
  expect(textOf(await gather(limitTokens(4, bytes)(from(halves))), 'text')).toBe('a')
  expect(await gather(limitTokens(5, bytes)(from(halves)))).toEqual([
    text('a'),
    text('\ud83d\ude00'),
    expect.objectContaining({ type: 'usage' }),
    { type: 'finish', reason: 'cut' }
  ])
  expect(await gather(limitTokens(100, bytes)(from([start, ...halves, finish])))).toEqual([
    start,
    text('a'),
    text('\ud83d\ude00 b'),
    finish
  ])
  // One that stays alone goes out before what comes behind it, and at the end.
  const thought: Chunk = { type: 'reasoning', text: 'hm\ud83d', signature: 's' }
  for (const alone of [[text('a\ud83d'), finish], [text('a\ud83d')], [thought, text('b')]]) {
    expect(textOf(await gather(limitTokens(100, bytes)(from(alone))), 'text')).toBe(textOf(alone, 'text'))
  }
  expect((await gather(limitTokens(100, bytes)(from([thought]))))[0]).toBe(thought)
})

test('says that a counter has a push, to one who gives a function of the text', () => {
  expect(() => limitTokens(5, ((piece: string) => piece.length) as never)).toThrow(/counter with a push/)
  expect(() => limitTokens(5, ((_model?: string) => words()) as () => RunningCount)).not.toThrow()
  expect(() => limitTokens('5' as never, words)).toThrow(/not "5"/)
})
