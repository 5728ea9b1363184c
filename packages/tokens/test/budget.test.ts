import { type ChatRequest, type Chunk, isMillraceError, type Provider } from '@millrace/core'
import fc from 'fast-check'
import { afterAll, expect, test } from 'vitest'
import { createTokenizers, type Tokenizers, withTokenBudget } from '../src/index.ts'
import { maxTokens } from '../src/message.ts'

const seed = 20_261_122
const tokenizers = createTokenizers()
afterAll(() => tokenizers.close())

interface Seen {
  request?: ChatRequest
  options?: object
  returned: boolean
}

function answering(seen: Seen): Provider {
  return (request, options) => {
    Object.assign(seen, { request, options })
    return (async function* () {
      try {
        yield { type: 'start', provider: 'test', model: request.model } as const
        yield { type: 'text', text: 'hello' } as const
        yield { type: 'finish', reason: 'stop' } as const
      } finally {
        seen.returned = true
      }
    })()
  }
}

async function gather(chunks: AsyncIterable<Chunk>): Promise<Chunk[]> {
  const all: Chunk[] = []
  for await (const chunk of chunks) all.push(chunk)
  return all
}

const long: ChatRequest = {
  model: 'gpt-4o',
  messages: [
    { role: 'user', content: 'word '.repeat(300) },
    { role: 'assistant', content: 'word '.repeat(300) },
    { role: 'user', content: 'And now?' }
  ]
}

test('passes a request that fits as the same object, without counting when its bytes prove that it fits', async () => {
  const untouchable: Tokenizers = {
    ...tokenizers,
    for: (model) => ({
      ...tokenizers.for(model),
      count: () => expect.unreachable(),
      countMessages: () => expect.unreachable()
    })
  }
  const seen: Seen = { returned: false }
  const options = {}
  const provider = withTokenBudget({ tokenizers: untouchable, contextWindow: 128_000 })(answering(seen))
  expect((await gather(provider(long, options))).map(({ type }) => type)).toEqual(['start', 'text', 'finish'])
  expect(seen.request).toBe(long)
  expect(seen.options).toBe(options)
})

test('counts where bytes prove nothing, and still passes what fits untouched', async () => {
  const seen: Seen = { returned: false }
  const provider = withTokenBudget({ tokenizers, contextWindow: 1000, reserve: 100 })(answering(seen))
  await gather(provider(long, {}))
  expect(seen.request).toBe(long)
})

test('fits what does not, keeps every other field, and says so right after the start', async () => {
  const seen: Seen = { returned: false }
  const provider = withTokenBudget({ tokenizers, contextWindow: 500, reserve: 100 })(answering(seen))
  const chunks = await gather(provider({ ...long, temperature: 0, extra: { user: 'u' } }, {}))
  expect(chunks.map(({ type }) => type)).toEqual(['start', 'note', 'text', 'finish'])
  expect(chunks[1]).toEqual({ type: 'note', from: 'tokens', facts: { dropped: 1, saved: expect.any(Number) } })
  expect(seen.request).toMatchObject({ model: 'gpt-4o', temperature: 0, extra: { user: 'u' } })
  expect(seen.request?.messages).toEqual(long.messages.slice(1))
})

test('keeps room for maxOutputTokens where the request has it, and for the schema of a structured answer', async () => {
  const seen: Seen = { returned: false }
  const provider = withTokenBudget({ tokenizers, contextWindow: 1000, reserve: 100 })(answering(seen))
  await gather(provider({ ...long, maxOutputTokens: 600 }, {}))
  expect(seen.request?.messages).toHaveLength(2)
  const schema = { type: 'object', description: 'word '.repeat(400) }
  await gather(provider({ ...long, responseFormat: { type: 'json-schema', name: 'answer', schema } }, {}))
  expect(seen.request?.messages).toHaveLength(2)
})

test('rejects at the first chunk, and not before, when there is no room', async () => {
  const seen: Seen = { returned: false }
  const provider = withTokenBudget({ tokenizers, contextWindow: 300 })(answering(seen))
  for (const request of [
    { ...long, maxOutputTokens: 400 },
    { ...long, messages: long.messages.slice(0, 1) }
  ]) {
    const iterator = provider(request, {})[Symbol.asyncIterator]()
    await expect(iterator.next()).rejects.toSatisfy((error) => isMillraceError(error, 'context-overflow'))
  }
  expect(seen.request).toBeUndefined()
})

test('returns the provider when the reader leaves, be it at the note, and asks nothing of it before the first chunk', async () => {
  const seen: Seen = { returned: false }
  const provider = withTokenBudget({ tokenizers, contextWindow: 500, reserve: 100 })(answering(seen))
  const unread = provider(long, {})[Symbol.asyncIterator]()
  await unread.return?.()
  expect((await unread.next()).done).toBe(true)
  expect(seen.request).toBeUndefined()
  for await (const chunk of provider(long, {})) if (chunk.type === 'note') break
  expect(seen.returned).toBe(true)
})

test('refuses a request no provider could answer, with the path, before it counts or asks', async () => {
  const seen: Seen = { returned: false }
  const provider = withTokenBudget({ tokenizers, contextWindow: 500 })(answering(seen))
  const cyclic: Record<string, unknown> = { type: 'object' }
  cyclic['properties'] = { a: cyclic, b: cyclic }
  const wrong: [unknown, string][] = [
    [null, ''],
    [{ model: 'gpt-4o' }, 'messages'],
    [{ ...long, messages: [null] }, 'messages[0]'],
    [{ ...long, tools: [{ name: 'f', parameters: cyclic }] }, 'tools[0].parameters.properties.a']
  ]
  for (const [request, path] of wrong) {
    const iterator = provider(request as ChatRequest, {})[Symbol.asyncIterator]()
    const error = await iterator.next().catch((thrown: unknown) => thrown)
    expect(isMillraceError(error, 'invalid-request') && error.details.path).toBe(path)
  }
  expect(seen.request).toBeUndefined()
})

test('refuses a cyclic schema at once in a bare count, too', () => {
  const cyclic: Record<string, unknown> = { type: 'object' }
  cyclic['properties'] = { a: cyclic, b: cyclic }
  const startedAt = performance.now()
  const count = (): number => tokenizers.for('gpt-4o').countMessages(long.messages, { tools: [{ name: 'f', parameters: cyclic as never }] })
  expect(count).toThrow('refers back to itself (a cycle)')
  expect(performance.now() - startedAt).toBeLessThan(2000)
})

test('refuses wrong options at creation', () => {
  for (const options of [{ contextWindow: 0 }, { contextWindow: Number.NaN }, { contextWindow: 10, reserve: 10 }]) {
    expect(() => withTokenBudget({ tokenizers, ...options })).toThrow(TypeError)
  }
})

test(`the proof by bytes never allows what counting refuses (seed ${seed})`, () => {
  const part = fc.string({ unit: 'grapheme', maxLength: 50 })
  const call = fc.record({ id: fc.constant('a'), name: part, arguments: part })
  const message = fc.oneof(
    fc.record({ role: fc.constant('user' as const), content: part, name: part }),
    fc.record({ role: fc.constant('assistant' as const), content: part, toolCalls: fc.array(call) }),
    fc.record({ role: fc.constant('tool' as const), toolCallId: fc.constant('a'), content: part })
  )
  const property = fc.record({ description: part, title: part, enum: fc.array(part) })
  const properties = fc.dictionary(part, property)
  const tool = fc.record({ name: part, description: part, parameters: fc.record({ properties }) })
  fc.assert(
    fc.property(fc.array(message), fc.array(tool, { maxLength: 3 }), (messages, tools) => {
      const most = maxTokens(messages, { tools })
      for (const model of ['gpt-4o', 'gpt-4', 'o3']) {
        expect(tokenizers.for(model).countMessages(messages, { tools })).toBeLessThanOrEqual(most)
      }
    }),
    { seed, numRuns: 300 }
  )
})
