import { randomBytes } from 'node:crypto'
import { brotliCompressSync, gzipSync, zstdCompressSync } from 'node:zlib'
import Anthropic from '@anthropic-ai/sdk'
import { isMillraceError } from '@millrace/core'
import { startScriptedProvider } from '@millrace/testkit'
import { createFetch, createTransport } from '@millrace/transport'
import OpenAI from 'openai'
import { describe, expect, test } from 'vitest'
import { json, serve, until } from './serve.ts'

describe('under the official clients', () => {
  test('openai: an answer, a stream, a list of models, and an error of the API', async () => {
    await using provider = await startScriptedProvider({ apiKey: 'sk-right' })
    await using transport = createTransport()
    const client = new OpenAI({ apiKey: 'sk-right', baseURL: provider.url, fetch: transport.fetch, maxRetries: 0 })
    const messages = [{ role: 'user' as const, content: 'Why is the sky blue?' }]
    const whole = await client.chat.completions.create({ model: 'scripted-large', messages })
    let streamed = ''
    for await (const chunk of await client.chat.completions.create({ model: 'scripted-large', messages, stream: true })) {
      streamed += chunk.choices[0]?.delta.content ?? ''
    }
    expect(streamed).not.toBe('')
    expect(streamed).toBe(whole.choices[0]?.message.content)
    expect((await client.models.list()).data.length).toBeGreaterThan(0)
    expect(provider.stats().sockets).toBeLessThanOrEqual(2)
    const wrong = new OpenAI({ apiKey: 'sk-wrong', baseURL: provider.url, fetch: transport.fetch, maxRetries: 0 })
    await expect(wrong.chat.completions.create({ model: 'scripted-large', messages })).rejects.toMatchObject({ status: 401 })
  })

  test('openai: leaving the stream reaches the server', async () => {
    await using provider = await startScriptedProvider({ tokensPerSecond: 20 })
    await using transport = createTransport()
    const client = new OpenAI({ apiKey: 'k', baseURL: provider.url, fetch: transport.fetch, maxRetries: 0 })
    const stream = await client.chat.completions.create({
      model: 'm',
      messages: [{ role: 'user', content: 'Talk.' }],
      stream: true
    })
    for await (const _ of stream) break
    await until(() => provider.stats().openAnswers === 0, 'the answer is no longer written')
  })

  test('anthropic: an answer and a stream', async () => {
    await using provider = await startScriptedProvider()
    await using transport = createTransport()
    const client = new Anthropic({
      apiKey: 'k',
      baseURL: provider.url.replace(/\/v1$/, ''),
      fetch: transport.fetch,
      maxRetries: 0
    })
    const request = {
      model: 'scripted-large',
      max_tokens: 500,
      messages: [{ role: 'user' as const, content: 'Why is the sky blue?' }]
    }
    const whole = await client.messages.create(request)
    const streamed = await client.messages.stream(request).finalText()
    expect(streamed).toBe(whole.content[0]?.type === 'text' ? whole.content[0].text : '')
    expect(streamed).not.toBe('')
  })
})

describe('as a fetch', () => {
  test('hands non-2xx responses and redirects on untouched', async () => {
    await using server = await serve((request, response) => {
      if (request.url === '/moved') response.writeHead(307, { location: 'http://127.0.0.1:1/' }).end()
      else response.writeHead(418, { 'x-tea': 'yes' }).end('short and stout')
    })
    await using transport = createTransport()
    const teapot = await transport.fetch(server.url, { method: 'POST', body: '{}' })
    expect([teapot.status, teapot.ok, teapot.headers.get('x-tea'), await teapot.text()]).toEqual([
      418,
      false,
      'yes',
      'short and stout'
    ])
    expect((await transport.fetch(`${server.url}/moved`, { method: 'POST', body: '{}' })).status).toBe(307)
  })

  test('reads a body in every way, once', async () => {
    await using server = await serve(json({ a: [1, 2] }))
    await using transport = createTransport()
    const get = (): Promise<Response> => transport.fetch(new URL(server.url))
    expect(await (await get()).json()).toEqual({ a: [1, 2] })
    expect(new TextDecoder().decode(await (await get()).bytes())).toBe('{"a":[1,2]}')
    expect((await (await get()).arrayBuffer()).byteLength).toBe(11)
    expect(await (await (await get()).blob()).text()).toBe('{"a":[1,2]}')
    let text = ''
    const streamed = await get()
    for await (const piece of streamed.body as ReadableStream<Uint8Array>) text += new TextDecoder().decode(piece)
    expect(text).toBe('{"a":[1,2]}')
    const once = await get()
    expect(once).toBeInstanceOf(Response)
    await once.text()
    expect(once.bodyUsed).toBe(true)
    await expect(once.text()).rejects.toThrow(TypeError)
    expect(() => once.clone()).toThrow(/cannot be cloned/)
  })

  test('gives bytes of their own memory, not a view of what Node shares among calls', async () => {
    await using server = await serve(json({ small: true }))
    await using transport = createTransport()
    const bytes = await (await transport.fetch(server.url)).bytes()
    expect(bytes.buffer.byteLength).toBe(bytes.byteLength)
    expect((await (await transport.fetch(server.url)).arrayBuffer()).byteLength).toBe(bytes.byteLength)
  })

  test('sends text, bytes, forms and requests with the content type the platform gives them', async () => {
    await using server = await serve((request, response) =>
      response.end(JSON.stringify([request.method, request.headers['content-type'], request.body]))
    )
    await using transport = createTransport()
    const echo = async (...input: Parameters<typeof fetch>): Promise<unknown> => (await transport.fetch(...input)).json()
    expect(await echo(server.url, { method: 'post', body: new URLSearchParams({ a: '1' }) })).toEqual([
      'POST',
      'application/x-www-form-urlencoded;charset=UTF-8',
      'a=1'
    ])
    expect(await echo(server.url, { method: 'POST', body: Buffer.from('raw'), headers: { 'content-type': 'x/y' } })).toEqual([
      'POST',
      'x/y',
      'raw'
    ])
    expect(await echo(new Request(server.url, { method: 'PUT', body: 'of a request' }))).toMatchObject([
      'PUT',
      expect.stringContaining('text/plain'),
      'of a request'
    ])
    const form = new FormData()
    form.set('file', new Blob(['content']), 'a.txt')
    expect(await echo(server.url, { method: 'POST', body: form })).toMatchObject([
      'POST',
      expect.stringContaining('multipart/form-data'),
      expect.stringContaining('content')
    ])
  })

  test("rejects with the caller's own reason, and with a TypeError around ours", async () => {
    await using server = await serve(() => {})
    await using transport = createTransport({ retry: false })
    const reason = new Error('stop')
    const controller = new AbortController()
    setTimeout(() => controller.abort(reason), 20)
    await expect(transport.fetch(server.url, { signal: controller.signal })).rejects.toBe(reason)
    const limited = createFetch(transport.send, { options: () => ({ timeouts: { totalMs: 50 } }) })
    const error = await limited(server.url).catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(TypeError)
    expect(isMillraceError((error as Error).cause, 'timeout')).toBe(true)
  })
})

test('an abort with a reason of null comes out as null, compressed or not', async () => {
  await using server = await serve(
    (_, response) => void response.writeHead(200, { 'content-encoding': 'gzip' }).write(gzipSync('x').subarray(0, 5))
  )
  await using transport = createTransport({ retry: false })
  const controller = new AbortController()
  const { body } = await transport.send({ method: 'POST', url: server.url, headers: {}, signal: controller.signal })
  setTimeout(() => controller.abort(null), 30)
  await expect(body.text()).rejects.toBe(null)
})

describe('compressed responses', () => {
  const plain = JSON.stringify({ text: 'word '.repeat(5000) })
  test.each([
    ['gzip', gzipSync],
    ['br', brotliCompressSync],
    ['zstd', zstdCompressSync]
  ])('are inflated: %s', async (encoding, compress) => {
    await using server = await serve((_, response) =>
      response.writeHead(200, { 'content-encoding': encoding }).end(compress(plain))
    )
    await using transport = createTransport()
    const response = await transport.fetch(server.url)
    expect(await response.text()).toBe(plain)
    expect(response.headers.has('content-encoding')).toBe(false)
  })

  test('that are corrupt, cut, doubly encoded or bombs end as protocol errors, and no socket is left', async () => {
    const whole = gzipSync(plain)
    const cases: readonly [path: string, encoding: string, body: Buffer, reason: string][] = [
      ['/corrupt', 'gzip', randomBytes(500), 'encoding'],
      ['/cut', 'gzip', whole.subarray(0, whole.length >> 1), 'encoding'],
      ['/double', 'gzip, gzip', gzipSync(whole), 'encoding'],
      ['/bomb', 'gzip', gzipSync(Buffer.alloc(50 * 1024 * 1024)), 'too-large']
    ]
    await using server = await serve((request, response) => {
      const [, encoding, body] = cases.find(([path]) => path === request.url) as (typeof cases)[number]
      response.writeHead(200, { 'content-encoding': encoding }).end(body)
    })
    await using transport = createTransport({ retry: false })
    for (const [path, , , reason] of cases) {
      const error = await transport
        .send({ method: 'POST', url: server.url + path, headers: {} })
        .then(({ body }) => body.text())
        .catch((thrown: unknown) => thrown)
      expect(isMillraceError(error, 'protocol') && error.details.reason, path).toBe(reason)
    }
    await until(() => transport.stats().origins[server.url]?.busy === 0, 'nothing is busy')
  })
})
