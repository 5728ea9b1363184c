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
