import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { createAdapter } from '@millrace/adapter'
import { openai } from '@millrace/adapter/openai'
import { requireRedis, type ScriptedProvider, startScriptedProvider } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { batchRoutes } from '../src/batch-route.ts'
import { type Batches, queuedBatches } from '../src/batches.ts'
import { type Gateway, startGateway } from '../src/gateway.ts'
import { partsOf } from './parts.ts'
import { type Routes, startRoutes } from './routes-rig.ts'

let provider: ScriptedProvider
const asked: string[] = []
let answering = 0
let most = 0
let refusals = 0
const slowMs = 1500

beforeAll(async () => {
  provider = await startScriptedProvider({
    reply: async ({ prompt }) => {
      asked.push(prompt)
      if (prompt.startsWith('slow')) await delay(slowMs, undefined, { ref: false })
      if (prompt.startsWith('later') && ++refusals <= 16) {
        return { status: 429, headers: { 'retry-after': '2' }, body: '{"error":{"message":"later"}}' }
      }
      if (!prompt.startsWith('large')) return { text: prompt }
      most = Math.max(most, ++answering)
      await delay(30)
      answering--
      const [, letters] = prompt.split(' ')
      const message = { role: 'assistant', content: 'x'.repeat(Number(letters)) }
      return { body: JSON.stringify({ model: 'm', choices: [{ index: 0, message, finish_reason: 'stop' }] }) }
    }
  })
})
afterAll(() => provider.close())

async function start(batchesOf?: (routes: Routes) => Promise<Batches>): Promise<Routes> {
  const options = { openai: provider.url, cache: 'off', transport: { retry: false } } as const
  const first = await startRoutes(batchRoutes, options)
  onTestFinished(() => first[Symbol.asyncDispose]())
  if (batchesOf === undefined) return first
  const batches = await batchesOf(first)
  onTestFinished(() => batches.close({ graceMs: 0 }))
  const routes = await startRoutes((parts) => batchRoutes({ ...parts, batches }), options)
  onTestFinished(() => routes[Symbol.asyncDispose]())
  return routes
}

function linesOf(count: number, content: string): string {
  return Array.from({ length: count }, (_, index) => {
    const body = { model: 'm', messages: [{ role: 'user', content: `${content} ${index}` }] }
    return `${JSON.stringify({ custom_id: `${index}`, method: 'POST', url: '/v1/chat/completions', body })}\n`
  }).join('')
}

function post(url: string, body: string, signal: AbortSignal | null = null): Promise<Response> {
  return fetch(`${url}/v1/batch`, { method: 'POST', body, signal })
}

const count = (prefix: string): number => asked.filter((prompt) => prompt.startsWith(prefix)).length

describe.each(['in this process', 'over Redis'])('batches %s', (where) => {
  let redis: Awaited<ReturnType<typeof requireRedis>> | undefined
  beforeAll(async () => {
    if (where === 'over Redis') redis = await requireRedis()
  })
  afterAll(() => redis?.server?.stop())

  async function begin(): Promise<Routes | undefined> {
    if (redis === undefined) return start()
    const url = redis.server?.url
    if (url === undefined) return undefined
    return start(({ parts: { adapter } }) => queuedBatches({ adapter, itemMs: 60_000, url, maxBodyBytes: 2 ** 20 }))
  }

  test("a newcomer's line does not wait for the lines of others", async ({ skip }) => {
    const routes = await begin()
    if (routes === undefined) return skip()
    const leaving = new AbortController()
    const others = [0, 1, 2].map((each) => post(routes.url, linesOf(100, `slow ${where} ${each}`), leaving.signal))
    await expect.poll(() => count(`slow ${where}`), { timeout: 10_000 }).toBeGreaterThanOrEqual(16)
    const askedAt = performance.now()
    expect(await (await post(routes.url, linesOf(1, 'quick'))).text()).toContain('quick')
    expect(performance.now() - askedAt).toBeLessThan(slowMs)
    leaving.abort()
    for (const other of others) await other.then((response) => response.text()).catch(() => {}) // aborted just now
  })

  test('a line that is to come back later holds back no other batch, and is answered', async ({ skip }) => {
    const routes = await begin()
    if (routes === undefined) return skip()
    refusals = 0
    const refused = post(routes.url, linesOf(16, 'later')).then((response) => response.text())
    await expect.poll(() => refusals, { timeout: 10_000 }).toBeGreaterThanOrEqual(16)
    const askedAt = performance.now()
    await (await post(routes.url, linesOf(1, 'meanwhile'))).text()
    expect(performance.now() - askedAt).toBeLessThan(1500)
    expect((await refused).match(/"status_code":200/g)).toHaveLength(16)
  }, 15_000)

  test('what is not read is held up to 2 MiB, and large answers are asked for a few at a time', async ({ skip }) => {
    const routes = await begin()
    if (routes === undefined) return skip()
    asked.length = 0
    const response = await post(routes.url, linesOf(60, 'large 900000'))
    const reader = (response.body as ReadableStream<Uint8Array>).getReader()
    await reader.read()
    await expect.poll(() => answering).toBe(0)
    await delay(500)
    // As many as run at a time, and what stands in the buffers of the two sockets.
    expect(count('large')).toBeLessThan(40)
    most = 0
    for (let read = await reader.read(); !read.done; read = await reader.read());
    expect(count('large')).toBe(60)
    expect(most).toBeLessThanOrEqual(2)
  }, 15_000)

  test('an answer of more than 1 MiB is told as too large', async ({ skip }) => {
    const routes = await begin()
    if (routes === undefined) return skip()
    const text = await (await post(routes.url, linesOf(1, 'large 1100000'))).text()
    expect(JSON.parse(text)).toMatchObject({ response: null, error: { code: 'answer_too_large' } })
  })
})

describe('a gateway', () => {
  async function startAll(stallMs: number): Promise<Gateway> {
    const upstream = { apiKey: 'key', baseURL: provider.url }
    const transport = createTransport({ retry: false })
    const adapter = createAdapter({ provider: openai(upstream), transport })
    const gateway = await startGateway(partsOf({ adapter, transport, upstream, config: { stallMs } }))
    onTestFinished(async () => {
      for (const one of [gateway, transport]) await one[Symbol.asyncDispose]()
    })
    return gateway
  }

  test('runs four batches of a client at a time, and asks it to send others later', async () => {
    const { url } = await startAll(60_000)
    const leaving = new AbortController()
    const running = [0, 1, 2, 3].map((each) => post(url, linesOf(40, `slow fifth ${each}`), leaving.signal))
    await expect.poll(() => count('slow fifth'), { timeout: 10_000 }).toBe(64)
    const fifth = await post(url, linesOf(1, 'fifth'))
    expect([fifth.status, fifth.headers.get('retry-after')]).toEqual([429, '1'])
    expect(await fifth.text()).toContain('too many requests')
    leaving.abort()
    for (const one of running) await one.then((response) => response.text()).catch(() => {}) // aborted just now
    await expect.poll(async () => (await post(url, linesOf(1, 'sixth'))).status).toBe(200)
  })

  test('cuts off a client that reads nothing, and nothing of its batch is left', async () => {
    const { url } = await startAll(500)
    asked.length = 0
    const body = linesOf(200, 'large 900000')
    const socket = connect(Number(new URL(url).port), '127.0.0.1')
    const closed = new Promise((resolve) => socket.once('close', resolve))
    socket.on('error', () => {}) // it is cut off: that is the test
    socket.pause()
    socket.write(`POST /v1/batch HTTP/1.1\r\nhost: localhost\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`)
    const running = async (): Promise<number> =>
      ((await (await fetch(`${url}/v1/stats`)).json()) as { requests: { running: number } }).requests.running
    await expect.poll(() => count('large'), { timeout: 10_000 }).toBeGreaterThan(0)
    await expect.poll(running, { timeout: 10_000 }).toBe(0)
    const before = count('large')
    expect(before).toBeLessThan(60)
    await delay(300)
    expect([count('large'), answering]).toEqual([before, 0])
    socket.resume()
    await closed
  }, 20_000)
})
