import Anthropic from '@anthropic-ai/sdk'
import { createCache } from '@millrace/cache'
import { startScriptedProvider } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import { describe, expect, test } from 'vitest'

describe.each(['global fetch', 'transport.fetch'])("Anthropic's client over a cached %s", (under) => {
  test('has the same message and the same events twice, from one upstream call each', async () => {
    await using provider = await startScriptedProvider()
    await using transport = createTransport()
    await using cache = createCache()
    const states: unknown[] = []
    const cached = cache.fetch(under === 'global fetch' ? globalThis.fetch : transport.fetch)
    const client = new Anthropic({
      apiKey: 'sk-one',
      baseURL: provider.url.replace(/\/v1$/, ''),
      maxRetries: 0,
      async fetch(input, init) {
        const response = await cached(input, init)
        states.push(response.headers.get('x-millrace-cache'))
        return response
      }
    })
    const request = {
      model: 'scripted-large',
      max_tokens: 1000,
      messages: [{ role: 'user' as const, content: 'get weather in Paris' }],
      tools: [{ name: 'get_weather', input_schema: { type: 'object' as const, properties: { city: { type: 'string' } } } }]
    }
    const first = await client.messages.create(request)
    expect(await client.messages.create(request)).toEqual(first)
    expect(first.content.some(({ type }) => type === 'tool_use')).toBe(true)
    expect(first.usage.output_tokens).toBeGreaterThan(0)
    const events = async (): Promise<unknown[]> => {
      const all: unknown[] = []
      for await (const event of await client.messages.create({ ...request, stream: true })) all.push(event)
      return all
    }
    const streamed = await events()
    await expect.poll(() => cache.stats().stored).toBe(2)
    expect(await events()).toEqual(streamed)
    const whole = await client.messages.stream(request).finalMessage()
    expect(whole.content.map(({ type }) => type)).toEqual(first.content.map(({ type }) => type))
    expect(states).toEqual(['miss', 'hit', 'miss', 'hit', 'hit'])
    expect(provider.stats().requests).toBe(2)
    const { input_tokens: input, output_tokens: output } = first.usage
    expect(cache.stats().tokensSaved).toBe(3 * (input + output))
  })
})
