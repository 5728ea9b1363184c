import { fork } from 'node:child_process'
import { once } from 'node:events'
import type { Adapter, AnswerStream } from '@millrace/adapter'
import type { Chunk } from '@millrace/core'
import { coalesce, limitTokens, type Operator, onlyText } from '@millrace/streaming'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { adapterAt, now, request, type StreamServer, startStreamServer } from './stream-server.ts'

let server: StreamServer
beforeAll(async () => {
  server = await startStreamServer()
})
afterAll(() => server[Symbol.asyncDispose]())

/** Beyond what a bare socket that is destroyed needs to be seen. */
const atOnceMs = 50

const characters = (): { push(text: string): number } => {
  let count = 0
  return { push: (text) => (count += text.length) }
}
const operators: readonly Operator<Chunk>[] = [coalesce({ minChars: 8 }), limitTokens(1e6, characters)]

/** Where the operators stand: nowhere, in the adapter, or around its stream. */
const surroundings: Readonly<Record<string, (stream: AnswerStream) => AsyncIterable<unknown>>> = {
  'the stream': (stream) => stream,
  'the stream of an adapter with operators': (stream) => stream,
  'operators around the stream': (stream) =>
    onlyText()(operators.reduce<AsyncIterable<Chunk>>((source, operator) => operator(source), stream))
}

/** Each gives the time at which the reader was gone. */
const ways: Readonly<Record<string, (source: AsyncIterable<unknown>) => Promise<number>>> = {
  async 'breaks the loop of'(source) {
    let left = 0
    for await (const _ of source) {
      left = now()
      break
    }
    return left
  },
  async 'throws in the loop of'(source) {
    let left = 0
    const looped = (async () => {
      for await (const _ of source) {
        left = now()
        throw new Error('mine')
      }
    })()
    await expect(looped).rejects.toThrow('mine')
    return left
  },
  async 'returns during a read of'(source) {
    const iterator = source[Symbol.asyncIterator]()
    await iterator.next()
    const pending = (async () => {
      while ((await iterator.next()).done !== true);
    })()
    await new Promise((resolve) => setTimeout(resolve, 60))
    const left = now()
    await iterator.return?.()
    await pending
    return left
  }
}

const cases = Object.keys(ways).flatMap((way) =>
  Object.keys(surroundings).flatMap((around) => ['no-more', 'paced', 'flood'].map((path) => ({ way, around, path })))
)

describe('a reader', () => {
  // A read of a flood never waits long enough to be left.
  test.each(cases.filter(({ way, path }) => way !== 'returns during a read of' || path === 'no-more'))(
    'that $way $around ($path) is seen by the provider at once',
    async ({ way, around, path }) => {
      await using adapter: Adapter = adapterAt(`${server.url}/${path}`, {
        operators: around === 'the stream of an adapter with operators' ? operators : []
      })
      const beyond: number[] = []
      // The middle of several tries: one alone may meet a moment in which the machine does something else.
      for (let index = 0; index < 3; index++) {
        const before = await server.seen()
        const source = (surroundings[around] as (typeof surroundings)[string])(adapter.stream(request))
        const left = await (ways[way] as (typeof ways)[string])(source)
        beyond.push((await server.untilClosed(before, left)) - (await server.bare()))
      }
      expect(beyond.toSorted((a, b) => a - b)[1]).toBeLessThan(atOnceMs)
      expect(adapter.stats().running).toBe(0)
    }
  )

  test.each(['forgetting', 'forgetting, through operators'])(
    'that lets go of the stream without a word is seen by the provider once it is collected: %s',
    async (how) => {
      const before = await server.seen()
      const child = fork(new URL('stream-reader-main.ts', import.meta.url), [how, `${server.url}/paced`], {
        execArgv: ['--conditions=@millrace/source', '--expose-gc']
      })
      const exited = once(child, 'exit')
      await Promise.race([once(child, 'message'), exited])
      expect((await server.seen()).connections).toBe(before.connections + 1)
      const ms = await server.untilClosed(before, now())
      const stillRunning = child.connected
      child.disconnect()
      await exited
      expect(stillRunning).toBe(true)
      expect(ms).toBeLessThan(5000)
    }
  )

  test('that holds the stream and reads no further is ended by the total deadline', async () => {
    const totalMs = 300
    await using adapter = adapterAt(`${server.url}/paced`, { timeouts: { totalMs } })
    const before = await server.seen()
    const stream = adapter.stream(request)
    const startedAt = now()
    await stream.next()
    const bareTimer = new Promise<number>((resolve) => setTimeout(() => resolve(now() - startedAt), totalMs))
    const ms = await server.untilClosed(before, startedAt)
    expect(ms).toBeGreaterThan(totalMs - 20)
    expect(ms - (await bareTimer)).toBeLessThan(200)
    const { error } = await stream.completion().then(
      () => expect.fail('it should have failed'),
      (thrown: unknown) => ({ error: thrown })
    )
    expect(error).toMatchObject({ code: 'timeout', details: { clock: 'total' } })
  })
})
