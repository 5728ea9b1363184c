import { Agent, buildConnector } from 'undici'
import { createGate, type Gate } from './gate.ts'

/** What one origin's sockets did and do. */
export interface OriginStats {
  /** Sockets opened since the start. */
  readonly opened: number
  /** Sockets open now, idle ones included. */
  readonly open: number
  /** Exchanges running now, their bodies included. */
  readonly busy: number
  /** Requests waiting for a socket. */
  readonly queued: number
  /** Requests sent, every attempt counted. */
  readonly requests: number
  /** Requests that needed no new socket. */
  readonly reused: number
}

export interface PoolOptions {
  readonly maxConnections: number
  readonly maxQueue: number
  readonly keepAliveMs: number
  readonly connectMs: number
}

/** One origin's place in the pool. */
export interface Origin {
  readonly gate: Gate
  requests: number
  opened: number
  open: number
}

export interface Pool {
  readonly agent: Agent
  origin(name: string): Origin
  stats(): Readonly<Record<string, OriginStats>>
}

export function createPool(options: PoolOptions): Pool {
  const origins = new Map<string, Origin>()

  function origin(name: string): Origin {
    let entry = origins.get(name)
    if (entry === undefined) {
      entry = { gate: createGate(options.maxConnections, options.maxQueue), requests: 0, opened: 0, open: 0 }
      origins.set(name, entry)
    }
    return entry
  }

  // undici's own connect timer is coarse and its headers and body limits are 300 s: both off, our clocks decide.
  const connect = buildConnector({ allowH2: false, timeout: Math.min(options.connectMs, 2_147_483_647) })
  const agent = new Agent({
    connections: options.maxConnections,
    pipelining: 1,
    allowH2: false,
    keepAliveTimeout: options.keepAliveMs,
    headersTimeout: 0,
    bodyTimeout: 0,
    connect(target, callback) {
      connect(target, (...result) => {
        const [, socket] = result
        if (socket) count(origin(new URL(`${target.protocol}//${target.host ?? target.hostname}`).origin), socket)
        callback(...result)
      })
    }
  })

  return {
    agent,
    origin,
    stats() {
      return Object.fromEntries(
        [...origins].map(([name, { gate, requests, opened, open }]) => [
          name,
          { opened, open, busy: gate.busy, queued: gate.queued, requests, reused: Math.max(0, requests - opened) }
        ])
      )
    }
  }
}

function count(entry: Origin, socket: { once(event: 'close', listener: () => void): unknown }): void {
  entry.opened++
  entry.open++
  socket.once('close', () => entry.open--)
}
