import { type Chunk, ChunkBatches } from '@millrace/core'
import { describe, expect, test } from 'vitest'
import { type AnswerStream, createAnswerStream, watchForgotten } from '../src/answer-stream.ts'

const text = (piece: string): Chunk => ({ type: 'text', text: piece })
const start: Chunk = { type: 'start', provider: 'p', model: 'm' }
const finish: Chunk = { type: 'finish', reason: 'stop' }

/** Hands over these batches, one a pull, and refuses a second pull beside another. */
class Given extends ChunkBatches {
  returned = 0
  readonly #batches: (readonly Chunk[])[]
  readonly #failure: Error | undefined
  #pulling = false

  constructor(batches: readonly (readonly Chunk[])[], failure?: Error) {
    super()
    this.#batches = [...batches]
    this.#failure = failure
  }
  protected async pull(): Promise<readonly Chunk[] | undefined> {
    if (this.#pulling) throw new Error('two pulls at once')
    this.#pulling = true
    await Promise.resolve()
    this.#pulling = false
    const batch = this.#batches.shift()
    if (batch === undefined && this.#failure !== undefined) throw this.#failure
    return batch
  }
  async return(): Promise<IteratorResult<Chunk, undefined>> {
    this.returned++
    this.#batches.length = 0
    return { done: true, value: undefined }
  }
}

const forgotten = watchForgotten()
function streamOf(given: Given, signal?: AbortSignal): AnswerStream {
  return createAnswerStream(() => ({ [Symbol.asyncIterator]: () => given }), { forgotten, signal })
}

describe('reads that are not waited for', () => {
  test('do not overtake one another, also one that is made between two that wait', async () => {
    for (const size of [1, 2, 8]) {
      const chunks = [start, ...Array.from('abcdef', text), finish]
      const stream = streamOf(new Given(Array.from({ length: 8 / size }, () => chunks.splice(0, size))))
      const settled: string[] = []
      const reads: Promise<unknown>[] = []
      const read = (name: string): Promise<unknown> => {
        const result = stream.next()
        reads.push(result.then(({ value }) => settled.push(`${name} ${value?.type === 'text' ? value.text : value?.type}`)))
        return result
      }
      void read('1').then(() => read('4'))
      void read('2')
      void read('3')
      for (let at = 0; at < reads.length; at++) await reads[at]
      expect(settled).toEqual(['1 start', '2 a', '3 b', '4 c'])
      expect(await stream.completion()).toMatchObject({ text: 'abcdef', finish: 'stop' })
    }
  })

  test('may be of one chunk and of batches: each chunk is given once, in order', async () => {
    const stream = streamOf(new Given([[start, text('a'), text('b')], [text('c')], [text('d'), text('e')], [finish]]))
    const reads = [
      stream.nextBatch(),
      stream.next(),
      stream.nextBatch(),
      stream.next(),
      stream.nextBatch(),
      stream.nextBatch(),
      stream.next()
    ]
    expect(await Promise.all(reads)).toEqual([
      [start, text('a'), text('b')],
      { done: false, value: text('c') },
      [text('d'), text('e')],
      { done: false, value: finish },
      undefined,
      undefined,
      { done: true, value: undefined }
    ])
    expect(stream.ended).toBe(false)
    expect(stream.partial.text).toBe('abcde')
  })

  test('are all settled when the stream is left, and the source is left once', async () => {
    const given = new Given([[start], [text('a')], [finish]])
    const stream = streamOf(given)
    const reads = [stream.next(), stream.next(), stream.nextBatch(), stream.next()]
    await stream.return()
    expect(await Promise.all(reads)).toEqual([
      { done: true, value: undefined },
      { done: true, value: undefined },
      undefined,
      { done: true, value: undefined }
    ])
    expect(given.returned).toBe(1)
  })

  test('are given nothing that is ready once the caller has aborted', async () => {
    const own = new AbortController()
    const stream = streamOf(new Given([[start, text('a'), text('b')]]), own.signal)
    const first = stream.next().then(() => own.abort(new Error('mine')))
    const reads = [stream.next(), stream.next()]
    await first
    expect((await Promise.allSettled(reads)).map((read) => read.status === 'rejected' && String(read.reason))).toEqual([
      'Error: mine',
      'Error: mine'
    ])
  })

  test('are told a failure each by its turn', async () => {
    const stream = streamOf(new Given([[start, text('a')]], new Error('broken')))
    const reads = await Promise.allSettled([stream.next(), stream.next(), stream.next(), stream.nextBatch()])
    expect(reads.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected', 'rejected'])
    expect(stream.partial.text).toBe('a')
  })

  // The yardstick is the same number of reads in eight lots, so that the machine's speed cancels out.
  test('take time linear in their number', async () => {
    const run = async (reads: number): Promise<number> => {
      const stream = streamOf(new Given([[start], ...Array.from({ length: reads }, () => [text('a')])]))
      const startedAt = performance.now()
      await Promise.all(Array.from({ length: reads }, () => stream.next()))
      return performance.now() - startedAt
    }
    await run(1000) // warm
    let inLotsMs = 0
    for (let lot = 0; lot < 8; lot++) inLotsMs += await run(1000)
    expect(await run(8000)).toBeLessThan(inLotsMs * 3 + 200)
  })
})

test('a read that finds something ready is answered at once', async () => {
  const stream = streamOf(new Given([[start, text('a'), text('b'), text('c'), finish]]))
  await Promise.all([stream.next(), stream.next()])
  const order: string[] = []
  const reading = stream.next().then(() => order.push('read'))
  const turn = Promise.resolve().then(() => order.push('turn'))
  await Promise.all([reading, turn])
  expect(order).toEqual(['read', 'turn'])
})
