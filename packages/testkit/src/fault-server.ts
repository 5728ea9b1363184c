import { once } from 'node:events'
import { STATUS_CODES } from 'node:http'
import { createServer, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { type FaultRequest, parseRequest } from './http-request.ts'
import { listen } from './listen.ts'

/** One connection of a script. Every wait ends with a `ConnectionGone` when the client leaves; a script need not catch it. */
export interface FaultConnection {
  /** 1 for the server's first. */
  readonly number: number
  /** The next whole request on this connection. */
  request(): Promise<FaultRequest>
  /** Writes exactly these bytes at once, and waits until the socket takes more. */
  write(bytes: string | Uint8Array): Promise<void>
  pause(ms: number): Promise<void>
  /** Closes in order (FIN). */
  end(): void
  /** Closes at once (RST). */
  reset(): void
  readonly closed: Promise<void>
}

export interface FaultServer extends AsyncDisposable {
  /** `http://127.0.0.1:PORT` */
  readonly url: string
  readonly port: number
  /** Accepted so far. */
  readonly connections: number
  /** Open at this moment. */
  readonly open: number
  /**
   * Breaks all connections off.
   *
   * @throws what a script threw first
   */
  close(): Promise<void>
}

/** The client left while the script waited: the ordinary end of a script about faults. */
export class ConnectionGone extends Error {
  override name = 'ConnectionGone'
}

/** A client that sends more than this without the script reading it is cut off. */
const maxUnreadBytes = 64 * 1024 * 1024

/**
 * A TCP server that does byte for byte what its script says, once for each connection. A connection stays open after the
 * script until one side ends it.
 *
 * @example
 * const server = await startFaultServer(async (connection) => {
 *   await connection.request()
 *   await connection.write(responseHead(200, { 'content-length': 100 }))
 *   connection.reset()
 * })
 * await server.close()
 */
export async function startFaultServer(script: (connection: FaultConnection) => void | Promise<void>): Promise<FaultServer> {
  const sockets = new Set<Socket>()
  let connections = 0
  const failures: unknown[] = []
  const server = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    const connection = openConnection(socket, ++connections)
    Promise.resolve(connection)
      .then(script)
      .catch((error: unknown) => {
        if (error instanceof ConnectionGone) return
        failures.push(error)
        socket.resetAndDestroy()
      })
  })
  const port = await listen(server)

  async function close(): Promise<void> {
    for (const socket of sockets) socket.destroy()
    if (server.listening) await new Promise((resolve) => server.close(resolve))
    if (failures.length > 0) throw failures[0]
  }

  return {
    url: `http://127.0.0.1:${port}`,
    port,
    get connections() {
      return connections
    },
    get open() {
      return sockets.size
    },
    close,
    [Symbol.asyncDispose]: close
  }
}

function openConnection(socket: Socket, number: number): FaultConnection {
  let unread: Buffer = Buffer.alloc(0)
  const gone = new AbortController()
  const closed = new Promise<void>((resolve) => {
    socket.once('close', () => {
      gone.abort()
      resolve()
    })
  })
  // A reset by the client; its 'close' follows.
  socket.on('error', () => gone.abort())
  // Reading on, even when the script does not, is how the client's leaving is seen.
  socket.on('data', (bytes: Buffer) => {
    unread = Buffer.concat([unread, bytes])
    if (unread.length > maxUnreadBytes) socket.resetAndDestroy()
  })

  /** Ends the wait with the connection. */
  async function orGone<T>(wait: (signal: AbortSignal) => Promise<T>): Promise<T> {
    try {
      gone.signal.throwIfAborted()
      return await wait(gone.signal)
    } catch (error) {
      if (gone.signal.aborted) throw new ConnectionGone('the client has closed the connection', { cause: error })
      throw error
    }
  }

  return {
    number,
    closed,
    request: () =>
      orGone(async (signal) => {
        for (;;) {
          const parsed = parseRequest(unread)
          if (parsed !== undefined) {
            unread = unread.subarray(parsed.bytes)
            return parsed.request
          }
          await once(socket, 'data', { signal })
        }
      }),
    write: (bytes) =>
      orGone(async (signal) => {
        if (!socket.write(bytes)) await once(socket, 'drain', { signal })
      }),
    pause: (ms) => orGone((signal) => delay(ms, undefined, { signal })),
    end: () => void socket.end(),
    // While a FIN is on its way the system refuses an RST (EINVAL), and Node never tells of the close.
    reset: () => void (socket.writableEnded ? socket.destroy() : socket.resetAndDestroy())
  }
}

/**
 * A response's status line and headers, with the empty line after them.
 *
 * @example
 * responseHead(429, { 'retry-after': 1, 'content-length': 0 })
 */
export function responseHead(status: number, headers: Readonly<Record<string, string | number>> = {}): string {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  return `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? 'Unknown'}\r\n${lines.join('')}\r\n`
}

/**
 * Server-sent events: a string is sent as it is, anything else as JSON.
 *
 * @example
 * sse([{ choices: [] }, '[DONE]'])
 */
export function sse(events: readonly unknown[]): string {
  return events.map((event) => `data: ${typeof event === 'string' ? event : JSON.stringify(event)}\n\n`).join('')
}

/**
 * Server-sent events named by their `type`, as Anthropic sends them.
 *
 * @example
 * namedSse([{ type: 'ping' }])
 */
export function namedSse(events: readonly { readonly type: string }[]): string {
  return events.map((event) => `event: ${event.type}\n${sse([event])}`).join('')
}

/**
 * One chunk of a body sent with `transfer-encoding: chunked`; an empty text is the last one.
 *
 * @example
 * chunk('hello') + chunk('')
 */
export function chunk(text: string): string {
  return `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`
}
