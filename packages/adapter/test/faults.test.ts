// Each of these was found by attack: something outlived its call, or a secret got out.
import { getEventListeners } from 'node:events'
import { inspect } from 'node:util'
import { createAdapter } from '@millrace/adapter'
import { anthropic } from '@millrace/adapter/anthropic'
import { openai } from '@millrace/adapter/openai'
import { type ChatRequest, type Chunk, channels, collect, type Provider } from '@millrace/core'
import { chunk, type FaultServer, responseHead, sse, startFaultServer, startScriptedProvider } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import { describe, expect, test } from 'vitest'
import { failure } from './failure.ts'

const ask = (content: string): ChatRequest => ({ model: 'm', messages: [{ role: 'user', content }] })
const head = responseHead(200, { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' })
const delta = (content: string, finish: string | null = null): string =>
  JSON.stringify({ id: 'c', model: 'm', choices: [{ index: 0, delta: { content }, finish_reason: finish }] })

describe('nothing outlives its call', () => {
  test('a call whose signal was aborted before is over at once, and closing does not wait for it', async () => {
    await using server = await startScriptedProvider()
    const adapter = createAdapter({ provider: openai({ apiKey: 'k', baseURL: server.url }) })
    await expect(adapter.complete(ask('x'), { signal: AbortSignal.abort('stop') })).rejects.toBe('stop')
    expect(adapter.stats().running).toBe(0)
    await adapter.close({ graceMs: 50 })
  })

  /** Says all it has to say, and then keeps the connection open without `[DONE]`. */
  const lingering = (): Promise<FaultServer> =>
    startFaultServer(async (connection) => {
      await connection.request()
      await connection.write(head + chunk(sse([delta('all'), delta('', 'stop')])))
      await connection.closed
    })

  test.each(['leaves at the text', 'aborts', 'reads on'])(
    'a reader that %s behind the finish gives the socket back',
    async (how) => {
      await using server = await lingering()
      await using transport = createTransport({ maxConnections: 1 })
      const adapter = createAdapter({ provider: openai({ apiKey: 'k', baseURL: `${server.url}/v1` }), transport })
      const controller = new AbortController()
      const reading = (async () => {
        for await (const { type } of adapter.stream(ask('x'), { signal: controller.signal })) {
          if (type === 'text' && how === 'leaves at the text') break
          if (type === 'text' && how === 'aborts') setTimeout(() => controller.abort('stop'), 50)
        }
      })()
      if (how === 'aborts') await expect(reading).rejects.toBe('stop')
      else await reading
      await expect.poll(() => Object.values(transport.stats().origins)[0]?.busy, { timeout: 4000 }).toBe(0)
      await expect.poll(() => server.open, { timeout: 4000 }).toBe(0)
      await adapter.close()
    }
  )

  test('an answer that cannot be taken in closes the connection', async () => {
    let left = false
    const flood: Provider = () => {
      let index = 0
      return {
        [Symbol.asyncIterator]: () => ({
          next: () =>
            Promise.resolve({
              done: false,
              value: { type: 'tool-call', index: index++, id: 'a', name: 'f', arguments: '{}' } as Chunk
            }),
          return() {
            left = true
            return Promise.resolve({ done: true, value: undefined })
          }
        })
      }
    }
    await using adapter = createAdapter({ provider: flood })
    const error = await failure(adapter.stream(ask('x')).completion())
    expect(error.details).toMatchObject({ reason: 'too-large' })
    expect(left).toBe(true)
    expect(adapter.stats().running).toBe(0)
  })

  test('a provider that throws at once leaves no listener', async () => {
    const broken = (() => {
      throw new Error('at once')
    }) as Provider
    const adapter = createAdapter({ provider: broken })
    const { signal } = new AbortController()
    for (let call = 0; call < 5; call++) await expect(adapter.complete(ask('x'), { signal })).rejects.toThrow('at once')
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
    await adapter.close({ graceMs: 0 })
  })

  test('closing takes its grace and no more, whatever a stream still has to say', async () => {
    await using server = await lingering()
    const adapter = createAdapter({ provider: openai({ apiKey: 'k', baseURL: `${server.url}/v1` }) })
    for await (const { type } of adapter.stream(ask('x'))) if (type === 'text') break
    const startedAt = performance.now()
    await adapter.close({ graceMs: 100 })
    expect(performance.now() - startedAt).toBeLessThan(900)
    await expect.poll(() => server.open).toBe(0)
  })

  test('an aborted batch settles what ran, pulls no more, and ends with the reason', async () => {
    await using server = await startScriptedProvider({ reply: () => ({ text: 'word '.repeat(100), tokensPerSecond: 20 }) })
    await using adapter = createAdapter({ provider: openai({ apiKey: 'k', baseURL: server.url }) })
    const controller = new AbortController()
    let pulled = 0
    function* endless(): Generator<ChatRequest> {
      for (;;) {
        pulled++
        yield ask(`question ${pulled}`)
      }
    }
    const statuses: string[] = []
    setTimeout(() => controller.abort('stop'), 100)
    await expect(
      (async () => {
        for await (const { status } of adapter.batch(endless(), { concurrency: 4, signal: controller.signal }))
          statuses.push(status)
      })()
    ).rejects.toBe('stop')
    expect(statuses).toEqual(['rejected', 'rejected', 'rejected', 'rejected'])
    expect(pulled).toBeLessThanOrEqual(5)
    const iterator = adapter.batch(endless())[Symbol.asyncIterator]()
    const pending = iterator.next()
    await expect.poll(() => server.stats().openAnswers).toBeGreaterThan(0)
    await iterator.return?.()
    expect(await pending).toEqual({ done: true, value: undefined })
    await expect.poll(() => adapter.stats().running).toBe(0)
    await expect.poll(() => server.stats().openAnswers).toBe(0)
  })
})

describe('a provider that misbehaves', () => {
  async function answering(
    body: string,
    type = 'text/event-stream',
    status = 200,
    headers: Record<string, string> = {}
  ): Promise<AsyncDisposable & { url: string }> {
    return startScriptedProvider({ reply: () => ({ status, body, headers: { 'content-type': type, ...headers } }) })
  }
  const connected = (
    server: { url: string },
    transport: { send: Parameters<ReturnType<typeof openai>['connect']>[0] },
    more: object = {}
  ): Provider => openai({ apiKey: 'KEYCANARY1234567', baseURL: server.url, ...more }).connect(transport.send)

  test('a stalled error body keeps its status', async () => {
    await using server = await startFaultServer(async (connection) => {
      await connection.request()
      await connection.write('HTTP/1.1 400 Bad Request\r\ncontent-length: 100\r\n\r\n{"er')
      await connection.closed
    })
    await using transport = createTransport({ retry: false })
    expect((await failure(collect(connected({ url: `${server.url}/v1` }, transport)(ask('x'), {})))).details).toMatchObject({
      status: 400
    })
  }, 15_000)

  test('a value nested 50,000 deep is malformed, not an overflow of the stack', async () => {
    const deep = `${'{"a":'.repeat(50_000)}1${'}'.repeat(50_000)}`
    await using transport = createTransport({ retry: false })
    await using chat = await answering(
      `{"choices":[{"message":{"tool_calls":[{"id":"a","function":{"name":"f","arguments":${deep}}}]},"finish_reason":"tool_calls"}]}`,
      'application/json'
    )
    expect((await failure(collect(connected(chat, transport)(ask('x'), { stream: false })))).details).toMatchObject({
      reason: 'malformed'
    })
    await using messages = await answering(
      `{"content":[{"type":"tool_use","id":"a","name":"f","input":${deep}}],"stop_reason":"tool_use"}`,
      'application/json'
    )
    const provider = anthropic({ apiKey: 'k', baseURL: messages.url }).connect(transport.send)
    expect((await failure(collect(provider(ask('x'), { stream: false })))).details).toMatchObject({ reason: 'malformed' })
  })

  test.each([
    ['an object', '{"message":"busy","type":"overloaded_error","code":503}'],
    ['the usual object', '{"error":{"type":"overloaded_error"}}']
  ])('an event named error with %s inside is that error', async (_, data) => {
    await using server = await answering(`event: error\ndata: ${data}\n\n`)
    await using transport = createTransport({ retry: false })
    expect((await failure(collect(connected(server, transport)(ask('x'), {})))).code).toBe('overloaded')
  })

  test('an event named error with bare text is unavailable', async () => {
    await using server = await answering('event: error\ndata: it broke\n\n')
    await using transport = createTransport({ retry: false })
    const error = await failure(collect(connected(server, transport)(ask('x'), {})))
    expect([error.code, error.providerMessage]).toEqual(['unavailable', 'it broke'])
  })

  test('a key echoed as a code, a request id or inside prose is not shown, and neither is one in a header of ours', async () => {
    const body = JSON.stringify({
      error: { code: 'KEYCANARY1234567', message: `HEADERCANARY99 ${'KEYCANARY1234567 '.repeat(600)}` }
    })
    await using server = await answering(body, 'application/json', 401, { 'x-request-id': 'KEYCANARY1234567' })
    await using transport = createTransport({ retry: false })
    const error = await failure(collect(connected(server, transport, { headers: { 'api-key': 'HEADERCANARY99' } })(ask('x'), {})))
    expect([String(error), inspect(error), JSON.stringify(error), error.providerMessage].join()).not.toContain('CANARY')
    expect(error.context.requestId).toBeUndefined()
  })
})

describe('an answer is whole', () => {
  test('completion() behind some reads has their text too', async () => {
    await using server = await startScriptedProvider({ reply: () => 'one two three' })
    await using adapter = createAdapter({ provider: openai({ apiKey: 'k', baseURL: server.url }) })
    const stream = adapter.stream(ask('x'))
    for (let read = 0; read < 3; read++) await stream.next()
    expect((await stream.completion()).text).toBe('one two three')
  })

  test('two reads at once of a bare provider are answered in turn', async () => {
    await using server = await startScriptedProvider({ reply: () => 'one two three' })
    await using transport = createTransport()
    const iterator = openai({ apiKey: 'k', baseURL: server.url }).connect(transport.send)(ask('x'), {})[Symbol.asyncIterator]()
    const results = await Promise.all(Array.from({ length: 9 }, () => iterator.next()))
    const texts = results.map(({ value }) =>
      (value as Chunk | undefined)?.type === 'text' ? (value as { text: string }).text : ''
    )
    expect(texts.join('')).toBe('one two three')
  })
})

test("an abort amid an answer that has arrived whole comes out as the caller's own reason", async () => {
  await using server = await startFaultServer(async (connection) => {
    for (;;) {
      await connection.request()
      await connection.write(head + chunk(sse([delta('a'), delta('b'), delta('c', 'stop'), '[DONE]'])) + chunk(''))
    }
  })
  await using adapter = createAdapter({ provider: openai({ apiKey: 'k', baseURL: `${server.url}/v1` }) })
  const mine = new Error('mine')
  const read: string[] = []
  const own = new AbortController()
  const stream = adapter.stream(ask('x'), { signal: own.signal })
  const reading = (async () => {
    for await (const piece of stream) {
      if (piece.type !== 'text') continue
      read.push(piece.text)
      own.abort(mine)
    }
  })()
  await expect(reading).rejects.toBe(mine)
  expect([read, stream.partial.text]).toEqual([['a'], 'a'])
  await expect(stream.completion()).rejects.toBe(mine)
})

describe('the end of a stream', () => {
  const usage = JSON.stringify({ choices: [], usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 } })

  test('usage that came in time is there, however long the reader takes or the event loop is blocked', async () => {
    await using server = await startFaultServer(async (connection) => {
      await connection.request()
      await connection.write(head + chunk(sse([delta('all'), delta('', 'stop')])))
      await connection.pause(100)
      await connection.write(chunk(sse([usage])))
      await connection.closed
    })
    await using adapter = createAdapter({ provider: openai({ apiKey: 'k', baseURL: `${server.url}/v1` }) })
    for (const block of [false, true]) {
      const stream = adapter.stream(ask('x'))
      for await (const { type } of stream) {
        if (type !== 'text') continue
        const end = performance.now() + 1300
        if (block) while (performance.now() < end);
        else await new Promise((resolve) => setTimeout(resolve, 1300))
      }
      expect(stream.partial).toMatchObject({
        text: 'all',
        finish: 'stop',
        usage: { input: { uncached: 3 }, output: { text: 2 } }
      })
    }
  })

  test('a server that says so behind each of two tool calls may take its time between them', async () => {
    const call = (index: number): string =>
      JSON.stringify({
        choices: [
          {
            index: 0,
            delta: { tool_calls: [{ index, id: `call_${index}`, function: { name: 'look', arguments: '{}' } }] },
            finish_reason: 'tool_calls'
          }
        ]
      })
    await using server = await startFaultServer(async (connection) => {
      await connection.request()
      await connection.write(head + chunk(sse([call(0)])))
      await connection.pause(1300)
      await connection.write(chunk(sse([call(1)])))
      await connection.write(chunk(sse(['[DONE]'])))
      await connection.closed
    })
    await using adapter = createAdapter({ provider: openai({ apiKey: 'k', baseURL: `${server.url}/v1` }) })
    const { toolCalls, finish } = await adapter.stream(ask('x')).completion()
    expect(toolCalls.map(({ id }) => id)).toEqual(['call_0', 'call_1'])
    expect(finish).toBe('tool-calls')
  })
})

test("an undefined limit of a call keeps the adapter's", async () => {
  await using server = await startScriptedProvider({ firstTokenMs: 1000 })
  await using adapter = createAdapter({ provider: openai({ apiKey: 'k', baseURL: server.url }), timeouts: { firstChunkMs: 80 } })
  const error = await failure(adapter.stream(ask('x'), { timeouts: { firstChunkMs: undefined } }).completion())
  expect(error.details).toMatchObject({ clock: 'first-chunk', limitMs: 80 })
})

test('a grace without end is waited for, and a batch that was never begun leaves no listener', async () => {
  await using server = await startScriptedProvider({ firstTokenMs: 100 })
  const adapter = createAdapter({ provider: openai({ apiKey: 'k', baseURL: server.url }) })
  const { signal } = new AbortController()
  const unused = adapter.batch([ask('x')], { signal })[Symbol.asyncIterator]()
  await unused.return?.()
  expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  const call = adapter.complete(ask('x'))
  await expect.poll(() => server.stats().openAnswers).toBe(1)
  await adapter.close({ graceMs: Number.POSITIVE_INFINITY })
  expect((await call).finish).toBe('stop')
})

test('every message of a call names the adapter as its owner', async () => {
  await using server = await startScriptedProvider({ reply: () => 'x' })
  await using adapter = createAdapter({ provider: openai({ apiKey: 'k', baseURL: server.url }) })
  const owners: object[] = []
  const listen = ({ owner }: { owner: object }): number => owners.push(owner)
  channels.callStart.subscribe(listen)
  channels.callEnd.subscribe(listen)
  await adapter.complete(ask('x'))
  channels.callStart.unsubscribe(listen)
  channels.callEnd.unsubscribe(listen)
  expect(owners).toHaveLength(2)
  for (const owner of owners) expect(owner).toBe(adapter)
})

describe('options', () => {
  const provider = openai({ apiKey: 'k' })
  test.each([
    [
      () => openai({ apiKey: 'k', baseUrl: 'https://my-host/v1' } as never),
      /openai has no option "baseUrl"; it has apiKey, baseURL/
    ],
    [() => openai({ apiKey: 'k', baseURL: 'http://my-host/v1' }), /allowInsecure: true/],
    [() => openai({ apiKey: 'k', maxTokensField: 'max' as never }), /maxTokensField/],
    [() => openai({ apiKey: 'k', name: 5 as never }), /name must be/],
    [() => openai(undefined as never), /openai takes an object of options/],
    [() => anthropic({ apiKey: 'k', maxTokens: 5 } as never), /anthropic has no option "maxTokens"/],
    [() => createAdapter(undefined as never), /createAdapter takes an object/],
    [() => createAdapter({ provider, cach: {} } as never), /createAdapter has no option "cach"/],
    [() => createAdapter({ provider, cache: { ttl: 5 } } as never), /createCache has no option "ttl"/],
    [() => createAdapter({ provider, cache: null } as never), /createCache takes an object/],
    [() => createAdapter({ provider, transport: { retry: 3 } } as never), /retry takes an object/],
    [() => createAdapter({ provider, operators: [{}] } as never), /operators must be a list/],
    [() => createAdapter({ provider, operators: provider } as never), /operators must be a list/],
    [() => createAdapter({ provider, tokens: { contextWindow: 1000, reserv: 5 } } as never), /tokens has no option "reserv"/],
    [() => createAdapter({ provider, timeouts: 5 } as never), /timeouts must be an object/],
    [() => createAdapter({ provider }).batch({} as never), /batch takes an array of items/]
  ])('%s is a TypeError that names the cure', (create, message) => {
    expect(create).toThrow(TypeError)
    expect(create).toThrow(message)
  })

  test('a host that is trusted may be spoken to without TLS', () => {
    expect(openai({ apiKey: 'k', baseURL: 'http://model-server:8000/v1', allowInsecure: true }).origin).toBe(
      'http://model-server:8000/v1'
    )
  })

  test('a controller in place of its signal, and null in place of a request, are told', async () => {
    await using adapter = createAdapter({ provider })
    await expect(adapter.complete(ask('x'), { signal: new AbortController() as never })).rejects.toThrow(
      /pass the signal of your AbortController/
    )
    expect((await failure(adapter.complete(null as never))).code).toBe('invalid-request')
  })
})
