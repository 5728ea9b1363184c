import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { ConnectionGone, chunk, namedSse, probeLeaks, responseHead, sse, startFaultServer } from '../src/index.ts'
import { becomes } from './support.ts'

it('reads requests with a length and in chunks, and writes what the script says', async () => {
  await using server = await startFaultServer(async (connection) => {
    for (;;) {
      const { method, path, headers, body } = await connection.request()
      const answer = JSON.stringify({ method, path, type: headers['content-type'], body })
      await connection.write(responseHead(200, { 'content-length': Buffer.byteLength(answer) }))
      await connection.write(answer)
    }
  })
  const headers = { 'content-type': 'text/x' }
  const plain = await fetch(`${server.url}/a`, { method: 'POST', body: 'grüße', headers })
  expect(await plain.json()).toEqual({ method: 'POST', path: '/a', type: 'text/x', body: 'grüße' })
  const parts = new ReadableStream({
    async start(controller) {
      for (const part of ['one ', 'two ', 'three']) {
        controller.enqueue(Buffer.from(part))
        await delay(2)
      }
      controller.close()
    }
  })
  const chunked = await fetch(`${server.url}/b`, { method: 'POST', body: parts, duplex: 'half', headers } as RequestInit)
  expect(await chunked.json()).toMatchObject({ body: 'one two three' })
})

it('reads two requests that arrive together one after the other', async () => {
  const seen: string[] = []
  await using server = await startFaultServer(async (connection) => {
    seen.push((await connection.request()).path, (await connection.request()).path)
    connection.end()
  })
  const socket = connect(server.port, '127.0.0.1')
  socket.resume().write('GET /1 HTTP/1.1\r\nhost: x\r\n\r\nGET /2 HTTP/1.1\r\n\r\n')
  await once(socket, 'close')
  expect(seen).toEqual(['/1', '/2'])
})

it('resets in the middle of a body and closes in order, as told', async () => {
  await using server = await startFaultServer(async (connection) => {
    await connection.request()
    await connection.write(responseHead(200, { 'transfer-encoding': 'chunked' }) + chunk(sse([{ a: 1 }])))
    if (connection.number === 1) return connection.reset()
    await connection.write(chunk(''))
    connection.end()
  })
  await expect(fetch(server.url).then((response) => response.text())).rejects.toThrow('terminated')
  expect(await (await fetch(server.url)).text()).toBe('data: {"a":1}\n\n')
  await becomes(() => server.open, 0)
  expect(server.connections).toBe(2)
})

it('ends every wait of a script when the client leaves', async () => {
  const endings: unknown[] = []
  await using server = await startFaultServer(async (connection) => {
    const waits = [
      () => connection.request(),
      () => connection.pause(60_000),
      async () => {
        for (;;) await connection.write('x'.repeat(100_000))
      }
    ]
    await (waits[connection.number - 1] as () => Promise<unknown>)().catch((error) => endings.push(error))
    await connection.closed
  })
  for (let number = 1; number <= 3; number++) {
    const socket = connect(server.port, '127.0.0.1')
    await once(socket, 'connect')
    await delay(20)
    socket.destroy()
    await becomes(() => endings.length, number)
  }
  for (const ending of endings) expect(ending).toBeInstanceOf(ConnectionGone)
})

it('shows the mistake of a script when it is closed', async () => {
  const server = await startFaultServer(() => {
    throw new Error('a mistake')
  })
  await expect(fetch(server.url)).rejects.toThrow('fetch failed')
  await expect(server.close()).rejects.toThrow('a mistake')
})

it('leaves nothing behind', async () => {
  const probe = probeLeaks()
  const server = await startFaultServer((connection) => connection.pause(60_000))
  const socket = connect(server.port, '127.0.0.1')
  await once(socket, 'connect')
  await Promise.all([once(socket, 'close'), server.close()])
  await server.close()
  await expect(probe.check()).resolves.toBeUndefined()
})

it('names events by their type', () => {
  expect(namedSse([{ type: 'ping' }])).toBe('event: ping\ndata: {"type":"ping"}\n\n')
  expect(sse(['[DONE]'])).toBe('data: [DONE]\n\n')
})
