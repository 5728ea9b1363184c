import dns from 'node:dns'
import { createServer as createHttpServer } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import { createServer } from 'node:net'
import { gzipSync } from 'node:zlib'
import { type Timeouts } from '@millrace/core'
import { chunk, createCertificate, type FaultConnection, responseHead } from '@millrace/testkit'
import { type TransportOptions } from '@millrace/transport'
import { vi } from 'vitest'
import {
  always,
  answersOnce,
  both,
  closedPort,
  type Fate,
  firstThenGood,
  forever,
  listen,
  type Script,
  type Shape
} from './telemetry-rig.ts'
import { good, jsonResponse, serveGood, streamHead, type Wire, wholeStream } from './telemetry-wire.ts'

export interface Target {
  readonly url: string
  /** Requests that the server has read. */
  readonly requests: () => number
  readonly transport?: TransportOptions
}

export interface Row {
  readonly fault: string
  readonly serve?: Script
  /** Another server than that; undefined where this machine cannot have it. */
  readonly reach?: (wire: Wire) => Promise<Target | undefined>
  readonly shapes?: readonly Shape[]
  readonly wire?: Wire['name']
  readonly transport?: TransportOptions
  readonly timeouts?: Timeouts
  /** A good call goes ahead on the same adapter. */
  readonly warm?: true
  /** When the caller aborts: before the call, while it connects, a moment behind the request's arrival or the first content. */
  readonly abort?: 'before' | 'request' | 'content' | 'connecting'
  /** What the reader does at each text. @default reads on */
  readonly read?: 'leaves' | 'throws' | 'slowly'
  readonly gives: Fate
  readonly clock?: string
  /** Spans of attempts. @default 1 */
  readonly attempts?: number
  /** Requests the server has read. @default as many as attempts */
  readonly requests?: number
}
/** A server that reads no request. */
const none = (url: string, transport: TransportOptions = {}): Target => ({ url, requests: () => 0, transport })

/** The name `api.test` resolves to this error, or never. */
function resolveAs(error: string | undefined): Target {
  vi.spyOn(dns, 'lookup').mockImplementation(((_: string, __: object, callback: (error: Error) => void) => {
    if (error === undefined) return
    setImmediate(() => callback(Object.assign(new Error(`getaddrinfo ${error}`), { code: error, syscall: 'getaddrinfo' })))
  }) as never)
  return none('http://api.test')
}

const tls =
  (options: Parameters<typeof createCertificate>[0], trusted: 'trusted' | 'not trusted') => async (): Promise<Target> => {
    const certificate = createCertificate(options)
    const port = await listen(createHttpsServer(certificate, (_, reply) => reply.end('ok')))
    return none(`https://127.0.0.1:${port}`, trusted === 'trusted' ? { ca: certificate.cert } : {})
  }

const connecting: readonly Row[] = [
  { fault: 'N1 refused', reach: async () => none(`http://127.0.0.1:${await closedPort()}`), gives: 'network', attempts: 3 },
  {
    fault: 'N3 accepts, silent',
    serve: ({ closed }) => closed,
    timeouts: { headersMs: 150 },
    gives: 'timeout',
    clock: 'headers',
    requests: 0
  },
  { fault: 'N3 reads, silent', serve: answersOnce(() => ''), timeouts: { headersMs: 150 }, gives: 'timeout', clock: 'headers' },
  { fault: 'N4 FIN on accept', serve: (connection) => connection.end(), gives: 'network', attempts: 3, requests: 0 },
  { fault: 'N4 RST on accept', serve: (connection) => connection.reset(), gives: 'network', attempts: 3, requests: 0 },
  { fault: 'N5 name not found', reach: async () => resolveAs('ENOTFOUND'), gives: 'network' },
  { fault: 'N5 name server fails', reach: async () => resolveAs('EAI_AGAIN'), gives: 'network', attempts: 3 },
  {
    fault: 'N5 name server silent',
    reach: async () => resolveAs(undefined),
    timeouts: { connectMs: 100 },
    gives: 'timeout',
    clock: 'connect',
    attempts: 3
  },
  { fault: 'N6 untrusted', reach: tls({}, 'not trusted'), gives: 'network' },
  { fault: 'N6 expired', reach: tls({ state: 'expired' }, 'trusted'), gives: 'network' },
  { fault: 'N6 wrong name', reach: tls({ names: ['other.test'] }, 'trusted'), gives: 'network' },
  {
    fault: 'N6 plain HTTP',
    reach: async () => none(`https://127.0.0.1:${await listen(createHttpServer((_, reply) => reply.end('ok')))}`),
    gives: 'network'
  },
  {
    fault: 'N6 reset in the handshake',
    reach: async () =>
      none(`https://127.0.0.1:${await listen(createServer((near) => near.once('data', () => near.resetAndDestroy())))}`),
    gives: 'network',
    attempts: 3
  },
  {
    fault: 'N6 stalls in the handshake',
    reach: async () => none(`https://127.0.0.1:${await listen(createServer())}`),
    timeouts: { connectMs: 100 },
    gives: 'timeout',
    clock: 'connect',
    attempts: 3
  },
  {
    fault: 'N7 half-open pooled connection',
    warm: true,
    async serve(connection, wire) {
      await connection.write(good(wire, await connection.request()))
      await connection.request()
      await connection.closed
    },
    timeouts: { headersMs: 150 },
    gives: 'timeout',
    clock: 'headers'
  },
  {
    fault: 'N8 slow line',
    async serve(connection, wire) {
      const bytes = good(wire, await connection.request())
      for (let at = 0; at < bytes.length; at += 40) {
        await connection.write(bytes.slice(at, at + 40))
        await connection.pause(2)
      }
      await connection.closed
    },
    gives: 'success'
  }
]

const heads: readonly Row[] = [
  { fault: 'H1 reset before headers', serve: answersOnce(() => '', 'reset'), gives: 'network', attempts: 3 },
  { fault: 'H1 close before headers', serve: answersOnce(() => '', 'end'), gives: 'network', attempts: 3 },
  { fault: 'H1 cut in the headers', serve: answersOnce(() => 'HTTP/1.1 200 OK\r\nconte', 'end'), gives: 'network', attempts: 3 },
  {
    // The free repeat is part of its attempt: nothing has been read of the first request's answer.
    fault: 'H1 reset before headers, reused socket',
    warm: true,
    async serve(connection, wire) {
      await connection.write(good(wire, await connection.request()))
      if (connection.number === 1) {
        await connection.request()
        return connection.reset()
      }
      await serveGood(connection, wire)
    },
    gives: 'success',
    attempts: 1,
    requests: 2
  },
  {
    fault: 'H2 keep-alive race',
    warm: true,
    async serve(connection, wire) {
      await connection.write(good(wire, await connection.request()))
      if (connection.number === 1) return connection.end()
      await serveGood(connection, wire)
    },
    gives: 'success'
  },
  {
    fault: 'H3 slow-loris headers',
    async serve(connection) {
      await connection.request()
      await connection.write('HTTP/1.1 200 OK\r\n')
      await forever(connection, 'x-a: 1\r\n', 20)
    },
    timeouts: { headersMs: 150 },
    gives: 'timeout',
    clock: 'headers'
  },
  {
    fault: 'H5 103 flood',
    async serve(connection, wire) {
      const bytes = good(wire, await connection.request())
      await connection.write(responseHead(103).repeat(100) + bytes)
      await connection.closed
    },
    gives: 'success'
  },
  { fault: 'H5 early 413', serve: answersOnce(() => jsonResponse(413, '{}'), 'end'), gives: 'invalid-request' },
  { fault: 'H8 redirect', serve: always(jsonResponse(307, '{}', { location: '/elsewhere' })), gives: 'protocol' },
  { fault: 'C1 429, zero', serve: firstThenGood(jsonResponse(429, '{}', { 'retry-after': 0 })), gives: 'success', attempts: 2 },
  {
    fault: 'C1 429, milliseconds',
    serve: firstThenGood(jsonResponse(429, '{}', { 'retry-after-ms': 5 })),
    gives: 'success',
    attempts: 2
  },
  { fault: 'C1 429, none', serve: firstThenGood(jsonResponse(429, '{}')), gives: 'success', attempts: 2 },
  { fault: 'C2 hint beyond the limit', serve: always(jsonResponse(429, '{}', { 'retry-after': 3600 })), gives: 'rate-limited' },
  {
    fault: 'C3 hint negative',
    serve: firstThenGood(jsonResponse(429, '{}', { 'retry-after': -5 })),
    gives: 'success',
    attempts: 2
  },
  {
    fault: 'C3 hint garbage',
    serve: always(jsonResponse(503, '{}', { 'retry-after': 'soon' })),
    gives: 'overloaded',
    attempts: 3
  },
  { fault: 'C4 quota', serve: always(jsonResponse(429, '{"error":{"code":"insufficient_quota"}}')), gives: 'quota-exceeded' },
  { fault: 'C4 x-should-retry', serve: always(jsonResponse(500, '{}', { 'x-should-retry': 'false' })), gives: 'unavailable' },
  { fault: 'C4 400', serve: always(jsonResponse(400, '{}')), gives: 'invalid-request' },
  {
    fault: 'C4 400, content filter',
    serve: always(jsonResponse(400, '{"error":{"code":"content_filter"}}')),
    gives: 'content-filtered'
  },
  {
    fault: 'C4 400, too long',
    serve: always(jsonResponse(400, '{"error":{"code":"context_length_exceeded"}}')),
    gives: 'context-overflow'
  },
  { fault: 'C4 401', serve: always(jsonResponse(401, '{}')), gives: 'unauthorized' },
  { fault: 'C4 402', serve: always(jsonResponse(402, '{}')), gives: 'quota-exceeded' },
  { fault: 'C4 403', serve: always(jsonResponse(403, '{}')), gives: 'unauthorized' },
  { fault: 'C4 404', serve: always(jsonResponse(404, '{}')), gives: 'invalid-request' },
  { fault: 'C4 422', serve: always(jsonResponse(422, '{}')), gives: 'invalid-request' },
  { fault: 'C5 408', serve: always(jsonResponse(408, '{}')), gives: 'unavailable', attempts: 3 },
  { fault: 'C5 409', serve: always(jsonResponse(409, '{}')), gives: 'unavailable', attempts: 3 },
  { fault: 'C5 500', serve: always(jsonResponse(500, '{}')), gives: 'unavailable', attempts: 3 },
  {
    fault: 'C5 502 as HTML',
    serve: always(jsonResponse(502, '<html>', { 'content-type': 'text/html' })),
    gives: 'unavailable',
    attempts: 3
  },
  { fault: 'C5 503', serve: always(jsonResponse(503, '{}')), gives: 'overloaded', attempts: 3 },
  { fault: 'C5 504', serve: always(jsonResponse(504, '{}')), gives: 'unavailable', attempts: 3 },
  { fault: 'C5 529', serve: always(jsonResponse(529, '{}')), gives: 'overloaded', attempts: 3 },
  { fault: 'C5 500, then good', serve: firstThenGood(jsonResponse(500, '{}')), gives: 'success', attempts: 2 }
]

const jsonHead = responseHead(200, { 'content-type': 'application/json', 'content-length': 1000 })
const chunkedJson = responseHead(200, { 'content-type': 'application/json', 'transfer-encoding': 'chunked' })
const zipped = (bytes: Buffer): Buffer =>
  Buffer.concat([
    Buffer.from(
      responseHead(200, { 'content-type': 'application/json', 'content-encoding': 'gzip', 'content-length': bytes.length })
    ),
    bytes
  ])
const alwaysBytes =
  (bytes: (wire: Wire) => Buffer) =>
  async (connection: FaultConnection, wire: Wire): Promise<void> => {
    for (;;) {
      await connection.request()
      await connection.write(bytes(wire))
    }
  }
const cut = (bytes: Buffer): Buffer => bytes.subarray(0, bytes.length >> 1)

const unary = [
  { fault: 'U1 reset', serve: answersOnce(() => `${jsonHead}{"id`, 'reset'), gives: 'network', attempts: 3 },
  { fault: 'U1 short content-length', serve: answersOnce(() => `${jsonHead}{"id`, 'end'), gives: 'network', attempts: 3 },
  { fault: 'U1 bad chunking', serve: answersOnce(() => `${chunkedJson}zz\r\n{}`), gives: 'protocol', attempts: 3 },
  { fault: 'U1 cut chunking', serve: answersOnce(() => `${chunkedJson}ff\r\n{}`, 'end'), gives: 'network', attempts: 3 },
  {
    fault: 'U2 stall',
    serve: answersOnce(() => `${jsonHead}{"id`),
    timeouts: { totalMs: 200 },
    gives: 'timeout',
    clock: 'total'
  },
  {
    fault: 'U2 drip',
    async serve(connection) {
      await connection.request()
      await connection.write(jsonHead)
      await forever(connection, ' ', 20)
    },
    timeouts: { totalMs: 200 },
    gives: 'timeout',
    clock: 'total'
  },
  { fault: 'U3 truncated JSON', serve: always((wire) => jsonResponse(200, wire.json().slice(0, -9))), gives: 'protocol' },
  { fault: 'U3 HTML', serve: always(jsonResponse(200, '<html>', { 'content-type': 'text/html' })), gives: 'protocol' },
  { fault: 'U3 empty', serve: always(jsonResponse(200, '')), gives: 'protocol' },
  { fault: 'U3 null', serve: always(jsonResponse(200, 'null')), gives: 'protocol' },
  { fault: 'U3 no choices', serve: always(jsonResponse(200, '{}')), gives: 'protocol' },
  { fault: 'U3 empty choices', wire: 'openai', serve: always(jsonResponse(200, '{"choices":[]}')), gives: 'protocol' },
  { fault: 'U3 204', serve: always(responseHead(204)), gives: 'protocol' },
  { fault: 'U3 error object in a 200', serve: always((wire) => jsonResponse(200, wire.errorBody)), gives: 'overloaded' },
  { fault: 'U4 content filter', serve: always((wire) => jsonResponse(200, wire.json('', 'content-filter'))), gives: 'success' },
  {
    fault: 'U5 __proto__',
    serve: always((wire) => jsonResponse(200, `{"__proto__":{"a":1},${wire.json().slice(1)}`)),
    gives: 'success'
  },
  { fault: 'U5 nesting', serve: always(jsonResponse(200, '{"a":'.repeat(50_000) + '}'.repeat(50_000))), gives: 'protocol' },
  { fault: 'U5 byte order mark', serve: always((wire) => jsonResponse(200, `\ufeff${wire.json()}`)), gives: 'success' },
  { fault: 'U6 gzip', serve: alwaysBytes((wire) => zipped(gzipSync(wire.json()))), gives: 'success' },
  { fault: 'U6 gzip, corrupt', serve: alwaysBytes(() => zipped(Buffer.from('no gzip at all'))), gives: 'protocol' },
  { fault: 'U6 gzip, cut', serve: alwaysBytes((wire) => zipped(cut(gzipSync(wire.json())))), gives: 'protocol' },
  { fault: 'U6 gzip bomb', serve: alwaysBytes(() => zipped(gzipSync(Buffer.alloc(20_000_000)))), gives: 'protocol' },
  {
    fault: 'U7 endless answer',
    async serve(connection) {
      await connection.request()
      await connection.write(chunkedJson)
      for (;;) await connection.write(chunk(' '.repeat(65_536)))
    },
    gives: 'protocol'
  },
  {
    fault: 'U7 endless error',
    async serve(connection) {
      await connection.request()
      await connection.write(responseHead(400, { 'transfer-encoding': 'chunked' }))
      for (;;) await connection.write(chunk('x'.repeat(65_536)))
    },
    gives: 'invalid-request'
  },
  {
    fault: 'U7 stalled error',
    serve: answersOnce(() => `${responseHead(400, { 'content-length': 100 })}{"er`),
    gives: 'invalid-request'
  }
] satisfies readonly Row[]

const streams = [
  {
    fault: 'S1 legal variety',
    serve: always((wire) => {
      const events = wire.opening + wire.more + wire.closing()
      return wholeStream(`\ufeff: hello\n\nid: 7\nretry: 5\nfoo: bar\n\n${events}`.replaceAll('\n', '\r\n'))
    }),
    gives: 'success'
  },
  {
    fault: 'S1 any byte split',
    serve: always((wire) => wholeStream(...Array.from(wire.opening + wire.more + wire.closing()))),
    gives: 'success'
  },
  {
    fault: 'S3 [DONE] missing',
    wire: 'openai',
    serve: always((wire) => wholeStream(wire.opening, wire.closing().replace('data: [DONE]\n\n', ''))),
    gives: 'success'
  },
  { fault: 'S5 no finish reason', serve: always((wire) => wholeStream(wire.opening, wire.more)), gives: 'protocol' },
  {
    fault: 'S5 close-delimited cut',
    serve: answersOnce((wire) => responseHead(200, { 'content-type': 'text/event-stream' }) + wire.opening, 'end'),
    gives: 'protocol'
  },
  { fault: 'S5 empty', serve: always(wholeStream()), gives: 'protocol', attempts: 3 },
  { fault: 'S5 only [DONE]', wire: 'openai', serve: always(wholeStream('data: [DONE]\n\n')), gives: 'protocol', attempts: 3 },
  {
    fault: 'S5 cut inside an event',
    serve: always((wire) => wholeStream(wire.opening, wire.more.slice(0, -9))),
    gives: 'protocol'
  },
  { fault: 'S6 reset', serve: answersOnce((wire) => streamHead + chunk(wire.opening), 'reset'), gives: 'network' },
  { fault: 'S6 FIN', serve: answersOnce((wire) => streamHead + chunk(wire.opening), 'end'), gives: 'network' },
  {
    fault: 'S7 stall before the first event',
    serve: answersOnce(() => streamHead),
    timeouts: { firstChunkMs: 150 },
    gives: 'timeout',
    clock: 'first-chunk'
  },
  {
    fault: 'S7 stall mid',
    serve: answersOnce((wire) => streamHead + chunk(wire.opening)),
    timeouts: { idleMs: 150 },
    gives: 'timeout',
    clock: 'idle'
  },
  {
    fault: 'S7 stall in a line',
    serve: answersOnce((wire) => streamHead + chunk(wire.opening + wire.more.slice(0, -9))),
    timeouts: { idleMs: 150 },
    gives: 'timeout',
    clock: 'idle'
  },
  {
    fault: 'S8 heartbeats for ever',
    async serve(connection, wire) {
      await connection.request()
      await connection.write(streamHead + chunk(wire.opening))
      await forever(connection, chunk(wire.heartbeat), 20)
    },
    timeouts: { idleMs: 200 },
    gives: 'timeout',
    clock: 'idle'
  },
  {
    fault: 'S8 heartbeats first',
    async serve(connection, wire) {
      await connection.request()
      await connection.write(streamHead)
      await forever(connection, chunk(wire.heartbeat), 20)
    },
    timeouts: { firstChunkMs: 200 },
    gives: 'timeout',
    clock: 'first-chunk'
  },
  { fault: 'S10 error first', serve: always((wire) => wholeStream(wire.errorEvent)), gives: 'overloaded', attempts: 3 },
  {
    fault: 'S10 error first, then good',
    serve: firstThenGood((wire) => wholeStream(wire.errorEvent)),
    gives: 'success',
    attempts: 2
  },
  { fault: 'S10 error later', serve: always((wire) => wholeStream(wire.opening, wire.errorEvent)), gives: 'overloaded' },
  {
    fault: 'S11 malformed event',
    serve: always((wire) => wholeStream(wire.opening, 'data: {"a\n\n', wire.closing())),
    gives: 'protocol'
  },
  {
    fault: 'S12 duplicate',
    serve: always((wire) => wholeStream(wire.opening, wire.more, wire.more, wire.closing())),
    gives: 'success'
  },
  {
    fault: 'S13 endless line',
    async serve(connection, wire) {
      await connection.request()
      await connection.write(streamHead + chunk(`${wire.opening}data: `))
      for (;;) await connection.write(chunk('x'.repeat(65_536)))
    },
    gives: 'protocol'
  },
  { fault: 'S14 HTML', serve: always(jsonResponse(200, '<html>', { 'content-type': 'text/html' })), gives: 'protocol' },
  { fault: 'S14 JSON', serve: always((wire) => jsonResponse(200, wire.json())), gives: 'success' },
  { fault: 'S15 slow reader', serve: serveGood, read: 'slowly', gives: 'success' },
  {
    fault: 'S16 reader leaves',
    serve: answersOnce((wire) => streamHead + chunk(wire.opening)),
    read: 'leaves',
    gives: 'abandoned'
  },
  {
    fault: 'S16 reader throws',
    serve: answersOnce((wire) => streamHead + chunk(wire.opening)),
    read: 'throws',
    gives: 'abandoned'
  },
  { fault: 'S18 length', serve: always((wire) => wholeStream(wire.opening, wire.closing('length'))), gives: 'success' },
  {
    fault: 'S18 content filter',
    serve: always((wire) => wholeStream(wire.opening, wire.closing('content-filter'))),
    gives: 'success'
  }
] satisfies readonly Row[]

const aborts: readonly Row[] = [
  { fault: 'P2 abort before', serve: serveGood, abort: 'before', gives: 'aborted', attempts: 0 },
  {
    fault: 'P2 abort while connecting',
    reach: async () => resolveAs(undefined),
    abort: 'connecting',
    gives: 'aborted',
    requests: 0
  },
  { fault: 'P2 abort before the head', serve: answersOnce(() => ''), abort: 'request', gives: 'aborted' },
  { fault: 'P2 abort behind the head', serve: answersOnce(() => streamHead), abort: 'request', gives: 'aborted' },
  {
    fault: 'P2 abort in back-off',
    serve: always(jsonResponse(429, '{}', { 'retry-after': 20 })),
    abort: 'request',
    gives: 'aborted'
  },
  {
    fault: 'P2 abort mid stream',
    serve: answersOnce((wire) => streamHead + chunk(wire.opening)),
    shapes: ['stream'],
    abort: 'content',
    gives: 'aborted'
  },
  {
    fault: 'P2 abort while reading slowly',
    serve: serveGood,
    shapes: ['stream'],
    abort: 'content',
    read: 'slowly',
    gives: 'aborted'
  }
]

/** Every fault that concerns a call, by its number in the list. */
export const rows = [
  ...[...connecting, ...heads, ...aborts].map((row) => ({ shapes: both, ...row })),
  ...unary.map((row) => ({ ...row, shapes: ['complete'] as const })),
  ...streams.map((row) => ({ ...row, shapes: ['stream'] as const }))
] satisfies readonly Row[] as readonly Row[]
