import { getEventListeners, once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import { connect as connectHttp2 } from 'node:http2'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay, setImmediate } from 'node:timers/promises'
import { type Chunk, parseSSE } from '@millrace/core'
import { chunk as framed, heapAfterGc, responseHead, sse, startFaultServer } from '@millrace/testkit'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { openaiEvents } from '../src/openai-events.ts'
import type { SSESource, SSEWriteOptions } from '../src/sse-options.ts'
import { writeSSE } from '../src/write-sse.ts'
import { fed, finish, from, start, text } from './source.ts'
import { ask, type Kind, type Served, serve } from './sse-servers.ts'

const open: AsyncDisposable[] = []
afterEach(async () => {
  for (const resource of open.splice(0)) await resource[Symbol.asyncDispose]()
})

async function serving(kind: Kind, source: SSESource, options: SSEWriteOptions = {}): Promise<Served> {
  const served = await serve(kind, () => ({ source, options }))
  open.push(served)
  return served
}

interface Answer {
  readonly status: number
  readonly headers: Record<string, unknown>
  readonly body: AsyncIterable<Uint8Array>
  leave(): void
}

async function get(kind: Kind, { url }: Served): Promise<Answer> {
  if (kind !== 'http2') {
    const controller = new AbortController()
    const response = await fetch(url, { signal: controller.signal })
    return {
      status: response.status,
      headers: Object.fromEntries(response.headers),
      body: response.body as never,
      leave: () => controller.abort()
    }
  }
  const session = connectHttp2(url)
  open.push({ [Symbol.asyncDispose]: async () => session.destroy() })
  const request = session.request({ ':path': '/' })
  request.on('error', () => {})
  const [headers] = (await once(request, 'response')) as [Record<string, unknown>]
  return { status: headers[':status'] as number, headers, body: request, leave: () => request.close(8) }
}

async function textOf(body: AsyncIterable<Uint8Array>): Promise<string> {
  const decoder = new TextDecoder()
  let all = ''
  for await (const piece of body) all += decoder.decode(piece, { stream: true })
  return all
}

const event = (chunk: Chunk): string => `data: ${JSON.stringify(chunk)}\n\n`
const whole = [start, text('Grüße 😀'), finish]

describe.each<Kind>(['http', 'http2', 'web'])('over %s', (kind) => {
  test('a browser gets each chunk as an event, under the head of a stream of events', async () => {
    const served = await serving(kind, from(whole), { status: 201, headers: { 'X-Request-Id': '7' } })
    const { status, headers, body } = await get(kind, served)
    expect(status).toBe(201)
    expect(headers).toMatchObject({
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache, no-transform',
      'x-accel-buffering': 'no',
      'x-request-id': '7'
    })
    const got: unknown[] = []
    for await (const { event: name, data } of parseSSE(body)) got.push([name, JSON.parse(data)])
    expect(got).toEqual(whole.map((chunk) => ['message', chunk]))
    if (kind !== 'web') await expect.poll(() => served.ends).toEqual(['done'])
  })

  test('notes known before the first content become headers', async () => {
    const note: Chunk = { type: 'note', from: 'cache', facts: { state: 'hit' } }
    const served = await serving(kind, from([start, note, ...whole.slice(1)]), {
      headers: ({ cache }) => ({ 'x-cache': cache?.state === 'hit' ? 'hit' : 'none' })
    })
    const { headers, body } = await get(kind, served)
    expect(headers['x-cache']).toBe('hit')
    await textOf(body)
  })

  test('heartbeats keep a silent connection, before the first chunk too', async () => {
    const source = fed()
    const served = await serving(kind, source, { headWithinMs: 10, heartbeatMs: 20 })
    const { body } = await get(kind, served)
    const iterator = body[Symbol.asyncIterator]()
    let beats = ''
    while (beats.length < 6) beats += Buffer.from((await iterator.next()).value as Uint8Array).toString()
    expect(beats).toMatch(/^(:\n\n)+$/)
    for (const chunk of whole) source.give(chunk)
    source.end()
    const rest = await textOf({ [Symbol.asyncIterator]: () => iterator })
    expect(rest.replaceAll(':\n\n', '')).toBe(whole.map(event).join(''))
  })

  test('a stream that breaks ends with an error event that tells no secret', async () => {
    const source = fed()
    const errors: unknown[] = []
    const served = await serving(kind, source, { format: openaiEvents(), onError: (error) => errors.push(error) })
    source.give(start)
    source.give(text('so far'))
    const { body } = await get(kind, served)
    const failure = new Error('sk-secret', { cause: 'sk-secret' })
    source.fail(failure)
    const all = await textOf(body)
    expect(all).toMatch(/so far[^]*data: {"error":{.*"internal_error"}}\n\n$/)
    expect(all).not.toMatch(/DONE|sk-secret/)
    expect(errors).toEqual([failure])
    if (kind !== 'web') await expect.poll(() => served.ends).toEqual(['failed'])
  })

  test('a stream that breaks before its first content leaves the response to the caller', async () => {
    const source = fed()
    source.give(start)
    source.fail('no luck')
    const { status, body } = await get(kind, await serving(kind, source))
    expect([status, await textOf(body)]).toEqual([502, 'no luck'])
  })

  describe('a client that leaves', () => {
    test.each([
      ['after the first chunk, in silence', [start, text('a')]],
      ['before the first chunk, after the head', []]
    ])('%s ends the source at once', async (_, chunks) => {
      const source = fed()
      const errors: unknown[] = []
      const served = await serving(kind, source, { headWithinMs: 20, onError: (error) => errors.push(error) })
      for (const chunk of chunks) source.give(chunk)
      const { leave } = await get(kind, served)
      expect(source.returned).toBe(0)
      const leftAt = performance.now()
      leave()
      await vi.waitUntil(() => source.returned === 1, { interval: 1 })
      expect(performance.now() - leftAt).toBeLessThan(200)
      if (kind === 'web') return
      await expect.poll(() => served.ends).toEqual(['left'])
      expect(errors).toEqual([])
    })

    test('while the head waits for the first content ends the source', async () => {
      const source = fed()
      const served = await serving(kind, source, { headWithinMs: 60_000 })
      if (kind === 'http2') {
        const session = connectHttp2(served.url)
        const request = session.request({ ':path': '/' })
        request.on('error', () => {})
        await vi.waitUntil(() => source.reads === 1)
        session.destroy()
      } else {
        const socket = await ask(served.port)
        await vi.waitUntil(() => source.reads === 1)
        socket.destroy()
      }
      await vi.waitUntil(() => source.returned === 1)
      await vi.waitUntil(() => served.ends.length === 1)
      expect(served.ends[0]).toBe(kind === 'web' ? 'failed before: AbortError: the client has left' : 'left')
    })

    test('aborts a generator that is busy', async () => {
      let ended = 0
      const served = await serving(kind, async function* (signal) {
        yield* [start, text('a')]
        await delay(60_000, undefined, { signal }).finally(() => ended++)
      })
      const { leave } = await get(kind, served)
      leave()
      await expect.poll(() => ended).toBe(1)
    })

    test('in the middle of a flood ends it', async () => {
      const { source, counts } = flood()
      const served = await serving(kind, source)
      const { body, leave } = await get(kind, served)
      await body[Symbol.asyncIterator]().next()
      leave()
      await vi.waitUntil(() => counts.returned === 1)
      const { given } = counts
      await delay(30)
      expect(counts.given).toBe(given)
    })
  })

  test('a client that does not read stops the source, and goes on where it was', async () => {
    if (kind === 'http2') return slowHttp2()
    const { source, counts } = flood(200_000)
    const served = await serving(kind, source)
    const socket = await ask(served.port)
    await vi.waitUntil(() => counts.given > 100)
    const stopped = await stillness(() => counts.given)
    // A few sockets' buffers of 120 bytes a chunk, of 24 MB in all.
    expect(stopped).toBeLessThan(150_000)
    let bytes = 0
    socket.on('data', (piece: Buffer) => {
      bytes += piece.length
    })
    await vi.waitUntil(() => counts.given === 200_000, { timeout: 15_000 })
    await vi.waitUntil(() => bytes > 200_000 * 110)
    socket.destroy()
  })

  async function slowHttp2(): Promise<void> {
    const { source, counts } = flood(50_000)
    const { body } = await get(kind, await serving(kind, source))
    await vi.waitUntil(() => counts.given > 100)
    expect(await stillness(() => counts.given)).toBeLessThan(40_000)
    expect((await textOf(body)).length).toBeGreaterThan(50_000 * 110)
    expect(counts.given).toBe(50_000)
  }

  test('the longest duration ends a stream with a timeout', async () => {
    const source = fed()
    source.give(start)
    source.give(text('a'))
    const all = await textOf((await get(kind, await serving(kind, source, { maxDurationMs: 50 }))).body)
    expect(all).toMatch(/event: error\ndata: {"code":"timeout"[^]*\n\n$/)
    expect(source.returned).toBe(1)
  })

  test('a signal ends a stream with its reason, as a server that closes must', async () => {
    const source = fed()
    source.give(start)
    source.give(text('a'))
    const controller = new AbortController()
    const { body } = await get(kind, await serving(kind, source, { signal: controller.signal }))
    controller.abort(new Error('secret'))
    expect(await textOf(body)).toMatch(/"code":"internal"[^]*\n\n$/)
    expect(source.returned).toBe(1)
  })

  test('ready texts with their ids arrive as they are', async () => {
    const texts = ['id: s/0\ndata: a\n\n', 'id: s/1\ndata: b\n\n']
    const { body } = await get(kind, await serving(kind, from(texts as never)))
    expect(await textOf(body)).toBe(texts.join(''))
  })
})

/** Chunks without end or with one, counted as they are taken. */
function flood(most = Number.POSITIVE_INFINITY): { source: AsyncIterable<Chunk>; counts: { given: number; returned: number } } {
  const counts = { given: 0, returned: 0 }
  const source: AsyncIterable<Chunk> = {
    [Symbol.asyncIterator]: () => ({
      async next() {
        if (counts.given === most) return { done: true, value: undefined }
        counts.given++
        return { done: false, value: counts.given === most ? finish : text('x'.repeat(90)) }
      },
      async return() {
        counts.returned++
        return { done: true, value: undefined }
      }
    })
  }
  return { source, counts }
}

/** The count once it has not moved for a while. */
async function stillness(count: () => number): Promise<number> {
  for (;;) {
    const before = count()
    await delay(150)
    if (count() === before) return before
  }
}

test('a client that does not read makes the provider stop sending', async () => {
  const events = sse([{ text: 'x'.repeat(4000) }])
  let sent = 0
  await using provider = await startFaultServer(async (connection) => {
    await connection.request()
    await connection.write(responseHead(200, { 'transfer-encoding': 'chunked' }))
    for (; sent < 80_000_000; sent += events.length) await connection.write(framed(events))
  })
  const served = await serving('http', async function* (signal) {
    const response = await fetch(provider.url, { signal })
    for await (const { data } of parseSSE(response.body as never)) yield text((JSON.parse(data) as { text: string }).text)
  })
  const socket = await ask(served.port)
  await vi.waitUntil(() => sent > 100_000)
  expect(await stillness(() => sent)).toBeLessThan(60_000_000)
  expect(provider.open).toBe(1)
  socket.destroy()
  await vi.waitUntil(() => provider.open === 0)
  await expect.poll(() => served.ends).toEqual(['left'])
})

describe('a response that is not all ours', () => {
  async function answering(answer: (response: ServerResponse) => Promise<unknown>): Promise<{ url: string; results: unknown[] }> {
    const results: unknown[] = []
    const server = createServer((_, response) => {
      answer(response).then(
        (result) => results.push(result),
        (error) => results.push(error)
      )
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    open.push({
      [Symbol.asyncDispose]: () => {
        server.closeAllConnections()
        return new Promise<void>((resolve) => void server.close(() => resolve()))
      }
    })
    return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, results }
  }

  test('keeps the head it has already', async () => {
    const { url, results } = await answering((response) => {
      response.writeHead(203, { 'content-type': 'text/plain' }).flushHeaders()
      return writeSSE(from(whole), response)
    })
    const answer = await fetch(url)
    expect([answer.status, answer.headers.get('content-type')]).toEqual([203, 'text/plain'])
    expect(await answer.text()).toBe(whole.map(event).join(''))
    await expect.poll(() => results).toEqual(['done'])
  })

  test('is refused with options for a head that is out already', async () => {
    const { url, results } = await answering(async (response) => {
      response.flushHeaders()
      return writeSSE(from(whole), response, { status: 201 }).finally(() => response.end())
    })
    await (await fetch(url)).text()
    expect(String(results[0])).toContain('the head of this response is out already')
  })

  test.each(['before', 'while the head waits', 'while events are written'])(
    'is told when somebody else answers it %s',
    async (when) => {
      const source = fed()
      const { url, results } = await answering((response) => {
        if (when === 'before') response.end()
        const written = writeSSE(source, response, when === 'while events are written' ? { headWithinMs: 5 } : {})
        if (when === 'while the head waits') response.writeHead(503)
        setTimeout(() => {
          source.give(start)
          source.give(text('a'))
          // In the same turn: before the end is seen on the connection.
          if (when === 'while events are written') response.end()
        }, 50)
        return written.finally(() => response.end())
      })
      await (await fetch(url)).text()
      await vi.waitUntil(() => results.length === 1)
      expect(String(results[0])).toBe('TypeError: somebody else has answered this response: give writeSSE one that is its own')
      expect(source.returned).toBe(when === 'before' ? 0 : 1)
    }
  )

  test('of a client that has gone already is not begun', async () => {
    const source = fed()
    const { url, results } = await answering(async (response) => {
      await once(response, 'close')
      return writeSSE(source, response)
    })
    const controller = new AbortController()
    const asked = fetch(url, { signal: controller.signal }).catch(() => {})
    await delay(50)
    controller.abort()
    await asked
    await vi.waitUntil(() => results.length === 1)
    expect([results[0], source.reads]).toEqual(['left', 0])
  })

  test('with a header that is not allowed leaves the source', async () => {
    const source = fed()
    source.give(start)
    source.give(text('a'))
    const { url, results } = await answering((response) =>
      writeSSE(source, response, { headers: { bad: 'a\r\nb' } }).finally(() => response.end())
    )
    await (await fetch(url)).text()
    expect(String(results[0])).toContain('Invalid character in header')
    expect(source.returned).toBe(1)
  })
})

test('the longest duration cuts off a client that takes nothing', async () => {
  const { source, counts } = flood()
  const served = await serving('http', source, { maxDurationMs: 1000 })
  const socket = await ask(served.port)
  await vi.waitUntil(() => served.ends.length === 1, { timeout: 5000 })
  expect(served.ends).toEqual(['failed'])
  expect(counts.returned).toBe(1)
  socket.destroy()
})

describe('a client that takes nothing, of a stream of which little is held', () => {
  /** Gives just what fills the system's buffers, and hangs. */
  function brim(response: () => ServerResponse | undefined): { source: SSESource; full: Promise<void> } {
    const { promise: full, resolve } = Promise.withResolvers<void>()
    async function* source(signal: AbortSignal): AsyncGenerator<Chunk, void, undefined> {
      yield start
      while (response()?.writableLength === 0 && response()?.socket?.writableLength === 0) {
        yield text('x'.repeat(1000))
        await setImmediate()
      }
      resolve()
      await delay(60_000, undefined, { signal }).catch(() => {})
    }
    return { source, full }
  }

  test.each(['maxDurationMs', 'signal'])('is cut off soon after %s', async (by) => {
    let response: ServerResponse | undefined
    const ends: unknown[] = []
    const controller = new AbortController()
    const { source, full } = brim(() => response)
    const server = createServer((_, given) => {
      response = given
      const options = by === 'signal' ? { signal: controller.signal } : { maxDurationMs: 3000 }
      writeSSE(source, given, options).then(
        (end) => ends.push(end),
        (error) => ends.push(error)
      )
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    const socket = await ask((server.address() as AddressInfo).port)
    await full
    expect(ends).toEqual([])
    controller.abort(new Error('shutting down'))
    await vi.waitUntil(() => ends.length === 1, { timeout: 10_000 })
    expect([ends, response?.destroyed]).toEqual([['failed'], true])
    socket.destroy()
    server.close()
  })
})

describe('a stream of http2 that was reset while its window is used up', () => {
  test.each([
    ['without an error', 0],
    ['as cancelled', 8]
  ])('%s ends the source at once', async (_, code) => {
    const { source, counts } = flood()
    const served = await serving('http2', source)
    const session = connectHttp2(served.url)
    session.on('error', () => {})
    const request = session.request({ ':path': '/' })
    request.on('error', () => {})
    await vi.waitUntil(() => counts.given > 100)
    await stillness(() => counts.given)
    request.close(code)
    await vi.waitUntil(() => counts.returned === 1 && served.ends.length === 1)
    expect(served.ends).toEqual(['left'])
    session.destroy()
  })
})

test.each<Kind>(['http', 'http2'])('an answer to HEAD over %s ends behind its head, and reads no more', async (kind) => {
  const { source, counts } = flood()
  const served = await serving(kind, source)
  if (kind === 'http') {
    const { status, headers } = await fetch(served.url, { method: 'HEAD' })
    expect([status, headers.get('content-type')]).toEqual([200, 'text/event-stream; charset=utf-8'])
  } else {
    const session = connectHttp2(served.url)
    open.push({ [Symbol.asyncDispose]: async () => session.destroy() })
    const request = session.request({ ':path': '/', ':method': 'HEAD' })
    expect((await once(request, 'response'))[0]).toMatchObject({ ':status': 200 })
  }
  await vi.waitUntil(() => served.ends.length === 1)
  expect([served.ends, counts]).toEqual([['done'], { given: 1, returned: 1 }])
})

test('refuses what is no response', async () => {
  await expect(writeSSE(from(whole), undefined as never)).rejects.toThrow(
    'writeSSE writes to a response of node:http or node:http2: writeSSE(source, response)'
  )
  await expect(writeSSE(from(whole), new Response() as never)).rejects.toThrow(TypeError)
})

test('heartbeats do not pile up for a client that takes nothing', async () => {
  const { source, counts } = flood()
  const served = await serving('http', source, { heartbeatMs: 1 })
  const socket = await ask(served.port)
  await vi.waitUntil(() => counts.given > 100)
  const stopped = await stillness(() => counts.given)
  await delay(100)
  expect(counts.given).toBe(stopped)
  socket.destroy()
  await vi.waitUntil(() => counts.returned === 1)
})

test('a thousand responses keep nothing in memory', async () => {
  const controller = new AbortController()
  const served = await serve('http', () => ({
    source: from(whole),
    options: { signal: controller.signal, maxDurationMs: 60_000 }
  }))
  open.push(served)
  const round = async (): Promise<void> => {
    await Promise.all(Array.from({ length: 50 }, async () => (await fetch(served.url)).text()))
  }
  for (let warm = 0; warm < 4; warm++) await round()
  const before = await heapAfterGc()
  for (let more = 0; more < 20; more++) await round()
  expect((await heapAfterGc()) - before).toBeLessThan(2_000_000)
  expect(getEventListeners(controller.signal, 'abort')).toEqual([])
  expect(served.ends.length).toBe(1200)
})
