import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { createAdapter } from '@millrace/adapter'
import { openai } from '@millrace/adapter/openai'
import { parseSSE } from '@millrace/core'
import { type ScriptedProvider, startScriptedProvider } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import type { Config } from '../src/config.ts'
import { type Gateway, startGateway } from '../src/gateway.ts'
import type { Snapshot } from '../src/snapshot.ts'
import { partsOf } from './parts.ts'

let provider: ScriptedProvider
let gateway: Gateway
let client: OpenAI
const open: AsyncDisposable[] = []

async function start(
  config: Partial<Config> = {},
  upstream = { apiKey: 'upstream-key', baseURL: provider.url }
): Promise<Gateway> {
  const transport = createTransport({ retry: { baseMs: 1 } })
  const adapter = createAdapter({ provider: openai(upstream), transport, cache: {} })
  const started = await startGateway(partsOf({ adapter, transport, upstream, config }))
  open.push(transport, started)
  return started
}

beforeAll(async () => {
  provider = await startScriptedProvider({
    apiKey: 'upstream-key',
    reply: ({ prompt }) => {
      if (prompt.startsWith('slow')) return { text: 'word '.repeat(200), tokensPerSecond: 50 }
      if (prompt.startsWith('status '))
        return {
          status: Number(prompt.slice(7)),
          body: '{"error":{"message":"secret-of-the-provider"}}',
          headers: { 'retry-after': '70' }
        }
      if (prompt.startsWith('echo ')) {
        const [, status, filler] = prompt.split(' ')
        const message = `${'.'.repeat(Number(filler))}upstream-key, authorization: Bearer upstream-key, sk-proj-0123456789`
        return { status: Number(status), body: JSON.stringify({ error: { message } }), headers: { 'retry-after': '70' } }
      }
      if (prompt.startsWith('deep')) return { body: deepAnswer(prompt), headers: { 'content-type': 'text/event-stream' } }
      if (prompt === 'odd end')
        return { body: '{"model":"m","choices":[{"index":0,"message":{"content":"half"},"finish_reason":"error"}]}' }
      if (prompt === 'huge') return { text: 'word '.repeat(1_500_000) }
      if (prompt === 'broken')
        return {
          body: 'data: {"model":"m","choices":[{"index":0,"delta":{"content":"so far"}}]}\n\n',
          headers: { 'content-type': 'text/event-stream' }
        }
      return undefined
    }
  })
  gateway = await start()
  client = new OpenAI({ apiKey: 'none', baseURL: `${gateway.url}/v1`, maxRetries: 0 })
})
afterAll(async () => {
  for (const resource of open.toReversed()) await resource[Symbol.asyncDispose]()
  await provider.close()
})

/** Log probabilities so deep that they can be read, and not written. */
function deepAnswer(prompt: string): string {
  const depth = 50_000
  const event = (choice: string): string => `data: {"model":"m","choices":[{"index":0,${choice},"finish_reason":null}]}\n\n`
  const text = event('"delta":{"content":"so far"}')
  const deep = event(`"delta":{},"logprobs":${'['.repeat(depth)}${']'.repeat(depth)}`)
  return prompt === 'deep first' ? deep + text.repeat(50) : text + deep + text.repeat(50)
}

const ask = (content: string): { model: string; messages: { role: 'user'; content: string }[] } => ({
  model: 'scripted-large',
  messages: [{ role: 'user', content }]
})
/** Messages the contract has no words for. */
const foreign = (content: string): object[] => [{ role: 'function', name: 'look', content: 'seen' }, ...ask(content).messages]
const post = (body: unknown, base = gateway.url, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(`${base}/v1/chat/completions`, { method: 'POST', headers, body: typeof body === 'string' ? body : JSON.stringify(body) })

describe('the official client', () => {
  test('chats, and gets the same text streamed', async () => {
    const whole = await client.chat.completions.create(ask('Why is the sky blue?'))
    expect(whole).toMatchObject({
      object: 'chat.completion',
      model: 'scripted-large',
      choices: [{ index: 0, finish_reason: 'stop' }]
    })
    expect(whole.usage?.total_tokens).toBeGreaterThan(0)
    let text = ''
    let usage: unknown
    const stream = await client.chat.completions.create({
      ...ask('Why is the sky blue?'),
      stream: true,
      stream_options: { include_usage: true }
    })
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? ''
      usage = chunk.usage ?? usage
    }
    expect(text).toBe(whole.choices[0]?.message.content)
    expect(usage).toEqual(whole.usage)
  })

  test('calls a tool, whole and streamed, and sends its result back', async () => {
    const tools = [
      {
        type: 'function' as const,
        function: {
          name: 'get_weather',
          parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] }
        }
      }
    ]
    const question = ask('Use get_weather for Paris.')
    const whole = await client.chat.completions.create({ ...question, tools })
    const call = whole.choices[0]?.message.tool_calls?.[0]
    expect(whole.choices[0]).toMatchObject({ finish_reason: 'tool_calls', message: { content: null } })
    if (call?.type !== 'function') throw new Error('no tool call')
    expect(Object.keys(JSON.parse(call.function.arguments) as object)).toEqual(['city'])
    const streamed = await client.chat.completions.stream({ ...question, tools }).finalChatCompletion()
    expect(streamed.choices[0]?.message.tool_calls?.[0]).toMatchObject({
      function: { name: 'get_weather', arguments: call.function.arguments }
    })
    const messages = [
      ...question.messages,
      whole.choices[0]?.message as never,
      { role: 'tool' as const, tool_call_id: call.id, content: '21 degrees' }
    ]
    expect((await client.chat.completions.create({ ...question, messages, tools })).choices[0]?.finish_reason).toBe('stop')
  })

  test('lists models, and gets errors it understands', async () => {
    expect((await client.models.list()).data.map(({ id }) => id)).toContain('scripted-large')
    await expect(client.chat.completions.create({ ...ask('x'), temperature: -1 })).rejects.toMatchObject({
      status: 400,
      param: 'temperature',
      code: 'invalid_request'
    })
    await expect(client.chat.completions.create(ask('status 429'))).rejects.toMatchObject({
      status: 429,
      code: 'rate_limit_exceeded'
    })
    await expect(client.chat.completions.create(ask('status 529'))).rejects.toMatchObject({ status: 503, code: 'overloaded' })
    await expect(client.chat.completions.create(ask('status 401'))).rejects.toMatchObject({ status: 502, code: 'unauthorized' })
    const error = await client.chat.completions.create(ask('status 400')).catch((thrown: unknown) => thrown)
    expect(JSON.stringify(error) + String(error)).not.toContain('secret-of-the-provider')
  })

  test('passes on untouched what the contract has no words for', async () => {
    const messages = [...ask('hello').messages, { role: 'function', name: 'look', content: 'seen' }]
    const answer = await post({ model: 'scripted-large', messages, later_field: { a: 1 } })
    expect(answer.status).toBe(200)
    expect(((await answer.json()) as { object: string }).object).toBe('chat.completion')
    expect(provider.requests.at(-1)?.body).toMatchObject({ messages, later_field: { a: 1 } })
    // The provider's own refusal comes back as it is: this one makes one choice only.
    const refused = await post({ ...ask('two please'), n: 2 })
    expect([refused.status, await refused.text()]).toEqual([400, expect.stringContaining('"param":"n"')])
  })
})

describe('the API', () => {
  test('tells the state of the cache in a header', async () => {
    const states: (string | null)[] = []
    for (const stream of [false, true, true]) {
      const response = await post({ ...ask('What is a weir?'), stream })
      states.push(response.headers.get('x-millrace-cache'))
      await response.text()
    }
    expect(states).toEqual(['miss', 'hit', 'hit'])
  })

  test('ends a stream with [DONE], and a broken one with an error event and no [DONE]', async () => {
    expect(await (await post({ ...ask('hello'), stream: true })).text()).toMatch(/data: \[DONE\]\n\n$/)
    const broken = await (await post({ ...ask('broken'), stream: true })).text()
    expect(broken).toContain('so far')
    expect(broken).not.toContain('[DONE]')
    expect(broken).toMatch(/data: {"error":{.*"code":"protocol"}}\n\n$/)
  })

  test.each(['deep first', 'deep later'])('ends the call when an answer cannot be written: %s', async (prompt) => {
    const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
    const answer = await post({ ...ask(prompt), stream: true })
    const text = await answer.text()
    expect(text).toMatch(/{"error":{.*"code":"internal_error"}}/)
    // What cannot be written from the start still gets a status.
    if (prompt === 'deep first') expect(answer.status).toBe(500)
    else expect(text).toMatch(/so far[^]*data: {"error":{.*"code":"internal_error"}}\n\n$/)
    expect(logged).toHaveBeenCalledOnce()
    logged.mockRestore()
    await expect.poll(() => fetch(`${gateway.url}/v1/stats`).then((response) => response.json())).toMatchObject({ running: 0 })
  })

  test('does not call an answer finished that ended for a reason nobody knows', async () => {
    const answer = (await (await post(ask('odd end'))).json()) as { choices: { finish_reason: string }[] }
    expect(answer.choices[0]?.finish_reason).toBe('length')
  })

  test('gives a failure before the first content its status, streamed or not', async () => {
    const response = await post({ ...ask('status 429'), stream: true })
    expect([response.status, response.headers.get('retry-after')]).toEqual([429, '70'])
  })

  test('stops the provider when the client leaves', async () => {
    const controller = new AbortController()
    const response = await fetch(`${gateway.url}/v1/chat/completions`, {
      method: 'POST',
      body: JSON.stringify({ ...ask('slow leave'), stream: true }),
      signal: controller.signal
    })
    await response.body?.getReader().read()
    await expect.poll(() => provider.stats().openAnswers).toBe(1)
    controller.abort()
    await expect.poll(() => provider.stats().openAnswers).toBe(0)
  })

  test('keeps answering the one who stays when another one of a joined call leaves', async () => {
    const controller = new AbortController()
    const body = JSON.stringify({ ...ask('slow joined'), stream: true })
    const leaving = await fetch(`${gateway.url}/v1/chat/completions`, { method: 'POST', body, signal: controller.signal })
    const staying = await post(body)
    expect(staying.headers.get('x-millrace-cache')).toBe('joined')
    await leaving.body?.getReader().read()
    controller.abort()
    expect((await staying.text()).split('word').length - 1).toBe(200)
  })

  test.each([
    ['not JSON', '{"model', 400, 'invalid_json'],
    ['not an object', '[]', 400, 'invalid_json'],
    ['no messages', '{"model":"m"}', 400, 'invalid_request'],
    [
      'a __proto__ key',
      '{"model":"m","messages":[{"role":"user","content":"x"}],"metadata":{"__proto__":{}}}',
      400,
      'invalid_request'
    ],
    ['a body above 1 MiB', JSON.stringify(ask('x'.repeat(1_100_000))), 413, 'request_too_large']
  ])('refuses %s', async (_, body, status, code) => {
    const response = await post(body)
    expect(response.status).toBe(status)
    expect(((await response.json()) as { error: { code: string } }).error.code).toBe(code)
  })

  test.each([
    [{ tools: 'x' }, 'tools'],
    [{ messages: [{ role: 'assistant', content: 'a', tool_calls: 'x' }] }, 'messages[0].tool_calls'],
    [{ metadata: { a: JSON.parse('{"__proto__":1}') as object } }, 'metadata.a.__proto__']
  ])('refuses %j by the name the client knows', async (part, param) => {
    const response = await post({ ...ask('x'), ...part })
    expect(response.status).toBe(400)
    expect(((await response.json()) as { error: { param: string } }).error.param).toBe(param)
  })

  test('keeps its own key to itself where it passes a request on and the provider refuses the key', async () => {
    const refused = await post({ ...ask('status 401'), functions: [{ name: 'f' }] })
    expect([refused.status, await refused.text()]).toEqual([502, expect.not.stringContaining('secret-of-the-provider')])
  })

  test('takes its own key, and what looks like one, out of a refusal that it passes on', async () => {
    for (const status of [400, 404, 429, 500]) {
      const refused = await post({ ...ask(''), messages: foreign(`echo ${status} 0`) })
      expect([refused.status, refused.headers.get('retry-after')]).toEqual([status, '70'])
      expect(await refused.json()).toEqual({
        error: { message: '[redacted], authorization: Bearer [redacted], [redacted]' }
      })
    }
  })

  test('lets no half of its key out of a refusal that is cut', async () => {
    const head = '{"error":{"message":"'
    for (const half of [4, 8, 11, 12, 13]) {
      const refused = await post({ ...ask(''), messages: foreign(`echo 500 ${64 * 1024 - head.length - half}`) })
      expect(await refused.text()).toMatch(/^\{"error":\{"message":"\.+\[redacted\],?$/)
    }
  })

  test('tells that it is the provider which cannot be reached, also where it passes a request on', async () => {
    const cut = await start({}, { apiKey: 'x', baseURL: 'http://127.0.0.1:1' })
    const refused = await post({ ...ask('x'), messages: foreign('x') }, cut.url)
    expect([refused.status, await refused.text()]).toEqual([502, expect.stringContaining('the provider could not be reached')])
  })

  test('refuses unknown paths, serves its page, its health and its numbers', async () => {
    expect((await fetch(`${gateway.url}/v2/what`)).status).toBe(404)
    expect(await (await fetch(`${gateway.url}/healthz`)).json()).toEqual({ status: 'ok' })
    expect(await (await fetch(gateway.url)).text()).toMatch(/^<!doctype html>/i)
    const stats = (await (await fetch(`${gateway.url}/v1/stats`)).json()) as {
      calls: number
      origins: Record<string, { requests: number }>
    }
    expect(stats.calls).toBeGreaterThan(3)
    expect(stats.origins[new URL(provider.url).origin]?.requests).toBe(provider.stats().requests)
  })

  test('with a token lets only those in who have it', async () => {
    const guarded = await start({ operatorToken: 'letmein-letmein-letmein' })
    expect((await post(ask('x'), guarded.url)).status).toBe(401)
    expect((await post(ask('x'), guarded.url, { authorization: 'Bearer letmeout' })).status).toBe(401)
    expect((await post(ask('x'), guarded.url, { authorization: 'Bearer letmein-letmein-letmein' })).status).toBe(200)
    expect((await fetch(`${guarded.url}/v1/stats`)).status).toBe(401)
    expect((await fetch(`${guarded.url}/healthz`)).status).toBe(200)
  })
})

test('what is passed on untouched ends after its total time', async () => {
  const hasty = await start({ streamMs: 300 })
  const response = await post({ ...ask(''), stream: true, messages: foreign('slow pass') }, hasty.url)
  expect(response.status).toBe(200)
  expect(await response.text()).toMatch(/word[^]*data: {"error":{.*"code":"timeout"}}\n\n$/)
  await expect.poll(() => provider.stats().openAnswers).toBe(0)
})

test('a streamed answer ends after its total time, with an error event', async () => {
  const hasty = await start({ streamMs: 300 })
  const text = await (await post({ ...ask('slow stream'), stream: true }, hasty.url)).text()
  expect(text).toMatch(/word[^]*data: {"error":{.*"code":"timeout"}}\n\n$/)
  await expect.poll(() => provider.stats().openAnswers).toBe(0)
})

test('closing waits for what is passed on untouched, and cuts it at the end of the grace', async () => {
  for (const [graceMs, whole] of [
    [10_000, true],
    [600, false]
  ] as const) {
    const closing = await start()
    const running = await post({ ...ask(''), stream: true, messages: foreign('slow and passed on') }, closing.url)
    const text = running.text().catch(() => 'cut')
    const later = connect(Number(new URL(closing.url).port), '127.0.0.1')
    await once(later, 'connect')
    // One that has asked nothing yet would be waited for.
    later.write('GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n')
    await once(later, 'data')
    const closed = closing.close({ graceMs })
    // An open connection stays while others are answered, but nothing new is passed on, but for what was on its way.
    await delay(150)
    later.write('GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n')
    expect(String((await once(later, 'data'))[0])).toMatch(/^HTTP\/1\.1 503 /)
    expect((await text).endsWith('data: [DONE]\n\n')).toBe(whole)
    await closed
    await expect.poll(() => provider.stats().openAnswers).toBe(0)
  }
}, 20_000)

test.each([
  ['by the adapter', { ...ask('huge') }],
  ['untouched', { ...ask('huge'), messages: foreign('huge') }]
])('closing does not cut an answer that is written %s, but not yet read', async (_, asked) => {
  const closing = await start()
  const body = JSON.stringify(asked)
  const socket = connect(Number(new URL(closing.url).port), '127.0.0.1')
  socket.write(`POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: ${body.length}\r\n\r\n${body}`)
  await once(socket, 'readable')
  await delay(500)
  const closed = closing.close()
  await delay(200)
  let words = 0
  for await (const piece of socket) words += (piece as Buffer).toString('latin1').split('w').length - 1
  expect(words).toBeGreaterThan(1_499_999)
  await closed
})

test('closing lets a running stream finish and refuses new calls', async () => {
  const closing = await start()
  const running = await post({ ...ask('hello again'), stream: true }, closing.url)
  const closed = closing.close()
  expect(await running.text()).toContain('[DONE]')
  await closed
  await expect(post(ask('x'), closing.url)).rejects.toThrow('fetch failed')
})

describe('what a client cannot do', () => {
  test('a HEAD is refused, for nobody would read the stream it began', async () => {
    const looked = await fetch(`${gateway.url}/v1/live`, { method: 'HEAD' })
    expect([looked.status, looked.headers.get('allow')]).toEqual([405, 'GET, POST, PUT, DELETE'])
  })

  test('readers of streams count among the requests of their client', async () => {
    const narrow = await start({ maxRequestsPerClient: 2 })
    const begun = await post({ ...ask('slow to be read'), stream: true }, narrow.url, { 'x-millrace-resume': 'true' })
    const path = `${narrow.url}/v1/streams/${begun.headers.get('x-millrace-stream-id')}`
    const second = await fetch(path)
    const third = await fetch(path)
    expect([second.status, third.status, third.headers.get('retry-after')]).toEqual([200, 429, '1'])
    await fetch(`${narrow.url}/v1/stats`).then((response) => expect(response.status).toBe(200))
    await Promise.all([begun.body?.cancel(), second.body?.cancel()])
  })

  test('who has no token leaves no trace among the last calls', async () => {
    const token = 'letmein-letmein-letmein'
    const guarded = await start({ operatorToken: token })
    for (let times = 0; times < 3; times++) await post(ask('x'), guarded.url)
    await (await post(ask('x'), guarded.url, { authorization: `Bearer ${token}` })).text()
    const live = await fetch(`${guarded.url}/v1/live`, { headers: { authorization: `Bearer ${token}` } })
    for await (const { data } of parseSSE(live.body as ReadableStream<Uint8Array>)) {
      expect((JSON.parse(data) as Snapshot).calls.map(({ status }) => status)).toEqual([200])
      break
    }
  })

  test('it is cut off when it takes nothing, though it goes on sending', async () => {
    const hasty = await start({ stallMs: 400 })
    const body = JSON.stringify({ ...ask('huge'), stream: true })
    const socket = connect(Number(new URL(hasty.url).port), '127.0.0.1')
    const closed = new Promise((resolve) => socket.once('close', resolve))
    socket.on('error', () => {}) // it is cut off: that is the test
    const head = (length: number): string =>
      `POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: ${length}\r\n\r\n`
    socket.pause()
    socket.write(`${head(body.length)}${body}${head(900_000)}`)
    const sending = setInterval(() => socket.write('x'), 100)
    await expect.poll(async () => (await requestsOf(hasty)).total).toBeGreaterThan(0)
    await expect.poll(async () => (await requestsOf(hasty)).running, { timeout: 10_000 }).toBe(0)
    clearInterval(sending)
    socket.resume()
    await closed
  })
})

test('a client that reads slowly but steadily gets all of a large plain answer', async () => {
  const hasty = await start({ stallMs: 800 })
  const body = JSON.stringify(ask('huge'))
  const socket = connect(Number(new URL(hasty.url).port), '127.0.0.1')
  socket.write(`POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: ${body.length}\r\n\r\n${body}`)
  let words = 0
  const startedAt = performance.now()
  for await (const piece of socket) {
    words += (piece as Buffer).toString('latin1').split('w').length - 1
    // 7.5 MB in pieces of 64 KiB: about three seconds.
    await delay(25)
    if (words >= 1_500_000) break
  }
  expect(words).toBeGreaterThan(1_499_999)
  expect(performance.now() - startedAt).toBeGreaterThan(1600)
}, 30_000)

async function requestsOf({ url }: Gateway): Promise<{ total: number; running: number }> {
  const { requests } = (await (await fetch(`${url}/v1/stats`)).json()) as { requests: { total: number; running: number } }
  return requests
}
