import { createOpenAI } from '@ai-sdk/openai'
import Anthropic from '@anthropic-ai/sdk'
import { HumanMessage, type UsageMetadata } from '@langchain/core/messages'
import { ChatOpenAI } from '@langchain/openai'
import { type ScriptedProvider, startScriptedProvider } from '@millrace/testkit'
import { embed, generateText, jsonSchema, streamText, tool } from 'ai'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Service } from '../src/service.ts'
import { startBefore } from './clients-rig.ts'

/** Where a client is pointed at: nothing else of it differs between the provider and the gateway. */
interface Address {
  /** Ends in `/v1`. */
  readonly url: string
  readonly key: string
}

const providerKey = 'provider-key'
const tenantToken = 'token-of-acme'
let provider: ScriptedProvider
let service: Service
let direct: Address
let through: Address

beforeAll(async () => {
  provider = await startScriptedProvider({
    apiKey: providerKey,
    reply: ({ prompt, userSpokeLast }) => {
      // Its own prose depends on the ids of calls, which are each answer's own.
      if (!userSpokeLast) return 'It has 21 degrees there.'
      if (prompt.startsWith('As JSON')) return '{"city":"Paris","degrees":21}'
      if (prompt.startsWith('Slowly')) return { text: 'word '.repeat(2000), tokensPerSecond: 50 }
      // Longer than any retry waits; what asks for the same model again is held up, so each has one of its own.
      if (prompt.startsWith('Fail with ')) return { status: Number(prompt.slice(10)), headers: { 'retry-after': '120' } }
      return undefined
    }
  })
  service = await startBefore(provider.url, providerKey, {
    tenants: [{ name: 'acme', tokens: [tenantToken] }],
    // One that refused is asked again at once: each answer is compared with what it says itself.
    fallback: { coolDownMs: 0 }
  })
  direct = { url: provider.url, key: providerKey }
  through = { url: `${service.url}/v1`, key: tenantToken }
})
afterAll(async () => {
  await service?.close()
  await provider?.close()
})

/** Runs the same code against the provider and against the gateway, which must be told the same; ids are each answer's own. */
async function same<T>(work: (address: Address) => Promise<T>): Promise<T> {
  const plain = withoutIds(await work(direct))
  const requests = provider.stats().requests
  const passed = withoutIds(await work(through))
  expect(passed).toEqual(plain)
  expect(provider.stats().requests, 'the provider was asked by the gateway').toBeGreaterThan(requests)
  return passed as T
}

function withoutIds(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value), (key, field: unknown) =>
    /^(id|response_?id|item_?id|call_?id|tool_?call_?id|created(_?at)?|completed_?at)$/i.test(key) ? undefined : field
  )
}

const model = 'scripted-large'
const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] } as const
const says = <T extends string>(content: T): [{ role: 'user'; content: T }] => [{ role: 'user', content }]
const aSentence: unknown = expect.stringMatching(/\w+ \w+/)

/** What was thrown, and the names of its classes up to `Error`. */
async function failure(work: PromiseLike<unknown>): Promise<{ classes: string[]; status: unknown; code: unknown }> {
  const error: unknown = await Promise.resolve(work).then(
    () => undefined,
    (thrown: unknown) => thrown
  )
  const classes: string[] = []
  for (let at = error as object | null; at !== null && at !== undefined && at !== Error.prototype; ) {
    at = Object.getPrototypeOf(at) as object | null
    if (at !== null && at !== Error.prototype) classes.push(at.constructor.name)
  }
  const { status, code } = (error ?? {}) as { status?: unknown; code?: unknown }
  return { classes, status, code }
}

describe('the client of OpenAI', () => {
  const clientOf = ({ url, key }: Address): OpenAI => new OpenAI({ baseURL: url, apiKey: key, maxRetries: 0 })
  const weather = { type: 'function' as const, function: { name: 'get_weather', parameters } }

  test('completes a chat', async () => {
    const answer = await same(async (address) => {
      const {
        choices,
        usage,
        model: of
      } = await clientOf(address).chat.completions.create({ model, messages: says('Tell of tides') })
      const { prompt_tokens, completion_tokens, total_tokens } = usage ?? {}
      return { choices, of, prompt_tokens, completion_tokens, total_tokens }
    })
    expect(answer.choices).toMatchObject([{ message: { role: 'assistant', content: aSentence }, finish_reason: 'stop' }])
    expect(answer.completion_tokens).toBeGreaterThan(10)
  })

  test('streams a chat, its usage at the end', async () => {
    const answer = await same(async (address) => {
      const stream = clientOf(address).chat.completions.stream({
        model,
        messages: says('Tell of rivers'),
        stream_options: { include_usage: true }
      })
      const pieces: string[] = []
      stream.on('content', (piece) => pieces.push(piece))
      const { choices, usage } = await stream.finalChatCompletion()
      const { prompt_tokens, completion_tokens, total_tokens } = usage ?? {}
      return { text: pieces.join(''), several: pieces.length > 5, choices, prompt_tokens, completion_tokens, total_tokens }
    })
    expect(answer).toMatchObject({ several: true, choices: [{ finish_reason: 'stop', message: { content: answer.text } }] })
  })

  test.each(['plainly', 'as a stream'])('is asked for a tool %s, and gives its result back', async (how) => {
    const answer = await same(async (address) => {
      const client = clientOf(address)
      const asked = { model, messages: says(`Please get weather in Lisbon ${how}`), tools: [weather] }
      const first =
        how === 'plainly'
          ? await client.chat.completions.create(asked)
          : await client.chat.completions.stream(asked).finalChatCompletion()
      const message = first.choices[0]?.message as OpenAI.ChatCompletionAssistantMessageParam & { tool_calls: { id: string }[] }
      const result = { role: 'tool' as const, tool_call_id: message.tool_calls[0]?.id ?? '', content: '21 degrees' }
      const second = await client.chat.completions.create({ ...asked, messages: [...asked.messages, message, result] })
      // At the begin of a stream the gateway does not know yet that there will be no text: it has none, where OpenAI has null.
      return {
        called: first.choices.map((choice) => ({
          ...choice,
          message: { ...choice.message, content: choice.message.content ?? '' }
        })),
        said: second.choices
      }
    })
    const call = { type: 'function', function: { name: 'get_weather', arguments: expect.stringContaining('city') as unknown } }
    expect(answer.called).toMatchObject([{ finish_reason: 'tool_calls', message: { tool_calls: [call] } }])
    expect(answer.said).toMatchObject([{ finish_reason: 'stop', message: { content: aSentence } }])
  })

  test('parses structured output', async () => {
    const schema = { type: 'object', properties: { city: { type: 'string' }, degrees: { type: 'number' } }, required: ['city'] }
    const parsed = await same(async (address) => {
      const answer = await clientOf(address).chat.completions.parse({
        model,
        messages: says('As JSON, the weather'),
        response_format: { type: 'json_schema', json_schema: { name: 'weather', strict: true, schema } }
      })
      return answer.choices[0]?.message.parsed
    })
    expect(parsed).toEqual({ city: 'Paris', degrees: 21 })
    expect(provider.requests.at(-1)?.body.response_format).toEqual({
      type: 'json_schema',
      json_schema: { name: 'weather', strict: true, schema }
    })
  })

  test('shows a picture it holds itself', async () => {
    const content = [
      { type: 'text' as const, text: 'What is on it?' },
      { type: 'image_url' as const, image_url: { url: 'data:image/png;base64,iVBORw0KGgo=', detail: 'low' as const } }
    ]
    const choices = await same(
      async (address) =>
        (await clientOf(address).chat.completions.create({ model, messages: [{ role: 'user', content }] })).choices
    )
    expect(choices).toMatchObject([{ message: { content: aSentence } }])
    expect(provider.requests.at(-1)?.body.messages).toEqual([{ role: 'user', content }])
  })

  test('asks for fields the contract has no name for', async () => {
    const asked = { model, messages: says('Be odd'), logit_bias: { '50256': -100 }, user: 'u-1', verbosity: 'low' as const }
    await same(async (address) => (await clientOf(address).chat.completions.create(asked)).choices)
    expect(provider.requests.at(-1)?.body).toMatchObject({ logit_bias: { '50256': -100 }, user: 'u-1', verbosity: 'low' })
  })

  test('stops a stream, and the provider stops too', async () => {
    const stream = await clientOf(through).chat.completions.create({ model, messages: says('Slowly, please'), stream: true })
    for await (const chunk of stream) if ((chunk.choices[0]?.delta.content ?? '') !== '') break
    await expect.poll(() => provider.stats().openAnswers).toBe(0)
  })

  test.each([
    ['BadRequestError', 400, (client: OpenAI) => client.chat.completions.create({ model, messages: [] })],
    ['NotFoundError', 404, (client: OpenAI) => client.models.retrieve('nonsense')],
    ['NotFoundError', 404, (client: OpenAI) => client.get('/nowhere')],
    [
      'RateLimitError',
      429,
      (client: OpenAI) => client.chat.completions.create({ model: 'busy', messages: says('Fail with 429') })
    ],
    [
      'RateLimitError',
      429,
      (client: OpenAI) => client.chat.completions.create({ model: 'busy too', messages: says('Fail with 429'), stream: true })
    ],
    ['RateLimitError', 429, (client: OpenAI) => client.responses.create({ model: 'busy as well', input: 'Fail with 429' })]
  ])('throws its own %s for a %i, as with the provider', async (name, status, work) => {
    for (const address of [direct, through]) {
      const thrown = await failure(work(clientOf(address)))
      expect(thrown, address.url).toMatchObject({ status, classes: [name, 'APIError', 'OpenAIError'] })
    }
  })

  test('throws its own errors for what the gateway itself refuses', async () => {
    const stranger = clientOf({ ...through, key: 'nobody' })
    const refused = {
      classes: ['AuthenticationError', 'APIError', 'OpenAIError'],
      status: 401,
      code: expect.any(String) as unknown
    }
    expect(await failure(stranger.chat.completions.create({ model, messages: says('x') }))).toEqual(refused)
    expect(await failure(stranger.responses.create({ model, input: 'x' }))).toEqual(refused)
    expect(await failure(stranger.models.list())).toEqual(refused)
    const long = 'x'.repeat(2 ** 20)
    const client = clientOf(through)
    for (const work of [
      () => client.chat.completions.create({ model, messages: says(long) }),
      () => client.responses.create({ model, input: long }),
      () => client.embeddings.create({ model, input: long })
    ]) {
      expect(await failure(work())).toMatchObject({ classes: ['APIError', 'OpenAIError'], status: 413 })
    }
    const many = Array.from({ length: 501 }, () => ({ role: 'user' as const, content: 'x' }))
    expect(await failure(client.chat.completions.create({ model, messages: many }))).toMatchObject({ status: 400 })
  })

  test('creates a response, and is asked for a tool by one', async () => {
    const answer = await same(async (address) => {
      const client = clientOf(address)
      const plain = await client.responses.create({ model, input: 'Tell of lakes', instructions: 'Be short' })
      const tools = [{ type: 'function' as const, name: 'get_weather', parameters, strict: true }]
      const called = await client.responses.create({ model, input: 'Please get weather in Rome', tools })
      return { text: plain.output_text, status: plain.status, usage: plain.usage, output: called.output }
    })
    expect(answer).toMatchObject({
      text: aSentence,
      status: 'completed',
      output: [{ type: 'function_call', name: 'get_weather' }]
    })
    expect(answer.usage?.output_tokens).toBeGreaterThan(10)
  })

  test('streams a response', async () => {
    const events = await same(async (address) => {
      const stream = await clientOf(address).responses.create({ model, input: 'Tell of seas', stream: true })
      const seen: unknown[] = []
      for await (const event of stream) seen.push(event)
      return seen as { type: string }[]
    })
    expect(events.length).toBeGreaterThan(20)
    expect([events[0]?.type, events.at(-1)?.type]).toEqual(['response.created', 'response.completed'])
  })

  test.each(['float', 'base64', undefined] as const)('gets embeddings as %s', async (format) => {
    const { data, usage } = await same(async (address) => {
      const asked = { model, input: ['one', `two as ${format}`] }
      return clientOf(address).embeddings.create(format === undefined ? asked : { ...asked, encoding_format: format })
    })
    expect(data).toHaveLength(2)
    const [first] = data
    if (format === 'base64') expect(first?.embedding).toMatch(/^[\w+/]+=*$/)
    else expect(Math.hypot(...(first?.embedding ?? []))).toBeCloseTo(1, 4)
    expect(usage.prompt_tokens).toBeGreaterThan(0)
  })

  test('lists the models, and retrieves one', async () => {
    const client = clientOf(through)
    const ids: string[] = []
    for await (const { id } of client.models.list()) ids.push(id)
    expect(ids).toEqual(expect.arrayContaining(['scripted-large', 'scripted-small']))
    expect(new Set(ids).size).toBe(ids.length)
    expect(await client.models.retrieve('scripted-small')).toMatchObject({ id: 'scripted-small', object: 'model' })
  })
})

describe('the client of Anthropic', () => {
  const clientOf = ({ url, key }: Address): Anthropic =>
    new Anthropic({ baseURL: url.replace(/\/v1$/, ''), apiKey: key, maxRetries: 0 })
  const tools = [{ name: 'get_weather', input_schema: parameters as unknown as Anthropic.Tool.InputSchema }]
  const ask = (content: string): Anthropic.MessageCreateParamsNonStreaming => ({
    model,
    max_tokens: 1000,
    messages: says(content)
  })

  test('creates a message', async () => {
    const message = await same((address) => clientOf(address).messages.create(ask('Tell of hills')))
    expect(message).toMatchObject({ role: 'assistant', content: [{ type: 'text', text: aSentence }], stop_reason: 'end_turn' })
    expect(message.usage.output_tokens).toBeGreaterThan(10)
  })

  test('streams a message', async () => {
    const answer = await same(async (address) => {
      const types: string[] = []
      const stream = clientOf(address)
        .messages.stream(ask('Tell of woods'))
        .on('streamEvent', (event) => types.push(event.type))
      return { message: await stream.finalMessage(), types }
    })
    expect(answer.types.length).toBeGreaterThan(10)
    expect(answer.message).toMatchObject({ content: [{ type: 'text', text: aSentence }], stop_reason: 'end_turn' })
  })

  test('is asked for a tool', async () => {
    const message = await same((address) =>
      clientOf(address)
        .messages.stream({ ...ask('Please get weather in Oslo'), tools })
        .finalMessage()
    )
    expect(message).toMatchObject({ stop_reason: 'tool_use', content: [{ type: 'tool_use', name: 'get_weather' }] })
  })

  test('counts tokens', async () => {
    const { input_tokens } = await same((address) =>
      clientOf(address).messages.countTokens({ model, messages: says('Count me') })
    )
    expect(input_tokens).toBeGreaterThan(0)
  })

  test('lists the models', async () => {
    const ids: string[] = []
    for await (const { id } of clientOf(through).models.list()) ids.push(id)
    expect(ids).toEqual(expect.arrayContaining(['scripted-large', 'scripted-small']))
    expect(await clientOf(through).models.retrieve('scripted-small')).toMatchObject({ id: 'scripted-small', type: 'model' })
  })

  test('its token may also come as a bearer', async () => {
    const client = new Anthropic({ baseURL: service.url, authToken: tenantToken, apiKey: null, maxRetries: 0 })
    expect((await client.messages.create(ask('As a bearer'))).stop_reason).toBe('end_turn')
  })

  test.each([
    [
      'BadRequestError',
      400,
      'invalid_request_error',
      (client: Anthropic) => client.messages.create({ ...ask('x'), messages: [] })
    ],
    ['NotFoundError', 404, 'not_found_error', (client: Anthropic) => client.models.retrieve('nonsense')],
    [
      'RateLimitError',
      429,
      'rate_limit_error',
      (client: Anthropic) => client.messages.create({ ...ask('Fail with 429'), model: 'busy' })
    ],
    [
      'InternalServerError',
      529,
      'overloaded_error',
      (client: Anthropic) => client.messages.create({ ...ask('Fail with 529'), model: 'overloaded' })
    ]
  ])('throws its own %s for a %i', async (name, status, type, work) => {
    const error: unknown = await work(clientOf(through)).catch((thrown: unknown) => thrown)
    expect(await failure(Promise.reject(error))).toMatchObject({
      status,
      classes: expect.arrayContaining([name, 'APIError', 'AnthropicError']) as unknown
    })
    expect((error as { error: unknown }).error).toMatchObject({ type: 'error', error: { type, message: aSentence } })
  })

  test('throws its own errors for what the gateway itself refuses', async () => {
    const stranger = clientOf({ ...through, key: 'nobody' })
    const refusals = [
      ['AuthenticationError', 401, 'authentication_error', () => stranger.messages.create(ask('x'))],
      ['AuthenticationError', 401, 'authentication_error', () => stranger.models.list()],
      ['ContentTooLargeError', 413, 'request_too_large', () => clientOf(through).messages.create(ask('x'.repeat(2 ** 20)))]
    ] as const
    for (const [name, status, type, work] of refusals) {
      const error: unknown = await Promise.resolve(work()).catch((thrown: unknown) => thrown)
      expect((await failure(Promise.reject(error))).classes[0]).toBe(name)
      expect(error).toMatchObject({ status, error: { type: 'error', error: { type } } })
    }
  })
})

describe('the AI SDK of Vercel', () => {
  const sdkOf = ({ url, key }: Address): ReturnType<typeof createOpenAI> => createOpenAI({ baseURL: url, apiKey: key })
  const apis = ['responses', 'chat'] as const
  const modelOf = (address: Address, api: (typeof apis)[number]): ReturnType<ReturnType<typeof createOpenAI>['chat']> =>
    api === 'chat' ? sdkOf(address).chat(model) : sdkOf(address)(model)

  test.each(apis)('generates text over %s', async (api) => {
    const answer = await same(async (address) => {
      const { text, finishReason, usage } = await generateText({ model: modelOf(address, api), prompt: `Tell of ${api}` })
      return { text, finishReason, tokens: [usage.inputTokens, usage.outputTokens, usage.totalTokens] }
    })
    expect(answer).toMatchObject({ text: aSentence, finishReason: 'stop' })
  })

  test.each(apis)('streams text over %s', async (api) => {
    const answer = await same(async (address) => {
      const result = streamText({ model: modelOf(address, api), prompt: `Tell much of ${api}` })
      const pieces: string[] = []
      for await (const piece of result.textStream) pieces.push(piece)
      const { inputTokens, outputTokens } = await result.usage
      return { text: pieces.join(''), several: pieces.length > 5, finish: await result.finishReason, inputTokens, outputTokens }
    })
    expect(answer).toMatchObject({ text: aSentence, several: true, finish: 'stop' })
  })

  test.each(apis)('is asked for a tool over %s', async (api) => {
    const answer = await same(async (address) => {
      const { toolCalls, finishReason } = await generateText({
        model: modelOf(address, api),
        prompt: `Please get weather in Bern over ${api}`,
        tools: {
          get_weather: tool({ inputSchema: jsonSchema<{ city: string }>({ ...parameters, additionalProperties: false }) })
        }
      })
      return { calls: toolCalls.map(({ toolName, input }) => ({ toolName, input })), finishReason }
    })
    expect(answer).toMatchObject({ calls: [{ toolName: 'get_weather' }], finishReason: 'tool-calls' })
  })

  test('embeds', async () => {
    const { embedding } = await same(async (address) => {
      const { embedding: vector, usage } = await embed({ model: sdkOf(address).embedding(model), value: 'embed this' })
      return { embedding: vector, usage }
    })
    expect(Math.hypot(...embedding)).toBeCloseTo(1, 4)
  })
})

describe('LangChain', () => {
  const chatOf = ({ url, key }: Address, more: { useResponsesApi?: boolean } = {}): ChatOpenAI =>
    new ChatOpenAI({ model, apiKey: key, configuration: { baseURL: url }, maxRetries: 0, ...more })

  test.each([false, true])('invokes (Responses: %s)', async (useResponsesApi) => {
    const answer = await same(async (address) => {
      // Its types have lost what an answer tells of its usage.
      const answered: object = await chatOf(address, { useResponsesApi }).invoke(`Say it, ${useResponsesApi}`)
      const { text, usage_metadata: usage } = answered as { text: string; usage_metadata?: UsageMetadata }
      return { text, tokens: [usage?.input_tokens, usage?.output_tokens, usage?.total_tokens] }
    })
    expect(answer.text).toEqual(aSentence)
    expect(answer.tokens[1]).toBeGreaterThan(10)
  })

  test.each([false, true])('streams (Responses: %s)', async (useResponsesApi) => {
    const texts = await same(async (address) => {
      const pieces: string[] = []
      for await (const piece of await chatOf(address, { useResponsesApi }).stream(`Go on, ${useResponsesApi}`)) {
        if (piece.text !== '') pieces.push(piece.text)
      }
      return pieces
    })
    expect(texts.length).toBeGreaterThan(5)
  })

  test.each([false, true])('is asked for a tool (Responses: %s)', async (useResponsesApi) => {
    const calls = await same(async (address) => {
      const chat = chatOf(address, { useResponsesApi }).bindTools([
        { type: 'function', function: { name: 'get_weather', parameters } }
      ])
      const answer = await chat.invoke([new HumanMessage(`Please get weather in Kyiv, ${useResponsesApi}`)])
      return answer.tool_calls?.map(({ name, args }) => ({ name, args }))
    })
    expect(calls).toMatchObject([{ name: 'get_weather' }])
  })
})
