import { setImmediate as tick } from 'node:timers/promises'
import { inspect } from 'node:util'
import { isMillraceError } from '@millrace/core'
import { seededRandom } from '@millrace/testkit'
import { createFetch, createTransport, type Transport } from '@millrace/transport'
import { describe, expect, test } from 'vitest'
import { json, serve, type TestServer, until } from './serve.ts'

const decoded = (bytes: Uint8Array): string => new TextDecoder().decode(bytes)

/** A stream that begins and never ends. */
const endless = (): Promise<TestServer> =>
  serve((_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n')
  })

describe('a response', () => {
  test('reads its body in every way, once', async () => {
    await using server = await serve(json({ a: [1, 2] }))
    await using transport = createTransport()
    const get = (): Promise<Response> => transport.fetch(new URL(server.url))
    expect(await (await get()).json()).toEqual({ a: [1, 2] })
    expect(decoded(await (await get()).bytes())).toBe('{"a":[1,2]}')
    expect((await (await get()).arrayBuffer()).byteLength).toBe(11)
    const blob = await (await get()).blob()
    expect([await blob.text(), blob.type]).toEqual(['{"a":[1,2]}', 'application/json'])
    let text = ''
    for await (const piece of (await get()).body as ReadableStream<Uint8Array>) text += decoded(piece)
    expect(text).toBe('{"a":[1,2]}')
    const once = await get()
    await once.text()
    expect(once.bodyUsed).toBe(true)
    expect(once.body?.locked).toBe(true)
    await expect(once.text()).rejects.toThrow(TypeError)
    expect(() => once.clone()).toThrow(TypeError)
  })

  test('reads a form', async () => {
    await using server = await serve((_, response) =>
      response.setHeader('content-type', 'application/x-www-form-urlencoded').end('a=1&b=2')
    )
    await using transport = createTransport()
    expect([...(await (await transport.fetch(server.url)).formData())]).toEqual([
      ['a', '1'],
      ['b', '2']
    ])
  })

  test('looks like one of the platform', async () => {
    await using server = await serve((request, response) => {
      response.writeHead(request.url === '/missing' ? 404 : 200, { 'x-a': '1', 'set-cookie': ['a=1', 'b=2'] }).end('body')
    })
    await using transport = createTransport()
    const response = await transport.fetch(`${server.url}/#part`)
    expect(response).toBeInstanceOf(Response)
    expect(Object.prototype.toString.call(response)).toBe('[object Response]')
    const { ok, status, statusText, type, url, redirected, bodyUsed } = response
    expect({ ok, status, statusText, type, url, redirected, bodyUsed }).toEqual({
      ok: true,
      status: 200,
      statusText: 'OK',
      type: 'basic',
      url: `${server.url}/`,
      redirected: false,
      bodyUsed: false
    })
    expect(response.headers).toBeInstanceOf(Headers)
    expect(response.headers).toBe(response.headers)
    // What SDKs advise: the same response with another body.
    const wrapped = new Response(response.body, response)
    expect([wrapped.status, wrapped.headers.get('x-a'), await wrapped.text()]).toEqual([200, '1', 'body'])
    expect(response.bodyUsed).toBe(true)
    const missing = await transport.fetch(`${server.url}/missing`)
    expect([missing.ok, missing.statusText]).toEqual([false, 'Not Found'])
  })

  test('prints neither its address, nor headers, nor body', async () => {
    await using server = await serve((_, response) => response.setHeader('x-secret', 'sk-secret').end('sk-secret'))
    await using transport = createTransport()
    const response = await transport.fetch(`${server.url}/?key=sk-secret`)
    expect(inspect(response)).toBe('Response { status: 200, bodyUsed: false }')
    expect(await response.text()).toBe('sk-secret')
  })

  test('refuses to read what a reader of its stream has, and no second one gets in beside text()', async () => {
    await using server = await serve(json({}))
    await using transport = createTransport()
    const locked = await transport.fetch(server.url)
    const reader = locked.body?.getReader()
    expect(locked.bodyUsed).toBe(false)
    await expect(locked.text()).rejects.toThrow(/has a reader/)
    expect(() => locked.clone()).toThrow(/has a reader/)
    reader?.releaseLock()
    expect(await locked.text()).toBe('{}')
    const { body } = locked
    expect(() => body?.getReader()).toThrow(TypeError)
    const given = await transport.fetch(server.url)
    await given.body?.cancel()
    expect(given.bodyUsed).toBe(true)
    await expect(given.json()).rejects.toThrow(TypeError)
  })

  test('of HEAD, 204, 205 and 304 has no body, and leaves the socket to the next call', async () => {
    await using server = await serve((request, response) => {
      response.writeHead(Number(request.url?.slice(1) || 200), { 'content-type': 'application/json' }).end()
    })
    await using transport = createTransport()
    for (const [path, method] of [
      ['/204', 'GET'],
      ['/205', 'POST'],
      ['/304', 'GET'],
      ['/200', 'HEAD']
    ] as const) {
      const response = await transport.fetch(server.url + path, { method })
      expect([response.body, await response.text(), (await response.bytes()).byteLength, response.bodyUsed]).toEqual([
        null,
        '',
        0,
        false
      ])
      expect(response.clone().body).toBe(null)
    }
    expect(server.sockets).toBe(1)
  })

  test('says that it is no JSON without quoting it', async () => {
    await using server = await serve((_, response) => response.end('<html>secret'))
    await using transport = createTransport()
    const error = await (await transport.fetch(server.url)).json().catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(SyntaxError)
    expect(String(error)).toBe('SyntaxError: the response is not JSON (12 characters)')
  })

  test('gives bytes of their own memory, not a view of what Node shares among calls', async () => {
    await using server = await serve(json({ small: true }))
    await using transport = createTransport()
    const bytes = await (await transport.fetch(server.url)).bytes()
    expect(bytes.buffer.byteLength).toBe(bytes.byteLength)
    expect((await (await transport.fetch(server.url)).arrayBuffer()).byteLength).toBe(bytes.byteLength)
  })

  test('with bytes of any kind and a few megabytes is byte for byte what was sent, read in each way', async () => {
    const seed = 20_261_123
    const random = seededRandom(seed)
    const bytes = Uint8Array.from({ length: 3 * 1024 * 1024 }, () => random() * 256)
    await using server = await serve((_, response) => response.setHeader('content-type', 'audio/mpeg').end(bytes))
    await using transport = createTransport()
    const read = [
      (response: Response) => response.bytes(),
      async (response: Response) => new Uint8Array(await response.arrayBuffer()),
      async (response: Response) => new Uint8Array(await new Response(response.body).arrayBuffer()),
      async (response: Response) => {
        const clone = response.clone()
        return (await Promise.all([clone.bytes(), response.bytes()]))[0]
      }
    ]
    for (const way of read) expect(Buffer.compare(await way(await transport.fetch(server.url)), bytes), `seed ${seed}`).toBe(0)
  })

  test('reads nothing ahead of its reader', async () => {
    let written = 0
    await using server = await serve(async (_, response) => {
      response.writeHead(200, { 'content-type': 'application/octet-stream' })
      for (; written < 500 && !response.destroyed; written++) {
        if (!response.write(Buffer.alloc(64 * 1024)))
          await new Promise((resolve) => response.once('drain', resolve).once('close', resolve))
      }
    })
    await using transport = createTransport({ maxResponseBytes: 1e9 })
    const response = await transport.fetch(server.url)
    const reader = (response.body as ReadableStream<Uint8Array>).getReader()
    await reader.read()
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect(written).toBeLessThan(200)
    await reader.cancel()
    await until(() => server.open === 0, 'the socket is closed')
  })
})

describe('a clone', () => {
  const text = 'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'.repeat(100)

  async function streaming(): Promise<TestServer> {
    return serve((_, response) => void response.writeHead(200, { 'content-type': 'text/event-stream' }).end(text))
  }

  test('can be read before, beside and behind the original, each in its own way', async () => {
    await using server = await streaming()
    await using transport = createTransport()
    const read = async (body: ReadableStream<Uint8Array> | null): Promise<string> => {
      let all = ''
      for await (const piece of body as ReadableStream<Uint8Array>) all += decoded(piece)
      return all
    }
    const first = await transport.fetch(server.url)
    expect(await first.clone().text()).toBe(text)
    expect(await first.clone().text()).toBe(text)
    expect(await first.text()).toBe(text)
    const second = await transport.fetch(server.url)
    // As the Anthropic client's middleware does: it looks at the stream before it makes the clone.
    expect(second.body?.locked).toBe(false)
    const clone = second.clone()
    expect(await Promise.all([read(second.body), read(clone.body)])).toEqual([text, text])
    const third = await transport.fetch(server.url)
    const [a, b] = [third.clone(), third.clone()]
    expect(await third.text()).toBe(text)
    expect(await Promise.all([a.text(), read(b.body)])).toEqual([text, text])
    expect([a.status, a.url, a.headers.get('content-type')]).toEqual([200, server.url, 'text/event-stream'])
  })

  test('has bytes of its own', async () => {
    await using server = await serve(json({ a: 1 }))
    await using transport = createTransport()
    const response = await transport.fetch(server.url)
    const clone = response.clone()
    for await (const piece of clone.body as ReadableStream<Uint8Array>) piece.fill(0)
    expect(await response.json()).toEqual({ a: 1 })
  })

  test('closes the socket when both have been given up, not before', async () => {
    await using server = await endless()
    await using transport = createTransport()
    const response = await transport.fetch(server.url)
    const clone = response.clone()
    await clone.body?.cancel()
    const reader = response.body?.getReader()
    expect(decoded((await reader?.read())?.value as Uint8Array)).toContain('Hi')
    expect(server.open).toBe(1)
    await reader?.cancel()
    await until(() => server.open === 0, 'the socket is closed')
  })

  test('fails with what the body fails with', async () => {
    await using server = await endless()
    await using transport = createTransport()
    const controller = new AbortController()
    const response = await transport.fetch(server.url, { signal: controller.signal })
    const both = [response.clone().text(), response.text()].map((reading) => reading.catch((error: unknown) => error))
    controller.abort('stop')
    expect(await Promise.all(both)).toEqual(['stop', 'stop'])
  })

  test('that is left 16 MiB behind fails, and the other one is read on', async () => {
    const bytes = 20 * 1024 * 1024
    await using server = await serve((_, response) => response.end(Buffer.alloc(bytes)))
    await using transport = createTransport({ maxResponseBytes: 2 * bytes })
    const response = await transport.fetch(server.url)
    const clone = response.clone()
    expect((await response.bytes()).byteLength).toBe(bytes)
    const error = await clone.bytes().catch((thrown: unknown) => thrown)
    expect(isMillraceError(error, 'protocol') && error.details.reason).toBe('too-large')
    const long = (await transport.fetch(server.url)).clone().text()
    await expect(long).rejects.toMatchObject({ code: 'protocol', details: { reason: 'too-large' } })
  })
})

describe('a response that is dropped', () => {
  /** Whether the socket of a response is still open after thorough collections; `hold` says what of it is kept. */
  async function openAfter(hold: (response: Response) => unknown, content: 'stream' | 'bytes' = 'stream'): Promise<boolean> {
    await using server =
      content === 'stream' ? await endless() : await serve((_, response) => void response.write('some bytes, and more to come'))
    await using transport = createTransport({ timeouts: { idleMs: Number.POSITIVE_INFINITY } })
    const held = await fetchAndHold(transport, server.url, hold)
    for (let round = 0; round < 20 && server.open > 0; round++) await collect()
    const open = server.open > 0
    expect(transport.stats().origins[server.url]?.busy).toBe(open ? 1 : 0)
    Reflect.get(held, 'value') // kept until here
    await transport.close({ graceMs: 0 })
    return open
  }

  /** In a function of its own, so that nothing of the response is left on the stack. */
  async function fetchAndHold(
    transport: Transport,
    url: string,
    hold: (response: Response) => unknown
  ): Promise<{ value: unknown }> {
    return { value: await hold(await transport.fetch(url)) }
  }

  async function collect(): Promise<void> {
    globalThis.gc?.()
    await tick()
    await new Promise((resolve) => setTimeout(resolve, 10))
  }

  const dropped: readonly [what: string, hold: (response: Response) => unknown][] = [
    ['unread', () => undefined],
    ['with its headers kept', (response) => response.headers],
    ['with its stream asked for', (response) => void response.body],
    ['with its stream begun', async (response) => void (await response.body?.getReader().read())],
    ['with a loop left alone within it', async (response) => void (await response.body?.values().next())],
    ['with a clone', (response) => void response.clone()],
    ['behind a clone that was given up', (response) => response.clone().body?.cancel()]
  ]
  test.each(dropped)('%s closes its socket', async (_, hold) => {
    expect(await openAfter(hold)).toBe(false)
    expect(await openAfter(hold, 'bytes')).toBe(false)
  })

  const kept: readonly [what: string, hold: (response: Response) => unknown][] = [
    ['it is kept', (response) => response],
    ['only its stream is kept', (response) => response.body],
    ['only a reader is kept', (response) => response.body?.getReader()],
    ['only an iterator is kept', (response) => response.body?.[Symbol.asyncIterator]()],
    ['only a stream made of it is kept', (response) => response.body?.pipeThrough(new TextDecoderStream())],
    ['only a response made of it is kept', (response) => new Response(response.body, response)],
    ['only a clone is kept', (response) => response.clone()],
    ['it is being read as text', (response) => void response.text().catch(() => {})],
    ['a read of its stream is pending', (response) => void drain(response).catch(() => {})]
  ]
  test.each(kept)('keeps its socket while %s', async (_, hold) => {
    expect(await openAfter(hold)).toBe(true)
  })

  async function drain(response: Response): Promise<void> {
    for await (const _ of response.body as ReadableStream<Uint8Array>);
  }

  test('and read to its end before, leaves the socket to the next call', async () => {
    await using server = await serve(
      (_, response) => void response.writeHead(200, { 'content-type': 'text/event-stream' }).end('data: [DONE]\n\n')
    )
    await using transport = createTransport({ retry: false })
    for (let call = 0; call < 20; call++) {
      await drain(await transport.fetch(server.url))
      if (call % 5 === 0) await collect()
    }
    expect(server.sockets).toBe(1)
  })

  test('is noticed by a fetch of its own too, for as long as that is held', async () => {
    await using server = await endless()
    await using transport = createTransport()
    const fetch = createFetch(transport.send)
    await fetchAndHold({ fetch } as Transport, server.url, () => undefined)
    for (let round = 0; round < 20 && server.open > 0; round++) await collect()
    expect(server.open).toBe(0)
    // Held until here.
    expect(fetch).toBeTypeOf('function')
  })
})
