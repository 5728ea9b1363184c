import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { isMillraceError } from '@millrace/core'
import { createLimiter, type Limiter, type LimiterOptions } from '@millrace/limits'
import { type ScriptedProvider, startScriptedProvider } from '@millrace/testkit'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'

let provider: ScriptedProvider
const closing: (() => Promise<unknown>)[] = []
beforeAll(async () => {
  provider = await startScriptedProvider()
})
afterAll(() => provider.close())
afterEach(async () => {
  for (const close of closing.splice(0)) await close()
})

function open(options: LimiterOptions = { limits: [{ by: 'provider', concurrency: 2, tokensPerMinute: 60_000 }] }): Limiter {
  const limiter = createLimiter({ ...options, now: () => 0 })
  closing.push(() => limiter.close())
  return limiter
}

async function serve(answer: (incoming: IncomingMessage, response: ServerResponse) => void): Promise<string> {
  const server = createServer(answer)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closing.push(async () => {
    server.closeAllConnections()
    await new Promise((resolve) => server.close(resolve))
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

const body = (more: object = {}): string =>
  JSON.stringify({ model: 'scripted-small', max_tokens: 40, messages: [{ role: 'user', content: 'hello there' }], ...more })
const tokensUsed = async (limiter: Limiter): Promise<number> =>
  60_000 - (Object.values(await limiter.limits())[0]?.tokensLeft ?? 60_000)

describe('limiter.fetch', () => {
  it('counts a call once, and a refusal once, around a transport that has limiter.send', async () => {
    const limiter = open({ limits: [{ by: 'provider', concurrency: 1 }] })
    const head = { status: 429, headers: { 'retry-after': '0' }, attempts: 1 }
    const wire = limiter.send(async () => ({
      ...head,
      body: { text: async () => '{}', cancel: () => {}, async *[Symbol.asyncIterator]() {} }
    }))
    const fetch = limiter.fetch(async (_input, init) => {
      const { permit } = init as RequestInit & { readonly permit?: object }
      const response = await wire({ method: 'POST', url: 'https://example.com/v1/responses', headers: {}, body: body(), permit })
      return new Response(await response.body.text(), { status: response.status, headers: response.headers })
    })
    const response = await fetch('https://example.com/v1/responses', { method: 'POST', body: body() })
    await response.text()
    const { granted, refusals, running } = limiter.stats()
    expect({ status: response.status, granted, refusals, running }).toEqual({ status: 429, granted: 1, refusals: 1, running: 0 })
  })

  it.each([
    ['text', (response: Response) => response.text()],
    ['json', (response: Response) => response.json()],
    ['arrayBuffer', (response: Response) => response.arrayBuffer()],
    ['bytes', (response: Response) => (response as unknown as { bytes(): Promise<Uint8Array> }).bytes()],
    [
      'body',
      async (response: Response) => {
        for await (const _ of response.body as ReadableStream<Uint8Array>) {
        }
      }
    ],
    ['a pipe', (response: Response) => new Response(response.body?.pipeThrough(new TransformStream())).text()],
    [
      'a reader with memory of its own',
      async (response: Response) => {
        const reader = (response.body as ReadableStream<Uint8Array>).getReader({ mode: 'byob' })
        while (!(await reader.read(new Uint8Array(64))).done) {}
      }
    ]
  ])('holds the place until the body was read by %s, and settles with its usage', async (_, read) => {
    const limiter = open()
    const fetch = limiter.fetch(globalThis.fetch)
    const response = await fetch(`${provider.url}/chat/completions`, { method: 'POST', body: body() })
    expect(response.status).toBe(200)
    expect(limiter.stats().running).toBe(1)
    expect(await tokensUsed(limiter)).toBeGreaterThan(40)
    const before = provider.stats()
    await read(response)
    expect(limiter.stats()).toMatchObject({ running: 0, granted: 1 })
    expect(before.requests).toBeGreaterThan(0)
    // Seven tokens of prompt as the server counts, and at most 40 of answer.
    const { tokensIn } = provider.requests.at(-1) as { tokensIn: number }
    expect(await tokensUsed(limiter)).toBe(tokensIn + 40)
  })

  it.each([
    ['chat completions', '/chat/completions', { stream: true, stream_options: { include_usage: true } }, {}],
    ['messages of Anthropic', '/messages', { stream: true }, { 'anthropic-version': '2023-06-01' }]
  ])('finds the usage in a stream of %s', async (_, path, more, headers) => {
    const limiter = open()
    const fetch = limiter.fetch(globalThis.fetch)
    const response = await fetch(`${provider.url}${path}`, { method: 'POST', body: body(more), headers })
    expect(await response.text()).toMatch(/data: /)
    const { tokensIn } = provider.requests.at(-1) as { tokensIn: number }
    expect(await tokensUsed(limiter)).toBe(tokensIn + 40)
  })

  it('is a response as any other', async () => {
    const limiter = open()
    const response = await limiter.fetch(globalThis.fetch)(`${provider.url}/models`)
    expect(response).toBeInstanceOf(Response)
    expect(response.url).toBe(`${provider.url}/models`)
    expect(response.headers.get('content-type')).toBe('application/json')
    expect(response.ok).toBe(true)
    expect(response.constructor).toBe(Response)
    expect(response.body).toBe(response.body)
    expect(response.bodyUsed).toBe(false)
    // To look at the body is not to read it.
    expect(await response.json()).toMatchObject({ object: 'list' })
    expect(response.bodyUsed).toBe(true)
    await expect(response.text()).rejects.toThrow(TypeError)
  })

  it('frees the place when the body is cancelled', async () => {
    const limiter = open()
    const url = await serve((_, response) => void response.write('data: {}\n\n'))
    const response = await limiter.fetch(globalThis.fetch)(url)
    const reader = (response.body as ReadableStream<Uint8Array>).getReader()
    await reader.read()
    expect(limiter.stats().running).toBe(1)
    await reader.cancel()
    expect(limiter.stats().running).toBe(0)
    const unread = await limiter.fetch(globalThis.fetch)(url)
    await unread.body?.cancel()
    expect(limiter.stats().running).toBe(0)
  })

  it('frees the place when the caller aborts, before the head or behind it, and rethrows its reason', async () => {
    const limiter = open()
    const reason = new Error('stopped by the test')
    const silent = await serve(() => {})
    const early = new AbortController()
    const pending = limiter.fetch(globalThis.fetch)(silent, { signal: early.signal })
    await delay(20)
    expect(limiter.stats().running).toBe(1)
    early.abort(reason)
    await expect(pending).rejects.toBe(reason)
    expect(limiter.stats().running).toBe(0)

    const slow = await serve((_, response) => void response.write('some'))
    const late = new AbortController()
    const response = await limiter.fetch(globalThis.fetch)(slow, { signal: late.signal })
    expect(limiter.stats().running).toBe(1)
    late.abort(reason)
    // Nobody reads.
    expect(limiter.stats().running).toBe(0)
    await expect(response.text()).rejects.toBe(reason)
  })

  it('frees the place when the connection breaks', async () => {
    const limiter = open()
    const url = await serve((_, response) => {
      response.writeHead(200, { 'content-length': '100' }).write('half')
      setTimeout(() => response.destroy(), 20)
    })
    const response = await limiter.fetch(globalThis.fetch)(url)
    await expect(response.text()).rejects.toThrow(TypeError)
    const gone = limiter.fetch(globalThis.fetch)('http://127.0.0.1:1')
    await expect(gone).rejects.toThrow(TypeError)
    expect(limiter.stats().running).toBe(0)
  })

  it('frees the place at once where there is no body', async () => {
    const limiter = open()
    const url = await serve((_, response) => void response.writeHead(204).end())
    expect((await limiter.fetch(globalThis.fetch)(url)).status).toBe(204)
    expect((await limiter.fetch(globalThis.fetch)(`${provider.url}/models`, { method: 'HEAD' })).body).toBeNull()
    expect(limiter.stats().running).toBe(0)
  })

  it('lets a clone be read beside it', async () => {
    const limiter = open()
    const response = await limiter.fetch(globalThis.fetch)(`${provider.url}/models`)
    const clone = response.clone()
    expect(clone).toBeInstanceOf(Response)
    expect(await clone.text()).toBe(await response.text())
    expect(limiter.stats().running).toBe(0)
  })

  it('frees the place of a response that is forgotten unread', async () => {
    const limiter = open()
    const url = await serve((_, response) => void response.write('data: {}\n\n'))
    await (async () => {
      await limiter.fetch(globalThis.fetch)(url)
    })()
    expect(limiter.stats().running).toBe(1)
    for (let round = 0; round < 100 && limiter.stats().running > 0; round++) {
      globalThis.gc?.()
      await delay(5)
    }
    expect(limiter.stats().running).toBe(0)
  })

  it('keeps the place while only the stream of the body is held', async () => {
    const limiter = open()
    let finish: (() => void) | undefined
    const url = await serve((_, response) => {
      response.write('one')
      finish = () => response.end('two')
    })
    const stream = await (async () => (await limiter.fetch(globalThis.fetch)(url)).body as ReadableStream<Uint8Array>)()
    for (let round = 0; round < 10; round++) {
      globalThis.gc?.()
      await delay(2)
    }
    expect(limiter.stats().running).toBe(1)
    finish?.()
    expect(await new Response(stream).text()).toBe('onetwo')
    expect(limiter.stats().running).toBe(0)
  })

  it('lets no more in than the limit, and hears a 429', async () => {
    const limiter = createLimiter({ limits: [{ by: 'provider', concurrency: 2 }] })
    closing.push(() => limiter.close())
    await using slow = await startScriptedProvider({ firstTokenMs: 20 })
    const fetch = limiter.fetch(globalThis.fetch)
    const ask = async (url: string): Promise<number> => {
      const response = await fetch(`${url}/chat/completions`, { method: 'POST', body: body() })
      await response.text()
      return response.status
    }
    await Promise.all(Array.from({ length: 10 }, () => ask(slow.url)))
    expect(slow.stats().maxOpenAnswers).toBe(2)

    await using narrow = await startScriptedProvider({ rateLimit: { requests: 1, perMs: 200 } })
    expect(await ask(narrow.url)).toBe(200)
    const startedAt = performance.now()
    expect(await ask(narrow.url)).toBe(200)
    // The headers said that nothing is left.
    expect(performance.now() - startedAt).toBeGreaterThan(100)
    expect(limiter.stats()).toMatchObject({ refusals: 0, running: 0, headersIgnored: 0 })
    await fetch(`${narrow.url}/models`).then((response) => response.text())
    await globalThis.fetch(`${narrow.url}/chat/completions`, { method: 'POST', body: body() }).then((response) => response.text())
    const hidden = createLimiter({ limits: [{ by: 'provider' }] })
    closing.push(() => hidden.close())
    const refused = await hidden.fetch(globalThis.fetch)(`${narrow.url}/chat/completions`, { method: 'POST', body: body() })
    expect(refused.status).toBe(429)
    await refused.text()
    expect(hidden.stats()).toMatchObject({ refusals: 1, running: 0 })
  })

  const bytes = (text: string): ArrayBuffer => new TextEncoder().encode(text).buffer
  it.each<readonly [string, (url: string) => Parameters<typeof fetch>]>([
    ['a Request', (url) => [new Request(url, { method: 'POST', body: body() })]],
    ['a Request of a JSON stream', (url) => [jsonStream(url)]],
    ['a Request beside options', (url) => [new Request(url, { method: 'POST', body: body() }), { headers: { a: 'b' } }]],
    ['a blob', (url) => [url, { method: 'POST', body: new Blob([body()]) }]],
    ['an ArrayBuffer', (url) => [url, { method: 'POST', body: bytes(body()) }]],
    ['a view', (url) => [url, { method: 'POST', body: new DataView(bytes(body())) }]],
    ['bytes', (url) => [url, { method: 'POST', body: new Uint8Array(bytes(body())) }]]
  ])('counts the text of %s, and sends it as it is', async (_, call) => {
    let received = ''
    const url = await serve(async (incoming, response) => {
      for await (const piece of incoming.setEncoding('utf8')) received += piece
      response.end('{}')
    })
    const limiter = open()
    const asText = open()
    const plain = await asText.fetch(globalThis.fetch)(url, { method: 'POST', body: body() })
    received = ''
    const response = await limiter.fetch(globalThis.fetch)(...call(url))
    expect(received).toBe(body())
    expect(await tokensUsed(limiter)).toBe(await tokensUsed(asText))
    await Promise.all([plain.text(), response.text()])
    expect(limiter.stats().running).toBe(0)
  })

  function jsonStream(url: string): Request {
    const init = { method: 'POST', body: new Blob([body()]).stream(), duplex: 'half' as const }
    return new Request(url, { ...init, headers: { 'content-type': 'application/json' } })
  }

  it('counts what cannot be read before it is sent by its kind, its length, or its answer; and nothing without a body', async () => {
    const form = new FormData()
    form.set('model', 'whisper-1')
    form.set('file', new Blob([new Uint8Array(1e6)]))
    const stream = (): ReadableStream => new Blob([body()]).stream()
    const length = { 'content-length': String(body().length) }
    const reservedFor = async (init: RequestInit): Promise<number> => {
      const limiter = open({ budgets: [{ by: 'provider', tokens: 1e9 }], limits: [{ by: 'provider', tokensPerMinute: 60_000 }] })
      let reserved = 0
      const fetch = limiter.fetch(async () => {
        reserved = await tokensUsed(limiter)
        return new Response(null)
      })
      await fetch('http://a.example/v1', init)
      return reserved
    }
    const answer = 256
    expect(await reservedFor({ method: 'POST', body: form })).toBeGreaterThan(800 + answer)
    expect(await reservedFor({ method: 'POST', body: form })).toBeLessThan(820 + answer)
    expect(await reservedFor({ method: 'POST', body: new URLSearchParams({ model: 'm' }) })).toBe(2 + answer)
    expect(await reservedFor({ method: 'POST', body: stream() })).toBe(answer)
    expect(await reservedFor({ method: 'POST', body: stream(), headers: length })).toBe(Math.ceil(body().length / 4) + answer)
    expect(await reservedFor({ method: 'GET' })).toBe(0)
    expect(await reservedFor({ method: 'HEAD' })).toBe(0)
  })

  it.each([
    ['without a type', {}, 2],
    ['of text', { 'content-type': 'text/plain' }, 14]
  ])('holds no long stream %s', async (_, headers, most) => {
    let given = 0
    const stream = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (given++ === 40) controller.close()
        else controller.enqueue(new Uint8Array(1 << 20).fill(97))
      }
    })
    let held = 0
    const fetch = open({ limits: [{ concurrency: 1 }] }).fetch(async (input) => {
      held = given
      return new Response(String((await (input as Request).arrayBuffer()).byteLength))
    })
    const response = await fetch(
      new Request('http://a.example', { method: 'POST', body: stream, duplex: 'half', headers } as RequestInit)
    )
    expect(await response.text()).toBe(String(40 << 20))
    expect(held).toBeLessThanOrEqual(most)
  })

  it('takes what every fetch takes: an address that is an object, no signal in place of a request\u2019s own, a file that is gone', async () => {
    const fetch = open().fetch(async () => new Response('fine'))
    const read = async (...args: Parameters<typeof fetch>): Promise<string> => (await fetch(...args)).text()
    const address = { toString: () => 'http://a.example/' }
    expect(await read(address as unknown as string)).toBe('fine')
    expect(await read(new Request('http://a.example', { signal: AbortSignal.abort() }), { signal: null })).toBe('fine')
    const gone = Object.assign(new Blob(['x'], { type: 'text/plain' }), { text: () => Promise.reject(new Error('gone')) })
    expect(await read('http://a.example', { method: 'POST', body: gone })).toBe('fine')
  })

  it('stops reading a request that stalls when its caller aborts', async () => {
    const limiter = open()
    const controller = new AbortController()
    const stalled = new Request('http://a.example', {
      method: 'POST',
      body: new ReadableStream({ pull: () => new Promise(() => {}) }),
      duplex: 'half',
      headers: { 'content-type': 'application/json' },
      signal: controller.signal
    } as RequestInit)
    const pending = limiter.fetch(globalThis.fetch)(stalled)
    const reason = new Error('stopped by the test')
    controller.abort(reason)
    await expect(pending).rejects.toBe(reason)
    expect(limiter.stats().running).toBe(0)
  })

  it.each([
    ['throws', { throws: true, usd: 0 }],
    ['is NaN', { throws: false, usd: Number.NaN }],
    ['is negative', { throws: false, usd: -1 }]
  ])('gives the answer and the place back where its price %s', async (_, { throws, usd }) => {
    const price = (): number => {
      if (throws) throw new Error('no price')
      return usd
    }
    const limiter = open({ limits: [{ concurrency: 1 }], price })
    const ask = () => limiter.fetch(globalThis.fetch)(`${provider.url}/chat/completions`, { method: 'POST', body: body() })
    expect(await (await ask()).text()).toMatch(/usage/)
    expect(await (await ask()).json()).toMatchObject({ object: 'chat.completion' })
    for await (const piece of (await ask()).body as ReadableStream<Uint8Array>) {
      expect(piece.byteLength).toBeGreaterThan(0)
    }
    expect(limiter.stats()).toMatchObject({ running: 0, priceFailures: 3 })
  })

  it('settles as reserved where an answer tells absurd usage', async () => {
    const url = await serve((_, response) => void response.end('{"usage":{"prompt_tokens":3,"completion_tokens":999999999999}}'))
    const limiter = open()
    const response = await limiter.fetch(globalThis.fetch)(url, { method: 'POST', body: body() })
    const reserved = await tokensUsed(limiter)
    await response.text()
    expect(await tokensUsed(limiter)).toBe(reserved)
    expect(limiter.stats()).toMatchObject({ running: 0, usageIgnored: 1 })
  })

  it('takes nothing of a budget for calls that found no server', async () => {
    const url = await serve(() => {})
    await closing.pop()?.()
    const limiter = open({ budgets: [{ by: 'provider', tokens: 5000 }] })
    for (let call = 0; call < 5; call++) {
      await expect(
        limiter.fetch(globalThis.fetch)(url, { method: 'POST', body: '{"model":"m","max_tokens":4000}' })
      ).rejects.toMatchObject({ cause: { code: 'ECONNREFUSED' } })
    }
    expect(limiter.stats()).toMatchObject({ running: 0, granted: 5, refusals: 0 })
  })

  it('leaves the memory of a chunk with those who share it, and copies what it hands on', async () => {
    const pool = Buffer.from('data: onedata: two')
    const source = new ReadableStream<Uint8Array>({
      start(controller) {
        controller.enqueue(pool.subarray(0, 9))
        controller.enqueue(pool.subarray(9))
        controller.close()
      }
    })
    const response = await open().fetch(async () => new Response(source))('http://a.example')
    let text = ''
    for await (const piece of response.body as ReadableStream<Uint8Array>) {
      expect(piece.buffer).not.toBe(pool.buffer)
      text += Buffer.from(piece).toString()
    }
    expect(text).toBe('data: onedata: two')
    expect(pool.toString()).toBe('data: onedata: two')
  })

  it('waits out a counter that the first answer says is used up, however late that answer came', async () => {
    let at = 0
    const limiter = createLimiter({ limits: [{ by: 'provider' }], now: () => at, queueMs: 0 })
    closing.push(() => limiter.close())
    const headers = {
      'x-ratelimit-limit-requests': '1',
      'x-ratelimit-remaining-requests': '0',
      'x-ratelimit-reset-requests': '200ms'
    }
    const fetch = limiter.fetch(async () => {
      at += 500
      return new Response('{}', { headers })
    })
    await (await fetch('http://a.example')).text()
    await expect(fetch('http://a.example')).rejects.toMatchObject({
      cause: { code: 'rate-limited', details: { retryAfterMs: 200 } }
    })
  })

  it('takes what `cost` says, and fails as a fetch does where there is no room', async () => {
    const limiter = open({ limits: [{ by: 'tenant', requestsPerMinute: 1 }], queueMs: 10 })
    const told: string[] = []
    const fetch = limiter.fetch(globalThis.fetch, {
      cost(url) {
        told.push(url)
        return { tenant: 'a', tokens: 3 }
      }
    })
    await fetch(`${provider.url}/models`).then((response) => response.text())
    const error = await fetch(`${provider.url}/models`).catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(TypeError)
    expect(isMillraceError((error as TypeError).cause, 'rate-limited')).toBe(true)
    expect(told).toEqual([`${provider.url}/models`, `${provider.url}/models`])
  })

  it('refuses wrong options with what to write instead', () => {
    const limiter = open()
    expect(() => limiter.fetch(undefined as never)).toThrow(/globalThis.fetch/)
    expect(() => limiter.fetch(fetch, { cost: 3 } as never)).toThrow(/cost must be a function/)
    expect(() => limiter.fetch(fetch, { costs: 3 } as never)).toThrow(/no option "costs"/)
  })
})
