import { brotliCompressSync, deflateSync, gzipSync, zstdCompressSync } from 'node:zlib'
import { isMillraceError } from '@millrace/core'
import { chunk, type FaultConnection, type FaultServer, responseHead, sse, startFaultServer } from '@millrace/testkit'
import { createTransport, readRefusal, type Transport, type TransportOptions } from '@millrace/transport'
import { afterEach, describe, expect, test } from 'vitest'
import { until } from './serve.ts'
import { failing, ofCode, post, receive } from './under-fault.ts'

const open: AsyncDisposable[] = []
afterEach(async () => {
  for (const resource of open.splice(0).toReversed()) await resource[Symbol.asyncDispose]()
})

/** Retries that do not wait and are never refused: what is tested is which failures are tried again. */
const eager = { maxAttempts: 2, baseMs: 0, maxMs: 0, budgetReserve: Number.POSITIVE_INFINITY }

function start(options?: TransportOptions): Transport {
  const transport = createTransport({ breaker: false, retry: eager, ...options })
  open.push(transport)
  return transport
}

interface Counted extends FaultServer {
  readonly requests: number
}

/** Answers each request as told, by its number from 1; the connection goes on unless the answer ends it. */
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

const json = (more: Readonly<Record<string, string | number>> = {}): Readonly<Record<string, string | number>> => ({
  'content-type': 'application/json',
  ...more
})

const words = 'The quick brown fox jumps over the lazy dog, and the dog sleeps on. Ünïcödé, 日本語, 🦊.'
const value = JSON.stringify({
  id: 'chatcmpl-1',
  choices: [{ message: { role: 'assistant', content: words } }],
  usage: { total_tokens: 21 }
})
const framings = {
  'content-length': Buffer.from(responseHead(200, json({ 'content-length': Buffer.byteLength(value) })) + value),
  chunked: Buffer.from(
    responseHead(200, json({ 'transfer-encoding': 'chunked' })) + chunk(value.slice(0, 100)) + chunk(value.slice(100)) + chunk('')
  )
}
const endings = ['reset', 'end'] as const

describe.each(Object.keys(framings) as (keyof typeof framings)[])('a JSON answer framed by %s', (framing) => {
  const answer = framings[framing]

  describe.each(endings)('and cut by %s', (ending) => {
    test(`is asked for again, wherever in its ${answer.length} bytes that is`, async () => {
      const server = await serve(async (connection, number) => {
        const at = (number - 1) >> 1
        if (number % 2 === 0) return connection.write(answer)
        if (at > 0) await connection.write(answer.subarray(0, at))
        connection[ending]()
      })
      const transport = start()
      for (let at = 0; at < answer.length; at++) {
        const response = await transport.send(post(server.url))
        expect(await response.body.text()).toBe(value)
        // A socket that was used before and closed before a byte came is replaced for free, and is no attempt.
        expect(server.requests, `cut at ${at}`).toBe(2 * (at + 1))
      }
      expect(transport.stats().origins[server.url]).toMatchObject({ busy: 0, queued: 0 })
    })

    test('is never handed on in part, through either door', async () => {
      const server = await serve(async (connection, number) => {
        const at = (number - 1) >> 1
        if (at > 0) await connection.write(answer.subarray(0, at))
        connection[ending]()
      })
      const transport = start({ retry: false })
      for (let at = 0; at < answer.length; at++) {
        for (const call of [
          () => transport.send(post(server.url)).then(({ body }) => body.text()),
          () => transport.fetch(server.url, { method: 'POST', body: '{}' }).then((response) => response.text())
        ]) {
          const error = await failing(call())
          const ours = error instanceof TypeError ? error.cause : error
          expect(isMillraceError(ours, 'network') || isMillraceError(ours, 'protocol'), `cut at ${at}: ${String(ours)}`).toBe(
            true
          )
          expect((ours as { retryable: boolean }).retryable, `cut at ${at}`).toBe(true)
        }
      }
      await until(() => server.open === 0, 'no socket is kept')
    })
  })
})

describe('the length of a body', () => {
  test('what comes behind it is not the next answer', async () => {
    const smuggled = responseHead(200, json({ 'content-length': 5 })) + '"bad"'
    const good = responseHead(200, json({ 'content-length': 6 })) + '"good"'
    const server = await serve((connection, number) => connection.write(number === 1 ? good + smuggled : good))
    const transport = start()
    for (let call = 0; call < 5; call++) {
      expect(await (await transport.send(post(server.url))).body.text()).toBe('"good"')
      if (call === 1) await new Promise((resolve) => setTimeout(resolve, 20))
    }
  })

  test('of which only a part came before a reset: that part is read, also later, and then the error', async () => {
    const server = await serve(async (connection) => {
      await connection.write(`${responseHead(200, { 'content-type': 'audio/mpeg', 'content-length': 10 })}abc`)
      await connection.pause(20)
      connection.reset()
    })
    const { body } = await start().send(post(server.url))
    await until(() => server.open === 0, 'it is reset')
    await new Promise((resolve) => setTimeout(resolve, 20))
    const { text, error } = await receive(body)
    expect(text).toBe('abc')
    expect(ofCode(error, 'network').details.phase).toBe('body')
    expect((await receive(body)).error).toBe(error)
  })

  test('longer than what comes is waited for until the total clock, and is not tried again', async () => {
    const server = await serve((connection) => connection.write(responseHead(200, json({ 'content-length': 50 })) + '{"ok":'))
    const error = await failing(start().send(post(server.url, { timeouts: { totalMs: 100 } })))
    expect(ofCode(error, 'timeout').details.clock).toBe('total')
    expect(server.requests).toBe(1)
    await until(() => server.open === 0, 'the socket is closed')
  })

  test.each([
    ['not a number', 'zz\r\n{"ok":1}\r\n0\r\n\r\n'],
    ['too short', '4\r\n{"ok":1}\r\n0\r\n\r\n'],
    ['negative', '-8\r\n{"ok":1}\r\n0\r\n\r\n'],
    ['beyond all numbers', 'ffffffffffffffffff\r\n{"ok":1}\r\n0\r\n\r\n']
  ])('a chunk whose length is %s is a protocol error, tried again', async (_, body) => {
    const head = responseHead(200, json({ 'transfer-encoding': 'chunked' }))
    const server = await serve((connection, number) =>
      connection.write(head + (number === 1 ? body : chunk('{"ok":1}') + chunk('')))
    )
    expect(await (await start().send(post(server.url))).body.text()).toBe('{"ok":1}')
    expect(server.requests).toBe(2)
    const again = await serve((connection) => connection.write(head + body))
    const error = ofCode(await failing(start({ retry: false }).send(post(again.url))), 'protocol')
    expect(error.details.reason).toBe('malformed')
    await until(() => again.open === 0, 'the socket is closed')
  })

  test.each([
    ['two lengths that differ', 'content-length: 4\r\ncontent-length: 8\r\n'],
    ['a length that is no number', 'content-length: four\r\n'],
    ['a length and chunks', 'content-length: 4\r\ntransfer-encoding: chunked\r\n']
  ])('%s are not guessed at', async (_, lines) => {
    const server = await serve((connection) =>
      connection.write(`HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n${lines}\r\n8\r\n{"ok":1}\r\n0\r\n\r\n`)
    )
    const error = await failing(start({ retry: false }).send(post(server.url)))
    expect(ofCode(error, 'protocol').details.reason).toBe('malformed')
  })

  test.each([
    ['200 of no bytes', 200, 'POST', 'content-length: 0\r\ncontent-type: application/json\r\n'],
    ['200 of no chunks', 200, 'POST', 'transfer-encoding: chunked\r\ncontent-type: application/json\r\n'],
    ['200 of no bytes that says it is compressed', 200, 'POST', 'content-length: 0\r\ncontent-encoding: gzip\r\n'],
    ['204', 204, 'POST', ''],
    ['304', 304, 'GET', 'content-length: 100\r\n'],
    ['answer to a HEAD', 200, 'HEAD', 'content-length: 300\r\ncontent-type: application/json\r\n'],
    [
      'compressed answer to a HEAD',
      200,
      'HEAD',
      'content-length: 300\r\ncontent-encoding: br\r\ncontent-type: application/json\r\n'
    ]
  ] as const)('a %s has an empty body and leaves the socket usable', async (_, status, method, lines) => {
    const end = lines.includes('chunked') ? '0\r\n\r\n' : ''
    const server = await serve((connection) => connection.write(`HTTP/1.1 ${status} OK\r\n${lines}\r\n${end}`))
    const transport = start()
    for (let call = 0; call < 3; call++) {
      const { body, ...request } = post(server.url, { method })
      const response = await transport.send(method === 'POST' ? { ...request, body } : request)
      expect(response.status).toBe(status)
      expect(await receive(response.body)).toEqual({ text: '', error: undefined })
    }
    // undici closes behind a HEAD, for servers are seen to send a body all the same, and behind a length without a body.
    if (method === 'POST') expect(server.connections).toBe(1)
  })

  test('a body that ends with its connection is whole where that is closed in order, and broken where it is reset', async () => {
    const server = await serve(async (connection, number, path) => {
      await connection.write(responseHead(200, { 'content-type': path.slice(1), connection: 'close' }) + value)
      await connection.pause(20)
      if (number % 2 === 0) connection.end()
      else connection.reset()
    })
    const transport = start({ retry: false })
    for (const type of ['text/plain', 'application/json', 'text/event-stream']) {
      const url = `${server.url}/${type}`
      const error = await failing(transport.send(post(url)).then(({ body }) => body.text()))
      expect(ofCode(error, 'network').details).toEqual({ phase: 'body', errno: 'ECONNRESET' })
      expect(await (await transport.send(post(url))).body.text()).toBe(value)
    }
  })
})

const encodings = {
  gzip: (text: string | Uint8Array) => gzipSync(text),
  'x-gzip': (text: string | Uint8Array) => gzipSync(text),
  deflate: (text: string | Uint8Array) => deflateSync(text),
  br: (text: string | Uint8Array) => brotliCompressSync(text),
  zstd: (text: string | Uint8Array) => zstdCompressSync(text)
}
const names = Object.keys(encodings) as (keyof typeof encodings)[]

/** A whole response in this encoding; the head in front. */
function encoded(encoding: string, bytes: Uint8Array, type = 'application/json', status = 200): Buffer {
  const head = responseHead(status, { 'content-type': type, 'content-encoding': encoding, 'content-length': bytes.length })
  return Buffer.concat([Buffer.from(head), bytes])
}

describe.each(names)('a body in %s', (encoding) => {
  const compressed = encodings[encoding](value)

  test.each(['application/json', 'text/plain', 'text/event-stream'])('is undone, as %s', async (type) => {
    const text = type === 'text/event-stream' ? sse([JSON.parse(value), '[DONE]']) : value
    const server = await serve((connection) => connection.write(encoded(encoding, encodings[encoding](text), type)))
    const transport = start()
    for (let call = 0; call < 3; call++) {
      const { headers, body } = await transport.send(post(server.url))
      expect(headers).not.toHaveProperty('content-encoding')
      expect(headers).not.toHaveProperty('content-length')
      expect(await receive(body)).toEqual({ text, error: undefined })
    }
    expect(await (await transport.fetch(server.url)).text()).toBe(text)
    expect(server.connections).toBe(1)
  })

  test('is undone where it comes a byte at a time', async () => {
    const answer = encoded(encoding, compressed)
    const server = await serve(async (connection) => {
      for (const byte of answer) await connection.write(Uint8Array.of(byte))
    })
    expect(await (await start().send(post(server.url))).body.text()).toBe(value)
  })

  test('that is cut on the way is asked for again', async () => {
    const answer = encoded(encoding, compressed)
    const server = await serve(async (connection, number) => {
      if (number % 2 === 0) return connection.write(answer)
      await connection.write(answer.subarray(0, answer.length - (number % 60) - 1))
      connection.reset()
    })
    const transport = start()
    for (let call = 0; call < 30; call++) expect(await (await transport.send(post(server.url))).body.text()).toBe(value)
    expect(server.requests).toBe(60)
  })

  test('that was cut before it was framed, or is corrupt at any byte, is a typed error or the right text', async () => {
    let bytes: Uint8Array = compressed
    const server = await serve((connection) => connection.write(encoded(encoding, bytes)))
    const transport = start({ retry: false })
    const outcomes = { right: 0, failed: 0 }
    const step = Math.max(1, Math.floor(compressed.length / 40))
    for (let at = 0; at < compressed.length; at += step) {
      for (const kind of ['cut', 'corrupt'] as const) {
        bytes = kind === 'cut' ? compressed.subarray(0, at) : compressed.with(at, (compressed[at] ?? 0) ^ 0xff)
        if (bytes.length === 0) continue
        const { text, error } = await transport.send(post(server.url)).then(({ body }) => receive(body))
        if (error !== undefined) {
          expect(ofCode(error, 'protocol').details.reason).toBe('encoding')
          outcomes.failed++
          // What was inflated before it is handed on, and nothing else: a checksum comes at the end only.
          if (kind === 'cut') expect(value.startsWith(text.replace(/\ufffd+$/, ''))).toBe(true)
        } else {
          outcomes.right++
          // A few bytes of a header (time, system, level) mean nothing for the text; these two have no checksum.
          if (kind === 'cut' || (encoding !== 'br' && encoding !== 'zstd')) expect(text).toBe(value)
        }
      }
    }
    expect(outcomes.failed).toBeGreaterThan(40)
  })

  test('that is corrupt ends its response, which may have no end of its own', async () => {
    const server = await serve(async (connection) => {
      await connection.write(responseHead(200, { 'content-type': 'text/plain', 'content-encoding': encoding }))
      await connection.write(Buffer.from(compressed).fill(0xff, 1))
    })
    const { error } = await receive((await start().send(post(server.url))).body)
    expect(ofCode(error, 'protocol').details.reason).toBe('encoding')
    await until(() => server.open === 0, 'the socket is closed')
  })

  test('twice is refused, and so is one that nobody knows', async () => {
    for (const name of [`${encoding}, ${encoding}`, `identity, ${encoding}`, 'rot13', '__proto__', 'constructor']) {
      const server = await serve((connection) => connection.write(encoded(name, encodings[encoding](compressed))))
      const error = ofCode(await failing(start().send(post(server.url))), 'protocol')
      expect(error.details).toEqual({ reason: 'encoding', status: 200 })
      // Not again: it would be the same, and paid for twice.
      expect(server.requests).toBe(1)
    }
  })

  test('of a stream: a reset, a cut, an abort, a cancel and a reader that leaves find each what came before', async () => {
    const events = Array.from({ length: 12 }, (_, index) => sse([{ choices: [{ delta: { content: `w${index} ` } }] }]))
    const stop = new AbortController()
    const reason = new Error('stopped')
    const server = await serve(async (connection, number) => {
      await connection.write(responseHead(200, { 'content-type': 'text/event-stream', 'content-encoding': encoding }))
      // As one compressed stream that is flushed behind each event.
      const pieces = await flushed(encoding, events)
      for (const piece of pieces.slice(0, 6)) {
        await connection.write(piece)
        await connection.pause(5)
      }
      if (number === 1) connection.reset()
      if (number === 2) connection.end()
    })
    const transport = start()
    const first = await receive((await transport.send(post(server.url))).body)
    expect(first.text).toBe(events.slice(0, 6).join(''))
    expect(ofCode(first.error, 'network').details.phase).toBe('body')

    const cut = await receive((await transport.send(post(server.url))).body)
    expect(cut.text).toBe(first.text)
    expect(ofCode(cut.error, 'protocol').details.reason).toBe('encoding')

    const second = await transport.send(post(server.url, { signal: stop.signal }))
    setTimeout(() => stop.abort(reason), 80)
    const aborted = await receive(second.body)
    expect(aborted).toEqual({ text: first.text, error: reason })

    const third = await transport.send(post(server.url))
    setTimeout(() => third.body.cancel(), 80)
    expect(ofCode((await receive(third.body)).error, 'closed')).toBeDefined()

    const fourth = await transport.send(post(server.url))
    for await (const _ of fourth.body) break
    await until(() => server.open === 0, 'all sockets are closed')
    expect(transport.stats().origins[server.url]).toMatchObject({ busy: 0 })
  })
})

/** The pieces of one compressed stream, flushed behind each text. */
async function flushed(encoding: keyof typeof encodings, texts: readonly string[]): Promise<readonly Buffer[]> {
  const { createBrotliCompress, createDeflate, createGzip, createZstdCompress } = await import('node:zlib')
  const create = {
    gzip: createGzip,
    'x-gzip': createGzip,
    deflate: createDeflate,
    br: createBrotliCompress,
    zstd: createZstdCompress
  }
  const stream = create[encoding]()
  let piece: Buffer[] = []
  stream.on('data', (bytes: Buffer) => piece.push(bytes))
  const pieces: Buffer[] = []
  for (const text of texts) {
    stream.write(text)
    await new Promise<void>((resolve) => stream.flush(resolve))
    await new Promise(setImmediate)
    pieces.push(Buffer.concat(piece))
    piece = []
  }
  return pieces
}

describe('compressed bombs', () => {
  // Sixteen megabytes of zeros as one member of a gzip file; members may follow each other.
  const member = gzipSync(Buffer.alloc(64 * 1024 * 1024), { level: 9 })

  test.each(['text/plain', 'application/json', 'text/event-stream'])(
    '10 GB out of 10 MB, sent as %s, end as a protocol error in little memory',
    async (type) => {
      const server = await serve(async (connection) => {
        await connection.write(responseHead(200, { 'content-type': type, 'content-encoding': 'gzip' }))
        for (let sent = 0; sent < 160; sent++) await connection.write(member)
        connection.end()
      })
      const transport = start({ retry: false })
      globalThis.gc?.()
      const before = process.memoryUsage.rss()
      let most = before
      const watching = setInterval(() => {
        most = Math.max(most, process.memoryUsage.rss())
      }, 1)
      const error = await failing(
        transport.send(post(server.url)).then(async ({ body }) => {
          for await (const _ of body) most = Math.max(most, process.memoryUsage.rss())
        })
      )
      clearInterval(watching)
      // As a stream it has no bound as a whole; but its first event outgrows the longest that is taken.
      expect(ofCode(error, 'protocol').details.reason).toBe('too-large')
      expect((most - before) / 1024 / 1024).toBeLessThan(64)
      await until(() => server.open === 0, 'the socket is closed')
    }
  )

  test('as a stream of comments it never comes to more than the reader takes, and the clocks end it', async () => {
    const comments = gzipSync(': \n\n'.repeat(16 * 1024 * 1024), { level: 9 })
    let sent = 0
    const server = await serve(async (connection) => {
      await connection.write(responseHead(200, { 'content-type': 'text/event-stream', 'content-encoding': 'gzip' }))
      while (sent < 2000) {
        await connection.write(comments)
        sent++
      }
    })
    const transport = start({ retry: false })
    globalThis.gc?.()
    const before = process.memoryUsage.rss()
    let most = before
    const error = await failing(
      transport.send(post(server.url, { timeouts: { firstChunkMs: 500 } })).then(async ({ body }) => {
        for await (const _ of body) most = Math.max(most, process.memoryUsage.rss())
      })
    )
    expect(ofCode(error, 'timeout').details.clock).toBe('first-chunk')
    expect((most - before) / 1024 / 1024).toBeLessThan(64)
    const { body } = await transport.send(post(server.url))
    await expect(body.text()).rejects.toThrow(/more than|longer than/)
    await until(() => server.open === 0, 'the socket is closed')
  })
})

describe('bounds', () => {
  const maxResponseBytes = 200_000

  test.each(['application/json', 'text/plain', 'audio/mpeg'])('an endless %s ends at maxResponseBytes', async (type) => {
    const server = await serve(async (connection) => {
      await connection.write(responseHead(200, { 'content-type': type }))
      for (;;) await connection.write('x'.repeat(10_000))
    })
    const transport = start({ maxResponseBytes })
    const error = await failing(transport.send(post(server.url)).then(({ body }) => body.text()))
    expect(ofCode(error, 'protocol').details.reason).toBe('too-large')
    expect(server.requests).toBe(1)
    await until(() => server.open === 0, 'the socket is closed')
  })

  test('is exact', async () => {
    const server = await serve((connection, _, path) => {
      const bytes = Number(path.slice(1))
      return connection.write(responseHead(200, { 'content-type': 'text/plain', 'content-length': bytes }) + 'x'.repeat(bytes))
    })
    const transport = start({ maxResponseBytes })
    expect(await (await transport.send(post(`${server.url}/200000`))).body.text()).toHaveLength(200_000)
    const error = await failing(transport.send(post(`${server.url}/200001`)).then(({ body }) => body.text()))
    expect(ofCode(error, 'protocol').details.reason).toBe('too-large')
  })

  test.each([400, 401, 500])('an endless body of a %s is read to 64 KiB', async (status) => {
    const server = await serve(async (connection) => {
      await connection.write(responseHead(status, { 'content-type': 'text/html' }))
      for (;;) await connection.write('x'.repeat(1000))
    })
    const transport = start()
    const response = await transport.send(post(server.url))
    expect(response.status).toBe(status)
    expect((await readRefusal(response.body)).length).toBe(65_536)
    const again = await transport.fetch(server.url, { method: 'POST', body: '{}' })
    expect((await again.text()).length).toBe(65_536)
    // Where it is tried again, each attempt is a request.
    expect(server.requests).toBe(status === 500 ? 4 : 2)
    await until(() => server.open === 0, 'the sockets are closed')
  })

  test.each(names)('a compressed error body of any size (%s) is read to 64 KiB', async (encoding) => {
    const page = '<p>sorry</p>'.repeat(100_000)
    const server = await serve((connection) => connection.write(encoded(encoding, encodings[encoding](page), 'text/html', 400)))
    const { body } = await start().send(post(server.url))
    expect(await body.text()).toBe(page.slice(0, 65_536))
  })

  test('a stalled body of a refusal costs its hint, not the call', async () => {
    const server = await serve(async (connection, number) => {
      const isGood = number % 2 === 0
      if (isGood) return connection.write(responseHead(200, json({ 'content-length': 2 })) + '{}')
      await connection.write(responseHead(500, json({ 'content-length': 100 })) + '{"error":')
    })
    const { status, attempts } = await start().send(post(server.url))
    expect([status, attempts]).toEqual([200, 2])
    const refused = await start({ retry: false }).send(post(server.url, { timeouts: { totalMs: 150 } }))
    expect(refused.status).toBe(500)
    const { text, error } = await receive(refused.body)
    expect(text).toBe('{"error":')
    expect(ofCode(error, 'timeout').details.clock).toBe('total')
  })
})

describe('what is held back', () => {
  const jsonOf = (bytes: number): string => `"${'x'.repeat(bytes - 2)}"`

  test('a JSON answer of 64 KiB that is cut at its last byte is asked for again', async () => {
    const answer = responseHead(200, json({ 'content-length': 65_536 })) + jsonOf(65_536)
    const server = await serve(async (connection, number) => {
      if (number === 2) return connection.write(answer)
      await connection.write(answer.slice(0, -1))
      connection.reset()
    })
    expect(await (await start().send(post(server.url))).body.text()).toBe(jsonOf(65_536))
    expect(server.requests).toBe(2)
  })

  test('of one byte more the head comes before the end, and a cut is an error behind the text so far', async () => {
    const answer = responseHead(200, json({ 'content-length': 65_538 })) + jsonOf(65_538)
    const server = await serve(async (connection) => {
      await connection.write(answer.slice(0, -1))
      await connection.pause(100)
      connection.reset()
    })
    const response = await start().send(post(server.url))
    const { text, error } = await receive(response.body)
    expect(text).toBe(jsonOf(65_538).slice(0, -1))
    expect(ofCode(error, 'network').details.phase).toBe('body')
    expect(server.requests).toBe(1)
  })

  test('a slow JSON answer is let go at 64 KiB', async () => {
    let sent = 0
    const server = await serve(async (connection) => {
      await connection.write(responseHead(200, json()))
      for (;;) {
        await connection.write('1'.repeat(1024))
        sent += 1024
        await connection.pause(2)
      }
    })
    const { body } = await start().send(post(server.url))
    expect(sent).toBeGreaterThan(65_536)
    expect(sent).toBeLessThan(80_000)
    body.cancel()
  })

  test.each(['audio/mpeg', 'application/x-ndjson', 'application/octet-stream', 'text/plain', 'multipart/mixed; boundary=x', ''])(
    'of other types (%s) nothing',
    async (type) => {
      let isOver = false
      const server = await serve(async (connection) => {
        await connection.write(`HTTP/1.1 200 OK\r\n${type === '' ? '' : `content-type: ${type}\r\n`}content-length: 3\r\n\r\na`)
        await connection.pause(100)
        isOver = true
        await connection.write('bc')
      })
      const { body } = await start().send(post(server.url))
      expect(isOver).toBe(false)
      const batches = body[Symbol.asyncIterator]()
      expect(Buffer.concat((await batches.next()).value as Uint8Array[]).toString()).toBe('a')
      expect(isOver).toBe(false)
      expect(Buffer.concat((await batches.next()).value as Uint8Array[]).toString()).toBe('bc')
      expect((await batches.next()).done).toBe(true)
    }
  )
})
