import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { type Chunk, MillraceError } from '@millrace/core'
import { openaiEvents, writeSSE } from '@millrace/streaming'
import OpenAI, { APIError } from 'openai'
import { afterEach, expect, test } from 'vitest'

const open: AsyncDisposable[] = []
afterEach(async () => {
  for (const resource of open.splice(0)) await resource[Symbol.asyncDispose]()
})

/** A server that writes these chunks to the official client, with heartbeats between them. */
async function clientOf(chunks: () => AsyncIterable<Chunk>, padToBytes = 0): Promise<OpenAI> {
  const server = createServer((_, response) => {
    void writeSSE(chunks(), response, { format: openaiEvents({ includeUsage: true, padToBytes }), heartbeatMs: 2 })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  open.push({
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    }
  })
  return new OpenAI({ apiKey: 'x', baseURL: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`, maxRetries: 0 })
}

const ask = { model: 'm', messages: [{ role: 'user' as const, content: 'x' }] }
const start: Chunk = { type: 'start', provider: 'p', model: 'model-x', id: 'chatcmpl-1' }
const usage: Chunk = {
  type: 'usage',
  usage: {
    input: { uncached: 7, cacheRead: 3, cacheWrite: 0 },
    output: { text: 4, reasoning: 1 },
    estimated: false,
    billed: true
  }
}

async function* slowly(chunks: readonly Chunk[]): AsyncGenerator<Chunk, void, undefined> {
  for (const chunk of chunks) {
    await delay(5)
    yield chunk
  }
}

test.each([0, 128])(
  'the official client reads text, reasoning, log probabilities and usage, filled up to %d bytes',
  async (padToBytes) => {
    const logprob = (token: string): Chunk => ({
      type: 'extra',
      name: 'logprobs',
      value: { content: [{ token, logprob: -1, bytes: null, top_logprobs: [] }], refusal: null }
    })
    const client = await clientOf(
      () =>
        slowly([
          start,
          { type: 'reasoning', text: 'Let me ' },
          { type: 'reasoning', text: 'think' },
          { type: 'text', text: 'Grüße\n\ud83d' },
          logprob('a'),
          { type: 'text', text: '\ude00' },
          logprob('b'),
          usage,
          { type: 'finish', reason: 'stop' }
        ]),
      padToBytes
    )
    const stream = client.chat.completions.stream({ ...ask, stream_options: { include_usage: true } })
    let thought = ''
    for await (const chunk of stream) {
      thought += (chunk.choices[0]?.delta as { reasoning_content?: string } | undefined)?.reasoning_content ?? ''
    }
    expect(thought).toBe('Let me think')
    const whole = await stream.finalChatCompletion()
    expect(whole).toMatchObject({
      id: 'chatcmpl-1',
      model: 'model-x',
      choices: [{ finish_reason: 'stop', message: { role: 'assistant', content: 'Grüße\n😀' } }],
      usage: { prompt_tokens: 10, completion_tokens: 5, total_tokens: 15, prompt_tokens_details: { cached_tokens: 3 } }
    })
    expect(whole.choices[0]?.logprobs?.content?.map(({ token }) => token)).toEqual(['a', 'b'])
  }
)

test('the official client joins tool calls that come in pieces, two of them mixed', async () => {
  const client = await clientOf(() =>
    slowly([
      start,
      { type: 'tool-call', index: 0, id: 'call-a', name: 'look', arguments: '' },
      { type: 'tool-call', index: 1, id: 'call-b', name: 'listen', arguments: '{"to"' },
      { type: 'tool-call', index: 0, arguments: '{"at":1}' },
      { type: 'tool-call', index: 1, arguments: ':"x"}' },
      { type: 'finish', reason: 'tool-calls' }
    ])
  )
  const { choices } = await client.chat.completions.stream(ask).finalChatCompletion()
  expect(choices[0]).toMatchObject({
    finish_reason: 'tool_calls',
    message: {
      tool_calls: [
        { id: 'call-a', type: 'function', function: { name: 'look', arguments: '{"at":1}' } },
        { id: 'call-b', type: 'function', function: { name: 'listen', arguments: '{"to":"x"}' } }
      ]
    }
  })
})

test('the official client reads a refusal', async () => {
  const client = await clientOf(() =>
    slowly([start, { type: 'refusal', text: 'I ' }, { type: 'refusal', text: 'cannot' }, { type: 'finish', reason: 'stop' }])
  )
  expect((await client.chat.completions.stream(ask).finalChatCompletion()).choices[0]?.message.refusal).toBe('I cannot')
})

test('the official client throws on a stream that breaks, with the code, behind what came before', async () => {
  const client = await clientOf(async function* () {
    yield* slowly([start, { type: 'text', text: 'so far' }])
    throw new MillraceError('rate-limited', 'sk-secret', { details: { status: 429 }, providerMessage: 'sk-secret' })
  })
  let text = ''
  const reading = (async () => {
    for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
      text += chunk.choices[0]?.delta.content ?? ''
    }
  })()
  const error = await reading.catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(APIError)
  expect(error).toMatchObject({ code: 'rate_limit_exceeded', message: 'too many requests or tokens just now' })
  expect(text).toBe('so far')
  expect(JSON.stringify(error)).not.toContain('sk-secret')
})
