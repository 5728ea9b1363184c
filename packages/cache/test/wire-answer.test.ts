import type { JsonObject } from '@millrace/core'
import { loadRecordings, type Recording } from '@millrace/testkit'
import { describe, expect, test } from 'vitest'
import { type Api, type HttpAnswer, isHttpAnswer, judge } from '../src/wire-answer.ts'

const apis: readonly (readonly [string, Api])[] = [
  ['openai.chat', 'chat'],
  ['openai.completions', 'completions'],
  ['openai.responses', 'responses'],
  ['anthropic.messages', 'messages'],
  ['openai.embeddings', 'embeddings'],
  ['gemini.generateContent', 'google']
]

interface Case {
  readonly recording: Recording
  readonly api: Api
  readonly contentType: string
  readonly request: JsonObject
}

const cases: readonly Case[] = apis.flatMap(([name, api]) =>
  (loadRecordings({ api: name }) ?? []).map((recording) => {
    const { headers, request } = recording
    const contentType = Object.entries(headers).find(([header]) => header.toLowerCase() === 'content-type')?.[1]
    const body = request?.body
    return {
      recording,
      api,
      contentType: String(contentType),
      request: (typeof body === 'object' && body !== null ? body : { input: 'one text' }) as JsonObject
    }
  })
)
const hasRecordings = cases.length > 0
if (!hasRecordings) console.warn('skipped: the recordings are not at ../shared/real/recordings')

/** The recorder of these dropped what is no JSON, `[DONE]` with it. */
function bytesOf({ recording, api }: Case): Buffer {
  const { body, features } = recording
  const lost = features.includes('payload_lines') && (api === 'chat' || api === 'completions')
  return lost ? Buffer.concat([body, Buffer.from('data: [DONE]\n\n')]) : body
}

const judged = (given: Case, bytes: Uint8Array = bytesOf(given)): ReturnType<typeof judge> => judge({ ...given, bytes })
const isOver = (rest: string): boolean => rest.replaceAll(/^(?::.*|data: ?\[DONE\])\r?$/gm, '').trim() === ''
const events = (bytes: Buffer): string[] => bytes.toString().split(/(?<=\r?\n\r?\n)/)

/** Answers that must not be kept, each for the reason that stands in its recording. */
const refused: Readonly<Record<string, string>> = {
  'azure-chat-7e9bfbc586': 'filtered: an error within a 200',
  'cerebras-chat-1a64c06110': 'two answers in one stream',
  'deepseek-chat-1ad379770a': 'length',
  'deepseek-chat-f23bfc6545': 'length',
  'gpustack-chat-6bcd8ded60': 'a stream without [DONE]',
  'gpustack-chat-beb98b1244': 'length',
  'openai-chat-28abe3d401': 'length',
  'openai-chat-5aeccf3db7': 'tool arguments that are null',
  'openai-chat-82e6b533de': 'length',
  'openai-chat-8a7d7a7ff6': 'an error',
  'openai-chat-f4ae8523b3': 'an error',
  'openrouter-chat-2913485eef': 'no content at all',
  'vllm-chat-4ca5a2a4a7': 'length',
  'vllm-chat-b0db3af882': 'length',
  'vllm-chat-b223271db3': 'length',
  'vllm-chat-b8b065fee1': 'length',
  'openai-completions-00f76b0c55': 'length',
  'openai-completions-878b944eb3': 'length',
  'openai-completions-94389fa67e': 'length',
  'openai-completions-bedc256381': 'length',
  'openai-completions-c6d2a4e044': 'length',
  'openai-completions-de340c0d0a': 'length',
  'together-completions-9e56b81249': 'length',
  'vllm-completions-0e071a25b5': 'length',
  'vllm-completions-3211ae05ae': 'length',
  'vllm-completions-34abb1523a': 'length',
  'vllm-completions-f0e475e262': 'length',
  'writer-completions-57481b1b4a': 'an API of its own',
  'writer-completions-c108e896fe': 'no finish reason',
  'azure-responses-1970f68e88': 'an item that is not completed',
  'azure-responses-39fd3efad7': 'an item that is not completed',
  'azure-responses-f77b3985a9': 'an item that is not completed',
  'azure-responses-a2574a21dc': 'two answers in one stream',
  'openai-responses-1a739a3a90': 'an item that is not completed',
  'openai-responses-320305e06d': 'an item that is not completed',
  'openai-responses-369cb391f5': 'an item that is not completed',
  'openai-responses-3937cd1379': 'an event that is half',
  'openai-responses-8802da2380': 'an item that is not completed',
  'openai-responses-9046a4b952': 'failed',
  'anthropic-messages-2ee651692c': 'max_tokens',
  'anthropic-messages-4fd422a5e2': 'two answers in one stream',
  'anthropic-messages-c7662b629b': 'two answers in one stream',
  'anthropic-messages-7e70e6997c': 'max_tokens',
  'anthropic-messages-b526e91f26': 'refusal by a filter',
  'anthropic-messages-c5cd8d5860': 'max_tokens',
  'anthropic-messages-e9d5d6cf72': 'refusal by a filter',
  'anthropic-messages-ed8b9a5f6d': 'refusal by a filter',
  'ollama-embeddings-5a58c2b84f': 'an API of its own',
  'gemini-generateContent-f2fd0540f7': 'an error',
  'vertex-generateContent-8c6e546067': 'no content at all'
}

describe.skipIf(!hasRecordings)('recorded answers', () => {
  const answered = cases.filter(({ recording }) => recording.status === 200)

  test('are kept when they are whole, and not when they are cut, filtered, failed or empty', () => {
    const wrong = answered.filter((given) => (judged(given) === undefined) !== Object.hasOwn(refused, given.recording.id))
    expect(wrong.map(({ recording }) => recording.id)).toEqual([])
    expect(answered.length - Object.keys(refused).length).toBeGreaterThan(350)
  })

  test('cut at any event are not kept', () => {
    let cuts = 0
    for (const given of answered) {
      const { stream, id } = given.recording
      if (!stream || given.contentType.startsWith('application/json') || Object.hasOwn(refused, id)) continue
      const whole = bytesOf(given)
      const pieces = events(whole)
      // Of a long one some in the middle, and all near its end.
      const step = Math.ceil(pieces.length / 40)
      for (let count = 0; count < pieces.length; count += pieces.length - count > 10 ? step : 1) {
        const rest = pieces.slice(count).join('')
        const cut = judged(given, Buffer.from(pieces.slice(0, count).join('')))
        // Behind the last event come comments and, from some, a `[DONE]` that says nothing new.
        if (cut !== undefined && !isOver(rest)) throw new Error(`${id} is kept when cut behind event ${count}`)
        cuts++
      }
    }
    expect(cuts).toBeGreaterThan(3000)
  })

  test('cut at any byte of a plain body are not kept', () => {
    for (const given of answered) {
      if (given.recording.stream) continue
      const text = bytesOf(given).toString().trimEnd()
      for (let part = 0; part < 20; part++) {
        const cut = text.slice(0, Math.floor((text.length * part) / 20))
        expect(judged(given, Buffer.from(cut)), given.recording.id).toBeUndefined()
      }
    }
  })

  test('tell who answered, and usage that adds up as the recorder counted it', () => {
    let told = 0
    for (const given of answered) {
      const verdict = judged(given)
      if (verdict === undefined) continue
      const { usage: counted, id } = given.recording
      // Ours counts what Google and xAI count beside: reasoning; and what Anthropic counts beside: cached input.
      if (counted?.output === undefined || verdict.usage === undefined) continue
      const { input, output } = verdict.usage
      const all = output.text + output.reasoning
      expect([counted.output, counted.output + (counted.reasoning ?? 0)], id).toContain(all)
      expect(input.uncached + input.cacheRead + input.cacheWrite, id).toBeGreaterThanOrEqual(counted.input ?? 0)
      told++
    }
    expect(told).toBeGreaterThan(250)
  })

  test('are judged alike by what they look like, where the API is not known', () => {
    for (const given of answered) {
      if (given.api === 'embeddings' || Object.hasOwn(refused, given.recording.id)) continue
      expect(judged({ ...given, api: 'other' }, bytesOf(given)), given.recording.id).toEqual(judged(given))
    }
  })

  test('of an error status are no answers of their API', () => {
    const kept = cases.filter((given) => given.recording.status >= 400 && judged(given) !== undefined)
    expect(kept.map(({ recording }) => recording.id)).toEqual([])
  })
})

const json = (body: unknown, api: Api = 'chat', request: JsonObject = {}): unknown =>
  judge({ api, request, contentType: 'application/json; charset=utf-8', bytes: Buffer.from(JSON.stringify(body)) })
const sse = (list: readonly unknown[], api: Api = 'chat'): unknown =>
  judge({
    api,
    request: {},
    contentType: 'text/event-stream',
    bytes: Buffer.from(list.map((event) => `data: ${typeof event === 'string' ? event : JSON.stringify(event)}\n\n`).join(''))
  })

describe('a chat completion', () => {
  const choice = (message: object, finish_reason = 'stop', index = 0): object => ({ index, message, finish_reason })
  const call = (text: unknown): object => ({
    tool_calls: [{ id: 'a', type: 'function', function: { name: 'f', arguments: text } }]
  })
  const delta = (piece: object, finish_reason: string | null = null, index = 0): object => ({
    choices: [{ index, delta: piece, finish_reason }]
  })

  test('is kept with text, tool calls or a refusal of the model', () => {
    for (const message of [{ content: 'yes' }, call('{"a":1}'), { refusal: 'No.' }, { content: [{ type: 'text', text: 'a' }] }]) {
      expect(json({ choices: [choice(message)] })).toBeDefined()
    }
  })

  test('is not kept for any finish that is not on the list', () => {
    for (const reason of ['length', 'content_filter', 'error', 'STOP', '', null, 'insufficient_system_resource']) {
      expect(json({ choices: [choice({ content: 'yes' }, reason as string)] })).toBeUndefined()
      expect(sse([delta({ content: 'yes' }), delta({}, reason), '[DONE]'])).toBeUndefined()
    }
  })

  test('is not kept when one of its choices is not whole', () => {
    const whole = choice({ content: 'yes' })
    expect(json({ choices: [whole, choice({ content: 'no' }, 'stop', 1)] })).toBeDefined()
    expect(json({ choices: [whole, choice({ content: 'no' }, 'length', 1)] })).toBeUndefined()
    expect(sse([delta({ content: 'a' }), delta({ content: 'b' }, 'stop', 1), delta({}, 'stop'), '[DONE]'])).toBeDefined()
    expect(sse([delta({ content: 'a' }), delta({ content: 'b' }, null, 1), delta({}, 'stop'), '[DONE]'])).toBeUndefined()
  })

  test('is not kept with tool arguments that do not parse, in a stream when put together', () => {
    expect(json({ choices: [choice(call('{"a":'), 'tool_calls')] })).toBeUndefined()
    const piece = (text: string, id?: string, index: number | undefined = 0): object =>
      delta({ tool_calls: [{ index, ...(id ? { id } : {}), function: { arguments: text } }] })
    const end = [delta({}, 'tool_calls'), '[DONE]']
    expect(sse([piece('{"a"', 'one'), piece(':1}'), ...end])).toBeDefined()
    expect(sse([piece('{"a"', 'one'), piece(':1'), ...end])).toBeUndefined()
    // Two calls that share an index, and pieces without one.
    expect(sse([piece('{"a":1}', 'one'), piece('{"b":2}', 'two'), ...end])).toBeDefined()
    expect(sse([piece('{"a"', 'one', undefined), piece(':1}', undefined, undefined), ...end])).toBeDefined()
  })

  test('is not kept behind an error within the stream, or with anything behind its end', () => {
    const whole = [delta({ content: 'a' }), delta({}, 'stop')]
    expect(sse([...whole, '[DONE]'])).toBeDefined()
    expect(sse([...whole, { error: { message: 'overloaded' } }, '[DONE]'])).toBeUndefined()
    expect(sse([...whole, '[DONE]', delta({ content: 'b' })])).toBeUndefined()
    expect(sse([...whole, '{"half', '[DONE]'])).toBeUndefined()
  })
})

describe('an answer that says too little or too much', () => {
  const called = { function: { name: 'f', arguments: '{}' } }
  const say = (delta: object, finish_reason: string | null = null, index = 0): object => ({
    choices: [{ index, delta, finish_reason }]
  })
  const plain = (message: object, finish_reason = 'stop'): unknown => json({ choices: [{ message, finish_reason }] })
  const thought = { type: 'thinking', thinking: 'hm' }

  test('is not kept where a choice was cut or filtered first, and stopped later', () => {
    for (const cut of ['length', 'content_filter', 'what is not known']) {
      expect(sse([say({ content: 'a' }, cut), say({}, 'stop'), '[DONE]'])).toBeUndefined()
      expect(sse([say({ content: 'a' }, 'stop'), say({}, cut), '[DONE]'])).toBeUndefined()
    }
    expect(sse([say({ content: 'a' }, 'stop'), say({}, 'stop'), '[DONE]'])).toBeDefined()
  })

  test('is not kept with content behind the finish of the same choice', () => {
    const end = [say({ content: 'b' }, 'stop', 1), '[DONE]']
    expect(sse([say({ content: 'a' }, 'stop'), say({ role: 'assistant', content: '' }), ...end])).toBeDefined()
    expect(sse([say({ content: 'a' }, 'stop'), say({ content: 'c' }), ...end])).toBeUndefined()
    expect(sse([say({ content: 'a' }, 'stop'), say({ tool_calls: [called] }), ...end])).toBeUndefined()
    const [one, two] = ['one', 'two'].map((id) => say({ tool_calls: [{ ...called, id }] }, 'tool_calls'))
    expect(sse([one, two, ...end])).toBeDefined()
    expect(sse([one, say({ content: 'c' }), ...end])).toBeUndefined()
    expect(sse([{ choices: [{ text: 'a', finish_reason: 'stop' }] }, { choices: [{ text: 'b' }] }, '[DONE]'])).toBeUndefined()
  })

  test('is not kept where it finished for calls that are not there', () => {
    for (const reason of ['tool_calls', 'function_call']) {
      expect(plain({ content: 'let me look' }, reason)).toBeUndefined()
      expect(plain({ content: 'let me look', tool_calls: [] }, reason)).toBeUndefined()
      expect(plain({ tool_calls: [called] }, reason)).toBeDefined()
      expect(plain({ function_call: called.function }, reason)).toBeDefined()
      expect(plain({ tool_calls: [{ custom: { name: 'c', input: 'any text' } }] }, reason)).toBeDefined()
      expect(sse([say({ content: 'let me look' }), say({}, reason), '[DONE]'])).toBeUndefined()
      expect(sse([say({ tool_calls: [called] }), say({}, reason), '[DONE]'])).toBeDefined()
      expect(sse([say({ tool_calls: [{ index: 0, custom: { input: 'any text' } }] }), say({}, reason), '[DONE]'])).toBeDefined()
      expect(sse([say({ function_call: called.function }), say({}, reason), '[DONE]'])).toBeDefined()
    }
    const text = { type: 'text', text: 'let me look' }
    const tool = { type: 'tool_use', id: 'a', name: 'f', input: {} }
    expect(json({ type: 'message', stop_reason: 'tool_use', content: [text] }, 'messages')).toBeUndefined()
    expect(json({ type: 'message', stop_reason: 'tool_use', content: [text, tool] }, 'messages')).toBeDefined()
  })

  test('is not kept where it thought and said nothing', () => {
    for (const name of ['reasoning', 'reasoning_content']) {
      expect(plain({ content: null, [name]: 'hm' })).toBeUndefined()
      expect(plain({ content: 'yes', [name]: 'hm' })).toBeDefined()
      expect(sse([say({ [name]: 'hm' }), say({}, 'stop'), '[DONE]'])).toBeUndefined()
      expect(sse([say({ [name]: 'hm' }), say({ refusal: 'No.' }), say({}, 'stop'), '[DONE]'])).toBeDefined()
    }
    for (const content of [[thought], [{ type: 'redacted_thinking', data: 'x' }]]) {
      expect(json({ type: 'message', stop_reason: 'end_turn', content }, 'messages')).toBeUndefined()
    }
    expect(
      json({ type: 'message', stop_reason: 'end_turn', content: [thought, { type: 'text', text: 'a' }] }, 'messages')
    ).toBeDefined()
    const google = (...parts: object[]): unknown => json({ candidates: [{ finishReason: 'STOP', content: { parts } }] }, 'google')
    expect(google({ text: 'hm', thought: true })).toBeUndefined()
    expect(google({ text: 'hm', thought: true }, { text: 'a' })).toBeDefined()
    expect(json({ status: 'completed', output: [{ type: 'reasoning', summary: [{ text: 'hm' }] }] }, 'responses')).toBeUndefined()
  })

  test('is not kept as a stream of messages that lost its start or a finish for calls, or only thought', () => {
    const block = (value: object, delta?: object, index = 0): object[] => [
      { type: 'content_block_start', index, content_block: value },
      ...(delta ? [{ type: 'content_block_delta', index, delta }] : []),
      { type: 'content_block_stop', index }
    ]
    const start = { type: 'message_start', message: { model: 'claude' } }
    const text = block({ type: 'text', text: '' }, { type: 'text_delta', text: 'Hi' })
    const stop = (stop_reason: string): object[] => [{ type: 'message_delta', delta: { stop_reason } }, { type: 'message_stop' }]
    const kept = (...list: object[]): unknown => sse(list, 'messages')
    expect(kept(start, ...text, ...stop('end_turn'))).toBeDefined()
    expect(kept(...text, ...stop('end_turn'))).toBeUndefined()
    expect(kept(start, ...text, ...stop('tool_use'))).toBeUndefined()
    expect(kept(start, ...block({ type: 'thinking' }, { thinking: 'hm' }), ...stop('end_turn'))).toBeUndefined()
    expect(kept(start, ...text, ...stop('max_tokens').slice(0, 1), ...stop('end_turn'))).toBeUndefined()
    expect(
      kept(
        start,
        ...text,
        ...stop('end_turn').slice(0, 1),
        ...block({ type: 'text', text: 'b' }, undefined, 1),
        ...stop('end_turn')
      )
    ).toBeUndefined()
  })
})

test.each<[string, Api, (index: number) => object]>([
  [
    'calls',
    'chat',
    (index) => ({ choices: [{ delta: { tool_calls: [{ index, id: `c${index}`, function: { arguments: '{}' } }] } }] })
  ],
  ['names of usage', 'messages', (index) => ({ type: 'message_delta', usage: { [`name${index}`]: 1 } })]
])('a stream of many %s is judged in time that grows with their number, and not with its square', (_what, api, event) => {
  const list = Array.from({ length: 20_000 }, (_, index) => JSON.stringify(event(index)))
  const bytes = Buffer.from(list.map((text) => `data: ${text}\n\n`).join(''))
  const startedAt = performance.now()
  for (const text of list) JSON.parse(text)
  const parseMs = performance.now() - startedAt
  judge({ api, request: {}, contentType: 'text/event-stream', bytes })
  const tookMs = performance.now() - startedAt - parseMs
  // Measured: 40 ms; several seconds when each one went through all before it.
  expect(tookMs).toBeLessThan(20 * parseMs + 500)
})

describe('a message', () => {
  const start = { type: 'message_start', message: { model: 'claude', usage: { input_tokens: 3 } } }
  const block = (value: object, ...deltas: object[]): object[] => [
    { type: 'content_block_start', index: 0, content_block: value },
    ...deltas.map((delta) => ({ type: 'content_block_delta', index: 0, delta })),
    { type: 'content_block_stop', index: 0 }
  ]
  const stop = (stop_reason: string): object[] => [
    { type: 'message_delta', delta: { stop_reason }, usage: { output_tokens: 2 } },
    { type: 'message_stop' }
  ]
  const tool = (...texts: string[]): object[] =>
    block(
      { type: 'tool_use', id: 'a', name: 'f', input: {} },
      ...texts.map((partial_json) => ({ type: 'input_json_delta', partial_json }))
    )
  const text = block({ type: 'text', text: '' }, { type: 'text_delta', text: 'Hi' })

  test('is kept with a stop on the list, and its usage is read', () => {
    expect(sse([start, ...text, ...stop('end_turn')], 'messages')).toEqual({
      model: 'claude',
      usage: {
        input: { uncached: 3, cacheRead: 0, cacheWrite: 0 },
        output: { text: 2, reasoning: 0 },
        estimated: false,
        billed: true
      }
    })
    for (const reason of ['max_tokens', 'pause_turn', 'refusal', 'model_context_window_exceeded']) {
      expect(sse([start, ...text, ...stop(reason)], 'messages')).toBeUndefined()
      expect(json({ type: 'message', content: [{ type: 'text', text: 'a' }], stop_reason: reason }, 'messages')).toBeUndefined()
    }
  })

  test('is kept with a tool that has no input, and not with half of one', () => {
    expect(sse([start, ...tool(), ...stop('tool_use')], 'messages')).toBeDefined()
    expect(sse([start, ...tool('{"a"', ':1}'), ...stop('tool_use')], 'messages')).toBeDefined()
    expect(sse([start, ...tool('{"a"'), ...stop('tool_use')], 'messages')).toBeUndefined()
    expect(sse([start, ...text.slice(0, -1), ...stop('end_turn')], 'messages')).toBeUndefined()
  })
})

describe('vectors', () => {
  test('are kept when there is one for each input', () => {
    const data = (count: number): object => ({ data: Array.from({ length: count }, () => ({ embedding: [0.5, 1] })) })
    expect(json(data(1), 'embeddings', { input: 'a' })).toBeDefined()
    expect(json(data(2), 'embeddings', { input: ['a', 'b'] })).toBeDefined()
    expect(json(data(1), 'embeddings', { input: [1, 2, 3] })).toBeDefined()
    expect(json(data(1), 'embeddings', { input: ['a', 'b'] })).toBeUndefined()
    expect(json({ data: [{ embedding: [] }] }, 'embeddings', { input: 'a' })).toBeUndefined()
    expect(json({ data: [{ embedding: 'AAAA' }] }, 'embeddings', { input: 'a' })).toBeDefined()
    expect(json({ embedding: { values: [1] } }, 'google-embeddings', { content: {} })).toBeDefined()
    expect(json({ embeddings: [{ values: [1] }] }, 'google-embeddings', { requests: [{}, {}] })).toBeUndefined()
    expect(json({ results: [{ index: 0, relevance_score: 0.5 }] }, 'rerank')).toBeDefined()
    expect(json({ results: [] }, 'rerank')).toBeUndefined()
  })

  test('are not kept where two are of the same input, or of none', () => {
    const data = (...indices: number[]): object => ({ data: indices.map((index) => ({ index, embedding: [0.5] })) })
    const request = { input: ['a', 'b'] }
    expect(json(data(1, 0), 'embeddings', request)).toBeDefined()
    expect(json(data(0, 0), 'embeddings', request)).toBeUndefined()
    expect(json(data(0, 2), 'embeddings', request)).toBeUndefined()
  })

  test('of documents are a score for each of them, or for as many as were asked for', () => {
    const results = (...indices: number[]): object => ({ results: indices.map((index) => ({ index, relevance_score: 0.5 })) })
    const documents = ['a', 'b', 'c']
    expect(json(results(2, 0, 1), 'rerank', { documents })).toBeDefined()
    expect(json(results(2), 'rerank', { documents })).toBeUndefined()
    expect(json(results(0, 0, 1), 'rerank', { documents })).toBeUndefined()
    expect(json(results(0, 1, 3), 'rerank', { documents })).toBeUndefined()
    for (const name of ['top_n', 'top_k']) {
      expect(json(results(2, 0), 'rerank', { documents, [name]: 2 })).toBeDefined()
      expect(json(results(2), 'rerank', { documents, [name]: 2 })).toBeUndefined()
      expect(json(results(2, 0, 1), 'rerank', { documents, [name]: 9 })).toBeDefined()
    }
  })
})

test('an API that is not known ends by [DONE], or is JSON without an error', () => {
  expect(json({ anything: 1 }, 'other')).toEqual({})
  expect(json({ error: 'no' }, 'other')).toBeUndefined()
  expect(sse([{ token: 'a' }, '[DONE]'], 'other')).toEqual({})
  expect(sse([{ token: 'a' }], 'other')).toBeUndefined()
  expect(judge({ api: 'other', request: {}, contentType: 'text/html', bytes: Buffer.from('{}') })).toBeUndefined()
})

test("Google's stream as a JSON array is judged as its events are", () => {
  const piece = (text: string, finishReason?: string): object => ({
    candidates: [{ content: { parts: [{ text }] }, ...(finishReason ? { finishReason } : {}) }]
  })
  expect(json([piece('a'), piece('b', 'STOP')], 'google')).toBeDefined()
  expect(json([piece('a'), piece('b', 'MAX_TOKENS')], 'google')).toBeUndefined()
  expect(json([piece('a', 'STOP'), piece('b')], 'google')).toBeUndefined()
  expect(json([], 'google')).toBeUndefined()
})

test("Google's STOP may stand in every piece", () => {
  const piece = (text: string): object => ({ candidates: [{ content: { parts: [{ text }] }, finishReason: 'STOP' }] })
  expect(sse([piece('a'), piece('b')], 'google')).toBeDefined()
})

describe('what comes out of a store', () => {
  const answer: HttpAnswer = {
    status: 200,
    headers: [['content-type', 'text/event-stream']],
    body: 'abc',
    cuts: [1, 3],
    atMs: [0, 5]
  }

  test('is believed in its own form only', () => {
    expect(isHttpAnswer(answer)).toBe(true)
    expect(isHttpAnswer({ status: 404, headers: [], body: '' })).toBe(true)
    for (const bad of [
      null,
      [],
      'abc',
      { ...answer, status: 500 },
      { ...answer, status: '200' },
      { ...answer, body: 1 },
      { ...answer, headers: { a: 'b' } },
      { ...answer, headers: [['set-cookie', 'a']] },
      { ...answer, headers: [['content-type', 'a\r\nb: c']] },
      { ...answer, cuts: [3, 1] },
      { ...answer, cuts: [1, 4] },
      { ...answer, cuts: [1] },
      { ...answer, atMs: undefined },
      { ...answer, atMs: [0, Number.NaN] },
      { ...answer, usage: { input: 1 } },
      { ...answer, model: 1 }
    ]) {
      expect(isHttpAnswer(bad)).toBe(false)
    }
  })
})
