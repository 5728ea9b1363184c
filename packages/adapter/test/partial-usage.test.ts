import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type Adapter, createAdapter } from '@millrace/adapter'
import { anthropic } from '@millrace/adapter/anthropic'
import { openai } from '@millrace/adapter/openai'
import { type ChatRequest, type Chunk, type Completion, isMillraceError, type Provider } from '@millrace/core'
import { createTokenizers } from '@millrace/tokens'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const request: ChatRequest = {
  model: 'gpt-4.1',
  messages: [
    { role: 'system', content: 'Answer in one sentence.' },
    { role: 'user', content: 'What turns the wheel of a mill?' }
  ]
}
const answer = 'The water of the river turns it.'
const tokenizers = createTokenizers()
const tokens = { contextWindow: 128_000, tokenizers }
const tokenizer = tokenizers.for('gpt-4.1')
const input = { uncached: tokenizer.countMessages(request.messages, request), cacheRead: 0, cacheWrite: 0 }
const output = { text: tokenizer.count(answer), reasoning: 0 }

/** Sends the beginning of an answer, and then what its path says: `/break` a reset, anything else silence. */
let server: Server
let url = ''
beforeAll(async () => {
  server = createServer((incoming, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    const events = incoming.url?.includes('messages') ? anthropicEvents : openaiEvents
    response.write(events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join(''))
    if (incoming.url?.startsWith('/break')) setTimeout(() => response.socket?.resetAndDestroy(), 20)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})
afterAll(async () => {
  server.closeAllConnections()
  await new Promise((resolve) => server.close(resolve))
  await tokenizers.close()
})

const openaiEvents = Array.from(answer).map((content) => ({
  id: '1',
  model: 'gpt-4.1',
  choices: [{ index: 0, delta: { content } }]
}))
const anthropicEvents = [
  { type: 'message_start', message: { id: '1', model: 'm', usage: { input_tokens: 700, output_tokens: 1 } } },
  { type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } },
  { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: answer } }
]

async function failure(adapter: Adapter, way: 'stream' | 'complete'): Promise<Completion | undefined> {
  try {
    if (way === 'complete') await adapter.complete(request)
    else for await (const _ of adapter.stream(request));
  } catch (error) {
    if (isMillraceError(error)) return error.partial
    throw error
  }
  throw new Error('it did not fail')
}

/** A provider of one's own that breaks off: for `complete` as for `stream`. */
async function* breaking(): AsyncGenerator<Chunk> {
  yield { type: 'start', provider: 'own', model: 'own' }
  yield { type: 'text', text: answer }
}

describe('an answer that breaks off', () => {
  test('carries the text so far and its counted usage, by an error of the connection', async () => {
    await using adapter = createAdapter({ provider: openai({ apiKey: 'k', baseURL: `${url}/break` }), tokens })
    const partial = await failure(adapter, 'stream')
    expect(partial?.text).toBe(answer)
    expect(partial?.usage).toEqual({ input, output, estimated: true, billed: true })
  })

  test('carries it by a clock too', async () => {
    const timeouts = { idleMs: 60 }
    await using adapter = createAdapter({ provider: openai({ apiKey: 'k', baseURL: `${url}/hang` }), tokens, timeouts })
    expect((await failure(adapter, 'stream'))?.usage).toEqual({ input, output, estimated: true, billed: true })
  })

  test('carries it from `complete`', async () => {
    await using adapter = createAdapter({ provider: breaking, tokens })
    expect((await failure(adapter, 'complete'))?.usage).toEqual({ input, output, estimated: true, billed: true })
  })

  test('keeps the input that Anthropic told at the start, and counts the answer where it knows more than that', async () => {
    await using adapter = createAdapter({ provider: anthropic({ apiKey: 'k', baseURL: `${url}/break` }), tokens })
    const partial = await failure(adapter, 'stream')
    const told = { uncached: 700, cacheRead: 0, cacheWrite: 0 }
    expect(partial?.usage).toEqual({ input: told, output, estimated: true, billed: true })
  })

  test('has what the provider told, marked as estimated, where nothing is counted', async () => {
    await using adapter = createAdapter({ provider: anthropic({ apiKey: 'k', baseURL: `${url}/break` }) })
    const partial = await failure(adapter, 'stream')
    expect(partial?.usage).toMatchObject({ input: { uncached: 700 }, output: { text: 1 }, estimated: true })
    await using plain = createAdapter({ provider: openai({ apiKey: 'k', baseURL: `${url}/break` }) })
    expect((await failure(plain, 'stream'))?.usage).toBeUndefined()
  })

  test("is on the stream after the caller's own abort, and handed to `onAbort` of `complete`", async () => {
    await using adapter = createAdapter({ provider: openai({ apiKey: 'k', baseURL: `${url}/hang` }), tokens })
    const abort = new AbortController()
    const stream = adapter.stream(request, { signal: abort.signal })
    const reading = (async () => {
      for await (const _ of stream) if (stream.partial.text === answer) abort.abort(new Error('enough'))
    })()
    await expect(reading).rejects.toThrow('enough')
    expect(stream.partial).toMatchObject({ text: answer, usage: { input, output, estimated: true } })

    const own: Provider = async function* (_, { signal }) {
      yield* breaking()
      await new Promise((resolve) => signal?.addEventListener('abort', resolve))
    }
    await using other = createAdapter({ provider: own, tokens })
    const second = new AbortController()
    let partial: Completion | undefined
    setTimeout(() => second.abort(new Error('enough')), 20)
    const done = other.complete(request, { signal: second.signal, onAbort: (told) => (partial = told) })
    await expect(done).rejects.toThrow('enough')
    expect(partial).toMatchObject({ text: answer, usage: { input, output, estimated: true } })
  })

  test('counts reasoning and tool calls, and nothing of an answer that never began', async () => {
    const provider: Provider = async function* () {
      yield { type: 'start', provider: 'own', model: 'own' }
      yield { type: 'reasoning', text: answer }
      yield { type: 'tool-call', index: 0, id: 'a', name: 'find', arguments: '{"q":"mill"}' }
    }
    await using adapter = createAdapter({ provider, tokens })
    const expected = tokenizer.count('find') + tokenizer.count('{"q":"mill"}')
    expect((await failure(adapter, 'stream'))?.usage?.output).toEqual({ text: expected, reasoning: output.text })

    const dead: Provider = () => ({
      [Symbol.asyncIterator]: () => ({ next: () => Promise.reject(new TypeError('no')) })
    })
    await using silent = createAdapter({ provider: dead, tokens })
    const stream = silent.stream(request)
    await expect(stream.next()).rejects.toThrow('no')
    expect(stream.partial.usage).toBeUndefined()
  })

  test('counts the prompt that was sent, not what the budget dropped of it', async () => {
    const long = { ...request, messages: [{ role: 'user' as const, content: 'word '.repeat(3000) }, ...request.messages] }
    await using adapter = createAdapter({ provider: breaking, tokens: { ...tokens, contextWindow: 2000 } })
    const error: unknown = await adapter.complete(long).catch((reason: unknown) => reason)
    expect(isMillraceError(error, 'protocol') && error.partial?.notes.tokens?.dropped).toBe(1)
    expect(isMillraceError(error, 'protocol') && error.partial?.usage?.input).toEqual(input)
  })

  test('is told its own error where the tokenizers have been closed', async () => {
    const closed = createTokenizers()
    await using adapter = createAdapter({ provider: breaking, tokens: { contextWindow: () => undefined, tokenizers: closed } })
    await adapter.complete({ ...request, messages: [] }).catch(() => {})
    const stream = adapter.stream(request)
    await stream.next()
    await closed.close()
    await expect(stream.completion()).rejects.toMatchObject({ code: 'protocol', details: { reason: 'incomplete' } })
    expect(stream.partial).toMatchObject({ text: answer })
  })

  test('is the same however often and whenever it was looked at', async () => {
    const provider: Provider = async function* () {
      yield { type: 'start', provider: 'own', model: 'own' }
      yield { type: 'tool-call', index: 1, id: 'b', name: 'f', arguments: '{"a":"some words"}' }
      yield { type: 'tool-call', index: 0, id: 'a', name: 'f', arguments: '{"a":"other words here"}' }
    }
    await using adapter = createAdapter({ provider, tokens })
    const looked = adapter.stream(request)
    const not = adapter.stream(request)
    for (let read = 0; read < 3; read++) {
      await looked.next()
      expect(looked.partial.usage?.estimated).toBe(true)
      await not.next()
    }
    expect(looked.partial.usage).toEqual(not.partial.usage)
  })

  test('takes no zeros and no nonsense of a provider for what it told', async () => {
    const facts = [{ input: { tokens: 5 } }, { input: { uncached: 0, cacheRead: 0, cacheWrite: 0 } }, { input: 'x' }]
    for (const each of facts) {
      const provider: Provider = async function* () {
        yield { type: 'start', provider: 'own', model: 'own' }
        yield { type: 'note', from: 'provider', facts: each }
        yield { type: 'text', text: answer }
      }
      await using plain = createAdapter({ provider })
      expect((await failure(plain, 'stream'))?.usage).toBeUndefined()
      await using counting = createAdapter({ provider, tokens })
      expect((await failure(counting, 'stream'))?.usage?.input).toEqual(input)
    }
  })

  test('of a finished answer is what the provider told', async () => {
    const provider: Provider = async function* () {
      yield* breaking()
      yield { type: 'finish', reason: 'stop' }
    }
    await using adapter = createAdapter({ provider, tokens })
    expect((await adapter.complete(request)).usage).toBeUndefined()
  })
})
