import { createAdapter } from '@millrace/adapter'
import { openai } from '@millrace/adapter/openai'
import { parseSSE } from '@millrace/core'
import { type ScriptedProvider, startScriptedProvider } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Gateway, startGateway } from '../src/gateway.ts'
import { partsOf } from './parts.ts'

const tokens = { operator: 'operator-operator-operator', shop: 'shop-shop-shop-shop', bank: 'bank-bank-bank-bank' }
let provider: ScriptedProvider
let gateway: Gateway
const open: AsyncDisposable[] = []

beforeAll(async () => {
  provider = await startScriptedProvider({
    reply({ prompt }) {
      if (prompt.startsWith('refused')) return { status: 429, headers: { 'retry-after': '70' } }
      return { text: 'word '.repeat(60), tokensPerSecond: 60 }
    }
  })
  const upstream = { apiKey: 'k', baseURL: provider.url }
  const transport = createTransport()
  const adapter = createAdapter({ provider: openai(upstream), transport, cache: {} })
  const tenants = [
    { name: 'shop', tokens: [tokens.shop] },
    { name: 'bank', tokens: [tokens.bank] }
  ]
  gateway = await startGateway(partsOf({ adapter, transport, upstream, config: { operatorToken: tokens.operator, tenants } }))
  open.push(provider, transport, gateway)
})
afterAll(async () => {
  for (const resource of open.toReversed()) await resource[Symbol.asyncDispose]()
})

function call(
  method: string,
  path: string,
  token: string,
  more: { headers?: Record<string, string>; body?: string } = {}
): Promise<Response> {
  return fetch(gateway.url + path, {
    method,
    headers: { authorization: `Bearer ${token}`, ...more.headers },
    ...(more.body !== undefined && { body: more.body })
  })
}

function begin(prompt: string, token = tokens.shop): Promise<Response> {
  const body = JSON.stringify({ model: 'scripted-large', stream: true, messages: [{ role: 'user', content: prompt }] })
  return call('POST', '/v1/chat/completions', token, { body, headers: { 'x-millrace-resume': 'true' } })
}

/** The text so far, the last event's id, and whether the end was among it; leaves after `events` of them. */
async function read(
  response: Response,
  events = Number.POSITIVE_INFINITY
): Promise<{ text: string; lastId: string; data: string[] }> {
  let text = ''
  let lastId = ''
  const data: string[] = []
  for await (const event of parseSSE(response.body as ReadableStream<Uint8Array>)) {
    data.push(event.data)
    lastId = event.id ?? lastId
    if (event.data.startsWith('{')) {
      const { choices } = JSON.parse(event.data) as { choices?: { delta: { content?: string } }[] }
      text += choices?.[0]?.delta.content ?? ''
    }
    if (data.length >= events) break
  }
  return { text, lastId, data }
}

test('a client that lost its connection goes on behind the last event it had, and has every word once', async () => {
  const response = await begin('a long story')
  const id = response.headers.get('x-millrace-stream-id') as string
  expect(response.headers.get('x-millrace-cache')).toBe('miss')
  expect(Number(response.headers.get('x-millrace-overhead-ms'))).toBeGreaterThan(0)
  const first = await read(response, 5)
  expect(first.lastId).toMatch(new RegExp(`^${id}/`))
  const rest = await read(await call('GET', `/v1/streams/${id}`, tokens.shop, { headers: { 'last-event-id': first.lastId } }))
  expect(first.text + rest.text).toBe('word '.repeat(60))
  expect(rest.data.at(-1)).toBe('[DONE]')
  const again = await read(await call('GET', `/v1/streams/${id}`, tokens.shop))
  expect([...first.data, ...rest.data]).toEqual(again.data)
  // Nothing is left behind the end: an EventSource stops asking.
  expect((await call('GET', `/v1/streams/${id}?last-event-id=${encodeURIComponent(rest.lastId)}`, tokens.shop)).status).toBe(204)
})

test('a stream is its own tenant’s and the operator’s; to others it is not there', async () => {
  const response = await begin('a secret story')
  const id = response.headers.get('x-millrace-stream-id') as string
  for (const [token, status] of [
    [tokens.bank, 404],
    [tokens.shop, 200],
    [tokens.operator, 200]
  ] as const) {
    const looked = await call('GET', `/v1/streams/${id}`, token)
    expect([token, looked.status]).toEqual([token, status])
    await looked.body?.cancel()
  }
  expect((await call('DELETE', `/v1/streams/${id}`, tokens.bank)).status).toBe(404)
  expect(provider.stats().openAnswers).toBe(1)
  expect(await (await call('DELETE', `/v1/streams/${id}`, tokens.shop)).json()).toMatchObject({ id, cancelled: true })
  await expect.poll(() => provider.stats().openAnswers).toBe(0)
  // Its readers get a legal end.
  expect((await read(response)).data.at(-1)).toBe('[DONE]')
  expect(await (await call('DELETE', `/v1/streams/${id}`, tokens.shop)).json()).toMatchObject({ cancelled: false })
})

test('the place to go on from must be one of the stream that is named', async () => {
  const mine = await begin('one of mine')
  const id = mine.headers.get('x-millrace-stream-id') as string
  const foreign = await begin('one of theirs', tokens.bank)
  const other = foreign.headers.get('x-millrace-stream-id') as string
  const looked = await call('GET', `/v1/streams/${id}`, tokens.shop, { headers: { 'last-event-id': `${other}/1` } })
  expect(looked.status).toBe(404)
  for (const [asked, token] of [
    [id, tokens.shop],
    [other, tokens.bank]
  ] as const) {
    await call('DELETE', `/v1/streams/${asked}`, token)
  }
  await Promise.all([mine.text(), foreign.text()])
})

test('a stream that fails before its first content has the status of its failure, and leaves nothing behind', async () => {
  const response = await begin('refused')
  expect([response.status, response.headers.get('retry-after')]).toEqual([429, '70'])
  expect(response.headers.get('x-millrace-stream-id')).toBe(null)
  const stats = (await (await call('GET', '/v1/stats', tokens.operator)).json()) as { streams: { running: number } }
  expect(stats.streams.running).toBe(0)
})

test.each(['nonsense', 'a'.repeat(22), '%00', 'a/b'])('there is no stream %j', async (id) => {
  expect((await call('GET', `/v1/streams/${encodeURIComponent(id)}`, tokens.operator)).status).toBe(404)
  expect([404, 200]).toContain((await call('DELETE', `/v1/streams/${encodeURIComponent(id)}`, tokens.operator)).status)
})
