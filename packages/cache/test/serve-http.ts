import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface Asked {
  readonly method: string
  readonly path: string
  readonly headers: IncomingMessage['headers']
  readonly body: string
}

export interface Served extends AsyncDisposable {
  readonly origin: string
  readonly asked: readonly Asked[]
  /** Answers whose reader left before their end. */
  readonly left: number
}

export type Answering = (response: ServerResponse, asked: Asked, number: number) => unknown

/** A real server that keeps what it was asked; requests are numbered from 1. */
export async function serveHttp(answer: Answering): Promise<Served> {
  const asked: Asked[] = []
  let left = 0
  const server = createServer(async (incoming, response) => {
    const pieces: Buffer[] = []
    for await (const piece of incoming) pieces.push(piece as Buffer)
    const one = {
      method: incoming.method ?? '',
      path: incoming.url ?? '',
      headers: incoming.headers,
      body: Buffer.concat(pieces).toString()
    }
    asked.push(one)
    response.once('close', () => {
      if (!response.writableFinished) left++
    })
    await answer(response, one, asked.length)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked,
    get left() {
      return left
    },
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    }
  }
}

export async function until(isSo: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + 5000
  while (!isSo()) {
    if (performance.now() > deadline) throw new Error(`never came: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
