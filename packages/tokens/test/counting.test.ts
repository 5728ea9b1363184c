import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setImmediate } from 'node:timers/promises'
import fc from 'fast-check'
import { afterAll, expect, test } from 'vitest'
import { charged } from '../src/charged.ts'
import { createTokenizers } from '../src/index.ts'
import { since } from './cpu.ts'

const seed = 20_261_123
const tokenizers = createTokenizers()
afterAll(() => tokenizers.close())
const tokenizer = tokenizers.for('gpt-4o')

/** The longest that timers had to wait while `work` ran, in milliseconds. */
async function longestBlock(work: () => Promise<unknown>): Promise<number> {
  const delay = monitorEventLoopDelay({ resolution: 1 })
  await setImmediate()
  delay.enable()
  await work()
  await setImmediate()
  delay.disable()
  return delay.max / 1e6
}

/** How long timers wait beside work that never holds the event loop for more than 5 ms: the rest is the machine's doing. */
const noise = (): Promise<number> =>
  longestBlock(async () => {
    const until = performance.now() + 300
    while (performance.now() < until) {
      const started = performance.now()
      while (performance.now() - started < 5);
      await setImmediate()
    }
  })

const megabytes10 = 10_000_000
const fill = (unit: string): string => unit.repeat(Math.ceil(megabytes10 / Buffer.byteLength(unit)))

test('loads in steps: others have the event loop every 50 ms, and no count has to load again', async () => {
  await using own = createTokenizers()
  const background = await noise()
  expect(await longestBlock(() => own.for('gpt-4o').ready())).toBeLessThan(50 + background)
  const started = process.cpuUsage()
  own.for('gpt-4o').count('loaded')
  expect(since(started)).toBeLessThan(20)
})

test('a count that cannot wait finishes the load that others wait for', async () => {
  await using own = createTokenizers()
  const both = Promise.all([own.for('gpt-4o').ready(), own.for('gpt-5').ready()])
  await setImmediate()
  expect(own.for('gpt-4o').count('hello world')).toBe(2)
  await both
  expect(own.for('gpt-4o').count('hello world')).toBe(2)
})

test('two hundred who wait for one vocabulary read it once', async () => {
  await using own = createTokenizers()
  const before = process.memoryUsage().rss
  await Promise.all(Array.from({ length: 200 }, () => own.for('gpt-4o').countAsync('short')))
  // Read by each of them it would be 500 MB.
  expect(process.memoryUsage().rss - before).toBeLessThan(150_000_000)
})

test('closing while it loads or counts rejects with closed', async () => {
  const own = createTokenizers()
  const loading = own.for('gpt-4o').ready()
  await own.close()
  await expect(loading).rejects.toMatchObject({ code: 'closed' })
  const other = createTokenizers()
  await other.for('gpt-4o').ready()
  const counting = other.for('gpt-4o').countAsync(fill('word '))
  await other.close()
  await expect(counting).rejects.toMatchObject({ code: 'closed' })
})

test.each([
  ['prose', 'The quick brown fox, who had 17 lazy dogs, jumped over the fence; it’s what foxes do.\n'],
  ['one letter', 'a'],
  ['spaces', ' '],
  ['newlines', '\n'],
  ['punctuation', '!?'],
  ['emoji', '👩‍👩‍👧😀'],
  ['combining marks', 'e\u0301\u0302\u0303'],
  ['Chinese without a stop', '我们今天去了北京的长城天气很好'],
  ['Thai without a space', 'สวัสดีครับ'],
  ['lone surrogates', '\ud800'],
  ['a mixture', `${'a'.repeat(500)}${' '.repeat(700)}${'的'.repeat(400)}${'\n'.repeat(900)}${'-='.repeat(300)}`]
])('counts 10 MB of %s in at most 3 s, and never holds the event loop for 50 ms', async (_name, unit) => {
  const text = fill(unit)
  const background = await noise()
  await tokenizer.ready()
  let tokens = 0
  const started = process.cpuUsage()
  const block = await longestBlock(async () => {
    tokens = await tokenizer.countAsync(text)
  })
  expect(since(started)).toBeLessThan(3000)
  expect(block).toBeLessThan(50 + background)
  expect(tokens).toBe(tokenizer.count(text))
})

test('twenty counts at once share the event loop, and do not hold it longer than one', async () => {
  await tokenizer.ready()
  const text = 'The quick brown fox, who had 17 lazy dogs, jumped over the fence. '.repeat(10_000)
  const background = await noise()
  const block = await longestBlock(() => Promise.all(Array.from({ length: 20 }, () => tokenizer.countAsync(text))))
  expect(block).toBeLessThan(50 + background)
})

test('counts at once use their whole turns, so that two beside other work are about as fast as one', async () => {
  await tokenizer.ready()
  const text = 'The quick brown fox, who had 17 lazy dogs, jumped over the fence. '.repeat(15_000)
  let ticks = 0
  let isOver = false
  const tick = (): void => {
    ticks++
    if (!isOver) globalThis.setImmediate(tick)
  }
  tick()
  await Promise.all([tokenizer.countAsync(text), tokenizer.countAsync(text)])
  isOver = true
  // A turn for each slice of 16,384 characters would take 120.
  expect(ticks).toBeLessThan(80)
})

test('an abort does not wait for those in front, nor does a load', async () => {
  await using own = createTokenizers()
  const first = own.for('gpt-4o')
  await first.ready()
  const long = '-= '.repeat(100_000)
  const controller = new AbortController()
  const reason = new Error('enough')
  const order: string[] = []
  const crowd = Array.from({ length: 40 }, () => first.countAsync(long).then(() => order.push('count')))
  const aborted = first.countAsync(long, { signal: controller.signal }).catch((error: unknown) => {
    order.push(error === reason ? 'abort' : 'other')
  })
  const loaded = own
    .for('gpt-4')
    .ready()
    .then(() => order.push('load'))
  setTimeout(() => controller.abort(reason), 20)
  await Promise.all([...crowd, aborted, loaded])
  expect(order.slice(0, 20)).toContain('abort')
  expect(order.slice(0, 20)).toContain('load')
})

test('a counter stays small: ten thousand of them take no more than a few kilobytes each, even after a long text', async () => {
  const long = 'word '.repeat(3000)
  const before = process.memoryUsage().arrayBuffers
  const counters = Array.from({ length: 10_000 }, () => tokenizer.counter())
  for (const { push } of counters) push('a first word')
  for (const { push } of counters.slice(0, 1000)) push(long)
  globalThis.gc?.()
  await setImmediate()
  globalThis.gc?.()
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(30_000_000)
  expect(counters[0]?.push('')).toBe(tokenizer.count(`a first word${long}`))
})

test('stops counting when the signal aborts, with its reason', async () => {
  const reason = new Error('enough')
  await expect(tokenizer.countAsync('hello', { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
  const controller = new AbortController()
  const counting = tokenizer.countAsync(fill('word '), { signal: controller.signal })
  setTimeout(() => controller.abort(reason), 5)
  await expect(counting).rejects.toBe(reason)
})

test('many counts at once do not mix', async () => {
  const texts = ['word ', 'слово ', '词', '!?'].map((unit) => unit.repeat(40_000))
  const apart = texts.map((text) => tokenizer.count(text))
  const counter = tokenizer.counter()
  counter.push('half a wo')
  expect(await Promise.all(texts.map((text) => tokenizer.countAsync(text)))).toEqual(apart)
  expect(counter.push('rd')).toBe(tokenizer.count('half a word'))
})

test('refuses what is no text', async () => {
  for (const wrong of [undefined, null, 5, ['text']]) {
    expect(() => tokenizer.count(wrong as never)).toThrow(TypeError)
    expect(() => tokenizer.fits(wrong as never, 5)).toThrow(TypeError)
    if (wrong !== 5) expect(() => tokenizer.fits('text', wrong as never)).toThrow(TypeError)
    expect(() => tokenizer.counter().push(wrong as never)).toThrow(TypeError)
    await expect(tokenizer.countAsync(wrong as never)).rejects.toThrow(TypeError)
  }
  expect(() => tokenizer.fits('text', Number.NaN)).toThrow(TypeError)
})

test(`fits says what counting would, for any text and budget (seed ${seed})`, () => {
  const text = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 200 }),
    fc.constantFrom('', 'a'.repeat(30_000), 'word '.repeat(5000))
  )
  fc.assert(
    fc.property(text, fc.integer({ min: 0, max: 8000 }), fc.constantFrom('gpt-4o', 'claude-opus-5-5'), (given, budget, model) => {
      const own = tokenizers.for(model)
      expect(own.fits(given, budget)).toBe(charged(own.count(given), own.safetyFactor) <= budget)
    }),
    { seed, numRuns: 300 }
  )
})

test('fits takes a budget that a factor meets exactly', async () => {
  await using own = createTokenizers()
  const llama = own.for('llama-3.3-70b')
  for (let words = 1; words < 200; words++) {
    const least = charged(llama.count(' a'.repeat(words)), llama.safetyFactor)
    expect(llama.fits(' a'.repeat(words), least)).toBe(true)
    expect(llama.fits(' a'.repeat(words), least - 1)).toBe(false)
  }
})

test('proves by length alone that a text fits, without a vocabulary', async () => {
  await using own = createTokenizers()
  const started = process.cpuUsage()
  expect(own.for('gpt-4o').fits('word '.repeat(1000), 15_000)).toBe(true)
  // Loading one takes some ten times as long.
  expect(since(started)).toBeLessThan(10)
})
