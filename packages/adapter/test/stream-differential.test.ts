import { anthropic } from '@millrace/adapter/anthropic'
import { openai } from '@millrace/adapter/openai'
import { type Chunk, isMillraceError, type Json, nextBatch, type Usage } from '@millrace/core'
import { seededRandom } from '@millrace/testkit'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { bytesSend, cutBytes } from './bytes-send.ts'

// Reading an answer is the hottest code there is, and full of short ways. What they give is held here against the plain way:
// the whole text decoded at once, each event parsed by `JSON.parse`, each field read where it stands.

type Api = 'openai' | 'anthropic'
interface Outcome {
  readonly chunks: readonly Chunk[]
  /** `done`, or the code and reason of the error. */
  readonly end: string
}
type Fields = Record<string, unknown>

// ---------------------------------------------------------------- the plain way

function plainEvents(text: string): { readonly events: readonly { event: string; data: string }[]; readonly cut: boolean } {
  const events: { event: string; data: string }[] = []
  let data: string[] = []
  let event = ''
  const lines = text.replace(/^\ufeff/, '').split(/\r\n|\r|\n/)
  const cut = lines.at(-1) !== '' || lines.at(-2) !== ''
  for (const line of [...lines, '']) {
    if (line === '') {
      if (data.length > 0) events.push({ event, data: data.join('\n') })
      data = []
      event = ''
    } else if (line.startsWith('data:')) data.push(line.slice(line[5] === ' ' ? 6 : 5))
    else if (line.startsWith('event:')) event = line.slice(line[6] === ' ' ? 7 : 6)
  }
  return { events, cut }
}

class Broken extends Error {}

function plainly(api: Api, bytes: Uint8Array): Outcome {
  const { events, cut } = plainEvents(new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes))
  const reader = api === 'openai' ? plainChat() : plainMessages()
  for (const [at, { event, data }] of events.entries()) {
    try {
      if (reader.read(event, data)) break
    } catch (error) {
      if (!(error instanceof Broken)) throw error
      // Half an event at the end of the bytes is not what is wrong: the end is.
      if (cut && at === events.length - 1 && error.message === 'protocol malformed') break
      return reader.end() ? { chunks: reader.chunks, end: 'done' } : { chunks: reader.chunks, end: error.message }
    }
  }
  return { chunks: reader.chunks, end: reader.end() ? 'done' : 'protocol incomplete' }
}

interface PlainReader {
  readonly chunks: Chunk[]
  /** True: this was the last. */
  read(event: string, data: string): boolean
  /** False: no finish was told. */
  end(): boolean
}

function objectOf(data: string): Fields {
  let body: unknown
  try {
    body = JSON.parse(data)
  } catch {
    throw new Broken('protocol malformed')
  }
  if (typeof body !== 'object' || body === null || Array.isArray(body)) throw new Broken('protocol malformed')
  return body as Fields
}

const finishes: Readonly<Record<string, 'stop' | 'length' | 'tool-calls'>> = {
  stop: 'stop',
  end_turn: 'stop',
  length: 'length',
  max_tokens: 'length',
  tool_calls: 'tool-calls',
  tool_use: 'tool-calls'
}

function plainChat(): PlainReader {
  const chunks: Chunk[] = []
  const begun = new Set<number>()
  let started = false
  let usage: Usage | undefined
  let finish: Chunk | undefined
  let cited = false
  return {
    chunks,
    read(event, data) {
      if (data === '[DONE]') return true
      if (data === '') return false
      const body = objectOf(data)
      if (event === 'error' || body.error) throw new Broken('unavailable')
      const choices = (body.choices ?? []) as Fields[]
      const choice = choices.find(({ index }) => index === undefined || index === 0)
      if (!started && (choice !== undefined || body.model !== '')) {
        started = true
        const start = { type: 'start', provider: 'openai', model: (body.model as string) || 'asked' } as const
        chunks.push(body.id ? { ...start, id: body.id as string } : start)
      }
      if (Array.isArray(body.citations) && !cited) {
        cited = true
        chunks.push({ type: 'extra', name: 'citations', value: body.citations as Json })
      }
      if (body.usage) {
        const { prompt_tokens, completion_tokens } = body.usage as { prompt_tokens: number; completion_tokens: number }
        usage = usageOf(prompt_tokens, completion_tokens)
      }
      const delta = (choice?.delta ?? {}) as Fields
      if (delta.reasoning_content) chunks.push({ type: 'reasoning', text: delta.reasoning_content as string })
      if (delta.content) chunks.push({ type: 'text', text: delta.content as string })
      if (delta.refusal) chunks.push({ type: 'refusal', text: delta.refusal as string })
      for (const call of (delta.tool_calls ?? []) as { index: number; function: { arguments: string } }[]) {
        const { index } = call
        chunks.push({
          type: 'tool-call',
          index,
          ...(begun.has(index) ? {} : { id: 'made up' }),
          arguments: call.function.arguments
        })
        begun.add(index)
      }
      if (choice?.logprobs) chunks.push({ type: 'extra', name: 'logprobs', value: choice.logprobs as Json })
      if (choice?.finish_reason) finish = { type: 'finish', reason: finishes[choice.finish_reason as string] ?? 'other' }
      return false
    },
    end() {
      if (finish === undefined) return false
      if (usage !== undefined) chunks.push({ type: 'usage', usage })
      chunks.push(finish)
      return true
    }
  }
}

function plainMessages(): PlainReader {
  const chunks: Chunk[] = []
  const blocks = new Map<number, { type: string; call: number; input: string }>()
  let calls = 0
  let input = 0
  let output = 0
  let finish: Chunk | undefined
  /** A tool without input says so when its block is closed, be it by the next of its number or by the end. */
  const close = (index: number): void => {
    const block = blocks.get(index)
    blocks.delete(index)
    if (block?.type === 'tool_use' && block.input === '') chunks.push({ type: 'tool-call', index: block.call, arguments: '{}' })
  }
  return {
    chunks,
    read(_, data) {
      if (data === '') return false
      const body = objectOf(data)
      const index = (body.index ?? 0) as number
      const delta = (body.delta ?? {}) as Fields
      switch (body.type) {
        case 'message_start': {
          const { id, model, usage } = body.message as { id: string; model: string; usage: { input_tokens: number } }
          chunks.push({ type: 'start', provider: 'anthropic', model, id })
          input = usage.input_tokens
          return false
        }
        case 'content_block_start': {
          const { type, id, name } = body.content_block as { type: string; id: string; name: string }
          close(index)
          blocks.set(index, { type, call: type === 'tool_use' ? calls++ : -1, input: '' })
          if (type === 'tool_use') chunks.push({ type: 'tool-call', index: calls - 1, id, name, arguments: '' })
          return false
        }
        case 'content_block_delta': {
          const block = blocks.get(index)
          if (delta.type === 'text_delta' && delta.text) chunks.push({ type: 'text', text: delta.text as string })
          if (delta.type === 'thinking_delta' && delta.thinking)
            chunks.push({ type: 'reasoning', text: delta.thinking as string })
          if (delta.type === 'input_json_delta' && block !== undefined && delta.partial_json) {
            block.input += delta.partial_json as string
            if (block.call >= 0) chunks.push({ type: 'tool-call', index: block.call, arguments: delta.partial_json as string })
          }
          return false
        }
        case 'content_block_stop': {
          close(index)
          return false
        }
        case 'message_delta':
          if (delta.stop_reason) finish = { type: 'finish', reason: finishes[delta.stop_reason as string] ?? 'other' }
          output = (body.usage as { output_tokens: number }).output_tokens
          return false
        case 'message_stop':
          return true
        case 'error':
          throw new Broken('unavailable')
        default:
          return false
      }
    },
    end() {
      if (finish === undefined) return false
      for (const index of blocks.keys()) close(index)
      chunks.push({ type: 'usage', usage: usageOf(input, output) }, finish)
      return true
    }
  }
}

function usageOf(input: number, output: number): Usage {
  return {
    input: { uncached: input, cacheRead: 0, cacheWrite: 0 },
    output: { text: output, reasoning: 0 },
    estimated: false,
    billed: true
  }
}

// ---------------------------------------------------------------- the way under test

const options = { apiKey: 'k', baseURL: 'http://127.0.0.1:1' }
const providers = { openai: openai(options), anthropic: anthropic(options) }
const request = { model: 'asked', messages: [{ role: 'user' as const, content: 'x' }] }

async function read(api: Api, batches: readonly (readonly Uint8Array[])[], oneByOne = false): Promise<Outcome> {
  const iterator = providers[api].connect(bytesSend({ batches }))(request, { stream: true })[Symbol.asyncIterator]()
  const chunks: Chunk[] = []
  try {
    if (oneByOne) for (let next = await iterator.next(); next.done !== true; next = await iterator.next()) chunks.push(next.value)
    else for (let all = await nextBatch(iterator); all !== undefined; all = await nextBatch(iterator)) chunks.push(...all)
  } catch (error) {
    if (!isMillraceError(error)) throw error
    return {
      chunks: chunks.filter(({ type }) => type !== 'note').map(named),
      end: error.code === 'protocol' ? `protocol ${String((error.details as Fields).reason)}` : error.code
    }
  }
  return { chunks: chunks.filter(({ type }) => type !== 'note').map(named), end: 'done' }
}

/** An id that the provider left out is made up. */
function named(chunk: Chunk): Chunk {
  return chunk.type === 'tool-call' && chunk.id?.startsWith('call_') === true ? { ...chunk, id: 'made up' } : chunk
}

const fieldOf = (chunk: Chunk): string | undefined =>
  chunk.type === 'tool-call'
    ? `call ${chunk.index}`
    : chunk.type === 'text' || chunk.type === 'reasoning' || chunk.type === 'refusal'
      ? chunk.type
      : undefined
const textOf = (chunk: Chunk): string => (chunk.type === 'tool-call' ? chunk.arguments : 'text' in chunk ? chunk.text : '')

/** Where pairs are split, pieces of text may be cut otherwise; what each field says, and all else, may not differ. */
function joined({ chunks, end }: Outcome) {
  const fields: Record<string, string> = {}
  for (const chunk of chunks) {
    const field = fieldOf(chunk)
    if (field !== undefined) fields[field] = (fields[field] ?? '') + textOf(chunk)
  }
  const texts = Object.entries(fields).map(([field, value]) => [
    field,
    end === 'done' ? value.toWellFormed() : withoutHalf(value)
  ])
  const told = texts.filter(([field, value]) => value !== '' || field?.startsWith('call') === true)
  return { end, texts: Object.fromEntries(told), others: chunks.filter((chunk) => fieldOf(chunk) === undefined) }
}

/** Of a stream that broke, half a pair at its end may be told or left out. */
function withoutHalf(text: string): string {
  return text.toWellFormed().replace(/\ufffd+$/, '')
}

/** A stream that broke may tell what was used until then, or not. */
function withoutUsage({ chunks, end }: Outcome): Outcome {
  return end === 'done' ? { chunks, end } : { chunks: chunks.filter(({ type }) => type !== 'usage'), end }
}

function expectSame(told: Outcome, wanted: Outcome): void {
  const got = withoutUsage(told)
  const isSplit = wanted.chunks.some((chunk) => !textOf(chunk).isWellFormed())
  if (isSplit) expect(joined(got)).toEqual(joined(wanted))
  else expect(got).toEqual(wanted)
  for (const chunk of got.chunks) expect(textOf(chunk).isWellFormed()).toBe(true)
}

async function expectPlain(api: Api, body: string | Uint8Array, seeds: readonly number[] = [1, 2, 3]): Promise<Outcome> {
  const bytes = typeof body === 'string' ? Buffer.from(body) : body
  const wanted = plainly(api, bytes)
  expectSame(await read(api, [[bytes]]), wanted)
  for (const seed of seeds) {
    const random = seededRandom(seed)
    for (const maxBytes of [8, 61, 700])
      expectSame(await read(api, cutBytes(bytes, random, { maxBytes, maxPieces: 4 }), seed % 2 === 0), wanted)
  }
  return wanted
}

// ---------------------------------------------------------------- event streams

const envelope = '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m-1",'
const chatHead = `${envelope}"choices":[{"index":0,"delta":{`
const chatTail = '},"logprobs":null,"finish_reason":null}]}'
const content = (words: string, tail = chatTail): string => `${chatHead}"content":"${words}"${tail}`
const usageTail = (tokens: number): string =>
  `},"finish_reason":null}],"usage":{"prompt_tokens":${tokens},"completion_tokens":1,"total_tokens":${tokens + 1}}}`
const chatStop = `${chatHead}},"finish_reason":"stop"}]}`
const frame = (data: string): string => `data: ${data}\n\n`
const chat = (...events: readonly string[]): string => [...events, chatStop, '[DONE]'].map(frame).join('')

/** Words as they stand in the source of a JSON string. */
const words = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom('a', ' word', 'one', ' two', '.', '0', 'index', 'content', 'm-1', 'assistant') },
  { weight: 2, arbitrary: fc.constantFrom('é', '日本', '😀', '\u2028', 'ﬁ', '\u007f') },
  {
    weight: 3,
    arbitrary: fc.constantFrom(
      '\\n',
      '\\"',
      '\\\\',
      'a\\u00e9',
      '\\/',
      '\\"},\\"logprobs',
      '\\"}}]}',
      '\\\\\\"',
      '\\u0000',
      '\\ud83d\\ude00'
    )
  },
  { weight: 1, arbitrary: fc.constantFrom('\\ud83d', '\\ude00', 'x\\ud83d', '\\ude00y') },
  { weight: 1, arbitrary: fc.constant('') },
  { weight: 1, arbitrary: fc.string({ maxLength: 40 }).map((text) => JSON.stringify(text).slice(1, -1)) }
)

/** Ways to write the same kind of event, each with words in it. */
const chatShapes: readonly ((words: string, other: string) => string)[] = [
  (text) => content(text),
  (text) => content(text, '},"finish_reason":null}]}'),
  (text, other) => content(text, `${chatTail.slice(0, -1)},"obfuscation":"${other}"}`),
  (text, other) => content(text, `${chatTail.slice(0, -1)},"service_tier":"${other}","obfuscation":"${text}"}`),
  (text, other) => content(text, `,"refusal":"${other}"${chatTail}`),
  (text, other) => content(text, usageTail(other.length % 3)),
  (text) => `${chatHead}"role":"assistant","content":"${text}"${chatTail}`,
  (text, other) => `${chatHead}"content":"${other}","content":"${text}"${chatTail}`,
  (text, other) => `${chatHead}"content":"${text}","content":"${other}"${chatTail}`,
  (text) => `${chatHead}"reasoning_content":"${text}"${chatTail}`,
  (text, other) => `${chatHead}"content":"${text}","reasoning_content":"${other}"${chatTail}`,
  (text) => `${chatHead}"refusal":"${text}"${chatTail}`,
  (text) => `${chatHead}"content":"${text}"},"logprobs":{"content":[{"token":"${text}"}]},"finish_reason":null}]}`,
  (text) => `${envelope}"choices":[{"delta":{"content":"${text}"},"index":0,"finish_reason":null}]}`,
  (text) => `${envelope}"choices":[{"delta":{"content":"${text}"},"index":1,"finish_reason":null}]}`,
  (text, other) =>
    `${envelope}"choices":[{"index":1,"delta":{"content":"${other}"}},{"index":0,"delta":{"content":"${text}"},"finish_reason":null}]}`,
  (text) => content(text, `},"finish_reason":null}],"citations":["${text}"]}`),
  (text) => content(text, '},"finish_reason":"length"}]}'),
  (text) => content(text, '},"finish_reason":""}]}'),
  (text) => `${chatHead}"tool_calls":[{"index":0,"function":{"arguments":"${text}"}}]${chatTail}`,
  (text, other) => `${chatHead}"tool_calls":[{"index":${other.length % 2},"function":{"arguments":"${text}"}}]${chatTail}`,
  () => `${chatHead}"content":null${chatTail}`,
  () => `${envelope}"choices":[]}`,
  () => `${envelope}"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}`,
  (text) => `{ "id": "chatcmpl-1",\n "model": "m-1",\n "choices": [{"index": 0, "delta": {"content": "${text}"}}]\n}`
]

const blockDelta = (index: number, delta: string): string => `{"type":"content_block_delta","index":${index},"delta":${delta}}`
const messageShapes: readonly ((words: string, other: string) => string)[] = [
  (text) => blockDelta(0, `{"type":"text_delta","text":"${text}"}`),
  (text) => blockDelta(0, `{"type":"text_delta","text":"${text}"} `),
  (text) => blockDelta(1, `{"type":"text_delta","text":"${text}"}`),
  (text) => blockDelta(0, `{"text":"${text}","type":"text_delta"}`),
  (text) => blockDelta(0, `{"text":"${text}","type":"unheard_of_delta"}`),
  (text, other) => blockDelta(0, `{"type":"text_delta","text":"${other}","text":"${text}"}`),
  (text) => `{"delta":{"type":"text_delta","text":"${text}"},"index":0,"type":"content_block_delta"}`,
  (text) => `{"delta":{"type":"text_delta","text":"${text}"},"index":0,"type":"unheard_of"}`,
  (text, other) => `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"${text}"},"p":"${other}"}`,
  (text) => blockDelta(1, `{"type":"thinking_delta","thinking":"${text}"}`),
  (text) => blockDelta(2, `{"type":"input_json_delta","partial_json":"${text}"}`),
  (text) => blockDelta(3, `{"type":"input_json_delta","partial_json":"${text}"}`),
  (text) => blockDelta(2, `{"type":"thinking_delta","thinking":"${text}"}`),
  () => '{"type":"ping"}',
  () => '{"type":"content_block_stop","index":2}',
  () => '{"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"t2","name":"g","input":{}}}',
  () => '{"type":"message_delta","delta":{"stop_reason":"max_tokens"},"usage":{"output_tokens":3}}'
]
const messagesStart = [
  '{"type":"message_start","message":{"id":"msg_1","model":"m-1","usage":{"input_tokens":5}}}',
  '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
  '{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"t1","name":"f","input":{}}}'
]
const messagesEnd = [
  '{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9}}',
  '{"type":"message_stop"}'
]

/** An event that must end the stream, or be told from one that must not. */
const breaks: readonly string[] = [
  content('a\tb'),
  content('a"b'),
  content('a\\x'),
  content('a').slice(0, -1),
  '[1]',
  'null',
  `{"type":"error","error":{"message":"m","type":"server_error","code":500}}`,
  content('late', `${chatTail.slice(0, -1)},"error":{"message":"m","type":"server_error","code":500}}`)
]

/** How the same event can be written as lines. */
type Framing = (data: string, name: string | undefined) => string
const nameLine = (name: string | undefined, end: string): string => (name === undefined ? '' : `event: ${name}${end}`)
const framings: readonly Framing[] = [
  (data, name) => `${nameLine(name, '\n')}data: ${data.replaceAll('\n', '\ndata: ')}\n\n`,
  (data, name) => `${nameLine(name, '\r\n')}data: ${data.replaceAll('\n', '\r\ndata: ')}\r\n\r\n`,
  (data, name) => `${nameLine(name, '\r')}data:${data.replaceAll('\n', '\rdata:')}\r\r`,
  (data, name) => `: a comment\n${nameLine(name, '\n')}data: ${data.replaceAll('\n', '\n: and another\ndata: ')}\n\n`,
  (data, name) => `id: 7\ndata: ${data.replaceAll('\n', '\ndata: ')}\n${nameLine(name, '\n')}retry: 5\n\n`,
  (data, name) => `${nameLine(name, '\n')}data: ${data.replaceAll('\n', '\ndata: ')}\n\n: ping\n\n\n`
]

/** Mostly the same shape and framing again, as streams are; each run of them with its own words. */
function bodies(api: Api): fc.Arbitrary<string> {
  const shapes = api === 'openai' ? chatShapes : messageShapes
  const run = fc.record({
    shape: fc.oneof({ weight: 1, arbitrary: fc.constant(0) }, { weight: 3, arbitrary: fc.nat(shapes.length - 1) }),
    framing: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, { weight: 2, arbitrary: fc.nat(framings.length - 1) }),
    texts: fc.array(fc.tuple(words, words), { minLength: 1, maxLength: 6 })
  })
  return fc
    .record({
      // The same few runs come again and again, so that what was learned of one is tried on the next.
      runs: fc.array(run, { minLength: 1, maxLength: 5 }),
      order: fc.array(fc.nat(4), { minLength: 1, maxLength: 12 }),
      fault: fc.option(fc.constantFrom(...breaks), { freq: 4 }),
      ends: fc.constantFrom('done', 'done', 'done', 'open', 'no blank line'),
      bom: fc.boolean()
    })
    .map(({ runs, order, fault, ends, bom }) => {
      const write = (data: string, framing = 0): string => {
        const name = api === 'openai' ? undefined : /"type":"(\w+)"/.exec(data)?.[1]
        return (framings[framing] as Framing)(data, name)
      }
      const pick = order.map((at) => runs[at % runs.length] as (typeof runs)[number])
      const events = pick.flatMap(({ shape, framing, texts }) =>
        texts.map(([text, other]) => write((shapes[shape] as (typeof shapes)[number])(text, other), framing))
      )
      const before = api === 'openai' ? [] : messagesStart.map((data) => write(data))
      const after = ends === 'open' ? [] : (api === 'openai' ? [chatStop, '[DONE]'] : messagesEnd).map((data) => write(data))
      const text = [...before, ...events, ...(fault === null ? [] : [write(fault)]), ...after].join('')
      return (bom ? '\ufeff' : '') + (ends === 'no blank line' ? text.trimEnd() : text)
    })
}

// ---------------------------------------------------------------- the tests

describe.each(['openai', 'anthropic'] as const)('streams of %s', (api) => {
  it('are read as the plain way reads them, whatever their events are and however they are cut (seed 5)', async () => {
    const ends = new Set<string>()
    await fc.assert(
      fc.asyncProperty(bodies(api), fc.nat(1000), async (body, seed) => {
        ends.add((await expectPlain(api, body, [seed])).end)
      }),
      { seed: 5, numRuns: 1500 }
    )
    // The test is of use only while it sees all of them.
    expect([...ends].toSorted()).toEqual(['done', 'protocol incomplete', 'protocol malformed', 'unavailable'])
  })

  it('are read as the plain way reads them when the bytes end anywhere (seed 6)', async () => {
    await fc.assert(
      fc.asyncProperty(bodies(api), fc.double({ min: 0, max: 1, noNaN: true }), async (body, part) => {
        const bytes = Buffer.from(body)
        await expectPlain(api, bytes.subarray(0, Math.floor(bytes.length * part)), [9])
      }),
      { seed: 6, numRuns: 500 }
    )
  })
})

describe('vectors against short ways', () => {
  const many = (count: number, write: (at: number) => string): string[] => Array.from({ length: count }, (_, at) => write(at))

  it('an event whose beginning is known and whose end differs late', async () => {
    const same = many(20, (at) => content(`w${at}`))
    for (const late of [
      content('x', '},"logprobs":null,"finish_reason":"length"}]}'),
      content('x', '},"logprobs":null,"finish_reason":nul1}]}'),
      content('x', `${chatTail} `),
      content('x', `${chatTail}}`),
      content('x', `${chatTail.slice(0, -1)},"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}`),
      content('x', `${chatTail.slice(0, -1)},"error":{"message":"m","type":"server_error","code":500}}`),
      content('x', `${chatTail.slice(0, -1)},"error":null}`),
      content('x', `,"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]${chatTail}`)
    ]) {
      await expectPlain('openai', chat(...same, late, ...same))
    }
  })

  it('words with escapes, words that look like the end of the event, empty words, the words of another place', async () => {
    const tricky = [
      '\\n',
      '\\u00e9',
      '\\"',
      '\\\\',
      'x\\\\',
      '\\\\\\"',
      '\\"},\\"logprobs',
      '\\"},\\"logprobs\\":null',
      '',
      '0',
      'content',
      'index',
      'm-1'
    ]
    const { chunks } = await expectPlain(
      'openai',
      chat(...tricky.flatMap((text) => [content('plain'), content(text), content('plain')]))
    )
    expect(chunks.filter(({ type }) => type === 'text').length).toBe(tricky.length * 3 - 1)
    await expectPlain(
      'anthropic',
      [
        ...messagesStart,
        ...tricky.map((text) => (messageShapes[0] as (words: string, other: string) => string)(text, '')),
        ...messagesEnd
      ]
        .map(frame)
        .join('')
    )
  })

  it('raw control characters inside a string are no JSON, however often the rest was seen', async () => {
    for (const raw of ['\t', '\u0000', '\u0001', '\u001f', '\u0008', 'a\tb', ' \u001b[0m']) {
      const { end } = await expectPlain(
        'openai',
        chat(...many(30, () => content('a')), content(raw), content('b')).replace(frame(chatStop), '')
      )
      expect(end).toBe('protocol malformed')
    }
  })

  it('a malformed event after a thousand good ones fails the stream behind them', async () => {
    for (const bad of ['a"b', '\\', '\\u12', 'a\\', '"', '","x":"']) {
      const body = [...many(1000, (at) => content(` word${at}`)), content(bad)].map(frame).join('')
      const { end, chunks } = await expectPlain('openai', body, [1])
      if (end === 'protocol malformed') expect(chunks).toHaveLength(1001)
    }
  })

  it('the halves of a surrogate pair in two events are joined, whatever comes between them', async () => {
    const half = content('x\\ud83d')
    const other = content('\\ude00y')
    for (const between of [
      [],
      [''],
      [content('')],
      [`${envelope}"choices":[]}`],
      many(3, () => `${chatHead}"reasoning_content":"r"${chatTail}`)
    ]) {
      const body = chat(...many(5, () => content('a')), half, ...between, other, content('z'))
      const got = await read('openai', [[Buffer.from(body)]])
      expect(joined(got).texts.text).toBe('aaaaax😀yz')
      await expectPlain('openai', body)
    }
    for (const type of ['text_delta","text', 'thinking_delta","thinking', 'input_json_delta","partial_json']) {
      const halves = ['a\\ud83d', '\\ude00b'].map((text) => blockDelta(2, `{"type":"${type}":"${text}"}`))
      const body = [...messagesStart, ...halves, ...messagesEnd].map(frame).join('')
      expect(Object.values(joined(await read('anthropic', [[Buffer.from(body)]])).texts)).toContain('a😀b')
      await expectPlain('anthropic', body)
    }
  })

  it('half a pair that stays alone never leaves as half a pair', async () => {
    for (const alone of ['\\ud83d', 'x\\ud83d', '\\ude00', '\\ude00\\ud83d', '\\ud83d\\ud83d']) {
      await expectPlain('openai', chat(content('a'), content(alone), content('b')))
      await expectPlain('openai', chat(content('a'), content(alone)))
      await expectPlain(
        'openai',
        chat(`${chatHead}"tool_calls":[{"index":0,"function":{"arguments":"${alone}"}}]${chatTail}`, content('b'))
      )
    }
  })

  it('usage in each event is that of the last one, also when it says what an earlier one said', async () => {
    const counted = (text: string, tokens: number): string => content(text, usageTail(tokens))
    for (const between of ['b', '\\n', '', 'b'.repeat(20_000)]) {
      const body = chat(...many(8, () => counted('a', 5)), counted(between, 7), ...many(3, () => counted('c', 5)))
      const { chunks } = await expectPlain('openai', body)
      expect(chunks.find(({ type }) => type === 'usage')).toMatchObject({ usage: { input: { uncached: 5 } } })
    }
    // So often another number that nobody can remember them all.
    await expectPlain('openai', chat(...many(200, (at) => counted(`w${at}`, at % 7)), ...many(3, () => counted('x', 3))))
  })

  it('padding of any length is passed over, and only padding', async () => {
    const padded = (text: string, padding: string): string =>
      content(text, `${chatTail.slice(0, -1)},"obfuscation":"${padding}"}`)
    await expectPlain('openai', chat(...many(60, (at) => padded(`w${at}`, 'xY9'.repeat(at % 7)))))
    await expectPlain(
      'openai',
      chat(
        ...many(20, (at) => padded('a', 'p'.repeat(at))),
        padded('b', '\\"'),
        padded('c', '","error":{"code":500},"y":"'),
        padded('d', 'p')
      )
    )
    await expectPlain('openai', chat(...many(20, (at) => padded('a', 'p'.repeat(at))), padded('b', '\t'), padded('c', 'p')))
    // What changes between two events and has a meaning at a third.
    const reasons = ['', 'a', '', 'stop', 'b']
    for (const field of ['finish_reason', 'refusal', 'error']) {
      await expectPlain('openai', chat(...many(30, (at) => content(`w${at}`, `},"x":"","${field}":"${reasons[at % 5]}"}]}`))))
    }
  })

  it('a name that comes twice in one object means what it says last', async () => {
    const twice = (first: string, last: string): string => `${chatHead}"content":"${first}","content":"${last}"${chatTail}`
    await expectPlain(
      'openai',
      chat(...many(10, (at) => twice(`a${at}`, 'same')), ...many(10, (at) => twice('same', `b${at}`)), twice('c', ''))
    )
    await expectPlain(
      'openai',
      chat(...many(10, (at) => content(`a${at}`, `${chatTail.slice(0, -1)},"choices":[]}`)), content('b'))
    )
  })

  it('the events of another choice are not this answer', async () => {
    const of = (index: number, text: string): string =>
      `${envelope}"choices":[{"index":${index},"delta":{"content":"${text}"},"finish_reason":null}]}`
    const behind = (index: number, text: string): string =>
      `${envelope}"choices":[{"delta":{"content":"${text}"},"finish_reason":null,"index":${index}}]}`
    for (const write of [of, behind]) {
      const { chunks } = await expectPlain('openai', chat(...many(60, (at) => write(at % 3, `w${at} `))))
      expect(chunks.filter(({ type }) => type === 'text')).toHaveLength(20)
    }
  })

  it('line ends, comments, data on several lines, a byte order mark: between events that are alike', async () => {
    for (const framing of framings) {
      for (const other of framings) {
        const events = many(24, (at) =>
          (at % 6 < 4 ? framing : other)(
            content(`w${at}`).replace(',"choices"', at % 5 === 0 ? '\n,"choices"' : ',"choices"'),
            undefined
          )
        )
        await expectPlain('openai', `\ufeff${events.join('')}${chat()}`, [1])
      }
    }
  })

  it('two objects in one event are no JSON, although each of them is known', async () => {
    const known = many(20, (at) => frame(content(`w${at}`))).join('')
    for (const between of ['\n', '\n: a comment\n', '\nid: 1\n', '\ndata\n']) {
      const { end } = await expectPlain('openai', `${known}data: ${content('x')}${between}data: ${content('y')}\n\n`)
      expect(end).toBe('protocol malformed')
    }
  })

  it('an event named error is an error, although its data is that of all the others', async () => {
    const events = many(20, (at) => frame(content(`w${at}`))).join('')
    const { end } = await expectPlain('openai', `${events}event: error\n${frame(content('x'))}${chat()}`)
    expect(end).toBe('unavailable')
  })

  it('nothing is read behind the end', async () => {
    const { chunks } = await expectPlain(
      'openai',
      `${chat(...many(20, (at) => content(`w${at}`)))}${many(5, () => frame(content('late'))).join('')}`
    )
    expect(chunks).toHaveLength(22)
    const stopped = [
      ...messagesStart,
      ...many(20, (at) => (messageShapes[0] as (words: string, other: string) => string)(`w${at}`, '')),
      ...messagesEnd
    ]
    await expectPlain(
      'anthropic',
      [...stopped, blockDelta(0, '{"type":"text_delta","text":"late"}'), 'not JSON'].map(frame).join('')
    )
  })

  it('every chunk is the same object shape, by the short way and by the long one', async () => {
    const got = await read('openai', [[Buffer.from(chat(...many(20, (at) => content(at % 2 === 0 ? 'a' : '\\n'))))]])
    const shapes = new Set(got.chunks.filter(({ type }) => type === 'text').map((chunk) => Object.keys(chunk).join()))
    expect([...shapes]).toEqual(['type,text'])
  })
})
