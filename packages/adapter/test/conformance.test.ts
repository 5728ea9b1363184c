import { anthropic } from '@millrace/adapter/anthropic'
import { openai } from '@millrace/adapter/openai'
import type { ChatRequest, Provider } from '@millrace/core'
import { type ConformanceSubject, providerConformance } from '@millrace/core/testing'
import { type ScriptedProvider, startScriptedProvider } from '@millrace/testkit'
import { createTransport, type Transport } from '@millrace/transport'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

let server: ScriptedProvider
let transport: Transport
beforeAll(async () => {
  // Slow only where asked: the suite's slow request lasts some seconds.
  server = await startScriptedProvider({
    reply: ({ prompt }) => (prompt === 'slow' ? { text: 'word '.repeat(200), tokensPerSecond: 50 } : undefined)
  })
  transport = createTransport()
})
afterAll(async () => {
  await transport.close()
  await server.close()
})

const ask = (content: string): ChatRequest => ({ model: 'scripted-large', messages: [{ role: 'user', content }] })

describe.each([
  ['openai', (): Provider => openai({ apiKey: 'k', baseURL: server.url }).connect(transport.send)],
  ['anthropic', (): Provider => anthropic({ apiKey: 'k', baseURL: server.url }).connect(transport.send)]
])('%s()', (_, create) => {
  const subject = (): ConformanceSubject => ({
    provider: create(),
    request: ask('Why is the sky blue?'),
    slowRequest: ask('slow'),
    requestsSeen: () => server.stats().requests,
    openAnswers: () => server.stats().openAnswers
  })
  test.each(providerConformance(subject))('$title', async ({ run }) => expect(await run()).toBeUndefined())
})
