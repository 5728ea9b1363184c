import { startScriptedProvider } from '@millrace/testkit'
import { expect, test } from 'vitest'
import type { ProviderConfig } from '../src/config.ts'
import { createPrice } from '../src/price.ts'
import { startBefore } from './clients-rig.ts'

const usage = {
  input: { uncached: 1_000_000, cacheRead: 0, cacheWrite: 0 },
  output: { text: 0, reasoning: 0 },
  estimated: false,
  billed: true
}

function provider(name: string, baseURL: string): ProviderConfig {
  return { name, api: 'openai', baseURL, apiKey: 'k', model: undefined, weight: undefined, allowInsecure: false }
}

test('a price goes by whose address it is, whatever the provider is called', () => {
  const providers = [
    provider('main', 'https://api.openai.com/v1'),
    provider('mine', 'http://127.0.0.1:8000/v1'),
    provider('openai', 'http://127.0.0.1:8001/v1'),
    provider('router', 'https://openrouter.ai/api/v1')
  ]
  const price = createPrice('gpt-4.1-mini', { providers })
  expect(price(usage, 'gpt-4.1-mini', 'main')).toBeGreaterThan(0)
  expect(price(usage, 'gpt-4.1-mini', 'openai')).toBe(price(usage, 'gpt-4.1-mini', 'main'))
  // What a server of one's own costs, the maker of its model does not know.
  expect(price(usage, 'gpt-4.1-mini', 'mine')).toBeUndefined()
  expect(price(usage, 'openai/gpt-4.1-mini', 'router')).toBeGreaterThan(0)
  expect(price(usage, 'no-such-model', 'main')).toBeUndefined()
})

test('prices of the configuration stand over the table', () => {
  const price = createPrice('x', { prices: { 'no-such-*': { inputPerMillion: 3, outputPerMillion: 1 } } })
  expect(price(usage, 'no-such-model', 'mine')).toBe(3)
})

test('under a budget in USD: chats, embeddings and models with a price of their own are answered, others are told the cure', async () => {
  await using upstream = await startScriptedProvider()
  const service = await startBefore(upstream.url, 'k', {
    budgets: [{ by: 'tenant', usd: 5 }],
    prices: { 'our-*': { inputPerMillion: 1, outputPerMillion: 1 } }
  })
  const post = async (path: string, body: object): Promise<Response> =>
    fetch(`${service.url}/v1/${path}`, { method: 'POST', body: JSON.stringify(body) })
  const messages = [{ role: 'user', content: 'Hi' }]
  expect((await post('chat/completions', { model: 'gpt-4.1-mini', messages })).status).toBe(200)
  expect((await post('chat/completions', { model: 'our-model', messages })).status).toBe(200)
  expect((await post('embeddings', { model: 'text-embedding-3-small', input: 'Hi' })).status).toBe(200)
  for (const path of ['chat/completions', 'responses']) {
    const refused = await post(path, { model: 'no-such-model', messages, input: 'Hi' })
    expect(refused.status).toBe(400)
    expect(await refused.text()).toContain('add it under \\"prices\\" in gateway.json')
  }
  await service.close()
})
