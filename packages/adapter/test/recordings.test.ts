import { isDeepStrictEqual } from 'node:util'
import { anthropic } from '@millrace/adapter/anthropic'
import { openai } from '@millrace/adapter/openai'
import {
  type Completion,
  collect,
  inputTokens,
  isMillraceError,
  type MillraceError,
  outputTokens,
  type Provider,
  type Send
} from '@millrace/core'
import { loadRecordings, type Recording, seededRandom, serveRecording } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import OpenAI from 'openai'
import { afterAll, describe, expect, test } from 'vitest'
import { bytesSend, cutBytes } from './bytes-send.ts'

const chat = loadRecordings({ api: 'openai.chat' })
const messages = loadRecordings({ api: 'anthropic.messages' })
const transport = createTransport({ retry: false })
afterAll(() => transport.close())

/** Cuts of the bytes, one seed a recording and round; the seed is in the failing test's title. */
const rounds = [1, 2]

async function ask(recording: Recording, seed: number, connect: (url: string) => Provider): Promise<Completion> {
  await using server = await serveRecording(recording, { seed })
  const provider = connect(server.url)
  return await collect(provider({ model: 'asked', messages: [{ role: 'user', content: 'x' }] }, { stream: recording.stream }))
}

/** The same without a socket: the bytes in 200 other cuts, through the same readers. */
async function askCut(recording: Recording, seed: number | undefined, connect: Connect): Promise<Completion | MillraceError> {
  const { body, status, headers } = recording
  const random = seededRandom(seed ?? 0)
  // From slivers to pieces as large as a whole answer, one by one or several in a read.
  const sizes = {
    maxBytes: Math.ceil(2 ** (5 + random() * Math.log2(1 + body.length / 32))),
    maxPieces: 1 + Math.floor(random() * 8)
  }
  const batches = seed === undefined ? [[body]] : cutBytes(body, random, sizes)
  const provider = connect(bytesSend({ status, headers, batches }))
  return outcome(collect(provider({ model: 'asked', messages: [{ role: 'user', content: 'x' }] }, { stream: recording.stream })))
}

/** What of an outcome may not differ between two cuts: all of it but the ids that the provider left out, which are made up. */
function fixed(got: Completion | MillraceError): unknown {
  if (isMillraceError(got)) return { error: got.toJSON(), partial: got.partial && fixed(got.partial) }
  const toolCalls = got.toolCalls.map((call) => ({ ...call, id: call.id.replace(/^call_[\da-f-]{36}$/, 'made up') }))
  return { ...got, toolCalls }
}

async function cutEverywhere(recording: Recording, connect: Connect): Promise<Completion | MillraceError> {
  const whole = await askCut(recording, undefined, connect)
  const wanted = fixed(whole)
  for (let seed = 0; seed < 200; seed++) {
    const got = fixed(await askCut(recording, seed, connect))
    // `expect` only where they differ: it would take most of the time.
    if (!isDeepStrictEqual(got, wanted)) expect({ seed, got }).toEqual({ seed, got: wanted })
  }
  return whole
}

async function outcome(work: Promise<Completion>): Promise<Completion | MillraceError> {
  return work.catch((error: unknown) => {
    if (isMillraceError(error)) return error
    throw error
  })
}

type Connect = (send: Send) => Provider
const viaOpenAI = (url: string): Provider => openai({ apiKey: 'k', baseURL: url }).connect(transport.send)
const viaAnthropic = (url: string): Provider => anthropic({ apiKey: 'k', baseURL: url }).connect(transport.send)
const nowhere = { apiKey: 'k', baseURL: 'http://127.0.0.1:1/v1' }

interface OpenAIChoice {
  content: unknown
  reasoning?: string
  refusal: string | null
  tool_calls: { id: string; name: string; arguments: string }[]
  finish_reason: string
}

interface OpenAIOracle {
  choices?: OpenAIChoice[]
  usage?: {
    prompt_tokens: number
    completion_tokens: number
    total_tokens?: number
    completion_tokens_details?: { reasoning_tokens?: number }
  } | null
  error?: { status: number; code: string | null; type: string | null }
}

const finishes: Readonly<Record<string, string>> = {
  stop: 'stop',
  eos: 'stop',
  length: 'length',
  tool_calls: 'tool-calls',
  function_call: 'tool-calls',
  content_filter: 'content-filter',
  end_turn: 'stop',
  stop_sequence: 'stop',
  max_tokens: 'length',
  tool_use: 'tool-calls',
  refusal: 'content-filter'
}

/** Mistral answers with a list of parts; the official client hands it on as it is. */
function textOf(content: unknown): string {
  if (!Array.isArray(content)) return (content as string | null) ?? ''
  return content.map((part: { type: string; text?: string }) => (part.type === 'text' ? part.text : '')).join('')
}

const severalChoices = (recording: Recording): boolean => recording.features.includes('multi_choice')

describe.skipIf(chat === undefined)('recordings of OpenAI-compatible servers (skipped without ../shared/real)', () => {
  const single = (chat ?? []).filter((recording) => !severalChoices(recording))
  test('there are enough of them', () => expect(single.length).toBeGreaterThan(200))

  describe.each(rounds)('cut by seed %i', (seed) => {
    test.each(single.map((recording) => [recording.id, recording] as const))('%s', async (_, recording) => {
      expectCompletion(await outcome(ask(recording, seed, viaOpenAI)), recording)
    })
  })

  const named = single.filter((recording) => recording.stream).map((recording) => [recording.id, recording] as const)
  test.each(named)('%s in 200 random cuts (seeds 0 to 199)', async (_, recording) => {
    expectCompletion(await cutEverywhere(recording, (send) => openai(nowhere).connect(send)), recording)
  })

  function expectCompletion(got: Completion | MillraceError, recording: Recording): void {
    const oracle = recording.oracle as OpenAIOracle | undefined
    if (oracle?.error !== undefined || oracle?.choices?.length === 0) {
      expect(isMillraceError(got)).toBe(true)
      return
    }
    if (isMillraceError(got)) throw got
    expect(got.provider).toBe('openai')
    expect(got.model).not.toBe('')
    checkUsage(got, recording, oracle)
    if (oracle === undefined) return expect(got.text + got.toolCalls.length + got.reasoning.length).not.toBe('00')
    const choice = oracle.choices?.[0] as OpenAIChoice
    expect(got.finish).toBe(finishes[choice.finish_reason])
    if (mistralStream(recording)) expect(got.text.endsWith(textOf(choice.content))).toBe(true)
    else expect(got.text).toBe(textOf(choice.content))
    if (choice.reasoning) expect(got.reasoning.map(({ text }) => text).join('')).toBe(choice.reasoning)
    expect(got.refusal ?? '').toBe(choice.refusal ?? '')
    expect(got.toolCalls).toEqual(choice.tool_calls.map(({ id, name, arguments: text }) => ({ id, name, arguments: text })))
  }

  /** The official client loses text that comes in a list of parts; ours is longer. */
  const mistralStream = (recording: Recording): boolean => recording.stream && recording.body.includes('"type":"thinking"')

  function checkUsage(got: Completion, recording: Recording, oracle: OpenAIOracle | undefined): void {
    const told = oracle?.usage ?? undefined
    if (told === undefined) {
      if (recording.usage?.input !== undefined) expect(got.usage && inputTokens(got.usage)).toBe(recording.usage.input)
      return
    }
    if (got.usage === undefined) throw new Error('the usage was lost')
    expect(inputTokens(got.usage)).toBe(told.prompt_tokens)
    const reasoning = told.completion_tokens_details?.reasoning_tokens ?? 0
    const onTop = told.total_tokens === told.prompt_tokens + told.completion_tokens + reasoning
    expect(outputTokens(got.usage)).toBe(onTop ? told.completion_tokens + reasoning : told.completion_tokens)
    expect(got.usage).toMatchObject({ estimated: false, billed: true })
  }

  test('recorded errors become the right codes, and their texts stay out of what is printed', async () => {
    const codes: Record<string, string> = {}
    for (const recording of single) {
      const oracle = recording.oracle as OpenAIOracle | undefined
      if (oracle?.error === undefined && oracle?.choices?.length !== 0) continue
      const error = await outcome(ask(recording, 1, viaOpenAI))
      if (!isMillraceError(error)) throw new Error(`${recording.id} should have failed`)
      codes[recording.id] = error.code
      expect(error.context).toMatchObject({ provider: 'openai', model: 'asked' })
      if (error.providerMessage !== undefined) expect(JSON.stringify(error) + String(error)).not.toContain(error.providerMessage)
    }
    const byCode = Object.groupBy(Object.keys(codes), (id) => codes[id] as string)
    expect(byCode).toMatchObject({
      'context-overflow': expect.arrayContaining([
        'deepseek-chat-20e90dadfc',
        'ollama-cloud-chat-6f97746a82',
        'openrouter-chat-a51771dc28',
        'perplexity-chat-013f585df1'
      ]),
      'rate-limited': ['azure-chat-c2945760fe'],
      'content-filtered': ['azure-chat-7e9bfbc586'],
      'invalid-request': expect.arrayContaining([
        'azure-chat-3592a9ae08',
        'openai-chat-06b9c74656',
        'openai-chat-23192f38d0',
        'openai-chat-f4ae8523b3'
      ])
    })
    expect(byCode.unauthorized).toHaveLength(8)
  })

  test('those with several choices pass the fetch door byte by byte, and the official client reads them', async () => {
    const several = (chat ?? []).filter(severalChoices)
    expect(several.length).toBeGreaterThan(0)
    for (const recording of several) {
      await using server = await serveRecording(recording, { seed: 3 })
      const raw = await transport.fetch(`${server.url}/chat/completions`, { method: 'POST', body: '{}' })
      expect(Buffer.from(await raw.bytes()).equals(recording.body)).toBe(true)
      const client = new OpenAI({ apiKey: 'k', baseURL: server.url, fetch: transport.fetch, maxRetries: 0 })
      const oracle = recording.oracle as OpenAIOracle
      const wanted = (oracle.choices ?? []).map((choice) => choice.content ?? '')
      const request = { model: 'm', messages: [{ role: 'user' as const, content: 'x' }] }
      const texts: string[] = []
      if (recording.stream) {
        for await (const chunk of await client.chat.completions.create({ ...request, stream: true })) {
          for (const { index, delta } of chunk.choices) texts[index] = (texts[index] ?? '') + (delta.content ?? '')
        }
      } else {
        for (const { index, message } of (await client.chat.completions.create(request)).choices)
          texts[index] = message.content ?? ''
      }
      expect(texts).toEqual(wanted)
    }
  })

  test('cut off at any event, a stream is an error with the text so far, never a success', async () => {
    const streams = single
      .filter((recording) => recording.stream && recording.status === 200 && recording.oracle !== undefined)
      .slice(0, 25)
    for (const recording of streams) {
      const text = recording.body.toString()
      const finishAt = text.search(/"finish_reason": ?"/)
      const whole = text.lastIndexOf('\n\n', finishAt)
      if (whole <= 0) continue
      for (const end of [whole + 2, whole + 12]) {
        const error = await outcome(
          ask({ ...recording, body: recording.body.subarray(0, Buffer.byteLength(text.slice(0, end))) }, 5, viaOpenAI)
        )
        if (!isMillraceError(error, 'protocol')) throw new Error(`${recording.id} cut at ${end} should have been incomplete`)
        expect(error.details.reason).toBe('incomplete')
        const choice = (recording.oracle as OpenAIOracle).choices?.[0]
        expect(textOf(choice?.content).startsWith(error.partial?.text ?? 'none') || mistralStream(recording)).toBe(true)
      }
    }
  })
})

interface AnthropicOracle {
  content?: { type: string; text?: string; id?: string; name?: string; input?: unknown; thinking?: string; signature?: string }[]
  stop_reason?: string
  usage?: {
    input_tokens: number
    output_tokens: number
    cache_read_input_tokens?: number | null
    cache_creation_input_tokens?: number | null
  }
  error?: object
}

describe.skipIf(messages === undefined)("recordings of Anthropic's API (skipped without ../shared/real)", () => {
  const all = messages ?? []
  test('there are enough of them', () => expect(all.length).toBeGreaterThan(40))

  describe.each(rounds)('cut by seed %i', (seed) => {
    test.each(all.map((recording) => [recording.id, recording] as const))('%s', async (_, recording) => {
      expectCompletion(await outcome(ask(recording, seed, viaAnthropic)), recording)
    })
  })

  const named = all.filter((recording) => recording.stream).map((recording) => [recording.id, recording] as const)
  test.each(named)('%s in 200 random cuts (seeds 0 to 199)', async (_, recording) => {
    expectCompletion(await cutEverywhere(recording, (send) => anthropic(nowhere).connect(send)), recording)
  })

  function expectCompletion(got: Completion | MillraceError, recording: Recording): void {
    const oracle = recording.oracle as AnthropicOracle | undefined
    if (oracle?.error !== undefined || recording.body.includes('"type":"error"')) {
      expect(isMillraceError(got)).toBe(true)
      return
    }
    if (isMillraceError(got, 'protocol') && !recording.body.includes('message_stop') && recording.stream) return
    if (isMillraceError(got)) throw got
    expect(got.provider).toBe('anthropic')
    if (oracle === undefined) return checkIndexed(got, recording)
    const content = oracle.content ?? []
    expect(got.text).toBe(content.map((block) => (block.type === 'text' ? block.text : '')).join(''))
    expect(got.toolCalls.map((call) => ({ ...call, arguments: JSON.parse(call.arguments) as unknown }))).toEqual(
      content.filter(({ type }) => type === 'tool_use').map(({ id, name, input }) => ({ id, name, arguments: input }))
    )
    expect(got.reasoning.map(({ text, signature = '' }) => [text, signature])).toEqual(
      content.filter(({ type }) => type === 'thinking').map(({ thinking, signature }) => [thinking, signature])
    )
    const others = content.filter(({ type }) => !['text', 'tool_use', 'thinking'].includes(type))
    expect(
      got.extras.filter(({ name }) => name === 'content_block').map(({ value }) => (value as { type: string }).type)
    ).toEqual(others.map(({ type }) => type))
    expect(got.finish).toBe(finishes[oracle.stop_reason as string])
    checkUsage(got, oracle)
  }

  function checkIndexed(got: Completion, { usage, body }: Recording): void {
    // Two fixtures hold three answers in a row; the index counts the last, a client reads the first.
    if (body.toString().split('"message_start"').length > 3) return
    if (usage?.output !== undefined) expect(got.usage && outputTokens(got.usage)).toBe(usage.output)
  }

  function checkUsage(got: Completion, { usage }: AnthropicOracle): void {
    if (usage === undefined) return
    if (got.usage === undefined) throw new Error('the usage was lost')
    expect(got.usage.input).toEqual({
      uncached: usage.input_tokens,
      cacheRead: usage.cache_read_input_tokens ?? 0,
      cacheWrite: usage.cache_creation_input_tokens ?? 0
    })
    expect(outputTokens(got.usage)).toBe(usage.output_tokens)
  }
})
