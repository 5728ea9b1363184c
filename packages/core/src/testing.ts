import assert from 'node:assert/strict'
import { getEventListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import type { Provider } from './call.ts'
import { type Chunk, isContent } from './chunk.ts'
import { collect } from './collect.ts'
import { isMillraceError } from './error.ts'
import type { ChatRequest } from './request.ts'

/** What the suite needs of a provider under test, with a server behind it that the test runs. */
export interface ConformanceSubject {
  readonly provider: Provider
  /** Answered quickly, with some text and the same text each time. */
  readonly request: ChatRequest
  /** Answered by a stream of many pieces that lasts at least a second. */
  readonly slowRequest: ChatRequest
  /** Requests the server has seen so far. */
  requestsSeen(): number
  /** Answers the server is still writing. */
  openAnswers(): number
}

export interface ConformanceCase {
  readonly title: string
  run(): Promise<void>
}

/**
 * What every provider must do, as cases for any test runner.
 *
 * @example
 * for (const { title, run } of providerConformance(() => subject)) test(title, run)
 */
export function providerConformance(subject: () => ConformanceSubject): readonly ConformanceCase[] {
  return [
    {
      title: 'yields one start first, notes before content, one finish last, and usage at most once',
      run: async () => {
        const { provider, request } = subject()
        checkOrder(await gather(provider, request))
      }
    },
    {
      title: 'gives the same answer with stream: false',
      run: async () => {
        const { provider, request } = subject()
        const streamed = await collect(provider(request, { stream: true }))
        const plain = await collect(provider(request, { stream: false }))
        assert.equal(plain.text, streamed.text)
        assert.equal(plain.finish, streamed.finish)
        assert.notEqual(plain.text, '')
        checkOrder(await gather(provider, request, false))
      }
    },
    {
      title: 'sends nothing before the first chunk is asked for',
      run: async () => {
        const { provider, request, requestsSeen } = subject()
        const before = requestsSeen()
        const iterator = provider(request, {})[Symbol.asyncIterator]()
        await delay(50)
        assert.equal(requestsSeen(), before)
        await iterator.return?.()
      }
    },
    {
      title: 'sends nothing when the signal is aborted already, and rejects with its reason',
      run: async () => {
        const { provider, request, requestsSeen } = subject()
        const before = requestsSeen()
        const reason = new Error('stopped by the test')
        await assert.rejects(collect(provider(request, { signal: AbortSignal.abort(reason) })), (error) => error === reason)
        assert.equal(requestsSeen(), before)
      }
    },
    {
      title: 'rejects with the reason of an abort in the middle, closes the connection and leaves no listener',
      run: async () => {
        const { provider, slowRequest, openAnswers } = subject()
        const controller = new AbortController()
        const reason = new Error('stopped by the test')
        await assert.rejects(
          async () => {
            for await (const chunk of provider(slowRequest, { signal: controller.signal })) {
              if (isContent(chunk)) controller.abort(reason)
            }
          },
          (error) => error === reason
        )
        assert.equal(getEventListeners(controller.signal, 'abort').length, 0)
        await becomes(openAnswers, 0)
      }
    },
    {
      title: 'rejects with the reason of an abort while a read is pending, and closes the connection',
      run: async () => {
        const { provider, slowRequest, openAnswers } = subject()
        const controller = new AbortController()
        const reason = new Error('stopped by the test')
        const answer = collect(provider(slowRequest, { signal: controller.signal }))
        const rejected = assert.rejects(answer, (error) => error === reason)
        await delay(100)
        controller.abort(reason)
        await rejected
        assert.equal(getEventListeners(controller.signal, 'abort').length, 0)
        await becomes(openAnswers, 0)
      }
    },
    {
      title: 'closes the connection when the reader leaves the loop',
      run: async () => {
        const { provider, slowRequest, openAnswers } = subject()
        const controller = new AbortController()
        for await (const chunk of provider(slowRequest, { signal: controller.signal })) {
          if (isContent(chunk)) break
        }
        assert.equal(getEventListeners(controller.signal, 'abort').length, 0)
        await becomes(openAnswers, 0)
      }
    },
    {
      title: 'leaves no listener behind a whole answer',
      run: async () => {
        const { provider, request } = subject()
        const controller = new AbortController()
        await collect(provider(request, { signal: controller.signal }))
        assert.equal(getEventListeners(controller.signal, 'abort').length, 0)
      }
    },
    {
      title: 'changes neither the request nor the options',
      run: async () => {
        const { provider, request } = subject()
        await collect(provider(deepFreeze(structuredClone(request)), Object.freeze({})))
      }
    },
    {
      title: 'refuses a request it cannot send before anything is sent',
      run: async () => {
        const { provider, request, requestsSeen } = subject()
        const before = requestsSeen()
        const bad = { ...request, messages: [] }
        await assert.rejects(collect(provider(bad, {})), (error) => isMillraceError(error, 'invalid-request'))
        assert.equal(requestsSeen(), before)
      }
    },
    {
      title: 'keeps calls apart that run at the same time',
      run: async () => {
        const { provider, request } = subject()
        const alone = await collect(provider(request, {}))
        const together = await Promise.all(Array.from({ length: 8 }, () => collect(provider(request, {}))))
        for (const completion of together) assert.equal(completion.text, alone.text)
      }
    }
  ]
}

async function gather(provider: Provider, request: ChatRequest, stream = true): Promise<Chunk[]> {
  const chunks: Chunk[] = []
  for await (const chunk of provider(request, { stream })) chunks.push(chunk)
  return chunks
}

function checkOrder(chunks: readonly Chunk[]): void {
  const types = chunks.map((chunk) => chunk.type)
  assert.equal(types[0], 'start')
  assert.equal(types.filter((type) => type === 'start').length, 1)
  assert.equal(types.at(-1), 'finish')
  assert.equal(types.filter((type) => type === 'finish').length, 1)
  assert.ok(types.filter((type) => type === 'usage').length <= 1, 'usage comes at most once')
  const firstContent = chunks.findIndex(isContent)
  if (firstContent !== -1) assert.ok(types.lastIndexOf('note') < firstContent, 'notes come before the first content')
  for (const chunk of chunks) {
    if (chunk.type !== 'usage') continue
    const { input, output } = chunk.usage
    const parts = [input.uncached, input.cacheRead, input.cacheWrite, output.text, output.reasoning]
    assert.ok(
      parts.every((tokens) => Number.isSafeInteger(tokens) && tokens >= 0),
      'every part of usage is a whole number from 0 up'
    )
  }
}

/** The server learns of a closed socket a moment later than we close it. */
async function becomes(count: () => number, expected: number, withinMs = 2000): Promise<void> {
  const until = performance.now() + withinMs
  while (count() !== expected && performance.now() < until) await delay(5)
  assert.equal(count(), expected)
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) Object.values(Object.freeze(value)).forEach(deepFreeze)
  return value
}
