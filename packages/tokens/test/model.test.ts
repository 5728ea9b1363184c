import { expect, test } from 'vitest'
import { tokenizerFor } from '../src/index.ts'

test.each([
  ['gpt-4o', 'o200k_base', true],
  ['gpt-4o-mini-2024-07-18', 'o200k_base', true],
  ['openai/gpt-4.1-nano', 'o200k_base', true],
  ['gpt-4.5-preview', 'o200k_base', true],
  ['chatgpt-4o-latest', 'o200k_base', true],
  ['gpt-5.6-mini', 'o200k_base', true],
  ['gpt-5-chat-latest', 'o200k_base', true],
  ['gpt-5.2-codex', 'o200k_base', true],
  ['codex-mini-latest', 'o200k_base', true],
  ['computer-use-preview', 'o200k_base', true],
  ['gpt-realtime-mini', 'o200k_base', true],
  ['gpt-audio', 'o200k_base', true],
  ['omni-moderation-latest', 'o200k_base', true],
  ['openai.gpt-oss-120b-1:0', 'o200k_base', true],
  ['gpt-oss:20b', 'o200k_base', true],
  ['o1-preview', 'o200k_base', true],
  ['o3', 'o200k_base', true],
  ['azure/o4-mini', 'o200k_base', true],
  ['ft:gpt-4o-mini-2024-07-18:org::id', 'o200k_base', true],
  ['gpt-4', 'cl100k_base', true],
  ['GPT-4-0613', 'cl100k_base', true],
  ['gpt-35-turbo', 'cl100k_base', true],
  ['azure/gpt-35-turbo-16k', 'cl100k_base', true],
  ['text-embedding-3-small', 'cl100k_base', true],
  ['text-embedding-ada-002', 'cl100k_base', true],
  ['davinci-002', 'cl100k_base', true],
  ['text-davinci-003', 'p50k_base', true],
  ['code-davinci-edit-001', 'p50k_base', true],
  ['davinci', 'r50k_base', true],
  ['text-ada-001', 'r50k_base', true],
  ['ada:ft-org-2023', 'r50k_base', true],
  ['gpt-2', 'r50k_base', true],
  ['gpt-4-1106-vision-preview', 'cl100k_base', true],
  ['gpt-4-turbo-2024-04-09', 'cl100k_base', true],
  ['gpt-4-32k-0613', 'cl100k_base', true],
  ['ft:gpt-4-0613:acme:llama:a1', 'cl100k_base', true],
  ['ft:gpt-4o-2024-08-06:mistral-shop::a1', 'o200k_base', true],
  ['curie:ft-llama-2023', 'r50k_base', true],
  ['gpt-4-x-alpaca-13b', 'o200k_base', false],
  ['gpt-4-all', 'o200k_base', false],
  ['gpt-4o-distil-llama-3.1-8b', 'o200k_base', false],
  ['gpt-3.5-vicuna', 'o200k_base', false],
  ['gpt-2-chinese', 'o200k_base', false],
  ['o1-distill-qwen-7b', 'o200k_base', false],
  ['gpt-4.2', 'o200k_base', false],
  ['gpt-6', 'o200k_base', false],
  ['o1x', 'o200k_base', false],
  ['my-gpt-4o', 'o200k_base', false],
  ['text-embedding-004', 'o200k_base', false],
  ['llama-4-scout', 'o200k_base', false],
  ['us.anthropic.claude-opus-5-5-v1:0', 'o200k_base', false],
  ['', 'o200k_base', false]
] as const)('%j counts with %s, exact: %s', (model, encoding, exact) => {
  const tokenizer = tokenizerFor(model)
  expect(tokenizer).toMatchObject({ model, encoding, exact })
  if (exact) expect(tokenizer.safetyFactor).toBe(1)
  else expect(tokenizer.safetyFactor).toBeGreaterThan(1.2)
})

test.each([
  ['o200k_base', 'o200k_base'],
  ['o200k_harmony', 'o200k_base'],
  ['cl100k_base', 'cl100k_base'],
  ['p50k_base', 'p50k_base'],
  ['p50k_edit', 'p50k_base'],
  ['r50k_base', 'r50k_base'],
  ['gpt2', 'r50k_base']
] as const)('the name of an encoding, %s, is that encoding', (name, encoding) => {
  expect(tokenizerFor(name)).toMatchObject({ encoding, exact: true, safetyFactor: 1 })
})

const factor = (model: string): number => tokenizerFor(model).safetyFactor

test('a model without a known vocabulary states how far to stay off: new Claudes further than old ones, old Llamas furthest', () => {
  for (const model of [
    'claude-opus-4-7',
    'claude-opus-5-5',
    'anthropic/claude-sonnet-5',
    'claude-opus-4.8',
    'claude-opus-4-10',
    'claude-next'
  ]) {
    expect(factor(model), model).toBe(1.8)
  }
  for (const model of [
    'claude-3-7-sonnet-20250219',
    'claude-sonnet-4-20250514',
    'claude-opus-4@20250514',
    'claude-haiku-4-5',
    'claude-sonnet-3-7',
    'claude-opus-4-1-20250805',
    'claude-2.1'
  ]) {
    expect(factor(model), model).toBe(1.4)
  }
  for (const model of [
    'mistral-large-latest',
    'mistral.mistral-large-3-675b-instruct',
    'mistral-nemo',
    'mistral-small-2506',
    'mistral.ministral-3-8b-instruct',
    'llama-v3p1-8b-instruct',
    'llama3.2:1b',
    'llama-3.2-1b-preview',
    'llama-4-scout-17b-16e-instruct'
  ])
    expect(factor(model), model).toBe(1.35)
  for (const model of [
    'meta-llama/Llama-2-70b-chat-hf',
    'meta.llama2-13b-chat-v1',
    'llama-v2-7b',
    'llama2:7b',
    'llama-7b',
    'huggyllama/llama-65b',
    'mistralai/Mixtral-8x7B-Instruct-v0.1',
    'open-mistral-7b',
    'mistral',
    'mistral:7b',
    'mistral:latest',
    'mistral.mistral-7b-instruct-v0:2',
    'mistral-large-2411',
    'mistral-tiny',
    'zephyr',
    'tinyllama',
    'TinyLlama/TinyLlama-1.1B-Chat-v1.0',
    'code-llama-34b',
    'codellama:13b',
    'gpt-4-x-alpaca-13b',
    'phi-3-mini-128k-instruct'
  ])
    expect(factor(model), model).toBe(2.4)
  expect(factor('some-deployment')).toBe(2)
})

test('instructions that a provider adds to any request are counted for its models', () => {
  const hello = [{ role: 'user' as const, content: 'Hello' }]
  const tools = [{ name: 'f' }]
  const count = (model: string): number => tokenizerFor(model).countMessages(hello)
  expect(count('command-a-03-2025')).toBeGreaterThan(500)
  expect(count('grok-4.3') - count('gpt-4o')).toBe(190)
  expect(tokenizerFor('claude-haiku-4-5').countMessages(hello, { tools })).toBeGreaterThan(500)
})
