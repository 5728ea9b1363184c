import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type Adapter, type AdapterOptions, createAdapter } from '@millrace/adapter'
import { openai } from '@millrace/adapter/openai'
import { type ChatRequest, type Chunk, isMillraceError, type Provider } from '@millrace/core'
import { createLimiter } from '@millrace/limits'
import { coalesce, limitTokens } from '@millrace/streaming'
import { tokenizerFor } from '@millrace/tokens'
import { afterAll, expect, test } from 'vitest'
import { layersOf } from '../src/layers.ts'

const ask = (content: string, more: Partial<ChatRequest> = {}): ChatRequest => ({
  model: 'm',
  messages: [{ role: 'user', content }],
  ...more
})

/** Answers at once, counts how often it was asked, and holds its answer to `hold` until it is let go. */
function provide(name: string): { readonly provider: Provider; asked: number; letGo: () => void } {
  const held = Promise.withResolvers<void>()
  const self = { provider, asked: 0, letGo: () => held.resolve() }
  async function* provider(request: ChatRequest): AsyncGenerator<Chunk> {
    self.asked++
    yield { type: 'start', provider: name, model: request.model }
    const { content } = request.messages.at(-1) as { content: string }
    if (content === 'hold') await held.promise
    yield { type: 'text', text: 'one two ' }
    yield { type: 'text', text: 'three four five six seven' }
    yield {
      type: 'usage',
      usage: {
        input: { uncached: 5, cacheRead: 0, cacheWrite: 0 },
        output: { text: 7, reasoning: 0 },
        estimated: false,
        billed: true
      }
    }
    yield { type: 'finish', reason: 'stop' }
  }
  return self
}

const adapters: Adapter[] = []
const make = (options: AdapterOptions): Adapter => {
  const adapter = createAdapter({ origin: 'test', ...options })
  adapters.push(adapter)
  return adapter
}
afterAll(() => Promise.all(adapters.map((adapter) => adapter.close({ graceMs: 0 }))))

/** By layer: what would be otherwise if it stood anywhere else. */
const proofs: Readonly<Record<string, () => Promise<void>>> = {
  async limits() {
    const [first, second] = [provide('first'), provide('second')]
    const adapter = make({
      provider: [
        { name: 'first', provider: first.provider },
        { name: 'second', provider: second.provider }
      ],
      fallback: { patienceMs: 20 },
      limits: { limits: [{ by: 'provider', concurrency: 1 }] }
    })
    const holding = adapter.complete(ask('hold'))
    await expect.poll(() => first.asked).toBe(1)
    const { provider, notes } = await adapter.complete(ask('x'))
    expect(provider).toBe('second')
    expect(notes.fallback).toMatchObject({ provider: 'second', tried: [{ provider: 'first' }] })
    first.letGo()
    expect(await holding).toMatchObject({ provider: 'first' })
  },
  async fallback() {
    let failed = 0
    const healthy = provide('healthy')
    const adapter = make({
      provider: [
        () => {
          failed++
          throw new TypeError('down')
        },
        { name: 'healthy', provider: healthy.provider }
      ],
      fallback: { on: ['network', 'unavailable'] },
      cache: {}
    })
    // A mistake in a provider is nothing that another one mends; a network that is down is.
    await expect(adapter.complete(ask('x'))).rejects.toThrow('down')
    expect(failed).toBe(1)
    expect(healthy.asked).toBe(0)

    const broken = openai({ apiKey: 'k', baseURL: 'http://127.0.0.1:9/v1' })
    const both = make({
      provider: [broken, { name: 'healthy', provider: healthy.provider }],
      transport: { retry: false },
      cache: {}
    })
    const answers = await Promise.all([both.complete(ask('y')), both.complete(ask('y'))])
    expect(answers.map(({ provider }) => provider)).toEqual(['healthy', 'healthy'])
    expect(healthy.asked).toBe(1)
    expect((await both.complete(ask('y'))).notes.cache).toMatchObject({ state: 'hit' })
    expect(healthy.asked).toBe(1)
  },
  async cache() {
    const answering = provide('p')
    const adapter = make({
      provider: answering.provider,
      cache: {},
      limits: { limits: [{ by: [], requestsPerMinute: 1 }], queueMs: 50 }
    })
    await adapter.complete(ask('x'))
    expect((await adapter.complete(ask('x'))).notes.cache).toMatchObject({ state: 'hit' })
    await expect(adapter.complete(ask('another'))).rejects.toMatchObject({ code: 'rate-limited' })
    expect(answering.asked).toBe(1)
  },
  async tokens() {
    const answering = provide('p')
    const adapter = make({ provider: answering.provider, cache: {}, tokens: { contextWindow: 300, reserve: 50 } })
    const long = (past: string): ChatRequest =>
      ask('', {
        messages: [
          { role: 'user', content: past.repeat(1000) },
          { role: 'assistant', content: 'I see.' },
          { role: 'user', content: 'And now?' }
        ]
      })
    await adapter.complete(long('red '))
    expect((await adapter.complete(long('blue '))).notes.cache).toMatchObject({ state: 'hit' })
    expect(answering.asked).toBe(1)
  },
  async operators() {
    const answering = provide('p')
    const adapter = make({
      provider: answering.provider,
      cache: {},
      operators: [limitTokens(2, tokenizerFor('gpt-4.1').counter), coalesce({ minChars: 1000 })]
    })
    expect((await adapter.complete(ask('x'))).text).toBe('one two')
    // Nothing that was cut short by us is an answer to others.
    expect((await adapter.complete(ask('x'))).notes.cache).toMatchObject({ state: 'miss' })

    const whole = make({ provider: answering.provider, cache: {}, operators: [coalesce({ minChars: 1000 })] })
    await whole.complete(ask('z'))
    const texts: string[] = []
    for await (const chunk of whole.stream(ask('z'))) if (chunk.type === 'text') texts.push(chunk.text)
    expect(texts).toEqual(['one two three four five six seven'])
  },
  async deadline() {
    const answering = provide('p')
    const adapter = make({ provider: answering.provider, limits: { limits: [{ by: [], concurrency: 1 }] } })
    const holding = adapter.complete(ask('hold'))
    await expect.poll(() => answering.asked).toBe(1)
    const error = await adapter.complete(ask('x'), { timeouts: { totalMs: 40 } }).catch((reason: unknown) => reason)
    expect(isMillraceError(error, 'timeout') && error.details).toMatchObject({ clock: 'queue', limitMs: 40 })
    answering.letGo()
    await holding
  },
  async watch() {
    const answering = provide('p')
    const adapter = make({ provider: answering.provider, cache: {} })
    await adapter.complete(ask('x'))
    await adapter.complete(ask('x'))
    expect(adapter.stats()).toMatchObject({ calls: 2, cached: 1 })
    expect(answering.asked).toBe(1)
  }
}

test('two keys of one API have limits of their own: where one is refused, the other is asked at once', async () => {
  const body = JSON.stringify({ error: { message: 'slow down', type: 'rate_limit_exceeded' } })
  const answer = JSON.stringify({
    id: 'x',
    model: 'm',
    choices: [{ index: 0, message: { role: 'assistant', content: 'yes' }, finish_reason: 'stop' }]
  })
  const server = createServer((incoming, response) => {
    incoming.resume()
    const isFull = incoming.headers.authorization === 'Bearer full'
    response.writeHead(isFull ? 429 : 200, { 'content-type': 'application/json', ...(isFull ? { 'retry-after': '30' } : {}) })
    response.end(isFull ? body : answer)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const baseURL = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
  const adapter = make({
    provider: ['full', 'free'].map((apiKey) => openai({ apiKey, baseURL })),
    limits: { limits: [{ by: 'provider' }] }
  })
  const { notes } = await adapter.complete(ask('x'), { timeouts: { totalMs: 5000 } })
  expect(notes.fallback).toMatchObject({
    provider: 'openai-2',
    tried: [{ provider: 'openai', code: 'rate-limited', status: 429 }]
  })
  server.close()
})

const layer = (next: Provider): Provider => next
const list = layersOf({
  limits: () => layer,
  fallback: (candidates) => candidates[0]?.provider as Provider,
  cache: layer,
  tokens: layer,
  operators: layer,
  deadline: layer,
  watch: layer
})

test(`the layers, from the network outward: ${list.map(({ name }) => name).join(', ')}`, () => {
  expect(list.map(({ name }) => name)).toEqual(Object.keys(proofs))
})

test.each(list.map(({ name, reason }) => [name, reason]))('%s: %s', async (name) => {
  expect.hasAssertions()
  await proofs[name]?.()
})

test('on the wire each attempt takes a request of the limits, the call its place and its tokens once', async () => {
  let seen = 0
  const server = createServer((incoming, response) => {
    incoming.resume()
    if (++seen === 1) return void response.writeHead(503, { 'retry-after': '0' }).end()
    response.writeHead(200, { 'content-type': 'application/json' }).end(
      JSON.stringify({
        id: 'x',
        model: 'm',
        choices: [{ index: 0, message: { role: 'assistant', content: 'yes' }, finish_reason: 'stop' }],
        usage: { prompt_tokens: 10, completion_tokens: 5, total_tokens: 15 }
      })
    )
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const baseURL = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`
  await using limiter = createLimiter({
    limits: [{ by: [], requestsPerMinute: 100, tokensPerMinute: 100_000, concurrency: 1, adaptive: false }]
  })
  const adapter = make({ provider: openai({ apiKey: 'k', baseURL }), transport: { retry: { baseMs: 1 } }, limits: limiter })
  expect((await adapter.complete(ask('x'))).text).toBe('yes')
  expect(seen).toBe(2)
  const [state] = Object.values(await limiter.limits())
  expect(state?.running).toBe(0)
  expect(state?.requestsLeft).toBeGreaterThan(97.9)
  expect(state?.requestsLeft).toBeLessThan(99)
  expect(state?.tokensLeft).toBeGreaterThan(99_984)
  server.close()
})
