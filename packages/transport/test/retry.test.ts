import { type HttpRequest, type HttpResponse, isMillraceError, MillraceError, type Send } from '@millrace/core'
import { createTransport, retry, retryAfterMs } from '@millrace/transport'
import { afterEach, describe, expect, test } from 'vitest'
import { serve, type TestServer } from './serve.ts'

const request: HttpRequest = { method: 'POST', url: 'http://127.0.0.1/', headers: {}, body: '{}' }
let server: TestServer | undefined
afterEach(async () => {
  await server?.[Symbol.asyncDispose]()
  server = undefined
})

/** Answers the first requests with these statuses and headers, and every further one with 200. */
async function answering(
  ...refusals: readonly { status: number; headers?: Record<string, string>; body?: string }[]
): Promise<TestServer> {
  let count = 0
  server = await serve((_, response) => {
    const { status, headers, body } = refusals[count++] ?? { status: 200, headers: {}, body: 'answer' }
    response.writeHead(status, headers).end(body)
  })
  return server
}

describe('retry over real sockets', () => {
  test.each([408, 409, 429, 500, 502, 503, 504, 529])('tries again after %i', async (status) => {
    const { url } = await answering({ status }, { status })
    await using transport = createTransport({ retry: { baseMs: 1 } })
    const response = await transport.send({ ...request, url })
    expect(response).toMatchObject({ status: 200, attempts: 3 })
    expect(await response.body.text()).toBe('answer')
  })

  test.each([400, 401, 403, 404, 413, 422])('does not try again after %i, and hands the body on', async (status) => {
    const { url } = await answering({ status, body: 'because' })
    await using transport = createTransport({ retry: { baseMs: 1 } })
    const response = await transport.send({ ...request, url })
    expect(response).toMatchObject({ status, attempts: 1 })
    expect(await response.body.text()).toBe('because')
  })

  test('does not try again for an exhausted quota, x-should-retry: false, or a hint beyond a minute', async () => {
    await using transport = createTransport({ retry: { baseMs: 1 } })
    for (const refusal of [
      { status: 429, body: '{"error":{"code":"insufficient_quota"}}' },
      { status: 500, headers: { 'x-should-retry': 'false' }, body: 'no' },
      { status: 429, headers: { 'retry-after': '61' }, body: 'later' }
    ]) {
      const { url } = await answering(refusal)
      const response = await transport.send({ ...request, url })
      expect(response).toMatchObject({ status: refusal.status, attempts: 1 })
      expect(await response.body.text()).toBe(refusal.body)
      await server?.[Symbol.asyncDispose]()
      server = undefined
    }
  })

  test('waits at least as long as it is told, and opens no second socket for it', async () => {
    const { url } = await answering({ status: 429, headers: { 'retry-after-ms': '150' }, body: 'slow down' })
    await using transport = createTransport({ retry: { baseMs: 1 } })
    const startedAt = performance.now()
    await transport.send({ ...request, url })
    expect(performance.now() - startedAt).toBeGreaterThanOrEqual(149)
    expect(server?.sockets).toBe(1)
  })

  test('tries again when the connection is reset before the head, and gives up after maxAttempts', async () => {
    server = await serve((incoming) => void incoming.socket.destroy())
    await using transport = createTransport({ retry: { baseMs: 1, maxAttempts: 4 } })
    const error = await transport.send({ ...request, url: server.url }).catch((thrown: unknown) => thrown)
    expect(isMillraceError(error, 'network')).toBe(true)
    expect(server.requests).toBe(4)
  })

  test('a refusal whose body stalls is tried again all the same', async () => {
    let count = 0
    server = await serve((_, response) => {
      if (++count === 1) response.writeHead(500, { 'content-length': '100' }).write('half')
      else response.end('answer')
    })
    await using transport = createTransport({ retry: { baseMs: 1 } })
    const response = await transport.send({ ...request, url: server.url })
    expect([response.attempts, await response.body.text()]).toEqual([2, 'answer'])
  }, 15_000)

  test('never repeats a request whose answer has begun', async () => {
    server = await serve((_, response) => {
      response.writeHead(200).write('x')
      setTimeout(() => response.destroy(), 20)
    })
    await using transport = createTransport({ retry: { baseMs: 1 } })
    const { body } = await transport.send({ ...request, url: server.url })
    await expect(body.text()).rejects.toMatchObject({ code: 'network' })
    expect(server.requests).toBe(1)
  })

  test('never repeats a body that can be read only once', async () => {
    server = await serve((_, response) => response.writeHead(503).end())
    await using transport = createTransport({ retry: { baseMs: 1 } })
    async function* once(): AsyncGenerator<Uint8Array> {
      yield Buffer.from('{}')
    }
    expect(await transport.send({ ...request, url: server.url, body: once() })).toMatchObject({ status: 503, attempts: 1 })
    expect(server.requests).toBe(1)
  })
})

test('waits are drawn from the whole range up to a doubling bound', async () => {
  const waits: number[] = []
  let draw = 0
  const failing: Send = () => Promise.reject(new MillraceError('network', 'down', { details: { phase: 'connect' } }))
  const send = retry({ maxAttempts: 4, baseMs: 8, maxMs: 20, random: () => [0, 0.5, 1][draw++] ?? 0 })((attempted) => {
    waits.push(performance.now())
    return failing(attempted)
  })
  await expect(send(request)).rejects.toMatchObject({ code: 'network' })
  const gaps = waits.slice(1).map((at, index) => at - (waits[index] as number))
  expect(gaps[1]).toBeGreaterThanOrEqual(7) // 0.5 * 16
  expect(gaps[2]).toBeGreaterThanOrEqual(19) // 1 * min(20, 32)
})

test('an error that would be the same the next time is not tried again', async () => {
  let attempts = 0
  const send = retry({ baseMs: 1 })((): Promise<HttpResponse> => {
    attempts++
    return Promise.reject(new MillraceError('unauthorized', 'no', { details: { status: 401 } }))
  })
  await expect(send(request)).rejects.toMatchObject({ code: 'unauthorized' })
  expect(attempts).toBe(1)
})

describe('retryAfterMs', () => {
  const now = Date.UTC(2026, 10, 22, 12, 0, 0)
  test.each([
    [{ 'retry-after': '2' }, 2000],
    [{ 'retry-after': '0' }, 0],
    [{ 'retry-after': '0.25' }, 250],
    [{ 'retry-after-ms': '120', 'retry-after': '9' }, 120],
    [{ 'retry-after': 'Sun, 22 Nov 2026 12:00:07 GMT' }, 7000],
    [{ 'retry-after': 'Sun, 22 Nov 2026 11:00:00 GMT' }, 0],
    [{ 'retry-after': 'banana' }, undefined],
    [{ 'retry-after': 'banana 1' }, undefined],
    [{ 'retry-after': '-3' }, undefined],
    [{ 'retry-after': '1e9' }, undefined],
    [{ 'retry-after': '2, 4' }, undefined],
    [{ 'retry-after': 'Fri, 31 Dec 9999 23:59:59 GMT' }, undefined],
    [{ 'retry-after': '99999999999' }, undefined],
    [{ 'retry-after-ms': 'NaN', 'retry-after': '1' }, 1000],
    [{}, undefined]
  ])('reads %j as %s', (headers, expected) => {
    expect(retryAfterMs(headers, now)).toBe(expected)
  })
})
