import { connect, createServer, type Socket } from 'node:net'

/** What the proxy does with what Redis answers. */
export type Mischief = 'none' | 'swallow' | 'cut' | 'delay' | 'garbage'

export interface RedisProxy {
  readonly url: string
  /** `swallow` loses one answer and is over; the others go on until it is `none` again. */
  mischief: Mischief
  readonly connections: number
  close(): Promise<void>
}

/** Stands between a client and its Redis, and does harm to the answers. */
export async function startRedisProxy(port: number, delayMs = 200): Promise<RedisProxy> {
  const sockets = new Set<Socket>()
  let connections = 0
  const server = createServer((client) => {
    connections++
    const upstream = connect(port, '127.0.0.1')
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('error', () => {}) // the other side is told by 'close'
      socket.on('close', () => {
        sockets.delete(socket)
        client.destroy()
        upstream.destroy()
      })
    }
    client.pipe(upstream)
    upstream.on('data', (bytes: Buffer) => {
      if (self.mischief === 'swallow') {
        self.mischief = 'none'
      } else if (self.mischief === 'cut') {
        client.write(bytes.subarray(0, Math.ceil(bytes.length / 2)), () => client.resetAndDestroy())
      } else if (self.mischief === 'garbage') {
        client.write('HTTP/1.1 400 Bad Request\r\n\r\n')
      } else if (self.mischief === 'delay') {
        setTimeout(() => client.write(bytes), delayMs).unref()
      } else {
        client.write(bytes)
      }
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const self: RedisProxy = {
    url: `redis://127.0.0.1:${(server.address() as { port: number }).port}`,
    mischief: 'none',
    get connections() {
      return connections
    },
    async close() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    }
  }
  return self
}
