import { type CallOptions, type Chunk, collect, onAbort, type Provider } from '@millrace/core'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { RunningCount } from '../src/limit-tokens.ts'
import { stopWhen } from '../src/stop-when.ts'
import { withOperators } from '../src/with-operators.ts'
import { batched } from './batched.ts'
import { fed, finish, from, gather, start, text } from './source.ts'

const seed = 20_261_123
const cut: Chunk = { type: 'finish', reason: 'cut' }
const call: Chunk = { type: 'tool-call', index: 0, id: 'a', name: 'f', arguments: '{"a":1}' }
const logprobs = (value: number): Chunk => ({ type: 'extra', name: 'logprobs', value: [value] })

const letters = (): RunningCount => {
  let count = 0
  return { push: (piece) => (count += piece.length) }
}

const textOf = (chunks: readonly Chunk[]): string => chunks.map((chunk) => (chunk.type === 'text' ? chunk.text : '')).join('')

/** What is before the stop text that ends first, by trying every end. */
function before(whole: string, stops: readonly string[]): string | undefined {
  for (let end = 1; end <= whole.length; end++) {
    const found = stops.filter((stop) => whole.slice(0, end).endsWith(stop))
    if (found.length > 0) return whole.slice(0, end - Math.max(...found.map((stop) => stop.length)))
  }
  return undefined
}

describe('texts', () => {
  test(`deliver what is before the first of them, whatever the cut, and hold back no more than could begin one (seed ${seed})`, async () => {
    const few = (max: number): fc.Arbitrary<string> =>
      fc.string({ unit: fc.constantFrom('a', 'b', '😀'), minLength: 1, maxLength: max })
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.oneof(few(5).map(text), fc.nat(9).map(logprobs)), { maxLength: 30 }),
        fc.array(few(6), { minLength: 1, maxLength: 3 }),
        async (pieces, stops) => {
          const whole = textOf(pieces)
          const expected = before(whole, stops)
          const source = fed()
          for (const chunk of [start, ...pieces, finish]) source.give(chunk)
          source.end()
          const chunks: Chunk[] = []
          let seen = ''
          for await (const chunk of stopWhen(stops)(source)) {
            chunks.push(chunk)
            seen += chunk.type === 'text' ? chunk.text : ''
            // All that was read and cannot belong to a stop text is out by the time the next chunk is read.
            const read = textOf(pieces.slice(0, Math.max(0, source.reads - 2)))
            if (expected === undefined && read.startsWith(seen)) {
              const longest = Math.max(...stops.map((stop) => stop.length))
              expect(read.length - seen.length).toBeLessThan(longest)
            }
          }
          expect(textOf(chunks)).toBe(expected ?? whole)
          expect(chunks.at(-1)).toEqual(expected === undefined ? finish : cut)
          expect(source.returned).toBe(expected === undefined ? 0 : 1)
          // In order: what is between two chunks stays between them.
          const marks = (all: readonly Chunk[]): unknown[] =>
            all.flatMap((chunk) => (chunk.type === 'text' ? Array.from(chunk.text) : chunk.type === 'extra' ? [chunk.value] : []))
          const delivered = marks(chunks)
          expect(delivered).toEqual(marks(pieces).slice(0, delivered.length))
        }
      ),
      { seed, numRuns: 500 }
    )
  })

  test('return the source with the chunk that ends the stop text, before the reader has asked again', async () => {
    const source = fed()
    const stream = stopWhen('STOP')(source)[Symbol.asyncIterator]()
    source.give(text('go ST'))
    source.give(text('OP and on'))
    expect((await stream.next()).value).toEqual(text('go '))
    expect((await stream.next()).value).toEqual(cut)
    expect(source.returned).toBe(1)
    expect(source.reads).toBe(2)
    expect((await stream.next()).done).toBe(true)
  })

  test('let go of what was held back as soon as it can be no stop text, at another chunk, at an error and at the end', async () => {
    const boom = new Error('boom')
    const after: [(source: ReturnType<typeof fed>) => void, readonly Chunk[]][] = [
      [(source) => source.give(text('x')), [text('ST'), text('x')]],
      [(source) => source.give(call), [text('ST'), call]],
      [(source) => source.give({ type: 'reasoning', text: 'hm' }), [text('ST'), { type: 'reasoning', text: 'hm' }]],
      [(source) => source.give(finish), [text('ST'), finish]],
      [(source) => source.end(), [text('ST')]],
      [(source) => source.fail(boom), [text('ST')]]
    ]
    for (const [act, expected] of after) {
      const source = fed()
      const stream = stopWhen(['STOP', 'STAY'])(source)[Symbol.asyncIterator]()
      source.give(text('ST'))
      act(source)
      for (const chunk of expected) expect((await stream.next()).value).toEqual(chunk)
      await stream.return?.()
    }
  })

  test('do not reach over a tool call', async () => {
    const chunks = [start, text('ST'), call, text('OP'), finish]
    expect(await gather(stopWhen('STOP')(from(chunks)))).toEqual(chunks)
  })

  test('hold extras in their place among held text, and no more than 64 of them', async () => {
    const few = [text('S'), logprobs(1), text('T'), logprobs(2), text('OP'), logprobs(3), finish]
    expect(await gather(stopWhen('STOP')(from(few)))).toEqual([cut])
    const many = [text('S'), ...Array.from({ length: 65 }, (_, at) => logprobs(at)), text('TOP'), finish]
    expect(await gather(stopWhen('STOP')(from(many)))).toEqual(many)
  })

  test('pass chunks that hold nothing back object by object', async () => {
    const chunks = [start, text('one '), call, text(''), text('two'), finish]
    for (const [at, chunk] of (await gather(stopWhen('STOP')(from(chunks)))).entries()) expect(chunk).toBe(chunks[at])
  })

  test('take time in proportion to the answer, also where nearly all of it is held back', async () => {
    const stop = `${'a'.repeat(20_000)}b`
    const time = async (length: number): Promise<number> => {
      const pieces = Array.from({ length }, () => text('a'))
      const began = process.cpuUsage()
      await gather(stopWhen(stop)(from(pieces)))
      return process.cpuUsage(began).user
    }
    await time(50_000)
    const [half, whole] = [await time(50_000), await time(200_000)]
    expect(whole).toBeLessThan(12 * half) // 16 would be quadratic
  })

  test('give no usage without a counter, and with one what was delivered, once', async () => {
    const reasoning: Chunk = { type: 'reasoning', text: 'hm' }
    const chunks = [start, reasoning, text('one'), call, text('twoSTOP'), finish]
    expect((await collect(stopWhen('STOP')(from(chunks)))).usage).toBeUndefined()
    const counted = stopWhen('STOP', { createCounter: letters, inputTokens: 7 })
    expect((await gather(counted(from(chunks)))).at(-2)).toEqual({
      type: 'usage',
      usage: {
        input: { uncached: 7, cacheRead: 0, cacheWrite: 0 },
        output: { text: 6 + 'f{"a":1}'.length, reasoning: 2 },
        estimated: true,
        billed: true
      }
    })
    const told: Chunk = {
      type: 'usage',
      usage: {
        input: { uncached: 1, cacheRead: 0, cacheWrite: 0 },
        output: { text: 1, reasoning: 0 },
        estimated: false,
        billed: true
      }
    }
    const all = await gather(counted(from([start, told, text('STOP')])))
    expect(all).toEqual([start, told, cut])
  })
})

describe('a rule', () => {
  test('is shown the text so far with each content, and goes on at false', async () => {
    const seen: [string, string][] = []
    const chunks: Chunk[] = [
      start,
      text('a'),
      { type: 'reasoning', text: 'hm' },
      text('b'),
      call,
      { type: 'refusal', text: 'no' },
      finish
    ]
    const passed = await gather(
      stopWhen((whole, chunk) => {
        seen.push([whole, chunk.type])
        return false
      })(from(chunks))
    )
    expect(seen).toEqual([
      ['a', 'text'],
      ['a', 'reasoning'],
      ['ab', 'text'],
      ['ab', 'tool-call'],
      ['ab', 'refusal']
    ])
    for (const [at, chunk] of passed.entries()) expect(chunk).toBe(chunks[at])
  })

  test('delivers the chunk at true, and with a number as many characters of the text as it says', async () => {
    const chunks = [text('one '), text('two 😀'), finish]
    const stops = async (at: number | true): Promise<string> =>
      textOf(await gather(stopWhen((whole) => whole.includes('two') && at)(from(chunks))))
    expect(await stops(true)).toBe('one two 😀')
    expect(await stops(6)).toBe('one tw')
    expect(await stops(0)).toBe('one ')
    expect(await stops(9)).toBe('one two ') // not half of the emoji
    expect(await stops(1000)).toBe('one two 😀')
  })

  test('can stop at a tool call, with it or without it', async () => {
    const chunks = [text('a'), call, finish]
    expect(await gather(stopWhen((_, chunk) => chunk.type === 'tool-call')(from(chunks)))).toEqual([text('a'), call, cut])
    expect(await gather(stopWhen((whole, chunk) => chunk.type === 'tool-call' && whole.length)(from(chunks)))).toEqual([
      text('a'),
      cut
    ])
  })

  test('is shown the end of an answer that is longer than its window', async () => {
    const lengths: number[] = []
    let last = ''
    const pieces = Array.from({ length: 1000 }, (_, at) => text(String(at % 10)))
    await gather(
      stopWhen(
        (whole) => {
          lengths.push(whole.length)
          last = whole
          return false
        },
        { windowChars: 50 }
      )(from(pieces))
    )
    expect(Math.max(...lengths)).toBeLessThanOrEqual(100)
    expect(Math.min(...lengths.slice(50))).toBeGreaterThanOrEqual(50)
    expect('0123456789'.repeat(100).endsWith(last)).toBe(true)
  })

  test('that gives something else, or throws, ends the stream and returns the source', async () => {
    for (const wrong of [-1, 1.5, Number.NaN, undefined, null, 'x']) {
      const source = fed()
      source.give(text('a'))
      await expect(gather(stopWhen(() => wrong as never)(source))).rejects.toThrow(/true, false or a whole number/)
      expect(source.returned).toBe(1)
    }
  })
})

test('aborts a provider that is busy reading when an operator before it delivers by its clock', async () => {
  const log: string[] = []
  const provider: Provider = async function* (_request, { signal }: CallOptions) {
    try {
      yield text('go on STOP')
      await new Promise((_resolve, reject) => onAbort(signal, reject))
    } finally {
      log.push(signal?.aborted === true ? 'aborted' : 'returned')
    }
  }
  const request = { model: 'test', messages: [{ role: 'user' as const, content: 'hi' }] }
  const { coalesce } = await import('../src/coalesce.ts')
  const stream = withOperators(coalesce({ minChars: 1000, maxDelayMs: 5 }), stopWhen('STOP'))(provider)(request, {})
  expect(await collect(stream)).toMatchObject({ text: 'go on ', finish: 'cut' })
  await new Promise(setImmediate)
  expect(log).toEqual(['aborted'])
})

test('refuses wrong stops and options at creation', () => {
  for (const stop of ['', [], ['a', ''], [1], undefined, '\ud83d']) expect(() => stopWhen(stop as never)).toThrow(TypeError)
  for (const options of [{ windowChars: 0 }, { windowChars: 1.5 }, { createCounter: 1 }, { inputTokens: 5 }, { maxChars: 5 }]) {
    expect(() => stopWhen('a', options as never)).toThrow(TypeError)
  }
  expect(() => stopWhen('a', { createCounter: letters, inputTokens: -1 })).toThrow(/inputTokens/)
})

test('rejects when the counter throws while what was held is let go at the end, or at the stop', async () => {
  const boom = new Error('closed')
  const closed = (): RunningCount => ({
    push() {
      throw boom
    }
  })
  for (const pieces of [[text('ST')], [text('ST'), finish], [text('go STOP')]]) {
    await expect(gather(stopWhen('STOP', { createCounter: closed })(from(pieces)))).rejects.toBe(boom)
  }
  await expect(gather(stopWhen('STOP', { createCounter: () => ({}) as never })(from([text('ST')])))).rejects.toThrow(
    /with a push/
  )
})

test('tells the usage that came with the stop, with a counter or without, and a cached answer as not billed', async () => {
  const told: Chunk = {
    type: 'usage',
    usage: {
      input: { uncached: 1, cacheRead: 0, cacheWrite: 0 },
      output: { text: 9, reasoning: 0 },
      estimated: false,
      billed: true
    }
  }
  for (const options of [{}, { createCounter: letters }]) {
    const whole = batched([start, text('goSTOPon'), text('and on'), told, finish])
    expect(await gather(stopWhen('STOP', options)(whole))).toEqual([start, text('go'), told, cut])
  }
  const hit: Chunk = { type: 'note', from: 'cache', facts: { state: 'hit' } }
  const counted = await collect(stopWhen('STOP', { createCounter: letters })(from([start, hit, text('goSTOP')])))
  expect(counted.usage).toMatchObject({ output: { text: 2 }, billed: false })
})

test('does not deliver the stop text when the usage cannot be counted', async () => {
  const boom = new Error('boom')
  const inputTokens = (): never => {
    throw boom
  }
  const provider: Provider = () => from([start, text('go STOP on'), finish])
  const stopping = withOperators(stopWhen('STOP', { createCounter: letters, inputTokens }))(provider)
  const got: Chunk[] = []
  await expect(async () => {
    for await (const chunk of stopping({ model: 'm', messages: [{ role: 'user', content: 'hi' }] }, {})) got.push(chunk)
  }).rejects.toBe(boom)
  expect(textOf(got)).toBe('go ')
})

test('points to a function in place of a regular expression', () => {
  expect(() => stopWhen(/\n+/ as never)).toThrow('write stopWhen((text) => /\\n+/.test(text))')
})
