import { inspect } from 'node:util'
import { openai } from '@millrace/adapter/openai'
import { type ChatRequest, type Chunk, type Completion, collect, isMillraceError, messageOf, type Provider } from '@millrace/core'
import { type ScriptedProvider, startFaultServer, startScriptedProvider } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import { afterAll, describe, expect, test } from 'vitest'
import { failure } from './failure.ts'

const transport = createTransport({ retry: false })
afterAll(() => transport.close())

const ask = (content: string, more: Partial<ChatRequest> = {}): ChatRequest => ({
  model: 'm',
  messages: [{ role: 'user', content }],
  ...more
})
const connect = (server: { url: string }, more: object = {}): Provider =>
  openai({ apiKey: 'sk-canary-1234', baseURL: server.url, ...more }).connect(transport.send)

async function scripted(reply: Parameters<typeof startScriptedProvider>[0] = {}): Promise<ScriptedProvider> {
  return startScriptedProvider(reply)
}

describe('what is sent', () => {
  async function sent(
    request: ChatRequest,
    options: { stream?: boolean } = {},
    more: object = {}
  ): Promise<Record<string, unknown>> {
    await using server = await scripted({ reply: () => 'ok' })
    await collect(connect(server, more)(request, options))
    return server.requests[0]?.body as Record<string, unknown>
  }

  test('every field of the contract, in the words of the API', async () => {
    const body = await sent(
      {
        model: 'm',
        messages: [
          { role: 'developer', content: 'Be brief.' },
          {
            role: 'user',
            name: 'ada',
            content: [
              { type: 'text', text: 'Look:' },
              { type: 'image', url: 'https://example.com/a.png', detail: 'low' },
              { type: 'audio', data: 'AAAA', format: 'wav' },
              { type: 'file', fileId: 'file-1' },
              { type: 'other', value: { type: 'text', text: 'untouched' } }
            ]
          },
          {
            role: 'assistant',
            content: [{ type: 'reasoning', text: 'hm' }],
            toolCalls: [{ id: 'c1', name: 'look', arguments: '{"a":1}' }]
          },
          { role: 'tool', toolCallId: 'c1', content: 'seen' }
        ],
        tools: [{ name: 'look', description: 'Looks.', parameters: { type: 'object', properties: {} }, strict: true }],
        toolChoice: { name: 'look' },
        responseFormat: { type: 'json-schema', name: 'answer', schema: { type: 'object' }, strict: true },
        maxOutputTokens: 50,
        temperature: 0,
        topP: 0.5,
        stop: ['END'],
        seed: 7,
        extra: { frequency_penalty: -0.5, user: 'u1' }
      },
      { stream: true }
    )
    expect(body).toEqual({
      model: 'm',
      messages: [
        { role: 'developer', content: 'Be brief.' },
        {
          role: 'user',
          name: 'ada',
          content: [
            { type: 'text', text: 'Look:' },
            { type: 'image_url', image_url: { url: 'https://example.com/a.png', detail: 'low' } },
            { type: 'input_audio', input_audio: { data: 'AAAA', format: 'wav' } },
            { type: 'file', file: { file_id: 'file-1' } },
            { type: 'text', text: 'untouched' }
          ]
        },
        {
          role: 'assistant',
          content: null,
          tool_calls: [{ id: 'c1', type: 'function', function: { name: 'look', arguments: '{"a":1}' } }]
        },
        { role: 'tool', tool_call_id: 'c1', content: 'seen' }
      ],
      tools: [
        {
          type: 'function',
          function: { name: 'look', description: 'Looks.', parameters: { type: 'object', properties: {} }, strict: true }
        }
      ],
      tool_choice: { type: 'function', function: { name: 'look' } },
      response_format: { type: 'json_schema', json_schema: { name: 'answer', schema: { type: 'object' }, strict: true } },
      max_tokens: 50,
      temperature: 0,
      top_p: 0.5,
      stop: ['END'],
      seed: 7,
      frequency_penalty: -0.5,
      user: 'u1',
      stream: true,
      stream_options: { include_usage: true }
    })
  })

  test('an answer goes back as a message, tool calls included', async () => {
    await using server = await scripted()
    const provider = connect(server)
    const tools = [
      { name: 'get_weather', parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] } }
    ]
    const question = ask('Use get_weather for Paris.', { tools })
    const first = await collect(provider(question, {}))
    expect(first.finish).toBe('tool-calls')
    expect(first.toolCalls[0]).toMatchObject({ name: 'get_weather' })
    expect(() => JSON.parse(first.toolCalls[0]?.arguments ?? '')).not.toThrow()
    const messages = [
      ...question.messages,
      messageOf(first),
      { role: 'tool' as const, toolCallId: first.toolCalls[0]?.id ?? '', content: '21 degrees' }
    ]
    const second = await collect(provider({ ...question, messages }, {}))
    expect(second.finish).toBe('stop')
    expect(second.text).not.toBe('')
  })

  test('the idempotency key and further headers go along', async () => {
    await using server = await scripted({ reply: () => 'ok' })
    await collect(connect(server, { headers: { 'openai-organization': 'org-1' } })(ask('x'), { idempotencyKey: 'call-7' }))
    expect(server.requests[0]?.headers).toMatchObject({
      'idempotency-key': 'call-7',
      'openai-organization': 'org-1',
      authorization: 'Bearer sk-canary-1234'
    })
  })
})

describe('what is refused before a socket opens', () => {
  const bad: readonly (readonly [path: string, request: unknown])[] = [
    ['messages', { model: 'm', messages: [] }],
    ['messages[0].role', { model: 'm', messages: [{ role: 'robot', content: 'x' }] }],
    ['temperature', ask('x', { temperature: Number.NaN })],
    ['maxOutputTokens', ask('x', { maxOutputTokens: -1 })],
    ['topP', ask('x', { topP: 2 })],
    ['extra.n', ask('x', { extra: { n: 2 } })],
    ['extra.max_tokens', ask('x', { extra: { max_tokens: 5 } })],
    ['max_tokens', { ...ask('x'), max_tokens: 5 }]
  ]
  test.each(bad)('%s', async (path, request) => {
    await using server = await scripted()
    const error = await failure(collect(connect(server)(request as ChatRequest, {})))
    expect([error.code, (error.details as { path?: string }).path]).toEqual(['invalid-request', path])
    expect(server.stats().sockets).toBe(0)
  })

  test('a cycle and a __proto__ key, with their paths', async () => {
    await using server = await scripted()
    const cycle: Record<string, unknown> = {}
    cycle.self = cycle
    const cyclic = await failure(collect(connect(server)(ask('x', { extra: { a: cycle as never } }), {})))
    expect(cyclic.details).toMatchObject({ path: 'extra.a.self' })
    const polluted = ask('x', { tools: [{ name: 't', parameters: JSON.parse('{"properties":{"__proto__":{}}}') as never }] })
    expect((await failure(collect(connect(server)(polluted, {})))).details).toMatchObject({
      path: 'tools[0].parameters.properties.__proto__'
    })
    expect(server.stats().sockets).toBe(0)
  })

  test.each([
    [{ apiKey: undefined }, /OPENAI_API_KEY/],
    [{ apiKey: '' }, /OPENAI_API_KEY/],
    [{ apiKey: 'a\nb' }, /line break/],
    [{ apiKey: 'k', baseURL: 'nonsense' }, /baseURL/],
    [{ apiKey: 'k', baseURL: 'https://u:p@host/v1' }, /user name/],
    [{ apiKey: 'k', headers: { Host: 'x' } }, /lower case/],
    [{ apiKey: 'k', headers: { 'content-length': '3' } }, /content-length/],
    [{ apiKey: 'k', headers: { 'x-a': 'a\r\nb' } }, /line breaks/]
  ])('options %j are a TypeError', (options, message) => {
    expect(() => openai(options as never)).toThrow(TypeError)
    expect(() => openai(options as never)).toThrow(message)
  })
})

describe('what comes back wrong', () => {
  const cases: readonly (readonly [
    name: string,
    code: string,
    reply: { status?: number; body: string; headers?: Record<string, string> }
  ])[] = [
    ['HTML with status 200', 'protocol', { body: '<html>', headers: { 'content-type': 'text/html' } }],
    ['an empty body', 'protocol', { body: '' }],
    ['null', 'protocol', { body: 'null' }],
    ['an array', 'protocol', { body: '[]' }],
    ['truncated JSON', 'protocol', { body: '{"choices":[{"mess' }],
    ['no choices', 'protocol', { body: '{"id":"x"}' }],
    ['empty choices', 'protocol', { body: '{"choices":[]}' }],
    ['an error in a 200', 'overloaded', { body: '{"error":{"message":"busy","type":"overloaded_error"}}' }],
    ['a message that is a number', 'protocol', { body: '{"choices":[{"message":7}]}' }],
    ['a 502 of a proxy in HTML', 'unavailable', { status: 502, body: '<html>secret</html>' }],
    ['a 503', 'overloaded', { status: 503, body: '{}' }],
    ['a 529', 'overloaded', { status: 529, body: '' }],
    ['a redirect', 'protocol', { status: 307, body: '' }],
    ['an exhausted quota', 'quota-exceeded', { status: 429, body: '{"error":{"code":"insufficient_quota"}}' }],
    ['a 402', 'quota-exceeded', { status: 402, body: '{}' }],
    ['a 413', 'invalid-request', { status: 413, body: 'too big' }]
  ]
  test.each(cases)('%s is %s', async (_, code, reply) => {
    await using server = await scripted({ reply: () => reply })
    for (const stream of [false, true]) {
      const error = await failure(collect(connect(server)(ask('x'), { stream })))
      expect(error.code).toBe(code)
      expect(error.context).toMatchObject({ provider: 'openai', model: 'm' })
    }
  })

  test('a 429 says how long to wait', async () => {
    await using server = await scripted({
      reply: () => ({ status: 429, body: '{"error":{"message":"slow down"}}', headers: { 'retry-after-ms': '1500' } })
    })
    expect((await failure(collect(connect(server)(ask('x'), {})))).details).toMatchObject({ status: 429, retryAfterMs: 1500 })
  })

  test('a JSON answer to a request for a stream is read as one', async () => {
    await using server = await scripted({
      reply: () => ({ body: '{"model":"m","choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}' })
    })
    expect(await collect(connect(server)(ask('x'), { stream: true }))).toMatchObject({ text: 'hi', finish: 'stop' })
  })

  const sse = (...data: readonly string[]): string => data.map((line) => `data: ${line}\n\n`).join('')
  const delta = (content: string, finish: string | null = null): string =>
    JSON.stringify({ id: 'c', model: 'm', choices: [{ index: 0, delta: { content }, finish_reason: finish }] })
  const streaming = { 'content-type': 'text/event-stream' }

  test('a missing [DONE] behind a finish reason is a success', async () => {
    await using server = await scripted({ reply: () => ({ body: sse(delta('all'), delta('', 'stop')), headers: streaming }) })
    expect(await collect(connect(server)(ask('x'), {}))).toMatchObject({ text: 'all', finish: 'stop' })
  })

  test.each([
    ['nothing at all', '', ''],
    ['only [DONE]', sse('[DONE]'), ''],
    ['no finish reason', sse(delta('so far'), '[DONE]'), 'so far'],
    ['an end inside an event', sse(delta('so far')) + 'data: {"choices":[{"del', 'so far']
  ])('a stream with %s is incomplete and carries the text so far', async (_, body, text) => {
    await using server = await scripted({ reply: () => ({ body, headers: streaming }) })
    const error = await failure(collect(connect(server)(ask('x'), {})))
    expect(error.details).toMatchObject({ reason: 'incomplete' })
    expect(error.partial?.text).toBe(text)
  })

  test('an event that is not JSON is malformed, behind what came before it', async () => {
    await using server = await scripted({
      reply: () => ({ body: sse(delta('one '), delta('two'), '{oops', delta('', 'stop')), headers: streaming })
    })
    const error = await failure(collect(connect(server)(ask('x'), {})))
    expect(error.details).toMatchObject({ reason: 'malformed' })
    expect(error.partial?.text).toBe('one two')
  })

  test('an error event in a stream becomes its code, with the text so far', async () => {
    const event = JSON.stringify({ error: { message: 'The server had an error', type: 'server_error', code: null } })
    await using server = await scripted({ reply: () => ({ body: sse(delta('so far'), event), headers: streaming }) })
    const error = await failure(collect(connect(server)(ask('x'), {})))
    expect(error.code).toBe('unavailable')
    expect(error.partial?.text).toBe('so far')
  })

  test('a huge or negative index of a tool call is malformed, not an allocation', async () => {
    for (const index of [1e9, -1, 0.5]) {
      const event = JSON.stringify({
        choices: [{ index: 0, delta: { tool_calls: [{ index, id: 'a', function: { name: 'f', arguments: '' } }] } }]
      })
      await using server = await scripted({ reply: () => ({ body: sse(event), headers: streaming }) })
      expect((await failure(collect(connect(server)(ask('x'), {})))).details).toMatchObject({ reason: 'malformed' })
    }
  })

  test('an event beyond 1 MiB is refused', async () => {
    await using server = await scripted({ reply: () => ({ body: `data: ${'x'.repeat(1_100_000)}`, headers: streaming }) })
    expect((await failure(collect(connect(server)(ask('x'), {})))).details).toMatchObject({ reason: 'too-large' })
  })
})

describe('clocks', () => {
  const head = 'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n'
  const piece = (text: string): string => `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`
  const content = piece('data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n')
  const empty = piece('data: {"choices":[{"index":0,"delta":{"content":""}}]}\n\n')

  test('heartbeats and empty deltas are silence: the first-chunk clock fires, and closes the socket', async () => {
    await using server = await startFaultServer(async (connection) => {
      await connection.request()
      void connection.write(head)
      for (let beat = 0; beat < 100; beat++) {
        void connection.write(beat % 2 === 0 ? piece(': ping\n\n') : empty)
        await connection.pause(20)
      }
    })
    const error = await failure(collect(connect(server)(ask('x'), { timeouts: { firstChunkMs: 200 } })))
    if (!isMillraceError(error, 'timeout')) throw error
    expect(error.details).toMatchObject({ clock: 'first-chunk', limitMs: 200 })
    await expect.poll(() => server.open).toBe(0)
  })

  test('a flood of empty deltas, as fast as the socket takes them, is silence too', async () => {
    await using server = await startFaultServer(async (connection) => {
      await connection.request()
      await connection.write(head)
      const flood = empty.repeat(500)
      for (let round = 0; round < 100_000; round++) await connection.write(flood)
    })
    const error = await failure(collect(connect(server)(ask('x'), { timeouts: { firstChunkMs: 300, totalMs: 10_000 } })))
    if (!isMillraceError(error, 'timeout')) throw error
    expect(error.details.clock).toBe('first-chunk')
    expect(error.details.elapsedMs).toBeLessThan(3000)
  })

  test('silence between two contents trips the idle clock, with the text so far', async () => {
    await using server = await startFaultServer(async (connection) => {
      await connection.request()
      void connection.write(head + content)
      for (let beat = 0; beat < 100; beat++) {
        void connection.write(piece(': ping\n\n'))
        await connection.pause(20)
      }
    })
    const error = await failure(collect(connect(server)(ask('x'), { timeouts: { idleMs: 150 } })))
    if (!isMillraceError(error, 'timeout')) throw error
    expect(error.details.clock).toBe('idle')
    expect(error.partial?.text).toBe('x')
  })

  test('a slow reader trips nothing', async () => {
    await using server = await scripted({ reply: () => 'one two three four five six seven eight nine ten' })
    let text = ''
    for await (const chunk of connect(server)(ask('x'), { timeouts: { idleMs: 60 } })) {
      if (chunk.type === 'text') text += chunk.text
      await new Promise((resolve) => setTimeout(resolve, 30))
    }
    expect(text).toBe('one two three four five six seven eight nine ten')
  })
})

describe('secrets', () => {
  test('no canary from the key, the prompt or the error body is in what gets printed', async () => {
    const prose = 'Incorrect API key provided: sk-canary-1234, for the prompt canary-prompt, see https://x/?key=canary-query'
    await using server = await scripted({
      reply: () => ({ status: 401, body: JSON.stringify({ error: { message: prose, code: 'invalid_api_key' } }) })
    })
    const error = await failure(collect(connect(server)(ask('canary-prompt'), {})))
    const printed = [String(error), inspect(error, { depth: 9, showHidden: false }), JSON.stringify(error), error.stack].join(
      '\n'
    )
    expect(printed).not.toContain('canary')
    expect(printed).toContain('invalid_api_key')
    expect(error.providerMessage).toContain('Incorrect API key provided: [redacted]')
    expect(error.providerMessage).not.toMatch(/sk-canary|canary-query/)
  })
})

test('notes tell of retries and of the rate limits the provider stated', async () => {
  let seen = 0
  await using server = await scripted({
    reply: () =>
      ++seen === 1
        ? { status: 503, body: '' }
        : { text: 'ok', headers: { 'x-ratelimit-remaining-requests': '41', 'x-ratelimit-limit-tokens': 'many' } }
  })
  await using retrying = createTransport({ retry: { baseMs: 1 } })
  const provider = openai({ apiKey: 'k', baseURL: server.url }).connect(retrying.send)
  const chunks: Chunk[] = []
  for await (const chunk of provider(ask('x'), {})) chunks.push(chunk)
  expect(chunks.slice(0, 3).map(({ type }) => type)).toEqual(['start', 'note', 'note'])
  const completion: Completion = await collect(
    (async function* () {
      yield* chunks
    })()
  )
  expect(completion.notes).toEqual({
    retry: { attempts: 2 },
    provider: { rateLimits: { remainingRequests: 41 } }
  })
})

test('the socket is used again after a stream', async () => {
  await using server = await scripted({ reply: () => 'short' })
  await using pooled = createTransport()
  const provider = openai({ apiKey: 'k', baseURL: server.url }).connect(pooled.send)
  for (let call = 0; call < 20; call++) await collect(provider(ask('x'), {}))
  expect(server.stats().sockets).toBeLessThanOrEqual(2)
})
