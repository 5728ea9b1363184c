import Anthropic from '@anthropic-ai/sdk'
import { createLimiter, type Limiter } from '@millrace/limits'
import { startScriptedProvider } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import OpenAI from 'openai'
import { expect, test } from 'vitest'

const messages = [{ role: 'user' as const, content: 'Why is the sky blue?' }]
const tokensPerMinute = 6000

const create = (): Limiter => createLimiter({ limits: [{ by: 'provider', concurrency: 2, tokensPerMinute, adaptive: false }] })

/** Tokens taken so far, less the hundred that come back in each second. */
async function taken(limiter: Limiter): Promise<number> {
  const [state] = Object.values(await limiter.limits())
  return tokensPerMinute - (state?.tokensLeft ?? 0)
}

test.each(['global fetch', 'transport.fetch'])(
  'the openai client under limiter.fetch over %s keeps to the places and settles what was used',
  async (under) => {
    await using provider = await startScriptedProvider({ firstTokenMs: 15 })
    await using transport = createTransport({ retry: false })
    await using limiter = create()
    const fetch = limiter.fetch(under === 'global fetch' ? globalThis.fetch : transport.fetch)
    const client = new OpenAI({ apiKey: 'k', baseURL: provider.url, fetch, maxRetries: 0 })
    const asked = { model: 'scripted-large', messages, max_tokens: 50_000 }
    const answers = await Promise.all(Array.from({ length: 6 }, () => client.chat.completions.create(asked)))
    expect(provider.stats().maxOpenAnswers).toBe(2)
    let used = answers.reduce((sum, { usage }) => sum + (usage?.total_tokens ?? Number.NaN), 0)
    expect(await taken(limiter)).toBeLessThanOrEqual(used)
    expect(await taken(limiter)).toBeGreaterThan(used / 2)

    const stream = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } })
    expect(limiter.stats().running).toBe(1)
    for await (const chunk of stream) used += chunk.usage?.total_tokens ?? 0
    expect(limiter.stats()).toMatchObject({ running: 0, granted: 7 })
    expect(await taken(limiter)).toBeLessThanOrEqual(used)

    for await (const _ of await client.chat.completions.create({ ...asked, stream: true })) break
    await expect.poll(() => limiter.stats().running).toBe(0)
  }
)

test('the anthropic client under limiter.fetch gives its place back however a stream ends', async () => {
  await using provider = await startScriptedProvider({ tokensPerSecond: 200 })
  await using limiter = create()
  const client = new Anthropic({
    apiKey: 'k',
    baseURL: provider.url.replace(/\/v1$/, ''),
    fetch: limiter.fetch(globalThis.fetch),
    maxRetries: 0
  })
  const asked = { model: 'scripted-large', messages, max_tokens: 500 }
  const message = await client.messages.stream(asked).finalMessage()
  expect(message.usage.output_tokens).toBeGreaterThan(0)
  expect(limiter.stats().running).toBe(0)

  const left = client.messages.stream(asked)
  left.on('text', () => left.abort())
  await expect(left.finalMessage()).rejects.toThrow(/abort/i)
  await expect.poll(() => limiter.stats().running).toBe(0)
  await expect.poll(() => provider.stats().openAnswers).toBe(0)
})

test('a refusal that an SDK sees is one that all its calls wait for', async () => {
  await using provider = await startScriptedProvider({ rateLimit: { requests: 2, perMs: 400 } })
  await using limiter = createLimiter({ limits: [{ by: 'provider' }] })
  const client = new OpenAI({ apiKey: 'k', baseURL: provider.url, fetch: limiter.fetch(globalThis.fetch), maxRetries: 0 })
  const ask = (): Promise<unknown> => client.chat.completions.create({ model: 'scripted-large', messages })
  await Promise.all([ask(), ask()])
  for (let call = 0; call < 4; call++) await ask()
  expect(provider.stats().rateLimited).toBe(0)
  expect(limiter.stats().headersRead).toBeGreaterThan(0)
})
