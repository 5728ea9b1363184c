import { isMillraceError, type Message, type Tool } from '@millrace/core'
import { afterAll, describe, expect, test } from 'vitest'
import { createTokenizers, type Tokenizer, uncountedParts } from '../src/index.ts'
import { lines, present } from './real.ts'

const tokenizers = createTokenizers()
afterAll(() => tokenizers.close())

test('refuses to count once closed, with a clear error, and closes twice', async () => {
  const own = createTokenizers()
  const tokenizer = own.for('gpt-4o')
  const counter = tokenizer.counter()
  expect(tokenizer.count('hello')).toBe(1)
  await own.close()
  await own.close()
  for (const use of [() => tokenizer.count('hello'), () => counter.push('hello'), () => tokenizer.countMessages([])]) {
    expect(use).toThrow(expect.objectContaining({ code: 'closed' }))
  }
  try {
    own.for('gpt-4').counter()
  } catch (error) {
    expect(isMillraceError(error, 'closed')).toBe(true)
  }
  expect.assertions(5)
})

test('gives back its vocabularies: many rounds of open, count and close do not grow', async () => {
  const round = async (): Promise<void> => {
    await using own = createTokenizers()
    own.for('gpt-4o').count('hello')
  }
  await round()
  await round()
  const before = process.memoryUsage().rss
  for (let turn = 0; turn < 8; turn++) await round()
  // Each vocabulary holds tens of megabytes: eight that leaked would be hundreds.
  expect(process.memoryUsage().rss - before).toBeLessThan(120 * 1024 * 1024)
})

test('counts a message anew when its content was replaced', () => {
  const message = { role: 'user' as const, content: 'short' }
  const tokenizer = tokenizers.for('gpt-4o')
  const before = tokenizer.countMessages([message])
  message.content = 'a good deal longer than it was'
  expect(tokenizer.countMessages([message])).toBeGreaterThan(before)
})

test('never counts base64 as text, and says how many parts it left out', () => {
  const image = { type: 'image' as const, url: `data:image/png;base64,${'A'.repeat(100_000)}` }
  const text = { type: 'text' as const, text: 'What is this?' }
  const messages: Message[] = [{ role: 'user', content: [text, image, { type: 'audio', data: 'AAAA', format: 'wav' }] }]
  const tokenizer = tokenizers.for('gpt-4o')
  expect(tokenizer.countMessages(messages)).toBe(tokenizer.countMessages([{ role: 'user', content: 'What is this?' }]))
  expect(uncountedParts(messages)).toBe(2)
})

interface Recorded {
  readonly api: string
  readonly model: string
  readonly category: string
  readonly messages: readonly RecordedMessage[]
  readonly tools?: readonly { readonly function: Tool }[]
  readonly functions?: readonly Tool[]
  readonly function_call?: unknown
  readonly prompt_tokens: number
  readonly tokens: number
}
interface RecordedMessage {
  readonly role: string
  readonly content?: string | null | readonly { readonly type: string; readonly text?: string }[]
  readonly name?: string
  readonly tool_call_id?: string
  readonly tool_calls?: readonly {
    readonly id: string
    readonly function: { readonly name: string; readonly arguments: string }
  }[]
}

function counted(tokenizer: Tokenizer, { messages, tools, functions }: Recorded): number {
  const ours = messages.map(
    ({ role, content, name, tool_call_id, tool_calls }) =>
      ({
        role,
        content: content ?? '',
        ...(name === undefined || role === 'tool' ? {} : { name }),
        ...(tool_call_id === undefined ? {} : { toolCallId: tool_call_id }),
        ...(tool_calls === undefined ? {} : { toolCalls: tool_calls.map(({ id, function: call }) => ({ id, ...call })) })
      }) as Message
  )
  return tokenizer.countMessages(ours, tools?.map((tool) => tool.function) ?? functions)
}

describe.skipIf(!present)('beside what the API charged', () => {
  const rows = lines<Recorded>('ground-truth-dev.jsonl').filter(({ api }) => api === 'openai.chat')

  test('is exact on 97 % of plain text requests', () => {
    const text = rows.filter(({ category }) => category === 'text')
    const exact = text.filter((row) => counted(tokenizers.for(row.model), row) === row.prompt_tokens)
    expect(text.length).toBeGreaterThan(80)
    expect(exact.length / text.length).toBeGreaterThanOrEqual(0.97)
  })

  test('is within 6 % with tools and tool calls, at the 95th percentile', () => {
    const errors = rows
      .filter(({ category }) => category.includes('tool'))
      .map((row) => Math.abs(counted(tokenizers.for(row.model), row) - row.prompt_tokens) / row.prompt_tokens)
      .toSorted((a, b) => a - b)
    expect(errors.length).toBeGreaterThan(50)
    expect(errors[Math.ceil(errors.length * 0.95) - 1]).toBeLessThan(0.06)
  })

  test.each([
    ['hmarr/cases.jsonl', 'gpt-4'],
    ['gpt-tokenizer/gpt-4o-function-calling-cases.jsonl', 'gpt-4o']
  ])('is within a token of %s, function roles and forced calls aside', (file, model) => {
    const cases = lines<Recorded>(file).filter(
      ({ messages, function_call }) =>
        (function_call === undefined || function_call === 'auto') &&
        messages.every((message) => message.role !== 'function' && !('function_call' in message))
    )
    expect(cases.length).toBeGreaterThan(15)
    for (const row of cases) expect(Math.abs(counted(tokenizers.for(model), row) - row.tokens)).toBeLessThanOrEqual(1)
  })
})
