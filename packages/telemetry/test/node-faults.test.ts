import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { type ChatRequest, collect } from '@millrace/core'
import { heapAfterGc, type OtlpBehaviour, startOtlpSink } from '@millrace/testkit'
import { afterEach, expect, test, vi } from 'vitest'
import { type NodeTelemetry, type NodeTelemetryOptions, startTelemetry } from '../src/node.ts'
import { provides } from './harness.ts'
import { run } from './run-node.ts'

const request: ChatRequest = { model: 'gpt-5.6', messages: [{ role: 'user', content: 'Hi' }] }

async function call({ layer }: NodeTelemetry, times: number): Promise<void> {
  const provider = layer(provides())
  for (let at = 0; at < times; at++) await collect(provider(request, {}))
}

/** Exports spans to `url` every 50 ms, and tells `told` what goes wrong. */
function start(url: string, told: string[] = [], options: NodeTelemetryOptions = {}): Promise<NodeTelemetry> {
  for (const name of Object.keys(process.env)) if (name.startsWith('OTEL_')) vi.stubEnv(name, undefined)
  vi.stubEnv('OTEL_EXPORTER_OTLP_ENDPOINT', url)
  vi.stubEnv('OTEL_BSP_SCHEDULE_DELAY', '50')
  return startTelemetry({ onError: ({ message }) => void told.push(message), ...options })
}

const hostOf = (url: string): string => new URL(url).host

function addsUp({ spans }: ReturnType<NodeTelemetry['stats']>): boolean {
  return spans.ended === spans.sampledOut + spans.queued + spans.exported + spans.dropped
}

// An unhandled rejection anywhere fails the run: Vitest sees to that.
afterEach(() => {
  vi.unstubAllEnvs()
})

test('ten thousand spans against a stalled collector: the queue is full, the rest dropped, the counts add up, close is in time', async () => {
  await using sink = await startOtlpSink({ behaviour: 'stall' })
  const told: string[] = []
  const telemetry = await start(sink.url, told)
  await call(telemetry, 3000)
  // Four batches leave the queue, and the queue fills again.
  await pause(100)
  await call(telemetry, 3000)
  const before = await heapAfterGc()
  await call(telemetry, 4000)
  const grown = (await heapAfterGc()) - before
  const { spans } = telemetry.stats()
  expect(spans).toEqual({
    ended: 10_000,
    sampledOut: 0,
    queued: 2048 + 4 * 512,
    exported: 0,
    dropped: 10_000 - 2048 - 4 * 512,
    failed: 0
  })
  expect(grown).toBeLessThan(2 * 1024 * 1024)
  const started = performance.now()
  await telemetry.close()
  expect(performance.now() - started).toBeLessThan(3000)
  expect(telemetry.stats().spans).toMatchObject({ ended: 10_000, queued: 0, exported: 0, dropped: 10_000 })
  expect(told.toSorted()).toEqual([
    `metrics could not be exported to ${hostOf(sink.url)} (no answer before close)`,
    'spans were dropped: the queue is full (OTEL_BSP_MAX_QUEUE_SIZE, or 32 MiB of text)',
    `traces could not be exported to ${hostOf(sink.url)} (no answer before close)`
  ])
})

test('a call takes no longer while the collector is stalled than while it answers', async () => {
  await using sink = await startOtlpSink()
  const telemetry = await start(sink.url)
  const slowest = async (): Promise<number> => {
    const took: number[] = []
    for (let at = 0; at < 2000; at++) {
      const started = performance.now()
      await call(telemetry, 1)
      took.push(performance.now() - started)
    }
    return took.toSorted((a, b) => a - b)[1990] ?? 0
  }
  await slowest()
  const answering = await slowest()
  await sink.behave('stall')
  await call(telemetry, 3000)
  const stalled = await slowest()
  expect(telemetry.stats().spans.dropped).toBeGreaterThan(1000)
  expect(stalled).toBeLessThan(answering * 3 + 5)
  await sink.behave('refuse')
  await telemetry.close()
})

const ends: readonly (readonly [
  what: string,
  behaviour: OtlpBehaviour,
  least: number,
  most: number,
  exported: number,
  reason: string
])[] = [
  ['refuses', 'refuse', 0, 1000, 0, 'ECONNREFUSED'],
  ['stalls', 'stall', 1900, 3000, 0, 'no answer before close'],
  ['answers after 300 ms', { delayMs: 300 }, 250, 2000, 100, ''],
  ['answers after 5 s', { delayMs: 5000 }, 1900, 3000, 0, 'no answer before close'],
  ['answers 500', { status: 500 }, 0, 1000, 0, 'HTTP 500'],
  ['answers 429', { status: 429, retryAfter: 60 }, 0, 1000, 0, 'HTTP 429, 502, 503 or 504'],
  ['breaks off', 'reset', 0, 1000, 0, 'ECONNRESET']
]

test.each(ends)('close resolves in time where the collector %s', async (_what, behaviour, least, most, exported, reason) => {
  await using sink = await startOtlpSink({ behaviour })
  const told: string[] = []
  const telemetry = await start(sink.url, told)
  await call(telemetry, 100)
  const started = performance.now()
  await telemetry.close()
  const took = performance.now() - started
  expect(took).toBeGreaterThanOrEqual(least)
  expect(took).toBeLessThan(most)
  expect(telemetry.stats().spans).toMatchObject({ ended: 100, queued: 0, exported, dropped: 100 - exported })
  // One attempt, or two where the first was made before close.
  expect(sink.requests.filter(({ path }) => path === '/v1/traces').length).toBeLessThanOrEqual(2)
  const signals = reason === '' ? [] : ['metrics', 'traces']
  expect(told.toSorted()).toEqual(signals.map((signal) => `${signal} could not be exported to ${hostOf(sink.url)} (${reason})`))
})

test('a collector that is away for a moment loses nothing', async () => {
  await using sink = await startOtlpSink({ behaviour: { status: 503 } })
  const telemetry = await start(sink.url)
  await call(telemetry, 10)
  await sink.waitFor(({ requests }) => requests.some(({ path }) => path === '/v1/traces'))
  await sink.behave('refuse')
  await call(telemetry, 10)
  await pause(100)
  await sink.behave('take')
  await sink.waitFor(({ spans }) => spans.length === 20, 10_000)
  await telemetry.close()
  expect(telemetry.stats().spans).toEqual({ ended: 20, sampledOut: 0, queued: 0, exported: 20, dropped: 0, failed: 0 })
})

test('while an export is tried again, closing tries it once more and does not wait', async () => {
  await using sink = await startOtlpSink({ behaviour: { status: 503, retryAfter: 5 } })
  const telemetry = await start(sink.url, [], { metrics: [] })
  await call(telemetry, 10)
  await sink.waitFor(({ requests }) => requests.length === 1)
  await pause(50)
  await sink.behave('take')
  const started = performance.now()
  await telemetry.close()
  expect(performance.now() - started).toBeLessThan(1500)
  expect(sink.spans).toHaveLength(10)
})

test('at any moment the counts add up', async () => {
  await using sink = await startOtlpSink()
  const telemetry = await start(sink.url, [], { sampling: { ratio: 0.5 } })
  const behaviours: OtlpBehaviour[] = [{ status: 500 }, 'take', { delayMs: 20 }, { status: 400 }, 'refuse', 'reset']
  let sound = true
  const watch = setInterval(() => (sound &&= addsUp(telemetry.stats())), 1)
  for (const behaviour of behaviours) {
    await sink.behave(behaviour)
    await call(telemetry, 300)
    await pause(120)
  }
  clearInterval(watch)
  await telemetry.close()
  const { spans } = telemetry.stats()
  expect([sound, addsUp(telemetry.stats()), spans.ended, spans.queued]).toEqual([true, true, 1800, 0])
  expect(spans.exported).toBeGreaterThan(0)
  expect(spans.dropped).toBeGreaterThan(0)
})

test('an onError that throws reaches nobody and is counted', async () => {
  await using sink = await startOtlpSink({ behaviour: 'refuse' })
  const onError = (): never => {
    throw new Error('of the user')
  }
  const telemetry = await start(sink.url, [], { onError })
  await call(telemetry, 1)
  await telemetry.close()
  expect(telemetry.stats().failures).toBe(2)
})

test('calls under way when telemetry closes are exported as dropped', async () => {
  await using sink = await startOtlpSink()
  const telemetry = await start(sink.url)
  const chunks = telemetry.layer(async function* () {
    yield { type: 'start', provider: 'openai', model: 'gpt-5.6' }
    await pause(60_000, undefined, { ref: false })
  })(request, {})
  await chunks[Symbol.asyncIterator]().next()
  await telemetry.close()
  expect(sink.spans.map(({ attributes }) => attributes['millrace.outcome'])).toEqual(['dropped'])
})

/** Makes a hundred calls, closes 200 ms later, and says how long the process lived on. */
const program = `
import { startTelemetry } from '@millrace/telemetry/node'
import { collect } from '@millrace/core'
const telemetry = await startTelemetry()
const provider = telemetry.layer(async function* () {
  yield { type: 'start', provider: 'openai', model: 'gpt-5.6' }
  yield { type: 'finish', reason: 'stop' }
})
for (let at = 0; at < 100; at++) await collect(provider({ model: 'gpt-5.6', messages: [{ role: 'user', content: 'Hi' }] }, {}))
await new Promise((resolve) => setTimeout(resolve, 200))
await telemetry.close()
const closed = performance.now()
process.on('exit', () => console.log('LIVED ' + Math.round(performance.now() - closed) + ' ms'))
`

test.each<OtlpBehaviour>(['take', 'stall', 'refuse', { status: 503 }])(
  'with a collector that does %j the process exits by itself after close',
  async (behaviour) => {
    await using sink = await startOtlpSink({ behaviour })
    const { output, code } = await run(program, {
      OTEL_EXPORTER_OTLP_ENDPOINT: sink.url,
      OTEL_BSP_SCHEDULE_DELAY: '20',
      OTEL_METRIC_EXPORT_INTERVAL: '50'
    })
    expect(code).toBe(0)
    expect(Number(/LIVED (\d+) ms/.exec(output)?.[1])).toBeLessThan(500)
  }
)

test('a secret in the headers or the URL of the collector is on no line of the console, though the collector sends it back', async () => {
  const canary = 'sk-canary-9f31c7'
  const echo = createServer(({ headers, url }, response) => {
    const said = JSON.stringify({ headers, url })
    response.writeHead(400, canary, { 'content-type': 'text/plain' }).end(said)
  })
  await new Promise<void>((resolve) => echo.listen(0, '127.0.0.1', resolve))
  const { port } = echo.address() as AddressInfo
  try {
    const runs = [`127.0.0.1:${port}`, '127.0.0.1:1'].flatMap((host) => ['', 'ALL'].map((level) => ({ host, level })))
    for (const { host, level } of runs) {
      const { output, code } = await run(program, {
        OTEL_EXPORTER_OTLP_ENDPOINT: `http://user:${canary}@${host}/${canary}`,
        OTEL_EXPORTER_OTLP_HEADERS: `authorization=Bearer ${canary},x-key=${canary}`,
        OTEL_BSP_SCHEDULE_DELAY: '20',
        OTEL_METRIC_EXPORT_INTERVAL: '150',
        OTEL_LOG_LEVEL: level
      })
      expect(code).toBe(0)
      expect(output).toContain('could not be exported')
      expect(output).not.toContain(canary)
      // Two failures and the last line: many exports failed.
      if (level === '') expect(output.trim().split('\n')).toHaveLength(3)
    }
  } finally {
    echo.close()
  }
})
