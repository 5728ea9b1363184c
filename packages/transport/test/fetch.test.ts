import { randomBytes } from 'node:crypto'
import { getEventListeners } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { inspect } from 'node:util'
import { brotliCompressSync, gzipSync, zstdCompressSync } from 'node:zlib'
import { type CallOptions, CallTally, isMillraceError, type Send } from '@millrace/core'
import { createFetch, createTransport, type Transport } from '@millrace/transport'
import { describe, expect, test } from 'vitest'
import { serve, type TestServer, until } from './serve.ts'

type Input = Parameters<typeof fetch>[0]
type Seen = { method: string; path: string; headers: Record<string, string>; body: string }

/** Answers with the request it got. */
const echo = (request: IncomingMessage & { body: string }, response: ServerResponse): void => {
  const { method, url: path, headers, body } = request
  response.setHeader('content-type', 'application/json').end(JSON.stringify({ method, path, headers, body }))
}

async function seen(transport: Transport, input: Input, init?: RequestInit): Promise<Seen> {
  return (await (await transport.fetch(input, init)).json()) as Seen
}

const rejection = (promise: Promise<unknown>): Promise<Error> =>
  promise.then(
    () => new Error('it did not reject'),
    (error: unknown) => error as Error
  )

describe('what is sent', () => {
  test('the method in capitals, and headers given in each way', async () => {
    await using server = await serve(echo)
    await using transport = createTransport()
    for (const headers of [
      { 'X-One': ' 1\n', Accept: 'a/b' },
      new Headers({ 'x-one': '1', accept: 'a/b' }),
      [
        ['X-One', '1'],
        ['Accept', 'a/b']
      ] as [string, string][]
    ]) {
      const { method, headers: sent } = await seen(transport, server.url, { method: 'patch', headers, body: '{}' })
      expect([method, sent['x-one'], sent.accept]).toEqual(['PATCH', '1', 'a/b'])
    }
    const repeated = await seen(transport, server.url, {
      headers: [
        ['x-one', '1'],
        ['X-One', '2']
      ]
    })
    expect(repeated.headers['x-one']).toBe('1, 2')
    const odd = await seen(transport, server.url, { headers: { constructor: 'a', tostring: 'b', 'x-empty': '' } })
    expect([odd.headers.constructor, odd.headers.tostring, odd.headers['x-empty']]).toEqual(['a', 'b', ''])
  })

  test('text, bytes, forms and blobs with the content type the platform gives them, and with their length', async () => {
    await using server = await serve(echo)
    await using transport = createTransport()
    const form = new FormData()
    form.set('file', new Blob(['content']), 'a.txt')
    const bodies: readonly [body: NonNullable<RequestInit['body']>, type: string | undefined, text: string][] = [
      ['plain', 'text/plain;charset=UTF-8', 'plain'],
      [new URLSearchParams({ a: '1' }), 'application/x-www-form-urlencoded;charset=UTF-8', 'a=1'],
      [Buffer.from('raw'), undefined, 'raw'],
      [new TextEncoder().encode('raw').buffer, undefined, 'raw'],
      [new DataView(new TextEncoder().encode('raw').buffer, 1), undefined, 'aw'],
      [new Blob(['{}'], { type: 'application/json' }), 'application/json', '{}'],
      ['', 'text/plain;charset=UTF-8', '']
    ]
    for (const [body, type, text] of bodies) {
      const { headers, body: sent } = await seen(transport, server.url, { method: 'POST', body })
      expect([headers['content-type'], headers['content-length'], sent]).toEqual([type, String(text.length), text])
    }
    const multipart = await seen(transport, server.url, { method: 'POST', body: form })
    expect(multipart.headers['content-type']).toMatch(/^multipart\/form-data; boundary=/)
    expect(multipart.body).toContain('content')
    const named = await seen(transport, server.url, { method: 'POST', body: 'x', headers: { 'Content-Type': 'x/y' } })
    expect(named.headers['content-type']).toBe('x/y')
  })

  test('a form or blob too long to be kept in memory, as a stream with its length', async () => {
    const lengths: (string | undefined)[] = []
    await using server = await serve((request, response) => {
      lengths.push(request.headers['content-length'])
      response.end(String(Buffer.byteLength(request.body)))
    })
    await using transport = createTransport()
    const big = new Blob([new Uint8Array(17 * 1024 * 1024)])
    const form = new FormData()
    form.set('purpose', 'fine-tune')
    form.set('file', new File([big], 'grüße "1".bin', { type: 'a/b' }))
    for (const body of [big, form]) {
      const received = await (await transport.fetch(server.url, { method: 'POST', body })).text()
      expect(Number(received)).toBeGreaterThanOrEqual(big.size)
      expect(lengths.at(-1)).toBe(received)
    }
  })

  test('streams and async iterables as they come, once and never again', async () => {
    await using server = await serve((request, response) => {
      response.statusCode = request.url === '/fail' ? 503 : 200
      response.end(request.body)
    })
    await using transport = createTransport({ retry: { baseMs: 1, maxMs: 1 } })
    const pieces = ['one ', 'two ', 'three']
    async function* iterable(): AsyncGenerator<Uint8Array> {
      for (const piece of pieces) yield new TextEncoder().encode(piece)
    }
    for (const body of [ReadableStream.from(iterable()), iterable()] as unknown as ReadableStream[]) {
      const init = { method: 'POST', body, duplex: 'half' } as const
      expect(await (await transport.fetch(server.url, init)).text()).toBe('one two three')
    }
    const before = server.requests
    const body = ReadableStream.from(iterable())
    const refused = await transport.fetch(`${server.url}/fail`, { method: 'POST', body, duplex: 'half' })
    expect([refused.status, server.requests - before]).toEqual([503, 1])
  })

  test('a Request: its method, headers and body, each replaced by what is given beside it; its body is sent again', async () => {
    await using server = await serve((request, response) => {
      if (request.headers['x-fail'] !== undefined && server.requests % 2 === 1) response.writeHead(503).end()
      else echo(request, response)
    })
    await using transport = createTransport({ retry: { baseMs: 1, maxMs: 1 } })
    const request = (): Request =>
      new Request(`${server.url}/path?q=1#part`, { method: 'PUT', body: 'of a request', headers: { 'x-fail': '1' } })
    expect(await seen(transport, request())).toMatchObject({
      method: 'PUT',
      path: '/path?q=1',
      headers: { 'content-type': 'text/plain;charset=UTF-8', 'content-length': '12' },
      body: 'of a request'
    })
    expect(server.requests).toBe(2)
    expect(await seen(transport, request(), { method: 'POST', headers: { 'x-a': 'b' }, body: 'other' })).toMatchObject({
      method: 'POST',
      headers: { 'x-a': 'b' },
      body: 'other'
    })
    const used = request()
    await used.text()
    await expect(transport.fetch(used)).rejects.toThrow(TypeError)
    const aborted = new Request(server.url, { signal: AbortSignal.abort('gone') })
    await expect(transport.fetch(aborted)).rejects.toBe('gone')
    // `null` takes the signal away.
    expect((await transport.fetch(aborted, { signal: null })).status).toBe(200)
  })

  test('a Request whose body is longer than what is kept for a second try, as a stream', async () => {
    await using server = await serve((request, response) => response.end(String(request.body.length)))
    await using transport = createTransport()
    const request = new Request(server.url, { method: 'POST', body: 'x'.repeat(17 * 1024 * 1024) })
    expect(await (await transport.fetch(request)).text()).toBe(String(17 * 1024 * 1024))
  })

  test("a caller's stream that fails ends the call as invalid-request, and counts against nobody", async () => {
    await using server = await serve(echo)
    await using transport = createTransport({ breaker: { minimumRequests: 1 } })
    const post = (body: unknown): Promise<Response> =>
      transport.fetch(server.url, { method: 'POST', body, duplex: 'half' } as RequestInit)
    const strings = new ReadableStream({ start: (controller) => controller.enqueue('text') })
    for (const body of [brokenAfter(0), brokenAfter(2), strings]) {
      const error = await rejection(post(body))
      expect(error).toBeInstanceOf(TypeError)
      expect(isMillraceError(error.cause, 'invalid-request') && error.cause.details.path).toBe('body')
    }
    const request = new Request(server.url, { method: 'POST', body: brokenAfter(2), duplex: 'half' } as RequestInit)
    expect((await rejection(transport.fetch(request))).cause).toBeInstanceOf(RangeError)
    expect((await transport.fetch(server.url)).status).toBe(200)
  })

  test("a caller's stream is cancelled when the call ends before it", async () => {
    await using server = await serve(echo)
    await using transport = createTransport({ retry: false })
    for (const wrap of [
      (body: ReadableStream) => ({ url: server.url, init: { method: 'POST', body, duplex: 'half' } }),
      (body: ReadableStream) => ({ url: 'http://127.0.0.1:1/', init: { method: 'POST', body, duplex: 'half' } }),
      (body: ReadableStream) => ({
        url: new Request(server.url, { method: 'POST', body, duplex: 'half' } as RequestInit),
        init: {}
      })
    ]) {
      let cancelled = 0
      let pulls = 0
      const endless = new ReadableStream({
        pull: (controller) => (pulls++ === 0 ? controller.enqueue(new Uint8Array(10)) : new Promise(() => {})),
        cancel: () => void cancelled++
      })
      const { url, init } = wrap(endless)
      const controller = new AbortController()
      const call = rejection(transport.fetch(url, { ...init, signal: controller.signal } as RequestInit))
      setTimeout(() => controller.abort('stop'), 50)
      await call
      await until(() => cancelled === 1, 'the stream is cancelled')
      expect(getEventListeners(controller.signal, 'abort').length).toBe(0)
    }
  })

  test('init fields that mean nothing here are ignored', async () => {
    await using server = await serve(echo)
    await using transport = createTransport()
    const init = { cache: 'no-store', keepalive: true, mode: 'cors', credentials: 'omit', duplex: 'half', unknown: 1 }
    expect((await seen(transport, server.url, { method: 'POST', body: '{}', ...init } as RequestInit)).body).toBe('{}')
  })
})

function brokenAfter(pieces: number): ReadableStream<Uint8Array> {
  let pulls = 0
  return new ReadableStream({
    pull(controller) {
      if (pulls++ === pieces) throw new RangeError('no more')
      controller.enqueue(new Uint8Array(10))
    }
  })
}

describe('what is refused before a socket opens', () => {
  const secret = 'sk-secret'
  const cases: readonly [name: string, init: RequestInit | Record<string, unknown>, cure: RegExp][] = [
    ['a GET with a body', { body: 'x' }, /must not have a body/],
    ['a HEAD with a body', { method: 'HEAD', body: 'x' }, /must not have a body/],
    ['CONNECT', { method: 'CONNECT' }, /forbidden/],
    ['a method that is none', { method: 'GET /\r\n' }, /method of HTTP/],
    ['a line break in a value', { headers: { authorization: `Bearer ${secret}\r\nx: y` } }, /control character/],
    ['a control character in a value', { headers: { authorization: `${secret}\u0001` } }, /control character/],
    ['text beyond Latin-1 in a value', { headers: { authorization: `${secret}…` } }, /beyond Latin-1/],
    ['a control character in a name', { headers: { [`${secret}\n`]: 'x' } }, /name of a header/],
    ['an empty name', { headers: { '': 'x' } }, /name of a header/],
    ['headers that are no pairs', { headers: [['a']] }, /list of pairs/],
    ['an object as body', { method: 'POST', body: { a: 1 } }, /JSON\.stringify/],
    ['a number as body', { method: 'POST', body: 5 }, /JSON\.stringify/],
    ['a signal that is none', { signal: {} }, /AbortController/],
    ['a redirect nobody knows', { redirect: 'never' }, /'follow', 'error' or 'manual'/],
    ['a dispatcher of undici', { dispatcher: {} }, /createTransport/],
    ['an integrity', { integrity: 'sha256-x' }, /not checked/],
    ['an unknown x-millrace header', { headers: { 'x-millrace-totl-ms': '1' } }, /x-millrace-total-ms/],
    ['a clock of 0', { headers: { 'x-millrace-total-ms': '0' } }, /x-millrace-total-ms must be .* above 0/],
    ['a clock that is no number', { headers: { 'x-millrace-idle-ms': `${secret} s` } }, /x-millrace-idle-ms must be/],
    ['a clock given twice', { headers: [['x-millrace-idle-ms', '5'], ['x-millrace-idle-ms', '-6']] }, /x-millrace-idle-ms/] // biome-ignore format: one line
  ]
  test.each(cases)('%s', async (_, init, cure) => {
    await using server = await serve(echo)
    await using transport = createTransport()
    const error = await rejection(transport.fetch(server.url, init as RequestInit))
    expect(error).toBeInstanceOf(TypeError)
    expect(error.message).toMatch(cure)
    expect(inspect(error)).not.toContain(secret)
    expect(server.requests).toBe(0)
  })

  test.each(['/v1/chat', 'no address', 'ftp://127.0.0.1/', 'data:,x', `http://user:${secret}@127.0.0.1/`, ''])(
    'the address %j',
    async (url) => {
      await using transport = createTransport()
      const error = await rejection(transport.fetch(url))
      expect(error).toBeInstanceOf(TypeError)
      expect(error.message).toMatch(/^the url must/)
      expect(inspect(error)).not.toContain(secret)
    }
  )
})

describe('options of a call', () => {
  test('come from the function given to createFetch, checked at each call', async () => {
    await using server = await serve(echo)
    await using transport = createTransport({ retry: false })
    const asked: unknown[] = []
    const fetch = createFetch(transport.send, {
      options: (url, init) => {
        asked.push(url, init?.method)
        return { idempotencyKey: 'once', timeouts: { totalMs: 5000 }, tenant: 'a', priority: 1 }
      }
    })
    const answer = (await (await fetch(server.url, { method: 'POST', body: '{}' })).json()) as Seen
    expect(answer.headers['idempotency-key']).toBe('once')
    expect(asked).toEqual([server.url, 'POST'])
    for (const [options, cure] of [
      [{ timeout: 5 }, /no option "timeout"; it has .*timeouts/],
      [{ timeouts: { totlMs: 5 } }, /timeouts\.totlMs is unknown: use .*totalMs/],
      [{ timeouts: { totalMs: '5' } }, /timeouts\.totalMs must be a number/],
      [{ timeouts: { idleMs: 0 } }, /timeouts\.idleMs must be a number/],
      [{ idempotencyKey: 'a\nb' }, /control character/],
      [5, /object of options/]
    ] as const) {
      const error = await rejection(createFetch(transport.send, { options: () => options as CallOptions })(server.url))
      expect(error).toBeInstanceOf(TypeError)
      expect(error.message).toMatch(cure)
    }
    expect(server.requests).toBe(1)
  })

  test('createFetch refuses what is no send and options nobody knows', async () => {
    await using transport = createTransport()
    expect(() => createFetch(undefined as never)).toThrow(/takes a send/)
    expect(() => createFetch(transport.send, { timeouts: {} } as never)).toThrow(/no option "timeouts"/)
    expect(() => createFetch(transport.send, { options: {} } as never)).toThrow(/must be a function/)
  })

  test('hand a tally and a permit down to the send, the permit of init too', async () => {
    const sent: unknown[] = []
    const tally = new CallTally()
    const permits = [{}, {}]
    const send: Send = (request) => {
      sent.push(request.tally, request.permit)
      return Promise.reject(new Error('not sent'))
    }
    const told = createFetch(send, { options: () => ({ tally, permit: permits[0] }) })
    await rejection(told('http://127.0.0.1/'))
    await rejection(createFetch(send)('http://127.0.0.1/', { permit: permits[1] } as RequestInit))
    expect(sent).toEqual([tally, permits[0], undefined, permits[1]])
    expect([sent[1] === permits[0], sent[3] === permits[1]]).toEqual([true, true])
  })

  test('come as x-millrace headers too, go before the function, and never reach the server', async () => {
    await using server = await serve((request, response) => {
      if (request.url !== '/silent') echo(request, response)
    })
    await using transport = createTransport({ retry: false })
    const fetch = createFetch(transport.send, { options: () => ({ timeouts: { totalMs: 60_000, idleMs: 5000 } }) })
    const all = {
      'x-millrace-connect-ms': '5000',
      'X-Millrace-Headers-Ms': '5000.5',
      'x-millrace-first-chunk-ms': 'Infinity',
      'x-millrace-idle-ms': '5000',
      'x-millrace-total-ms': '5000',
      'x-mill': 'kept'
    }
    const { headers } = (await (await fetch(server.url, { headers: all })).json()) as Seen
    expect(Object.keys(headers).filter((name) => name.startsWith('x-mill'))).toEqual(['x-mill'])
    for (const [name, clock] of [
      ['x-millrace-total-ms', 'total'],
      ['x-millrace-headers-ms', 'headers']
    ] as const) {
      const { cause } = await rejection(fetch(`${server.url}/silent`, { headers: { [name]: '50' } }))
      expect(isMillraceError(cause, 'timeout') && [cause.details.clock, cause.details.limitMs]).toEqual([clock, 50])
    }
    await until(() => server.open <= 1, 'sockets of calls that timed out are closed')
  })

  test('a signal among them ends the call beside that of the caller, and no listener is left', async () => {
    await using server = await serve((request, response) => {
      if (request.url === '/stream') response.write('begun')
      else if (request.url !== '/silent') echo(request, response)
    })
    await using transport = createTransport({ retry: false })
    const shared = new AbortController()
    const own = new AbortController()
    const fetch = createFetch(transport.send, { options: () => ({ signal: shared.signal }) })
    const listeners = (): number[] => [shared, own].map(({ signal }) => getEventListeners(signal, 'abort').length)
    await (await fetch(server.url, { signal: own.signal })).text()
    expect(listeners()).toEqual([0, 0])
    const given = await fetch(`${server.url}/stream`, { signal: own.signal })
    await given.body?.cancel()
    expect(listeners()).toEqual([0, 0])
    const waiting = rejection(fetch(`${server.url}/silent`, { signal: own.signal }))
    own.abort('own')
    expect(await waiting).toBe('own')
    const reading = (await fetch(`${server.url}/stream`)).text()
    shared.abort('shared')
    await expect(reading).rejects.toBe('shared')
    expect(listeners()).toEqual([0, 0])
  })
})

describe('redirects', () => {
  async function twoServers(): Promise<{ from: TestServer; to: TestServer } & AsyncDisposable> {
    const to = await serve(echo)
    const from = await serve((request, response) => {
      const { pathname, searchParams } = new URL(request.url ?? '', 'http://x')
      const location =
        pathname === '/loop'
          ? '/loop'
          : pathname === '/here'
            ? '/final#part'
            : pathname === '/there'
              ? `${to.url}/final`
              : undefined
      if (pathname === '/strange') response.writeHead(302, { location: 'ftp://127.0.0.1/' }).end()
      else if (location === undefined) echo(request, response)
      else response.writeHead(Number(searchParams.get('status') ?? 302), { location }).end('moved')
    })
    return {
      from,
      to,
      async [Symbol.asyncDispose]() {
        await from[Symbol.asyncDispose]()
        await to[Symbol.asyncDispose]()
      }
    }
  }

  test.each([301, 302, 303, 307, 308])('%i: of a GET it is followed, of a POST it is handed back', async (status) => {
    await using servers = await twoServers()
    await using transport = createTransport()
    const url = `${servers.from.url}/here?status=${status}`
    const followed = await transport.fetch(url, { headers: { authorization: 'Bearer k' } })
    expect([followed.status, followed.url, followed.redirected]).toEqual([200, `${servers.from.url}/final`, true])
    expect(((await followed.json()) as Seen).headers.authorization).toBe('Bearer k')
    const posted = await transport.fetch(url, { method: 'POST', body: '{}', redirect: 'follow' })
    expect([posted.status, posted.headers.get('location'), posted.redirected]).toEqual([status, '/final#part', false])
    expect(await posted.text()).toBe('moved')
    expect(servers.from.requests).toBe(3)
  })

  test('to another origin take no header that could be a credential with them', async () => {
    await using servers = await twoServers()
    await using transport = createTransport()
    const headers = {
      authorization: 'Bearer k',
      cookie: 'a=b',
      'x-api-key': 'k',
      'my-own': 'k',
      accept: 'a/b',
      range: 'bytes=0-9'
    }
    const answer = (await (await transport.fetch(`${servers.from.url}/there`, { headers })).json()) as Seen
    expect(Object.keys(answer.headers).toSorted()).toEqual(['accept', 'connection', 'host', 'range'])
    await transport.fetch(`${servers.from.url}/there`, { method: 'POST', headers, body: '{}' })
    expect(servers.to.requests).toBe(1)
  })

  test("are handed back with 'manual', and an error with 'error', endless, or to no address", async () => {
    await using servers = await twoServers()
    await using transport = createTransport()
    expect((await transport.fetch(`${servers.from.url}/here`, { redirect: 'manual' })).status).toBe(302)
    for (const [path, init] of [
      ['/here', { redirect: 'error' }],
      ['/here', { redirect: 'error', method: 'POST' }],
      ['/strange', {}]
    ] as const) {
      const before = servers.from.requests
      const error = await rejection(transport.fetch(servers.from.url + path, init))
      expect(error).toBeInstanceOf(TypeError)
      expect(isMillraceError(error.cause, 'protocol') && error.cause.details.reason).toBe('unexpected')
      expect(servers.from.requests - before).toBe(1)
    }
    const before = servers.from.requests
    expect(await rejection(transport.fetch(`${servers.from.url}/loop`))).toBeInstanceOf(TypeError)
    expect(servers.from.requests - before).toBe(11)
    await until(() => transport.stats().origins[servers.from.url]?.busy === 0, 'nothing is busy')
  })
})

describe('what goes wrong', () => {
  test("rejects with the caller's own reason, and with a TypeError around ours", async () => {
    await using server = await serve(() => {})
    await using transport = createTransport({ retry: false })
    const reason = new Error('stop')
    const controller = new AbortController()
    setTimeout(() => controller.abort(reason), 20)
    await expect(transport.fetch(server.url, { signal: controller.signal })).rejects.toBe(reason)
    await expect(transport.fetch(server.url, { signal: controller.signal })).rejects.toBe(reason)
    expect(server.requests).toBe(1)
    const limited = createFetch(transport.send, { options: () => ({ timeouts: { totalMs: 50 } }) })
    const error = await rejection(limited(server.url))
    expect(error).toBeInstanceOf(TypeError)
    expect(error.message).toBe('fetch failed')
    expect(isMillraceError(error.cause, 'timeout')).toBe(true)
  })

  test("an abort ends the reading of a body with the caller's reason, and the socket", async () => {
    await using server = await serve((_, response) => void response.write('begun'))
    await using transport = createTransport()
    for (const read of [
      (response: Response) => response.text(),
      (response: Response) => response.bytes(),
      async (response: Response) => {
        for await (const _ of response.body as ReadableStream<Uint8Array>);
      }
    ]) {
      const controller = new AbortController()
      const reading = rejection(read(await transport.fetch(server.url, { signal: controller.signal })))
      setTimeout(() => controller.abort('enough'), 20)
      expect(await reading).toBe('enough')
      expect(getEventListeners(controller.signal, 'abort').length).toBe(0)
      await until(() => server.open === 0, 'the socket is closed')
    }
  })

  test('hands non-2xx responses on untouched', async () => {
    await using server = await serve((_, response) => void response.writeHead(418, { 'x-tea': 'yes' }).end('short and stout'))
    await using transport = createTransport()
    const teapot = await transport.fetch(server.url, { method: 'POST', body: '{}' })
    expect([teapot.status, teapot.ok, teapot.headers.get('x-tea'), await teapot.text()]).toEqual([
      418,
      false,
      'yes',
      'short and stout'
    ])
  })
})

test('an abort with a reason of null comes out as null, compressed or not', async () => {
  await using server = await serve(
    (_, response) => void response.writeHead(200, { 'content-encoding': 'gzip' }).write(gzipSync('x').subarray(0, 5))
  )
  await using transport = createTransport({ retry: false })
  const controller = new AbortController()
  const { body } = await transport.send({ method: 'POST', url: server.url, headers: {}, signal: controller.signal })
  setTimeout(() => controller.abort(null), 30)
  await expect(body.text()).rejects.toBe(null)
})

describe('compressed responses', () => {
  const plain = JSON.stringify({ text: 'word '.repeat(5000) })
  test.each([
    ['gzip', gzipSync],
    ['br', brotliCompressSync],
    ['zstd', zstdCompressSync]
  ])('are inflated: %s', async (encoding, compress) => {
    await using server = await serve((_, response) =>
      response.writeHead(200, { 'content-encoding': encoding }).end(compress(plain))
    )
    await using transport = createTransport()
    const response = await transport.fetch(server.url)
    expect(await response.text()).toBe(plain)
    expect(response.headers.has('content-encoding')).toBe(false)
  })

  test('that are corrupt, cut, doubly encoded or bombs end as protocol errors, and no socket is left', async () => {
    const whole = gzipSync(plain)
    const cases: readonly [path: string, encoding: string, body: Buffer, reason: string][] = [
      ['/corrupt', 'gzip', randomBytes(500), 'encoding'],
      ['/cut', 'gzip', whole.subarray(0, whole.length >> 1), 'encoding'],
      ['/double', 'gzip, gzip', gzipSync(whole), 'encoding'],
      ['/bomb', 'gzip', gzipSync(Buffer.alloc(50 * 1024 * 1024)), 'too-large']
    ]
    await using server = await serve((request, response) => {
      const [, encoding, body] = cases.find(([path]) => path === request.url) as (typeof cases)[number]
      response.writeHead(200, { 'content-encoding': encoding }).end(body)
    })
    await using transport = createTransport({ retry: false })
    for (const [path, , , reason] of cases) {
      const error = await transport
        .send({ method: 'POST', url: server.url + path, headers: {} })
        .then(({ body }) => body.text())
        .catch((thrown: unknown) => thrown)
      expect(isMillraceError(error, 'protocol') && error.details.reason, path).toBe(reason)
    }
    await until(() => transport.stats().origins[server.url]?.busy === 0, 'nothing is busy')
  })
})
