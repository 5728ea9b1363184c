import { getEventListeners } from 'node:events'
import { type ChatRequest, type Chunk, isMillraceError, type Message, nextBatch, type Provider } from '@millrace/core'
import fc from 'fast-check'
import { afterAll, expect, test } from 'vitest'
import { type TokenBudgetOptions, withTokenBudget } from '../src/budget.ts'
import { maxTokens } from '../src/message.ts'
import { createTokenizers, type Tokenizers } from '../src/tokenizer.ts'
import { since } from './cpu.ts'

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
  const startedAt = process.cpuUsage()
  const count = (): number =>
    tokenizers.for('gpt-4o').countMessages(long.messages, { tools: [{ name: 'f', parameters: cyclic as never }] })
  expect(count).toThrow('refers back to')
  expect(since(startedAt)).toBeLessThan(2000)
})

test('asks a function for the window of each model, and passes what it does not know', async () => {
  const seen: Seen = { returned: false }
  const windows: Record<string, number | null> = { 'gpt-4o': 500, unknown: null, wrong: -1 }
  const provider = withTokenBudget({ tokenizers, contextWindow: (model) => windows[model], reserve: 100 })(answering(seen))
  await gather(provider(long, {}))
  expect(seen.request?.messages).toHaveLength(2)
  for (const model of ['unknown', 'other']) {
    const request = { ...long, model }
    await gather(provider(request, {}))
    expect(seen.request).toBe(request)
  }
  await expect(gather(provider({ ...long, model: 'wrong' }, {}))).rejects.toThrow(
    'what contextWindow gives for "wrong" must be a whole number'
  )
  const small = withTokenBudget({ tokenizers, contextWindow: () => 50, reserve: 100 })(answering(seen))
  await expect(gather(small(long, {}))).rejects.toSatisfy((error) => isMillraceError(error, 'context-overflow'))
})

test('compresses first when asked to, fits what is left, and tells what both saved', async () => {
  const seen: Seen = { returned: false }
  const messages: Message[] = [
    { role: 'user', content: `word${' word'.repeat(299)}` },
    { role: 'assistant', content: `Well    then.${' word'.repeat(100)}` },
    { role: 'user', content: 'And     now,     what     else?' }
  ]
  const tokenizer = tokenizers.for('gpt-4o')
  const saved = (): number => tokenizer.countMessages(messages) - tokenizer.countMessages(seen.request?.messages ?? [])
  const factsOf = async (options: Partial<TokenBudgetOptions>, request: ChatRequest): Promise<unknown> => {
    const provider = withTokenBudget({ tokenizers, contextWindow: 10_000, compress: true, ...options })(answering(seen))
    return (await gather(provider(request, {}))).find((chunk) => chunk.type === 'note')?.facts
  }
  const request = { ...long, messages }
  expect(await factsOf({}, request)).toEqual({ dropped: 0, saved: saved(), compressed: 2 })
  expect(seen.request?.messages[2]?.content).toBe('And now, what else?')
  expect(await factsOf({ contextWindow: 300, reserve: 100 }, request)).toEqual({ dropped: 1, saved: saved(), compressed: 2 })
  expect(saved()).toBeGreaterThan(300)
  expect(await factsOf({ contextWindow: () => null, compress: { roles: ['user'] } }, request)).toEqual({
    dropped: 0,
    saved: saved(),
    compressed: 1
  })
  const plain = { ...long, messages: [{ role: 'user' as const, content: 'Nothing to do.' }] }
  expect(await factsOf({}, plain)).toBeUndefined()
  expect(seen.request).toBe(plain)
})

test('extrapolates what was saved where it is more than 64 KiB', async () => {
  const seen: Seen = { returned: false }
  const history = Array.from(
    { length: 400 },
    (_, index): Message => ({ role: index % 2 === 0 ? 'user' : 'assistant', content: `${index} ${'word '.repeat(100)}` })
  )
  const messages = [...history, ...long.messages.slice(2)]
  const provider = withTokenBudget({ tokenizers, contextWindow: 8000 })(answering(seen))
  const note = (await gather(provider({ ...long, messages }, {})))[1]
  const tokenizer = tokenizers.for('gpt-4o')
  const saved = tokenizer.countMessages(messages) - tokenizer.countMessages(seen.request?.messages ?? [])
  const told = note?.type === 'note' ? Number(note.facts['saved']) : 0
  expect(told).not.toBe(saved)
  expect(Math.abs(told / saved - 1)).toBeLessThan(0.01)
})

test('puts a summary in the place of what was dropped, and hands on the error of the summarizer', async () => {
  const seen: Seen = { returned: false }
  const answer = answering(seen)
  const options = { tokenizers, contextWindow: 500, reserve: 100 }
  const provider = withTokenBudget({ ...options, summarize: async () => 'Earlier: words.' })(answer)
  const chunks = await gather(provider(long, {}))
  const facts = { dropped: 1, saved: expect.any(Number), summary: 'whole' }
  expect(chunks[1]).toEqual({ type: 'note', from: 'tokens', facts })
  expect(seen.request?.messages).toEqual([{ role: 'user', content: 'Earlier: words.' }, ...long.messages.slice(1)])

  const failure = new Error('no model')
  delete seen.request
  const failing = withTokenBudget({ ...options, summarize: () => Promise.reject(failure) })(answer)
  const iterator = failing(long, {})[Symbol.asyncIterator]()
  await expect(iterator.next()).rejects.toBe(failure)
  expect(await iterator.next()).toEqual({ done: true, value: undefined })
  expect(seen.request).toBeUndefined()
})

test('ends the summarizer with the call, or when the reader leaves while it works, and then asks nobody', async () => {
  const seen: Seen = { returned: false }
  const signals: AbortSignal[] = []
  const summarize = (_: unknown, { signal }: { readonly signal?: AbortSignal | undefined }): Promise<string> => {
    if (signal !== undefined) signals.push(signal)
    return new Promise(() => {})
  }
  const provider = withTokenBudget({ tokenizers, contextWindow: 500, reserve: 100, summarize })(answering(seen))

  const reason = new Error('enough')
  const controller = new AbortController()
  const called = provider(long, { signal: controller.signal })[Symbol.asyncIterator]().next()
  controller.abort(reason)
  await expect(called).rejects.toBe(reason)
  expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)

  const { signal } = new AbortController()
  const left = provider(long, { signal })[Symbol.asyncIterator]()
  const reads = [left.next(), left.next()]
  expect(await left.return?.()).toEqual({ done: true, value: undefined })
  expect(await Promise.all(reads)).toEqual([
    { done: true, value: undefined },
    { done: true, value: undefined }
  ])
  expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  expect(signals.map(({ aborted }) => aborted)).toEqual([true, true])
  expect(seen.request).toBeUndefined()
})

test('starts once for reads side by side, and hands chunks on in batches', async () => {
  const seen: Seen = { returned: false }
  let calls = 0
  const provider = withTokenBudget({ tokenizers, contextWindow: 500, reserve: 100 })((request, options) => {
    calls++
    return answering(seen)(request, options)
  })
  const iterator = provider(long, {})[Symbol.asyncIterator]()
  const reads = await Promise.all(Array.from({ length: 6 }, () => iterator.next()))
  expect(reads.map(({ value }) => value?.type)).toEqual(['start', 'note', 'text', 'finish', undefined, undefined])
  const batches = provider(long, {})[Symbol.asyncIterator]()
  expect((await nextBatch(batches))?.map(({ type }) => type)).toEqual(['start', 'note'])
  expect((await nextBatch(batches))?.map(({ type }) => type)).toEqual(['text'])
  expect(calls).toBe(2)
})

test('refuses wrong options at creation', () => {
  const wrong: object[] = [
    { contextWindow: 0 },
    { contextWindow: Number.NaN },
    { contextWindow: '8000' },
    { reserve: 10 },
    { reserve: -1 },
    { drop: 'newest' },
    { slack: 2 },
    { summarize: 'yes' },
    { compress: { role: 'user' } },
    { compress: { roles: ['system'] } },
    { compress: 'on' },
    { compres: true },
    { tokenizers: {} }
  ]
  for (const options of wrong) {
    expect(() => withTokenBudget({ tokenizers, contextWindow: 10, ...options } as TokenBudgetOptions)).toThrow(TypeError)
  }
})

test(`the proof by bytes never allows what counting refuses (seed ${seed})`, () => {
  const part = fc.string({ unit: 'grapheme', maxLength: 50 })
  const name = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 50 })
  const call = fc.record({ id: fc.constant('a'), name, arguments: part })
  const message = fc.oneof(
    fc.record({ role: fc.constant('user' as const), content: part, name: part }),
    fc.record({ role: fc.constant('assistant' as const), content: part, toolCalls: fc.array(call) }),
    fc.record({ role: fc.constant('tool' as const), toolCallId: fc.constant('a'), content: part })
  )
  const property = fc.record({ description: part, title: part, enum: fc.array(part) })
  const properties = fc.dictionary(part, property)
  const tool = fc.record({ name, description: part, parameters: fc.record({ properties }) })
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
