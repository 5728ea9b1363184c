import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { createServer as createHttp2, type Http2Server } from 'node:http2'
import { type AddressInfo, connect, type Socket } from 'node:net'
import type { SSESource, SSEWriteOptions } from '../src/sse-options.ts'
import { toSSEResponse } from '../src/sse-response.ts'
import { writeSSE } from '../src/write-sse.ts'

export type Kind = 'http' | 'http2' | 'web'

/** A server that answers each request with a stream of events, by one of our writers. */
export interface Served extends AsyncDisposable {
  readonly url: string
  readonly port: number
  /** How each answer ended: `failed before: ...` when its promise rejected. The web form knows no end. */
  readonly ends: string[]
}

export async function serve(kind: Kind, answer: () => { source: SSESource; options?: SSEWriteOptions }): Promise<Served> {
  const ends: string[] = []
  const refuse = (response: ServerResponse, error: unknown): void => {
    ends.push(`failed before: ${String(error)}`)
    if (!response.destroyed) response.writeHead(502).end(String(error))
  }
  const server: Server | Http2Server =
    kind === 'http2'
      ? createHttp2((_, response) => {
          const { source, options } = answer()
          writeSSE(source, response, options).then(
            (end) => ends.push(end),
            (error) => refuse(response as never, error)
          )
        })
      : createServer((request, response) => {
          const { source, options } = answer()
          if (kind === 'web')
            return void answerByWeb(request, response, source, options).catch((error) => refuse(response, error))
          writeSSE(source, response, options).then(
            (end) => ends.push(end),
            (error) => refuse(response, error)
          )
        })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    ends,
    async [Symbol.asyncDispose]() {
      if ('closeAllConnections' in server) server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    }
  }
}

/** What every Node server of web handlers does. */
async function answerByWeb(
  _: IncomingMessage,
  response: ServerResponse,
  source: SSESource,
  options: SSEWriteOptions = {}
): Promise<void> {
  const controller = new AbortController()
  let reader: ReadableStreamDefaultReader<Uint8Array> | undefined
  let wake: (() => void) | undefined
  response.on('drain', () => wake?.())
  response.on('close', () => {
    wake?.()
    controller.abort(new DOMException('the client has left', 'AbortError'))
    void reader?.cancel()
  })
  const answer = await toSSEResponse(source, { signal: controller.signal, ...options })
  response.writeHead(answer.status, Object.fromEntries(answer.headers))
  response.flushHeaders()
  reader = (answer.body as ReadableStream<Uint8Array>).getReader()
  for (;;) {
    const { done, value } = await reader.read()
    if (done) break
    if (response.write(value) || response.destroyed) continue
    await new Promise<void>((resolve) => {
      wake = resolve
    })
  }
  response.end()
}

/** A client of bare sockets, that reads when it is told to. */
export async function ask(port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => {})
  await once(socket, 'connect')
  socket.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n')
  return socket
}
