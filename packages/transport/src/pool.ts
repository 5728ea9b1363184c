import type { Socket } from 'node:net'
import { clampTimer } from '@millrace/core'
import { Agent, buildConnector, type Dispatcher } from 'undici'
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
  /** For connections that no exchange times. */
  readonly connectMs: number
}

/** One origin's place in the pool. */
export interface Origin {
  readonly gate: Gate
  requests: number
  opened: number
  open: number
  /** Sockets that are being connected, the oldest first. */
  readonly connecting: Set<Socket>
}

/** An exchange, as far as its connection goes. */
export interface Connecting extends Dispatcher.DispatchHandler {
  /** The socket that is being connected for it, and for nothing else. */
  connection: Socket | undefined
}

export interface Pool {
  origin(name: string): Origin
  /** Hands the exchange to undici. A connection that is opened for it is known to it as `connection` until it stands. */
  dispatch(options: Dispatcher.DispatchOptions, exchange: Connecting): void
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
      // undici gives each request to a client with one socket, and opens that socket within the dispatch.
      const exchange = dispatching
      const connecting = connect(target, (...result) => {
        clearTimeout(unclaimed)
        entry.connecting.delete(connecting)
        if (exchange !== undefined) exchange.connection = undefined
        const [, socket] = result
        if (socket) count(entry, socket)
        callback(...result)
      })
      entry.connecting.add(connecting)
      if (exchange !== undefined) exchange.connection = connecting
      // One that was opened outside of a dispatch has no exchange whose clock would end it.
      const unclaimed =
        exchange === undefined ? setTimeout(() => connecting.destroy(nobody()), clampTimer(options.connectMs)).unref() : undefined
    }
  })
  let dispatching: Connecting | undefined

  return {
    origin,
    dispatch(request, exchange) {
      dispatching = exchange
      try {
        agent.dispatch(request, exchange)
      } finally {
        dispatching = undefined
      }
    },
    async destroy() {
      for (const { connecting } of origins.values()) for (const socket of connecting) socket.destroy(nobody())
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

export function nobody(): Error {
  return new Error('nobody waits for this connection any more')
}

function count(entry: Origin, socket: { once(event: 'close', listener: () => void): unknown }): void {
  entry.opened++
  entry.open++
  socket.once('close', () => entry.open--)
}
