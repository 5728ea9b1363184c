import { getEventListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { createOpenAI } from '@ai-sdk/openai'
import Anthropic from '@anthropic-ai/sdk'
import { isMillraceError } from '@millrace/core'
import { type ScriptedOptions, type ScriptedProvider, type ScriptedReply, startScriptedProvider } from '@millrace/testkit'
import { createTransport, type Transport, type TransportOptions } from '@millrace/transport'
import {
  APICallError,
  generateSpeech,
  generateText,
  stepCountIs,
  streamText,
  tool,
  experimental_transcribe as transcribe
} from 'ai'
import OpenAI, { toFile } from 'openai'
import { describe, expect, test } from 'vitest'
import { z } from 'zod'
import { serve, until } from './serve.ts'

const model = 'scripted-large'
const question = 'Why is the sky blue?'
const messages = [{ role: 'user' as const, content: question }]
const weather = { type: 'object' as const, properties: { city: { type: 'string' } } }

interface Rig extends AsyncDisposable {
  readonly provider: ScriptedProvider
  readonly transport: Transport
  readonly openai: OpenAI
  readonly anthropic: Anthropic
  /** The model of the AI SDK. */
  readonly chat: ReturnType<ReturnType<typeof createOpenAI>['chat']>
}

async function rig(options: ScriptedOptions = {}, transportOptions: TransportOptions = {}): Promise<Rig> {
  const provider = await startScriptedProvider(options)
  const transport = createTransport({ retry: { baseMs: 1, maxMs: 1 }, ...transportOptions })
  const { fetch } = transport
  const apiKey = 'sk-right'
  return {
    provider,
    transport,
    openai: new OpenAI({ apiKey, baseURL: provider.url, fetch, maxRetries: 0 }),
    anthropic: new Anthropic({ apiKey, baseURL: provider.url.replace(/\/v1$/, ''), fetch, maxRetries: 0 }),
    chat: createOpenAI({ apiKey, baseURL: provider.url, fetch }).chat(model),
    async [Symbol.asyncDispose]() {
      await transport.close({ graceMs: 0 })
      await provider.close()
    }
  }
}

/** A first reply, then those the server makes up. */
function first(reply: ScriptedReply): { reply: () => ScriptedReply | undefined } {
  let calls = 0
  return { reply: () => (calls++ === 0 ? reply : undefined) }
}

const rejection = (promise: PromiseLike<unknown>): Promise<Error> =>
  Promise.resolve(promise).then(
    () => new Error('it did not reject'),
    (error: unknown) => error as Error
  )

/** The server learns within a second that nobody reads on. */
async function isLeft({ provider, transport }: Rig): Promise<void> {
  const startedAt = performance.now()
  await until(() => provider.stats().openAnswers === 0, 'the answer is no longer written')
  expect(performance.now() - startedAt).toBeLessThan(1000)
  expect(Object.values(transport.stats().origins)[0]?.busy).toBe(0)
}

describe('the openai client', () => {
  const ask = (client: OpenAI, options?: OpenAI.RequestOptions): Promise<OpenAI.ChatCompletion> =>
    client.chat.completions.create({ model, messages }, options)

  test('has an answer, a stream to its end, a list, and the response with its headers', async () => {
    await using all = await rig()
    const { openai, provider } = all
    const whole = await ask(openai)
    let streamed = ''
    for await (const chunk of await openai.chat.completions.create({ model, messages, stream: true })) {
      streamed += chunk.choices[0]?.delta.content ?? ''
    }
    expect(streamed).not.toBe('')
    expect(streamed).toBe(whole.choices[0]?.message.content)
    expect((await openai.models.list()).data.length).toBeGreaterThan(0)
    const { response, data } = await openai.chat.completions.create({ model, messages }).withResponse()
    expect(response.headers.get('content-type')).toBe('application/json')
    expect(data.choices[0]?.message.content).toBe(streamed)
    expect(provider.stats().sockets).toBe(1)
  })

  test('calls tools, plain and streamed', async () => {
    await using all = await rig()
    const request = {
      model,
      messages: [{ role: 'user' as const, content: 'get weather in Paris' }],
      tools: [{ type: 'function' as const, function: { name: 'get_weather', parameters: weather } }]
    }
    const plain = await all.openai.chat.completions.create(request)
    const streamed = await all.openai.chat.completions.stream(request).finalChatCompletion()
    for (const { choices } of [plain, streamed]) {
      const [call] = choices[0]?.message.tool_calls ?? []
      expect(call?.type === 'function' && call.function).toMatchObject({
        name: 'get_weather',
        arguments: expect.stringMatching(/^{"city":"\w/)
      })
    }
  })

  test('that leaves a stream early ends it at the server', async () => {
    await using all = await rig({ tokensPerSecond: 20 })
    for (const signal of [undefined, new AbortController().signal]) {
      const stream = await all.openai.chat.completions.create({ model, messages, stream: true }, signal && { signal })
      for await (const _ of stream) break
      await isLeft(all)
    }
    expect(all.provider.stats().requests).toBe(2)
  })

  test('is aborted while it waits and within a stream', async () => {
    await using all = await rig({ tokensPerSecond: 20 })
    const controller = new AbortController()
    const waiting = rejection(ask(all.openai, { signal: controller.signal }))
    await until(() => all.provider.stats().openAnswers === 1, 'the server is asked')
    controller.abort()
    expect(await waiting).toBeInstanceOf(OpenAI.APIUserAbortError)
    await isLeft(all)
    const second = new AbortController()
    const stream = await all.openai.chat.completions.create({ model, messages, stream: true }, { signal: second.signal })
    let chunks = 0
    for await (const _ of stream) if (++chunks === 2) second.abort()
    await isLeft(all)
    expect(getEventListeners(second.signal, 'abort').length).toBe(0)
  })

  test('has errors of the API as its own, with their body', async () => {
    await using all = await rig({ ...first({ status: 400, text: 'a bad one' }), apiKey: 'sk-right' })
    const bad = await rejection(ask(all.openai))
    expect(bad).toBeInstanceOf(OpenAI.BadRequestError)
    expect(bad.message).toContain('a bad one')
    const unknown = all.openai.withOptions({ apiKey: 'sk-wrong' })
    expect(await rejection(ask(unknown))).toBeInstanceOf(OpenAI.AuthenticationError)
    expect(all.provider.stats().requests).toBe(2)
  })

  test('waits out a 429, and the transport alone has tried again', async () => {
    await using all = await rig(first({ status: 429, headers: { 'retry-after-ms': '200' } }))
    const startedAt = performance.now()
    expect((await ask(all.openai)).choices[0]?.message.content).not.toBe('')
    expect(performance.now() - startedAt).toBeGreaterThanOrEqual(199)
    expect([all.provider.stats().requests, all.transport.stats().retries]).toEqual([2, 1])
  })

  test('has an overload that begins a stream tried again, and one that stays as its error', async () => {
    const overloaded = 'data: {"error":{"message":"overloaded","code":503,"type":"server_error"}}\n\n'
    const headers = { 'content-type': 'text/event-stream' }
    await using all = await rig(first({ body: overloaded, headers }))
    const stream = await all.openai.chat.completions.create({ model, messages, stream: true })
    let text = ''
    for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? ''
    expect(text).not.toBe('')
    await using down = await rig({ reply: () => ({ body: overloaded, headers }) })
    const refused = await down.openai.chat.completions.create({ model, messages, stream: true })
    const error = await rejection(refused[Symbol.asyncIterator]().next())
    expect(error).toBeInstanceOf(OpenAI.APIError)
    expect(down.provider.stats().requests).toBe(3)
  })

  test('shows a clock of the transport as a timeout, with the clock behind it, and its own too', async () => {
    await using all = await rig({ firstTokenMs: 60_000 })
    const limited = await rejection(ask(all.openai, { headers: { 'x-millrace-total-ms': '80' } }))
    expect(limited).toBeInstanceOf(OpenAI.APIConnectionTimeoutError)
    const { cause } = limited.cause as Error
    expect(isMillraceError(cause, 'timeout') && cause.details.clock).toBe('total')
    await isLeft(all)
    expect(await rejection(ask(all.openai, { timeout: 80 }))).toBeInstanceOf(OpenAI.APIConnectionTimeoutError)
    await isLeft(all)
    expect(all.provider.stats().requests).toBe(2)
    for (const { headers } of all.provider.requests) expect(Object.keys(headers).join()).not.toContain('x-millrace')
  })

  test('shows a broken connection with its reason', async () => {
    await using all = await rig()
    const nobody = all.openai.withOptions({ baseURL: 'http://127.0.0.1:1/v1' })
    const error = await rejection(ask(nobody))
    expect(error).toBeInstanceOf(OpenAI.APIConnectionError)
    const { cause } = error.cause as Error
    expect(isMillraceError(cause, 'network') && cause.details).toEqual({ phase: 'connect', errno: 'ECONNREFUSED' })
  })

  test('uploads forms, blobs and streams', async () => {
    await using server = await serve(({ headers, method, url, body }, response) => {
      response.setHeader('content-type', 'application/json')
      response.end(JSON.stringify({ id: 'file-1', text: 'heard', method, url, type: headers['content-type'], body }))
    })
    await using transport = createTransport()
    const openai = new OpenAI({ apiKey: 'k', baseURL: server.url, fetch: transport.fetch, maxRetries: 0 })
    const sent = async (answer: PromiseLike<unknown>): Promise<{ type: string; body: string }> =>
      (await answer) as { type: string; body: string }
    const file = await toFile(new Blob(['{"a":1}\n']), 'lines.jsonl')
    const form = await sent(openai.files.create({ file, purpose: 'batch' }))
    expect(form.type).toMatch(/^multipart\/form-data; boundary=/)
    expect(form.body).toMatch(
      /filename="lines\.jsonl"[^]*\{"a":1\}\n[^]*name="purpose"|name="purpose"[^]*filename="lines\.jsonl"/
    )
    const heard = await openai.audio.transcriptions.create({ file: await toFile(Buffer.from('RIFF'), 'a.wav'), model: 'w' })
    expect(heard.text).toBe('heard')
    expect((await sent(openai.post('/blob', { body: new Blob(['of a blob'], { type: 'a/b' }) }))).body).toBe('of a blob')
    const stream = ReadableStream.from([new TextEncoder().encode('of a '), new TextEncoder().encode('stream')])
    expect((await sent(openai.post('/stream', { body: stream }))).body).toBe('of a stream')
  })

  test('downloads audio byte for byte, and long answers', async () => {
    const audio = Buffer.from(Array.from({ length: 300_000 }, (_, index) => (index * 7) % 256))
    const long = 'word '.repeat(1_000_000)
    await using server = await serve(({ url }, response) => {
      if (url === '/audio/speech') response.setHeader('content-type', 'audio/mpeg').end(audio)
      else if (url?.endsWith('/content') === true) response.writeHead(302, { location: '/audio/speech' }).end()
      else
        response.setHeader('content-type', 'application/json').end(JSON.stringify({ choices: [{ message: { content: long } }] }))
    })
    await using transport = createTransport()
    const openai = new OpenAI({ apiKey: 'k', baseURL: server.url, fetch: transport.fetch, maxRetries: 0 })
    const speech = await openai.audio.speech.create({ model: 'tts', voice: 'alloy', input: 'Hi' })
    expect(Buffer.compare(Buffer.from(await speech.arrayBuffer()), audio)).toBe(0)
    // A GET that is redirected, as storage does it.
    const content = await openai.files.content('file-1')
    expect((await content.blob()).size).toBe(audio.length)
    expect((await ask(openai)).choices[0]?.message.content).toBe(long)
  })
})

describe('the Anthropic client', () => {
  const request = { model, max_tokens: 500, messages }

  test('has an answer, a stream to its end, and tools', async () => {
    await using all = await rig()
    const whole = await all.anthropic.messages.create(request)
    const streamed = await all.anthropic.messages.stream(request).finalText()
    expect(streamed).toBe(whole.content[0]?.type === 'text' ? whole.content[0].text : '')
    expect(streamed).not.toBe('')
    const called = await all.anthropic.messages
      .stream({
        ...request,
        messages: [{ role: 'user', content: 'get weather in Paris' }],
        tools: [{ name: 'get_weather', input_schema: weather }]
      })
      .finalMessage()
    expect(called.content.find(({ type }) => type === 'tool_use')).toMatchObject({ name: 'get_weather' })
  })

  test('that leaves a stream early or is aborted ends it at the server', async () => {
    await using all = await rig({ tokensPerSecond: 20 })
    for await (const _ of await all.anthropic.messages.create({ ...request, stream: true })) break
    await isLeft(all)
    const controller = new AbortController()
    const waiting = rejection(all.anthropic.messages.create(request, { signal: controller.signal }))
    await until(() => all.provider.stats().openAnswers === 1, 'the server is asked')
    controller.abort()
    expect(await waiting).toBeInstanceOf(Anthropic.APIUserAbortError)
    await isLeft(all)
  })

  test('has errors of the API as its own, and a 529 tried again by the transport alone', async () => {
    await using all = await rig({ ...first({ status: 529 }), apiKey: 'sk-right' })
    expect((await all.anthropic.messages.create(request)).content.length).toBe(1)
    expect([all.provider.stats().requests, all.transport.stats().retries]).toEqual([2, 1])
    const unknown = all.anthropic.withOptions({ apiKey: 'sk-wrong' })
    expect(await rejection(unknown.messages.create(request))).toBeInstanceOf(Anthropic.AuthenticationError)
    expect(await rejection(all.anthropic.messages.create({ ...request, messages: [] }))).toBeInstanceOf(Anthropic.BadRequestError)
  })

  test('shows a clock of the transport as a timeout', async () => {
    await using all = await rig({ firstTokenMs: 60_000 })
    const error = await rejection(all.anthropic.messages.create(request, { headers: { 'x-millrace-total-ms': '80' } }))
    expect(error).toBeInstanceOf(Anthropic.APIConnectionTimeoutError)
    await isLeft(all)
  })

  test('has middleware that parses answers and streams beside it, by clones', async () => {
    await using all = await rig()
    const parsed: unknown[] = []
    const client = all.anthropic.withOptions({
      middleware: [
        async (asked, next, context) => {
          const response = await next(asked)
          const answer: unknown = await context.parse(response)
          if (context.options?.stream === true) for await (const event of answer as AsyncIterable<unknown>) parsed.push(event)
          else parsed.push(answer)
          return response
        }
      ]
    })
    const whole = await client.messages.create(request)
    expect(parsed).toEqual([whole])
    parsed.length = 0
    const events: unknown[] = []
    for await (const event of await client.messages.create({ ...request, stream: true })) events.push(event)
    expect(events.length).toBeGreaterThan(3)
    expect(parsed).toEqual(events)
    await isLeft(all)
  })
})

describe('the AI SDK', () => {
  const settings = { prompt: question, maxRetries: 0 }

  test('has an answer, a stream to its end, and tools that run', async () => {
    await using all = await rig()
    const whole = await generateText({ ...settings, model: all.chat })
    const { textStream } = streamText({ ...settings, model: all.chat })
    let streamed = ''
    for await (const text of textStream) streamed += text
    expect(streamed).toBe(whole.text)
    expect(streamed).not.toBe('')
    const cities: string[] = []
    const { text } = await generateText({
      ...settings,
      model: all.chat,
      prompt: 'get weather in Paris',
      stopWhen: stepCountIs(2),
      tools: {
        get_weather: tool({
          description: 'weather',
          inputSchema: z.object({ city: z.string() }),
          execute: ({ city }) => {
            cities.push(city)
            return 'sunny'
          }
        })
      }
    })
    expect(cities.length).toBe(1)
    expect(text).not.toBe('')
    expect(all.provider.stats().sockets).toBe(1)
  })

  test('ends a stream at the server by its abortSignal; leaving its loop alone does not', async () => {
    await using all = await rig({ tokensPerSecond: 20 })
    const controller = new AbortController()
    const { textStream } = streamText({ ...settings, model: all.chat, abortSignal: controller.signal, onError: () => {} })
    for await (const _ of textStream) break
    await delay(150)
    expect(all.provider.stats().openAnswers).toBe(1)
    controller.abort()
    await isLeft(all)
    const waiting = rejection(generateText({ ...settings, model: all.chat, abortSignal: AbortSignal.timeout(100) }))
    expect((await waiting).name).toBe('TimeoutError')
    await isLeft(all)
  })

  test('has errors of the API as its own, and a 429 tried again by the transport alone', async () => {
    await using all = await rig({ ...first({ status: 429, headers: { 'retry-after-ms': '1' } }), apiKey: 'sk-right' })
    expect((await generateText({ ...settings, model: all.chat })).text).not.toBe('')
    expect([all.provider.stats().requests, all.transport.stats().retries]).toEqual([2, 1])
    const unknown = createOpenAI({ apiKey: 'sk-wrong', baseURL: all.provider.url, fetch: all.transport.fetch })
    const refused = await rejection(generateText({ ...settings, model: unknown.chat(model) }))
    expect(APICallError.isInstance(refused) && [refused.statusCode, refused.isRetryable]).toEqual([401, false])
    await using bad = await rig({ reply: () => ({ status: 400, body: '' }) })
    expect((await rejection(generateText({ ...settings, model: bad.chat }))).message).toBe('Bad Request')
  })

  test('shows a clock of the transport, and a broken connection, with their words', async () => {
    await using all = await rig({ firstTokenMs: 60_000 })
    const headers = { 'x-millrace-total-ms': '80' }
    const limited = await rejection(generateText({ ...settings, model: all.chat, headers }))
    expect(APICallError.isInstance(limited) && limited.message).toContain('the total clock fired after 80 ms')
    expect(isMillraceError(limited.cause, 'timeout') && limited.cause.details.clock).toBe('total')
    await isLeft(all)
    const nowhere = createOpenAI({ apiKey: 'k', baseURL: 'http://127.0.0.1:1/v1', fetch: all.transport.fetch })
    const broken = await rejection(generateText({ ...settings, model: nowhere.chat(model) }))
    expect(isMillraceError(broken.cause, 'network') && broken.cause.details.errno).toBe('ECONNREFUSED')
  })

  test('speaks and listens: audio bytes down, a form up', async () => {
    const audio = Uint8Array.from({ length: 100_000 }, (_, index) => (index * 7) % 256)
    await using server = await serve(({ url, headers, body }, response) => {
      if (url === '/audio/speech') response.setHeader('content-type', 'audio/mpeg').end(audio)
      else {
        response.setHeader('content-type', 'application/json')
        response.end(JSON.stringify({ text: `${headers['content-type']?.split(';')[0]} of ${body.length > 100_000}` }))
      }
    })
    await using transport = createTransport()
    const openai = createOpenAI({ apiKey: 'k', baseURL: server.url, fetch: transport.fetch })
    const spoken = await generateSpeech({ model: openai.speech('tts-1'), text: 'Hi', maxRetries: 0 })
    expect(Buffer.compare(spoken.audio.uint8Array, audio)).toBe(0)
    const { text } = await transcribe({ model: openai.transcription('whisper-1'), audio, maxRetries: 0 })
    expect(text).toBe('multipart/form-data of true')
  })
})

test('all three share the sockets of one transport', async () => {
  await using all = await rig()
  for (let round = 0; round < 3; round++) {
    await all.openai.chat.completions.create({ model, messages })
    await all.anthropic.messages.create({ model, max_tokens: 500, messages })
    await generateText({ model: all.chat, prompt: question, maxRetries: 0 })
  }
  expect(all.provider.stats()).toMatchObject({ requests: 9, sockets: 1 })
})
