import type { Message, Tool } from '@millrace/core'
import { afterAll, describe, expect, test } from 'vitest'
import { createTokenizers, type Tokenizer } from '../src/index.ts'
import { lines, present } from './real.ts'

const tokenizers = createTokenizers()
afterAll(() => tokenizers.close())

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
  return tokenizer.countMessages(ours, { tools: tools?.map((tool) => tool.function) ?? functions })
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
