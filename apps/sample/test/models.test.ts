import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import Anthropic from '@anthropic-ai/sdk'
import OpenAI from 'openai'
import { expect, onTestFinished, test } from 'vitest'
import { modelRoutes } from '../src/models.ts'
import { type Routes, type RoutesOptions, startRoutes } from './routes-rig.ts'

async function start(options: RoutesOptions): Promise<Routes> {
  const routes = await startRoutes(modelRoutes, { transport: { retry: false }, ...options })
  onTestFinished(() => routes[Symbol.asyncDispose]())
  return routes
}

async function serveList(entries: readonly object[], status = 200): Promise<{ readonly url: string; asked: number }> {
  const listed = { url: '', asked: 0 }
  const server = createServer((_request, response) => {
    listed.asked++
    setTimeout(() => response.writeHead(status).end(JSON.stringify({ data: entries, error: 'upstream-key' })), 20)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  listed.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
  return listed
}

const gpt = { id: 'gpt', object: 'model', created: 1_780_000_000, owned_by: 'openai', permission: ['new field'] }
const claude = { type: 'model', id: 'claude', display_name: 'Claude', created_at: '2026-05-28T20:26:40Z' }

test('one list has the models of all providers, each in the shape of the client that asks', async () => {
  const [one, other] = [await serveList([gpt]), await serveList([claude, { ...claude, id: 'gpt' }])]
  const { url } = await start({ openai: one.url, anthropic: other.url })
  const openai = new OpenAI({ apiKey: 'x', baseURL: `${url}/v1` })
  const anthropic = new Anthropic({ apiKey: 'x', baseURL: url })
  expect((await openai.models.list()).data).toEqual([
    gpt,
    { id: 'claude', object: 'model', created: 1_780_000_000, owned_by: 'anthropic' }
  ])
  expect((await anthropic.models.list()).data).toEqual([
    { type: 'model', id: 'gpt', display_name: 'gpt', created_at: '2026-05-28T20:26:40.000Z' },
    claude
  ])
  expect(await anthropic.models.retrieve('claude')).toMatchObject(claude)
  expect(await openai.models.retrieve('gpt')).toMatchObject(gpt)
})

test('many who ask at a time make one request, and its list is kept', async () => {
  const listed = await serveList([gpt])
  const { url } = await start({ openai: listed.url })
  await Promise.all(Array.from({ length: 50 }, async () => (await fetch(`${url}/v1/models`)).json()))
  await (await fetch(`${url}/v1/models`)).json()
  expect(listed.asked).toBe(1)
})

test('a provider that is down is missing; where all are, the failure is told in the words of the API', async () => {
  const listed = await serveList([gpt])
  const { url } = await start({ openai: listed.url, anthropic: 'http://127.0.0.1:9' })
  expect(await (await fetch(`${url}/v1/models`)).json()).toEqual({ object: 'list', data: [gpt] })

  const refusing = await serveList([], 401)
  const down = await start({ openai: refusing.url, anthropic: 'http://127.0.0.1:9' })
  const response = await fetch(`${down.url}/v1/models`)
  expect(response.status).toBe(502)
  expect(await response.text()).not.toContain('upstream-key')
  const anthropic = new Anthropic({ apiKey: 'x', baseURL: down.url, maxRetries: 0 })
  await expect(anthropic.models.list()).rejects.toMatchObject({ status: 502, error: { error: { type: 'api_error' } } })
})

test('names that the configuration gives to models are models, whatever stands in them', async () => {
  const listed = await serveList([{ ...gpt, id: 'deployment-7' }])
  const { url } = await start({ openai: listed.url, model: { 'meta/small': 'deployment-7' } })
  expect(await (await fetch(`${url}/v1/models/meta/small`)).json()).toEqual({ ...gpt, id: 'meta/small' })
  const missing = await fetch(`${url}/v1/models/none`)
  expect([missing.status, await missing.json()]).toEqual([404, { error: expect.objectContaining({ param: 'model' }) }])
})

test('the list needs no price and no tokens, whatever the budgets', async () => {
  const listed = await serveList([gpt])
  const { url } = await start({ openai: listed.url, limits: { budgets: [{ by: 'tenant', usd: 1, per: 'day' }] } })
  expect((await fetch(`${url}/v1/models`)).status).toBe(200)
})
