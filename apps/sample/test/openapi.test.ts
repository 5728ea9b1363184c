import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setImmediate as tick } from 'node:timers/promises'
import type { JsonObject } from '@millrace/core'
import { loadRecordings, type Recording, type ScriptedProvider, seededRandom, startScriptedProvider } from '@millrace/testkit'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readRequest } from '../src/openai-request.ts'
import type { Service } from '../src/service.ts'
import { startBefore } from './clients-rig.ts'
import { loadSchema } from './openapi-schema.ts'

const judge = loadSchema()
const chats = loadRecordings({ api: 'openai.chat' }) ?? []
const responses = loadRecordings({ api: 'openai.responses' }) ?? []
const vectors = loadRecordings({ api: 'openai.embeddings' }) ?? []
if (chats.length === 0) console.warn('skipped: the recordings are not at ../shared/real/recordings')

const open: AsyncDisposable[] = []
afterAll(async () => {
  for (const resource of open.toReversed()) await resource[Symbol.asyncDispose]()
})

const operatorToken = 'token-of-the-operator'
const asOperator = { authorization: `Bearer ${operatorToken}` }

interface Emitted {
  readonly status: number
  readonly headers: Headers
  readonly text: string
}

async function post(service: Service, path: string, body: object, headers: Record<string, string> = {}): Promise<Emitted> {
  const response = await fetch(`${service.url}/v1/${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...asOperator, ...headers },
    body: JSON.stringify(body)
  })
  return { status: response.status, headers: response.headers, text: await response.text() }
}

/** The payloads of an event stream; the mark of its end is no event. */
function eventsOf(text: string): readonly JsonObject[] {
  return [...text.matchAll(/^data: ?(.+)$/gm)]
    .map(([, data]) => data as string)
    .filter((data) => data !== '[DONE]')
    .map((data) => JSON.parse(data) as JsonObject)
}

const isStream = ({ headers }: Emitted): boolean => headers.get('content-type')?.startsWith('text/event-stream') === true

/** What is wrong with it by the schema of its kind, each mistake once. */
function mistakes(emitted: Emitted, plain: string, event: string): readonly string[] {
  const of = (name: string, value: unknown): readonly string[] => judge?.(name, value) ?? []
  if (emitted.status >= 400) return of('ErrorResponse', JSON.parse(emitted.text))
  if (!isStream(emitted)) return of(plain, JSON.parse(emitted.text))
  const found = eventsOf(emitted.text).flatMap((value) => of(value.error === undefined ? event : 'ErrorResponse', value))
  return [...new Set(found)]
}

const ofChat = (emitted: Emitted): readonly string[] =>
  mistakes(emitted, 'CreateChatCompletionResponse', 'CreateChatCompletionStreamResponse')
const ofResponse = (emitted: Emitted): readonly string[] => mistakes(emitted, 'Response', 'ResponseStreamEvent')

test.skipIf(judge === undefined)('the judge finds what is wrong, and only that (skipped without the schema)', () => {
  const choice = { index: 0, delta: {}, finish_reason: null, logprobs: null }
  const chunk = { id: 'a', created: 1, model: 'm', object: 'chat.completion.chunk', choices: [choice] }
  expect(judge?.('CreateChatCompletionStreamResponse', chunk)).toEqual([])
  const wrong = { ...chunk, choices: [{ ...choice, finish_reason: 'cut' }] }
  expect(judge?.('CreateChatCompletionStreamResponse', wrong)).toContainEqual(expect.stringContaining('/choices/0/finish_reason'))
  expect(judge?.('CreateChatCompletionStreamResponse', { ...chunk, created: 1.5 })).not.toEqual([])
  expect(judge?.('ErrorResponse', { error: { message: 'x', type: 'y', code: null } })).toEqual([
    "/error must have required property 'param'"
  ])
})

describe.skipIf(judge === undefined)("what the gateway says is what OpenAI's own schema allows (skipped without it)", () => {
  let provider: ScriptedProvider
  let service: Service
  const model = 'scripted-large'
  const parameters = { type: 'object', properties: { city: { type: 'string' } } }
  const tools = [{ type: 'function', function: { name: 'get_weather', parameters } }]
  const ask = (content: string): JsonObject => ({ model, messages: [{ role: 'user', content }] })
  const streamed = { stream: true, stream_options: { include_usage: true } }

  beforeAll(async () => {
    provider = await startScriptedProvider({
      tokensPerSecond: 2000,
      reply: ({ prompt }) => {
        if (prompt.startsWith('Slowly')) return { text: 'word '.repeat(2000), tokensPerSecond: 200 }
        if (prompt.startsWith('Fail with ')) return { status: Number(prompt.slice(10)), headers: { 'retry-after': '120' } }
        return undefined
      }
    })
    service = await startBefore(provider.url, 'k', { operatorToken, fallback: { coolDownMs: 0 } })
  })
  afterAll(async () => {
    await service?.close()
    await provider?.close()
  })

  test.each([
    ['plain', ask('Tell it')],
    ['streamed', { ...ask('Tell it in pieces'), stream: true }],
    ['streamed with its usage', { ...ask('Tell it in pieces, and count'), ...streamed }],
    ['a tool call', { ...ask('Please get weather in Lima'), tools }],
    ['a streamed tool call', { ...ask('Please get weather in Quito'), tools, ...streamed }]
  ])('a chat, %s, and again out of the cache', async (_, body) => {
    const first = await post(service, 'chat/completions', body)
    expect([first.status, ofChat(first)]).toEqual([200, []])
    expect(first.headers.get('x-millrace-cache')).toBe('miss')
    const again = await post(service, 'chat/completions', body)
    expect([again.status, ofChat(again)]).toEqual([200, []])
    expect(again.headers.get('x-millrace-cache')).toBe('hit')
    if (isStream(first)) expect(eventsOf(first.text).length).toBeGreaterThan(2)
  })

  test.each([
    ['plain', { ...ask('Tell half'), max_tokens: 3 }],
    ['streamed', { ...ask('Tell half of it'), max_tokens: 3, ...streamed }]
  ])('a chat that is cut by max_tokens, %s', async (_, body) => {
    const emitted = await post(service, 'chat/completions', body)
    expect([emitted.status, ofChat(emitted)]).toEqual([200, []])
    expect(emitted.text).toContain('"finish_reason":"length"')
  })

  test.each(['plain', 'streamed'])('one %s chat that two share', async (how) => {
    const body = { ...ask(`Slowly, ${how}`), max_tokens: 40, ...(how === 'plain' ? {} : streamed) }
    const both = await Promise.all([post(service, 'chat/completions', body), post(service, 'chat/completions', body)])
    expect(new Set(both.map(({ headers }) => headers.get('x-millrace-cache')))).toEqual(new Set(['joined', 'miss']))
    expect(both.map(ofChat)).toEqual([[], []])
  })

  test('a stream that is resumed, from its begin and from its middle', async () => {
    const headers = { 'x-millrace-resume': 'true' }
    const first = await post(service, 'chat/completions', { ...ask('Slowly, to resume'), max_tokens: 60, ...streamed }, headers)
    expect(ofChat(first)).toEqual([])
    const id = first.headers.get('x-millrace-stream-id') as string
    const ids = [...first.text.matchAll(/^id: ?(.+)$/gm)].map(([, place]) => place as string)
    for (const place of [id, ids[Math.floor(ids.length / 2)] as string]) {
      const response = await fetch(`${service.url}/v1/streams/${id}`, { headers: { ...asOperator, 'last-event-id': place } })
      const resumed = { status: response.status, headers: response.headers, text: await response.text() }
      expect([resumed.status, ofChat(resumed)]).toEqual([200, []])
      const events = eventsOf(resumed.text)
      expect(events.length).toBeGreaterThan(5)
      expect(eventsOf(first.text).slice(-events.length)).toEqual(events)
    }
  })

  test.each([
    ['no JSON', 'chat/completions', 'nonsense', 400],
    ['no messages', 'chat/completions', { model, messages: [] }, 400],
    ['no model', 'chat/completions', { messages: [{ role: 'user', content: 'x' }] }, 400],
    ['a refusal of the provider', 'chat/completions', { ...ask('Fail with 429'), model: 'busy' }, 429],
    ['a refusal of the provider to a stream', 'chat/completions', { ...ask('Fail with 400'), stream: true }, 400],
    ['a failure of the provider', 'responses', { model, input: 'Fail with 400' }, 400],
    ['a body that is too large', 'chat/completions', ask('x'.repeat(2 ** 20)), 413],
    ['an unknown address', 'nonsense', {}, 404],
    ['an unknown stream', 'streams/nonsense', undefined, 404],
    ['an unknown model', 'models/nonsense', undefined, 404]
  ])('an error for %s', async (_, path, body, status) => {
    const response = await fetch(`${service.url}/v1/${path}`, {
      headers: asOperator,
      ...(body === undefined ? {} : { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body) })
    })
    const emitted = { status: response.status, headers: response.headers, text: await response.text() }
    expect([emitted.status, ofChat(emitted)]).toEqual([status, []])
  })

  test('an error for a wrong token', async () => {
    for (const path of ['chat/completions', 'responses', 'embeddings']) {
      const refused = await post(service, path, ask('x'), { authorization: 'Bearer nobody' })
      expect([refused.status, ofChat(refused)]).toEqual([401, []])
    }
  })

  test.each([
    ['plain', { model, input: 'Tell it' }],
    ['streamed', { model, input: 'Tell it in pieces', stream: true }],
    [
      'a tool call',
      { model, input: 'Please get weather in Lima', tools: [{ type: 'function', name: 'get_weather', parameters, strict: true }] }
    ]
  ])('a response, %s', async (_, body) => {
    const emitted = await post(service, 'responses', body)
    expect([emitted.status, ofResponse(emitted)]).toEqual([200, []])
  })

  test('embeddings, and the models', async () => {
    const emitted = await post(service, 'embeddings', { model, input: ['one', 'two'], encoding_format: 'float' })
    expect([emitted.status, judge?.('CreateEmbeddingResponse', JSON.parse(emitted.text))]).toEqual([200, []])
    const models = (await (await fetch(`${service.url}/v1/models`, { headers: asOperator })).json()) as { data: { id: string }[] }
    expect(judge?.('ListModelsResponse', models)).toEqual([])
    expect(models.data.length).toBeGreaterThan(1)
    const one: unknown = await (await fetch(`${service.url}/v1/models/scripted-small`, { headers: asOperator })).json()
    expect(judge?.('Model', one)).toEqual([])
  })
})

/** Real traffic behind the gateway: the request's model is the name of the recording that answers it, in random cuts. */
async function serveAll(recordings: readonly Recording[], seed: number): Promise<{ readonly url: string } & AsyncDisposable> {
  const random = seededRandom(seed)
  const server = createServer(async (incoming, response) => {
    let text = ''
    for await (const piece of incoming) text += String(piece)
    const { model } = JSON.parse(text) as { model: string }
    const recording = recordings.find(({ id }) => id === model)
    if (recording === undefined) return response.writeHead(500).end()
    response.writeHead(recording.status, recording.headers as Record<string, string>)
    for (let at = 0; at < recording.body.length && !response.destroyed; ) {
      const next = at + 1 + Math.floor(random() * Math.max(512, recording.body.length / 20))
      response.write(recording.body.subarray(at, next))
      at = next
      await tick()
    }
    return response.end()
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    }
  }
}

/** As it was recorded, where it was; else one of its kind. */
function requestOf({ id, stream, features, request, api }: Recording): JsonObject {
  const sent = request?.body
  if (typeof sent === 'object' && sent !== null) return { ...(sent as JsonObject), model: id }
  if (api !== 'openai.chat') return { model: id, input: 'x', ...(stream ? { stream } : {}) }
  const asked = { model: id, messages: [{ role: 'user', content: 'x' }], ...(stream ? { stream } : {}) }
  return features.includes('multi_choice') ? { ...asked, n: 2 } : asked
}

/** Requests the contract has no words for: what the provider says to them goes out untouched. */
const isPassed = (recording: Recording): boolean => readRequest(requestOf(recording)) === undefined

const ofVectors = (emitted: Emitted): readonly string[] => mistakes(emitted, 'CreateEmbeddingResponse', 'none')

/** Where OpenAI's own answers are not as OpenAI's own description has them, and why. */
const contradicted: readonly (readonly [RegExp, string])[] = [
  [/\/user must be string$/, 'it is null where the request named no user'],
  [/\/system_fingerprint must be string$/, 'it is null for some models'],
  [/\/usage must be object$/, 'it is null before the end of a response'],
  [/'cache_write_tokens'$/, 'the field is younger than the recordings'],
  [/^ must have required property 'name'$/, 'so is the name at the end of the arguments of a call'],
  [/\/message must have required property 'refusal'$/, 'so is the refusal of a message'],
  [/\/embedding must be array$/, 'it is a text where base64 was asked for, as the official client does by itself']
]

/** Single recordings the description does not fit. */
const exceptions: Readonly<Record<string, string>> = {
  'openai-responses-5bd0fdf54d': 'of March 2025: texts have no logprobs yet',
  'openai-responses-3937cd1379': 'kept without the numbers of its events',
  'openai-responses-7195d0ce37': 'its picture is done with a status the description does not know',
  'openai-responses-9046a4b952': 'its error event has the error inside, and a code the description does not know',
  'openai-responses-9a19b8afe3': 'kept shortened'
}

describe.skipIf(judge === undefined || chats.length === 0)(
  'recorded answers of real providers (seed 9, skipped without them)',
  () => {
    let service: Service
    let whole = 0
    beforeAll(async () => {
      const served = await serveAll([...chats, ...responses, ...vectors], 9)
      open.push(served)
      service = await startBefore(served.url, 'k', { imageURLs: 'any', maxBodyBytes: 16 * 2 ** 20, fallback: { coolDownMs: 0 } })
      open.push(service)
    })

    const own = chats.filter((recording) => !isPassed(recording))
    test('there are enough of them, of each kind', () => {
      expect(own.length).toBeGreaterThan(200)
      for (const feature of ['tool_calls', 'refusal', 'logprobs', 'content_filter', 'length_stop', 'reasoning', 'error']) {
        expect(
          own.some(({ features }) => features.includes(feature)),
          feature
        ).toBe(true)
      }
    })

    test.each(own.map((recording) => [recording.id, recording] as const))(
      '%s comes out as the schema has it',
      async (_, recording) => {
        const emitted = await post(service, 'chat/completions', requestOf(recording))
        expect(ofChat(emitted)).toEqual([])
        if (emitted.status !== 200 || (isStream(emitted) && eventsOf(emitted.text).at(-1)?.error !== undefined)) return
        whole++
        // And so it does out of the cache, where it was kept.
        const again = await post(service, 'chat/completions', requestOf(recording))
        expect([again.status, ofChat(again)]).toEqual([200, []])
      }
    )
    test('most of them came through whole', () => expect(whole).toBeGreaterThan(180))

    const passed = [
      ...chats.filter(isPassed).map((recording) => ({ recording, path: 'chat/completions', judged: ofChat })),
      ...responses.map((recording) => ({ recording, path: 'responses', judged: ofResponse })),
      ...vectors.map((recording) => ({ recording, path: 'embeddings', judged: ofVectors }))
    ].filter(({ recording: { status } }) => status === 200)

    test.each(passed.map((one) => [one.recording.id, one] as const))(
      '%s comes out as it went in, and as the schema has it where it is of OpenAI',
      async (_, { recording, path, judged }) => {
        const emitted = await post(service, path, requestOf(recording))
        const text = recording.body.toString()
        expect(emitted.status).toBe(200)
        expect(emitted.text.slice(0, text.length)).toBe(text)
        // A stream that its recorder cut is told as broken.
        expect(emitted.text.slice(text.length)).toMatch(/^$|^\n*(event: error\n)?data: .*error/)
        if (recording.provider !== 'openai' || Object.hasOwn(exceptions, recording.id)) return
        const known = (mistake: string): boolean => contradicted.some(([pattern]) => pattern.test(mistake))
        expect(judged({ ...emitted, text }).filter((mistake) => !known(mistake))).toEqual([])
      }
    )
  }
)
