import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Chunk, type Completion, chunksOf, collect, incomplete, isMillraceError, MillraceError } from '../src/index.ts'
import { completions } from './arbitraries.ts'

async function* streamOf(chunks: Iterable<Chunk>, error?: unknown): AsyncGenerator<Chunk> {
  yield* chunks
  if (error !== undefined) throw error
}

const start: Chunk = { type: 'start', provider: 'p', model: 'm' }
const stop: Chunk = { type: 'finish', reason: 'stop' }
const caught = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => undefined,
    (error: unknown) => error
  )

describe('collect', () => {
  it('puts pieces together in order', async () => {
    const chunks: Chunk[] = [
      { ...start, id: 'c1' },
      { type: 'note', from: 'cache', facts: { state: 'miss' } },
      { type: 'reasoning', text: 'h' },
      { type: 'reasoning', text: 'm', signature: 's1' },
      { type: 'reasoning', text: 'then' },
      { type: 'text', text: 'Hel' },
      { type: 'tool-call', index: 5, id: 'b', name: 'second', arguments: '' },
      { type: 'tool-call', index: 2, id: 'a', name: 'first', arguments: '{"x"' },
      { type: 'tool-call', index: 5, arguments: '{}' },
      { type: 'tool-call', index: 2, arguments: ':1}' },
      { type: 'text', text: 'lo' },
      { type: 'extra', name: 'logprobs', value: [1] },
      { type: 'finish', reason: 'tool-calls' }
    ]
    expect(await collect(streamOf(chunks))).toEqual({
      provider: 'p',
      model: 'm',
      id: 'c1',
      text: 'Hello',
      reasoning: [{ text: 'hm', signature: 's1' }, { text: 'then' }],
      toolCalls: [
        { id: 'a', name: 'first', arguments: '{"x":1}' },
        { id: 'b', name: 'second', arguments: '{}' }
      ],
      extras: [{ name: 'logprobs', value: [1] }],
      finish: 'tool-calls',
      notes: { cache: { state: 'miss' } }
    })
  })

  it('gives back the completion that chunksOf took apart, whatever is in it (seed 8)', async () => {
    await fc.assert(
      fc.asyncProperty(completions, async (completion) => {
        expect(await collect(streamOf(chunksOf(completion)))).toEqual(completion)
      }),
      { seed: 8, numRuns: 500 }
    )
  })

  it('gives the same completion however its texts are cut (seed 9)', async () => {
    await fc.assert(
      fc.asyncProperty(completions, fc.integer({ min: 1, max: 5 }), async (completion, size) => {
        expect(await collect(streamOf(cutSmall(chunksOf(completion), size)))).toEqual(completion)
      }),
      { seed: 9, numRuns: 300 }
    )
  })

  it('takes a stream without a finish for an error that carries the text so far, and may be tried again', async () => {
    const error = await caught(collect(streamOf([start, { type: 'text', text: 'half' }])))
    if (!isMillraceError(error, 'protocol')) throw error
    expect(error.details.reason).toBe('incomplete')
    expect(error.retryable).toBe(true)
    expect(error.partial?.text).toBe('half')
    expect(error.context).toEqual({ provider: 'p', model: 'm' })
    expect(incomplete({ ...(error.partial as Completion), provider: '', model: '' }).context).toEqual({})
    expect(isMillraceError(await caught(collect(streamOf([]))), 'protocol')).toBe(true)
  })

  it('adds the text so far to an error of ours, and passes any other untouched', async () => {
    const ours = new MillraceError('network', 'broken', { details: { phase: 'body' } })
    expect(await caught(collect(streamOf([start, { type: 'text', text: 'half' }], ours)))).toBe(ours)
    expect(ours.partial?.text).toBe('half')
    const reason = Object.freeze(new Error('mine'))
    expect(await caught(collect(streamOf([start], reason)))).toBe(reason)
    expect(await caught(collect(streamOf([start], 'a string')))).toBe('a string')
  })

  it('refuses more than 1024 tool calls and closes the stream', async () => {
    let closed = false
    async function* endless(): AsyncGenerator<Chunk> {
      try {
        yield start
        for (let index = 0; ; index++) yield { type: 'tool-call', index: index * 7919, arguments: '' }
      } finally {
        closed = true
      }
    }
    const error = await caught(collect(endless()))
    expect(isMillraceError(error, 'protocol') && error.details.reason).toBe('too-large')
    expect(isMillraceError(error) && error.partial?.toolCalls).toHaveLength(1024)
    expect(closed).toBe(true)
  })

  it('refuses an answer that outgrows maxChars, returns the source, and keeps a part with the error', async () => {
    let closed = false
    async function* words(): AsyncGenerator<Chunk> {
      try {
        yield start
        yield* Array.from({ length: 3 }, (): Chunk => ({ type: 'text', text: 'word ' }))
        yield stop
      } finally {
        closed = true
      }
    }
    expect((await collect(words(), { maxChars: 15 })).text).toHaveLength(15)
    const error = await caught(collect(words(), { maxChars: 14 }))
    if (!isMillraceError(error, 'protocol')) throw error
    expect(error.details.reason).toBe('too-large')
    expect(error.message).toContain('maxChars')
    expect(error.retryable).toBe(false)
    expect(error.context).toEqual({ provider: 'p', model: 'm' })
    expect(error.partial).toMatchObject({ text: 'word word word', clipped: true, finish: 'other' })
    expect(closed).toBe(true)
  })

  it('refuses wrong options before it reads', async () => {
    let asked = false
    const source: AsyncIterable<Chunk> = {
      [Symbol.asyncIterator]() {
        asked = true
        return streamOf([])
      }
    }
    await expect(collect(source, { maxChars: -1 })).rejects.toThrow('maxChars must be a number from 0 up')
    await expect(collect(source, { maxBytes: 1 } as object)).rejects.toThrow('collect has no option "maxBytes"')
    expect(asked).toBe(false)
  })

  const endless: readonly [string, () => Chunk][] = [
    ['annotations', () => ({ type: 'extra', name: 'annotations', value: JSON.parse('[{"type":"url_citation","at":[1,2]}]') })],
    ['empty extras', () => ({ type: 'extra', name: 'logprobs', value: JSON.parse('{"content":[]}') })],
    ['text of small pieces', () => ({ type: 'text', text: 'word' })],
    ['reasoning in empty blocks', () => ({ type: 'reasoning', text: '', signature: '' })],
    ['text of large pieces', () => ({ type: 'text', text: 'word '.repeat(20_000) })],
    ['tool arguments', () => ({ type: 'tool-call', index: 0, id: 'i', name: 'n', arguments: '[[[[' })]
  ]
  it.each(endless)('ends on an endless stream of %s, in bounded memory', async (_what, chunk) => {
    let closed = false
    let peak = 0
    const used = (): number => process.memoryUsage().heapUsed
    const before = used()
    async function* flood(): AsyncGenerator<Chunk> {
      try {
        yield start
        for (let count = 0; ; count++) {
          if (count % 65_536 === 0) peak = Math.max(peak, used())
          yield chunk()
        }
      } finally {
        closed = true
      }
    }
    const error = await caught(collect(flood()))
    expect(isMillraceError(error, 'protocol') && error.details.reason).toBe('too-large')
    expect(closed).toBe(true)
    expect(peak - before).toBeLessThan(1_000_000_000)
    globalThis.gc?.()
    // What the error keeps is its part, and not the whole behind it.
    expect(JSON.stringify((error as MillraceError).partial).length).toBeLessThan(2_000_000)
    expect(used() - before).toBeLessThan(30_000_000)
  })

  it('takes time linear in the pieces', async () => {
    const timed = async (count: number): Promise<number> => {
      const pieces = Array.from({ length: count }, (): Chunk => ({ type: 'text', text: 'word ' }))
      const startedAt = performance.now()
      expect((await collect(streamOf([start, ...pieces, stop]))).text).toHaveLength(count * 5)
      return performance.now() - startedAt
    }
    await timed(10_000)
    const few = await timed(20_000)
    expect(await timed(200_000)).toBeLessThan(few * 40 + 300)
  })
})

describe('chunksOf', () => {
  it('yields a legal stream', () => {
    fc.assert(
      fc.property(completions, (completion) => {
        const types = [...chunksOf(completion)].map(({ type }) => type)
        expect(types[0]).toBe('start')
        expect(types.at(-1)).toBe('finish')
        expect(types.lastIndexOf('note')).toBeLessThanOrEqual(Object.keys(completion.notes).length)
      }),
      { seed: 10 }
    )
  })
})

/** Texts in small pieces; empty ones stay, for they tell that a field is there. */
function* cutSmall(chunks: Iterable<Chunk>, size: number): Generator<Chunk> {
  for (const chunk of chunks) {
    if (chunk.type === 'text' || chunk.type === 'refusal') {
      for (let at = 0; at < Math.max(1, chunk.text.length); at += size) yield { ...chunk, text: chunk.text.slice(at, at + size) }
    } else if (chunk.type === 'tool-call') {
      yield { ...chunk, arguments: '' }
      for (let at = 0; at < chunk.arguments.length; at += size) {
        yield { type: 'tool-call', index: chunk.index, arguments: chunk.arguments.slice(at, at + size) }
      }
    } else yield chunk
  }
}
