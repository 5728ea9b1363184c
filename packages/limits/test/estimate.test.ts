import type { ChatRequest } from '@millrace/core'
import { loadRecordings, seededRandom } from '@millrace/testkit'
import { describe, expect, it } from 'vitest'
import { createEstimator, estimateBodyTokens, estimateTokens } from '../src/estimate.ts'
import { UsageTail, usageIn } from '../src/usage-tail.ts'
import { wireCall } from '../src/wire-cost.ts'

const of = (content: string): number => estimateTokens({ model: 'm', messages: [{ role: 'user', content }] })

describe('estimateTokens', () => {
  // Counted with o200k_base, the frame of seven tokens added.
  it.each([
    ['English', 'The quick brown fox jumps over the lazy dog, and nobody knows why it does so every single morning.', 28],
    ['Chinese', '在自然语言处理中，大型语言模型可以理解和生成文本，它们需要大量的数据来训练。', 29],
    ['code', 'export function add(a: number, b: number): number {\n  return a + b\n}\n', 29]
  ])('is near what a tokenizer counts of %s', (_, text, tokens) => {
    expect(Math.abs(of(text) - tokens) / tokens).toBeLessThan(0.3)
  })

  it('counts tools, tool calls, schemas and images', () => {
    const base: ChatRequest = { model: 'm', messages: [{ role: 'user', content: 'hi' }] }
    const parameters = { type: 'object', properties: { city: { type: 'string' } } }
    expect(estimateTokens({ ...base, tools: [{ name: 'weather', description: 'of a city', parameters }] })).toBeGreaterThan(
      of('hi') + 20
    )
    expect(
      estimateTokens({
        ...base,
        messages: [{ role: 'user', content: [{ type: 'image', url: `data:image/png;base64,${'A'.repeat(1e6)}` }] }]
      })
    ).toBeLessThan(2000)
    expect(estimateTokens({ ...base, responseFormat: { type: 'json-schema', name: 'x', schema: parameters } })).toBeGreaterThan(
      of('hi') + 10
    )
  })

  it('takes no longer for a text of 4 MB than for one of 64 KB, and is no further off', () => {
    const text = 'Some words of a text that goes on. '.repeat(1000)
    const long = text.repeat(120)
    expect(of(long) / (of(text) * 120)).toBeCloseTo(1, 1)
    const startedAt = performance.now()
    of(long)
    expect(performance.now() - startedAt).toBeLessThan(50)
  })

  it('is a finite number above 0 for any text (seed 8)', () => {
    const random = seededRandom(8)
    for (let round = 0; round < 2000; round++) {
      const text = String.fromCharCode(...Array.from({ length: random() * 40 }, () => random() * 0xffff))
      const tokens = of(text)
      expect(Number.isFinite(tokens) && tokens > 0, JSON.stringify(text)).toBe(true)
      expect(tokens).toBeLessThan(10 + text.length * 2)
    }
  })
})

describe('what is read off the wire', () => {
  it('is the model, the bound of the answer and about a fourth of the length', () => {
    const body = JSON.stringify({
      messages: [{ role: 'user', content: 'say "model": "other" '.repeat(10) }],
      model: 'm-1',
      max_completion_tokens: 7
    })
    expect(wireCall('https://api.example.com/v1/chat/completions', body)).toEqual({
      subject: { provider: 'api.example.com', model: 'm-1' },
      inputGuess: Math.ceil(body.length / 4),
      maxOutputTokens: 7
    })
    expect(wireCall('https://x/v1beta/models/gemini-3:generateContent', '{}').subject.model).toBe('gemini-3')
    expect(wireCall('nonsense', undefined)).toMatchObject({ inputGuess: 0, maxOutputTokens: 0 })
  })

  it('counts an image in a body as an image', () => {
    expect(estimateBodyTokens(`{"url":"data:image/png;base64,${'A'.repeat(1e6)}"}`)).toBeLessThan(1000)
  })

  it.each([
    ['openai.chat', 'prompt and completion'],
    ['anthropic.messages', 'input and output']
  ])('finds the usage at the end of recorded answers of %s', (api) => {
    const recordings = loadRecordings({ api })
    if (recordings === undefined) return console.warn('skipped: the recordings do not lie beside the checkout')
    let found = 0
    let told = 0
    for (const { id, body, usage, status } of recordings) {
      if (usage?.output === undefined || status >= 400) continue
      told++
      const tail = new UsageTail()
      for (let from = 0; from < body.length; from += 777) tail.push(body.subarray(from, from + 777))
      const seen = tail.usage()
      if (seen === undefined) continue
      found++
      expect(seen.output.text + seen.output.reasoning, id).toBe(usage.output)
      expect(usageIn(body.subarray(-16_384).toString(), body.subarray(0, 4096).toString()), id).toEqual(seen)
    }
    console.log(`usage found in ${found} of ${told} recorded answers of ${api}`)
    expect(found / told).toBeGreaterThan(0.95)
  })

  it('reads usage in the shape of each provider', () => {
    expect(
      usageIn('{"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}')
    ).toMatchObject({
      input: { uncached: 5, cacheRead: 4, cacheWrite: 0 },
      output: { text: 2 }
    })
    expect(usageIn('{"usage": {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 2}}')).toMatchObject({
      input: { uncached: 9, cacheRead: 4 }
    })
    expect(usageIn('{"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":2,"thoughtsTokenCount":3}}')).toMatchObject({
      input: { uncached: 9 },
      output: { text: 2, reasoning: 3 }
    })
    expect(
      usageIn(
        'data: {"delta":{},"usage":{"output_tokens":8}}',
        'data: {"message":{"usage":{"input_tokens":5,"output_tokens":1}}}'
      )
    ).toMatchObject({ input: { uncached: 5 }, output: { text: 8 } })
    expect(usageIn('data: {"usage":null}\n\ndata: {"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n')).toBeDefined()
    for (const text of [
      '',
      '"usage":',
      '"usage":{',
      '"usage":{"prompt_tokens":-1}}',
      '{"text":"\\"usage\\":{\\"prompt_tokens\\":1}"}'
    ]) {
      expect(usageIn(text), text).toBeUndefined()
    }
  })
})

describe('UsageTail', () => {
  const usage = '{"usage":{"prompt_tokens":9,"completion_tokens":2}}'

  it('keeps no view of what it is given: the memory may be used again', () => {
    const pool = Buffer.alloc(64)
    const tail = new UsageTail()
    for (let from = 0; from < usage.length; from += 10) {
      const written = pool.write(usage.slice(from, from + 10), 7)
      tail.push(pool.subarray(7, 7 + written))
      pool.fill(0)
    }
    expect(tail.usage()).toMatchObject({ input: { uncached: 9 }, output: { text: 2 } })
  })

  it.each([
    ['[DONE]', `data: ${usage}\n\ndata: [DONE]\n\n`, 2],
    ['message_stop', `data: ${usage}\n\ndata: {"type":"message_stop"}\n\n`, 2],
    ['nothing of the kind', `data: ${usage}\n\n`, undefined]
  ])('tells the last usage of a stream that was left behind %s', (_, text, output) => {
    const tail = new UsageTail()
    tail.push(Buffer.from(text))
    expect(tail.lastUsage()?.output.text).toBe(output)
  })
})

describe('createEstimator', () => {
  it('learns how long answers are and how far its guess of the input is off', () => {
    const estimator = createEstimator()
    expect(estimator.expect('m', 100, undefined)).toEqual({ tokens: 356, input: 100, maxInput: 150, maxOutput: 4096 })
    for (let call = 0; call < 200; call++) estimator.learn('m', 100, { input: 200, output: call % 2 === 0 ? 900 : 1100 })
    const { tokens, input, maxOutput } = estimator.expect('m', 100, 2000)
    expect(input).toBeGreaterThan(195)
    expect(input).toBeLessThanOrEqual(200)
    expect(tokens - input).toBeGreaterThan(1050)
    expect(tokens - input).toBeLessThan(1150)
    expect(maxOutput).toBe(2000)
    expect(estimator.expect('m', 100, 10).tokens).toBe(input + 10)
    expect(estimator.expect('another', 100, 10).input).toBe(100)
  })
})
