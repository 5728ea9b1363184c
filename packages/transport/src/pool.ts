import type { Socket } from 'node:net'
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
}

/** One origin's place in the pool. */
export interface Origin {
  readonly gate: Gate
  requests: number
  opened: number
  open: number
  /** Exchanges that have no socket yet. */
  waiting: number
  /** Sockets that are being connected, the oldest first. */
  readonly connecting: Set<Socket>
}

export interface Pool {
  readonly agent: Agent
  origin(name: string): Origin
  /** Ends connections in the making that no exchange waits for any more; undici would see them through. */
  shed(origin: Origin): void
  stats(): Readonly<Record<string, OriginStats>>
  /** Closes every socket, also those being connected. */
  destroy(): Promise<void>
}

export function createPool(options: PoolOptions): Pool {
  const origins = new Map<string, Origin>()

  function origin(name: string): Origin {
    let entry = origins.get(name)
    if (entry === undefined) {
      entry = {
        gate: createGate(options.maxConnections, options.maxQueue),
        requests: 0,
        opened: 0,
        open: 0,
        waiting: 0,
        connecting: new Set()
      }
      origins.set(name, entry)
    }
    return entry
  }

  // undici's own timers are coarse and end at 300 s: all off, the exchange's clocks decide.
  const connect = buildConnector({ allowH2: false, timeout: 0 }) as (
    ...parameters: Parameters<buildConnector.connector>
  ) => Socket
  const agent = new Agent({
    connections: options.maxConnections,
    pipelining: 1,
    allowH2: false,
    keepAliveTimeout: options.keepAliveMs,
    headersTimeout: 0,
    bodyTimeout: 0,
    connect(target, callback) {
      const entry = origin(new URL(`${target.protocol}//${target.host ?? target.hostname}`).origin)
      const connecting = connect(target, (...result) => {
        entry.connecting.delete(connecting)
        const [, socket] = result
        if (socket) count(entry, socket)
        callback(...result)
      })
      entry.connecting.add(connecting)
    }
  })

  function shed(entry: Origin): void {
    for (const socket of entry.connecting) {
      if (entry.connecting.size <= entry.waiting) return
      entry.connecting.delete(socket)
      socket.destroy(new Error('nobody waits for this connection any more'))
    }
  }

  return {
    agent,
    origin,
    shed,
    async destroy() {
      for (const entry of origins.values()) {
        entry.waiting = 0
        shed(entry)
      }
      await agent.destroy()
    },
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
