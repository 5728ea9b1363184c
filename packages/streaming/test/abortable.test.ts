import { getEventListeners } from 'node:events'
import { type Chunk, type ChunkIterator, linkAbort } from '@millrace/core'
import { expect, test } from 'vitest'
import { abortable } from '../src/abortable.ts'
import { batched } from './batched.ts'
import { fed, from, gather, start, text } from './source.ts'

const settled = <T>(promise: Promise<T>): Promise<unknown> =>
  promise.then(
    (value) => ({ value }),
    (error: unknown) => ({ error })
  )

test('rejects the pending read with the reason, unwrapped, and returns the source at once', async () => {
  for (const way of ['next', 'nextBatch'] as const) {
    for (const reason of [new Error('enough'), 'a word', undefined, null]) {
      const source = fed()
      const controller = new AbortController()
      const stream = abortable(controller.signal)(source)[Symbol.asyncIterator]() as ChunkIterator
      const pending = settled<unknown>(stream[way]())
      controller.abort(reason)
      expect(source.returned).toBe(1)
      expect(await pending).toEqual({ error: controller.signal.reason })
      expect((await stream.next()).done).toBe(true)
      expect(stream.ended).toBe(true)
      await stream.return?.()
      expect(source.returned).toBe(1)
    }
  }
})

test('settles within 10 ms although a generator is waiting', async () => {
  const times: number[] = []
  for (let round = 0; round < 5; round++) {
    async function* stuck(): AsyncGenerator<Chunk> {
      yield start
      await new Promise(() => {})
    }
    const controller = new AbortController()
    const stream = abortable(controller.signal)(stuck())[Symbol.asyncIterator]()
    await stream.next()
    const pending = stream.next()
    await new Promise(setImmediate)
    const abortedAt = performance.now()
    controller.abort()
    await expect(pending).rejects.toBe(controller.signal.reason)
    times.push(performance.now() - abortedAt)
  }
  expect(Math.min(...times)).toBeLessThan(10)
})

test('withholds what was ready, although the source has ended', async () => {
  const source = batched([start, text('a'), text('b')])
  const controller = new AbortController()
  const stream = abortable(controller.signal)(source)[Symbol.asyncIterator]()
  expect((await stream.next()).value).toEqual(start)
  controller.abort(new Error('enough'))
  expect(source.returned).toBe(1)
  await expect(stream.next()).rejects.toThrow('enough')
  expect((await stream.next()).done).toBe(true)
  expect(source.reads).toBe(1)
})

test('returns the source at once when the abort comes between two reads', async () => {
  const source = fed()
  source.give(text('a'))
  source.give(text('b'))
  const controller = new AbortController()
  const stream = abortable(controller.signal)(source)[Symbol.asyncIterator]()
  await stream.next()
  controller.abort(new Error('enough'))
  expect(source.returned).toBe(1)
  await expect(stream.next()).rejects.toThrow('enough')
  expect(source.reads).toBe(1)
})

test('an answer that comes in the same turn as the abort is withheld', async () => {
  const source = fed()
  const controller = new AbortController()
  const stream = abortable(controller.signal)(source)[Symbol.asyncIterator]()
  const pending = settled(stream.next())
  source.give(text('too late'))
  controller.abort(new Error('enough'))
  expect(await pending).toEqual({ error: controller.signal.reason })
})

test('reads nothing when the signal has aborted before the first read, and returns the source', async () => {
  for (const abortedAt of ['creation', 'iteration'] as const) {
    const source = fed()
    source.give(start)
    const controller = new AbortController()
    if (abortedAt === 'creation') controller.abort(new Error('enough'))
    const stream = abortable(controller.signal)(source)[Symbol.asyncIterator]()
    if (abortedAt === 'iteration') controller.abort(new Error('enough'))
    await expect(stream.next()).rejects.toThrow('enough')
    expect((await stream.next()).done).toBe(true)
    expect(source.reads).toBe(0)
    expect(source.returned).toBe(1)
  }
})

test('rejects one of the reads that were not waited for, and ends the others', async () => {
  const controller = new AbortController()
  const stream = abortable(controller.signal)(fed())[Symbol.asyncIterator]()
  const reads = [settled(stream.next()), settled(stream.next()), settled(stream.next())]
  controller.abort(new Error('enough'))
  const end = { value: { done: true, value: undefined } }
  expect(await Promise.all(reads)).toEqual([{ error: controller.signal.reason }, end, end])
})

test('an abort after the end changes nothing', async () => {
  const controller = new AbortController()
  expect(await gather(abortable(controller.signal)(from([start, text('a')])))).toHaveLength(2)
  const source = fed()
  const stream = abortable(controller.signal)(source)[Symbol.asyncIterator]()
  const pending = stream.next()
  await stream.return?.()
  controller.abort()
  expect((await pending).done).toBe(true)
  expect((await stream.next()).done).toBe(true)
  expect(source.returned).toBe(1)
})

test('what the source fails with behind the abort is no unhandled rejection, nor is a return that throws', async () => {
  const controller = new AbortController()
  let fail: (error: unknown) => void = () => {}
  const source: AsyncIterable<Chunk> = {
    [Symbol.asyncIterator]: () => ({
      next: () =>
        new Promise((_resolve, reject) => {
          fail = reject
        }),
      return() {
        throw new Error('cannot close')
      }
    })
  }
  const pending = settled(abortable(controller.signal)(source)[Symbol.asyncIterator]().next())
  controller.abort()
  fail(new Error('later'))
  expect(await pending).toEqual({ error: controller.signal.reason })
  await new Promise(setImmediate)
})

test('takes a stream of anything', async () => {
  const words = (async function* () {
    yield 'a'
    yield 'b'
  })()
  const all: string[] = await gather(abortable(new AbortController().signal)(words))
  expect(all).toEqual(['a', 'b'])
})

test('ten thousand streams on one signal leave no listener and no warning, however they end', async () => {
  const warnings: unknown[] = []
  const heard = (warning: unknown): void => void warnings.push(warning)
  process.on('warning', heard)
  const controller = new AbortController()
  const operator = abortable(controller.signal)
  const boom = new Error('boom')
  const endings = [
    () => gather(operator(from([start, text('a')]))),
    () => gather(operator(batched([start, text('a')]))),
    async () => {
      const stream = operator(batched([start]))[Symbol.asyncIterator]() as ChunkIterator
      await stream.nextBatch()
      expect(stream.ended).toBe(true) // and is not read again
    },
    async () => {
      for await (const _ of operator(from([start, text('a')]))) break
    },
    async () => {
      const source = fed()
      source.fail(boom)
      await expect(gather(operator(source))).rejects.toBe(boom)
    },
    async () => {
      const stream = operator(fed())[Symbol.asyncIterator]()
      const pending = stream.next()
      await stream.return?.()
      await pending
    },
    async () => void operator(fed())[Symbol.asyncIterator]()
  ]
  for (let count = 0; count < 10_000; count++) await endings[count % endings.length]?.()
  expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)

  // And as many at the same time, on a signal of the platform and on one of ours.
  using linked = linkAbort(controller.signal)
  for (const signal of [controller.signal, linked.signal]) {
    const streams = Array.from({ length: 5000 }, () => abortable(signal)(fed())[Symbol.asyncIterator]())
    const reads = streams.map((stream) => settled(stream.next()))
    expect(getEventListeners(signal, 'abort').length).toBeLessThanOrEqual(5001)
    for (const stream of streams.slice(0, 2500)) await stream.return?.()
    if (signal === linked.signal) controller.abort(boom)
    else for (const stream of streams) await stream.return?.()
    const results = await Promise.all(reads)
    expect(results.filter((result) => (result as { error?: unknown }).error === boom)).toHaveLength(
      signal === linked.signal ? 2500 : 0
    )
    expect(getEventListeners(signal, 'abort').length).toBeLessThanOrEqual(signal === linked.signal ? 0 : 1)
  }
  expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
  await new Promise(setImmediate)
  process.off('warning', heard)
  expect(warnings).toEqual([])
})

test('refuses anything but a signal at creation', () => {
  for (const wrong of [undefined, null, {}, new AbortController()]) {
    expect(() => abortable(wrong as AbortSignal)).toThrow(/write abortable\(controller.signal\)/)
  }
})
