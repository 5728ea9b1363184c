import { once } from 'node:events'
import { createServer, type ServerResponse } from 'node:http'
import { type AddressInfo, connect, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, expect, test } from 'vitest'
import { startBefore } from './clients-rig.ts'
import { type GatewayProcess, startProcess } from './gateway-process.ts'

const long = process.env.MILLRACE_LONG === '1'
const open: AsyncDisposable[] = []
afterEach(async () => {
  for (const resource of open.splice(0).toReversed()) await resource[Symbol.asyncDispose]()
})

const longAnswerBytes = 32 * 2 ** 20

interface CrowdProvider {
  readonly url: string
  /** Written so far of each long answer, by its prompt. */
  readonly written: ReadonlyMap<string, number>
  /** Answers under way. */
  running(): number
}

/**
 * `idle …` says one word and is silent until its reader leaves, `long …` says 32 MiB as fast as they are taken, and all else
 * one word.
 */
async function startCrowdProvider(): Promise<CrowdProvider> {
  const written = new Map<string, number>()
  let running = 0
  const event = (delta: object, finish: string | null = null): string =>
    `data: ${JSON.stringify({ id: 'c', object: 'chat.completion.chunk', created: 1, model: 'm', choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`
  const server = createServer(async (incoming, response) => {
    let text = ''
    for await (const piece of incoming) text += String(piece)
    const { messages } = JSON.parse(text) as { messages: { content: string }[] }
    const prompt = messages[0]?.content ?? ''
    running++
    response.once('close', () => running--)
    response.writeHead(200, { 'content-type': 'text/event-stream' }).write(event({ role: 'assistant', content: 'word' }))
    if (prompt.startsWith('idle')) return
    if (prompt.startsWith('long')) await writeLong(response, prompt)
    response.end(`${event({}, 'stop')}data: [DONE]\n\n`)
  }).listen(0, '127.0.0.1')

  async function writeLong(response: ServerResponse, prompt: string): Promise<void> {
    const piece = event({ content: 'word '.repeat(3277) })
    const gone = once(response, 'close')
    for (let bytes = 0; bytes < longAnswerBytes && !response.destroyed; bytes += piece.length) {
      written.set(prompt, bytes + piece.length)
      if (!response.write(piece)) await Promise.race([once(response, 'drain'), gone])
    }
  }

  await once(server, 'listening')
  open.push({
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    }
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`, written, running: () => running }
}

/** A client that sent its request, on a socket that reads nothing by itself. */
async function send(url: string, prompt: string): Promise<Socket> {
  const { hostname, port, host } = new URL(url)
  const socket = connect(Number(port), hostname).pause()
  // What it is cut off with is looked at where it matters.
  socket.on('error', () => {})
  await once(socket, 'connect')
  const body = JSON.stringify({ model: 'm', stream: true, messages: [{ role: 'user', content: prompt }] })
  socket.write(
    `POST /v1/chat/completions HTTP/1.1\r\nhost: ${host}\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`
  )
  return socket
}

/** The first bytes of the answer, with the first word in them where it was accepted. */
async function firstOf(socket: Socket): Promise<string> {
  let text = ''
  while (!/word|\r\n\r\n\{/.test(text)) {
    const piece = socket.read() as Buffer | null
    if (piece === null) await once(socket, 'readable')
    else text += piece.toString()
  }
  return text
}

const median = (values: readonly number[]): number => values.toSorted((one, other) => one - other)[values.length >> 1] as number

/** How long a whole answer takes, in the middle of 20. */
async function latency({ url }: GatewayProcess, round: string): Promise<number> {
  const took: number[] = []
  for (let number = 0; number < 20; number++) {
    const startedAt = performance.now()
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      body: JSON.stringify({ model: 'm', stream: true, messages: [{ role: 'user', content: `${round} ${number}` }] })
    })
    expect(await response.text()).toContain('[DONE]')
    took.push(performance.now() - startedAt)
  }
  return median(took)
}

interface Memory {
  readonly heap: number
  readonly outside: number
  readonly rss: number
  readonly sockets: number
}

const look = `(async () => {
  for (let round = 0; round < 3; round++) { gc(); await new Promise((resolve) => setTimeout(resolve, 20)) }
  const { heapUsed: heap, external: outside, rss } = process.memoryUsage()
  const sockets = process.getActiveResourcesInfo().filter((type) => type === 'TCPSocketWrap').length
  return { heap, outside, rss, sockets }
})()`

const memoryOf = (gateway: GatewayProcess): Promise<Memory> => gateway.evaluate<Memory>(look)

const mebibyte = 2 ** 20

async function startCrowded(provider: CrowdProvider, file: object): Promise<GatewayProcess> {
  const gateway = await startProcess(
    { OPENAI_API_KEY: 'k', OPENAI_BASE_URL: provider.url },
    { maxRequests: 10_000, maxRequestsPerClient: 10_000, ...file }
  )
  open.push(gateway)
  return gateway
}

async function runningIn({ url }: GatewayProcess): Promise<number> {
  return ((await (await fetch(`${url}/v1/stats`)).json()) as { running: number }).running
}

test.each([[100, 25], ...(long ? [[500, 100]] : [])] as [number, number][])(
  '%i idle clients and %i that take a byte a second hold little memory, slow nobody down, and leave nothing behind',
  async (idle, slow) => {
    const provider = await startCrowdProvider()
    const gateway = await startCrowded(provider, {})
    // The first calls load what is loaded once.
    for (let round = 0; round < 3; round++) await latency(gateway, `warm ${round}`)
    const before = await memoryOf(gateway)
    const usual = await latency(gateway, 'before')

    const clients: Socket[] = []
    const crowd = async (name: string, many: number): Promise<Socket[]> => {
      const sockets = await Promise.all(Array.from({ length: many }, (_, number) => send(gateway.url, `${name} ${number}`)))
      clients.push(...sockets)
      return sockets
    }
    const silent = await crowd('idle', idle)
    for (const text of await Promise.all(silent.map(firstOf))) expect(text).toMatch(/^HTTP\/1\.1 200 /)
    const withIdle = await memoryOf(gateway)

    const slowly = await crowd('long', slow)
    const reading = setInterval(() => {
      for (const socket of slowly) socket.read(1)
    }, 1000)
    const total = (): number => [...provider.written.values()].reduce((sum, bytes) => sum + bytes, 0)
    // Until nothing moves any more: what the kernel's buffers hold is full.
    for (let last = -1; last !== total(); await delay(1500)) last = total()
    const withAll = await memoryOf(gateway)
    const crowded = await latency(gateway, 'crowded')
    expect(await runningIn(gateway)).toBe(idle + slow)
    clearInterval(reading)

    const perIdle = (withIdle.heap + withIdle.outside - before.heap - before.outside) / idle
    const perSlow = (withAll.heap + withAll.outside - withIdle.heap - withIdle.outside) / slow
    for (const socket of clients) socket.destroy()
    await expect.poll(() => runningIn(gateway), { timeout: 5000 }).toBe(0)
    await expect.poll(() => provider.running()).toBe(0)
    await expect.poll(async () => (await memoryOf(gateway)).sockets).toBeLessThanOrEqual(before.sockets + 3)
    const after = await memoryOf(gateway)
    const figures = {
      perIdleKiB: Math.round(perIdle / 1024),
      perSlowKiB: Math.round(perSlow / 1024),
      rssMiB: [before, withIdle, withAll, after].map(({ rss }) => Math.round(rss / mebibyte)),
      heapMiB: [before, withIdle, withAll, after].map(({ heap }) => Number((heap / mebibyte).toFixed(1))),
      takenMiBOfEach: Number((total() / slow / mebibyte).toFixed(1)),
      latencyMs: [usual, crowded].map((ms) => Number(ms.toFixed(1)))
    }
    console.log(`crowd of ${idle} idle and ${slow} slow: ${JSON.stringify(figures)}`)

    expect(perIdle, JSON.stringify(figures)).toBeLessThan(128 * 1024)
    expect(perSlow, JSON.stringify(figures)).toBeLessThan(2 * mebibyte)
    // The provider is held back: what it did not write is nowhere. What it wrote is mostly in the kernel's buffers.
    for (const [prompt, bytes] of provider.written) expect(bytes, prompt).toBeLessThan(longAnswerBytes / 2)
    expect(withAll.rss - before.rss, JSON.stringify(figures)).toBeLessThan((slow * longAnswerBytes) / 2)
    expect(crowded).toBeLessThan(10 * usual + 50)
    expect(after.heap + after.outside - before.heap - before.outside, JSON.stringify(figures)).toBeLessThan(8 * mebibyte)
  },
  long ? 120_000 : 45_000
)

test.each([200, ...(long ? [1000] : [])])(
  'of those that come while %i are under way each gets 429 and when to come again, until one leaves',
  async (most) => {
    const provider = await startCrowdProvider()
    const gateway = await startCrowded(provider, { maxRequests: most })
    const clients = await Promise.all(Array.from({ length: most }, (_, number) => send(gateway.url, `idle ${number}`)))
    for (const text of await Promise.all(clients.map(firstOf))) expect(text).toMatch(/^HTTP\/1\.1 200 /)
    for (let round = 0; round < 3; round++) {
      const refused = await firstOf(await send(gateway.url, 'one too many'))
      expect(refused).toMatch(/^HTTP\/1\.1 429 /)
      expect(refused).toMatch(/\r\nretry-after: 1\r\n/i)
      expect(refused).toContain('"code":"rate_limit_exceeded"')
    }
    expect(provider.running()).toBe(most)
    // Who only looks is let in, and health is told.
    expect((await fetch(`${gateway.url}/healthz`)).status).toBe(200)
    expect((await fetch(`${gateway.url}/metrics`)).status).toBe(200)
    clients.pop()?.destroy()
    await expect.poll(async () => (await firstOf(await send(gateway.url, 'idle again'))).slice(0, 12)).toBe('HTTP/1.1 200')
    for (const socket of clients) socket.destroy()
  },
  60_000
)

test('a client that takes nothing is cut off, one that takes little is not, nor one whose provider is silent', async () => {
  const stallMs = 1500
  const provider = await startCrowdProvider()
  const service = await startBefore(provider.url, 'k', { stallMs })
  open.push(service)
  const stalled = await send(service.url, 'long stalled')
  const slow = await send(service.url, 'long slow')
  const silent = await send(service.url, 'idle')
  expect(await firstOf(silent)).toMatch(/^HTTP\/1\.1 200 /)
  await expect.poll(() => provider.running()).toBe(3)
  let taken = 0
  const reading = setInterval(() => (taken += (slow.read() as Buffer | null)?.length ?? 0), 50)
  const startedAt = performance.now()
  await expect.poll(() => provider.running(), { timeout: 15_000 }).toBe(2)
  const cutAfterMs = performance.now() - startedAt
  expect(cutAfterMs).toBeGreaterThan(stallMs - 100)
  // What the kernel held for it is still there, but no end.
  let end = ''
  stalled.on('data', (piece: Buffer) => (end = piece.toString().slice(-100))).resume()
  if (!stalled.closed) await once(stalled, 'close')
  expect(end).not.toContain('[DONE]')
  await delay(Math.max(0, 3 * stallMs - (performance.now() - startedAt)))
  clearInterval(reading)
  expect([slow.closed, silent.closed]).toEqual([false, false])
  expect(taken).toBeGreaterThan(mebibyte)
  slow.destroy()
  silent.destroy()
  await expect.poll(() => provider.running()).toBe(0)
}, 40_000)
