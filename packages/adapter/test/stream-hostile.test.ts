import { createAdapter } from '@millrace/adapter'
import { anthropic } from '@millrace/adapter/anthropic'
import { openai } from '@millrace/adapter/openai'
import { assemble, type Chunk, type Completion, collect, isMillraceError, nextBatch, type Provider } from '@millrace/core'
import { heapAfterGc } from '@millrace/testkit'
import { describe, expect, test } from 'vitest'
import { bytesSend } from './bytes-send.ts'

const request = { model: 'm', messages: [{ role: 'user' as const, content: 'x' }] }
type Api = 'openai' | 'anthropic'

function providerOf(api: Api, pieces: Iterable<Uint8Array>): Provider {
  const make = api === 'openai' ? openai : anthropic
  return make({ apiKey: 'k', baseURL: 'http://127.0.0.1:1' }).connect(bytesSend({ batches: batchesOf(pieces) }))
}

function* batchesOf(pieces: Iterable<Uint8Array>): Generator<readonly Uint8Array[]> {
  for (const piece of pieces) yield [piece]
}

const event = (body: object): Uint8Array => Buffer.from(`data: ${JSON.stringify(body)}\n\n`)
const ask = (api: Api, events: readonly object[]): Promise<Completion> => collect(providerOf(api, events.map(event))(request, {}))

const choice = (delta: object, finish: string | null = null): object => ({
  model: 'm',
  choices: [{ index: 0, delta, finish_reason: finish }]
})
const calls = (...toolCalls: object[]): object => choice({ tool_calls: toolCalls })
const start = (usage: object = {}): object => ({ type: 'message_start', message: { id: '1', model: 'm', usage } })
const block = (index: number, content: object): object => ({ type: 'content_block_start', index, content_block: content })
const stop = { type: 'message_delta', delta: { stop_reason: 'tool_use' }, usage: { output_tokens: 1 } }

describe('tool calls without an index', () => {
  test('are calls of their own where each has a name', async () => {
    const two = [{ function: { name: 'a', arguments: '{"x":1}' } }, { function: { name: 'b', arguments: '{"y":2}' } }]
    const together = await ask('openai', [calls(...two), choice({}, 'tool_calls')])
    const apart = await ask('openai', [...two.map((each) => calls(each)), choice({}, 'tool_calls')])
    for (const { toolCalls } of [together, apart]) {
      expect(toolCalls.map(({ name, arguments: text }) => [name, text])).toEqual([
        ['a', '{"x":1}'],
        ['b', '{"y":2}']
      ])
      expect(new Set(toolCalls.map(({ id }) => id)).size).toBe(2)
    }
  })

  test('go on with the last one where there is neither name nor id', async () => {
    const pieces = [
      { function: { name: 'a', arguments: '' } },
      { function: { arguments: '{"x"' } },
      { function: { arguments: ':1}' } }
    ]
    const { toolCalls } = await ask('openai', [...pieces.map((each) => calls(each)), choice({}, 'tool_calls')])
    expect(toolCalls).toMatchObject([{ name: 'a', arguments: '{"x":1}' }])
  })

  test('whose id comes behind the name are one call', async () => {
    const late = [
      { function: { name: 'f', arguments: '' } },
      { id: 'a', function: { arguments: '{"x"' } },
      { id: 'a', function: { arguments: ':1}' } }
    ]
    const indexed = [
      { index: 0, function: { name: 'f', arguments: '{"x"' } },
      { index: 0, id: 'a', function: {} },
      { id: 'a', function: { arguments: ':1}' } }
    ]
    for (const pieces of [late, indexed]) {
      const { toolCalls } = await ask('openai', [...pieces.map((each) => calls(each)), choice({}, 'tool_calls')])
      expect(toolCalls).toEqual([{ id: 'a', name: 'f', arguments: '{"x":1}' }])
    }
  })

  test('are told apart by their names, and by whole arguments where these are the same', async () => {
    const named = (name: string, text: string): object => calls({ function: { name, arguments: text } })
    const told = async (...events: object[]): Promise<string[]> =>
      (await ask('openai', [...events, choice({}, 'tool_calls')])).toolCalls.map(({ name, arguments: text }) => name + text)
    expect(await told(named('f', '{"x"'), named('f', ':1}'))).toEqual(['f{"x":1}'])
    expect(await told(named('f', '{"x":"}"'), named('f', '}'), named('f', '{}'))).toEqual(['f{"x":"}"}', 'f{}'])
    expect(await told(named('now', ''), named('today', ''))).toEqual(['now', 'today'])
  })

  test('may have ids of any length', async () => {
    const id = `call_1__thought__${'A'.repeat(20_000)}`
    const pieces = [
      { id, function: { name: 'f', arguments: '{' } },
      { id, function: { arguments: '}' } }
    ]
    const { toolCalls } = await ask('openai', [...pieces.map((each) => calls(each)), choice({}, 'tool_calls')])
    expect(toolCalls).toEqual([{ id, name: 'f', arguments: '{}' }])
  })

  test('take a number that is free beside those that have one', async () => {
    const first = calls({ index: 1, id: 'a', function: { name: 'a', arguments: '1' } })
    const second = calls({ id: 'b', function: { name: 'b', arguments: '2' } })
    const { toolCalls } = await ask('openai', [first, second, choice({}, 'tool_calls')])
    expect(toolCalls.map(({ id, arguments: text }) => id + text).toSorted()).toEqual(['a1', 'b2'])
  })
})

describe('what a server leaves open', () => {
  test("is closed at the end: a tool's input that stands in its block is not lost", async () => {
    const tool = { type: 'tool_use', id: 'a', name: 'f', input: { x: 1 } }
    const { toolCalls } = await ask('anthropic', [start(), block(0, tool), stop, { type: 'message_stop' }])
    expect(toolCalls).toEqual([{ id: 'a', name: 'f', arguments: '{"x":1}' }])
  })
})

/** What is in memory behind so many events, with the stream still open. */
async function growth(api: Api, first: object, next: (index: number) => object, count = 400): Promise<number> {
  let before = 0
  function* pieces(): Generator<Uint8Array> {
    yield event(first)
    for (let index = 0; index < count; index++) yield event(next(index))
  }
  const stream = providerOf(api, pieces())(request, {})[Symbol.asyncIterator]()
  let seen = 0
  await stream.next()
  before = await heapAfterGc()
  for (let done = false; !done; ) {
    const result = await stream.next().catch((error: unknown) => {
      if (!isMillraceError(error, 'protocol')) throw error
      return { done: true } as const
    })
    done = result.done === true
    if (++seen === count - 2) break
  }
  const after = await heapAfterGc()
  await stream.return?.()
  return (after - before) / 1024 / 1024
}

describe('memory of a reader does not grow with', () => {
  const large = 'x'.repeat(100_000)

  test('new ids of one tool call', async () => {
    const grown = await growth('openai', choice({ content: 'a' }), (index) =>
      calls({ index: 0, id: `${index}${large.slice(0, 1000)}`, function: { arguments: large } })
    )
    expect(grown).toBeLessThan(8)
  })

  test("the arguments of a tool, as Anthropic's deltas", async () => {
    const tool = block(0, { type: 'tool_use', id: 'a', name: 'f', input: {} })
    const delta = { type: 'content_block_delta', index: 0, delta: { type: 'input_json_delta', partial_json: large } }
    expect(await growth('anthropic', start(), (index) => (index === 0 ? tool : delta))).toBeLessThan(8)
  })

  test('blocks of text that are never closed', async () => {
    expect(await growth('anthropic', start(), (index) => block(index, { type: 'text', text: large }))).toBeLessThan(8)
  })
})

test("a tool of the server's own is bounded in what it holds back", async () => {
  const tool = block(0, { type: 'server_tool_use', id: 'a', name: 'f', input: {} })
  const delta = { type: 'content_block_delta', index: 0, delta: { type: 'input_json_delta', partial_json: 'x'.repeat(500_000) } }
  const asked = ask('anthropic', [start(), tool, ...Array.from({ length: 12 }, () => delta), stop])
  await expect(asked).rejects.toMatchObject({ code: 'protocol', details: { reason: 'too-large' } })
})

test('usage with ever new fields costs no more with each', async () => {
  const events = Array.from({ length: 16_000 }, (_, index) => ({
    type: 'message_delta',
    usage: { [`k${index}`]: 1, output_tokens: index }
  }))
  const cpu = process.cpuUsage()
  const { usage } = await ask('anthropic', [start({ input_tokens: 3 }), ...events, stop])
  const { user, system } = process.cpuUsage(cpu)
  expect(usage).toMatchObject({ input: { uncached: 3 }, output: { text: 1 } })
  expect((user + system) / 1000).toBeLessThan(5000) // it was 47 s
})

test('a name that changes is not passed over as if it were a value', async () => {
  const odd = (name: string): Uint8Array =>
    Buffer.from(`data: {"model":"m","choices":[{"index":0,"delta":{"content":"A"},"${name}":"stop"}]}\n\n`)
  const pieces = ['a1', 'a2', 'a3', 'a4', 'a5', 'finish_reason'].map(odd)
  expect((await collect(providerOf('openai', pieces)(request, {}))).finish).toBe('stop')
})

test('what Anthropic told at the start is in a note, and known whatever ends the answer', async () => {
  const usage = { input_tokens: 700, cache_read_input_tokens: 20 }
  const text = { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: 'a' } }
  const all = event(start(usage))
  const broken = { type: 'error', error: { type: 'overloaded_error', message: 'no' } }
  const together = Buffer.concat([all, event(block(0, { type: 'text', text: '' })), event(text), event(broken)])
  const error: unknown = await collect(providerOf('anthropic', [together])(request, {})).catch((reason: unknown) => reason)
  const partial = isMillraceError(error) ? error.partial : undefined
  const input = { uncached: 700, cacheRead: 20, cacheWrite: 0 }
  expect(partial).toMatchObject({ text: 'a', usage: { input, estimated: true }, notes: { provider: { input } } })
})

test('batches that are asked for at the same time come one after the other', async () => {
  const events = Array.from('abcd', (content) => event(choice({ content })))
  const stream = providerOf('openai', [...events, event(choice({}, 'stop'))])(request, {})[Symbol.asyncIterator]()
  const batches = await Promise.all(Array.from({ length: 8 }, () => nextBatch(stream)))
  const texts = batches.flatMap((batch) => batch ?? []).flatMap((chunk) => (chunk.type === 'text' ? chunk.text : []))
  expect(texts).toEqual(['a', 'b', 'c', 'd'])
})

test('nothing is handed over behind a return', async () => {
  const events = Buffer.concat(['a', 'b', 'c'].map((content) => event(choice({ content }))))
  const stream = providerOf('openai', [events, event(choice({ content: 'd' }))])(request, {})[Symbol.asyncIterator]()
  await stream.next()
  await stream.return?.()
  expect((await stream.next()).done).toBe(true)
})

test('a million letters one by one take little more memory than their text', async () => {
  const letters: Chunk[] = Array.from('abcdefghij', (text) => ({ type: 'text', text }))
  const before = await heapAfterGc()
  const assembly = assemble()
  for (let round = 0; round < 100_000; round++) for (const letter of letters) assembly.add(letter)
  const grown = ((await heapAfterGc()) - before) / 1024 / 1024
  expect(assembly.partial().text).toHaveLength(1_000_000)
  expect(grown).toBeLessThan(6) // it was 32
})

test('a stream that has failed says so again to who reads on', async () => {
  const abort = new AbortController()
  async function* endless(): AsyncGenerator<Chunk> {
    yield { type: 'start', provider: 'own', model: 'own' }
    for (;;) yield { type: 'text', text: await new Promise((resolve) => setTimeout(resolve, 5, 'a')) }
  }
  await using adapter = createAdapter({ provider: endless })
  const stream = adapter.stream(request, { signal: abort.signal })
  await stream.next()
  const pending = stream.next()
  const reason = new Error('enough')
  abort.abort(reason)
  await expect(pending).rejects.toBe(reason)
  await expect(stream.next()).rejects.toBe(reason)
  await expect(stream.nextBatch()).rejects.toBe(reason)
  await expect(stream.completion()).rejects.toBe(reason)
})
