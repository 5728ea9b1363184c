import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import Anthropic from '@anthropic-ai/sdk'
import {
  chunk,
  loadRecordings,
  namedSse,
  responseHead,
  serveRecording,
  sse,
  startFaultServer,
  startScriptedProvider
} from '@millrace/testkit'
import type { Hono } from 'hono'
import OpenAI from 'openai'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import type { GatewayEnv, Parts } from '../src/context.ts'
import { createPass, passRoutes } from '../src/pass.ts'
import { type Routes, type RoutesOptions, startRoutes } from './routes-rig.ts'

async function start(options: RoutesOptions): Promise<Routes> {
  const routes = await startRoutes(passRoutes, options)
  onTestFinished(() => routes[Symbol.asyncDispose]())
  return routes
}

interface Seen {
  readonly path: string
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
}

/** A provider that keeps what it was sent. */
async function startEcho(
  answer: (seen: Seen) => { readonly status?: number; readonly headers?: Record<string, string>; readonly body: string | Buffer }
): Promise<{ readonly url: string; readonly seen: Seen[] }> {
  const seen: Seen[] = []
  const server = createServer(async (request, response) => {
    const pieces: Buffer[] = []
    for await (const piece of request) pieces.push(piece as Buffer)
    const one = { path: request.url ?? '', headers: request.headers, body: Buffer.concat(pieces) }
    seen.push(one)
    const { status = 200, headers = {}, body } = answer(one)
    response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(body)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`, seen }
}

function post(url: string, body: string | object, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body)
  })
}

const bodyFor = (path: string): object =>
  path === '/messages' || path === '/chat/completions'
    ? { model: 'm', max_tokens: 9, messages: [{ role: 'user', content: 'hi' }] }
    : { model: 'm', input: 'hi' }

describe.each([
  ['openai.responses', '/responses'],
  ['anthropic.messages', '/messages']
] as const)('recorded answers of %s', (api, path) => {
  const recordings = loadRecordings({ api })?.filter(
    // A key refused is the gateway's own matter; and the events of one are no JSON, so that none of them is the last.
    ({ id, status }) => status !== 401 && id !== 'openai-responses-3937cd1379'
  )
  if (recordings === undefined) console.warn(`skipped: recordings of ${api} are not beside this checkout`)

  test.skipIf(recordings === undefined)(
    'come back byte by byte, whatever cuts they arrive in',
    async () => {
      const seed = 9
      console.info(`seed ${seed}`)
      const differing: string[] = []
      for (const recording of recordings ?? []) {
        await using served = await serveRecording(recording, { seed })
        await using routes = await startRoutes(passRoutes, {
          openai: served.url,
          anthropic: served.url,
          transport: { retry: false }
        })
        for (const cache of ['miss', 'hit or miss']) {
          const response = await post(`${routes.url}/v1${path}`, { ...bodyFor(path), stream: recording.stream })
          const body = Buffer.from(await response.arrayBuffer())
          const isSame = response.status === recording.status && body.equals(recording.body)
          if (!isSame)
            differing.push(`${recording.id} (${cache}, ${recording.status}): ${body.length} of ${recording.body.length}`)
        }
      }
      expect(recordings?.length).toBeGreaterThan(40)
      expect(differing).toEqual([])
    },
    60_000
  )

  test.skipIf(recordings === undefined)('requests go up as they came, with what the contract has no words for', async () => {
    const { url, seen } = await startEcho(() => ({ body: '{}' }))
    const routes = await start({ openai: url, anthropic: url, cache: 'off', config: { imageURLs: 'any' } })
    const bodies = (recordings ?? []).flatMap(({ request }) =>
      typeof request?.body === 'object' && request.body !== null ? [JSON.stringify(request.body, null, 1)] : []
    )
    expect(bodies.length).toBeGreaterThan(10)
    for (const body of bodies) await (await post(`${routes.url}/v1${path}`, body)).arrayBuffer()
    expect(seen.map(({ body }) => body.toString())).toEqual(bodies)
  })
})

test('sends up what shapes an answer and its own key, and nothing of who called', async () => {
  const { url, seen } = await startEcho(() => ({ body: '{}' }))
  const routes = await start({ openai: url, anthropic: url.replace('/v1', '') })
  const headers = {
    authorization: 'Bearer secret-of-the-caller',
    'x-api-key': 'secret-of-the-caller',
    'anthropic-beta': 'files',
    'anthropic-version': '2099-01-01',
    'openai-beta': 'realtime',
    'x-millrace-tenant': 'somebody else',
    'x-millrace-idle-ms': '1',
    cookie: 'a=b',
    traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
    'user-agent': 'a browser'
  }
  await post(`${routes.url}/v1/responses`, bodyFor('/responses'), headers)
  await post(`${routes.url}/v1/messages?beta=true&key=secret-of-the-caller`, bodyFor('/messages'), headers)
  await post(`${routes.url}/v1/messages/count_tokens`, bodyFor('/messages'))
  expect(seen.map(({ path }) => path)).toEqual(['/v1/responses', '/v1/messages?beta=true', '/v1/messages/count_tokens'])
  expect(seen[0]?.headers).toMatchObject({ authorization: 'Bearer upstream-key', 'openai-beta': 'realtime' })
  expect(seen[1]?.headers).toMatchObject({
    'x-api-key': 'upstream-key',
    'anthropic-version': '2099-01-01',
    'anthropic-beta': 'files'
  })
  expect(seen[1]?.headers.authorization).toBeUndefined()
  expect(seen[2]?.headers['anthropic-version']).toBe('2023-06-01')
  for (const one of seen) {
    expect(JSON.stringify(one.headers)).not.toMatch(/caller|somebody|a browser|0af7651916|x-millrace|cookie/)
  }
})

test('an idempotency key is one of its tenant: another with the same one gets no answer of the first', async () => {
  const { url, seen } = await startEcho(() => ({ body: '{}' }))
  const routes = await start({ openai: url, cache: 'off' })
  const send = (tenant: Record<string, string>): Promise<Response> =>
    post(`${routes.url}/v1/responses`, bodyFor('/responses'), { 'idempotency-key': 'one', ...tenant })
  for (const tenant of [{}, { 'x-tenant': 'a' }, { 'x-tenant': 'a' }, { 'x-tenant': 'b' }]) await send(tenant)
  const [none, a, again, b] = seen.map(({ headers }) => headers['idempotency-key'])
  expect(none).toBe('one')
  expect(again).toBe(a)
  expect(new Set([none, a, b]).size).toBe(3)
})

test('tells what happened in headers and to the record, and nothing of the account behind', async () => {
  const { url, seen } = await startEcho(() => ({
    body: '{"id":"resp_1","object":"response","status":"completed","output":[{"type":"message","content":[{"type":"output_text","text":"x"}]}],"usage":{"input_tokens":1,"output_tokens":1}}',
    headers: {
      'openai-version': '2020',
      'x-ratelimit-remaining-requests': '7',
      'openai-organization': 'acme',
      'set-cookie': 'a=b'
    }
  }))
  const routes = await start({ openai: url })
  const ask = (tenant: string): Promise<Response> =>
    post(`${routes.url}/v1/responses`, { ...bodyFor('/responses'), temperature: 0 }, { 'x-tenant': tenant })
  const [miss, hit, other] = [await ask('a'), await ask('a'), await ask('b')]
  const facts = (response: Response): unknown[] =>
    ['cache', 'attempts', 'provider'].map((name) => response.headers.get(`x-millrace-${name}`))
  expect(facts(miss)).toEqual(['miss', '1', 'own openai'])
  expect(facts(hit)).toEqual(['hit', '0', 'own openai'])
  // What one tenant was answered is no other's.
  expect(facts(other)).toEqual(['miss', '1', 'own openai'])
  expect(seen).toHaveLength(2)
  expect(miss.headers.get('openai-version')).toBe('2020')
  for (const name of ['x-ratelimit-remaining-requests', 'openai-organization', 'set-cookie'])
    expect(miss.headers.get(name)).toBeNull()
  expect(Number(hit.headers.get('x-millrace-overhead-ms'))).toBeGreaterThan(0)
  expect(hit.headers.get('x-request-id')).toMatch(/^req_/)
  expect(await hit.text()).toBe(await miss.text())
  expect(routes.told.get('/v1/responses')).toMatchObject({ model: 'm', provider: 'own openai', stream: false, attempts: 1 })
})

test('the wait for the provider is not the own time', async () => {
  const { url } = await startScriptedProvider({ firstTokenMs: 300 }).then((provider) => {
    onTestFinished(() => provider.close())
    return provider
  })
  const routes = await start({ openai: url })
  const response = await post(`${routes.url}/v1/responses`, { model: 'scripted-large', input: 'hi' })
  expect(response.status).toBe(200)
  expect(Number(response.headers.get('x-millrace-overhead-ms'))).toBeLessThan(250)
})

test('a call counts once against the limits, a retry as one more request, each tenant for itself', async () => {
  let requests = 0
  const { url } = await startEcho(() =>
    ++requests === 1 ? { status: 500, body: '{}' } : { body: '{"usage":{"total_tokens":5}}' }
  )
  const routes = await start({ openai: url, cache: 'off', limits: { limits: [{ by: 'provider', concurrency: 1 }] } })
  for (let call = 0; call < 3; call++) expect((await post(`${routes.url}/v1/responses`, bodyFor('/responses'))).status).toBe(200)
  expect(requests).toBe(4)
  const { granted, running } = routes.parts.limiter.stats()
  expect({ granted, running }).toEqual({ granted: 4, running: 0 })
  expect(Object.keys(await routes.parts.limiter.limits()).join()).toContain('own openai')
})

test('a model that the configuration gives another name goes up under it, and any other body as it came', async () => {
  const { url, seen } = await startEcho(() => ({ body: '{}' }))
  const routes = await start({ openai: url, model: { small: 'deployment-7' } })
  await post(`${routes.url}/v1/responses`, '{ "model": "small", "input": "hi", "new": {"a": 1} }')
  await post(`${routes.url}/v1/responses`, '{ "model": "large", "input": "hi" }')
  expect(seen.map(({ body }) => body.toString())).toEqual([
    '{"model":"deployment-7","input":"hi","new":{"a":1}}',
    '{ "model": "large", "input": "hi" }'
  ])
})

describe('a failure before the head', () => {
  test('is told in the words of each API, also to the official clients', async () => {
    const routes = await start({ openai: 'http://127.0.0.1:9/v1', anthropic: 'http://127.0.0.1:9', transport: { retry: false } })
    const openai = new OpenAI({ apiKey: 'x', baseURL: `${routes.url}/v1`, maxRetries: 0 })
    const anthropic = new Anthropic({ apiKey: 'x', baseURL: routes.url, maxRetries: 0 })
    await expect(openai.responses.create({ model: 'm', input: 'hi' })).rejects.toMatchObject({ status: 502, code: 'network' })
    await expect(
      anthropic.messages.create({ model: 'm', max_tokens: 9, messages: [{ role: 'user', content: 'hi' }] })
    ).rejects.toMatchObject({ status: 502, error: { type: 'error', error: { type: 'api_error' } } })
  })

  test('says what to add where no provider speaks the API', async () => {
    const routes = await start({})
    const response = await post(`${routes.url}/v1/messages`, bodyFor('/messages'))
    expect(response.status).toBe(404)
    expect(await response.json()).toEqual({
      type: 'error',
      error: { type: 'not_found_error', message: expect.stringContaining('add one with "api": "anthropic"') }
    })
  })

  test.each([
    ['no JSON', '{"model":', 400],
    ['too many messages', { ...bodyFor('/messages'), messages: Array.from({ length: 501 }, () => ({})) }, 400],
    [
      'an image in a private network',
      {
        ...bodyFor('/messages'),
        messages: [{ role: 'user', content: [{ type: 'image', source: { type: 'url', url: 'http://169.254.169.254/a.png' } }] }]
      },
      400
    ]
  ])('refuses %s before anything is sent', async (_name, body, status) => {
    const { url, seen } = await startEcho(() => ({ body: '{}' }))
    const routes = await start({ anthropic: url })
    const response = await post(`${routes.url}/v1/messages`, body)
    expect([response.status, seen.length]).toEqual([status, 0])
    expect(await response.json()).toMatchObject({ error: { type: 'invalid_request_error' } })
  })

  test('gives refusals on as they are, without keys, with when to come back', async () => {
    const { url } = await startEcho(() => ({
      status: 429,
      headers: { 'retry-after': '70', 'request-id': 'req_theirs' },
      body: '{"type":"error","error":{"type":"rate_limit_error","message":"key upstream-key"}}'
    }))
    const routes = await start({ anthropic: url })
    const response = await post(`${routes.url}/v1/messages`, bodyFor('/messages'))
    expect([response.status, response.headers.get('retry-after'), response.headers.get('request-id')]).toEqual([
      429,
      '70',
      'req_theirs'
    ])
    expect(await response.text()).toBe('{"type":"error","error":{"type":"rate_limit_error","message":"key [redacted]"}}')
  })

  test.each([401, 403])('a %i is about the key of the gateway, not of its caller', async (status) => {
    const { url } = await startEcho(() => ({ status, body: '{"error":{"message":"Incorrect API key provided: upstream-key"}}' }))
    const routes = await start({ openai: url, anthropic: url })
    for (const path of ['/responses', '/messages']) {
      const response = await post(`${routes.url}/v1${path}`, bodyFor(path))
      expect(response.status).toBe(502)
      expect(await response.text()).not.toContain('upstream-key')
    }
  })

  test('a gateway that closes begins nothing', async () => {
    const { url, seen } = await startEcho(() => ({ body: '{}' }))
    const routes = await start({ openai: url, isClosing: () => true })
    const response = await post(`${routes.url}/v1/responses`, bodyFor('/responses'))
    expect([response.status, seen.length]).toEqual([503, 0])
  })
})

describe('a stream that breaks behind its head', () => {
  const first = {
    '/responses': sse([{ type: 'response.output_text.delta', sequence_number: 4, delta: 'so far' }]),
    '/messages': `event: content_block_delta\n${sse([{ type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: 'so far' } }])}`
  }

  async function breaking(
    path: keyof typeof first,
    ending: 'reset' | 'end' | 'stall',
    config: RoutesOptions['config'] = {}
  ): Promise<Routes> {
    const server = await startFaultServer(async (connection) => {
      await connection.request()
      await connection.write(responseHead(200, { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' }))
      await connection.write(chunk(first[path]))
      await connection.write(chunk('data: {"type":"half an ev'))
      await connection.pause(100)
      if (ending === 'reset') connection.reset()
      else if (ending === 'end') await connection.write('0\r\n\r\n')
      else await connection.pause(60_000)
    })
    onTestFinished(() => server.close())
    return start({ openai: `${server.url}/v1`, anthropic: server.url, config, transport: { retry: false } })
  }

  test.each(['reset', 'end'] as const)(
    'by a %s ends with an error event of the Responses API instead of half an event',
    async (ending) => {
      const routes = await breaking('/responses', ending)
      const response = await post(`${routes.url}/v1/responses`, { ...bodyFor('/responses'), stream: true })
      const text = await response.text()
      expect(text.startsWith(first['/responses'])).toBe(true)
      const [name, data] = text.slice(first['/responses'].length).trimEnd().split('\n')
      expect(name).toBe('event: error')
      expect(JSON.parse((data ?? '').slice(6))).toMatchObject({
        type: 'error',
        sequence_number: 5,
        code: ending === 'reset' ? 'network' : 'protocol',
        message: expect.any(String),
        error: { type: 'server_error' }
      })
    }
  )

  test.each(['reset', 'end'] as const)(
    'by a %s ends with an error event of the Messages API, and nothing behind it',
    async (ending) => {
      const routes = await breaking('/messages', ending)
      const response = await post(`${routes.url}/v1/messages`, { ...bodyFor('/messages'), stream: true })
      const text = await response.text()
      expect(text.slice(first['/messages'].length)).toMatch(
        /^event: error\ndata: \{"type":"error","error":\{"type":"api_error","message":"[^"]+"\}\}\n\n$/
      )
    }
  )

  test('makes the official clients throw', async () => {
    const responses = await breaking('/responses', 'reset')
    const openai = new OpenAI({ apiKey: 'x', baseURL: `${responses.url}/v1`, maxRetries: 0 })
    const events = async (stream: AsyncIterable<unknown>): Promise<void> => {
      for await (const _ of stream);
    }
    await expect(openai.responses.create({ model: 'm', input: 'hi', stream: true }).then(events)).rejects.toBeInstanceOf(
      OpenAI.APIError
    )
    const messages = await breaking('/messages', 'reset')
    const anthropic = new Anthropic({ apiKey: 'x', baseURL: messages.url, maxRetries: 0 })
    const asked = { model: 'm', max_tokens: 9, messages: [{ role: 'user' as const, content: 'hi' }], stream: true as const }
    await expect(anthropic.messages.create(asked).then(events)).rejects.toBeInstanceOf(Anthropic.APIError)
  })

  test('by its total time ends with that', async () => {
    const routes = await breaking('/messages', 'stall', { streamMs: 400 })
    const response = await post(`${routes.url}/v1/messages`, { ...bodyFor('/messages'), stream: true })
    expect(await response.text()).toContain('"type":"timeout_error"')
  })

  test('by the end of the gateway ends with that', async () => {
    const routes = await breaking('/responses', 'stall')
    const response = await post(`${routes.url}/v1/responses`, { ...bodyFor('/responses'), stream: true })
    await routes.transport.close({ graceMs: 0 })
    expect(await response.text()).toContain('"code":"closed"')
  })
})

const whole = {
  '/responses': {
    begin: namedSse([
      { type: 'response.created', sequence_number: 0, response: { id: 'r' } },
      { type: 'response.output_text.delta', sequence_number: 1, delta: 'hi' }
    ] as never),
    long: namedSse([
      { type: 'response.image_generation_call.partial_image', sequence_number: 2, partial_image_b64: 'A'.repeat(1_600_000) }
    ] as never),
    end: namedSse([
      {
        type: 'response.completed',
        sequence_number: 3,
        response: {
          id: 'r',
          status: 'completed',
          output: [{ type: 'message', status: 'completed', content: [{ type: 'output_text', text: 'hi' }] }],
          usage: { input_tokens: 1, output_tokens: 1 }
        }
      }
    ] as never)
  },
  '/messages': {
    begin: namedSse([
      {
        type: 'message_start',
        message: { id: 'm', type: 'message', role: 'assistant', content: [], usage: { input_tokens: 1, output_tokens: 1 } }
      },
      { type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } },
      { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: 'hi' } }
    ] as never),
    long: namedSse([
      { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text: 'A'.repeat(1_600_000) } }
    ] as never),
    end: namedSse([
      { type: 'content_block_stop', index: 0 },
      { type: 'message_delta', delta: { stop_reason: 'end_turn', stop_sequence: null }, usage: { output_tokens: 2 } },
      { type: 'message_stop' }
    ] as never)
  },
  '/chat/completions': {
    begin: sse([{ id: 'c', choices: [{ index: 0, delta: { content: 'hi' } }] }]),
    long: sse([{ id: 'c', choices: [{ index: 0, delta: { content: 'A'.repeat(1_600_000) } }] }]),
    end: sse([{ id: 'c', choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] }, '[DONE]'])
  }
} as const

/** What the contract has no words for goes through the door too. */
function chatRoutes(parts: Parts): Hono<GatewayEnv> {
  const pass = createPass(parts)
  const path = '/chat/completions'
  return passRoutes(parts).post(`/v1${path}`, async (context) => pass(context, { path, body: await context.req.text() }))
}

type Streamed = keyof typeof whole
const streamed = Object.keys(whole) as Streamed[]

/** Sends these pieces of a stream; `reset` instead of an end in order. */
async function startStream(pieces: readonly string[], end: 'end' | 'reset', headers: object = {}): Promise<Routes> {
  const server = await startFaultServer(async (connection) => {
    for (;;) {
      await connection.request()
      await connection.write(
        responseHead(200, { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked', ...headers })
      )
      for (const piece of pieces) await connection.write(chunk(piece))
      await connection.pause(50)
      if (end === 'reset') return connection.reset()
      await connection.write('0\r\n\r\n')
    }
  })
  onTestFinished(() => server.close())
  const routes = await startRoutes(chatRoutes, {
    openai: `${server.url}/v1`,
    anthropic: server.url,
    transport: { retry: false }
  })
  onTestFinished(() => routes[Symbol.asyncDispose]())
  return routes
}

const askStream = (routes: Routes, path: Streamed): Promise<Response> =>
  post(`${routes.url}/v1${path}`, { ...bodyFor(path), stream: true, store: false, temperature: 0 })

describe.each(streamed)('a stream of %s with an event of more than 1 MiB', (path) => {
  const { begin, long, end } = whole[path]

  test('arrives whole', async () => {
    const routes = await startStream([begin, long, end], 'end')
    expect((await (await askStream(routes, path)).text()) === begin + long + end).toBe(true)
  })

  test.each(['reset', 'end'] as const)('that breaks behind it by a %s tells so', async (ending) => {
    const routes = await startStream([begin, long], ending)
    const text = await (await askStream(routes, path)).text()
    expect(text.startsWith(begin + long)).toBe(true)
    const [, data] = /^(?:event: error\n)?data: (.*)\n\n$/.exec(text.slice((begin + long).length)) ?? []
    expect(JSON.parse(data ?? 'null')).toMatchObject({ error: { message: expect.any(String) } })
  })
})

test.each(streamed)(
  'an error event of %s that lacks its blank line gets one, for without it a client would drop it',
  async (path) => {
    const half = 'data: {"type":"error","error":{"type":"api_error","message":"boom","code":500}}'
    const routes = await startStream([whole[path].begin, half], 'end')
    expect(await (await askStream(routes, path)).text()).toBe(`${whole[path].begin}${half}\n\n`)
  }
)

test('a stream whose event has no end is told as one that broke, and read no further', async () => {
  let gone = false
  const { begin } = whole['/responses']
  const server = await startFaultServer(async (connection) => {
    void connection.closed.then(() => (gone = true))
    await connection.request()
    await connection.write(responseHead(200, { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' }))
    await connection.write(chunk(`${begin}data: `))
    for (;;) await connection.write(chunk('x'.repeat(1_000_000)))
  })
  onTestFinished(() => server.close())
  const routes = await start({ openai: `${server.url}/v1`, transport: { retry: false } })
  const text = await (await askStream(routes, '/responses')).text()
  expect(text.length).toBeLessThan(10_000)
  expect(text.slice(begin.length)).toMatch(/^event: error\ndata: \{"type":"error","sequence_number":2,"code":"protocol"/)
  await vi.waitFor(() => expect(gone).toBe(true), 10_000)
})

describe('a key of the gateway in a 200', () => {
  const said = 'bad key upstream-key, or sk-proj-0123456789abcdef0123'
  const harmless = 'bad key [redacted], or [redacted]'

  test.each([
    ['/responses', namedSse([{ type: 'error', sequence_number: 2, code: 'x', message: said }] as never)],
    ['/responses', namedSse([{ type: 'response.failed', response: { status: 'failed', error: { message: said } } }] as never)],
    ['/messages', namedSse([{ type: 'error', error: { type: 'api_error', message: said } }] as never)],
    ['/chat/completions', sse([{ error: { message: said } }])]
  ] as const)('is taken out of an error event of %s, and nothing out of content', async (path, event) => {
    const { begin } = whole[path]
    const content = begin.replace('"hi"', '"call it upstream-key"')
    for (const pieces of [[event], [content, event], [content + event], [content, event.slice(0, -30), event.slice(-30)]]) {
      const routes = await startStream(pieces, 'end')
      const text = await (await askStream(routes, path)).text()
      expect(text).toBe(pieces.join('').replace(said, harmless))
    }
  })

  test('is taken out of JSON that tells an error, and other JSON is as it came', async () => {
    const bodies = [
      `{ "error": {"message": "${said}"}, "n": 1.0 }`,
      `{"status": "failed", "error" : {"message": "${said}"}}`,
      `{"error": null, "output": [{"error": {"message": "${said}"}}]}`
    ]
    for (const [at, body] of bodies.entries()) {
      const { url } = await startEcho(() => ({ body }))
      const routes = await start({ openai: url })
      const response = await post(`${routes.url}/v1/responses`, bodyFor('/responses'))
      expect(await response.text()).toBe(at < 2 ? body.replace(said, harmless) : body)
    }
  })
})

test.each(['/messages', '/responses'] as const)(
  'a stream of %s is a hit the second time, byte by byte, compressed upstream or not',
  async (path) => {
    const { begin, end } = whole[path]
    for (const encoding of ['identity', 'gzip']) {
      const { url, seen } = await startEcho(() => ({
        headers: { 'content-type': 'text/event-stream', 'content-encoding': encoding },
        body: encoding === 'gzip' ? gzipSync(begin + end) : begin + end
      }))
      const routes = await start({ openai: url, anthropic: url.replace('/v1', '') })
      for (const state of ['miss', 'hit']) {
        const response = await askStream(routes, path)
        expect([response.headers.get('x-millrace-cache'), await response.text()]).toEqual([state, begin + end])
      }
      expect(seen).toHaveLength(1)
    }
  }
)

test('the wait for a limit is told to the record, of a call that was refused for it too', async () => {
  const { url } = await startEcho(() => ({ body: '{}' }))
  const routes = await start({
    openai: url,
    cache: 'off',
    limits: { limits: [{ by: 'provider', concurrency: 1 }], queueMs: 150 }
  })
  const permit = await routes.parts.limiter.acquire({ provider: 'own openai' })
  const [waiting] = [post(`${routes.url}/v1/responses`, bodyFor('/responses'))]
  await delay(60)
  permit.release()
  expect((await waiting).status).toBe(200)
  const told = routes.told.get('/v1/responses')
  expect(told?.waitedMs).toBeGreaterThan(20)
  expect(told?.waitedMs).toBeLessThan(5000)
})

describe('a stream', () => {
  test('that its client leaves ends at the provider', async () => {
    let gone = false
    const server = await startFaultServer(async (connection) => {
      void connection.closed.then(() => (gone = true))
      await connection.request()
      await connection.write(responseHead(200, { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' }))
      for (;;) {
        await connection.write(chunk(sse([{ type: 'response.output_text.delta', delta: 'word ' }])))
        await connection.pause(10)
      }
    })
    onTestFinished(() => server.close())
    const routes = await start({ openai: `${server.url}/v1` })
    const response = await post(`${routes.url}/v1/responses`, { ...bodyFor('/responses'), stream: true })
    const reader = response.body?.getReader()
    await reader?.read()
    expect(gone).toBe(false)
    await reader?.cancel()
    await vi.waitFor(() => expect(gone).toBe(true), 10_000)
  })

  test('is read no faster than its client reads', async () => {
    let written = 0
    const filler = sse([{ type: 'response.output_text.delta', delta: 'x'.repeat(60_000) }])
    const server = await startFaultServer(async (connection) => {
      await connection.request()
      await connection.write(responseHead(200, { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' }))
      for (; written < 64 * 2 ** 20; written += filler.length) await connection.write(chunk(filler))
    })
    onTestFinished(() => server.close())
    const routes = await start({ openai: `${server.url}/v1`, cache: 'off' })
    const response = await post(`${routes.url}/v1/responses`, { ...bodyFor('/responses'), stream: true })
    const reader = response.body?.getReader()
    await reader?.read()
    let before = -1
    while (before !== written) {
      before = written
      await delay(500)
    }
    // Sockets hold a few MiB on their way.
    expect(written).toBeLessThan(32 * 2 ** 20)
    await reader?.cancel()
  })
})
