import { describe, expect, test } from 'vitest'
import { type Chunk, ChunkBatches, collect, nextBatch } from '../src/index.ts'

const text = (piece: string): Chunk => ({ type: 'text', text: piece })
const start: Chunk = { type: 'start', provider: 'p', model: 'm' }
const finish: Chunk = { type: 'finish', reason: 'stop' }

/** Hands over these batches, one a pull, and then throws `failure` if there is one. */
class Given extends ChunkBatches {
  pulls = 0
  returned = 0
  running = 0
  readonly #batches: (readonly Chunk[])[]
  readonly #failure: Error | undefined

  constructor(batches: readonly (readonly Chunk[])[], failure?: Error) {
    super()
    this.#batches = [...batches]
    this.#failure = failure
  }
  protected async pull(): Promise<readonly Chunk[] | undefined> {
    this.pulls++
    if (++this.running > 1) throw new Error('two pulls at once')
    await Promise.resolve()
    this.running--
    const batch = this.#batches.shift()
    if (batch === undefined && this.#failure !== undefined) throw this.#failure
    return batch
  }
  async return(): Promise<IteratorResult<Chunk, undefined>> {
    this.returned++
    this.clear()
    this.#batches.length = 0
    return { done: true, value: undefined }
  }
}

const streamOf = (iterator: AsyncIterator<Chunk, undefined>): AsyncIterable<Chunk> => ({ [Symbol.asyncIterator]: () => iterator })

describe('an iterator that hands over batches', () => {
  test('gives each chunk once and in order, by next and by nextBatch in turn', async () => {
    const given = new Given([[start, text('a'), text('b')], [text('c')], [finish]])
    expect(await given.next()).toEqual({ done: false, value: start })
    expect(await nextBatch(given)).toEqual([text('a'), text('b')])
    expect(await given.next()).toEqual({ done: false, value: text('c') })
    expect(await nextBatch(given)).toEqual([finish])
    expect(await nextBatch(given)).toBeUndefined()
    expect(await given.next()).toEqual({ done: true, value: undefined })
  })

  test('reads one at a time: reads that come together are answered in turn', async () => {
    const given = new Given([[start, text('a')], [finish]])
    const results = await Promise.all([given.next(), given.next(), given.next(), given.next()])
    expect(results.map(({ value }) => value)).toEqual([start, text('a'), finish, undefined])
  })

  test('lets no read overtake another, also one that is made between two that wait', async () => {
    for (const size of [1, 2, 9]) {
      const letters = Array.from('abcdef', text)
      const given = new Given(Array.from({ length: 6 / Math.min(size, 6) }, () => letters.splice(0, size)))
      const settled: string[] = []
      const reads: Promise<unknown>[] = []
      const read = (name: string): Promise<unknown> => {
        const result = given.next()
        reads.push(result.then(({ value }) => settled.push(`${name} ${value?.type === 'text' ? value.text : 'end'}`)))
        return result
      }
      const first = read('1')
      void first.then(() => read('4')).then(() => read('5'))
      void read('2').then(() => read('6'))
      void read('3')
      for (let at = 0; at < reads.length; at++) await reads[at]
      expect(settled.slice(0, 4)).toEqual(['1 a', '2 b', '3 c', '4 d'])
      expect(settled.slice(4).map((told) => told.at(-1))).toEqual(['e', 'f'])
    }
  })

  test('answers waiting reads of one chunk and of a batch in their order, each chunk once', async () => {
    const given = new Given([[start, text('a'), text('b')], [text('c')], [text('d'), text('e')], [finish]])
    const reads = [
      given.next(),
      given.nextBatch(),
      given.next(),
      given.nextBatch(),
      given.next(),
      given.nextBatch(),
      given.next()
    ]
    expect(await Promise.all(reads)).toEqual([
      { done: false, value: start },
      [text('a'), text('b')],
      { done: false, value: text('c') },
      [text('d'), text('e')],
      { done: false, value: finish },
      undefined,
      { done: true, value: undefined }
    ])
    expect(given.pulls).toBe(6)
  })

  test('tells a failure to the read that met it, and goes on with those that wait behind it', async () => {
    const given = new Given([[start]], new Error('broken'))
    const reads = await Promise.allSettled([given.next(), given.next(), given.nextBatch()])
    expect(reads.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected'])
    expect(await given.next().catch(String)).toBe('Error: broken')
  })

  test('settles the reads that wait when it is left', async () => {
    const given = new Given([[start, text('a')], [text('b')]])
    const reads = [given.next(), given.next(), given.nextBatch(), given.next()]
    await given.return()
    expect((await Promise.all(reads)).map((result) => (result as { value?: unknown } | undefined)?.value)).toEqual([
      undefined,
      undefined,
      undefined,
      undefined
    ])
  })

  test('asks the layer itself for each read that waited, so that a layer may refuse one', async () => {
    let refuses = false
    class Refusing extends Given {
      override next(): Promise<IteratorResult<Chunk, undefined>> {
        return refuses ? Promise.reject(new Error('refused')) : super.next()
      }
    }
    const given = new Refusing([[start], [text('a')]])
    const reads = [given.next(), given.next(), given.next()]
    refuses = true
    expect((await Promise.allSettled(reads)).map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected'])
    refuses = false
    expect(await given.next()).toEqual({ done: false, value: text('a') })
  })

  test('answers a read at once when none waits', async () => {
    const given = new Given([[start, text('a'), text('b'), text('c')]])
    await Promise.all([given.next(), given.next()])
    const order: string[] = []
    const reading = given.next().then(() => order.push('read'))
    const turn = Promise.resolve().then(() => order.push('turn'))
    await Promise.all([reading, turn])
    expect(order).toEqual(['read', 'turn'])
  })

  // The yardstick is the same number of reads in eight lots, so that the machine's speed cancels out.
  test('takes time linear in the reads that wait', async () => {
    const run = async (reads: number): Promise<number> => {
      const given = new Given(Array.from({ length: reads }, () => [start]))
      const startedAt = performance.now()
      await Promise.all(Array.from({ length: reads }, () => given.next()))
      return performance.now() - startedAt
    }
    await run(1000) // warm
    let inLotsMs = 0
    for (let lot = 0; lot < 8; lot++) inLotsMs += await run(1000)
    expect(await run(8000)).toBeLessThan(inLotsMs * 3 + 200)
  })

  test('gives what it has before the failure behind it', async () => {
    const given = new Given([[start, text('a')]], new Error('broken'))
    await given.next()
    expect(await given.next()).toEqual({ done: false, value: text('a') })
    await expect(given.next()).rejects.toThrow('broken')
  })

  test('costs a collected answer two pulls, however many chunks it has', async () => {
    const given = new Given([[start, text('a'), text('b'), text('c'), finish]])
    expect(await collect(streamOf(given))).toMatchObject({ text: 'abc', finish: 'stop' })
    expect(given.pulls).toBe(2)
  })

  test('is left by collect when an answer is too long, and not when it failed by itself', async () => {
    const long = new Given([[start, text('too long'), finish]])
    await expect(collect(streamOf(long), { maxChars: 3 })).rejects.toMatchObject({ code: 'protocol' })
    expect(long.returned).toBe(1)
    const broken = new Given([[start]], new Error('broken'))
    await expect(collect(streamOf(broken))).rejects.toThrow('broken')
    expect(broken.returned).toBe(0)
  })
})

test('an iterator that knows nothing of batches gives one chunk a batch', async () => {
  async function* chunks(): AsyncGenerator<Chunk, undefined> {
    yield start
    yield finish
  }
  const iterator = chunks()
  expect(await nextBatch(iterator)).toEqual([start])
  expect(await nextBatch(iterator)).toEqual([finish])
  expect(await nextBatch(iterator)).toBeUndefined()
})
