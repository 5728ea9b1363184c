import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  type ContentScanner,
  createContentScanner,
  errorStatus,
  isMillraceError,
  type Json,
  type SSEOptions
} from '../src/index.ts'
import { isPlainDelta } from '../src/plain-delta.ts'

const encoder = new TextEncoder()

interface Verdict {
  readonly first: ContentScanner['first']
  readonly ended: boolean
  readonly errorStatus: number | undefined
  /** How many pushes had content in them, `end` included. */
  readonly contents: number
}

function scan(pieces: Iterable<Uint8Array>, options?: SSEOptions): Verdict {
  const scanner = createContentScanner(options)
  let contents = 0
  for (const piece of pieces) if (scanner.push(piece)) contents++
  if (scanner.end()) contents++
  const { first, ended, errorStatus: status } = scanner
  return { first, ended, errorStatus: status, contents }
}

/** Each event in a push of its own: what is JSON here is one event without a name. */
function scanEvents(...events: readonly (Json | readonly [name: string, data: string])[]): Verdict {
  return scan(events.map((event) => encoder.encode(isNamed(event) ? frame(event[1], event[0]) : frame(JSON.stringify(event)))))
}

const isNamed = (event: unknown): event is readonly [string, string] => Array.isArray(event)
const frame = (data: string, name = ''): string => `${name === '' ? '' : `event: ${name}\n`}data: ${data}\n\n`

function* cut(bytes: Uint8Array, size: () => number): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; ) {
    const length = Math.max(1, size())
    yield bytes.subarray(at, at + length)
    at += length
  }
}

const nothing = { first: 'none', ended: false, errorStatus: undefined, contents: 0 }
const content = { ...nothing, first: 'content', contents: 1 }
const end = { ...nothing, first: 'end', ended: true }
const failure = (status: number) => ({ ...nothing, first: 'error', errorStatus: status })

/** A chat completion chunk with one choice, as OpenAI spells it. */
function chunk(delta: Json, finish: string | null = null, more: Readonly<Record<string, Json>> = {}): Json {
  const choice = { index: 0, delta, logprobs: null, finish_reason: finish, ...more }
  return { id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1, model: 'gpt', choices: [choice], usage: null }
}

const candidate = (fields: Readonly<Record<string, Json>>): Json => ({
  candidates: [{ index: 0, ...fields }],
  usageMetadata: { promptTokenCount: 9, promptTokensDetails: [{ modality: 'TEXT', tokenCount: 9 }] },
  modelVersion: 'gemini',
  responseId: 'r1'
})
const parts = (...list: Json[]): Json => candidate({ content: { role: 'model', parts: list } })
const block = (value: Json): Json => ({ type: 'content_block_start', index: 0, content_block: value })
const blockDelta = (delta: Json): Json => ({ type: 'content_block_delta', index: 0, delta })
const item = (value: Json, event = 'added'): Json => ({
  type: `response.output_item.${event}`,
  sequence_number: 2,
  output_index: 0,
  item: value
})
const cohere = (type: string, message: Json): Json => ({ type, index: 0, delta: { message } })
const fact = { item_id: 'msg_1', output_index: 0, content_index: 0, sequence_number: 4 }

describe('what is no content', () => {
  it.each<readonly [string, Json | readonly [string, string]]>([
    ['an event named ping', ['ping', '{"type": "ping"}']],
    ['an event named ping that holds something', ['ping', 'now']],
    ['a ping without a name', { type: 'ping' }],
    ['a keepalive of the Responses API', { type: 'keepalive', sequence_number: 466 }],
    ['empty data', ['', '']],
    ['an empty object', {}],
    ['a role', chunk({ role: 'assistant' })],
    ['a role with empty texts', chunk({ role: 'assistant', content: '', refusal: null, reasoning_content: '' })],
    ['an empty delta', chunk({})],
    ['a delta of nulls', chunk({ content: null, reasoning_content: null, tool_calls: null })],
    ['an empty list of parts', chunk({ content: [] })],
    ['a part with an empty text', chunk({ content: [{ type: 'text', text: '' }] })],
    ['a thought that is empty', chunk({ content: [{ type: 'thinking', thinking: [{ type: 'text', text: '' }], closed: true }] })],
    ['a tool call that says nothing yet', chunk({ tool_calls: [{ index: 0, type: 'function', function: { arguments: '' } }] })],
    ['a reasoning detail that is empty', chunk({ reasoning_details: [{ type: 'text', text: '', format: 'v1', index: 0 }] })],
    ['a number of a token', chunk({ token_id: 128_009, content: '' })],
    ['a delta that is null', { choices: [{ index: 0, delta: null, finish_reason: null }] }],
    ['logprobs alone', chunk({}, null, { logprobs: { content: [{ token: 'a' }] } })],
    ['the filter of a choice', chunk({}, null, { content_filter_results: { hate: { severity: 'safe' } } })],
    ["a filter's result without a delta", { choices: [{ index: 0, content_filter_offsets: {}, finish_reason: null }] }],
    ['no choices', { choices: [], prompt_filter_results: [{ prompt_index: 0 }], model: '' }],
    ['usage beside no choices', { id: 'a', choices: [], usage: { prompt_tokens: 1 } }],
    ['usage alone', { id: 'a', object: 'chat.completion.chunk', model: 'm', usage: { prompt_tokens: 1 } }],
    ['an empty message', { choices: [{ index: 0, message: { role: 'assistant', content: '' }, finish_reason: null }] }],
    ['an empty delta beside all that came before', chunk({ content: '' }, null, { message: { content: 'a' } })],
    ['an empty finish reason', chunk({}, '')],
    ['an empty text of a legacy completion', { choices: [{ index: 0, text: '', logprobs: null, finish_reason: null }] }],
    [
      'usage with all that stands beside it elsewhere',
      {
        id: 'a',
        provider: 'p',
        service_tier: 'default',
        system_fingerprint: 'fp_1',
        x_groq: { id: 'req_1' },
        obfuscation: 'x',
        usage: { prompt_tokens: 1, tier: 'x' }
      }
    ],
    [
      'the facts of a choice',
      {
        choices: [
          {
            index: 0,
            text: '',
            native_finish_reason: 'x',
            stop_reason: 'x',
            seed: 1,
            content_filter_results: { hate: 'x' }
          }
        ]
      }
    ],
    [
      'the facts of a candidate',
      candidate({ finishMessage: 'x', safetyRatings: [{ category: 'x' }], avgLogprobs: -1, tokenCount: 1 })
    ],
    ["Google's word on a prompt that it lets through", { promptFeedback: { safetyRatings: [{ category: 'x' }] } }],
    ['message_start', { type: 'message_start', message: { id: 'msg_1', role: 'assistant', content: [] } }],
    ['an empty text block', block({ type: 'text', text: '' })],
    ['an empty thinking block', block({ type: 'thinking', thinking: '', signature: '' })],
    ['an empty text_delta', blockDelta({ type: 'text_delta', text: '' })],
    ['an empty input_json_delta', blockDelta({ type: 'input_json_delta', partial_json: '' })],
    ['content_block_stop', { type: 'content_block_stop', index: 0 }],
    [
      'a message_delta without a stop reason',
      { type: 'message_delta', delta: { stop_reason: null }, usage: { output_tokens: 1 } }
    ],
    [
      'response.created',
      { type: 'response.created', response: { id: 'resp_1', error: null, instructions: 'be kind', output: [] } }
    ],
    ['response.in_progress', { type: 'response.in_progress', response: { id: 'resp_1', model: 'gpt' } }],
    ['response.queued', { type: 'response.queued', response: { id: 'resp_1' } }],
    ["a delta's name without its text", { type: 'response.mcp_call_arguments.delta', ...fact, delta: '', name: 'f' }],
    [
      'a message announced',
      item({ id: 'msg_1', type: 'message', status: 'in_progress', content: [], role: 'assistant', phase: 'commentary' })
    ],
    ['reasoning announced, sealed or not', item({ id: 'rs_1', type: 'reasoning', encrypted_content: 'gAAA', summary: [] })],
    ['a search announced', item({ id: 'ws_1', type: 'web_search_call', status: 'in_progress', action: { type: 'search' } })],
    ['a search under way', { type: 'response.web_search_call.searching', ...fact }],
    ['an empty part', { type: 'response.content_part.added', ...fact, part: { type: 'output_text', text: '', annotations: [] } }],
    ['an empty delta of the Responses API', { type: 'response.output_text.delta', ...fact, delta: '', obfuscation: 'x' }],
    ['an empty text that is done', { type: 'response.output_text.done', ...fact, text: '', logprobs: [] }],
    ['a candidate without parts', candidate({ content: { role: 'model' } })],
    ['an empty part of Google', parts({ text: '', thought: true })],
    [
      "Google's usage alone",
      { usageMetadata: { trafficType: 'ON_DEMAND' }, modelVersion: 'gemini', createTime: 't', responseId: 'r' }
    ],
    ['message-start', cohere('message-start', { role: 'assistant', content: [], tool_plan: '', tool_calls: [] })],
    ['content-start', cohere('content-start', { content: { type: 'text', text: '' } })],
    ['content-end', { type: 'content-end', index: 0 }]
  ])('%s', (_, event) => {
    expect(scanEvents(event)).toEqual(nothing)
  })

  it('comments, fields other than data, and no bytes', () => {
    for (const text of ['', ': OPENROUTER PROCESSING\n\n', 'id: 7\nretry: 10\n\n', 'event: message_start\n\n', '\n\n\n']) {
      expect(scan([encoder.encode(text)])).toEqual(nothing)
    }
  })
})

describe('what is content', () => {
  it.each<readonly [string, Json | readonly [string, string]]>([
    ['a text', chunk({ content: ' ' })],
    ['a text beside a role', chunk({ role: 'assistant', content: 'a' })],
    ['a text as a list of parts', chunk({ content: [{ type: 'text', text: 'a' }] })],
    ['a thought as a list of parts', chunk({ content: [{ type: 'thinking', thinking: [{ type: 'text', text: 'a' }] }] })],
    ['reasoning_content', chunk({ content: null, reasoning_content: 'a' })],
    ['reasoning', chunk({ role: 'assistant', content: '', reasoning: 'a' })],
    ['reasoning details', chunk({ reasoning_details: [{ type: 'reasoning.encrypted', data: 'a' }] })],
    ['a refusal', chunk({ refusal: 'a' })],
    ["a tool call's id", chunk({ tool_calls: [{ index: 0, id: 'call_1', type: 'function', function: { arguments: '' } }] })],
    ["a tool call's name", chunk({ tool_calls: [{ index: 0, function: { name: 'f' } }] })],
    ["a tool call's arguments", chunk({ tool_calls: [{ index: 1, function: { arguments: '{"' } }] })],
    ['a function call', chunk({ function_call: { name: '', arguments: '{' } })],
    ['audio', chunk({ audio: { id: 'audio_1', data: 'AAAA' } })],
    ['annotations', chunk({ annotations: [{ type: 'url_citation', url_citation: { url: 'https://a.example' } }] })],
    ['a field of the delta that nobody knows', chunk({ smell: { of: ['roses'] } })],
    ['a message where a delta is expected', { choices: [{ index: 0, message: { role: 'assistant', content: 'a' } }] }],
    ['a text of a legacy completion', { choices: [{ index: 0, text: 'a', logprobs: null, finish_reason: null }] }],
    ['a choice of a kind nobody knows', { choices: [{ index: 0, output: [0.5] }] }],
    ['a choice that is no object', { choices: ['a'] }],
    ['a tool_use block', block({ type: 'tool_use', id: 'toolu_1', name: 'f', input: {} })],
    ['a block of the server', block({ type: 'web_search_tool_result', content: [{ url: 'https://a.example' }] })],
    ['redacted thinking', block({ type: 'redacted_thinking', data: 'a' })],
    ['a text block that is not empty', block({ type: 'text', text: 'a' })],
    ['a text_delta', blockDelta({ type: 'text_delta', text: 'a' })],
    ['a text_delta the other way round', blockDelta({ text: 'a', type: 'text_delta' })],
    ['a thinking_delta', blockDelta({ type: 'thinking_delta', thinking: 'a' })],
    ['a signature_delta', blockDelta({ type: 'signature_delta', signature: 'a' })],
    ['an input_json_delta', blockDelta({ type: 'input_json_delta', partial_json: '{' })],
    ['a citation', blockDelta({ type: 'citations_delta', citation: { type: 'page_location', cited_text: 'a' } })],
    ['a delta of a kind nobody knows', blockDelta({ type: 'song_delta', song: 'la' })],
    ['a delta of the Responses API', { type: 'response.output_text.delta', ...fact, delta: 'a', logprobs: [] }],
    ['a refusal of the Responses API', { ...fact, delta: 'a', type: 'response.refusal.delta' }],
    ['arguments of a function', { type: 'response.function_call_arguments.delta', ...fact, delta: '{' }],
    ['a delta that is an object', { type: 'response.shell_call_output_content.delta', delta: { stdout: 'a' } }],
    ['a function call announced', item({ id: 'fc_1', type: 'function_call', call_id: 'call_1', name: 'f', arguments: '' })],
    ['an item that comes whole', item({ id: 'msg_1', type: 'message', content: [{ type: 'output_text', text: 'a' }] }, 'done')],
    ['reasoning that is done and sealed', item({ id: 'rs_1', type: 'reasoning', encrypted_content: 'gAAA' }, 'done')],
    ['a partial image', { type: 'response.image_generation_call.partial_image', ...fact, partial_image_b64: 'AAAA' }],
    [
      'an annotation',
      { type: 'response.output_text.annotation.added', ...fact, annotation: { type: 'x', url: 'https://a.example' } }
    ],
    ['an event of the Responses API that nobody knows', { type: 'response.song.added', ...fact, song: 'la' }],
    ["Google's text", parts({ text: 'a' })],
    ["Google's thought", parts({ text: 'a', thought: true })],
    ["Google's function call", parts({ functionCall: { name: 'f', args: {} } })],
    ["Google's image", parts({ text: '' }, { inlineData: { mimeType: 'image/png', data: 'AAAA' } })],
    ['a candidate of a kind nobody knows', { candidates: [{ output: 'a' }] }],
    ["Cohere's text", cohere('content-delta', { content: { text: 'a' } })],
    ["Cohere's thought", cohere('content-delta', { content: { thinking: 'a' } })],
    ["Cohere's plan", cohere('tool-plan-delta', { tool_plan: 'a' })],
    ["Cohere's tool call", cohere('tool-call-start', { tool_calls: { id: 'f_1', type: 'function', function: { name: 'f' } } })],
    ["Cohere's citation", cohere('citation-start', { citations: { start: 1, end: 2, text: 'a' } })],
    ['data that is no JSON', ['', 'Hello']],
    ['broken JSON in the middle', ['', '{"choices":[']],
    ['JSON that is no object', ['', '["a"]']],
    ['an object of an API nobody knows', { value: 'Sure' }],
    ['an object whose type nobody knows', { type: 'speech.audio.delta', audio: 'AAAA' }],
    ['an error that is no error', { value: 'a', error: null }],
    ["an error of a remote procedure, which is that caller's answer", { jsonrpc: '2.0', id: 1, error: { code: -32_601 } }]
  ])('%s', (_, event) => {
    expect(scanEvents(event)).toEqual(content)
  })

  it('in its shortest JSON as much as in JSON with spaces, over several lines', () => {
    const data = JSON.stringify(chunk({ content: 'a' }), null, 1)
    expect(scan([encoder.encode(frame(data.replaceAll('\n', '\ndata: ')))])).toEqual(content)
  })

  it('is told by the push in which its event ends, and by no other', () => {
    const scanner = createContentScanner()
    const text = frame(JSON.stringify(chunk({ content: 'a' })))
    expect(scanner.push(encoder.encode(text.slice(0, -1)))).toBe(false)
    expect(scanner.first).toBe('none')
    expect(scanner.push(encoder.encode('\n: ping\n\n'))).toBe(true)
    expect(scanner.push(encoder.encode(': ping\n\n'))).toBe(false)
    expect(scanner.push(encoder.encode(frame('{"choices":[]}') + text + frame('[DONE]')))).toBe(true)
    expect(scanner.end()).toBe(false)
  })
})

describe('the end', () => {
  it.each<readonly [string, Json]>([
    ['a finish reason', chunk({}, 'stop')],
    ['a finish reason of a legacy completion', { choices: [{ index: 0, text: '', finish_reason: 'length' }] }],
    ['a filter that let nothing through', chunk({ content: '' }, 'content_filter')],
    ['message_delta with a stop reason', { type: 'message_delta', delta: { stop_reason: 'refusal' }, usage: {} }],
    ['response.completed', { type: 'response.completed', response: { status: 'completed', error: null } }],
    ['response.incomplete', { type: 'response.incomplete', response: { incomplete_details: { reason: 'max_output_tokens' } } }],
    ["Google's finish reason", candidate({ content: { role: 'model' }, finishReason: 'MAX_TOKENS' })],
    ["Google's refusal of a prompt", { promptFeedback: { blockReason: 'PROHIBITED_CONTENT' }, usageMetadata: {} }],
    ["Google's refusal with no candidates", { candidates: [], promptFeedback: { blockReason: 'SAFETY' } }],
    ["Cohere's message-end", { type: 'message-end', delta: { finish_reason: 'COMPLETE', usage: {} } }]
  ])('%s is one, and a whole answer where nothing came before', (_, event) => {
    expect(scanEvents(event)).toEqual(end)
    expect(scanEvents({ value: 'a' }, event)).toEqual({ ...content, ended: true })
  })

  it('may come with the last content', () => {
    expect(scanEvents(chunk({ content: 'a' }, 'stop'))).toEqual({ ...content, ended: true })
    expect(scanEvents(candidate({ content: { parts: [{ text: 'a' }] }, finishReason: 'STOP' }))).toEqual({
      ...content,
      ended: true
    })
  })

  it('is told by [DONE] and message_stop too, which do not say that there was an answer', () => {
    for (const event of [['', '[DONE]'] as const, ['', ' [DONE] '] as const, { type: 'message_stop' }]) {
      expect(scanEvents(event)).toEqual({ ...nothing, ended: true })
      expect(scanEvents({ value: 'a' }, event)).toEqual({ ...content, ended: true })
    }
  })

  it('waits for every choice that was begun', () => {
    const piece = (index: number, text: string, finish: string | null = null): Json => chunk({ content: text }, finish, { index })
    const several = [piece(0, 'a'), piece(1, 'b'), piece(0, 'c'), piece(0, '', 'stop')]
    expect(scanEvents(...several).ended).toBe(false)
    expect(scanEvents(...several, piece(1, 'd', 'length')).ended).toBe(true)
    expect(scanEvents(...several, ['', '[DONE]']).ended).toBe(true)
    expect(scanEvents(piece(0, 'a', 'stop'), piece(1, 'b')).ended).toBe(false)
    const both: Json = {
      choices: [0, 1].map((index) => ({ index, delta: { content: 'a' }, finish_reason: index === 0 ? 'stop' : null }))
    }
    expect(scanEvents(both).ended).toBe(false)
  })

  it('stays one when bookkeeping follows', () => {
    const after = [chunk({}, 'stop'), { choices: [], usage: { prompt_tokens: 1 } }, { cost: 1 }, ['', '[DONE]'] as const]
    for (let length = 2; length <= after.length + 1; length++) {
      expect(scanEvents(...[chunk({ content: 'a' }), ...after].slice(0, length)).ended).toBe(true)
    }
  })

  it('takes indices that are none for the first choice, and keeps no more than 1024 of them', () => {
    for (const index of [-1, 0.5, 1e9, '7', null]) {
      expect(scanEvents(chunk({ content: 'a' }, null, { index }), chunk({}, 'stop')).ended).toBe(true)
    }
  })
})

describe('errors', () => {
  it.each<readonly [string, Json | readonly [string, string], number]>([
    ['an event named error', ['error', '{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'], 529],
    ['an event named error with the error itself', ['error', '{"code":429,"message":"slow down"}'], 429],
    ['an event named error that looks like content', ['error', JSON.stringify(chunk({ content: 'a' }))], 500],
    ['an event named error with prose', ['error', 'upstream failed'], 500],
    ['an event named error with nothing', ['error', ''], 500],
    ['an error object', { error: { message: 'no', type: 'rate_limit_error' } }, 429],
    ['an error text', { error: 'out of memory' }, 500],
    ["Google's error", { error: { code: 503, message: 'no', status: 'UNAVAILABLE' } }, 503],
    ['an error beside choices', { ...(chunk({ content: '' }, 'error') as object), error: { code: 502, message: 'no' } }, 502],
    ['an error beside content', { ...(chunk({ content: 'a' }) as object), error: { code: 'server_error' } }, 500],
    ['a choice that ends by an error', chunk({ content: '' }, 'error'), 500],
    ['a choice that says which', chunk({}, 'error', { error: { code: 429 } }), 429],
    [
      'an error event of the Responses API',
      { type: 'error', error: { type: 'insufficient_quota', code: 'insufficient_quota' } },
      429
    ],
    [
      'an error event of the Responses API, flat',
      { type: 'error', code: 'rate_limit_exceeded', message: 'no', param: null },
      429
    ],
    ['response.failed', { type: 'response.failed', response: { error: { code: 'server_error' } } }, 500],
    ['response.failed for a filtered prompt', { type: 'response.failed', response: { error: { code: 'invalid_prompt' } } }, 400],
    ['response.failed that says nothing', { type: 'response.failed' }, 500],
    ["Cohere's broken end", { type: 'message-end', delta: { finish_reason: 'ERROR' } }, 500]
  ])('%s', (_, event, status) => {
    expect(scanEvents(event)).toEqual(failure(status))
  })

  it('behind content leave what came first, tell the first status, and are no end', () => {
    const events = [chunk({ content: 'a' }), { error: { code: 429 } }, { error: { code: 503 } }]
    expect(scanEvents(...events)).toEqual({ ...content, errorStatus: 429 })
  })

  it('come before content that follows', () => {
    expect(scanEvents({ error: { code: 429 } }, chunk({ content: 'a' }))).toEqual({ ...failure(429), contents: 1 })
  })
})

describe('errorStatus', () => {
  it.each<readonly [Json | undefined, number]>([
    [{ status: 418 }, 418],
    [{ status: 'UNAVAILABLE', code: 503 }, 503],
    [{ code: '429', type: 'server_error' }, 429],
    [{ code: 'rate_limit_exceeded', type: 'invalid_request_error' }, 429],
    [{ code: null, type: 'authentication_error' }, 401],
    [{ type: 'billing_error' }, 402],
    [{ type: 'timeout_error' }, 504],
    [{ code: 1302, type: 'toString' }, 500],
    [{ status: 200, code: '4291' }, 500],
    [{}, 500],
    ['overloaded_error', 500],
    [null, 500],
    [undefined, 500]
  ])('of %j is %i', (error, status) => {
    expect(errorStatus(error)).toBe(status)
  })
})

describe('the bytes that are left at the end', () => {
  const text = frame(JSON.stringify(chunk({ content: 'a' }))).trimEnd()

  it('count as an event when it is whole', () => {
    const scanner = createContentScanner()
    expect(scanner.push(encoder.encode(text))).toBe(false)
    expect(scanner.end()).toBe(true)
    expect(scan([encoder.encode('data: [DONE]')])).toEqual({ ...nothing, ended: true })
    expect(scan([encoder.encode('data: Hello')])).toEqual(content)
  })

  it('count as nothing when they are half an event', () => {
    for (let length = 0; length < text.length; length++) {
      expect(scan([encoder.encode(text.slice(0, length))])).toEqual(nothing)
    }
  })

  it('are an error as soon as the event is named so', () => {
    expect(scan([encoder.encode('event: error\ndata: {"type":"err')])).toEqual(failure(500))
  })
})

const streams = {
  openai: [
    ': hi\n\n',
    frame(JSON.stringify(chunk({ role: 'assistant', content: '' }))),
    frame(JSON.stringify(chunk({ content: 'né 世界 😀 \\" {"choices":[{"delta":{"content":"' }))),
    frame(JSON.stringify(chunk({}, 'stop'))),
    'data: [DONE]\n\n'
  ],
  anthropic: [
    frame('{"type":"message_start","message":{"content":[]}}', 'message_start'),
    frame('{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}', 'content_block_start'),
    frame('{"type": "ping"}', 'ping'),
    frame('{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"é"}}', 'content_block_delta'),
    frame('{"type":"message_delta","delta":{"stop_reason":"end_turn"}}', 'message_delta'),
    frame('{"type":"message_stop"}', 'message_stop')
  ],
  failed: [frame('{"type":"keepalive"}'), frame('{"error":{"code":429}}'), frame('[DONE]')]
}

describe('cuts', () => {
  it.each(Object.entries(streams))('at every byte of %s leave the verdict as it is', (_, events) => {
    for (const lineEnd of ['\n', '\r\n', '\r']) {
      const bytes = encoder.encode(events.join('').replaceAll('\n', lineEnd))
      const whole = scan([bytes])
      for (let at = 0; at <= bytes.length; at++) {
        const { first, ended, errorStatus: status } = scan([bytes.subarray(0, at), bytes.subarray(at)])
        expect({ first, ended, status }).toEqual({ first: whole.first, ended: whole.ended, status: whole.errorStatus })
      }
      expect(scan(cut(bytes, () => 1))).toEqual(whole)
    }
  })

  it('at random leave the verdict as it is, and tell each content once (seed 31)', () => {
    const events = fc.array(fc.constantFrom(...Object.values(streams).flat()), { maxLength: 12 })
    fc.assert(
      fc.property(events, fc.array(fc.integer({ min: 1, max: 90 }), { minLength: 1 }), (list, sizes) => {
        const bytes = encoder.encode(list.join(''))
        const byEvent = scan(list.map((event) => encoder.encode(event)))
        let next = 0
        const random = scan(cut(bytes, () => sizes[next++ % sizes.length] as number))
        expect({ ...random, contents: 0 }).toEqual({ ...byEvent, contents: 0 })
        expect(random.contents).toBeLessThanOrEqual(byEvent.contents)
        expect(random.contents > 0).toBe(byEvent.contents > 0)
      }),
      { seed: 31, numRuns: 500 }
    )
  })

  it('and bytes of any kind never make it throw (seed 32)', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.integer({ min: 1, max: 9 }), (bytes, size) => {
        const { first, ended, errorStatus: status } = scan([bytes])
        expect(scan(cut(bytes, () => size))).toMatchObject({ first, ended, errorStatus: status })
      }),
      { seed: 32, numRuns: 1000 }
    )
  })

  it('and JSON of any kind never makes it throw, however deep (seed 33)', () => {
    fc.assert(
      fc.property(fc.json(), (data) => {
        scan([encoder.encode(frame(data))])
      }),
      { seed: 33, numRuns: 2000 }
    )
    const deep = (open: string, close: string): string => `${open.repeat(100_000)}1${close.repeat(100_000)}`
    for (const piece of [deep('[', ']'), deep('{"a":', '}'), deep('[{"content":', '}]')]) {
      for (const data of [piece, `{"choices":[{"delta":${piece}}]}`, `{"choices":${piece}}`, `{"error":${piece}}`]) {
        expect(scan([encoder.encode(frame(data))], { maxEventChars: 10_000_000 }).first).not.toBe('none')
      }
    }
  })
})

describe('the short way', () => {
  // Names that the short way looks for, in texts that quote them, escaped as JSON escapes them.
  const traps = [
    '"delta":{"content":"x"',
    ',"choices":[{"index":0,"delta":{"content":"x',
    '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}',
    '{"type":"response.output_text.delta","delta":"x"}',
    ',"finish_reason":"stop"}]',
    '"},"logprobs":null,"finish_reason":null}]}',
    '\\',
    '\\"',
    '"',
    '{',
    '}]',
    '\n',
    'é😀'
  ]
  const text = fc.oneof(
    fc.constant(''),
    fc.array(fc.constantFrom(...traps, 'a', ' '), { maxLength: 4 }).map((list) => list.join('')),
    fc.string({ maxLength: 8 })
  )
  const maybe = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined, freq: 2 })
  const nullable = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: null })

  /** An object with these fields, each name once, mostly in this order: an `undefined` one is left out. */
  function object(fields: Readonly<Record<string, fc.Arbitrary<unknown>>>): fc.Arbitrary<Json> {
    const names = Object.keys(fields)
    return fc
      .tuple(
        fc.record(fields),
        fc.oneof(
          { weight: 7, arbitrary: fc.constant(names) },
          { weight: 1, arbitrary: fc.shuffledSubarray(names, { minLength: names.length }) }
        )
      )
      .map(([values, order]) => Object.fromEntries(order.map((name) => [name, values[name]])) as Json)
  }

  const call = object({
    index: maybe(fc.integer({ min: 0, max: 11 })),
    id: maybe(text),
    function: maybe(object({ name: maybe(text), arguments: maybe(nullable(text)) })),
    logprobs: maybe(fc.constant(null)),
    finish_reason: maybe(fc.constantFrom(null, 'stop'))
  })
  const delta = object({
    role: maybe(fc.constantFrom('assistant', 'user')),
    content: maybe(nullable(text)),
    reasoning_content: maybe(nullable(text)),
    reasoning: maybe(text),
    refusal: maybe(nullable(text)),
    tool_calls: maybe(fc.array(call, { maxLength: 2 })),
    delta: maybe(object({ content: text }))
  })
  const choice = object({
    index: maybe(fc.integer({ min: 0, max: 2 })),
    delta: maybe(delta),
    text: maybe(text),
    logprobs: maybe(fc.constantFrom(null, { content: [{ token: '"' }] })),
    finish_reason: maybe(fc.constantFrom(null, 'stop', 'length', '', 'error')),
    native_finish_reason: maybe(fc.constantFrom(null, 'stop'))
  })
  const chat = object({
    id: maybe(text),
    meta: maybe(object({ choices: fc.array(choice, { maxLength: 1 }), delta })),
    model: maybe(text),
    choices: fc.array(choice, { maxLength: 2 }),
    usage: maybe(fc.constantFrom(null, { prompt_tokens: 1 })),
    error: maybe(fc.constantFrom(null, 'no', { code: 429 })),
    obfuscation: maybe(text)
  })
  const kinds = ['text_delta', 'thinking_delta', 'input_json_delta', 'signature_delta', 'other']
  const messages = object({
    type: fc.constantFrom('content_block_delta', 'content_block_start', 'message_delta', 'ping'),
    index: maybe(fc.integer({ min: 0, max: 12 })),
    note: maybe(object({ delta: object({ type: fc.constant('text_delta'), text }) })),
    delta: maybe(
      object({
        type: fc.constantFrom(...kinds),
        text: maybe(text),
        thinking: maybe(text),
        partial_json: maybe(text),
        stop_reason: maybe(text)
      })
    )
  })
  const responses = object({
    type: fc.constantFrom('response.output_text.delta', 'response.output_text.done', 'response.created', 'response.delta.added'),
    content_index: maybe(fc.constant(0)),
    item: maybe(object({ id: text, delta: text })),
    list: maybe(fc.constant([])),
    delta: maybe(nullable(text)),
    item_id: maybe(text),
    sequence_number: maybe(fc.nat())
  })

  // Random objects are seldom of the shapes that are looked for: these nearly always are.
  const nearlyPlainDelta = fc.oneof(
    object({ content: text }),
    object({ role: fc.constant('assistant'), content: text }),
    object({ content: nullable(text), reasoning_content: text }),
    object({
      tool_calls: fc.tuple(
        object({ index: fc.nat(11), function: object({ arguments: text }), logprobs: maybe(fc.constant(null)) })
      )
    })
  )
  const nearlyPlainChoice = object({
    index: fc.constantFrom(undefined, 0, 0, 0, 1),
    delta: nearlyPlainDelta,
    logprobs: maybe(fc.constant(null)),
    finish_reason: fc.constantFrom(undefined, null, null, null, '', 'stop')
  })
  const nearlyPlainChat = object({
    id: text,
    choices: fc.array(nearlyPlainChoice, { minLength: 1, maxLength: 2 }),
    usage: maybe(fc.constant(null)),
    error: fc.constantFrom(undefined, undefined, undefined, 'no', { code: 429 }),
    obfuscation: maybe(text)
  })
  const nearlyPlainMessage = object({
    type: fc.constant('content_block_delta'),
    index: fc.nat(12),
    delta: fc.oneof(
      object({ type: fc.constant('text_delta'), text }),
      object({ type: fc.constant('thinking_delta'), thinking: text }),
      object({ type: fc.constant('input_json_delta'), partial_json: text })
    ),
    note: maybe(text)
  })

  it.each([
    { api: 'chat completions', events: fc.oneof(chat, nearlyPlainChat), seed: 34 },
    { api: "Anthropic's messages", events: fc.oneof(messages, nearlyPlainMessage), seed: 35 },
    { api: 'the Responses API', events: responses, seed: 36 }
  ])('agrees with the long way on $api (seed $seed)', ({ events, seed }) => {
    let plain = 0
    fc.assert(
      fc.property(events, (event) => {
        const compact = JSON.stringify(event)
        // Spaces between the tokens close the short way.
        const long = scan([encoder.encode(frame(JSON.stringify(event, null, 1).replaceAll('\n', '\ndata: ')))])
        expect(scan([encoder.encode(frame(compact))])).toEqual(long)
        if (!isPlainDelta(compact)) return
        plain++
        expect(long).toEqual(content)
      }),
      { seed, numRuns: 12_000 }
    )
    expect(plain).toBeGreaterThan(200)
  })

  it('is taken for the common shapes, escapes included', () => {
    const shapes = [
      chunk({ content: 'a' }),
      chunk({ content: 'say "x" \\ \n' }),
      chunk({ content: 'a\\' }),
      chunk({ role: 'assistant', content: 'a' }),
      chunk({ reasoning_content: 'a' }),
      chunk({ content: null, reasoning_content: 'a' }),
      chunk({ role: 'assistant', content: '', reasoning: 'a' }),
      chunk({ tool_calls: [{ index: 3, function: { arguments: '{"a":"' } }] }),
      { choices: [{ delta: { content: 'a' }, finish_reason: null, index: 0, logprobs: null }], id: 'a' },
      { choices: [{ delta: { content: 'a' } }] },
      blockDelta({ type: 'text_delta', text: '"' }),
      blockDelta({ type: 'thinking_delta', thinking: 'a' }),
      { ...(blockDelta({ type: 'input_json_delta', partial_json: '{' }) as object), index: 12 },
      { type: 'response.output_text.delta', content_index: 0, delta: '{"', item_id: 'msg_1', logprobs: [] },
      { type: 'response.function_call_arguments.delta', delta: 'a' }
    ]
    for (const shape of shapes) expect([shape, isPlainDelta(JSON.stringify(shape))]).toEqual([shape, true])
  })

  it('is not taken where another meaning may hide behind the text', () => {
    const shapes = [
      chunk({ content: 'a' }, 'stop'),
      chunk({ content: 'a' }, null, { index: 1 }),
      { choices: [{ delta: { content: 'a' }, index: 1 }] },
      {
        choices: [
          { index: 0, delta: { content: 'a' } },
          { index: 1, delta: {}, finish_reason: 'stop' }
        ]
      },
      { ...(chunk({ content: 'a' }) as object), error: { code: 429 } },
      { choices: [{ index: 0, delta: { tool_calls: [{ index: 0, function: { arguments: 'x' } }] }, finish_reason: 'stop' }] },
      { meta: chunk({ content: 'a' }), choices: [] },
      { choices: [], meta: { delta: { content: 'a' } } },
      { 'a"choices': [{ index: 0, delta: { content: 'a' } }], choices: [] },
      { type: 'response.created', note: 'x', delta: 'a' },
      { type: 'response.output_text.delta', item: { id: 'x', delta: 'a' }, delta: '' },
      { type: 'content_block_delta', index: 0, note: { x: 1, delta: { type: 'text_delta', text: 'a' } } }
    ]
    for (const shape of shapes) expect([shape, isPlainDelta(JSON.stringify(shape))]).toEqual([shape, false])
  })
})

describe('bounds', () => {
  it('throws what the parser throws at an event longer than maxEventChars, and still tells what came before', () => {
    const scanner = createContentScanner({ maxEventChars: 100 })
    let thrown: unknown
    try {
      scanner.push(encoder.encode(`data: a\n\ndata: ${'a'.repeat(101)}`))
    } catch (error) {
      thrown = error
    }
    expect(isMillraceError(thrown, 'protocol') && thrown.details.reason).toBe('too-large')
    expect(scanner.first).toBe('content')
    expect(() => createContentScanner().push(encoder.encode(`data: ${'a'.repeat(1_048_577)}`))).toThrow('maxEventChars')
  })

  it('says what to write instead of wrong options', () => {
    expect(() => createContentScanner({ maxEventChars: 0 })).toThrow(TypeError)
    expect(() => createContentScanner({ maxBytes: 1 } as SSEOptions)).toThrow('createContentScanner has no option "maxBytes"')
  })

  // The yardstick is the decoder alone on the same slivers, so that the machine's speed cancels out.
  it('takes time linear in the bytes of a line of 10 MB that comes in slivers of 1 to 16 bytes', () => {
    const bytes = encoder.encode(frame('abcdefghij'.repeat(1_000_000)))
    const slivers = (): Generator<Uint8Array> => {
      let state = 5
      return cut(bytes, () => {
        state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
        return 1 + (state % 16)
      })
    }
    const decodeMs = timed(() => {
      const decoder = new TextDecoder()
      let chars = 0
      for (const sliver of slivers()) chars += decoder.decode(sliver, { stream: true }).length
      expect(chars).toBe(bytes.length)
    })
    const scanMs = timed(() => {
      expect(scan(slivers(), { maxEventChars: 20_000_000 })).toEqual(content)
    })
    expect(scanMs).toBeLessThan(decodeMs * 5 + 500)
  })

  it.each([
    ['quotes', '{"id":1,"choices":[{"index":0,"delta":{"content":"', '\\"\\\\{', '"}}]}'],
    ['backslashes', '{"choices":[{"index":0,"delta":{"content":"', '\\\\\\\\', '"}}]}'],
    ['braces', '{"type":"response.output_text.delta","x":"', '{,\\"delta\\":', '","delta":"a"}'],
    ['open lists', '{"choices":', '[', '']
  ])('takes time linear in the length of an event full of %s', (_, head, filler, tail) => {
    const event = (repeats: number): Uint8Array => encoder.encode(frame(head + filler.repeat(repeats) + tail))
    const few = event(10_000)
    const many = event(100_000)
    const fewMs = timed(() => {
      for (let run = 0; run < 10; run++) expect(scan([few]).first).toBe('content')
    })
    const manyMs = timed(() => expect(scan([many], { maxEventChars: 2_000_000 }).first).toBe('content'))
    expect(manyMs).toBeLessThan(fewMs * 5 + 200)
  })
})

function timed(work: () => void): number {
  const startedAt = performance.now()
  work()
  return performance.now() - startedAt
}
