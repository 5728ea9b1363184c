import { isMillraceError, type Message } from '@millrace/core'
import { afterAll, expect, test } from 'vitest'
import { createTokenizers, uncountedParts } from '../src/index.ts'

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
