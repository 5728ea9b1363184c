import { getEventListeners } from 'node:events'
import { type Chunk, type ChunkIterator, linkAbort } from '@millrace/core'
import { heapAfterGc } from '@millrace/testkit'
import { describe, expect, test, vi } from 'vitest'
import { abortable } from '../src/abortable.ts'
import { buffered } from '../src/buffered.ts'
import { coalesce } from '../src/coalesce.ts'
import { idleTimeout } from '../src/idle-timeout.ts'
import { limitTokens } from '../src/limit-tokens.ts'
import { map } from '../src/map.ts'
import { onlyText } from '../src/only-text.ts'
import { type Operator, operate } from '../src/operate.ts'
import { pace } from '../src/pace.ts'
import { share } from '../src/share.ts'
import { stopWhen } from '../src/stop-when.ts'
import { batched } from './batched.ts'
import { fed, finish, from, gather, start, text } from './source.ts'

interface Subject {
  readonly name: string
  readonly operator: Operator<Chunk, unknown>
  /** While its reader is away or waits for something else. */
  readonly readsAhead?: true
}

const { signal } = new AbortController()
const linked = linkAbort(signal)

const subjects: readonly Subject[] = [
  { name: 'coalesce', operator: coalesce() },
  { name: 'limitTokens', operator: limitTokens(100_000, () => ({ push: () => 0 })) },
  { name: 'stopWhen with a text', operator: stopWhen('never said') },
  { name: 'stopWhen with a function', operator: stopWhen(() => false) },
  { name: 'onlyText', operator: onlyText() },
  { name: 'map', operator: map((chunk) => chunk) },
  { name: 'pace', operator: pace({ charsPerSecond: 1_000_000 }), readsAhead: true },
  { name: 'idleTimeout', operator: idleTimeout({ firstChunkMs: 60_000, idleMs: 60_000 }) },
  { name: 'abortable', operator: abortable(signal) },
  { name: 'abortable with a linked signal', operator: abortable(linked.signal) },
  { name: 'buffered', operator: buffered(), readsAhead: true },
  { name: 'buffered with whenFull: fail', operator: buffered({ whenFull: 'fail' }), readsAhead: true },
  { name: 'share with one reader', operator: (source) => share(source, 1)[0] },
  {
    name: 'share with a reader that has left',
    operator: (source) => {
      const [reader, other] = share(source, 2)
      void other.return?.()
      return reader
    }
  },
  {
    name: 'all of them',
    operator: (source) =>
      abortable(signal)(onlyText()(coalesce({ minChars: 5 })(stopWhen('never said')(buffered<Chunk>()(idleTimeout()(source)))))),
    readsAhead: true
  }
]

const answer = [start, text('a long enough text'), text('another text'), text(' and a last one'), finish]

type Iterator = ChunkIterator<unknown>
const read = (operator: Operator<Chunk, unknown>, source: AsyncIterable<Chunk>): Iterator =>
  operator(source)[Symbol.asyncIterator]() as Iterator

describe.each(subjects)('$name', ({ operator }) => {
  test('returns the source at once when the reader leaves during a pending read, and settles that read', async () => {
    for (const way of ['next', 'nextBatch'] as const) {
      const source = fed()
      const stream = read(operator, source)
      const pending = stream[way]()
      const left = stream.return?.()
      expect(source.returned).toBe(1)
      expect((await left)?.done).toBe(true)
      expect(await pending).toEqual(way === 'next' ? { done: true, value: undefined } : undefined)
      expect((await stream.next()).done).toBe(true)
      source.give(text('too late'))
      expect((await stream.next()).done).toBe(true)
      expect(await stream.nextBatch()).toBeUndefined()
      expect(stream.ended).toBe(true)
      expect((await stream.return?.())?.done).toBe(true)
      expect(source.returned).toBe(1)
    }
  })

  test('does not hang with a generator that is stuck in a read, nor fall over when it fails later', async () => {
    let fail: (error: unknown) => void = () => {}
    async function* stuck(): AsyncGenerator<Chunk> {
      yield await new Promise<Chunk>((_resolve, reject) => {
        fail = reject
      })
    }
    const stream = read(operator, stuck())
    const pending = stream.next()
    expect((await stream.return?.())?.done).toBe(true)
    expect((await pending).done).toBe(true)
    fail(new Error('later')) // would be an unhandled rejection, which fails the run
    await new Promise(setImmediate)
  })

  test('does not fall over when the source cannot be returned during a read', async () => {
    const throws = (): never => {
      throw new Error('cannot close')
    }
    for (const fail of [() => Promise.reject(new Error('cannot close')), throws, undefined]) {
      const source: AsyncIterable<Chunk> = {
        [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}), ...(fail === undefined ? {} : { return: fail }) })
      }
      const stream = read(operator, source)
      const pending = stream.next()
      expect((await stream.return?.())?.done).toBe(true)
      expect((await pending).done).toBe(true)
    }
    await new Promise(setImmediate)
  })

  test('returns the source when the loop throws', async () => {
    const source = fed()
    for (let count = 0; count < 3; count++) source.give(text('a long enough text, and then some'))
    const boom = new Error('boom')
    const reading = async (): Promise<void> => {
      for await (const _ of operator(source)) throw boom
    }
    await expect(reading()).rejects.toBe(boom)
    expect(source.returned).toBe(1)
  })

  test('does not return a source that has ended', async () => {
    const source = fed()
    source.end()
    const stream = read(operator, source)
    expect((await stream.next()).done).toBe(true)
    await stream.return?.()
    expect(source.returned).toBe(0)
  })

  test('passes on an error behind what came before it, once', async () => {
    const expected = await gather(operator(from(answer)))
    const boom = new Error('boom')
    const source = fed()
    for (const chunk of answer) source.give(chunk)
    source.fail(boom)
    const stream = read(operator, source)
    const got: unknown[] = []
    await expect(async () => {
      for (;;) got.push((await stream.next()).value)
    }).rejects.toBe(boom)
    expect(got).toEqual(expected)
    expect((await stream.next()).done).toBe(true)
    expect(stream.ended).toBe(true)
    await stream.return?.()
    expect(source.returned).toBe(0)
  })

  test('fails by a rejection when the source throws instead of answering', async () => {
    const boom = new Error('boom')
    const source: AsyncIterable<Chunk> = {
      [Symbol.asyncIterator]: () => ({
        next: async () => {
          throw boom
        }
      })
    }
    await expect(gather(operator(source))).rejects.toBe(boom)
  })

  test('fails by a rejection when the source throws at once, at its beginning or later', async () => {
    const boom = new Error('boom')
    for (const good of [0, 1, 2]) {
      let reads = 0
      const next = (): Promise<IteratorResult<Chunk>> => {
        if (reads++ === good) throw boom
        return Promise.resolve({ done: false, value: text('a long enough text') })
      }
      const got: unknown[] = []
      const reading = async (): Promise<void> => {
        for await (const item of operator({ [Symbol.asyncIterator]: () => ({ next }) })) got.push(item)
      }
      await expect(reading()).rejects.toBe(boom)
      expect(textOf(got)).toBe(textOf(await gather(operator(from(Array(good).fill(text('a long enough text')))))))
    }
    const unborn: AsyncIterable<Chunk> = {
      [Symbol.asyncIterator]() {
        throw boom
      }
    }
    await expect(gather(operator(unborn))).rejects.toBe(boom)
  })

  test('refuses at the call what is no async iterable, and says to await a promise', () => {
    for (const wrong of [undefined, null, () => from(answer), answer, 'text']) {
      expect(() => operator(wrong as never)).toThrow(
        /takes an async iterable, not (undefined|null|a function|an array|a string): /
      )
    }
    expect(() => operator(Promise.resolve(from(answer)) as never)).toThrow(/not a promise: await the promise first/)
  })

  test('lets no read overtake another', async () => {
    const many = Array.from({ length: 9 }, (_, at) => text(`a long enough text, number ${at}. `))
    const expected = await gather(operator(from(many)))
    const stream = read(operator, from(many))
    const first = stream.next()
    let third: Promise<IteratorResult<unknown>> | undefined
    const begun = first.then(() => {
      third = stream.next()
    })
    const second = stream.next()
    await begun
    const got = [await first, await second, await third].flatMap((result) => (result?.done === false ? [result.value] : []))
    expect(textOf(got)).toBe(textOf(expected.slice(0, got.length)))
    await stream.return?.()
  })

  test('answers twenty thousand reads at once in their order, in time that grows with their number', async () => {
    let count = 0
    const source: AsyncIterable<Chunk> = {
      [Symbol.asyncIterator]: () => ({
        next: async () =>
          count < 20_000 ? { done: false, value: text(`number ${count++}; `) } : { done: true, value: undefined }
      })
    }
    const stream = read(operator, source)
    const all = await Promise.all(Array.from({ length: 20_000 }, () => stream.next()))
    const got = all.flatMap(({ done, value }) => (done === true ? [] : [value]))
    expect(textOf(got)).toBe(Array.from({ length: count }, (_, at) => `number ${at}; `).join(''))
    await stream.return?.()
  })

  test('answers reads that were not waited for in their order', async () => {
    const stream = read(operator, from(answer))
    const all = await Promise.all(Array.from({ length: 8 }, () => stream.next()))
    const expected = await gather(operator(from(answer)))
    expect(all.filter(({ done }) => done !== true).map(({ value }) => value)).toEqual(expected)
    const mixed = read(operator, from(answer))
    const [first, second, third, ...rest] = await Promise.all([
      mixed.next(),
      mixed.nextBatch(),
      mixed.next(),
      ...Array.from({ length: 6 }, () => mixed.nextBatch())
    ])
    const values = [
      ...(first?.done === true ? [] : [first?.value]),
      ...(second ?? []),
      ...(third?.done === true ? [] : [third?.value]),
      ...rest.flatMap((batch) => batch ?? [])
    ]
    expect(values).toEqual(expected)
  })

  test('reads nothing before it is read, and returns the source when it is left before', async () => {
    const source = fed()
    source.give(start)
    const stream = read(operator, source)
    await new Promise(setImmediate)
    expect(source.reads).toBe(0)
    expect(getEventListeners(signal, 'abort')).toHaveLength(1)
    await stream.return?.()
    expect(source.returned).toBe(1)
    expect((await stream.next()).done).toBe(true)
    expect(source.reads).toBe(0)
  })

  test('gives in batches what it gives one by one, and says with the last that it has ended', async () => {
    const expected = await gather(operator(from(answer)))
    for (const batches of [[answer], [answer.slice(0, 2), answer.slice(2)], answer.map((chunk) => [chunk])]) {
      const stream = read(operator, batched(...batches))
      const got: unknown[] = []
      while (!stream.ended) {
        const batch = await stream.nextBatch()
        if (batch === undefined) break // nothing had come of the last ones
        expect(batch).not.toHaveLength(0)
        got.push(...batch)
      }
      expect(textOf(got)).toBe(textOf(expected))
      expect(await stream.nextBatch()).toBeUndefined()
      const one = read(operator, batched(...batches))
      const singly: unknown[] = []
      for (let result = await one.next(); result.done !== true; result = await one.next()) singly.push(result.value)
      expect(singly).toEqual(got)
      expect(one.ended).toBe(true)
      const both = read(operator, batched(...batches))
      const turns: unknown[] = []
      while (!both.ended) {
        const { done, value } = await both.next()
        if (done !== true) turns.push(value)
        turns.push(...((await both.nextBatch()) ?? []))
      }
      expect(turns).toEqual(got)
    }
  })

  test('takes a source in batches: few reads for many chunks', async () => {
    const source = batched(answer, answer)
    const stream = read(operator, source)
    while (!stream.ended) await stream.nextBatch()
    expect(source.reads).toBe(2)
  })

  test('keeps streams that run at the same time apart', async () => {
    const expected = await gather(operator(from(answer)))
    const streams = await Promise.all(
      Array.from({ length: 20 }, async () => {
        async function* slow(): AsyncGenerator<Chunk> {
          for (const chunk of answer) {
            await new Promise(setImmediate)
            yield chunk
          }
        }
        return gather(operator(slow()))
      })
    )
    for (const got of streams) expect(got).toEqual(expected)
  })

  test('leaves no timer and no listener behind a thousand streams, however they end', async () => {
    // Timers of all kinds are counted, those too that keep no process alive.
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setImmediate', 'clearImmediate', 'performance'] })
    try {
      const all = endAll(operator, 1000)
      const progress = { ended: false }
      const over = (): void => {
        progress.ended = true
      }
      all.then(over, over)
      while (!progress.ended) await vi.advanceTimersByTimeAsync(10)
      await all
      expect(vi.getTimerCount()).toBe(0)
      expect(getEventListeners(signal, 'abort')).toHaveLength(1) // the linked one's
      expect(getEventListeners(linked.signal, 'abort')).toHaveLength(0)
    } finally {
      vi.useRealTimers()
    }
  })

  test('keeps nothing of a thousand streams, however they end', async () => {
    await endAll(operator, 20)
    const before = await heapAfterGc()
    await endAll(operator, 1000)
    expect((await heapAfterGc()) - before).toBeLessThan(8 * 2 ** 20) // each stream has a chunk of 20 KB
  })
})

describe('a step whose flush throws', () => {
  const boom = new Error('flush')
  const flushing = operate<Chunk, Chunk>(() => ({
    take(chunk, emit) {
      emit(chunk)
      return undefined
    },
    flush() {
      throw boom
    }
  }))

  test('fails the stream at its end, behind what was given', async () => {
    for (const source of [() => from(answer), () => batched(answer)]) {
      const got: Chunk[] = []
      await expect(async () => {
        for await (const chunk of flushing(source())) got.push(chunk)
      }).rejects.toBe(boom)
      expect(got).toEqual(answer)
    }
  })

  test('hides no error that came before it', async () => {
    const first = new Error('first')
    const source = fed()
    source.fail(first)
    await expect(gather(flushing(source))).rejects.toBe(first)
  })
})

async function endAll(operator: Operator<Chunk, unknown>, streams: number): Promise<void> {
  await Promise.all(Array.from({ length: streams }, (_, count) => endings[count % endings.length]?.(operator)))
}

/** Ways for a stream to end; the last two are never read. */
const endings: readonly ((operator: Operator<Chunk, unknown>) => Promise<unknown>)[] = [
  (operator) => gather(operator(from(heavyAnswer()))),
  (operator) => gather(operator(batched(heavyAnswer()))),
  async (operator) => {
    for await (const _ of operator(from(heavyAnswer()))) break
  },
  async (operator) => {
    const source = fed()
    for (const chunk of heavyAnswer()) source.give(chunk)
    source.fail(new Error('boom'))
    await gather(operator(source)).catch(() => {})
  },
  async (operator) => {
    const stream = read(operator, fed())
    const pending = stream.next()
    await stream.return?.()
    await pending
  },
  async (operator) => read(operator, from(heavyAnswer())).return?.(),
  async (operator) => void read(operator, from(heavyAnswer()))
]

function heavyAnswer(): Chunk[] {
  const heavy = { ...text('a long enough text'), weight: Array.from({ length: 2500 }, (_, index) => index) }
  return [start, heavy, text('another text'), finish]
}

/** A text is the same text in whatever pieces it comes. */
function textOf(items: readonly unknown[]): string {
  return items
    .map((item) =>
      typeof item === 'string' ? item : (item as Chunk).type === 'text' ? (item as { text: string }).text : JSON.stringify(item)
    )
    .join('')
}

describe('with a read that always waits', () => {
  /** Reads so many pieces, with one more read open than is waited for. */
  async function readAhead(operator: Operator<Chunk>, count: number): Promise<AsyncIterator<Chunk>> {
    async function* source(): AsyncGenerator<Chunk> {
      for (let piece = 0; ; piece++) {
        yield text(`a piece of some length, with its number at the end: ${piece}`)
        await Promise.resolve()
      }
    }
    const stream = operator(source())[Symbol.asyncIterator]()
    let ahead = stream.next()
    for (let taken = 0; taken < count; taken++) {
      const next = stream.next()
      await ahead
      ahead = next
    }
    return stream
  }

  test.each([
    ['coalesce', coalesce()],
    ['map', map((chunk: Chunk) => chunk)]
  ])('%s lets go of what it has delivered', async (_, operator) => {
    const warm = await readAhead(operator, 1000)
    const before = await heapAfterGc()
    const stream = await readAhead(operator, 200_000)
    expect(((await heapAfterGc()) - before) / 1024 / 1024).toBeLessThan(8) // held, these would be 30
    await Promise.all([warm.return?.(), stream.return?.()])
  })
})

describe.each(subjects.filter(({ readsAhead }) => !readsAhead))('$name, which does not read ahead,', ({ operator }) => {
  test('returns the source once when the reader leaves the loop, and waits until it is closed', async () => {
    let closed = false
    async function* source(): AsyncGenerator<Chunk> {
      try {
        yield text('0123456789'.repeat(3))
        yield text('0123456789'.repeat(3))
      } finally {
        await new Promise(setImmediate)
        closed = true
      }
    }
    for await (const chunk of operator(source())) if (chunk !== undefined) break
    expect(closed).toBe(true)
  })

  test('reads no further than the reader asks', async () => {
    const source = fed()
    for (let count = 0; count < 10; count++) source.give(text('a long enough text'))
    const stream = read(operator, source)
    await stream.next()
    expect(source.reads).toBe(1)
    await new Promise(setImmediate)
    expect(source.reads).toBe(1)
    await stream.return?.()
  })
})
