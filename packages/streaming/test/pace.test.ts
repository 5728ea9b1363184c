import { setTimeout as delay } from 'node:timers/promises'
import { type Chunk, type ChunkIterator, collect } from '@millrace/core'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { type PaceOptions, pace } from '../src/pace.ts'
import { fed, finish, from, gather, start, text, timers } from './source.ts'

const seed = 20_261_123
const call: Chunk = { type: 'tool-call', index: 0, id: 'a', name: 'f', arguments: '{"a":1}' }

/** A source of chunks at their times, in milliseconds from the first read. */
function timed(chunks: readonly (readonly [number, Chunk])[]): AsyncIterable<Chunk> {
  return {
    async *[Symbol.asyncIterator]() {
      const began = performance.now()
      for (const [at, chunk] of chunks) {
        const waitMs = began + at - performance.now()
        if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs))
        yield chunk
      }
    }
  }
}

interface Seen {
  readonly chunk: Chunk
  readonly at: number
}

/** All that a stream gives, with when it gave it; on the clock of the test. */
async function watch(stream: AsyncIterable<Chunk>): Promise<Seen[]> {
  const began = performance.now()
  const seen: Seen[] = []
  const state = { over: false }
  const reading = (async () => {
    for await (const chunk of stream) seen.push({ chunk, at: performance.now() - began })
  })().finally(() => {
    state.over = true
  })
  reading.catch(() => {})
  while (!state.over) await vi.advanceTimersByTimeAsync(1)
  await reading
  return seen
}

const paced = (options: PaceOptions, chunks: readonly (readonly [number, Chunk])[]): Promise<Seen[]> =>
  watch(pace(options)(timed(chunks)))

const lengthOf = (chunk: Chunk): number => ('text' in chunk ? chunk.text.length : 0)
const charsBy = (seen: readonly Seen[], ms: number): number =>
  seen.reduce((sum, { chunk, at }) => sum + (at <= ms ? lengthOf(chunk) : 0), 0)

describe('on the clock', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
  })
  afterEach(() => {
    vi.useRealTimers()
  })

  test('gives a whole text evenly: at each moment what the rate allows, the first piece at once', async () => {
    const whole = 'word '.repeat(60)
    const seen = await paced({ charsPerSecond: 100, maxLagMs: Number.POSITIVE_INFINITY }, [
      [0, start],
      [0, text(whole)],
      [0, finish]
    ])
    expect(seen.map(({ chunk }) => ('text' in chunk ? chunk.text : '')).join('')).toBe(whole)
    expect(seen[1]?.at).toBeLessThanOrEqual(1)
    for (let ms = 100; ms <= 2900; ms += 50) {
      expect(charsBy(seen, ms)).toBeGreaterThanOrEqual(Math.floor(ms / 10) - 4)
      expect(charsBy(seen, ms)).toBeLessThanOrEqual(ms / 10 + 4)
    }
    for (const { chunk } of seen) expect(lengthOf(chunk)).toBeLessThanOrEqual(5)
    // The end comes with the last piece.
    expect(seen.at(-1)?.chunk).toEqual(finish)
    expect(seen.at(-1)?.at).toBe(seen.at(-2)?.at)
  })

  test('gives a burst of small chunks as it gives one large chunk', async () => {
    const whole = 'word '.repeat(60)
    const options = { charsPerSecond: 100, maxLagMs: 1500 }
    const one = await paced(options, [[0, text(whole)]])
    const many = await paced(
      options,
      Array.from(whole).map((letter) => [0, text(letter)] as const)
    )
    for (let ms = 50; ms <= 1600; ms += 50) {
      expect(Math.abs(charsBy(one, ms) - charsBy(many, ms))).toBeLessThanOrEqual(8)
    }
  })

  test('hurries as much as it must: all is out by the lag, and evenly before', async () => {
    const seen = await paced({ charsPerSecond: 100, maxLagMs: 1000 }, [
      [0, text('x'.repeat(10_000))],
      [0, finish]
    ])
    expect(seen.at(-1)?.at).toBeLessThanOrEqual(1000)
    for (let ms = 100; ms <= 900; ms += 100) {
      expect(charsBy(seen, ms)).toBeGreaterThan(ms * 10 - 700)
      expect(charsBy(seen, ms)).toBeLessThan(ms * 10 + 1000)
    }
  })

  test('gives by default 300 characters a second, and a whole answer from a cache within a second', async () => {
    const short = await paced({}, [
      [0, text('x'.repeat(150))],
      [0, finish]
    ])
    expect(short.at(-1)?.at).toBeGreaterThan(400)
    expect(short.at(-1)?.at).toBeLessThan(600)
    const long = await paced({}, [
      [0, text('x'.repeat(100_000))],
      [0, finish]
    ])
    expect(long.at(-1)?.at).toBeGreaterThan(800)
    expect(long.at(-1)?.at).toBeLessThanOrEqual(1000)
  })

  test(`keeps fields, order and every other chunk, and no character longer than the lag (seed ${seed})`, async () => {
    const words = fc.oneof(
      fc.string({ unit: 'grapheme', maxLength: 12 }),
      fc.constantFrom('😀', '👩‍👩‍👧', '🇩🇪', 'e\u0301', 'नमस्ते', 'x'.repeat(200), '\r\n')
    )
    const chunk: fc.Arbitrary<Chunk> = fc.oneof(
      { weight: 4, arbitrary: words.map(text) },
      words.map((refusal): Chunk => ({ type: 'refusal', text: refusal })),
      fc.record({
        type: fc.constant('reasoning' as const),
        text: words,
        signature: fc.option(fc.constant('s'), { nil: undefined })
      }),
      fc.record({
        type: fc.constant('tool-call' as const),
        index: fc.nat(2),
        id: fc.option(fc.constantFrom('a', 'b'), { nil: undefined }),
        arguments: words
      }),
      fc.nat(9).map((value): Chunk => ({ type: 'extra', name: 'logprobs', value: [value] }))
    )
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(chunk, fc.constantFrom(0, 0, 0, 5, 80, 700)), { maxLength: 20 }),
        fc.constantFrom(20, 300, 5000),
        fc.constantFrom(0, 200, 1000),
        async (pieces, charsPerSecond, maxLagMs) => {
          let clock = 0
          const chunks = pieces.map(([one, waitMs]) => [(clock += waitMs), one] as const)
          const given: (readonly [number, Chunk])[] = [[0, start], ...chunks, [clock, finish]]
          const seen = await paced({ charsPerSecond, maxLagMs }, given)
          const all = seen.map((one) => one.chunk)
          expect(await collect(from(all))).toEqual(await collect(from(given.map(([, one]) => one))))
          // Character by character: the same kinds in the same order, none before it came or later than the lag after.
          const marks = (list: readonly (readonly [number, Chunk])[]): [string, number][] =>
            list.flatMap(([at, one]): [string, number][] => {
              if (lengthOf(one) === 0 || one.type === 'start') return [[JSON.stringify(one), at]]
              const letters = Array.from((one as { text: string }).text).map((letter): [string, number] => [
                one.type + letter,
                at
              ])
              return 'signature' in one && one.signature !== undefined ? [...letters, [one.signature, at]] : letters
            })
          const came = marks(given)
          const went = marks(seen.map(({ chunk: one, at }) => [at, one]))
          expect(went.map(([mark]) => mark)).toEqual(came.map(([mark]) => mark))
          for (const [index, [, at]] of went.entries()) {
            const lag = at - (came[index]?.[1] ?? 0)
            expect(lag).toBeGreaterThanOrEqual(-0.01)
            // A last letter may be seen to be whole two intervals later; a millisecond for each timer.
            expect(lag).toBeLessThanOrEqual(Math.max(maxLagMs, 3 * Math.max(33, 1000 / charsPerSecond)) + 5)
          }
        }
      ),
      { seed, numRuns: 150 }
    )
  })

  test(`ends no piece inside a grapheme, in whatever units they come (seed ${seed})`, async () => {
    const graphemes = fc.array(fc.constantFrom('😀', '👩‍👩‍👧', '🇩🇪', '👍🏽', 'नि', 'ก็', '한', '的', 'a', ' ', '\r\n'), {
      minLength: 1,
      maxLength: 40
    })
    const segmenter = new Intl.Segmenter(undefined, { granularity: 'grapheme' })
    await fc.assert(
      fc.asyncProperty(graphemes, fc.integer({ min: 1, max: 60 }), fc.constantFrom(30, 300, 3000), async (parts, size, rate) => {
        const whole = parts.join('')
        const seams = new Set([...segmenter.segment(whole)].map(({ index }) => index).concat(whole.length))
        const chunks: [number, Chunk][] = []
        for (let at = 0; at < whole.length; at += size) chunks.push([0, text(whole.slice(at, at + size))])
        let at = 0
        for (const { chunk } of await paced({ charsPerSecond: rate }, chunks)) {
          at += lengthOf(chunk)
          expect(seams.has(at)).toBe(true)
        }
        expect(at).toBe(whole.length)
      }),
      { seed, numRuns: 150 }
    )
  })

  test('ends no piece inside a flag, however many stand in a row', async () => {
    const row = '🇩🇪🇫🇷🇮🇹🇪🇸'.repeat(100)
    for (const halves of [33, 65, 301, 700]) {
      let at = 0
      for (const { chunk } of await paced({ charsPerSecond: 3000 }, [
        [0, text(row.slice(0, 2 * halves))],
        [20, text(row.slice(2 * halves))]
      ])) {
        at += lengthOf(chunk)
        expect(at % 4).toBe(0)
      }
      expect(at).toBe(row.length)
    }
  })

  test('gives an emoji at the end of a pause, and keeps half of a flag for its other half', async () => {
    const seen = await paced({}, [
      [0, text('ok 😀')],
      [500, text(' ')],
      [500, text('🇩')],
      [900, text('🇪')],
      [900, finish]
    ])
    expect(seen.find(({ chunk }) => 'text' in chunk && chunk.text.includes('😀'))?.at).toBeLessThan(120)
    expect(seen.find(({ chunk }) => 'text' in chunk && chunk.text.includes('🇩🇪'))?.at).toBeLessThan(1000)
  })

  test('passes other chunks at once where no text waits before them, and behind the text where some does', async () => {
    const seen = await paced({ charsPerSecond: 100, maxLagMs: Number.POSITIVE_INFINITY }, [
      [0, start],
      [0, call],
      [100, text('x'.repeat(50))],
      [100, call],
      [100, { type: 'reasoning', text: 'hm', signature: 's' }],
      [100, finish]
    ])
    expect(seen[1]).toMatchObject({ chunk: call, at: 0 })
    const at = seen.findLastIndex(({ chunk }) => chunk === call)
    expect(charsBy(seen, seen[at]?.at ?? 0)).toBeGreaterThanOrEqual(50)
    expect(seen[at]?.at).toBeGreaterThan(500)
    expect(seen.at(-2)?.chunk).toEqual({ type: 'reasoning', text: 'hm', signature: 's' })
  })

  test('passes text that comes slower than the rate as it comes', async () => {
    const chunks = Array.from({ length: 20 }, (_, at) => [at * 100, text(`word${at} `)] as const)
    const seen = await paced({}, chunks)
    expect(seen.map(({ chunk }) => chunk)).toEqual(chunks.map(([, chunk]) => chunk))
    for (const [index, { at }] of seen.entries()) expect(at - index * 100).toBeLessThanOrEqual(1)
  })

  test('reads ahead up to maxHeldChars and no further', async () => {
    const source = fed()
    for (let count = 0; count < 200; count++) source.give(text('x'.repeat(99)))
    const stream = pace({ charsPerSecond: 1000, maxLagMs: Number.POSITIVE_INFINITY, maxHeldChars: 1000 })(source)[
      Symbol.asyncIterator
    ]()
    let given = 0
    for (let count = 0; count < 100; count++) {
      const next = stream.next()
      await vi.advanceTimersByTimeAsync(40)
      given += lengthOf((await next).value)
      expect(source.reads * 100).toBeLessThanOrEqual(given + 1000 + 200)
    }
    expect(source.reads * 100).toBeGreaterThan(given + 800)
    const { reads } = source
    await vi.advanceTimersByTimeAsync(10_000) // nobody reads
    expect(source.reads).toBeLessThanOrEqual(reads + 1)
    await stream.return?.()
  })

  test('reads ahead and hurries also for a reader that is never early', async () => {
    const words = Array.from({ length: 1000 }, () => text('word '))
    const stream = pace({ charsPerSecond: 100, maxLagMs: 1000 })(from([...words, finish]))[Symbol.asyncIterator]()
    const began = performance.now()
    for (let result = await stream.next(); result.done !== true; ) {
      await vi.advanceTimersByTimeAsync(50)
      const next = stream.next()
      await vi.advanceTimersByTimeAsync(0)
      result = await next
    }
    expect(performance.now() - began).toBeLessThan(1200)
  })

  test('gives a reader that was away what it missed', async () => {
    const stream = pace({ charsPerSecond: 100, maxLagMs: Number.POSITIVE_INFINITY })(from([text('x'.repeat(1000)), finish]))[
      Symbol.asyncIterator
    ]()
    await stream.next()
    await vi.advanceTimersByTimeAsync(2000)
    const { value } = await stream.next()
    expect(lengthOf(value)).toBeGreaterThan(190)
    expect(lengthOf(value)).toBeLessThan(210)
    await stream.return?.()
  })

  test('gives batches, of which the last has the end', async () => {
    const stream = pace({ charsPerSecond: 1000 })(from([start, text('x'.repeat(50)), finish]))[
      Symbol.asyncIterator
    ]() as ChunkIterator
    const batches: (readonly Chunk[])[] = []
    const reading = (async () => {
      for (let batch = await stream.nextBatch(); batch !== undefined; batch = await stream.nextBatch()) batches.push(batch)
    })()
    await vi.advanceTimersByTimeAsync(200)
    await reading
    expect(batches[0]?.[0]).toEqual(start)
    expect(batches.at(-1)?.map(({ type }) => type)).toEqual(['text', 'finish'])
  })
})

test('delivers at once what it holds before an error', async () => {
  const boom = new Error('boom')
  const source = fed()
  source.give(text('x'.repeat(1000)))
  const stream = pace({ charsPerSecond: 10, maxLagMs: Number.POSITIVE_INFINITY })(source)[Symbol.asyncIterator]()
  await stream.next()
  const pending = stream.next()
  source.fail(boom)
  expect(lengthOf((await pending).value)).toBeGreaterThan(990)
  await expect(stream.next()).rejects.toBe(boom)
})

test('ends at once when the reader leaves during a wait, and leaves no timer behind', async () => {
  const before = timers()
  const source = fed()
  source.give(text('x'.repeat(1000)))
  const stream = pace({ charsPerSecond: 1, maxLagMs: Number.POSITIVE_INFINITY })(source)[Symbol.asyncIterator]()
  await stream.next()
  const pending = stream.next()
  await delay(5)
  expect(timers()).toBe(before + 1)
  const began = performance.now()
  const left = stream.return?.()
  expect(source.returned).toBe(1)
  expect((await pending).done).toBe(true)
  expect((await left)?.done).toBe(true)
  expect(performance.now() - began).toBeLessThan(500)
  expect(timers()).toBe(before)
  expect((await stream.next()).done).toBe(true)
  await gather(pace({ charsPerSecond: 1e6 })(from([start, text('short'), finish])))
  expect(timers()).toBe(before)
})

test('keeps to the rate on a real clock, as a bare timer does', async () => {
  const began = performance.now()
  let bareMs = 0
  const bare = delay(300).then(() => {
    bareMs = performance.now() - began
  })
  const whole = pace({ charsPerSecond: 1000, maxLagMs: Number.POSITIVE_INFINITY })(from([text('x'.repeat(300)), finish]))
  expect(await collect(whole)).toMatchObject({ finish: 'stop' })
  const tookMs = performance.now() - began
  await bare
  expect(tookMs).toBeGreaterThan(230)
  expect(tookMs).toBeLessThan(bareMs + 200)
})

test('gives each iteration a state of its own', async () => {
  const twice = pace({ charsPerSecond: 10_000 })({ [Symbol.asyncIterator]: () => from([text('a'.repeat(2000)), finish]) })
  for (const completion of await Promise.all([collect(twice), collect(twice)])) expect(completion.text).toBe('a'.repeat(2000))
})

test('refuses wrong options at creation', () => {
  for (const options of [
    { charsPerSecond: 0 },
    { charsPerSecond: Number.NaN },
    { charsPerSecond: Number.POSITIVE_INFINITY },
    { maxLagMs: -1 },
    { intervalMs: 0 },
    { maxHeldChars: 10 },
    { speed: 1 }
  ]) {
    expect(() => pace(options as PaceOptions)).toThrow(TypeError)
  }
})

test('says what to write where the stream was given in place of the options, or a text in place of a number', () => {
  expect(() => pace(from([finish]) as never)).toThrow('pace takes options: write pace()(stream)')
  for (const name of ['charsPerSecond', 'maxLagMs', 'intervalMs', 'maxHeldChars']) {
    expect(() => pace({ [name]: '500' })).toThrow(`not "500"`)
  }
})
