import { type Adapter, createAdapter } from '@millrace/adapter'
import { openai } from '@millrace/adapter/openai'
import type { ChatRequest } from '@millrace/core'
import { createLimiter } from '@millrace/limits'
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
