import { once } from 'node:events'
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface BalancerOptions {
  /** Where requests go in turn: `http://127.0.0.1:PORT` each. */
  readonly targets: readonly string[]
  /** On loopback. @default 0: a free one */
  readonly port?: number
}

export interface BalancerStats {
  /** Answers that each target began, in the order of `targets`. */
  readonly served: readonly number[]
  /** Requests that are under way at each target. */
  readonly open: readonly number[]
  /** How often a target did not take a request and the next one was asked. */
  readonly passedOver: number
  /** Requests that no target took: answered with 502. */
  readonly failed: number
  /** Answers broken off by their target; their clients see a broken connection too. */
  readonly broken: number
}

export interface Balancer extends AsyncDisposable {
  readonly url: string
  stats(): BalancerStats
  /** Breaks open answers off. */
  close(): Promise<void>
}

/**
 * Deals HTTP requests out in turn, as any balancer before the gateway does: no affinity, nothing buffered, no health checks.
 * A model call must not be made twice. So a body is sent only when the target has said that it waits for it (100 Continue, as
 * Node's servers do), and only before that, or without a body, another target is asked.
 *
 * @throws what `listen` reports, such as `EADDRINUSE`
 *
 * @example
 * await using balancer = await startBalancer({ targets: ['http://127.0.0.1:8801', 'http://127.0.0.1:8802'] })
 * await fetch(`${balancer.url}/healthz`)
 */
export async function startBalancer({ targets, port = 0 }: BalancerOptions): Promise<Balancer> {
  if (targets.length === 0) throw new TypeError('targets is empty: give the address of one gateway at least')
  const served = targets.map(() => 0)
  const open = targets.map(() => 0)
  const counts = { passedOver: 0, failed: 0, broken: 0 }
  let next = 0

  function forward(incoming: IncomingMessage, response: ServerResponse, first: number, tried: number): void {
    const index = (first + tried) % targets.length
    const { method, url, headers } = incoming
    const hasBody = headers['content-length'] !== undefined || headers['transfer-encoding'] !== undefined
    const outgoing = request(new URL(url ?? '/', targets[index]), {
      method,
      headers: { ...headers, connection: 'close', ...(hasBody && { expect: '100-continue' }) },
      agent: false,
      setHost: false
    })
    let sent = false
    if (hasBody) {
      outgoing.once('continue', () => {
        sent = true
        incoming.pipe(outgoing)
      })
    } else outgoing.end()

    add(open, index, 1)
    outgoing.once('close', () => add(open, index, -1))
    const abort = (): void => void outgoing.destroy()
    response.once('close', abort)
    outgoing.once('error', (error: NodeJS.ErrnoException) => {
      response.off('close', abort)
      if (response.destroyed || response.headersSent) return
      if (!sent && tried + 1 < targets.length) {
        counts.passedOver++
        return forward(incoming, response, first, tried + 1)
      }
      counts.failed++
      response.writeHead(502, { 'content-type': 'text/plain' }).end(`no gateway took this request (${error.code})`)
    })
    outgoing.once('response', (answer) => {
      add(served, index, 1)
      const { connection: _, 'keep-alive': __, ...passed } = answer.headers
      response.writeHead(answer.statusCode as number, passed)
      response.flushHeaders()
      answer.pipe(response)
      answer.once('error', () => {
        // The one who left first broke it off.
        if (!response.destroyed) counts.broken++
        response.destroy()
      })
    })
  }

  const server = createServer((incoming, response) => forward(incoming, response, next++ % targets.length, 0))
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')

  function close(): Promise<void> {
    return new Promise((resolve) => {
      server.close(() => resolve())
      server.closeAllConnections()
    })
  }

  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    stats: () => ({ served: [...served], open: [...open], ...counts }),
    close,
    [Symbol.asyncDispose]: close
  }
}

function add(counts: number[], index: number, amount: number): void {
  counts[index] = (counts[index] ?? 0) + amount
}
