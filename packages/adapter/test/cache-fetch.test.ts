import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type Cache, createCache } from '@millrace/cache'
import { createRedis } from '@millrace/cache/redis'
import { createRedisLog } from '@millrace/streaming/redis'
import { loadRecordings, requireRedis, type ScriptedProvider, serveRecording, startScriptedProvider } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import OpenAI from 'openai'
import { afterAll, describe, expect, test } from 'vitest'

const model = 'scripted-large'
const messages = [{ role: 'user' as const, content: 'Why is the sky blue?' }]

type Under = 'global fetch' | 'transport.fetch'
const unders: readonly Under[] = ['global fetch', 'transport.fetch']

interface Rig extends AsyncDisposable {
  readonly cache: Cache
  readonly fetch: typeof fetch
  /** What the last answer's head said. */
  readonly state: () => string | null | undefined
}

function rig(under: Under): Rig {
  const transport = createTransport({ retry: { baseMs: 1, maxMs: 1 } })
  const cache = createCache()
  const cached = cache.fetch(under === 'global fetch' ? globalThis.fetch : transport.fetch)
  let last: Response | undefined
  return {
    cache,
    state: () => last?.headers.get('x-millrace-cache'),
    async fetch(input, init) {
      last = await cached(input, init)
      return last
    },
    async [Symbol.asyncDispose]() {
      await cache.close()
      await transport.close({ graceMs: 0 })
    }
  }
}

const clientOf = (provider: { readonly url: string }, fetch: typeof globalThis.fetch, apiKey = 'sk-one'): OpenAI =>
  new OpenAI({ apiKey, baseURL: provider.url, fetch, maxRetries: 0 })

const requestsOf = (provider: ScriptedProvider): number => provider.stats().requests

async function all<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = []
  for await (const item of stream) items.push(item)
  return items
}

describe.each(unders)('the openai client over a cached %s', (under) => {
  test('has the same answer twice, usage included, from one upstream call', async () => {
    await using provider = await startScriptedProvider()
    await using own = rig(under)
    const client = clientOf(provider, own.fetch)
    const first = await client.chat.completions.create({ model, messages })
    expect(own.state()).toBe('miss')
    const second = await client.chat.completions.create({ model, messages })
    expect(own.state()).toBe('hit')
    expect(second).toEqual(first)
    expect(second.usage?.total_tokens).toBeGreaterThan(0)
    expect(own.cache.stats().tokensSaved).toBe(second.usage?.total_tokens)
    expect(requestsOf(provider)).toBe(1)
  })

  test('has the same events of a stream, and tools whole', async () => {
    await using provider = await startScriptedProvider()
    await using own = rig(under)
    const client = clientOf(provider, own.fetch)
    const request = {
      model,
      messages: [{ role: 'user' as const, content: 'get weather in Paris' }],
      tools: [
        {
          type: 'function' as const,
          function: { name: 'get_weather', parameters: { type: 'object', properties: { city: { type: 'string' } } } }
        }
      ],
      stream: true as const,
      stream_options: { include_usage: true }
    }
    const first = await all(await client.chat.completions.create(request))
    // The client stops at `[DONE]`; the end of the bytes comes behind it.
    await expect.poll(() => own.cache.stats().stored).toBe(1)
    const second = await all(await client.chat.completions.create(request))
    expect(own.state()).toBe('hit')
    expect(second).toEqual(first)
    const whole = await client.chat.completions.stream(request).finalChatCompletion()
    const [call] = whole.choices[0]?.message.tool_calls ?? []
    expect(call?.type === 'function' && JSON.parse(call.function.arguments)).toMatchObject({ city: expect.stringMatching(/\w/) })
    expect(whole.usage?.total_tokens).toBeGreaterThan(0)
    expect(requestsOf(provider)).toBe(1)
  })

  test('shares one call for equal streams at the same time, and one leaves without the others', async () => {
    await using provider = await startScriptedProvider({ tokensPerSecond: 200 })
    await using own = rig(under)
    const client = clientOf(provider, own.fetch)
    const streams = await Promise.all(
      Array.from({ length: 5 }, () => client.chat.completions.create({ model, messages, stream: true }))
    )
    const [left, ...rest] = streams
    for await (const _ of left as AsyncIterable<unknown>) break
    const texts = await Promise.all(
      rest.map(async (stream) => (await all(stream)).map((chunk) => chunk.choices[0]?.delta.content ?? '').join(''))
    )
    expect(new Set(texts).size).toBe(1)
    expect(texts[0]).not.toBe('')
    expect(requestsOf(provider)).toBe(1)
    await expect.poll(() => own.cache.stats()).toMatchObject({ misses: 1, joined: 4, stored: 1 })
  })

  test('asks again for another key, and for several choices', async () => {
    await using served = await startScriptedProvider({ reply: () => ({ text: 'Yes.' }) })
    await using own = rig(under)
    for (const key of ['sk-one', 'sk-two']) await clientOf(served, own.fetch, key).chat.completions.create({ model, messages })
    expect(requestsOf(served)).toBe(2)
    const several = clientOf(served, own.fetch).chat.completions.create({ model, messages, n: 2 })
    await several.catch(() => {}) // this server has one choice only
    expect(own.state()).toBe('bypass')
    expect(requestsOf(served)).toBe(3)
  })

  test('has errors as its own, and none of them is kept', async () => {
    let status = 429
    await using provider = await startScriptedProvider({
      reply: () => (status === 200 ? undefined : { status, text: 'not now' })
    })
    await using own = rig(under)
    const client = clientOf(provider, own.fetch)
    await expect(client.chat.completions.create({ model, messages })).rejects.toBeInstanceOf(OpenAI.RateLimitError)
    status = 500
    await expect(client.chat.completions.create({ model, messages })).rejects.toBeInstanceOf(OpenAI.InternalServerError)
    status = 200
    expect((await client.chat.completions.create({ model, messages })).choices[0]?.message.content).not.toBe('')
    expect(own.cache.stats()).toMatchObject({ stored: 1, misses: 3 })
  })

  test('is aborted while it waits and within a stream', async () => {
    await using provider = await startScriptedProvider({ tokensPerSecond: 20 })
    await using own = rig(under)
    const client = clientOf(provider, own.fetch)
    const abort = new AbortController()
    const waiting = client.chat.completions.create({ model, messages }, { signal: abort.signal })
    setTimeout(() => abort.abort(), 50)
    await expect(waiting).rejects.toBeInstanceOf(OpenAI.APIUserAbortError)
    const stream = await client.chat.completions.create({ model, messages, stream: true })
    for await (const _ of stream) stream.controller.abort()
    await expect.poll(() => provider.stats().openAnswers).toBe(0)
    expect(own.cache.stats()).toMatchObject({ stored: 0, entries: 0 })
  })

  test('reads vectors as base64 and as numbers', async () => {
    const vector = [0.5, -0.25, 1]
    const server = createServer(async (incoming, response) => {
      let body = ''
      for await (const piece of incoming) body += piece
      const { input, encoding_format: format } = JSON.parse(body) as { input: readonly string[]; encoding_format?: string }
      const embedding = format === 'base64' ? Buffer.from(Float32Array.from(vector).buffer).toString('base64') : vector
      const data = input.map((_, index) => ({ object: 'embedding', index, embedding }))
      response.setHeader('content-type', 'application/json')
      response.end(JSON.stringify({ object: 'list', model: 'e', data, usage: { prompt_tokens: 4, total_tokens: 4 } }))
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    await using own = rig(under)
    const client = clientOf({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1` }, own.fetch)
    for (const encoding_format of [undefined, 'float'] as const) {
      for (const state of ['miss', 'hit']) {
        const format = encoding_format === undefined ? {} : { encoding_format }
        const { data, usage } = await client.embeddings.create({ model: 'e', input: ['one', 'two'], ...format })
        expect(own.state()).toBe(state)
        expect(data.map(({ embedding }) => [...embedding])).toEqual([vector, vector])
        expect(usage.total_tokens).toBe(4)
      }
    }
    server.close()
    server.closeAllConnections()
  })

  const responses = loadRecordings({ api: 'openai.responses' })
  if (responses === undefined) console.warn('skipped: the recordings are not at ../shared/real/recordings')

  test.skipIf(responses === undefined)('has Responses, plain and streamed, as they were', async () => {
    const whole = responses?.filter(
      ({ status, features, provider }) => status === 200 && provider === 'openai' && !features.includes('error')
    )
    for (const isStream of [false, true]) {
      const recording = whole?.find(
        ({ stream, oracle, body }) => stream === isStream && oracle !== undefined && body.includes('"completed"')
      )
      if (recording === undefined) throw new Error('there is no such recording')
      await using served = await serveRecording(recording, { seed: 3 })
      await using own = rig(under)
      const client = clientOf(served, own.fetch)
      const request = { model: 'm', input: 'Hello' }
      const ask = async (): Promise<unknown> =>
        isStream ? all(await client.responses.create({ ...request, stream: true })) : client.responses.create(request)
      const first = await ask()
      expect(own.state()).toBe('miss')
      await expect.poll(() => own.cache.stats().stored).toBe(1)
      expect(await ask(), recording.id).toEqual(first)
      expect(own.state(), recording.id).toBe('hit')
      expect(own.cache.stats().tokensSaved).toBeGreaterThan(0)
    }
  })
})

const { server, skip } = await requireRedis()
afterAll(() => server?.stop())

describe.skipIf(skip !== undefined)('a cached fetch over caches that share a Redis', () => {
  async function member(): Promise<{ cache: Cache; fetch: typeof fetch; close: () => Promise<void> }> {
    const redis = createRedis({ url: server?.url ?? '' })
    await expect.poll(() => redis.ready).toBe(true)
    const log = createRedisLog({ command: redis.command })
    const cache = createCache({ store: redis, log, scope: 'all of us', namespace: 'fetch' })
    return {
      cache,
      fetch: cache.fetch(globalThis.fetch),
      async close() {
        await cache.close()
        await log.close()
        await redis.close()
      }
    }
  }

  const body = (content: string): string => JSON.stringify({ model, messages: [{ role: 'user', content }], stream: true })
  const headers = { 'content-type': 'application/json' }

  test('makes one call of one that breaks off behind its head, and all are told how it failed', async () => {
    let calls = 0
    const broken = createServer(async (incoming, response) => {
      calls++
      incoming.resume()
      response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders()
      await expect.poll(() => asked).toBe(4)
      setTimeout(() => response.socket?.resetAndDestroy(), 300)
    }).listen(0, '127.0.0.1')
    await once(broken, 'listening')
    const url = `http://127.0.0.1:${(broken.address() as AddressInfo).port}/v1/chat/completions`
    let asked = 0
    const members = await Promise.all([member(), member(), member(), member()])
    const outcomes = await Promise.all(
      members.map(async ({ fetch }) => {
        asked++
        try {
          return await (await fetch(url, { method: 'POST', headers, body: body('broken') })).text()
        } catch (error) {
          return error
        }
      })
    )
    expect(outcomes.every((outcome) => outcome instanceof Error)).toBe(true)
    expect(calls).toBe(1)
    await Promise.all(members.map(({ close }) => close()))
    broken.close()
    broken.closeAllConnections()
  })

  test('writes nothing of a failure for the others, who ask for themselves', async () => {
    const text = 'what was said of the CANARY'
    await using provider = await startScriptedProvider({ reply: () => ({ status: 429, text }), firstTokenMs: 200 })
    const members = await Promise.all([member(), member()])
    const answers = await Promise.all(
      members.map(async ({ fetch }) => {
        const response = await fetch(`${provider.url}/chat/completions`, { method: 'POST', headers, body: body('refused') })
        return [response.status, await response.text()] as const
      })
    )
    expect(answers.every(([status, said]) => status === 429 && said.includes('CANARY'))).toBe(true)
    expect(requestsOf(provider)).toBe(2)
    const redis = createRedis({ url: server?.url ?? '' })
    await expect.poll(() => redis.ready).toBe(true)
    for (const name of (await redis.command(['KEYS', '*'])) as readonly string[]) {
      const kind = await redis.command(['TYPE', name])
      const held = await redis.command(kind === 'stream' ? ['XRANGE', name, '-', '+'] : ['GET', name])
      expect(JSON.stringify(held)).not.toContain('CANARY')
    }
    await redis.close()
    await Promise.all(members.map(({ close }) => close()))
  })

  test.each([{ stream: true }, { stream: false }])(
    'makes one upstream call, and follows it live, stream: $stream',
    async ({ stream }) => {
      await using provider = await startScriptedProvider({ firstTokenMs: 100, tokensPerSecond: 300 })
      const members = await Promise.all([member(), member(), member()])
      const request = { model, messages: [{ role: 'user' as const, content: `Grüße 👋, shared ${stream}` }], stream }
      const answers = await Promise.all(
        members.flatMap(({ fetch }) =>
          Array.from({ length: 10 }, async () => {
            const response = await fetch(`${provider.url}/chat/completions`, { method: 'POST', body: JSON.stringify(request) })
            return [response.headers.get('x-millrace-cache'), await response.text()] as const
          })
        )
      )
      expect(requestsOf(provider)).toBe(1)
      expect(new Set(answers.map(([, text]) => text)).size).toBe(1)
      expect(answers[0]?.[1]).not.toBe('')
      expect(answers.filter(([state]) => state === 'miss')).toHaveLength(1)
      const later = await member()
      const hit = await later.fetch(`${provider.url}/chat/completions`, { method: 'POST', body: JSON.stringify(request) })
      expect(hit.headers.get('x-millrace-cache')).toBe('hit')
      expect(await hit.text()).toBe(answers[0]?.[1])
      await Promise.all([...members, later].map(({ close }) => close()))
    }
  )
})
