import { setTimeout as delay } from 'node:timers/promises'
import { type Chunk, type ChunkIterator, isMillraceError } from '@millrace/core'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type BufferedOptions, buffered } from '../src/buffered.ts'
import { batched } from './batched.ts'
import { fed, gather, start, text } from './source.ts'

/** Counts up for ever, or to `end`, in turns of the event loop, and tells how far it has come. */
function counting(end = Number.POSITIVE_INFINITY): AsyncIterable<number> & { readonly given: number; readonly closed: boolean } {
  let given = 0
  let closed = false
  return {
    get given() {
      return given
    },
    get closed() {
      return closed
    },
    async *[Symbol.asyncIterator]() {
      try {
        while (given < end) {
          await new Promise(setImmediate)
          yield given++
        }
      } finally {
        closed = true
      }
    }
  }
}

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise(setImmediate)
}

describe('reading ahead', () => {
  test('begins with the first read, and goes on while nobody reads, up to maxItems', async () => {
    const source = counting()
    const stream = buffered({ maxItems: 5 })(source)[Symbol.asyncIterator]()
    await turns(20)
    expect(source.given).toBe(0)
    expect((await stream.next()).value).toBe(0)
    await turns(50)
    expect(source.given).toBe(6) // the one that was taken, and five
    expect((await stream.next()).value).toBe(1)
    await turns(20)
    expect(source.given).toBe(7)
    await stream.return?.()
  })

  test('stops at maxSize too, in the unit of sizeOf', async () => {
    const source = counting()
    const stream = buffered<number>({ maxSize: 10, sizeOf: (number) => number })(source)[Symbol.asyncIterator]()
    await stream.next()
    await turns(50)
    expect(source.given).toBe(5) // 0 is taken; 1 + 2 + 3 + 4 is 10
    await stream.return?.()
  })

  test.each<[string, unknown, number]>([
    ['texts', 'x'.repeat(100), 100],
    ['bytes', new Uint8Array(50), 50],
    ['chunks', text('x'.repeat(96)), 100],
    ['what chunks hold deep inside', { type: 'extra', name: 'audio', value: { delta: [{ data: 'x'.repeat(90) }] } }, 100],
    ['events', { event: 'message', data: 'x'.repeat(93), id: '' }, 100],
    ['what holds itself', selfish(), 100]
  ])('counts the characters and bytes of %s by itself', async (_name, item, size) => {
    let given = 0
    async function* source(): AsyncGenerator {
      for (;;) {
        given++
        yield item
      }
    }
    const stream = buffered({ maxSize: size * 7 })(source())[Symbol.asyncIterator]()
    await stream.next()
    await turns(5)
    expect(given).toBeGreaterThanOrEqual(2)
    expect(given).toBeLessThanOrEqual(8)
    if (!_name.includes('itself')) expect(given).toBe(8)
    await stream.return?.()
  })

  test('goes over the bound by the batch that reaches it, and reads no other', async () => {
    const source = batched([1, 2, 3], [4, 5, 6], [7, 8, 9], [10])
    const stream = buffered({ maxItems: 4 })(source)[Symbol.asyncIterator]()
    expect((await stream.next()).value).toBe(1)
    await turns(5)
    expect(source.reads).toBe(2)
    const rest = await gather({ [Symbol.asyncIterator]: () => stream })
    expect(rest).toEqual([2, 3, 4, 5, 6, 7, 8, 9, 10])
  })

  test('never holds more than maxItems, loses nothing and keeps the order, however it is read', async () => {
    const seed = 0x6b0ff
    console.log(`seed ${seed}`)
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 0, max: 60 }),
        fc.array(fc.constantFrom('next', 'batch', 'wait'), { minLength: 1, maxLength: 60 }),
        async (maxItems, length, steps) => {
          const source = counting(length)
          const stream = buffered<number>({ maxItems })(source)[Symbol.asyncIterator]() as ChunkIterator<number>
          const got: number[] = []
          for (let at = 0; !stream.ended; at++) {
            const step = steps[at % steps.length]
            if (step === 'wait') await turns(3)
            if (step === 'batch') got.push(...((await stream.nextBatch()) ?? []))
            else {
              const { done, value } = await stream.next()
              if (done !== true) got.push(value)
            }
            expect(source.given - got.length).toBeLessThanOrEqual(maxItems)
          }
          expect(got).toEqual(Array.from({ length }, (_, number) => number))
        }
      ),
      { seed, numRuns: 200 }
    )
  })

  test('lets the source work while the reader does', async () => {
    async function* slow(): AsyncGenerator<number> {
      for (let number = 0; number < 10; number++) {
        await delay(20)
        yield number
      }
    }
    const take = async (stream: AsyncIterable<number>): Promise<number> => {
      const startedAt = performance.now()
      for await (const _ of stream) await delay(20)
      return performance.now() - startedAt
    }
    const [plain, ahead] = await Promise.all([take(slow()), take(buffered<number>()(slow()))])
    expect(ahead).toBeLessThan(plain * 0.8)
  })
})

describe('an error', () => {
  test('of the source comes behind what was read before it', async () => {
    const source = fed()
    for (const chunk of [start, text('a'), text('b')]) source.give(chunk)
    const boom = new Error('boom')
    source.fail(boom)
    const stream = buffered<Chunk>()(source)[Symbol.asyncIterator]() as ChunkIterator
    expect((await stream.next()).value).toEqual(start)
    await turns(5)
    expect(source.reads).toBe(4)
    expect(stream.ended).toBe(false)
    expect(await stream.nextBatch()).toEqual([text('a'), text('b')])
    expect(stream.ended).toBe(false)
    await expect(stream.nextBatch()).rejects.toBe(boom)
    expect(stream.ended).toBe(true)
    expect((await stream.next()).done).toBe(true)
    await stream.return?.()
    expect(source.returned).toBe(0)
  })

  test('of sizeOf ends the stream, and returns the source', async () => {
    const source = fed()
    source.give(start)
    const boom = new Error('boom')
    const sizeOf = (): number => {
      throw boom
    }
    await expect(gather(buffered<Chunk>({ sizeOf })(source))).rejects.toBe(boom)
    expect(source.returned).toBe(1)
  })

  test("is queue-full with whenFull: 'fail', behind what is held, and the source is returned", async () => {
    const source = counting()
    const stream = buffered<number>({ maxItems: 3, whenFull: 'fail' })(source)[Symbol.asyncIterator]()
    expect((await stream.next()).value).toBe(0)
    await turns(20)
    expect(source.given).toBe(5) // three are held, the fourth found no room
    expect(source.closed).toBe(true)
    const got: number[] = []
    const reading = async (): Promise<void> => {
      for (let result = await stream.next(); result.done !== true; result = await stream.next()) got.push(result.value)
    }
    await expect(reading()).rejects.toSatisfy(
      (error) => isMillraceError(error, 'queue-full') && error.details.limit === 3 && error.message.includes('maxItems')
    )
    expect(got).toEqual([1, 2, 3])
    expect((await stream.next()).done).toBe(true)
  })

  test("names the size with whenFull: 'fail' where that is the bound", async () => {
    const stream = buffered({ maxSize: 4, whenFull: 'fail' })(batched(['ab'], ['cd'], ['ef'], ['gh']))[Symbol.asyncIterator]()
    await stream.next()
    await turns(5)
    await stream.next()
    await stream.next()
    await expect(stream.next()).rejects.toMatchObject({ code: 'queue-full', details: { limit: 4 } })
  })

  test("does not come with whenFull: 'fail' when the source ends with a full buffer, or the reader keeps up", async () => {
    const source = counting(4)
    const stream = buffered<number>({ maxItems: 3, whenFull: 'fail' })(source)[Symbol.asyncIterator]()
    await stream.next()
    await turns(20)
    expect(source.closed).toBe(true)
    expect(await gather({ [Symbol.asyncIterator]: () => stream })).toEqual([1, 2, 3])
    expect(await gather(buffered<number>({ maxItems: 1, whenFull: 'fail' })(counting(500)))).toHaveLength(500)
  })
})

test('leaving stops the reading ahead, lets go of what is held, and returns the source', async () => {
  const source = counting()
  const stream = buffered<number>({ maxItems: 100 })(source)[Symbol.asyncIterator]() as ChunkIterator<number>
  await stream.next()
  await turns(10)
  await stream.return?.()
  await turns(2)
  const { given } = source
  expect(source.closed).toBe(true)
  await turns(20)
  expect(source.given).toBe(given)
  expect(await stream.nextBatch()).toBeUndefined()
})

test('leaving while the buffer is full waits until the source is closed', async () => {
  let closed = false
  async function* source(): AsyncGenerator<number> {
    try {
      for (;;) yield 1
    } finally {
      await turns(3)
      closed = true
    }
  }
  for await (const _ of buffered({ maxItems: 2 })(source())) {
    await turns(3)
    break
  }
  expect(closed).toBe(true)
})

test('refuses wrong options at creation', () => {
  const wrong: [unknown, RegExp][] = [
    [{ maxItems: 0 }, /maxItems must be a whole number above 0/],
    [{ maxItems: 1.5 }, /maxItems/],
    [{ maxItems: Number.POSITIVE_INFINITY }, /maxItems/],
    [{ maxSize: 0 }, /maxSize must be a number above 0/],
    [{ maxSize: Number.NaN }, /maxSize/],
    [{ maxSize: '9' }, /maxSize/],
    [{ sizeOf: 4 }, /sizeOf must be a function/],
    [{ whenFull: 'drop' }, /whenFull must be 'wait' or 'fail'/],
    [{ max: 4 }, /no option "max"; it has maxItems, maxSize, sizeOf, whenFull/],
    [7, /takes an object/]
  ]
  for (const [options, message] of wrong) expect(() => buffered(options as BufferedOptions<unknown>)).toThrow(message)
})

function selfish(): object {
  const item: { text: string; self?: object } = { text: 'x'.repeat(20) }
  item.self = item
  return item
}

test('says what to write where the stream was given in place of the options, or a text in place of a number', () => {
  expect(() => buffered(counting() as never)).toThrow('buffered takes options: write buffered()(stream)')
  expect(() => buffered({ maxItems: '5' as never })).toThrow('not "5"')
  expect(() => buffered({ maxSize: '5' as never })).toThrow('not "5"')
})
