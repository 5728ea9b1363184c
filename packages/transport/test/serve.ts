import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface TestServer extends AsyncDisposable {
  readonly url: string
  readonly requests: number
  readonly sockets: number
  /** Connections open now. */
  readonly open: number
}

/** A real server on a free port; bodies are read before `answer` is asked. */
export async function serve(
  answer: (request: IncomingMessage & { body: string }, response: ServerResponse) => void
): Promise<TestServer> {
  const counts = { requests: 0, sockets: 0, open: 0 }
  const server = createServer((request, response) => {
    counts.requests++
    const pieces: Buffer[] = []
    request.on('data', (piece: Buffer) => pieces.push(piece))
    request.on('end', () => answer(Object.assign(request, { body: Buffer.concat(pieces).toString() }), response))
    response.on('error', () => {})
  })
  server.on('connection', (socket) => {
    counts.sockets++
    counts.open++
    socket.on('close', () => counts.open--)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    get requests() {
      return counts.requests
    },
    get sockets() {
      return counts.sockets
    },
    get open() {
      return counts.open
    },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    }
  }
}

export const json = (value: unknown) => (_: unknown, response: ServerResponse) => {
  response.setHeader('content-type', 'application/json').end(JSON.stringify(value))
}

/** Waits until `condition` holds; fails after two seconds. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const end = performance.now() + 2000
  while (!condition()) {
    if (performance.now() > end) throw new Error(`waited two seconds in vain: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
