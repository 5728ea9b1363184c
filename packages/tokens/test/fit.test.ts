import { isMillraceError, type Message, type Tool } from '@millrace/core'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import { createTokenizers, fit } from '../src/index.ts'

const seed = 20_261_122
const tokenizers = createTokenizers()
afterAll(() => tokenizers.close())
const tokenizer = tokenizers.for('gpt-4o')

const words = fc.integer({ min: 1, max: 40 }).map((count) => 'word '.repeat(count))
const text = fc.record({ role: fc.constantFrom('system' as const, 'user' as const, 'assistant' as const), content: words })
const exchange = fc.record({ calls: fc.integer({ min: 1, max: 3 }), content: words, late: fc.boolean() })

/** Conversations with tool calls, whose results may come after other messages; ids are used again. */
const conversation = fc.array(fc.oneof(text, exchange), { minLength: 1, maxLength: 25 }).map((items) => {
  const messages: Message[] = []
  let late: Message[] = []
  for (const item of items) {
    if ('role' in item) messages.push(item)
    else {
      messages.push(...late)
      const ids = Array.from({ length: item.calls }, (_, index) => `call-${index}`)
      const results = ids.map((toolCallId): Message => ({ role: 'tool', toolCallId, content: item.content }))
      messages.push({ role: 'assistant', content: '', toolCalls: ids.map((id) => ({ id, name: 'look', arguments: '{}' })) })
      if (!item.late) messages.push(...results)
      late = item.late ? results : []
    }
  }
  return [...messages, ...late]
})

const tools: Tool[] = [
  { name: 'look', description: 'Look it up', parameters: { type: 'object', properties: { q: { type: 'string' } } } }
]

/** For each result its call: the last message before it that made a call of this id. */
function pairs(messages: readonly Message[]): [Message, Message][] {
  const callers = new Map<string, Message>()
  const found: [Message, Message][] = []
  for (const message of messages) {
    if (message.role === 'assistant') for (const { id } of message.toolCalls ?? []) callers.set(id, message)
    if (message.role === 'tool') found.push([callers.get(message.toolCallId) as Message, message])
  }
  return found
}

describe.each([
  ['gpt-4o', undefined],
  ['claude-opus-5-5', tools]
])('fitting for %s', (model, given) => {
  const own = tokenizers.for(model)
  const charged = (messages: readonly Message[]): number => Math.ceil(own.countMessages(messages, { tools: given }) * own.safetyFactor)

  test(`is never over the budget, parts no call from its results, and keeps what it must (seed ${seed})`, () => {
    fc.assert(
      fc.property(conversation, fc.integer({ min: 20, max: 900 }), (messages, budget) => {
        const lastUser = messages.findLastIndex(({ role }) => role === 'user')
        const must = messages.filter(({ role }, index) => role === 'system' || (lastUser !== -1 && index >= lastUser))
        let result: ReturnType<typeof fit>
        try {
          result = fit(messages, { budget, tokenizer: own, tools: given })
        } catch (error) {
          if (!isMillraceError(error, 'context-overflow')) throw error
          expect(error.details.limit).toBe(budget)
          expect(error.details.tokens).toBeGreaterThan(budget)
          return
        }
        expect(result.tokens).toBeLessThanOrEqual(budget)
        expect(result.tokens).toBe(charged(result.messages))
        expect(result.dropped).toBe(messages.length - result.messages.length)
        expect(result.saved).toBe(charged(messages) - result.tokens)
        const stayed = new Set(result.messages)
        for (const message of must) expect(stayed.has(message)).toBe(true)
        for (const [call, answer] of pairs(messages)) expect(stayed.has(call)).toBe(stayed.has(answer))
        expect(result.messages).toEqual(messages.filter((message) => stayed.has(message)))
        if (result.dropped === 0) expect(result.messages).toBe(messages)
      }),
      { seed, numRuns: 500 }
    )
  })
})

const say = (role: 'system' | 'user' | 'assistant', content: string): Message => ({ role, content })

test('drops the oldest first, and no more than it must', () => {
  const messages = [say('system', 'Be brief.'), say('user', 'one'), say('assistant', 'two'), say('user', 'three')]
  const all = tokenizer.countMessages(messages)
  expect(fit(messages, { budget: all, tokenizer }).messages).toBe(messages)
  const result = fit(messages, { budget: all - 1, tokenizer })
  expect(result.messages).toEqual([messages[0], messages[2], messages[3]])
  expect(result).toMatchObject({ dropped: 1, saved: 5, uncounted: 0 })
})

test('keeps a call made before the last user turn when its result comes after it', () => {
  const call: Message = { role: 'assistant', content: '', toolCalls: [{ id: 'a', name: 'look', arguments: '{}' }] }
  const messages: Message[] = [
    say('user', 'long ago '.repeat(200)),
    call,
    say('user', 'and?'),
    { role: 'tool', toolCallId: 'a', content: 'found' }
  ]
  expect(fit(messages, { budget: 100, tokenizer }).messages).toEqual(messages.slice(1))
})

test('names what cannot be left out, without quoting it', () => {
  const messages = [say('system', 'secret '.repeat(50)), say('user', 'hello')]
  const attempt = (): unknown => fit(messages, { budget: 20, tokenizer, tools })
  expect(attempt).toThrow(/1 system or developer message\(s\), 1 message\(s\) of the last turn, 1 tool\(s\) .* the budget is 20/)
  expect(attempt).not.toThrow(/secret/)
})

test('refuses a budget that is no number', () => {
  for (const budget of [Number.NaN, -1]) expect(() => fit([], { budget, tokenizer })).toThrow(TypeError)
})

test('takes time in proportion to the history: 8,000 messages not 30 times 1,000', () => {
  const onceOf = (count: number): number => {
    const history = Array.from({ length: count }, (_, index) => say(index % 2 === 0 ? 'user' : 'assistant', `message ${index}`))
    const started = performance.now()
    fit(history, { budget: 500, tokenizer })
    return performance.now() - started
  }
  const timeOf = (count: number): number => Math.min(onceOf(count), onceOf(count), onceOf(count))
  timeOf(1000)
  const one = timeOf(1000)
  expect(timeOf(8000) / one).toBeLessThan(30)
})
