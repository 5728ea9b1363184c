import { type Chunk, collect } from '@millrace/core'
import { expect, test } from 'vitest'
import { map } from '../src/map.ts'
import { fed, finish, from, gather, start, text } from './source.ts'

test('changes each chunk, and lets go of those it has undefined for', async () => {
  const shout = map((chunk: Chunk) => {
    if (chunk.type === 'reasoning') return undefined
    return chunk.type === 'text' ? text(chunk.text.toUpperCase()) : chunk
  })
  const answer = shout(from([start, { type: 'reasoning', text: 'hm' }, text('yes'), finish]))
  expect(await collect(answer)).toMatchObject({ text: 'YES', reasoning: [], finish: 'stop' })
})

test('makes a stream of another kind, of which false, 0 and an empty text are values', async () => {
  const values: unknown[] = [0, false, '', null]
  let at = 0
  expect(await gather(map(() => values[at++])(from([start, text('a'), text('b'), finish])))).toEqual(values)
})

test('returns the source when the change throws, with what came before delivered', async () => {
  const source = fed()
  source.give(start)
  source.give(text('one'))
  const boom = new Error('boom')
  const got: Chunk[] = []
  const failing = map((chunk: Chunk) => {
    if (chunk.type === 'text') throw boom
    return chunk
  })
  await expect(async () => {
    for await (const chunk of failing(source)) got.push(chunk)
  }).rejects.toBe(boom)
  expect(got).toEqual([start])
  expect(source.returned).toBe(1)
})

test('passes a batch on as a batch', async () => {
  let read = false
  const source: AsyncIterable<number> = {
    [Symbol.asyncIterator]: () => ({
      next: () => Promise.reject(new Error('read one by one')),
      async nextBatch() {
        if (read) return undefined
        read = true
        return [1, 2, 3]
      }
    })
  }
  const iterator = map((value: number) => value * 2)(source)[Symbol.asyncIterator]() as unknown as {
    nextBatch(): Promise<readonly number[] | undefined>
  }
  expect(await iterator.nextBatch()).toEqual([2, 4, 6])
  expect(await iterator.nextBatch()).toBeUndefined()
})

test('refuses what is no function at creation', () => {
  expect(() => map(undefined as never)).toThrow(TypeError)
})
