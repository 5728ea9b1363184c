import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, describe, expect, it } from 'vitest'
import { probeLeaks, type ScriptedOptions, type ScriptedProvider, startScriptedProvider } from '../src/index.ts'
import { becomes, eventsOf } from './support.ts'

let provider: ScriptedProvider
afterEach(() => provider?.close())

const start = async (options?: ScriptedOptions): Promise<void> => {
  provider = await startScriptedProvider(options)
}
const chat = (body: unknown, init: RequestInit = {}): Promise<Response> =>
  fetch(`${provider.url}/chat/completions`, {
    method: 'POST',
    body: typeof body === 'string' ? body : JSON.stringify(body),
    ...init
  })
const messages = (body: unknown, headers: Record<string, string> = { 'anthropic-version': '2023-06-01' }): Promise<Response> =>
  fetch(`${provider.url}/messages`, { method: 'POST', body: JSON.stringify(body), headers })
const json = async (response: Response | Promise<Response>) => JSON.parse(await (await response).text())

const ask = (content: string) => ({ model: 'm', messages: [{ role: 'user', content }] })
const weather = {
  ...ask('Please get weather for Lisbon'),
  tools: [{ type: 'function', function: { name: 'get_weather', parameters: { properties: { city: { type: 'string' } } } } }]
}

describe("OpenAI's API", () => {
  it('answers with prose of 40 to 120 words that names the topic', async () => {
    await start()
    const answer = await json(chat(ask('How do I keep a sourdough starter alive?')))
    const { content } = answer.choices[0].message
    expect(content).toMatch(/sourdough/)
    expect(content.split(' ').length).toBeGreaterThanOrEqual(40)
    expect(content.split(' ').length).toBeLessThanOrEqual(120)
    expect(answer.choices[0].finish_reason).toBe('stop')
    expect(answer.usage.total_tokens).toBe(answer.usage.prompt_tokens + answer.usage.completion_tokens)
  })

  it('streams the same text and usage as it answers plainly, and ends with [DONE]', async () => {
    await start()
    const plain = await json(chat(ask('Tell me about tides')))
    const events = await eventsOf(
      await chat({ ...ask('Tell me about tides'), stream: true, stream_options: { include_usage: true } })
    )
    expect(events.at(-1)?.data).toBe('[DONE]')
    const chunks = events.slice(0, -1).map((event) => JSON.parse(event.data))
    const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('')
    expect(text).toBe(plain.choices[0].message.content)
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: plain.usage })
    expect(chunks.at(-2).choices[0].finish_reason).toBe('stop')
  })

  it('gives usage in a stream only when asked', async () => {
    await start()
    expect(await (await chat({ ...ask('Tides'), stream: true })).text()).not.toContain('usage')
  })

  it('ends at max_tokens with finish_reason length', async () => {
    await start()
    for (const limit of [{ max_tokens: 5 }, { max_completion_tokens: 5 }]) {
      const answer = await json(chat({ ...ask('Tides'), ...limit }))
      expect(answer.choices[0].finish_reason).toBe('length')
      expect(answer.usage.completion_tokens).toBe(5)
    }
  })

  it('calls the tool that the last user message mentions, streamed in pieces', async () => {
    await start()
    const plain = await json(chat(weather))
    const call = plain.choices[0].message.tool_calls[0]
    expect(call.function.name).toBe('get_weather')
    expect(JSON.parse(call.function.arguments)).toEqual({ city: 'Lisbon' })
    expect(plain.choices[0].finish_reason).toBe('tool_calls')
    const events = await eventsOf(await chat({ ...weather, stream: true }))
    const pieces = events
      .filter(({ data }) => data !== '[DONE]')
      .flatMap(({ data }) => JSON.parse(data).choices[0].delta.tool_calls ?? [])
    expect(pieces.length).toBeGreaterThan(2)
    expect(pieces.map((piece) => piece.function.arguments).join('')).toBe(call.function.arguments)
  })

  it('speaks again after the result of a tool, and with tool_choice none', async () => {
    await start()
    const call = { id: 'c1', type: 'function', function: { name: 'get_weather', arguments: '{}' } }
    const history = [
      ...weather.messages,
      { role: 'assistant', content: null, tool_calls: [call] },
      { role: 'tool', tool_call_id: 'c1', content: 'sunny' }
    ]
    const after = await json(chat({ ...weather, messages: history }))
    const none = await json(chat({ ...weather, tool_choice: 'none' }))
    for (const answer of [after, none]) expect(answer.choices[0].message.content).toMatch(/Lisbon/)
  })

  it.each([
    ['bad JSON', '{"model":', 400],
    ['no object', '[]', 400],
    ['no messages', { model: 'm' }, 400],
    ['empty messages', { model: 'm', messages: [] }, 400],
    ['an unknown role', { model: 'm', messages: [{ role: 'robot', content: '' }] }, 400],
    ['a message that is no object', { model: 'm', messages: ['hi'] }, 400],
    ['content that is a number', { model: 'm', messages: [{ role: 'user', content: 1 }] }, 400],
    ['no model', { messages: [{ role: 'user', content: 'hi' }] }, 400],
    ['a negative limit', { ...ask('hi'), max_tokens: -1 }, 400],
    ['several choices', { ...ask('hi'), n: 2 }, 400],
    ['more than 4 MiB', 'x'.repeat(4 * 1024 * 1024 + 1), 413]
  ])('refuses %s with an error in JSON', async (_, body, status) => {
    await start()
    const response = await chat(body)
    expect(response.status).toBe(status)
    expect((await json(response)).error).toMatchObject({ message: expect.any(String), type: 'invalid_request_error' })
    expect((await json(chat(ask('still there')))).choices).toHaveLength(1)
  })

  it('answers other paths and methods with 404, and lists its models', async () => {
    await start()
    expect((await fetch(`${provider.url}/nothing`)).status).toBe(404)
    expect((await fetch(`${provider.url}/chat/completions`)).status).toBe(404)
    expect((await json(fetch(`${provider.url}/models`))).data[0]).toMatchObject({ object: 'model' })
  })
})

describe("Anthropic's API", () => {
  it('streams named events that say the same as its plain answer', async () => {
    await start()
    const body = { ...ask('Tell me about tides'), max_tokens: 500 }
    const plain = await json(messages(body))
    const events = await eventsOf(await messages({ ...body, stream: true }))
    const parsed = events.map(({ event, data }) => ({ event, ...JSON.parse(data) }))
    for (const { event, type } of parsed) expect(event).toBe(type)
    expect(parsed.slice(0, 3).map(({ type }) => type)).toEqual(['message_start', 'ping', 'content_block_start'])
    expect(parsed.map(({ delta }) => delta?.text ?? '').join('')).toBe(plain.content[0].text)
    expect(parsed.at(-2)).toMatchObject({
      delta: { stop_reason: 'end_turn' },
      usage: { output_tokens: plain.usage.output_tokens }
    })
    expect(parsed.at(-1).type).toBe('message_stop')
    expect(parsed[0].message.usage.input_tokens).toBe(plain.usage.input_tokens)
  })

  it('uses a tool, its input streamed in pieces, and speaks after the result', async () => {
    await start()
    const tools = [{ name: 'get_weather', input_schema: { properties: { city: { type: 'string' } } } }]
    const body = { ...ask('get_weather for Lisbon'), max_tokens: 500, tools }
    const plain = await json(messages(body))
    expect(plain).toMatchObject({ stop_reason: 'tool_use', content: [{ type: 'tool_use', input: { city: 'Lisbon' } }] })
    const events = (await eventsOf(await messages({ ...body, stream: true }))).map(({ data }) => JSON.parse(data))
    expect(JSON.parse(events.map(({ delta }) => delta?.partial_json ?? '').join(''))).toEqual({ city: 'Lisbon' })
    const result = { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'x', content: 'sunny' }] }
    const after = await json(messages({ ...body, messages: [...body.messages, { role: 'assistant', content: 'ok' }, result] }))
    expect(after).toMatchObject({ stop_reason: 'end_turn', content: [{ type: 'text' }] })
  })

  it('ends at max_tokens with stop_reason max_tokens', async () => {
    await start()
    expect(await json(messages({ ...ask('Tides'), max_tokens: 3 }))).toMatchObject({
      stop_reason: 'max_tokens',
      usage: { output_tokens: 3 }
    })
  })

  it('refuses what the real one refuses, in its own form of error', async () => {
    await start({ apiKey: 'secret' })
    const key = { 'x-api-key': 'secret', 'anthropic-version': '2023-06-01' }
    const cases: [unknown, Record<string, string>, number, string][] = [
      [{ ...ask('hi'), max_tokens: 5 }, { 'anthropic-version': '2023-06-01' }, 401, 'authentication_error'],
      [{ ...ask('hi'), max_tokens: 5 }, { 'x-api-key': 'secret' }, 400, 'invalid_request_error'],
      [ask('hi'), key, 400, 'invalid_request_error'],
      [{ model: 'm', max_tokens: 5, messages: [{ role: 'system', content: 'x' }] }, key, 400, 'invalid_request_error']
    ]
    const bearer = { authorization: 'Bearer secret', 'anthropic-version': '2023-06-01' }
    expect((await messages({ ...ask('hi'), max_tokens: 5 }, bearer)).status).toBe(200)
    for (const [body, headers, status, type] of cases) {
      const response = await messages(body, headers)
      expect(response.status).toBe(status)
      expect(await response.json()).toMatchObject({ type: 'error', error: { type } })
    }
  })
})

describe('the server', () => {
  it('gives 401 without its key', async () => {
    await start({ apiKey: 'secret' })
    expect((await chat(ask('hi'))).status).toBe(401)
    expect((await chat(ask('hi'), { headers: { authorization: 'Bearer wrong' } })).status).toBe(401)
    expect((await chat(ask('hi'), { headers: { authorization: 'Bearer secret' } })).status).toBe(200)
  })

  it('accepts as many as its rate limit allows, then tells how long to wait, then accepts again', async () => {
    await start({ rateLimit: { requests: 3, perMs: 900 } })
    const responses = await Promise.all(Array.from({ length: 5 }, () => chat(ask('hi'))))
    const refused = responses.filter(({ status }) => status === 429)
    // On a slow machine the bucket may have refilled by one in between.
    expect(refused.length).toBeGreaterThanOrEqual(1)
    expect(refused.length).toBeLessThanOrEqual(2)
    expect(provider.stats().rateLimited).toBe(refused.length)
    const { headers } = refused[0] as Response
    expect(Number(headers.get('retry-after-ms'))).toBeGreaterThan(0)
    expect(Number(headers.get('retry-after-ms'))).toBeLessThanOrEqual(300)
    expect(headers.get('retry-after')).toBe('1')
    expect(headers.get('x-ratelimit-limit-requests')).toBe('3')
    expect(headers.get('x-ratelimit-remaining-requests')).toBe('0')
    expect((await json(refused[0] as Response)).error.code).toBe('rate_limit_exceeded')
    await delay(310)
    expect((await chat(ask('hi'))).status).toBe(200)
  })

  it('counts the tokens of requests and their answers against its limit, and tells them in the words of each API', async () => {
    await start({ rateLimit: { requests: 100, tokens: 60, perMs: 60_000 } })
    const first = await chat({ ...ask('hi'), max_tokens: 20 })
    const used = (await json(first)).usage.total_tokens
    expect(first.headers.get('x-ratelimit-limit-tokens')).toBe('60')
    expect(first.headers.get('x-ratelimit-remaining-tokens')).toBe(String(60 - used))
    expect(first.headers.get('x-ratelimit-remaining-requests')).toBe('99')
    const second = await messages({ ...ask('hi'), max_tokens: 20 }, { 'anthropic-version': '2023-06-01' })
    expect(second.headers.get('anthropic-ratelimit-tokens-limit')).toBe('60')
    const third = await chat({ ...ask('hi'), max_tokens: 30 })
    expect(third.status).toBe(429)
    // A request that is refused takes nothing of the other limit either.
    expect(third.headers.get('x-ratelimit-remaining-requests')).toBe('98')
    expect(provider.stats()).toMatchObject({ accepted: 2, rateLimited: 1, acceptedTokens: 2 * used })
  })

  it('tells nothing of a hidden limit but how long a refused request is to wait', async () => {
    await start({ rateLimit: { tokens: 30, perMs: 60_000, headers: false } })
    const accepted = await chat({ ...ask('hi'), max_tokens: 20 })
    const refused = await chat({ ...ask('hi'), max_tokens: 20 })
    expect([accepted.status, refused.status]).toEqual([200, 429])
    expect([...accepted.headers.keys(), ...refused.headers.keys()].filter((name) => name.includes('ratelimit'))).toEqual([])
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
  })

  it('writes at its pace', async () => {
    await start({ tokensPerSecond: 100, firstTokenMs: 50 })
    const startedAt = performance.now()
    const response = await chat({ ...ask('hi'), max_tokens: 21, stream: true })
    const headMs = performance.now() - startedAt
    await response.text()
    // A timer may fire up to a millisecond early.
    expect(headMs).toBeGreaterThanOrEqual(49)
    expect(performance.now() - startedAt - headMs).toBeGreaterThanOrEqual(190)
  })

  it('stops writing when the client goes away, and counts open answers', async () => {
    await start({ tokensPerSecond: 20 })
    const controller = new AbortController()
    const responses = await Promise.all([1, 2].map(() => chat({ ...ask('hi'), stream: true }, { signal: controller.signal })))
    expect(provider.stats()).toMatchObject({ openAnswers: 2, maxOpenAnswers: 2 })
    controller.abort()
    await becomes(() => provider.stats().openAnswers, 0)
    const { tokensOut } = provider.stats()
    await delay(150)
    expect(provider.stats().tokensOut).toBe(tokensOut)
    await Promise.allSettled(responses.map((response) => response.body?.cancel()))
  })

  it('lets a test script text, status, headers, body and tool calls', async () => {
    await start({
      reply: async ({ prompt }) => {
        if (prompt === 'text') return 'exactly this'
        if (prompt === 'busy') return { status: 529, headers: { 'retry-after': '2' }, text: 'too busy' }
        if (prompt === 'html') return { status: 502, headers: { 'content-type': 'text/html' }, body: '<h1>Bad gateway</h1>' }
        if (prompt === 'tool') return { toolCalls: [{ name: 'add', arguments: { a: 1 } }] }
        if (prompt === 'bug') throw new Error('a bug of the script')
        return undefined
      }
    })
    expect((await json(chat(ask('text')))).choices[0].message.content).toBe('exactly this')
    const busy = await chat(ask('busy'))
    expect([busy.status, busy.headers.get('retry-after')]).toEqual([529, '2'])
    expect((await json(busy)).error.message).toBe('too busy')
    expect(await (await chat(ask('html'))).text()).toBe('<h1>Bad gateway</h1>')
    expect((await json(chat(ask('tool')))).choices[0].message.tool_calls[0].function.name).toBe('add')
    expect((await json(chat(ask('bug')))).error.message).toMatch(/a bug of the script/)
    expect((await json(chat(ask('else')))).choices[0].message.content).toMatch(/else/)
  })

  it('keeps the last hundred requests and counts all of them', async () => {
    await start({ reply: () => 'ok' })
    let tokens = 0
    for (let index = 0; index < 105; index++) tokens += (await json(chat(ask(`question ${index}`)))).usage.prompt_tokens
    expect(provider.requests).toHaveLength(100)
    expect(provider.requests.at(-1)).toMatchObject({ prompt: 'question 104', api: 'openai', stream: false })
    expect(provider.stats()).toMatchObject({ requests: 105, tokensIn: tokens, tokensOut: 105, openAnswers: 0 })
    expect(provider.stats().sockets).toBeLessThan(10)
    expect(await json(fetch(new URL('/stats', provider.url)))).toEqual(provider.stats())
  })

  it('refuses wrong options and says what to write', async () => {
    await expect(startScriptedProvider({ port: -1 })).rejects.toThrow(TypeError)
    await expect(startScriptedProvider({ tokensPerSecond: 0 })).rejects.toThrow(/tokensPerSecond/)
    await expect(startScriptedProvider({ firstTokenMs: Number.NaN })).rejects.toThrow(/firstTokenMs/)
    await expect(startScriptedProvider({ rateLimit: { requests: 0, perMs: 1 } })).rejects.toThrow(/rateLimit/)
  })

  it('breaks open answers off when closed, twice safely, and leaves nothing behind', async () => {
    const probe = probeLeaks()
    await start({ tokensPerSecond: 5 })
    const response = await chat({ ...ask('hi'), stream: true })
    await Promise.all([provider.close(), provider.close()])
    await expect(response.text()).rejects.toThrow('terminated')
    await probe.check()
  })
})
