import { once } from 'node:events'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { type Adapter, type AdapterOptions, createAdapter } from '@millrace/adapter'
import { type ChatRequest, type ErrorCode } from '@millrace/core'
import { type FaultConnection, type FaultRequest } from '@millrace/testkit'
import { createTransport, type TransportOptions } from '@millrace/transport'
import { propagation, SpanStatusCode, type TextMapPropagator, trace } from '@opentelemetry/api'
import { afterEach, expect, vi } from 'vitest'
import { type CallTrace, createHarness, type Harness } from './telemetry-harness.ts'
import { serveGood, startCountingServer, type Wire, wires } from './telemetry-wire.ts'

/** What is used is closed behind the test, the last first. */
const resources: AsyncDisposable[] = []
export const use = <T extends AsyncDisposable>(resource: T): T => {
  resources.push(resource)
  return resource
}
afterEach(async () => {
  vi.restoreAllMocks()
  propagation.disable()
  for (const resource of resources.splice(0).toReversed()) await resource[Symbol.asyncDispose]()
})

export type Shape = 'complete' | 'stream'
/** How a call ends: well, by its caller, or by an error of this code. */
export type Fate = 'success' | 'aborted' | 'abandoned' | ErrorCode

/** What one connection is told. */
export type Script = (connection: FaultConnection, wire: Wire) => void | Promise<void>

export const both: readonly Shape[] = ['complete', 'stream']

/** The model's name is what the spans are called. */
export const ask = (content = 'Why?'): ChatRequest => ({
  model: 'asked',
  messages: [{ role: 'user', content }],
  maxOutputTokens: 99
})
/** Retries that do not wait, as often as they like. */
export const eager: TransportOptions = { retry: { baseMs: 1, maxMs: 2, budgetReserve: Number.POSITIVE_INFINITY }, breaker: false }

/** Takes one request, writes this, and then ends the connection or keeps it. */
export const answersOnce =
  (bytes: (wire: Wire) => string, then: 'end' | 'reset' | 'stay' = 'stay'): Script =>
  async (connection, wire) => {
    await connection.request()
    await connection.write(bytes(wire))
    if (then === 'stay') await connection.closed
    else connection[then]()
  }
/** The same on each request of each connection. */
export const always =
  (bytes: string | ((wire: Wire) => string)): Script =>
  async (connection, wire) => {
    for (;;) {
      await connection.request()
      await connection.write(typeof bytes === 'string' ? bytes : bytes(wire))
    }
  }
/** The first request of all gets this, all others a good answer. */
export function firstThenGood(bytes: string | ((wire: Wire) => string)): Script {
  return async (connection, wire) => {
    if (connection.number === 1) {
      await connection.request()
      await connection.write(typeof bytes === 'string' ? bytes : bytes(wire))
    }
    await serveGood(connection, wire)
  }
}
export const forever = async (connection: FaultConnection, bytes: string, everyMs: number): Promise<void> => {
  for (;;) {
    await connection.write(bytes)
    await connection.pause(everyMs)
  }
}

/** Closes the server and its sockets behind the test. */
export async function listen(server: Server): Promise<number> {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    sockets.add(socket.on('error', () => {}))
    socket.once('close', () => sockets.delete(socket))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  use({
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    }
  })
  return (server.address() as AddressInfo).port
}

/** A port nobody listens at. */
export async function closedPort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

export interface Rig {
  readonly harness: Harness
  readonly adapter: Adapter
  readonly requests: () => readonly FaultRequest[]
}

/** An adapter over a server with this script. */
export async function rig(
  serve: Script,
  { transport: asked, ...options }: Omit<AdapterOptions, 'provider' | 'transport'> & { transport?: TransportOptions } = {}
): Promise<Rig> {
  const harness = use(createHarness())
  const server = use(await startCountingServer((connection) => serve(connection, usualWire)))
  const { traceHeaders } = harness.telemetry
  const transport = use(createTransport({ ...eager, traceHeaders, ...asked }))
  const adapter = use(createAdapter({ ...options, provider: usualWire.provider(server.url), transport }))
  return { harness, adapter, requests: () => server.requests }
}
/** What the tests speak that are not made for each family. */
export const [usualWire] = wires as [Wire]

/** As the W3C propagator writes it. */
export const w3c: TextMapPropagator = {
  inject(context, carrier, setter) {
    const span = trace.getSpanContext(context)
    if (span !== undefined) setter.set(carrier, 'traceparent', `00-${span.traceId}-${span.spanId}-01`)
  },
  extract: (context) => context,
  fields: () => ['traceparent']
}

/** Waits until all spans are sound: an attempt may end a moment behind its call. */
export async function sound(harness: Harness): Promise<void> {
  await expect.poll(() => harness.objections(), { timeout: 5000 }).toEqual([])
}

/** The codes or outcomes of all calls, sorted. */
export const outcomes = (harness: Harness): string[] =>
  harness
    .calls()
    .map(({ span: { attributes } }) => String(attributes['error.type'] ?? attributes['millrace.outcome']))
    .toSorted()

/** What it gives, or what it throws. */
export const settled = async (work: Promise<unknown>): Promise<unknown> => work.catch((error: unknown) => error)

/** Answers a request when it is told to. */
export function gate(): { readonly opened: Promise<void>; readonly open: () => void } {
  const { promise, resolve } = Promise.withResolvers<void>()
  return { opened: promise, open: resolve }
}

/** One span for the call with what the caller was told, and sound spans throughout. */
export async function judge(harness: Harness, gives: Fate, at = 0): Promise<CallTrace> {
  await sound(harness)
  const calls = harness.calls()
  expect(calls).toHaveLength(at + 1)
  const { span, attempts } = calls[at] as CallTrace
  const ended = gives === 'success' || gives === 'aborted' || gives === 'abandoned'
  expect(span.name).toBe('chat asked')
  expect(span.attributes['millrace.outcome']).toBe(ended ? gives : 'error')
  expect(span.attributes['error.type']).toBe(ended ? undefined : gives)
  expect(span.status.code).toBe(ended ? SpanStatusCode.UNSET : SpanStatusCode.ERROR)
  expect(harness.strays()).toEqual([])
  return { span, attempts }
}
