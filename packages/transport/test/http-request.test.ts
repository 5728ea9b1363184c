import { type HttpRequest, isMillraceError, startDeadline } from '@millrace/core'
import { responseHead, startFaultServer } from '@millrace/testkit'
import { createTransport, type Transport } from '@millrace/transport'
import { afterEach, describe, expect, test } from 'vitest'
import { serve } from './serve.ts'

const open: AsyncDisposable[] = []
function use<T extends AsyncDisposable>(resource: T): T {
  open.push(resource)
  return resource
}
afterEach(async () => {
  for (const resource of open.splice(0).toReversed()) await resource[Symbol.asyncDispose]()
})

const secret = 'sk-canary-0123456789'
const post = (url: string, more: object = {}): HttpRequest => ({ method: 'POST', url, headers: {}, body: '{}', ...more })

/** What `send` rejects with for a request that TypeScript would not let through. */
async function refusalOf(transport: Transport, request: unknown): Promise<unknown> {
  return transport.send(request as HttpRequest).then(
    () => 'sent',
    (error: unknown) => error
  )
}

async function* throwing(): AsyncGenerator<Uint8Array> {
  yield Buffer.from('a')
  throw new Error(secret)
}

describe('a bad request is refused before a place is taken for it', () => {
  const cases: readonly (readonly [what: string, more: object, path: string])[] = [
    ['a URL object', { url: new URL('http://127.0.0.1/') }, 'url'],
    ['no method', { method: undefined }, 'method'],
    ['a method in small letters', { method: 'post' }, 'method'],
    ['an object as body', { body: { model: 'm' } }, 'body'],
    ['no headers', { headers: undefined }, 'headers'],
    ['a Headers object', { headers: new Headers({ authorization: secret }) }, 'headers'],
    ['text as headers', { headers: `authorization: ${secret}` }, 'headers'],
    ['a name in capitals', { headers: { 'Idempotency-Key': 'mine' } }, 'headers'],
    ['a value that is no text', { headers: { accept: 5 } }, 'headers'],
    ['a host', { headers: { host: 'other.example' } }, 'headers'],
    ['te', { headers: { te: 'gzip' } }, 'headers'],
    ['credentials for a proxy', { headers: { 'proxy-authorization': secret } }, 'headers'],
    ['clocks as headers', { headers: { 'x-millrace-total-ms': '5' } }, 'headers'],
    ['a controller in place of its signal', { signal: new AbortController() }, 'signal'],
    ['null as signal', { signal: null }, 'signal']
  ]
  test.each(cases)('%s', async (_, more, path) => {
    const server = use(await serve((_request, response) => response.end('fine')))
    const transport = use(createTransport({ maxConnections: 1, retry: false }))
    const error = await refusalOf(transport, post(server.url, more))
    expect(error).toMatchObject({ code: 'invalid-request', details: { path } })
    expect(String((error as Error).stack)).not.toContain(secret)
    // The next call finds the one place free.
    expect(await (await transport.send(post(server.url))).body.text()).toBe('fine')
    expect(server.requests).toBe(1)
  })

  test('nothing at all, and limits that are none', async () => {
    const transport = use(createTransport())
    expect(await refusalOf(transport, undefined)).toMatchObject({ code: 'invalid-request' })
    for (const timeouts of [{ totlMs: 5 }, { totalMs: -1 }, { idleMs: Number.NaN }, { headersMs: '5' }, null, 5]) {
      expect(await refusalOf(transport, post('http://127.0.0.1:1', { timeouts }))).toBeInstanceOf(TypeError)
    }
  })
})

describe('a stream as body', () => {
  const bodies: readonly (readonly [what: string, body: () => unknown])[] = [
    ['that throws', throwing],
    ['that gives text', () => ReadableStream.from(['text'])],
    ['that gives nothing usable', () => ({ [Symbol.asyncIterator]: () => ({ next: async () => null }) })],
    [
      'that cannot be begun',
      () => ({
        [Symbol.asyncIterator]: () => {
          throw new Error(secret)
        }
      })
    ],
    ['that rejects with nothing', () => ({ [Symbol.asyncIterator]: () => ({ next: async () => Promise.reject(undefined) }) })],
    [
      'that somebody else reads',
      () => {
        const stream = ReadableStream.from([Buffer.from('x')])
        stream.getReader()
        return stream
      }
    ]
  ]
  test.each(bodies)('%s is an invalid request, counts against nobody, and leaves its place', async (_, body) => {
    const server = use(await serve((_request, response) => response.end('fine')))
    const transport = use(createTransport({ maxConnections: 1, breaker: { minimumRequests: 1 } }))
    const error = await refusalOf(transport, post(server.url, { body: body() }))
    expect(error).toMatchObject({ code: 'invalid-request', details: { path: 'body' } })
    expect(await (await transport.send(post(server.url))).body.text()).toBe('fine')
    expect(transport.stats().origins[server.url]).toMatchObject({ busy: 0, queued: 0, breaker: 'closed' })
  })
})

describe('the hooks of a transport', () => {
  test('trace headers are added, never put in place of the request’s, and bad ones cost the trace', async () => {
    const seen: (string | undefined)[] = []
    const server = use(
      await serve((request, response) => {
        seen.push(request.headers.traceparent as string | undefined, request.headers.authorization)
        response.end()
      })
    )
    const traces: unknown[] = [
      { traceparent: '00-1', authorization: 'stolen' },
      { traceparent: 'a\r\nx-evil: 1' },
      Promise.resolve({}),
      {
        get traceparent(): string {
          throw new Error(secret)
        }
      }
    ]
    const transport = use(createTransport({ traceHeaders: () => traces.shift() as Record<string, string> }))
    for (let call = 0; call < 4; call++) {
      await (await transport.send(post(server.url, { headers: { authorization: 'mine' }, callId: `${call}` }))).body.text()
    }
    expect(seen).toEqual(['00-1', 'mine', undefined, 'mine', undefined, 'mine', undefined, 'mine'])
    expect(transport.stats().traceFailures).toBe(2)
  })

  test('a jitter that throws, or is no number, costs the jitter and not the call', async () => {
    for (const random of [
      () => {
        throw new Error(secret)
      },
      () => Number.NaN,
      () => 7
    ]) {
      let count = 0
      const server = use(await serve((_, response) => response.writeHead(++count % 2 === 1 ? 503 : 200).end()))
      const transport = use(createTransport({ retry: { random, baseMs: 1 } }))
      expect(await transport.send(post(server.url))).toMatchObject({ status: 200, attempts: 2 })
    }
  })
})

test.each([{ graceMs: Number.NaN }, { graceMs: -1 }, { graceMs: '5' }, { grace: 5 }, null])(
  'close refuses %j',
  async (options) => {
    const transport = createTransport()
    expect(() => void transport.close(options as object)).toThrow(TypeError)
    await transport.close()
  }
)

test('a connection cut long behind its request is not sent again for free: the server may have worked on it', async () => {
  let bodies = 0
  const server = use(
    await startFaultServer(async (connection) => {
      for (;;) {
        await connection.request()
        if (++bodies === 1) await connection.write(`${responseHead(200, { 'content-length': 2 })}ok`)
        else {
          await connection.pause(1200)
          connection.reset()
        }
      }
    })
  )
  const transport = use(createTransport({ retry: false }))
  await (await transport.send(post(server.url))).body.text()
  const error = await refusalOf(transport, post(server.url))
  expect(isMillraceError(error, 'network')).toBe(true)
  expect([bodies, transport.stats().resent]).toEqual([2, 0])
})

test('a body in slivers stays small in memory and is whole', async () => {
  const pieces = 60_000
  const server = use(
    await startFaultServer(async (connection) => {
      for (;;) {
        await connection.request()
        await connection.write(responseHead(200, { 'content-type': 'application/octet-stream', 'transfer-encoding': 'chunked' }))
        for (let sent = 0; sent < pieces; sent += 1000) await connection.write('1\r\nx\r\n'.repeat(1000))
        await connection.write('0\r\n\r\n')
      }
    })
  )
  const transport = use(createTransport())
  const { body } = await transport.send(post(server.url))
  expect(await body.text()).toBe('x'.repeat(pieces))
  const response = await transport.fetch(server.url, { method: 'POST', body: '{}' })
  await new Promise((resolve) => setTimeout(resolve, 200)) // all of it waits by then
  expect((await response.bytes()).byteLength).toBe(pieces)
})

test('a deadline that queues nothing is not marked', async () => {
  const server = use(await serve((_, response) => response.end()))
  const transport = use(createTransport())
  using deadline = startDeadline('total', 10_000, () => {})
  await (await transport.send(post(server.url, { deadline }))).body.text()
  expect(deadline.queued).toBe(false)
})

test('a status that cannot be taken costs one request, and is told as such', async () => {
  let requests = 0
  const server = use(
    await startFaultServer(async (connection) => {
      await connection.request()
      requests++
      await connection.write('HTTP/1.1 100 Continue\r\n\r\n')
      await connection.pause(10)
      await connection.write(`${responseHead(200, { 'content-length': 2 })}ok`)
    })
  )
  const transport = use(createTransport())
  expect(await refusalOf(transport, post(server.url))).toMatchObject({ code: 'protocol', details: { reason: 'malformed' } })
  expect(requests).toBe(1)
})

test('a socket on which an early answer has left megabytes unsent is not used again', async () => {
  let requests = 0
  const server = use(
    await startFaultServer(async (connection) => {
      if (connection.number > 1) await connection.request()
      requests++
      await connection.write(`${responseHead(connection.number > 1 ? 200 : 413, { 'content-length': 2 })}ok`)
    })
  )
  const transport = use(createTransport({ retry: false, timeouts: { totalMs: 3000 } }))
  const large = await transport.send(post(server.url, { body: 'x'.repeat(20_000_000) }))
  expect([large.status, await large.body.text()]).toEqual([413, 'ok'])
  const next = await transport.send(post(server.url))
  expect([next.status, requests]).toEqual([200, 2])
})
