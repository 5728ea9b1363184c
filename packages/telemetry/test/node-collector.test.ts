import { createServer as createHttpServer, type RequestListener } from 'node:http'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { type ChatRequest, collect } from '@millrace/core'
import { trace } from '@opentelemetry/api'
import { afterEach, expect, test, vi } from 'vitest'
import { type NodeTelemetry, type NodeTelemetryOptions, startTelemetry } from '../src/node.ts'
import { provides } from './harness.ts'
import { run } from './run-node.ts'

const request: ChatRequest = { model: 'gpt-5.6', messages: [{ role: 'user', content: 'Hi' }] }

async function call({ layer }: NodeTelemetry, times: number): Promise<void> {
  const provider = layer(provides())
  for (let at = 0; at < times; at++) await collect(provider(request, {}))
}

function start(env: Readonly<Record<string, string>>, options: NodeTelemetryOptions = {}): Promise<NodeTelemetry> {
  for (const name of Object.keys(process.env)) if (name.startsWith('OTEL_')) vi.stubEnv(name, undefined)
  for (const [name, value] of Object.entries(env)) vi.stubEnv(name, value)
  return startTelemetry(options)
}

interface Collector extends AsyncDisposable {
  readonly host: string
  /** Connections that are open. */
  readonly open: number
}

async function listening(server: Server): Promise<Collector> {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    // What is done to it is the test's business.
    socket.on('error', () => {}).once('close', () => sockets.delete(socket))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    get open() {
      return sockets.size
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    }
  }
}

/** Answers each connection's first bytes by `answer`. */
const raw = (answer: (socket: Socket) => void): Promise<Collector> =>
  listening(createServer((socket) => socket.resume().once('data', () => answer(socket))))

/** Answers each whole request. */
const http = (answer: RequestListener): Promise<Collector> =>
  listening(createHttpServer((asked, response) => asked.resume().on('end', () => answer(asked, response))))

function drip(socket: Socket, first: string, next: string): void {
  socket.write(first)
  const timer = setInterval(() => socket.write(next), 20)
  socket.once('close', () => clearInterval(timer))
}

afterEach(() => {
  vi.unstubAllEnvs()
})

test.each<[string, (socket: Socket) => void]>([
  ['drips its head', (socket) => drip(socket, 'HTTP/1.1 200 OK\r\n', 'x-a: b\r\n')],
  ['drips its body', (socket) => drip(socket, 'HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n', 'a')],
  ['sends 103 without end', (socket) => drip(socket, '', 'HTTP/1.1 103 Early Hints\r\n\r\n')],
  ['switches protocols', (socket) => socket.write('HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n')]
])('of a collector that %s each export is given up at its deadline, told, and its socket destroyed', async (_what, answer) => {
  await using collector = await raw(answer)
  const told: string[] = []
  const telemetry = await start(
    {
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://${collector.host}`,
      OTEL_EXPORTER_OTLP_TIMEOUT: '150',
      OTEL_BSP_SCHEDULE_DELAY: '10',
      OTEL_METRIC_EXPORT_INTERVAL: '200'
    },
    { onError: ({ message }) => told.push(message) }
  )
  for (let round = 1; round <= 3; round++) {
    await call(telemetry, 10)
    await expect.poll(() => telemetry.stats().spans, { timeout: 5000 }).toMatchObject({ queued: 0, failed: round })
  }
  expect(telemetry.stats().spans).toMatchObject({ ended: 30, dropped: 30 })
  expect(collector.open).toBeLessThanOrEqual(2)
  await telemetry.close()
  await expect.poll(() => collector.open).toBe(0)
  const host = collector.host
  expect(told.toSorted()).toEqual(['metrics', 'traces'].map((what) => `${what} could not be exported to ${host} (timed out)`))
})

test('of four batches at close one is refused at once; the three others arrive', async () => {
  let requests = 0
  await using collector = await http((_asked, response) => {
    if (++requests === 2) response.writeHead(413).end()
    else setTimeout(() => response.end(), 100)
  })
  const telemetry = await start({ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `http://${collector.host}` }, { onError: () => {} })
  await call(telemetry, 2048)
  await telemetry.close()
  expect(telemetry.stats().spans).toMatchObject({ exported: 1536, dropped: 512, failed: 1 })
})

test('of spans with long texts four exports are under way at a time', async () => {
  await using collector = await http((_asked, response) => void setTimeout(() => response.end(), 100))
  await using telemetry = await start({ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `http://${collector.host}` })
  const tracer = trace.getTracer('test')
  const attributes = { 'gen_ai.input.messages': 'x'.repeat(24 * 1024) }
  const started = performance.now()
  // 250 in a moment are 6 Mi characters: one export at a time would need 2.5 s for them.
  for (let at = 0; at < 250; at++) tracer.startSpan('call', { attributes }).end()
  await expect.poll(() => telemetry.stats().spans.exported, { timeout: 10_000, interval: 10 }).toBeGreaterThanOrEqual(240)
  expect(performance.now() - started).toBeLessThan(1800)
  await telemetry.close()
  expect(telemetry.stats().spans).toMatchObject({ exported: 250, dropped: 0 })
})

test('a hundred batches at close all arrive', async () => {
  await using collector = await http((_asked, response) => response.end())
  const telemetry = await start({
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `http://${collector.host}`,
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE: '10'
  })
  await call(telemetry, 1000)
  await telemetry.close()
  expect(telemetry.stats().spans).toMatchObject({ exported: 1000, dropped: 0 })
})

test('spans with long texts hold up neither a call nor the closing', async () => {
  await using collector = await http((_asked, response) => response.end())
  const telemetry = await start(
    { OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `http://${collector.host}`, OTEL_BSP_SCHEDULE_DELAY: '60000' },
    { content: { maxChars: 8192 }, onError: () => {} }
  )
  const content = 'abc'.repeat(2700)
  const provider = telemetry.layer(provides())
  let worst = 0
  for (let at = 0; at < 1024; at++) {
    const started = process.threadCpuUsage()
    await collect(
      provider(
        {
          model: 'm',
          messages: [
            { role: 'system', content },
            { role: 'user', content }
          ]
        },
        {}
      )
    )
    // Of this thread: what others on a busy machine take is not the call's.
    const { user, system } = process.threadCpuUsage(started)
    worst = Math.max(worst, (user + system) / 1000)
    if (at % 8 === 0) await pause(0)
  }
  // Serialising 512 of them took 80 ms and more.
  expect(worst).toBeLessThan(50)
  const started = performance.now()
  await telemetry.close()
  expect(performance.now() - started).toBeLessThan(2500)
  expect(telemetry.stats().spans).toMatchObject({ exported: 1024, dropped: 0 })
})

test.each([
  ['application/json', JSON.stringify({ partialSuccess: { rejectedSpans: '2', errorMessage: 'sk-canary' } })],
  ['application/x-protobuf', Buffer.from([0x0a, 0x02, 0x08, 0x02])]
])('spans that the collector says it rejected (%s) are dropped and told', async (type, body) => {
  await using collector = await http((_asked, response) => response.writeHead(200, { 'content-type': type }).end(body))
  const told: string[] = []
  const telemetry = await start(
    {
      OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `http://${collector.host}`,
      OTEL_EXPORTER_OTLP_PROTOCOL: type === 'application/json' ? 'http/json' : 'http/protobuf'
    },
    { onError: ({ message }) => told.push(message) }
  )
  await call(telemetry, 5)
  await telemetry.close()
  expect(telemetry.stats().spans).toMatchObject({ exported: 3, dropped: 2, failed: 0 })
  expect(told).toEqual(['the collector rejected a part of the traces'])
})

test.each(['0', '-5', 'soon'])('a Retry-After of %s is none', async (retryAfter) => {
  let requests = 0
  await using collector = await http((_asked, response) => {
    requests++
    response.writeHead(503, { 'retry-after': retryAfter }).end()
  })
  const telemetry = await start(
    { OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `http://${collector.host}`, OTEL_BSP_SCHEDULE_DELAY: '10' },
    { onError: () => {} }
  )
  await call(telemetry, 1)
  await pause(400)
  expect(requests).toBe(1)
  await telemetry.close()
})

test('a 404 at a path that is there twice is told with the cure, and never the path', async () => {
  await using collector = await http((_asked, response) => response.writeHead(404).end())
  const told: string[] = []
  const telemetry = await start(
    { OTEL_EXPORTER_OTLP_ENDPOINT: `http://user:sk-canary@${collector.host}/sk-canary/v1/traces`, OTEL_METRICS_EXPORTER: 'none' },
    { onError: ({ message }) => told.push(message) }
  )
  await call(telemetry, 1)
  await telemetry.close()
  const hint = 'the endpoint is the base address, without /v1/traces'
  expect(told).toEqual([`traces could not be exported to ${collector.host} (HTTP 404; ${hint})`])
})

test('an endpoint without its scheme is told', async () => {
  const told: string[] = []
  const telemetry = await start(
    { OTEL_EXPORTER_OTLP_ENDPOINT: 'localhost:4318' },
    { onError: ({ message }) => told.push(message), metrics: [] }
  )
  await call(telemetry, 1)
  await telemetry.close()
  expect(told).toEqual([
    'OTEL_EXPORTER_OTLP_ENDPOINT must begin with http:// or https://; nothing reaches it as it is',
    'traces could not be exported to the collector (ERR_INVALID_PROTOCOL)'
  ])
})

test('inside onError the counts add up, and its rejection is counted', async () => {
  const telemetry = await start(
    { OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'http://127.0.0.1:1', OTEL_BSP_MAX_QUEUE_SIZE: '10' },
    {
      sampling: { ratio: 0, slowMs: 0 },
      async onError() {
        const { ended, sampledOut, queued, exported, dropped } = telemetry.stats().spans
        sums.push(ended - sampledOut - queued - exported - dropped)
        throw new Error('of the user')
      }
    }
  )
  const sums: number[] = []
  await call(telemetry, 30)
  await telemetry.close()
  expect(sums).toEqual([0, 0])
  expect(telemetry.stats().failures).toBe(2)
})

const program = `
import { startTelemetry } from '@millrace/telemetry/node'
import { collect } from '@millrace/core'
const telemetry = await startTelemetry()
const provider = telemetry.layer(async function* () {
  yield { type: 'start', provider: 'openai', model: 'gpt-5.6' }
  yield { type: 'finish', reason: 'stop' }
})
for (let at = 0; at < 2048; at++) await collect(provider({ model: 'gpt-5.6', messages: [{ role: 'user', content: 'Hi' }] }, {}))
console.log('done')
`

test('a process that never closes exits all the same, at most one deadline later', async () => {
  await using stalled = await http(() => {})
  await using quick = await http((_asked, response) => response.end())
  const timed = async ({ host }: Collector): Promise<number> => {
    const { code, output, elapsedMs } = await run(program, {
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://${host}`,
      OTEL_EXPORTER_OTLP_TIMEOUT: '1000'
    })
    expect([code, output.split('\n')[0]]).toEqual([0, 'done'])
    return elapsedMs
  }
  const usual = await timed(quick)
  expect(await timed(stalled)).toBeLessThan(usual * 2 + 2500)
})
