import { type Chunk, MillraceError, parseSSE } from '@millrace/core'
import { describe, expect, test } from 'vitest'
import { type OpenAIEventsOptions, openaiEvents } from '../src/openai-events.ts'

function written(chunks: Iterable<Chunk>, options?: OpenAIEventsOptions): string {
  const writer = openaiEvents(options).begin()
  let text = ''
  for (const chunk of chunks) text += writer.write(chunk)
  return text + writer.end()
}

async function events(text: string): Promise<string[]> {
  const data: string[] = []
  for await (const event of parseSSE(bytes([Buffer.from(text)]))) data.push(event.data)
  return data
}

async function* bytes(pieces: Uint8Array[]): AsyncGenerator<Uint8Array, void, undefined> {
  yield* pieces
}

const usage = {
  input: { uncached: 5, cacheRead: 3, cacheWrite: 0 },
  output: { text: 4, reasoning: 2 },
  estimated: false,
  billed: true
}
const start: Chunk = { type: 'start', provider: 'openai', model: 'gpt-x', id: 'chatcmpl-7' }
const finish: Chunk = { type: 'finish', reason: 'stop' }

test('writes every kind of chunk where OpenAI has its place, and the rest nowhere', async () => {
  const chunks: Chunk[] = [
    start,
    { type: 'note', from: 'cache', facts: { state: 'miss' } },
    { type: 'reasoning', text: 'hm' },
    { type: 'reasoning', text: '', signature: 's' },
    { type: 'text', text: 'a "quoted"\nline \u2028' },
    { type: 'refusal', text: 'no' },
    { type: 'tool-call', index: 1, id: 'call-1', name: 'look', arguments: '{"a' },
    { type: 'tool-call', index: 1, arguments: '":1}' },
    { type: 'extra', name: 'logprobs', value: { content: [] } },
    { type: 'extra', name: 'annotations', value: [1] },
    { type: 'extra', name: 'citations', value: ['x'] },
    { type: 'extra', name: 'block', value: { of: 'somebody else' } },
    { type: 'usage', usage },
    { type: 'finish', reason: 'tool-calls' }
  ]
  const data = await events(written(chunks, { includeUsage: true }))
  expect(data.pop()).toBe('[DONE]')
  const parsed = data.map((line) => JSON.parse(line) as Record<string, unknown>)
  for (const { id, object, created, model } of parsed) {
    expect([id, object, model]).toEqual(['chatcmpl-7', 'chat.completion.chunk', 'gpt-x'])
    expect(Math.abs((created as number) * 1000 - Date.now())).toBeLessThan(60_000)
  }
  const choice = (delta: object, more: object = {}): unknown => [
    { index: 0, delta, logprobs: null, finish_reason: null, ...more }
  ]
  expect(parsed.map(({ choices }) => choices)).toEqual([
    choice({ role: 'assistant', content: '', refusal: null }),
    choice({ reasoning_content: 'hm' }),
    choice({ content: 'a "quoted"\nline \u2028' }),
    choice({ refusal: 'no' }),
    choice({ tool_calls: [{ index: 1, id: 'call-1', type: 'function', function: { name: 'look', arguments: '{"a' } }] }),
    choice({ tool_calls: [{ index: 1, function: { arguments: '":1}' } }] }),
    choice({}, { logprobs: { content: [] } }),
    choice({ annotations: [1] }),
    [],
    choice({}, { finish_reason: 'tool_calls' }),
    []
  ])
  expect(parsed[8]).toMatchObject({ citations: ['x'] })
  expect(parsed[10]).toMatchObject({
    usage: {
      prompt_tokens: 8,
      completion_tokens: 6,
      total_tokens: 14,
      prompt_tokens_details: { cached_tokens: 3 },
      completion_tokens_details: { reasoning_tokens: 2 }
    }
  })
})

test('tells usage only when asked, and an id of its own where the provider has none', async () => {
  const text = written([{ type: 'start', provider: 'p', model: 'm' }, { type: 'usage', usage }, finish])
  expect(text).not.toContain('prompt_tokens')
  const ids = (await events(text)).slice(0, -1).map((line) => (JSON.parse(line) as { id: string }).id)
  expect(ids[0]).toMatch(/^chatcmpl-[\da-f-]{36}$/)
  expect(new Set(ids).size).toBe(1)
})

test('takes half of a surrogate pair through UTF-8 unharmed', async () => {
  const data = await events(written([start, { type: 'text', text: 'a\ud83d' }, { type: 'text', text: '\ude00b' }, finish]))
  const texts = data
    .slice(1, 3)
    .map((line) => (JSON.parse(line) as { choices: { delta: { content: string } }[] }).choices[0]?.delta.content)
  expect(texts.join('')).toBe('a😀b')
})

test.each([
  ['stop', 'stop'],
  ['length', 'length'],
  ['tool-calls', 'tool_calls'],
  ['content-filter', 'content_filter'],
  ['cut', 'length'],
  ['other', 'length']
] as const)('tells the reason %s as %s', (reason, told) => {
  expect(written([start, { type: 'finish', reason }])).toContain(`"finish_reason":"${told}"`)
})

test('fills events of every kind up to a multiple of so many bytes, so that their size tells less of the words', async () => {
  const words = ['a', 'ein längeres Wort', '😀', 'x'.repeat(300)]
  const citations: Chunk = { type: 'extra', name: 'citations', value: ['x'] }
  const chunks: Chunk[] = [start, ...words.map((word): Chunk => ({ type: 'text', text: word })), citations]
  const text = written([...chunks, { type: 'usage', usage }, finish], { padToBytes: 256, includeUsage: true })
  const sizes = text.split(/(?<=\n\n)/).map((event) => Buffer.byteLength(event))
  expect(sizes.pop()).toBe('data: [DONE]\n\n'.length)
  expect(sizes.map((size) => size % 256)).toEqual(sizes.map(() => 0))
  expect(new Set(sizes.slice(1, 4)).size).toBe(1)
  const error = openaiEvents({ padToBytes: 256 }).begin().fail(new Error('x'))
  expect(Buffer.byteLength(error) % 256).toBe(0)
  expect(await events(text + error)).toHaveLength(sizes.length + 2)
  expect(JSON.parse(error.slice(6))).toMatchObject({ error: { code: 'internal_error' } })
})

describe('a stream that broke', () => {
  test('ends with the error in the shape of OpenAI, in fixed words', async () => {
    const error = new MillraceError('overloaded', 'http://10.0.0.1 with key sk-secret is overloaded', {
      details: { status: 529, retryAfterMs: 1500 },
      cause: new Error('sk-secret'),
      providerMessage: 'you asked: my secret prompt'
    })
    const [data] = await events(openaiEvents().begin().fail(error))
    expect(JSON.parse(data ?? '')).toEqual({
      error: { message: 'the provider is overloaded', type: 'server_error', param: null, code: 'overloaded' }
    })
  })

  test('tells nothing of an error that is not ours', () => {
    const text = openaiEvents().begin().fail(new Error('sk-secret'))
    expect(text).toContain('"code":"internal_error"')
    expect(text).not.toContain('sk-secret')
  })
})

test('refuses a finish reason that is none of the contract', () => {
  const chunk = { type: 'finish', reason: 'tool_calls' } as unknown as Chunk
  expect(() => openaiEvents().begin().write(chunk)).toThrow('a finish chunk that is not one of @millrace/core')
})

test('each stream has a writer of its own', () => {
  const format = openaiEvents()
  const [one, other] = [format.begin(), format.begin()]
  one.write(start)
  expect(other.write({ type: 'text', text: 'x' })).not.toContain('gpt-x')
})

test.each([
  [{ includeUsage: 1 }, 'includeUsage must be true or false'],
  [{ padToBytes: -1 }, 'padToBytes must be a whole number'],
  [{ padding: 3 }, 'has no option "padding"']
])('refuses %j', (options, message) => {
  expect(() => openaiEvents(options as never)).toThrow(message)
})
