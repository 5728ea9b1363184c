// A plain TCP server that finds the requests in what it reads and leaves the rest to the caller: its own work stays small.
import { createServer, type Socket } from 'node:net'

export interface Asked {
  readonly path: string
  readonly body: string
}

/**
 * Listens on a free port of loopback and tells it to the parent; ends with the parent. Requests come one after the other on
 * a socket, each with a content-length, and rarely in more than one piece.
 */
export function serve(answer: (asked: Asked, socket: Socket) => void): void {
  const server = createServer((socket) => {
    let held = ''
    socket.setNoDelay(true)
    socket.on('error', () => socket.destroy()) // a child that leaves resets its sockets; the bench goes on
    socket.on('data', (bytes) => {
      held += bytes.toString('latin1')
      for (;;) {
        const bodyAt = held.indexOf('\r\n\r\n') + 4
        if (bodyAt === 3) return
        const head = held.slice(0, bodyAt)
        const end = bodyAt + Number(/\ncontent-length: *(\d+)/i.exec(head)?.[1] ?? 0)
        if (held.length < end) return
        const body = held.slice(bodyAt, end)
        held = held.slice(end)
        answer({ path: head.slice(head.indexOf(' ') + 1, head.indexOf(' HTTP/')), body }, socket)
      }
    })
  })
  server.listen(0, '127.0.0.1', () => {
    const address = server.address()
    if (address !== null && typeof address === 'object') process.send?.(address.port)
  })
  process.once('disconnect', () => process.exit())
}
