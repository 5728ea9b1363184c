import type { Chunk } from '@millrace/core'
import { describe, expect, test } from 'vitest'
import { coalesce, limitTokens, type Operator, onlyText } from '../src/index.ts'
import { fed, finish, from, gather, start, text } from './source.ts'

const operators: [string, Operator<Chunk, unknown>][] = [
  ['coalesce', coalesce()],
  ['limitTokens', limitTokens(100, () => ({ push: () => 0 }))],
  ['onlyText', onlyText()]
]

describe.each(operators)('%s', (_name, operator) => {
  test('returns the source at once when the reader leaves during a pending read, and settles that read', async () => {
    const source = fed()
    const stream = operator(source)[Symbol.asyncIterator]()
    const pending = stream.next()
    const left = stream.return?.()
    expect(source.returned).toBe(1)
    expect((await left)?.done).toBe(true)
    expect((await pending).done).toBe(true)
    expect((await stream.next()).done).toBe(true)
    source.give(text('too late'))
    expect((await stream.next()).done).toBe(true)
  })

  test('does not hang with a generator that is stuck in a read, nor fall over when it fails later', async () => {
    let fail: (error: unknown) => void = () => {}
    async function* stuck(): AsyncGenerator<Chunk> {
      yield await new Promise<Chunk>((_resolve, reject) => {
        fail = reject
      })
    }
    const stream = operator(stuck())[Symbol.asyncIterator]()
    const pending = stream.next()
    expect((await stream.return?.())?.done).toBe(true)
    expect((await pending).done).toBe(true)
    fail(new Error('later')) // would be an unhandled rejection, which fails the run
    await new Promise(setImmediate)
  })

  test('returns the source once when the reader leaves the loop, and waits until it is closed', async () => {
    let closed = false
    async function* source(): AsyncGenerator<Chunk> {
      try {
        yield text('0123456789')
        yield text('0123456789')
      } finally {
        await new Promise(setImmediate)
        closed = true
      }
    }
    for await (const chunk of operator(source())) if (chunk !== undefined) break
    expect(closed).toBe(true)
  })

  test('does not return a source that has ended, and passes on its error', async () => {
    const source = fed()
    source.end()
    await gather(operator(source))
    expect(source.returned).toBe(0)
    const broken = fed()
    const boom = new Error('boom')
    broken.fail(boom)
    await expect(gather(operator(broken))).rejects.toBe(boom)
  })

  test('answers reads that were not waited for in their order', async () => {
    const stream = operator(from([start, text('a long enough text'), text('another text'), finish]))[Symbol.asyncIterator]()
    const all = await Promise.all(Array.from({ length: 6 }, () => stream.next()))
    const expected = await gather(operator(from([start, text('a long enough text'), text('another text'), finish])))
    expect(all.filter(({ done }) => done !== true).map(({ value }) => value)).toEqual(expected)
  })

  test('reads no further than the reader asks', async () => {
    const source = fed()
    for (let count = 0; count < 10; count++) source.give(text('a long enough text'))
    const stream = operator(source)[Symbol.asyncIterator]()
    await stream.next()
    expect(source.reads).toBe(1)
    await stream.return?.()
  })
})

test('onlyText gives the text of the answer and nothing else', async () => {
  const chunks: Chunk[] = [
    start,
    { type: 'reasoning', text: 'hm' },
    text('a'),
    text(''),
    { type: 'refusal', text: 'no' },
    text('b'),
    finish
  ]
  expect(await gather(onlyText()(from(chunks)))).toEqual(['a', 'b'])
})
