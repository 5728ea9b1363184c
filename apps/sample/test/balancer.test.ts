import { once } from 'node:events'
import { createServer, type RequestListener, type Server } from 'node:http'
import { type AddressInfo, createServer as createTcpServer } from 'node:net'
import { text } from 'node:stream/consumers'
import { afterEach, expect, test } from 'vitest'
import { startBalancer } from '../src/balancer.ts'

const servers: Server[] = []
afterEach(() => {
  for (const server of servers.splice(0)) server.close().closeAllConnections()
})

async function target(listener: RequestListener): Promise<string> {
  const server = createServer(listener).listen(0, '127.0.0.1')
  servers.push(server)
  await once(server, 'listening')
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** Where nobody listens. */
async function nobody(): Promise<string> {
  const address = await target(() => {})
  servers.pop()?.close()
  return address
}

const echo =
  (name: string): RequestListener =>
  async (request, response) => {
    const body = await text(request)
    response.writeHead(201, { 'x-name': name, 'x-host': request.headers.host }).end(`${request.method} ${request.url} ${body}`)
  }

test('deals requests out in turn, and passes method, path, body, host, status and headers on', async () => {
  await using balancer = await startBalancer({ targets: [await target(echo('a')), await target(echo('b'))] })
  const names: unknown[] = []
  for (let index = 0; index < 4; index++) {
    const response = await fetch(`${balancer.url}/path?q=1`, { method: 'POST', body: 'x'.repeat(200_000) })
    expect(response.status).toBe(201)
    expect(await response.text()).toBe(`POST /path?q=1 ${'x'.repeat(200_000)}`)
    expect(response.headers.get('x-host')).toBe(new URL(balancer.url).host)
    names.push(response.headers.get('x-name'))
  }
  expect(names).toEqual(['a', 'b', 'a', 'b'])
  await expect.poll(balancer.stats).toEqual({ served: [2, 2], open: [0, 0], passedOver: 0, failed: 0, broken: 0 })
})

test('asks the next one with the whole body where a connection is refused, and says 502 where all are', async () => {
  await using balancer = await startBalancer({ targets: [await nobody(), await target(echo('b'))] })
  for (let index = 0; index < 2; index++) {
    const response = await fetch(balancer.url, { method: 'POST', body: 'x'.repeat(200_000) })
    expect(await response.text()).toHaveLength('POST / '.length + 200_000)
  }
  expect(balancer.stats()).toMatchObject({ served: [0, 2], passedOver: 1 })
  await using lost = await startBalancer({ targets: [await nobody(), await nobody()] })
  const response = await fetch(lost.url)
  expect(response.status).toBe(502)
  expect(await response.text()).toContain('ECONNREFUSED')
  expect(lost.stats()).toMatchObject({ passedOver: 1, failed: 1 })
})

test('does not ask twice what was sent once, and asks the next one where a connection breaks before', async () => {
  const asked: string[] = []
  const breaking: RequestListener = async (request) => {
    asked.push(await text(request))
    request.socket.resetAndDestroy()
  }
  await using balancer = await startBalancer({ targets: [await target(breaking), await target(breaking)] })
  expect((await fetch(balancer.url, { method: 'POST', body: 'once' })).status).toBe(502)
  expect(asked).toEqual(['once'])

  const closing = createTcpServer((socket) => socket.resetAndDestroy()).listen(0, '127.0.0.1')
  await once(closing, 'listening')
  const { port } = closing.address() as AddressInfo
  await using other = await startBalancer({ targets: [`http://127.0.0.1:${port}`, await target(echo('b'))] })
  expect(await (await fetch(other.url, { method: 'POST', body: 'again' })).text()).toBe('POST / again')
  expect(other.stats()).toMatchObject({ passedOver: 1, failed: 0 })
  closing.close()
})

test('passes events on as they come, and breaks off what its target breaks off', async () => {
  const { promise: second, resolve: sendSecond } = Promise.withResolvers<void>()
  const events: RequestListener = async (_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: 1\n\n')
    await second
    response.write('data: 2\n\n', () => response.destroy())
  }
  await using balancer = await startBalancer({ targets: [await target(events)] })
  const response = await fetch(balancer.url)
  const reader = (response.body as ReadableStream<Uint8Array>).getReader()
  expect(Buffer.from((await reader.read()).value ?? []).toString()).toBe('data: 1\n\n')
  expect(balancer.stats().open).toEqual([1])
  sendSecond()
  const rest = async (): Promise<void> => {
    while (!(await reader.read()).done);
  }
  await expect(rest()).rejects.toThrow('terminated')
  await expect.poll(balancer.stats).toMatchObject({ broken: 1, open: [0] })
})

test('a client that leaves is felt by the target', async () => {
  const { promise: left, resolve } = Promise.withResolvers<void>()
  const waiting: RequestListener = (_, response) => {
    response.writeHead(200).write('first')
    response.once('close', () => resolve())
  }
  await using balancer = await startBalancer({ targets: [await target(waiting)] })
  const leaving = new AbortController()
  await fetch(balancer.url, { signal: leaving.signal })
  leaving.abort()
  await left
  await expect.poll(() => balancer.stats().open).toEqual([0])
  expect(balancer.stats().broken).toBe(0)
})

test('needs a target', async () => {
  await expect(startBalancer({ targets: [] })).rejects.toThrow('targets is empty')
})
