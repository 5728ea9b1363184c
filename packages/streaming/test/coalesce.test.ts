import { setTimeout as delay } from 'node:timers/promises'
import { type Chunk, collect } from '@millrace/core'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { coalesce } from '../src/coalesce.ts'
import { fed, finish, from, gather, start, text, timers } from './source.ts'

const seed = 20_261_122

const piece = fc.oneof(
  fc.string({ unit: 'grapheme', maxLength: 12 }),
  fc.constantFrom('😀', '👩‍👩‍👧', '🇩🇪', 'e\u0301', 'नमस्ते', '的', '\ud83d', '\ude00')
)
const chunk: fc.Arbitrary<Chunk> = fc.oneof(
  { weight: 6, arbitrary: piece.map(text) },
  piece.map((refusal): Chunk => ({ type: 'refusal', text: refusal })),
  fc.record({ type: fc.constant('reasoning' as const), text: piece, signature: fc.option(fc.constant('s'), { nil: undefined }) }),
  fc.record({
    type: fc.constant('tool-call' as const),
    index: fc.nat(2),
    id: fc.option(fc.constantFrom('a', 'b'), { nil: undefined }),
    name: fc.option(fc.constantFrom('f', 'g'), { nil: undefined }),
    arguments: piece
  }),
  fc.nat(5).map((value): Chunk => ({ type: 'extra', name: 'logprobs', value: [value] })),
  fc.constant<Chunk>({ type: 'note', from: 'provider', facts: { a: 1 } }),
  fc.constant<Chunk>({
    type: 'usage',
    usage: {
      input: { uncached: 1, cacheRead: 0, cacheWrite: 0 },
      output: { text: 1, reasoning: 0 },
      estimated: false,
      billed: true
    }
  })
)

/** The order of kinds, runs of one kind taken as one: what coalescing must not change. */
const order = (chunks: readonly Chunk[]): string[] => {
  const kinds = chunks.map((one) => (one.type === 'tool-call' ? `tool-call ${one.index}` : one.type))
  return kinds.filter((kind, index) => kind !== kinds[index - 1])
}

/** All that is no text, as it was. */
const others = (chunks: readonly Chunk[]): Chunk[] => chunks.filter((one) => !('text' in one) && one.type !== 'tool-call')

/** Every character with the field it stands in, every signature, id and name with its place among them. */
const letters = (chunks: readonly Chunk[]): string[] =>
  chunks.flatMap((one) => {
    if (one.type === 'tool-call') return Array.from(one.arguments).map((letter) => `${one.index} ${letter}`)
    if (!('text' in one)) return [one.type]
    const all = Array.from({ length: one.text.length }, (_, at) => `${one.type} ${one.text.charAt(at)}`)
    return 'signature' in one && one.signature !== undefined ? [...all, one.signature] : all
  })

test(`keeps every field's joined text and the order of kinds, for any cut and timing (seed ${seed})`, async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(chunk, fc.constantFrom(-1, -1, -1, 0, 1, 3)), { maxLength: 30 }),
      fc.integer({ min: 1, max: 30 }),
      fc.constantFrom(0, 1, 50),
      async (timed, minChars, maxDelayMs) => {
        const given = [start, ...timed.map(([one]) => one), finish]
        async function* source(): AsyncGenerator<Chunk> {
          yield start
          for (const [one, waitMs] of timed) {
            if (waitMs >= 0) await delay(waitMs)
            yield one
          }
          yield finish
        }
        const merged = await gather(coalesce({ minChars, maxDelayMs })(source()))
        expect(await collect(from(merged))).toEqual(await collect(from(given)))
        expect(order(merged)).toEqual(order(given))
        expect(others(merged)).toEqual(others(given))
        expect(letters(merged)).toEqual(letters(given))
        expect(merged.length).toBeLessThanOrEqual(given.length + timed.length)
      }
    ),
    { seed, numRuns: 120 }
  )
})

test(`ends no text inside a surrogate pair or a grapheme when it goes out for its size (seed ${seed})`, async () => {
  const graphemes = fc.array(fc.constantFrom('😀', '👩‍👩‍👧', '🇩🇪', '👍🏽', 'नि', 'ก็', '한', '的', 'a', ' '), {
    minLength: 1,
    maxLength: 40
  })
  const segmenter = new Intl.Segmenter(undefined, { granularity: 'grapheme' })
  await fc.assert(
    fc.asyncProperty(graphemes, fc.integer({ min: 1, max: 20 }), async (parts, minChars) => {
      const whole = parts.join('')
      const seams = new Set([...segmenter.segment(whole)].map(({ index }) => index).concat(whole.length))
      const units = Array.from({ length: whole.length }, (_, at) => text(whole.charAt(at)))
      let at = 0
      for await (const one of coalesce({ minChars, maxDelayMs: 60_000 })(from(units))) {
        at += one.type === 'text' ? one.text.length : 0
        expect(seams.has(at)).toBe(true)
      }
      expect(at).toBe(whole.length)
    }),
    { seed, numRuns: 200 }
  )
})

test('merges by size: 10 characters unless told otherwise', async () => {
  const words = Array.from({ length: 100 }, () => text('abc'))
  const merged = await gather(coalesce({ maxDelayMs: 60_000 })(from(words)))
  expect(merged.slice(0, 2)).toEqual([text('abcabcabcabc'), text('abcabcabcabc')])
  expect(merged).toHaveLength(25)
})

test('passes a chunk that is large enough as it is', async () => {
  const large = text('x'.repeat(10))
  const [only] = await gather(coalesce()(from([large])))
  expect(only).toBe(large)
})

test('delivers a small piece while the source is silent, about as late as a bare timer', async () => {
  const source = fed()
  const stream = coalesce({ minChars: 100, maxDelayMs: 60 })(source)[Symbol.asyncIterator]()
  source.give(text('hi'))
  const began = performance.now()
  let bareMs = 0
  const bare = delay(60).then(() => {
    bareMs = performance.now() - began
  })
  expect(await stream.next()).toEqual({ done: false, value: text('hi') })
  const tookMs = performance.now() - began
  await bare
  expect(tookMs).toBeLessThan(bareMs + 40)
  expect(tookMs).toBeGreaterThan(40)
  // The read that was pending all the while is not lost.
  source.give(finish)
  expect((await stream.next()).value).toEqual(finish)
  expect(source.reads).toBe(2)
  await stream.return?.()
})

test('delivers at once what became due while the reader was away', async () => {
  const source = fed()
  const stream = coalesce({ minChars: 100, maxDelayMs: 20 })(source)[Symbol.asyncIterator]()
  source.give(start)
  source.give(text('hi'))
  await stream.next()
  const pending = stream.next()
  await delay(1)
  source.give(start) // flushes, so that the reader is away when the next piece is held
  await pending
  await stream.next()
  source.give(text('again'))
  expect(await stream.next()).toEqual({ done: false, value: text('again') })
  await stream.return?.()
})

test('is not later than its limit though the source is never silent', async () => {
  let reads = 0
  async function* flood(): AsyncGenerator<Chunk> {
    for (; ; reads++) yield text('x')
  }
  const stream = coalesce({ minChars: 1e9, maxDelayMs: 20 })(flood())[Symbol.asyncIterator]()
  const began = performance.now()
  await stream.next()
  const tookMs = performance.now() - began
  expect(tookMs).toBeGreaterThan(15)
  expect(tookMs).toBeLessThan(500)
  expect(reads).toBeGreaterThan(100)
  await stream.return?.()
})

test('is later for a slow reader by no more than the reader is', async () => {
  const source = fed()
  const stream = coalesce({ minChars: 100, maxDelayMs: 40 })(source)[Symbol.asyncIterator]()
  source.give(text('a'))
  source.give(start)
  source.give(text('b'))
  await stream.next()
  await stream.next()
  const pending = stream.next() // reads `b`, and waits
  await delay(5)
  source.give(start)
  await pending // `b`, for the start behind it
  await stream.next()
  source.give(text('c'))
  const waiting = stream.next()
  const began = performance.now()
  let bareMs = 0
  const bare = delay(40).then(() => {
    bareMs = performance.now() - began
  })
  expect((await waiting).value).toEqual(text('c'))
  const tookMs = performance.now() - began
  await bare
  expect(tookMs).toBeLessThan(bareMs + 40)
  // Away for longer than the limit with a piece held: it is there at once.
  source.give(text('d'))
  const last = stream.next()
  await new Promise(setImmediate)
  const blockedUntil = performance.now() + 60
  while (performance.now() < blockedUntil); // the reader's own work
  const back = performance.now()
  expect((await last).value).toEqual(text('d'))
  const lateMs = performance.now() - back
  await delay(1)
  expect(lateMs).toBeLessThan(performance.now() - back + 30) // as a timer that was due, not one that begins again
  await stream.return?.()
})

test('keeps back what is sure to go on when its time is up: half a flag, and what a joiner ends', async () => {
  for (const [first, second, out] of [
    ['ok 🇩', '🇪', 'ok '],
    ['ok 🇩🇪🇫', '🇷', 'ok 🇩🇪'],
    ['ok 👩\u200d', '👧', 'ok ']
  ] as const) {
    const source = fed()
    const stream = coalesce({ minChars: 100, maxDelayMs: 10 })(source)[Symbol.asyncIterator]()
    source.give(text(first))
    expect((await stream.next()).value).toEqual(text(out))
    const pending = stream.next()
    await delay(30)
    source.give(text(second))
    expect((await pending).value).toEqual(text((first + second).slice(out.length)))
    await stream.return?.()
  }
})

test('waits for the other half of a pair however long it takes, then does not wait again', async () => {
  const source = fed()
  const stream = coalesce({ minChars: 100, maxDelayMs: 10 })(source)[Symbol.asyncIterator]()
  source.give(text('a\ud83d'))
  expect((await stream.next()).value).toEqual(text('a'))
  const pending = stream.next()
  await delay(40)
  source.give(text('\ude00'))
  expect((await pending).value).toEqual(text('😀'))
  await stream.return?.()
})

test('delivers what it holds before an error, and before the end', async () => {
  const boom = new Error('boom')
  for (const last of ['fail', 'end'] as const) {
    const source = fed()
    const stream = coalesce({ maxDelayMs: 60_000 })(source)[Symbol.asyncIterator]()
    source.give(text('tail'))
    if (last === 'fail') source.fail(boom)
    else source.end()
    expect((await stream.next()).value).toEqual(text('tail'))
    if (last === 'fail') await expect(stream.next()).rejects.toBe(boom)
    expect((await stream.next()).done).toBe(true)
  }
})

test('leaves no timer behind, whether read to the end, left, or failed', async () => {
  const before = timers()
  const options = { minChars: 100, maxDelayMs: 50_000 }
  await gather(coalesce(options)(from([text('a'), finish])))
  for (const leave of ['return', 'fail'] as const) {
    const source = fed()
    const stream = coalesce(options)(source)[Symbol.asyncIterator]()
    source.give(text('a'))
    const pending = stream.next()
    await delay(1)
    expect(timers()).toBe(before + 1)
    if (leave === 'return') await stream.return?.()
    else source.fail(new Error('boom'))
    await pending
    expect(timers()).toBe(before)
    expect(source.returned).toBe(leave === 'return' ? 1 : 0)
  }
})

test('gives each iteration a state of its own', async () => {
  const twice = coalesce()({ [Symbol.asyncIterator]: () => from([text('ab'), text('cd'), finish]) })
  const [one, two] = await Promise.all([gather(twice), gather(twice)])
  expect(one).toEqual([text('abcd'), finish])
  expect(two).toEqual(one)
})

test('refuses wrong options at creation', () => {
  for (const options of [{ minChars: 0 }, { minChars: 1.5 }, { maxDelayMs: -1 }, { maxDelayMs: Number.NaN }]) {
    expect(() => coalesce(options)).toThrow(TypeError)
  }
})

test('cuts no flag in half, however many stand in a row, in whatever chunks they come', async () => {
  for (const halves of [16, 17, 32, 33, 34, 41, 63, 64, 65, 301]) {
    const row = '🇩🇪🇫🇷🇮🇹🇪🇸'.repeat(80)
    const parts = [row.slice(0, 2 * halves), row.slice(2 * halves, 4 * halves + 2 * (halves % 2)), ' done']
    let at = 0
    for await (const one of coalesce({ maxDelayMs: 60_000 })(from(parts.map(text)))) {
      at += one.type === 'text' ? one.text.length : 0
      if (at < parts.join('').length - ' done'.length) expect(at % 4).toBe(0)
    }
    expect(at).toBe(parts.join('').length)
  }
})

test('says what to write where the stream was given in place of the options, or a text in place of a number', () => {
  expect(() => coalesce(from([finish]) as never)).toThrow('coalesce takes options: write coalesce()(stream)')
  expect(() => coalesce({ minChars: '10' as never })).toThrow('not "10"')
  expect(() => coalesce({ maxDelayMs: '50' as never })).toThrow('not "50"')
})
