import { createServer, type Socket } from 'node:net'
import { type Adapter, createAdapter } from '@millrace/adapter'
import { openai } from '@millrace/adapter/openai'
import type { ChatRequest } from '@millrace/core'
import { createLimiter, type Limiter } from '@millrace/limits'
import { type ScriptedProvider, startScriptedProvider } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import { expect, test } from 'vitest'

const ask = (content: string): ChatRequest => ({ model: 'scripted-large', messages: [{ role: 'user', content }] })
const adapterOf = ({ url }: ScriptedProvider, options: object): Adapter =>
  createAdapter({ provider: openai({ apiKey: 'k', baseURL: url }), ...options })

test('a call goes by the permit it is handed, and does not wait for one beside it', async () => {
  await using server = await startScriptedProvider()
  await using limiter = createLimiter({
    limits: [{ by: [], concurrency: 1, tokensPerMinute: 6000, adaptive: false }],
    queueMs: 500
  })
  await using adapter = adapterOf(server, { limits: limiter })
  const { usage } = await limiter.run({ tokens: 3000 }, (permit) => adapter.complete(ask('x'), { permit }))
  expect(limiter.stats()).toMatchObject({ granted: 1, running: 0 })
  const [state] = Object.values(await limiter.limits())
  // Settled with what was used, not with the 3000 that were asked for.
  expect(state?.tokensLeft).toBeGreaterThan(6000 - 3 * (usage?.output.text ?? 0))
})

test('a permit is for one call: a second one beside it waits for its own', async () => {
  await using server = await startScriptedProvider()
  await using limiter = createLimiter({ limits: [{ by: [], concurrency: 1 }], queueMs: 500 })
  await using adapter = adapterOf(server, { limits: limiter })
  await limiter.run({}, async (permit) => {
    await adapter.complete(ask('x'), { permit })
    await adapter.complete(ask('y'), { permit })
  })
  expect(limiter.stats()).toMatchObject({ granted: 2, running: 0 })
})

test('what fails leaves its permit to who asked for it, and the next provider goes by it', async () => {
  await using server = await startScriptedProvider()
  await using limiter = createLimiter({ limits: [{ by: [], concurrency: 1 }], queueMs: 500 })
  await using adapter = createAdapter({
    provider: [openai({ apiKey: 'k', baseURL: 'http://127.0.0.1:9/v1' }), openai({ apiKey: 'k', baseURL: server.url })],
    transport: { limits: limiter.send, retry: false },
    limits: limiter
  })
  const { notes } = await limiter.run({}, (permit) => adapter.complete(ask('x'), { permit }))
  expect(notes.fallback).toMatchObject({ provider: 'openai-2' })
  // One more request for the second provider's try.
  expect(limiter.stats()).toMatchObject({ granted: 2, running: 0 })
  const lost = createAdapter({
    provider: openai({ apiKey: 'k', baseURL: 'http://127.0.0.1:9/v1' }),
    limits: limiter,
    transport: { retry: false }
  })
  await expect(limiter.run({}, (permit) => lost.complete(ask('x'), { permit }))).rejects.toMatchObject({ code: 'network' })
  expect(limiter.stats().running).toBe(0)
  await lost.close()
})

test('on the wire alone a request goes by its permit too', async () => {
  await using server = await startScriptedProvider()
  await using limiter = createLimiter({ limits: [{ by: [], concurrency: 1 }], queueMs: 500 })
  await using transport = createTransport({ limits: limiter.send })
  await using adapter = adapterOf(server, { transport })
  await limiter.run({}, (permit) => adapter.complete(ask('x'), { permit }))
  await adapter.complete(ask('y'))
  expect(limiter.stats()).toMatchObject({ granted: 2, running: 0 })
})

test('a permit lets one call in at a time: those beside it wait for their own', async () => {
  await using server = await startScriptedProvider({ firstTokenMs: 30 })
  await using limiter = createLimiter({ limits: [{ by: [], concurrency: 1 }], queueMs: 10_000 })
  await using adapter = adapterOf(server, { limits: limiter })
  await limiter.run({}, (permit) => Promise.all(['x', 'y', 'z'].map((content) => adapter.complete(ask(content), { permit }))))
  expect(server.stats().maxOpenAnswers).toBe(1)
  expect(limiter.stats()).toMatchObject({ granted: 3, running: 0 })
})

test('a permit for another provider lets no call in, and learns nothing of it', async () => {
  await using server = await startScriptedProvider()
  await using limiter = createLimiter({ limits: [{ by: 'provider', concurrency: 1 }], queueMs: 50 })
  await using adapter = adapterOf(server, { limits: limiter, transport: { limits: limiter.send, retry: false } })
  const full = await limiter.acquire({ provider: 'openai' })
  await expect(limiter.run({ provider: 'x' }, (permit) => adapter.complete(ask('x'), { permit }))).rejects.toMatchObject({
    code: 'timeout',
    details: { clock: 'queue' }
  })
  expect(server.requests).toHaveLength(0)
  full.release()
})

/** Takes a request, sends the head of an answer, and cuts the connection. */
async function startCutting(): Promise<{ readonly url: string; sent(): number } & AsyncDisposable> {
  let sent = 0
  const sockets = new Set<Socket>()
  const server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.once('data', () => {
      sent++
      socket.write('HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{"id":')
      setTimeout(() => socket.destroy(), 20)
    })
  })
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  const { port } = server.address() as { readonly port: number }
  return {
    url: `http://127.0.0.1:${port}/v1`,
    sent: () => sent,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      await new Promise((done) => server.close(done))
    }
  }
}

const isSpent = (limiter: Limiter): Promise<boolean> =>
  limiter.acquire({ provider: 'z', maxTokens: 5000 }, { queueMs: 0 }).then(
    () => false,
    () => true
  )

test('an attempt that may be billed counts as reserved where our own limit refuses the next', async () => {
  await using server = await startCutting()
  await using limiter = createLimiter({
    limits: [{ only: { provider: 'openai' }, requestsPerMinute: 1 }],
    budgets: [{ by: [], tokens: 5000 }],
    queueMs: 200
  })
  await using adapter = createAdapter({
    provider: openai({ apiKey: 'k', baseURL: server.url }),
    limits: limiter,
    transport: { limits: limiter.send }
  })
  await expect(adapter.complete({ ...ask('x'), maxOutputTokens: 4000 })).rejects.toMatchObject({ code: 'rate-limited' })
  expect(server.sent()).toBe(1)
  expect(await isSpent(limiter)).toBe(true)
  expect(limiter.stats()).toMatchObject({ running: 0, refusals: 0 })
})

test('calls whose first request fails retry while others wait for their places', async () => {
  let failures = 2
  await using server = await startScriptedProvider({ reply: () => (failures-- > 0 ? { status: 500, body: '' } : 'fine') })
  await using limiter = createLimiter({ limits: [{ concurrency: 2 }], queueMs: 10_000 })
  await using adapter = adapterOf(server, { limits: limiter, transport: { limits: limiter.send } })
  const answers = await Promise.allSettled(Array.from({ length: 8 }, () => adapter.complete(ask('x'))))
  expect(answers.map(({ status }) => status)).toEqual(Array(8).fill('fulfilled'))
  expect(limiter.stats()).toMatchObject({ running: 0, queued: 0, granted: 10 })
})
