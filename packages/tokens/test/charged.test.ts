import type { ImagePart, Message, ResponseFormat, Tool, ToolChoice } from '@millrace/core'
import { afterAll, describe, expect, test } from 'vitest'
import { createTokenizers } from '../src/index.ts'
import { lines, present } from './real.ts'
import { bills, recorded } from './recordings.ts'

const tokenizers = createTokenizers()
afterAll(() => tokenizers.close())

interface RecordedTool {
  readonly function: Tool
}
interface Recorded {
  readonly api: string
  readonly model: string
  readonly category: string
  readonly messages: readonly RecordedMessage[]
  readonly tools?: readonly RecordedTool[]
  readonly functions?: readonly Tool[]
  readonly tool_choice?: 'auto' | 'none' | 'required' | RecordedTool
  readonly function_call?: 'auto' | 'none' | { readonly name: string }
  readonly response_format?: {
    readonly type: string
    readonly json_schema?: Omit<Extract<ResponseFormat, { type: 'json-schema' }>, 'type'>
  } | null
  readonly prompt_tokens: number
  readonly tokens: number
}
interface RecordedMessage {
  readonly role: string
  readonly content?:
    | string
    | null
    | readonly (
        | { readonly type: 'text'; readonly text: string }
        | { readonly type: 'image_url'; readonly image_url: Omit<ImagePart, 'type'> }
      )[]
  readonly name?: string
  readonly tool_call_id?: string
  readonly tool_calls?: readonly {
    readonly id: string
    readonly function: { readonly name: string; readonly arguments: string }
  }[]
}

function messageOf({ role, content, name, tool_call_id, tool_calls }: RecordedMessage): Message {
  const parts = Array.isArray(content)
    ? content.map((part) => (part.type === 'image_url' ? { type: 'image', ...part.image_url } : part))
    : content
  return {
    role,
    content: parts ?? '',
    ...(name === undefined || role === 'tool' ? {} : { name }),
    ...(tool_call_id === undefined ? {} : { toolCallId: tool_call_id }),
    ...(tool_calls === undefined ? {} : { toolCalls: tool_calls.map(({ id, function: call }) => ({ id, ...call })) })
  } as Message
}

function counted(model: string, row: Recorded): number {
  const choice = row.tool_choice ?? row.function_call
  const toolChoice = (typeof choice === 'object' && 'function' in choice ? { name: choice.function.name } : choice) as
    | ToolChoice
    | undefined
  const schema = row.response_format?.json_schema
  return tokenizers.for(model).countMessages(row.messages.map(messageOf), {
    tools: row.tools?.map((tool) => tool.function) ?? row.functions,
    toolChoice,
    responseFormat: schema === undefined ? undefined : { type: 'json-schema', ...schema }
  })
}

const off = (row: Recorded): number => Math.abs(counted(row.model, row) - row.prompt_tokens) / row.prompt_tokens

describe.skipIf(!present)('beside what the API charged', () => {
  const rows = lines<Recorded>('ground-truth-dev.jsonl').filter(({ api }) => api === 'openai.chat')
  const of = (kind: string): Recorded[] => rows.filter(({ category }) => category.includes(kind))

  test('is exact on 97 % of plain text requests, and on all of reasoning models', () => {
    const text = rows.filter(({ category }) => category === 'text')
    expect(text.length).toBeGreaterThan(80)
    expect(text.filter((row) => off(row) === 0).length / text.length).toBeGreaterThanOrEqual(0.97)
    const reasoning = text.filter(({ model }) => model.startsWith('gpt-5'))
    expect(reasoning.length).toBeGreaterThan(4)
    expect(reasoning.filter((row) => off(row) > 0)).toEqual([])
  })

  test('is exact on 90 % of requests with tools, calls and results, within 3 % at the 95th percentile, and never 7 % off', () => {
    const errors = of('tool')
      .map(off)
      .toSorted((a, b) => a - b)
    expect(errors.length).toBeGreaterThan(50)
    expect(errors.filter((error) => error === 0).length / errors.length).toBeGreaterThan(0.9)
    expect(errors[Math.ceil(errors.length * 0.95) - 1]).toBeLessThan(0.03)
    expect(errors.at(-1)).toBeLessThan(0.07)
  })

  test('is exact on structured answers', () => {
    expect(of('json_schema').length).toBeGreaterThan(5)
    expect(of('json_schema').filter((row) => off(row) > 0)).toEqual([])
  })

  // Left out: messages of the role `function` and of `function_call`, which the contract has no place for.
  test.each([
    ['hmarr/cases.jsonl', 'gpt-4'],
    ['gpt-tokenizer/gpt-4o-function-calling-cases.jsonl', 'gpt-4o']
  ])(
    'is exact on %s, but for a token where `functions` puts a lone property on a line of its own and `tools` does not',
    (file, model) => {
      const cases = lines<Recorded>(file).filter(({ messages }) =>
        messages.every((message) => message.role !== 'function' && !('function_call' in message))
      )
      const missed = cases.filter((row) => counted(model, row) !== row.tokens)
      expect(cases.length).toBeGreaterThan(26)
      expect(missed.map((row) => [row.functions?.[0]?.name, counted(model, row) - row.tokens])).toEqual([['bing_bong', -1]])
    }
  )
})

describe.skipIf(!recorded)('beside the bills of recorded requests', () => {
  const all = bills()
  const isExact = (model: string): boolean => tokenizers.for(model).exact

  test.each([
    ['plain texts', 30, all.filter(({ tools }) => tools.length === 0)],
    ['tools', 25, all.filter(({ tools }) => tools.length > 0)]
  ])('a count times the safety factor is never below the bill, for models of other vocabularies with %s', (_, atLeast, some) => {
    const others = some.filter(({ model }) => !isExact(model))
    expect(others.length).toBeGreaterThan(atLeast)
    const below = others.filter(({ model, messages, tools, charged }) => {
      const tokenizer = tokenizers.for(model)
      return tokenizer.countMessages(messages, { tools }) * tokenizer.safetyFactor < charged
    })
    expect(below).toEqual([])
  })

  test('is exact for reasoning models with tools, and within 5 % for gpt-oss with the preamble of its template', () => {
    const ratio = (family: RegExp): number[] =>
      all
        .filter(({ model }) => family.test(model))
        .map(({ model, messages, tools, charged }) => tokenizers.for(model).countMessages(messages, { tools }) / charged)
    const gpt5 = ratio(/gpt-5/)
    expect(gpt5.length).toBeGreaterThan(10)
    expect(new Set(gpt5)).toEqual(new Set([1]))
    const oss = ratio(/gpt-oss/)
    expect(oss.length).toBeGreaterThan(5)
    for (const each of oss) expect(Math.abs(each - 1)).toBeLessThan(0.05)
  })
})
