import { getEventListeners } from 'node:events'
import { type CallOptions, type Chunk, onAbort, type Provider } from '@millrace/core'
import { expect, test } from 'vitest'
import { coalesce, limitTokens, onlyText, withOperators } from '../src/index.ts'
import { finish, gather, start, text } from './source.ts'

const request = { model: 'test', messages: [{ role: 'user' as const, content: 'hi' }] }

/** Streams words until its signal aborts; then it is stuck no more. */
function endless(log: string[]): Provider {
  return async function* (_request, { signal }: CallOptions) {
    log.push('begun')
    try {
      yield start
      for (let count = 0; count < 3; count++) yield text('word ')
      await new Promise((_resolve, reject) => onAbort(signal, reject))
    } finally {
      log.push(signal?.aborted === true ? 'aborted' : 'returned')
    }
  }
}

test('sends each answer through the operators, the first nearest to the provider', async () => {
  const provider: Provider = async function* () {
    yield* [start, text('a'), text('b'), finish]
  }
  const layered = withOperators(coalesce({ minChars: 2 }), limitTokens(1, counting))(provider)
  expect((await gather(layered(request, {}))).map((chunk) => (chunk.type === 'text' ? chunk.text : chunk.type))).toEqual([
    'start',
    'a',
    'usage',
    'finish'
  ])
})

test('begins nothing before the first read, and nothing at all when left before it', async () => {
  const log: string[] = []
  const stream = withOperators(coalesce())(endless(log))(request, {})[Symbol.asyncIterator]()
  await stream.return?.()
  expect((await stream.next()).done).toBe(true)
  expect(log).toEqual([])
})

test('aborts a generator that is busy reading when the reader leaves', async () => {
  const log: string[] = []
  const controller = new AbortController()
  const stream = withOperators(coalesce({ minChars: 100, maxDelayMs: 5 }))(endless(log))(request, { signal: controller.signal })
  for await (const chunk of stream) if (chunk.type === 'text') break // the timer gave it: the read behind is pending
  await new Promise(setImmediate)
  expect(log).toEqual(['begun', 'aborted'])
  expect(controller.signal.aborted).toBe(false)
  expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
})

test('aborts the provider with the chunk that crosses a limit', async () => {
  const log: string[] = []
  const stream = withOperators(limitTokens(3, counting))(endless(log))(request, {})[Symbol.asyncIterator]()
  await stream.next()
  await stream.next()
  await new Promise(setImmediate)
  expect(log).toEqual(['begun', 'aborted'])
  await stream.return?.()
})

test("rejects with the caller's reason, unwrapped, after what was held", async () => {
  const controller = new AbortController()
  const reason = new Error('enough')
  const got: Chunk[] = []
  const stream = withOperators(coalesce({ minChars: 100, maxDelayMs: 60_000 }))(endless([]))(request, {
    signal: controller.signal
  })
  setTimeout(() => controller.abort(reason), 20)
  await expect(async () => {
    for await (const chunk of stream) got.push(chunk)
  }).rejects.toBe(reason)
  expect(got.at(-1)).toEqual(text('word word word '))
  expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
})

test('leaves no listener on a signal that outlives a thousand calls, and does not change the options', async () => {
  const provider: Provider = async function* (_, options) {
    expect(options.tenant).toBe('t')
    yield* [start, text('a'), finish]
  }
  const { signal } = new AbortController()
  const options = Object.freeze({ signal, tenant: 't' })
  for (let call = 0; call < 1000; call++) await gather(withOperators(coalesce())(provider)(request, options))
  expect(getEventListeners(signal, 'abort')).toHaveLength(0)
})

test('rejects when the provider throws instead of answering', async () => {
  const boom = new Error('boom')
  const { signal } = new AbortController()
  const provider: Provider = () => {
    throw boom
  }
  await expect(gather(withOperators()(provider)(request, { signal }))).rejects.toBe(boom)
  expect(getEventListeners(signal, 'abort')).toHaveLength(0)
})

function counting(): { push(text: string): number } {
  let count = 0
  return {
    push(piece) {
      count += piece.length
      return count
    }
  }
}

test('says at the call that an operator was not made: coalesce in place of coalesce()', () => {
  const provider: Provider = () => gather as never
  expect(() => withOperators(coalesce as never)(provider)(request, {})).toThrow(/write coalesce\(\)/)
  expect(() => withOperators(onlyText as never)(provider)(request, {})).toThrow(/write onlyText\(\), not onlyText/)
  expect(() => withOperators((() => 5) as never)(provider)(request, {})).toThrow(/that give an async iterable/)
})

test('fails by a rejection when the provider throws instead of answering, or its return does', async () => {
  const boom = new Error('boom')
  const throws = (): never => {
    throw boom
  }
  const broken: readonly Provider[] = [
    throws,
    () => ({ [Symbol.asyncIterator]: throws }),
    () => ({ [Symbol.asyncIterator]: () => ({ next: throws }) }),
    () => ({ [Symbol.asyncIterator]: () => ({ next: async () => ({ done: false, value: text('a b') }), return: throws }) })
  ]
  for (const provider of broken) {
    await expect(gather(withOperators(coalesce(), limitTokens(1, counting))(provider)(request, {}))).rejects.toBe(boom)
  }
})
