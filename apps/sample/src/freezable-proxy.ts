import { connect, createServer, type Socket } from 'node:net'

/** A way to a server that can be frozen: connections stay, and no byte passes. */
export interface FreezableProxy extends AsyncDisposable {
  readonly port: number
  readonly frozen: boolean
  freeze(): void
  thaw(): void
}

/** Listens on a free port of 127.0.0.1 and passes everything on to `host` and `port`. */
export async function startFreezableProxy({ host, port }: { host: string; port: number }): Promise<FreezableProxy> {
  let frozen = false
  const sockets = new Set<Socket>()

  function keep(socket: Socket, other: Socket): void {
    sockets.add(socket)
    // What breaks on one side ends the other; nobody else is there to be told.
    socket.on('error', () => other.destroy())
    socket.once('close', () => {
      sockets.delete(socket)
      other.destroy()
    })
    socket.on('data', (bytes) => {
      if (!other.write(bytes)) socket.pause()
    })
    socket.on('drain', () => frozen || other.resume())
    if (frozen) socket.pause()
  }

  const server = createServer((near) => {
    const far = connect(port, host)
    keep(near, far)
    keep(far, near)
  })
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve))

  return {
    port: (server.address() as { port: number }).port,
    get frozen() {
      return frozen
    },
    freeze() {
      frozen = true
      for (const socket of sockets) socket.pause()
    },
    thaw() {
      frozen = false
      for (const socket of sockets) socket.resume()
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    }
  }
}
