import { type IncomingMessage, Server, type ServerResponse } from 'node:http'
import { type AddressInfo, Server as NetServer, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { serve } from '@hono/node-server'
import type { Hono } from 'hono'
import { createApp } from './app.ts'
import type { GatewayEnv, Parts } from './context.ts'
import { cutStalled } from './stalled.ts'

export interface Gateway extends AsyncDisposable {
  readonly url: string
  /**
   * Stops accepting, lets running answers finish for `graceMs`, those passed on untouched included, then ends each stream
   * with an error event. `graceMs` defaults to that of the configuration.
   */
  close(options?: { readonly graceMs?: number }): Promise<void>
}

/** Who was let in a moment before may still be about to ask: calls are taken for the first, and by new connections up to the second. */
const lateMs = { least: 100, most: 1000 }
/** How long the last words of streams that were ended may take to get out. */
const lastWordsMs = 1000

/** @throws what `listen` reports, such as `EADDRINUSE` */
export async function startGateway(given: Omit<Parts, 'isClosing'>): Promise<Gateway> {
  const { config, adapter, streams, batches, transport } = given
  let closing: Promise<void> | undefined
  let refusing = false
  const parts: Parts = { ...given, isClosing: () => refusing }
  const server = await listen(
    createApp(parts, () => closing !== undefined),
    config
  )
  /** Connections whose first request is not there yet. */
  const silent = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    silent.add(socket)
    socket.once('close', () => silent.delete(socket))
  })
  const open = new Set<ServerResponse>()
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    // A call begins when its body is there.
    const heard = (): boolean => silent.delete(request.socket)
    if (request.headers['content-length'] === undefined && request.headers['transfer-encoding'] === undefined) heard()
    else request.once('end', heard)
    open.add(response)
    response.once('close', () => open.delete(response))
    // A batch takes its time: each of its lines has a limit of its own.
    const totalMs = request.url?.startsWith('/v1/batch') === true ? Number.POSITIVE_INFINITY : config.streamMs + config.stallMs
    cutStalled(response, { stallMs: config.stallMs, totalMs })
  })
  const { port } = server.address() as AddressInfo
  const url = `http://${config.host.includes(':') ? `[${config.host}]` : config.host}:${port}`

  async function close(graceMs: number): Promise<void> {
    // Not by http's own `close`: it takes an answer that is written for one that is read, and cuts it off.
    const closed = new Promise((resolve) => NetServer.prototype.close.call(server, resolve))
    const endsAt = performance.now() + graceMs
    const lateAt = performance.now() + Math.min(lateMs.most, graceMs)
    await delay(Math.min(lateMs.least, graceMs))
    while (silent.size > 0 && performance.now() < lateAt) await delay(10)
    refusing = true
    const rest = { graceMs: Math.max(0, Math.round(endsAt - performance.now())) }
    // What is passed on untouched is no call of the adapter: the transport ends it, and each stream tells of that.
    async function endPassed(): Promise<void> {
      while (open.size > 0 && performance.now() < endsAt) await delay(20)
      await transport.close({ graceMs: 0 })
    }
    // A batch over a Redis that is away takes its time to close: neither the others nor their last words wait for it.
    const calls = Promise.allSettled([adapter.close(rest), streams.close(rest), endPassed()])
    const batched = Promise.allSettled([batches.close(rest)])
    const ends = await calls
    const cutAt = performance.now() + lastWordsMs
    // Idle connections go when the last answer is out; with the last words also those whose reader does not take them.
    while (open.size > 0 && performance.now() < cutAt) await delay(20)
    server.closeAllConnections()
    ends.push(...(await batched))
    await closed
    // Nothing is left to close but a timer of http's.
    server.close()
    // One that could not be closed keeps none of the others open.
    for (const end of ends) if (end.status === 'rejected') throw end.reason
  }

  const gateway: Gateway = {
    url,
    close({ graceMs = config.graceMs } = {}) {
      closing ??= close(graceMs)
      return closing
    },
    [Symbol.asyncDispose]: () => gateway.close()
  }
  return gateway
}

function listen(app: Hono<GatewayEnv>, { host, port }: Parts['config']): Promise<Server> {
  return new Promise((resolve, reject) => {
    // A batch is read as it is answered, and may take its time; `cutStalled` ends the others.
    const serverOptions = { requestTimeout: 0 }
    const server = serve({ fetch: app.fetch, hostname: host, port, serverOptions }, () => {
      server.off('error', reject)
      resolve(server as Server)
    })
    server.once('error', reject)
  })
}
