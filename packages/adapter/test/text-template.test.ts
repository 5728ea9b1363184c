import { type Chunk, createSSEParser } from '@millrace/core'
import { heapAfterGc } from '@millrace/testkit'
import { describe, expect, test } from 'vitest'
import { createAnthropicReader } from '../src/anthropic-reader.ts'
import type { AnswerReader } from '../src/dialect.ts'
import { createOpenAIReader } from '../src/openai-reader.ts'
import { TextTemplate } from '../src/text-template.ts'

const request = { model: 'm', messages: [] }
const openai = (): AnswerReader => createOpenAIReader({ name: 'openai', secrets: [] } as never, request)
const anthropic = (): AnswerReader => createAnthropicReader({ name: 'anthropic', secrets: [] }, request)

const fields = { id: 'x', object: 'chat.completion.chunk', created: 1, model: 'm' }
function event(delta: object, more: object = {}, beside: object = {}): string {
  const choice = { index: 0, delta, logprobs: null, finish_reason: null, ...more }
  return `data: ${JSON.stringify({ ...fields, choices: [choice], ...beside })}\n\n`
}
const words = (content: string, beside: object = {}): string => event({ content }, {}, beside)

/** Reads events, each in a push of its own or all in one; tells how many were parsed as JSON. */
function read(events: readonly string[], createReader = openai): { chunks: Chunk[]; parsed: number; taken: number } {
  const chunks: Chunk[] = []
  const reader = createReader()
  let parsed = 0
  let taken = 0
  const template = new TextTemplate(createReader, (chunk) => {
    taken++
    chunks.push(chunk)
  })
  const parser = createSSEParser(
    (each) => {
      parsed++
      const from = chunks.length
      reader.event(each, chunks)
      template.parsed(chunks, from)
    },
    { shortcut: template }
  )
  for (const text of events) parser.push(Buffer.from(text))
  parser.end()
  return { chunks, parsed, taken }
}

/** What no shortcut gives. */
function plainly(events: readonly string[], createReader = openai): Chunk[] {
  const chunks: Chunk[] = []
  const reader = createReader()
  const parser = createSSEParser((each) => void reader.event(each, chunks))
  parser.push(Buffer.from(events.join('')))
  parser.end()
  return chunks
}

const many = Array.from({ length: 50 }, (_, index) => ` word${index}`)

describe('TextTemplate', () => {
  test('takes all events behind the first that carries words, and gives what parsing gives', () => {
    const events = [
      event({ role: 'assistant', content: '' }),
      ...many.map((text) => words(text)),
      event({}, { finish_reason: 'stop' })
    ]
    const { chunks, parsed, taken } = read(events)
    expect(chunks).toEqual(plainly(events))
    expect({ parsed, taken }).toEqual({ parsed: 3, taken: 49 })
  })

  test('passes over a string that differs from event to event and means nothing', () => {
    const events = many.map((text, index) => words(text, { obfuscation: 'x'.repeat(index % 9) + index }))
    const { chunks, taken } = read(events)
    expect(chunks).toEqual(plainly(events))
    expect(taken).toBeGreaterThan(40)
  })

  test("works on Anthropic's events and on reasoning too", () => {
    const delta = (kind: object, index: number): string =>
      `event: content_block_delta\ndata: ${JSON.stringify({ type: 'content_block_delta', index, delta: kind })}\n\n`
    const events = [
      ...many.map((thinking) => delta({ type: 'thinking_delta', thinking }, 0)),
      delta({ type: 'signature_delta', signature: 'abc' }, 0),
      ...many.map((text) => delta({ type: 'text_delta', text }, 1))
    ]
    const { chunks, taken } = read(events, anthropic)
    expect(chunks).toEqual(plainly(events, anthropic))
    expect(taken).toBeGreaterThan(90)
  })

  test('keeps working over CRLF and over multi-byte text', () => {
    const events = many.map((text) => words(`${text} — 水車 🙂`).replaceAll('\n', '\r\n'))
    const { chunks, taken } = read(events)
    expect(chunks).toEqual(plainly(events))
    expect(taken).toBeGreaterThan(40)
  })

  test.each([
    ['an escape', words('line\nbreak')],
    ['a quote', words('say "no"')],
    ['words that look like the end of the event', words('"},"logprobs":null,"finish_reason":null}]}')],
    ['empty words', words('')],
    ['a finish beside the words', event({ content: 'end' }, { finish_reason: 'stop' })],
    ['another choice', event({ content: 'other' }, { index: 1 })],
    ['usage beside the words', words('x', { usage: { prompt_tokens: 1, completion_tokens: 2 } })],
    ['log probabilities', event({ content: 'x' }, { logprobs: { content: [{ token: 'x', logprob: -1 }] } })],
    ['a refusal', event({ refusal: 'no' })],
    ['a tool call', event({ tool_calls: [{ index: 0, id: 'a', function: { name: 'f', arguments: '{' } }] })],
    ['a longer name of the same beginning', words('x').replace('"id":"x"', '"id":"xy"')],
    ['the words twice', event({ content: 'a' }).replace('"content":"a"', '"content":"a","content":"b"')],
    ['several lines of data', words('x').replace('{"id"', '{\ndata: "id"')],
    ['a comment within', words('x').replace('data:', ': hm\ndata:')]
  ])('gives what parsing gives for %s among others', (_, odd) => {
    const events = many.flatMap((text) => [words(text), odd])
    expect(read(events).chunks).toEqual(plainly(events))
    expect(read([events.join('')]).chunks).toEqual(plainly(events))
  })

  test('does not take an error for words, nor JSON that is none', () => {
    const errors = words('x').replace('"object"', '"error":{"message":"m"},"object"')
    expect(() => read([...many.map((text) => words(text)), errors])).toThrow('openai failed')
    const control = words('x').replace('"x"', '"x"').replace('"content":"x"', '"content":"\u0001"')
    expect(() => read([...many.map((text) => words(text)), control])).toThrow(/not a JSON object/)
  })

  test('does not pass over a string that may mean something, though it meant nothing so far', () => {
    // A server of which nobody here knows what `mood` is for: of `c` it has something to tell.
    const moody = (): AnswerReader => {
      const reader = openai()
      return {
        event(each, out) {
          const last = reader.event(each, out)
          const { mood } = JSON.parse(each.data) as { mood?: string }
          if (mood !== 'a' && mood !== 'b') out.push({ type: 'extra', name: 'mood', value: mood ?? null })
          return last
        },
        answer: (body, out) => reader.answer(body, out),
        end: (out) => reader.end(out),
        get usage() {
          return reader.usage
        },
        get finish() {
          return reader.finish
        }
      }
    }
    const events = many.map((text, index) => words(text, { mood: index % 10 === 9 ? 'c' : index % 2 === 0 ? 'a' : 'b' }))
    const { chunks } = read(events, moody)
    expect(chunks).toEqual(plainly(events, moody))
    expect(chunks.filter(({ type }) => type === 'extra')).toHaveLength(5)
  })

  test('stops trying where every event is different', () => {
    const events = many.map((text, index) => words(text).replace('"created":1', `"created":${1000 + index}`))
    const { chunks, taken, parsed } = read(events)
    expect(chunks).toEqual(plainly(events))
    expect({ taken, parsed }).toEqual({ taken: 0, parsed: 50 })
  })

  test('learns again when the beginning changes now and then', () => {
    const events = Array.from({ length: 400 }, (_, index) =>
      words(` w${index}`).replace('"created":1', `"created":${1000 + Math.floor(index / 50)}`)
    )
    const { chunks, taken } = read(events)
    expect(chunks).toEqual(plainly(events))
    expect(taken).toBeGreaterThan(370)
  })

  test('gives words that do not hold on to the text they came in', async () => {
    const long = 'a word of more than twelve characters '.repeat(2)
    const kept: string[] = []
    const template = new TextTemplate(openai, ({ text }) => kept.push(text))
    const reader = openai()
    const parser = createSSEParser(
      (each) => {
        const chunks: Chunk[] = []
        reader.event(each, chunks)
        template.parsed(chunks, chunks.length - 1)
      },
      { shortcut: template }
    )
    const before = await heapAfterGc()
    // One piece is kept of each of 400 reads of 64 KiB: held whole, these would be 26 MB.
    for (let round = 0; round < 400; round++) {
      parser.push(Buffer.from(words(long + round).repeat(260)))
      kept.splice(round + 1)
    }
    expect(kept).toHaveLength(400)
    expect((await heapAfterGc()) - before).toBeLessThan(4 * 1024 * 1024)
  })
})
