import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { startFreezableProxy } from '../src/freezable-proxy.ts'

async function startEcho(): Promise<{ port: number; sockets: Set<Socket> }> {
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    socket.on('error', () => {})
    socket.pipe(socket)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return { port: (server.address() as AddressInfo).port, sockets }
}

async function ask(socket: Socket, text: string): Promise<string> {
  socket.write(text)
  return String((await once(socket, 'data'))[0])
}

test('bytes pass both ways, wait while it is frozen, and none is lost when it thaws', async () => {
  const { port } = await startEcho()
  await using proxy = await startFreezableProxy({ host: '127.0.0.1', port })
  const socket = connect(proxy.port, '127.0.0.1')
  expect(await ask(socket, 'one')).toBe('one')
  proxy.freeze()
  expect(proxy.frozen).toBe(true)
  const late = ask(socket, 'two')
  const newcomer = connect(proxy.port, '127.0.0.1')
  const newcomersAnswer = ask(newcomer, 'three')
  expect(await Promise.race([late, newcomersAnswer, delay(150, 'silence')])).toBe('silence')
  proxy.thaw()
  expect(await Promise.all([late, newcomersAnswer])).toEqual(['two', 'three'])
  socket.destroy()
  newcomer.destroy()
})

test('a slow reader holds the writer back, and all of a megabyte arrives', async () => {
  const { port } = await startEcho()
  await using proxy = await startFreezableProxy({ host: '127.0.0.1', port })
  const socket = connect(proxy.port, '127.0.0.1')
  const sent = Buffer.alloc(1_000_000, 'abc')
  socket.write(sent)
  const parts: Buffer[] = []
  let length = 0
  for await (const part of socket) {
    parts.push(part as Buffer)
    length += (part as Buffer).length
    if (length % 7 === 0) await delay(1)
    if (length === sent.length) break
  }
  expect(Buffer.concat(parts).equals(sent)).toBe(true)
})

test('each side hears of the end of the other, and a server that is not there ends the connection', async () => {
  const { port, sockets } = await startEcho()
  await using proxy = await startFreezableProxy({ host: '127.0.0.1', port })
  const socket = connect(proxy.port, '127.0.0.1')
  expect(await ask(socket, 'one')).toBe('one')
  socket.destroy()
  await expect.poll(() => sockets.size).toBe(0)

  const nobody = createServer().listen(0, '127.0.0.1')
  await once(nobody, 'listening')
  const gone = (nobody.address() as AddressInfo).port
  await new Promise((resolve) => nobody.close(resolve))
  await using toNobody = await startFreezableProxy({ host: '127.0.0.1', port: gone })
  const refused = connect(toNobody.port, '127.0.0.1').resume()
  await once(refused, 'close')
})
