import { getEventListeners } from 'node:events'
import { connect } from 'node:net'
import { gzipSync } from 'node:zlib'
import { isMillraceError } from '@millrace/core'
import { chunk, type FaultConnection, type FaultServer, namedSse, responseHead, sse, startFaultServer } from '@millrace/testkit'
import { createTransport, type Transport, type TransportOptions } from '@millrace/transport'
import { afterEach, describe, expect, test } from 'vitest'
import { until } from './serve.ts'
import { failing, ofCode, post, receive } from './under-fault.ts'

const open: AsyncDisposable[] = []
afterEach(async () => {
  for (const resource of open.splice(0).toReversed()) await resource[Symbol.asyncDispose]()
})

const eager = { maxAttempts: 2, baseMs: 0, maxMs: 0, budgetReserve: Number.POSITIVE_INFINITY }

function start(options?: TransportOptions): Transport {
  const transport = createTransport({ breaker: false, retry: eager, ...options })
  open.push(transport)
  return transport
}

interface Counted extends FaultServer {
  readonly requests: number
}

async function serve(
  answer: (connection: FaultConnection, number: number, path: string) => Promise<unknown> | void
): Promise<Counted> {
  let requests = 0
  const server = await startFaultServer(async (connection) => {
    for (;;) {
      const { path } = await connection.request()
      await answer(connection, ++requests, path)
    }
  })
  open.push(server)
  return Object.create(server, { requests: { get: () => requests } }) as Counted
}

const chunkOf = (delta: object, finish: string | null = null): string =>
  sse([{ id: 'c1', object: 'chat.completion.chunk', choices: [{ index: 0, delta, finish_reason: finish }] }])

/** Twelve events each, as these two APIs send them; `content` is the number of the first one that holds any. */
const recorded = {
  openai: {
    events: [
      chunkOf({ role: 'assistant', content: '' }),
      ...['The ', 'quick ', 'brown ', 'fox ', 'jumps ', 'over ', 'it', '.'].map((content) => chunkOf({ content })),
      chunkOf({}, 'stop'),
      sse([{ id: 'c1', choices: [], usage: { prompt_tokens: 5, completion_tokens: 8 } }]),
      sse(['[DONE]'])
    ],
    content: 1,
    overloaded: sse([{ error: { message: 'busy', type: 'server_error', code: 'server_error' } }]),
    invalid: sse([{ error: { message: 'no', type: 'invalid_request_error', code: 'invalid_prompt' } }])
  },
  anthropic: {
    events: [
      namedSse([
        { type: 'message_start', message: { id: 'm1', role: 'assistant', content: [], usage: { input_tokens: 5 } } }
      ] as never),
      namedSse([{ type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } }] as never),
      namedSse([{ type: 'ping' }]),
      ...['The ', 'quick ', 'brown ', 'fox ', 'jumps', '.'].map((text) =>
        namedSse([{ type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text } }] as never)
      ),
      namedSse([{ type: 'content_block_stop', index: 0 }] as never),
      namedSse([{ type: 'message_delta', delta: { stop_reason: 'end_turn' }, usage: { output_tokens: 8 } }] as never),
      namedSse([{ type: 'message_stop' }])
    ],
    content: 3,
    overloaded: namedSse([{ type: 'error', error: { type: 'overloaded_error', message: 'busy' } }] as never),
    invalid: namedSse([{ type: 'error', error: { type: 'invalid_request_error', message: 'no' } }] as never)
  }
} as const

const chunked = responseHead(200, { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' })
const toTheEnd = responseHead(200, { 'content-type': 'text/event-stream; charset=utf-8', connection: 'close' })

describe.each(['openai', 'anthropic'] as const)('a stream of %s with a fault behind each of its events', (api) => {
  const { events, content, overloaded, invalid } = recorded[api]
  const whole = events.join('')
  const good = chunked + events.map(chunk).join('') + chunk('')
  const points = events.map((_, at) => at)

  /** The first request of each pair meets the fault, the second goes well. */
  async function faulty(
    fault: (connection: FaultConnection) => Promise<unknown> | void,
    head: string,
    behind: number
  ): Promise<Counted> {
    return serve(async (connection, number) => {
      if (number > 1) return connection.write(good)
      await connection.write(head)
      for (const event of events.slice(0, behind)) await connection.write(head === chunked ? chunk(event) : event)
      // So that what was written is not lost with a reset.
      await connection.pause(10)
      await fault(connection)
    })
  }

  const breaks = {
    'a reset': (connection: FaultConnection) => connection.reset(),
    'an end within chunks': (connection: FaultConnection) => connection.end(),
    'an end within an event': async (connection: FaultConnection) => {
      await connection.write('20\r\ndata: {"choices":[{"del')
      connection.end()
    }
  }

  test.each(Object.entries(breaks))('%s is tried again before the first content, and never behind it', async (_, fault) => {
    for (const at of points) {
      const server = await faulty(fault, chunked, at)
      const transport = start()
      const { body, attempts } = await transport.send(post(server.url))
      const { text, error } = await receive(body)
      if (at <= content) {
        expect([at, text, error, attempts]).toEqual([at, whole, undefined, 2])
        expect(server.requests).toBe(2)
      } else {
        expect(text.startsWith(events.slice(0, at).join(''))).toBe(true)
        expect(isMillraceError(error, 'network') || isMillraceError(error, 'protocol'), `${at}: ${String(error)}`).toBe(true)
        expect(server.requests).toBe(1)
      }
      expect(transport.stats().origins[server.url]).toMatchObject({ busy: 0, queued: 0 })
    }
  })

  test('an end in order is tried again before the first content, and is the end behind it', async () => {
    for (const at of points) {
      const server = await faulty((connection) => connection.end(), toTheEnd, at)
      const { body, refusal } = await start().send(post(server.url))
      expect(refusal).toBeUndefined()
      const { text, error } = await receive(body)
      expect([text, error]).toEqual([at <= content ? whole : events.slice(0, at).join(''), undefined])
      expect(server.requests).toBe(at <= content ? 2 : 1)
    }
  })

  test('a stall is ended by the first-chunk or the idle clock, and not tried again', async () => {
    await Promise.all(
      points.map(async (at) => {
        const server = await faulty(() => {}, chunked, at)
        const timeouts = { firstChunkMs: 150, idleMs: 150 }
        const { text, error } = await start()
          .send(post(server.url, { timeouts }))
          .then(({ body }) => receive(body))
          .catch((failure: unknown) => ({ text: '', error: failure }))
        expect(ofCode(error, 'timeout').details.clock).toBe(at <= content ? 'first-chunk' : 'idle')
        expect(text).toBe(at <= content ? '' : events.slice(0, at).join(''))
        expect(server.requests).toBe(1)
        await until(() => server.open === 0, 'the socket is closed')
      })
    )
  })

  test('an error event is tried again before the first content, and handed on behind it', async () => {
    for (const at of points) {
      const server = await faulty((connection) => connection.write(chunk(overloaded) + chunk('')), chunked, at)
      const { body, refusal } = await start().send(post(server.url))
      expect(refusal).toBeUndefined()
      const { text } = await receive(body)
      expect(text).toBe(at <= content ? whole : events.slice(0, at).join('') + overloaded)
      expect(server.requests).toBe(at <= content ? 2 : 1)
    }
  })

  test('an error first that is the caller’s own is not tried again, and is handed on as it came', async () => {
    const server = await serve((connection) => connection.write(chunked + chunk(invalid) + chunk('')))
    const { body, status, refusal } = await start().send(post(server.url))
    expect([status, refusal]).toEqual([200, 400])
    expect(await body.text()).toBe(invalid)
    expect(server.requests).toBe(1)
    expect(await (await start().fetch(server.url, { method: 'POST', body: '{}' })).text()).toBe(invalid)
  })

  test('what arrived before a reset is read, also by a reader who comes later', async () => {
    const server = await faulty((connection) => connection.reset(), chunked, content + 3)
    const { body } = await start().send(post(server.url))
    await new Promise((resolve) => setTimeout(resolve, 60))
    const { text, error } = await receive(body)
    expect(text).toBe(events.slice(0, content + 3).join(''))
    expect(ofCode(error, 'network').details.phase).toBe('body')
    // And again, to whoever asks again.
    expect((await receive(body)).error).toBe(error)
  })

  test('is whole in any cut, a byte at a time', async () => {
    const server = await serve(async (connection) => {
      for (const byte of Buffer.from(good)) await connection.write(Uint8Array.of(byte))
    })
    expect(await receive((await start().send(post(server.url))).body)).toEqual({ text: whole, error: undefined })
    expect(server.requests).toBe(1)
  })
})

describe('a stream without content', () => {
  test.each([
    ['nothing at all', ''],
    ['only [DONE]', sse(['[DONE]'])],
    ['only heartbeats', ': keep-alive\n\nevent: ping\ndata: {"type":"ping"}\n\n'],
    ['only a role', chunkOf({ role: 'assistant' })],
    ['half an event', 'data: {"choices":[{"delta":{"content":"Hel'],
    ['an error it does not name', 'event: error\ndata: \n\n']
  ])('of %s is tried again, and handed on with the status it stands for when it stays so', async (_, text) => {
    const again = await serve((connection, number) => {
      const body = number === 1 ? text : recorded.openai.events.join('')
      return connection.write(chunked + (body === '' ? '' : chunk(body)) + chunk(''))
    })
    const response = await start().send(post(again.url))
    expect(await response.body.text()).toBe(recorded.openai.events.join(''))
    expect(response).toMatchObject({ attempts: 2 })
    expect(response.refusal).toBeUndefined()

    const stays = await serve((connection) => connection.write(chunked + (text === '' ? '' : chunk(text)) + chunk('')))
    const last = await start().send(post(stays.url))
    expect(last).toMatchObject({ status: 200, attempts: 2 })
    expect(last.refusal).toBeGreaterThanOrEqual(500)
    expect(await last.body.text()).toBe(text)
    expect(stays.requests).toBe(2)
  })

  test('of a finish reason alone is a whole answer that is empty', async () => {
    const text = chunkOf({ role: 'assistant' }) + chunkOf({}, 'stop') + sse(['[DONE]'])
    const server = await serve((connection) => connection.write(chunked + chunk(text) + chunk('')))
    const response = await start().send(post(server.url))
    expect(response.refusal).toBeUndefined()
    expect(await response.body.text()).toBe(text)
    expect(server.requests).toBe(1)
  })
})

describe('bounds', () => {
  test('a flood of comments before the first content is let go at 64 KiB', async () => {
    let sent = 0
    const server = await serve(async (connection) => {
      await connection.write(toTheEnd)
      for (;;) {
        await connection.write(`: ${'x'.repeat(1000)}\n\n`)
        sent += 1004
        await connection.pause(1)
      }
    })
    const { body } = await start().send(post(server.url))
    expect(sent).toBeGreaterThan(65_000)
    expect(sent).toBeLessThan(90_000)
    body.cancel()
    await until(() => server.open === 0, 'the socket is closed')
  })

  test.each([
    ['a line', 'data: ', 'x'.repeat(10_000)],
    ['an event of many lines', '', `data: ${'x'.repeat(10_000)}\n`],
    ['a comment', ': ', 'x'.repeat(10_000)]
  ])('%s without end is a protocol error past 1 MiB, behind what came before, and is not tried again', async (_, first, more) => {
    const server = await serve(async (connection) => {
      await connection.write(toTheEnd + recorded.openai.events.slice(0, 3).join('') + first)
      for (;;) await connection.write(more)
    })
    const { body } = await start().send(post(server.url))
    const { text, error } = await receive(body)
    expect(text.startsWith(recorded.openai.events.slice(0, 3).join(''))).toBe(true)
    expect(text.length).toBeLessThan(2.5 * 1024 * 1024)
    expect(ofCode(error, 'protocol').details.reason).toBe('too-large')
    expect(server.requests).toBe(1)
    await until(() => server.open === 0, 'the socket is closed')
  })

  test('an event beyond maxEventChars before any content fails the call, leaves no socket and no listener', async () => {
    const server = await serve((connection) => connection.write(`${toTheEnd}data: ${'x'.repeat(5000)}`))
    const transport = start({ maxEventChars: 1000 })
    const { signal } = new AbortController()
    const error = await failing(transport.send(post(server.url, { signal })))
    expect(ofCode(error, 'protocol').details.reason).toBe('too-large')
    expect(server.requests).toBe(1)
    await until(() => server.open === 0, 'the socket is closed')
    expect(transport.stats().origins[server.url]).toMatchObject({ busy: 0 })
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  })

  test('an event beyond maxEventChars right behind content is told behind that content', async () => {
    const before = recorded.openai.events.slice(0, 2).join('')
    const line = `data: ${'x'.repeat(5000)}`
    // The response is still under way, or whole: then its socket is as good as before.
    for (const response of [toTheEnd + before + line, chunked + chunk(`${before}${line}\n\n`) + chunk('')]) {
      const server = await serve((connection) => connection.write(response))
      const { body } = await start({ maxEventChars: 1000 }).send(post(server.url))
      const { text, error } = await receive(body)
      expect(text.startsWith(before)).toBe(true)
      expect(ofCode(error, 'protocol').details.reason).toBe('too-large')
      expect((await receive(body)).error).toBe(error)
      if (response.startsWith(toTheEnd)) await until(() => server.open === 0, 'the socket is closed')
    }
  })

  test('the text of a stream is bounded by maxResponseBytes; read in batches it has no end', async () => {
    const event = chunkOf({ content: 'x'.repeat(1000) })
    const server = await serve(async (connection) => {
      await connection.write(toTheEnd)
      for (;;) await connection.write(event)
    })
    const transport = start({ maxResponseBytes: 100_000 })
    const error = await failing(transport.send(post(server.url)).then(({ body }) => body.text()))
    expect(ofCode(error, 'protocol').details.reason).toBe('too-large')
    const { body } = await transport.send(post(server.url))
    let bytes = 0
    for await (const batch of body) {
      for (const piece of batch) bytes += piece.byteLength
      if (bytes > 1_000_000) break
    }
    await until(() => server.open === 0, 'the sockets are closed')
  })

  test.each(['identity', 'gzip'])('a reader that pauses holds the server back (%s)', async (encoding) => {
    // Random text, so that it is as long when it is compressed.
    const letters = Buffer.from(crypto.getRandomValues(new Uint8Array(45_000))).toString('base64')
    const event = Buffer.from(chunkOf({ content: letters }))
    const piece = encoding === 'gzip' ? gzipSync(event, { level: 0 }) : event
    const accepted: number[] = []
    const server = await serve(async (connection, number) => {
      const headers = encoding === 'gzip' ? { 'content-encoding': 'gzip' } : {}
      await connection.write(responseHead(200, { 'content-type': 'text/event-stream', ...headers }))
      for (let bytes = 0; bytes < 200_000_000; accepted[number - 1] = bytes += piece.length) await connection.write(piece)
    })
    const { hostname, port } = new URL(server.url)
    const request = 'POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}'
    const bare = connect(Number(port), hostname, () => bare.write(request)).pause()
    await until(() => server.requests === 1, 'the bare socket has asked')
    const { body } = await start().send(post(server.url))
    const batches = body[Symbol.asyncIterator]()
    const { value } = await batches.next()
    expect(Buffer.concat(value as Uint8Array[]).length).toBeGreaterThan(0)
    await new Promise((resolve) => setTimeout(resolve, 500))
    const [ofKernels = 0, ours = 0] = accepted
    bare.destroy()
    body.cancel()
    // The two kernels take what they take, more of a socket that has been read from (its window grows, up to some MiB on a
    // busy machine); beside it there are 256 KiB of ours. Nothing near the 200 MB that wait.
    expect(ours - ofKernels).toBeLessThan(8 * 1024 * 1024)
    await until(() => server.open === 0, 'the sockets are closed')
  })

  test('a reader that is slow for long is never given more than a few pieces at a time', async () => {
    const event = chunkOf({ content: 'x'.repeat(10_000) })
    const server = await serve(async (connection) => {
      await connection.write(toTheEnd)
      for (;;) await connection.write(event)
    })
    const { body } = await start().send(post(server.url))
    let most = 0
    let batches = 0
    for await (const batch of body) {
      most = Math.max(most, Buffer.concat(batch).length)
      await new Promise((resolve) => setTimeout(resolve, 20))
      if (batches++ === 20) break
    }
    expect(most).toBeGreaterThan(65_536)
    expect(most).toBeLessThan(400 * 1024)
  })
})

describe('a reader', () => {
  const endless = (connection: FaultConnection): Promise<void> =>
    (async () => {
      await connection.write(toTheEnd)
      for (;;) {
        await connection.write(recorded.openai.events[1] ?? '')
        await connection.pause(5)
      }
    })()

  test.each(['leaves the loop', 'throws', 'cancels', 'returns while it waits'])(
    'that %s closes the socket at once',
    async (how) => {
      const server = await serve(endless)
      const transport = start()
      const { signal } = new AbortController()
      const { body } = await transport.send(post(server.url, { signal }))
      if (how === 'leaves the loop') for await (const _ of body) break
      if (how === 'cancels') body.cancel()
      if (how === 'throws') {
        const reading = async (): Promise<void> => {
          for await (const _ of body) throw new Error('of the reader')
        }
        await expect(reading()).rejects.toThrow('of the reader')
      }
      if (how === 'returns while it waits') {
        const batches = body[Symbol.asyncIterator]()
        await batches.next()
        await batches.next()
        const pending = batches.next()
        await batches.return?.()
        // What is being waited for ends too: with an error, or with what came in the same moment.
        await pending.catch((error: unknown) => ofCode(error, 'closed'))
      }
      await until(() => server.open === 0, 'the socket is closed')
      expect(transport.stats().origins[server.url]).toMatchObject({ busy: 0, open: 0 })
      expect(getEventListeners(signal, 'abort')).toHaveLength(0)
    }
  )

  test.each(['leaves the loop', 'cancels'])('of a fetch that %s closes the socket at once', async (how) => {
    const server = await serve(endless)
    const transport = start()
    const { signal } = new AbortController()
    const response = await transport.fetch(server.url, { method: 'POST', body: '{}', signal })
    if (how === 'leaves the loop') for await (const _ of response.body ?? []) break
    else await response.body?.cancel()
    await until(() => server.open === 0, 'the socket is closed')
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  })

  test('that forgets the body is ended by the total clock', async () => {
    const server = await serve(endless)
    const transport = start()
    const { signal } = new AbortController()
    const { body } = await transport.send(post(server.url, { signal, timeouts: { totalMs: 200 } }))
    for (const batches = body[Symbol.asyncIterator](); ; ) {
      await batches.next()
      break
    }
    await until(() => server.open === 0, 'the socket is closed')
    expect(transport.stats().origins[server.url]).toMatchObject({ busy: 0 })
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  })
})
