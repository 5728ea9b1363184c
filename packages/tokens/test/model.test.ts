import { expect, test } from 'vitest'
import { tokenizerFor } from '../src/index.ts'

test.each([
  ['gpt-4o', 'o200k_base', true],
  ['gpt-4o-mini-2024-07-18', 'o200k_base', true],
  ['openai/gpt-4.1-nano', 'o200k_base', true],
  ['gpt-4.5-preview', 'o200k_base', true],
  ['chatgpt-4o-latest', 'o200k_base', true],
  ['gpt-5.6-mini', 'o200k_base', true],
  ['o1-preview', 'o200k_base', true],
  ['o3', 'o200k_base', true],
  ['ft:gpt-4o-mini-2024-07-18:org::id', 'o200k_base', true],
  ['gpt-4', 'cl100k_base', true],
  ['GPT-4-0613', 'cl100k_base', true],
  ['gpt-35-turbo', 'cl100k_base', true],
  ['text-embedding-3-small', 'cl100k_base', true],
  ['gpt-4.2', 'o200k_base', false],
  ['o1x', 'o200k_base', false],
  ['llama-4-scout', 'o200k_base', false],
  ['us.anthropic.claude-opus-5-5-v1:0', 'o200k_base', false],
  ['', 'o200k_base', false]
] as const)('%j counts with %s, exact: %s', (model, encoding, exact) => {
  const tokenizer = tokenizerFor(model)
  expect(tokenizer).toMatchObject({ model, encoding, exact })
  if (exact) expect(tokenizer.safetyFactor).toBe(1)
})

test('a model without a known vocabulary states how far to stay off: Claude further than others', () => {
  expect(tokenizerFor('claude-haiku-4-5').safetyFactor).toBe(1.4)
  expect(tokenizerFor('mistral-large').safetyFactor).toBe(1.2)
})
