import { createAdapter } from '@millrace/adapter'
import { openai } from '@millrace/adapter/openai'
import { loadRecordings, type ScriptedProvider, startScriptedProvider } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Gateway, startGateway } from '../src/gateway.ts'

let provider: ScriptedProvider
let gateway: Gateway
let client: OpenAI
const open: AsyncDisposable[] = []

async function start(more: { token?: string } = {}): Promise<Gateway> {
  const transport = createTransport({ retry: { baseMs: 1 } })
  const upstream = { apiKey: 'upstream-key', baseURL: provider.url }
  const adapter = createAdapter({ provider: openai(upstream), transport, cache: {} })
  const started = await startGateway({
    adapter,
    transport,
    upstream,
    host: '127.0.0.1',
    port: 0,
    model: 'scripted-large',
    ...more
  })
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

const ask = (content: string): { model: string; messages: { role: 'user'; content: string }[] } => ({
  model: 'scripted-large',
  messages: [{ role: 'user', content }]
})
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
    ['a body above 4 MiB', JSON.stringify(ask('x'.repeat(5_000_000))), 413, 'request_too_large']
  ])('refuses %s', async (_, body, status, code) => {
    const response = await post(body)
    expect(response.status).toBe(status)
    expect(((await response.json()) as { error: { code: string } }).error.code).toBe(code)
  })

  test('refuses unknown paths, serves its page, its health and its numbers', async () => {
    expect((await fetch(`${gateway.url}/v2/what`)).status).toBe(404)
    expect(await (await fetch(`${gateway.url}/healthz`)).json()).toEqual({ status: 'ok' })
    expect(await (await fetch(gateway.url)).text()).toContain('/v1/chat/completions')
    const stats = (await (await fetch(`${gateway.url}/v1/stats`)).json()) as {
      calls: number
      origins: Record<string, { requests: number }>
    }
    expect(stats.calls).toBeGreaterThan(3)
    expect(stats.origins[new URL(provider.url).origin]?.requests).toBe(provider.stats().requests)
  })

  test('with a token lets only those in who have it', async () => {
    const guarded = await start({ token: 'letmein' })
    expect((await post(ask('x'), guarded.url)).status).toBe(401)
    expect((await post(ask('x'), guarded.url, { authorization: 'Bearer letmeout' })).status).toBe(401)
    expect((await post(ask('x'), guarded.url, { authorization: 'Bearer letmein' })).status).toBe(200)
    expect((await fetch(`${guarded.url}/v1/stats`)).status).toBe(401)
    expect((await fetch(`${guarded.url}/healthz`)).status).toBe(200)
  })
})

test('closing lets a running stream finish and refuses new calls', async () => {
  const closing = await start()
  const running = await post({ ...ask('hello again'), stream: true }, closing.url)
  const closed = closing.close()
  expect(await running.text()).toContain('[DONE]')
  await closed
  await expect(post(ask('x'), closing.url)).rejects.toThrow('fetch failed')
})

const recordings = loadRecordings({ api: 'openai.chat' })
test.skipIf(recordings === undefined)(
  'every recorded request reaches the provider as it was sent (skipped without ../shared/real)',
  async () => {
    const { readRequest } = await import('../src/openai-request.ts')
    const { checkRequest, collect } = await import('@millrace/core')
    let carried = 0
    for (const { id, request } of recordings ?? []) {
      const body = request?.body as Record<string, unknown> | undefined
      if (typeof body !== 'object' || body === null || !Array.isArray(body.messages)) continue
      const read = readRequest(body as never)
      if (read === undefined) continue
      checkRequest(read)
      let sent: Record<string, unknown> = {}
      const wire = openai({ apiKey: 'k', maxTokensField: 'max_tokens' }).connect((http) => {
        sent = JSON.parse(http.body as string) as Record<string, unknown>
        return Promise.reject(new Error('far enough'))
      })
      await collect(wire(read, { stream: body.stream === true })).catch(() => {})
      expect(normal(sent), id).toEqual(normal(body))
      carried++
    }
    expect(carried).toBeGreaterThan(80)
  }
)

/** Two ways to write the same request: one choice said or not, null or empty for absent, one name for the token bound, `stop` as a list. */
function normal(body: Record<string, unknown>): unknown {
  const { stream_options: _, n: __, stream, max_completion_tokens: more, max_tokens: bound = more, stop, ...rest } = body
  const tidy = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(tidy)
    if (typeof value !== 'object' || value === null) return value
    const entries = Object.entries(value).filter(
      ([key, field]) => field !== null && field !== undefined && !(key === 'content' && field === '')
    )
    return Object.fromEntries(entries.map(([key, field]) => [key, tidy(field)]))
  }
  return tidy({ ...rest, bound, stop: typeof stop === 'string' ? [stop] : stop, ...(stream === true ? { stream } : {}) })
}
