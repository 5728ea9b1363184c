import { getEventListeners } from 'node:events'
import { isMillraceError, type Message, type ResponseFormat, type Tool } from '@millrace/core'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import { charged } from '../src/charged.ts'
import { type FitOptions, type FitResult, fit } from '../src/fit.ts'
import { createTokenizers, type Tokenizer } from '../src/tokenizer.ts'
import { since } from './cpu.ts'

const seed = 20_261_123
const tokenizers = createTokenizers()
afterAll(() => tokenizers.close())
const tokenizer = tokenizers.for('gpt-4o')

const tools: Tool[] = [
  { name: 'look', description: 'Look it up', parameters: { type: 'object', properties: { q: { type: 'string' } } } }
]
const responseFormat: ResponseFormat = { type: 'json-schema', name: 'answer', schema: { type: 'object' } }

type Said = 'system' | 'developer' | 'user' | 'assistant'
const say = (role: Said, content: string): Message => ({ role, content })
const call = (...ids: string[]): Message => ({
  role: 'assistant',
  content: '',
  toolCalls: ids.map((id) => ({ id, name: 'look', arguments: '{}' }))
})
const result = (toolCallId: string, content = 'found'): Message => ({ role: 'tool', toolCallId, content })
const counted = (messages: readonly Message[], own: Tokenizer = tokenizer): number =>
  charged(own.countMessages(messages), own.safetyFactor)

const words = fc.integer({ min: 1, max: 40 }).map((count) => 'word '.repeat(count))
const text = fc.record({
  role: fc.constantFrom<Said>('system', 'developer', 'user', 'assistant', 'user', 'assistant'),
  content: words
})
const picture = words.map(
  (content): Message => ({
    role: 'user',
    content: [
      { type: 'text', text: content },
      { type: 'image', url: 'https://example.com/a.png' }
    ]
  })
)
const exchange = fc.record({
  calls: fc.integer({ min: 0, max: 3 }),
  results: fc.integer({ min: 0, max: 4 }),
  content: words,
  late: fc.boolean()
})

/** Conversations with calls whose results come late, are missing or too many; ids are used again. */
const conversation = fc.array(fc.oneof(text, picture, exchange), { maxLength: 25 }).map((items) => {
  const messages: Message[] = []
  let late: Message[] = []
  for (const item of items) {
    if ('role' in item) {
      messages.push(item as Message)
      continue
    }
    messages.push(...late)
    const results = Array.from({ length: item.results }, (_, index) => result(`call-${index}`, item.content))
    if (item.calls > 0) messages.push(call(...Array.from({ length: item.calls }, (_, index) => `call-${index}`)))
    if (!item.late) messages.push(...results)
    late = item.late ? results : []
  }
  return [...messages, ...late]
})

const dropping = fc.record({
  drop: fc.constantFrom<'oldest' | 'middle'>('oldest', 'middle'),
  slack: fc.constantFrom(0, 0.05, 1 / 8, 0.5)
})

/** For each result its call: the last message before it that made a call of this id. */
function pairs(messages: readonly Message[]): [Message, Message][] {
  const callers = new Map<string, Message>()
  const found: [Message, Message][] = []
  for (const message of messages) {
    if (message.role === 'assistant') for (const { id } of message.toolCalls ?? []) callers.set(id, message)
    const caller = message.role === 'tool' ? callers.get(message.toolCallId) : undefined
    if (caller !== undefined) found.push([caller, message])
  }
  return found
}

const isPrompt = ({ role }: Message): boolean => role === 'system' || role === 'developer'

function mustStay(messages: readonly Message[]): readonly Message[] {
  const user = messages.findLastIndex(({ role }) => role === 'user')
  const turn = user === -1 ? messages.length - 1 : user
  return messages.filter((message, index) => isPrompt(message) || index >= turn)
}

/** The result, or undefined for a proper overflow. */
function attempt(messages: readonly Message[], options: FitOptions): FitResult | undefined {
  try {
    return fit(messages, options)
  } catch (error) {
    if (!isMillraceError(error, 'context-overflow')) throw error
    expect(error.details.limit).toBe(options.budget)
    expect(error.details.tokens).toBeGreaterThan(options.budget)
    return undefined
  }
}

function checkFitted(messages: readonly Message[], fitted: FitResult, cost: (messages: readonly Message[]) => number): void {
  const stayed = new Set(fitted.messages)
  expect(fitted.tokens).toBe(cost(fitted.messages))
  expect(fitted.dropped).toBe(messages.length - fitted.messages.length)
  expect(fitted.saved).toBe(cost(messages) - fitted.tokens)
  expect(fitted.messages).toEqual(messages.filter((message) => stayed.has(message)))
  expect(fitted.droppedMessages).toEqual(messages.filter((message) => !stayed.has(message)))
  for (const message of mustStay(messages)) expect(stayed.has(message)).toBe(true)
  for (const [caller, answer] of pairs(messages)) expect(stayed.has(caller)).toBe(stayed.has(answer))
  if (fitted.dropped === 0) expect(fitted.messages).toBe(messages)
}

describe.each([
  ['gpt-4o', {}],
  ['claude-opus-5-5', { tools, responseFormat }],
  ['gpt-5', { tools, toolChoice: { name: 'look' } }]
])('fitting for %s', (model, beside) => {
  const own = tokenizers.for(model)
  const cost = (messages: readonly Message[]): number => charged(own.countMessages(messages, beside), own.safetyFactor)

  test(`is never over the budget, parts no call from its results, and keeps what it must (seed ${seed})`, () => {
    fc.assert(
      fc.property(conversation, fc.integer({ min: 0, max: 900 }), dropping, (messages, budget, how) => {
        const options = { budget, tokenizer: own, ...beside, ...how }
        const fitted = attempt(messages, options)
        if (fitted === undefined) {
          expect(cost(allThatStays(messages))).toBeGreaterThan(budget)
          return
        }
        expect(fitted.tokens).toBeLessThanOrEqual(budget)
        checkFitted(messages, fitted, cost)
        if (cost(messages) <= budget) expect(fitted.messages).toBe(messages)
        expect(fit(messages, options).messages).toEqual(fitted.messages)
      }),
      { seed, numRuns: 500 }
    )
  })
})

/** With the calls from before the last turn that are answered in it, and all their other results. */
function allThatStays(messages: readonly Message[]): readonly Message[] {
  const must = new Set(mustStay(messages))
  const couples = pairs(messages)
  const callers = new Set(couples.filter(([, answer]) => must.has(answer)).map(([caller]) => caller))
  for (const [caller, answer] of couples) if (callers.has(caller)) must.add(caller).add(answer)
  return messages.filter((message) => must.has(message))
}

test(`gives up no more than the slack (seed ${seed})`, () => {
  fc.assert(
    fc.property(
      conversation,
      fc.integer({ min: 60, max: 900 }),
      fc.constantFrom(0, 0.05, 1 / 8, 0.5),
      (messages, budget, slack) => {
        const fitted = attempt(messages, { budget, tokenizer, slack })
        const greedy = attempt(messages, { budget, tokenizer, slack: 0 })
        if (fitted === undefined || greedy === undefined) return
        expect(greedy.tokens - fitted.tokens).toBeLessThanOrEqual(slack * budget + 1)
      }
    ),
    { seed, numRuns: 500 }
  )
})

test(`begins with a user's message where one is within the slack (seed ${seed})`, () => {
  const sized = fc.integer({ min: 1, max: 20 }).map((count) => 'word '.repeat(count))
  const alternating = fc
    .array(sized, { minLength: 20, maxLength: 60 })
    .map((contents) => [
      say('system', 'Be brief.'),
      ...contents.map((content, index) => say(index % 2 === 0 ? 'user' : 'assistant', content))
    ])
  fc.assert(
    fc.property(alternating, fc.integer({ min: 250, max: 900 }), (messages, budget) => {
      const { messages: kept } = fit(messages, { budget, tokenizer })
      expect(kept[1]?.role).toBe('user')
    }),
    { seed, numRuns: 300 }
  )
})

test('drops the oldest first, and without slack no more than it must', () => {
  const messages = [say('system', 'Be brief.'), say('user', 'one'), say('assistant', 'two'), say('user', 'three')]
  const all = counted(messages)
  expect(fit(messages, { budget: all, tokenizer }).messages).toBe(messages)
  const fitted = fit(messages, { budget: all - 1, tokenizer, slack: 0 })
  expect(fitted.messages).toEqual([messages[0], messages[2], messages[3]])
  expect(fitted).toMatchObject({ dropped: 1, droppedMessages: [messages[1]], saved: 5, uncounted: 0 })
})

test('keeps the question in front of what is left of a long answer', () => {
  const steps = Array.from({ length: 20 }, (_, index) => [call(`${index}`), result(`${index}`, 'found it '.repeat(10))]).flat()
  const messages = [say('user', 'once'), say('assistant', 'Yes.'), say('user', 'Do it.'), ...steps, say('user', 'Go on.')]
  const fitted = fit(messages, { budget: 300, tokenizer })
  expect(fitted.messages.slice(0, 2)).toEqual([messages[2], expect.objectContaining({ role: 'assistant', content: '' })])
  expect(fitted.messages.length).toBeGreaterThan(8)
  expect(fitted.tokens).toBeGreaterThan(300 * 0.7)
  // Of an answer that is one long message nothing would be left: then it stays, without its question.
  const long = [say('user', 'Write.'), say('assistant', 'word '.repeat(200)), say('user', 'Go on.')]
  expect(fit(long, { budget: counted(long) - 1, tokenizer }).messages).toEqual(long.slice(1))
})

test('keeps a call made before the last user turn when its result comes after it', () => {
  const messages: Message[] = [say('user', 'long ago '.repeat(200)), call('a'), say('user', 'and?'), result('a')]
  expect(fit(messages, { budget: 100, tokenizer }).messages).toEqual(messages.slice(1))
})

test('keeps head and tail when the middle goes, and the head is the same whatever the last turn takes', () => {
  const messages = [say('system', 'Be brief.')]
  for (let turn = 0; turn < 20; turn++) messages.push(say('user', `question ${turn}`), say('assistant', 'word '.repeat(20)))
  const headOf = (last: string): number => {
    const all = [...messages, say('user', last)]
    const { messages: kept, tokens } = fit(all, { budget: 400, tokenizer, drop: 'middle' })
    expect(tokens).toBeGreaterThan(300)
    expect(kept.at(-2)).toBe(messages.at(-1))
    const head = kept.findIndex((message, index) => message !== all[index])
    expect(kept[head]?.role).toBe('user')
    return head
  }
  expect(headOf('And now?')).toBe(7)
  expect(headOf('word '.repeat(100))).toBe(7)
})

test('takes a conversation of any kind', () => {
  const budget = 30
  expect(fit([], { budget, tokenizer })).toMatchObject({ messages: [], dropped: 0, tokens: counted([]), saved: 0 })
  expect(() => fit([], { budget: 0, tokenizer })).toThrow('0 message(s) of the last turn cannot be left out and take 3 tokens')
  const lone = [say('system', 'word '.repeat(100))]
  expect(() => fit(lone, { budget, tokenizer })).toThrow(/1 system or developer message/)
  const results = Array.from({ length: 10 }, () => result('none'))
  expect(fit(results, { budget, tokenizer }).messages).toEqual(results.slice(-3))
  const answers = Array.from({ length: 10 }, (_, index) => say('assistant', `answer ${index}`))
  expect(fit(answers, { budget, tokenizer }).messages).toEqual(answers.slice(-3))
})

test('never cuts a message that holds an image', () => {
  const image: Message = { role: 'user', content: [{ type: 'image', url: 'https://example.com/a.png' }] }
  const messages = [image, say('assistant', 'word '.repeat(50)), image]
  expect(fit(messages, { budget: 2000, tokenizer }).messages).toBe(messages)
  const { messages: kept, uncounted } = fit(messages, { budget: tokenizer.countMessages([image]), tokenizer })
  expect(kept).toEqual([image])
  expect(kept[0]).toBe(image)
  expect(uncounted).toBe(1)
})

test('names what cannot be left out, without quoting it', () => {
  const messages = [say('system', 'secret '.repeat(50)), say('user', 'hello')]
  const attempted = (): unknown => fit(messages, { budget: 20, tokenizer, tools, responseFormat })
  const what =
    '1 system or developer message(s), 1 message(s) of the last turn, 1 tool(s), the schema of the answer cannot be left out'
  expect(attempted).toThrow(what)
  expect(attempted).toThrow(/ tokens; the budget is 20$/)
  expect(attempted).not.toThrow(/secret/)
})

test('refuses wrong options', () => {
  const wrong: object[] = [{ budget: Number.NaN }, { budget: -1 }, { drop: 'newest' }, { slack: 1 }, { slack: -0.1 }, { slak: 0 }]
  for (const options of [...wrong, { tokenizer: {} }, { summarize: 'yes' }]) {
    expect(() => fit([], { budget: 10, tokenizer, ...options } as FitOptions)).toThrow(TypeError)
  }
})

/** A tokenizer that keeps a list of the messages it is asked about. */
function listening(): { readonly own: Tokenizer; readonly asked: Set<Message> } {
  const asked = new Set<Message>()
  const own: Tokenizer = {
    ...tokenizer,
    countMessages(messages, beside) {
      for (const message of messages) asked.add(message)
      return tokenizer.countMessages(messages, beside)
    }
  }
  return { own, asked }
}

const chat = (turns: number): Message[] =>
  Array.from({ length: turns * 2 }, (_, index) =>
    say(index % 2 === 0 ? 'user' : 'assistant', `message ${index} ${'word '.repeat(30)}`)
  )

test('counts no more of a long history than it keeps, and all of it only when asked what was saved', () => {
  const messages = [...chat(500), say('user', 'And now?')]
  for (const drop of ['oldest', 'middle'] as const) {
    const { own, asked } = listening()
    const fitted = fit(messages, { budget: 2000, tokenizer: own, drop, slack: 0 })
    expect(fitted.messages.length).toBeGreaterThan(40)
    expect(asked.size).toBeLessThanOrEqual(fitted.messages.length + 4)
    expect(fitted.saved).toBe(counted(messages) - fitted.tokens)
    expect(asked.size).toBe(messages.length)
  }
})

test('counts nothing when bytes prove that all fits, until asked', () => {
  const { own, asked } = listening()
  const messages = chat(3)
  const fitted = fit(messages, { budget: 100_000, tokenizer: own })
  expect(fitted.messages).toBe(messages)
  expect(asked.size).toBe(0)
  expect(fitted.tokens).toBe(counted(messages))
})

test('finds a message of megabytes too long without counting it', () => {
  const { own, asked } = listening()
  const huge = say('assistant', 'word '.repeat(1_000_000))
  expect(fit([say('user', 'Write.'), huge, say('user', 'Go on.')], { budget: 8000, tokenizer: own }).dropped).toBe(2)
  expect(asked.has(huge)).toBe(false)
})

/** A conversation that grows by a turn at a time: how the prompts of neighbouring turns begin. */
function growing(options: Partial<FitOptions>): { readonly moves: number; readonly share: number; readonly fullness: number } {
  const random = seeded(seed)
  const history: Message[] = [say('system', 'Be brief.')]
  let last: readonly Message[] = []
  let moves = 0
  let common = 0
  let tokens = 0
  let turns = 0
  const budget = 4000
  for (let turn = 0; turn < 150; turn++) {
    history.push(say('user', `question ${turn} ${'word '.repeat(random(60))}`))
    const { messages, tokens: taken, dropped } = fit(history, { budget, tokenizer, ...options })
    if (dropped > 0) {
      let same = 0
      while (same < last.length && messages[same] === last[same]) same++
      // The first that is not the same is either new or where the gap ends.
      if (last.length > 0 && same < last.length) moves++
      common += counted(messages.slice(0, same))
      tokens += taken
      turns++
    }
    last = messages
    history.push(say('assistant', `answer ${turn} ${'word '.repeat(random(200))}`))
  }
  expect(turns).toBeGreaterThan(100)
  return { moves: moves / turns, share: common / tokens, fullness: tokens / turns / budget }
}

function seeded(from: number): (below: number) => number {
  let state = from
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

test('begins the prompt of a growing conversation the same for turns in a row, for a little of the budget', () => {
  const steady = growing({})
  const greedy = growing({ slack: 0 })
  expect(greedy.moves).toBeGreaterThan(0.6)
  expect(steady.moves).toBeLessThan(greedy.moves / 2)
  expect(steady.share).toBeGreaterThan(greedy.share * 3)
  expect(steady.fullness).toBeGreaterThan(0.85)
  // With the middle out the head is always the same.
  expect(growing({ drop: 'middle' }).share).toBeGreaterThan(steady.share)
})

test('takes time in proportion to the history: 100,000 messages not 25 times 12,500', () => {
  const kinds: ((count: number) => Message[])[] = [
    (count) => chat(count / 2),
    (count) => Array.from({ length: count }, () => result('none')),
    (count) => Array.from({ length: count }, (_, index) => (index % 2 === 0 ? call('a', 'b') : result('a'))),
    // Every result belongs to the first message.
    (count) => [say('user', 'go'), call('a'), ...Array.from({ length: count - 3 }, () => result('a')), say('user', 'on')],
    (count) => Array.from({ length: count }, () => say('system', 'Be brief.'))
  ]
  for (const kind of kinds) {
    for (const drop of ['oldest', 'middle'] as const) {
      const onceOf = (count: number): number => {
        const history = kind(count)
        const started = process.cpuUsage()
        attempt(history, { budget: 5000, tokenizer, drop })
        return since(started)
      }
      const timeOf = (count: number): number => Math.min(onceOf(count), onceOf(count), onceOf(count))
      timeOf(1000)
      expect(timeOf(100_000) / Math.max(timeOf(12_500), 1)).toBeLessThan(25)
    }
  }
})

describe('with a summary', () => {
  const history = [say('system', 'Be brief.'), ...chat(30), say('user', 'And now?')]

  test('puts it as a user message where the gap is, in front of an answer', async () => {
    for (const drop of ['oldest', 'middle'] as const) {
      let told: readonly Message[] = []
      let room = 0
      const fitted = await fit(history, {
        budget: 1000,
        tokenizer,
        drop,
        summarize(dropped, { budget }) {
          told = dropped
          room = budget
          return 'Earlier: they counted.'
        }
      })
      const at = fitted.messages.findIndex(({ content }) => content === 'Earlier: they counted.')
      expect(fitted.messages[at]).toEqual({ role: 'user', content: 'Earlier: they counted.' })
      expect(fitted.messages[at - 1]?.role).toBe(drop === 'oldest' ? 'system' : 'assistant')
      expect(fitted.messages[at + 1]?.role).toBe('assistant')
      expect(told).toBe(fitted.droppedMessages)
      expect(told).toHaveLength(fitted.dropped)
      expect(room).toBe(125 - 4)
      expect(fitted).toMatchObject({ summary: 'whole', tokens: counted(fitted.messages) })
      expect(fitted.saved).toBe(counted(history) - fitted.tokens)
      expect(history.filter((message) => !told.includes(message))).toEqual(fitted.messages.toSpliced(at, 1))
    }
  })

  test(`is within the budget whatever the summary is, and follows the same rules (seed ${seed})`, async () => {
    const summary = fc.oneof(
      fc.constant(''),
      words,
      fc.string({ unit: 'grapheme', maxLength: 500 }),
      fc.constant('word '.repeat(5000))
    )
    await fc.assert(
      fc.asyncProperty(
        conversation,
        fc.integer({ min: 0, max: 900 }),
        dropping,
        summary,
        async (messages, budget, how, content) => {
          let calls = 0
          const summarize = async (): Promise<string> => {
            calls++
            return content
          }
          const fitted = await fit(messages, { budget, tokenizer, ...how, summarize }).catch((error: unknown) => {
            if (!isMillraceError(error, 'context-overflow')) throw error
          })
          if (fitted === undefined) return
          expect(fitted.tokens).toBeLessThanOrEqual(budget)
          if (fitted.dropped === 0) {
            expect(fitted.messages).toBe(messages)
            expect(calls).toBe(0)
            return
          }
          const own = fitted.messages.filter((message) => !messages.includes(message))
          expect(own).toHaveLength(fitted.summary === 'none' ? 0 : 1)
          if (fitted.summary === 'whole') expect(own[0]?.content).toBe(content)
          if (fitted.summary === 'cut') expect(content.startsWith(own[0]?.content as string)).toBe(true)
          expect(fitted.tokens).toBe(counted(fitted.messages))
          expect(fitted.saved).toBe(counted(messages) - fitted.tokens)
          const stayed = new Set(fitted.messages)
          for (const message of mustStay(messages)) expect(stayed.has(message)).toBe(true)
          for (const [caller, answer] of pairs(messages)) expect(stayed.has(caller)).toBe(stayed.has(answer))
        }
      ),
      { seed, numRuns: 300 }
    )
  })

  test('does not ask for one when all fits, or when there is no room', async () => {
    const summarize = (): string => expect.unreachable()
    expect((await fit(history, { budget: 100_000, tokenizer, summarize })).messages).toBe(history)
    const full = [...chat(2), say('user', 'word '.repeat(100))]
    const budget = counted(full.slice(-1))
    expect(await fit(full, { budget, tokenizer, summarize })).toMatchObject({ messages: full.slice(-1), summary: 'none' })
  })

  test('hands on its error, and refuses what is no text', async () => {
    const failure = new Error('no model')
    const failing = (): Promise<string> => Promise.reject(failure)
    await expect(fit(history, { budget: 1000, tokenizer, summarize: failing })).rejects.toBe(failure)
    const wrong = (() => 1) as unknown as () => string
    await expect(fit(history, { budget: 1000, tokenizer, summarize: wrong })).rejects.toThrow(
      'summarize must give a string, not number'
    )
    await expect(fit(history, { budget: 5, tokenizer, summarize: failing })).rejects.toThrow(/cannot be left out/)
  })

  test('ends with the reason of the signal, before it is asked and while it is waited for', async () => {
    const reason = new Error('enough')
    const never = (): Promise<string> => new Promise(() => {})
    const aborted = AbortSignal.abort(reason)
    await expect(fit(history, { budget: 1000, tokenizer, summarize: () => expect.unreachable(), signal: aborted })).rejects.toBe(
      reason
    )
    const controller = new AbortController()
    const { signal } = controller
    const waiting = fit(history, { budget: 1000, tokenizer, summarize: never, signal })
    controller.abort(reason)
    await expect(waiting).rejects.toBe(reason)
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
  })

  test('drops the same messages for turns in a row, so that a summary can be used again', async () => {
    const conversed = [say('system', 'Be brief.')]
    const asked = new Set<number>()
    let turns = 0
    for (const [index, message] of chat(100).entries()) {
      conversed.push(message)
      if (index % 2 === 1) continue
      const summarize = (dropped: readonly Message[]): string => {
        asked.add(dropped.length)
        turns++
        return 'Earlier: they counted.'
      }
      await fit(conversed, { budget: 4000, tokenizer, summarize })
    }
    expect(turns).toBeGreaterThan(40)
    expect(asked.size).toBeLessThan(turns / 2)
  })
})

test('a budget that is no whole number is kept too, with a summary', async () => {
  const claude = tokenizers.for('claude-opus-4-1')
  for (let part = 0; part < 100; part++) {
    const history = Array.from({ length: 60 }, (_, index) =>
      say(index % 2 === 0 ? 'user' : 'assistant', `message ${index} `.repeat(10 + (part % 7)))
    )
    const budget = 900 + part * 1.37
    const summed = await fit(history, { budget, tokenizer: claude, summarize: () => 'what was said before '.repeat(200) })
    expect(summed.tokens).toBeLessThanOrEqual(budget)
  }
})

test('a unit far too long is dropped without being counted to its end, and parallel results are counted once', () => {
  const calls: Message = {
    role: 'assistant',
    content: '',
    toolCalls: ['a', 'b'].map((id) => ({ id, name: 'look', arguments: '{}' }))
  }
  const results = (content: string): Message[] => ['a', 'b'].map((toolCallId) => ({ role: 'tool', toolCallId, content }))
  const took = (history: readonly Message[], budget: number): number => {
    const before = process.cpuUsage()
    fit(history, { budget, tokenizer })
    return since(before)
  }
  const huge = [say('user', 'go'), calls, ...results('['.repeat(10_000_000)), say('user', 'on')]
  expect(took(huge, 10_000)).toBeLessThan(1200)
  const many = Array.from({ length: 200 }, () => [say('user', 'go'), { ...calls }, ...results('{"a": 1}'.repeat(400))]).flat()
  const first = took([...many, say('user', 'on')], 500_000)
  expect(took([...many, say('user', 'on')], 500_000)).toBeLessThan(first / 3 + 5)
})

test('arguments and results in wide spacing are not taken for too long: what is counted decides', () => {
  const wide = JSON.stringify(
    Array.from({ length: 3000 }, (_, id) => ({ id, name: `item ${id}`, tags: ['a', 'b'] })),
    null,
    2
  )
  const asks = (ids: readonly string[], given: string): Message => ({
    role: 'assistant',
    content: '',
    toolCalls: ids.map((id) => ({ id, name: 'look', arguments: given }))
  })
  const single = [say('user', 'go'), asks(['a'], wide), result('a'), say('assistant', 'done'), say('user', 'on')]
  const parallel = [say('user', 'go'), asks(['a', 'b'], '{}'), result('a', wide), result('b', wide), say('user', 'on')]
  for (const history of [single, parallel]) {
    const all = tokenizer.countMessages(history)
    expect(tokenizer.count(wide)).toBeGreaterThan(60_000)
    expect(fit(history, { budget: all, tokenizer, slack: 0 }).messages).toBe(history)
  }
})

test('refuses messages of another shape although their bytes seem to fit', () => {
  const calls = [{ id: 'a', type: 'function', function: { name: 'f', arguments: 'x'.repeat(500_000) } }]
  const history = [say('user', 'hello'), { role: 'assistant', content: '', tool_calls: calls }, say('user', 'on')] as Message[]
  expect(() => fit(history, { budget: 1000, tokenizer })).toThrow(/tool_calls/)
})

test('a plain result full of spaces is bounded as it stands: what fits is not dropped', () => {
  const long = ['recuperação', 'preocupação', 'participação', 'schizophrenia', 'reconnaissance']
  const spaced = Array.from({ length: 90_000 }, (_, index) => long[index % long.length]).join(' ')
  const history = [say('user', 'go'), call('a'), result('a', spaced), say('assistant', 'done'), say('user', 'on')]
  const all = tokenizer.countMessages(history)
  for (const times of [1, 1.3])
    expect(fit(history, { budget: Math.ceil(all * times), tokenizer, slack: 0 }).messages).toBe(history)
})

test('says where a message, tool or choice has another shape, wherever it stands', () => {
  const wrong = [
    null,
    { role: 'assistant', content: null, tool_calls: [] },
    { role: 'user', content: [null] },
    { role: 'assistant', content: '', toolCalls: null },
    { role: 'assistant', content: '', toolCalls: [{ id: 'a', function: { name: 'f' } }] },
    { role: 'tool', content: 'found' },
    { role: 'human', content: 'hello' },
    { role: 'user', content: [{ type: 'text', text: 5 }] }
  ]
  const code = expect.objectContaining({ code: 'invalid-request' })
  for (const message of wrong) {
    const history = [say('user', 'word '.repeat(500)), message, say('user', 'on')] as Message[]
    for (const budget of [100, 100_000]) expect(() => fit(history, { budget, tokenizer })).toThrow(code)
  }
  for (const beside of [
    { tools: [{ type: 'function' }] },
    { responseFormat: { type: 'json_schema' } },
    { toolChoice: { type: 'auto' } }
  ]) {
    expect(() => fit([say('user', 'hi')], { budget: 1000, tokenizer, ...(beside as object) })).toThrow(code)
  }
})
