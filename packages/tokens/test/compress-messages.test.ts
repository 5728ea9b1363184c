import { existsSync, globSync, readFileSync } from 'node:fs'
import type { Message, Part } from '@millrace/core'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { compressMessages } from '../src/compress-messages.ts'

const seed = 20_261_123
const wide = 'Too   many  spaces.\n\n\n\nHere.'
const narrow = 'Too many spaces.\n\nHere.'
const mark = { cache_control: { type: 'ephemeral' } }

/** Frozen all the way down: a change in place would throw. */
function frozen<T>(value: T): T {
  if (typeof value === 'object' && value !== null) {
    Object.freeze(value)
    for (const item of Object.values(value)) frozen(item)
  }
  return value
}

const text = (content: string, extra?: Record<string, object>): Part =>
  extra === undefined ? { type: 'text', text: content } : { type: 'text', text: content, extra: extra as never }

describe('whose texts', () => {
  test('user and assistant messages are compressed; instructions, tool calls and what tools answer are not', () => {
    const messages: Message[] = frozen([
      { role: 'system', content: wide },
      { role: 'developer', content: wide },
      { role: 'user', content: wide, name: 'Ada' },
      { role: 'assistant', content: wide, toolCalls: [{ id: '1', name: 'look', arguments: '{"a":   "b   c"}' }] },
      { role: 'tool', toolCallId: '1', content: wide }
    ])
    const result = compressMessages(messages)
    expect(result.messages[0]).toBe(messages[0])
    expect(result.messages[1]).toBe(messages[1])
    expect(result.messages[2]).toEqual({ role: 'user', content: narrow, name: 'Ada' })
    expect(result.messages[3]).toEqual({ ...messages[3], content: narrow })
    expect(result.messages[4]).toBe(messages[4])
    expect(result.savedChars).toBe(2 * (wide.length - narrow.length))
  })

  test('tools that answer in prose can be named, and their data still stays', () => {
    const messages: Message[] = [
      { role: 'tool', toolCallId: '1', content: wide },
      { role: 'tool', toolCallId: '2', content: '{"a":   1}' },
      { role: 'user', content: wide }
    ]
    const result = compressMessages(messages, { roles: ['tool'] })
    expect(result.messages.map(({ content }) => content)).toEqual([narrow, '{"a":   1}', wide])
    expect(result.messages[1]).toBe(messages[1])
  })
})

describe('parts', () => {
  test('only texts change: reasoning, images and what the contract has no name for are the same objects', () => {
    const parts = frozen<Part[]>([
      { type: 'reasoning', text: wide, signature: 's' },
      text(wide),
      { type: 'image', url: 'data:image/png;base64,AAAA' },
      { type: 'other', value: { type: 'thinking', thinking: wide } }
    ])
    const { messages } = compressMessages([{ role: 'assistant', content: parts }])
    const content = messages[0]?.content as Part[]
    expect(content[1]).toEqual(text(narrow))
    for (const index of [0, 2, 3]) expect(content[index]).toBe(parts[index])
  })

  test('words at the ends of two parts do not grow together', () => {
    const { messages } = compressMessages([{ role: 'user', content: [text('Hello    '), text('big   world')] }])
    expect(messages[0]?.content).toEqual([text('Hello '), text('big world')])
  })

  test('code that one part begins goes on in the next', () => {
    const parts = [text('See:\n```\na   b\n'), text('c   d'), text('e   f\n```')]
    expect(compressMessages([{ role: 'user', content: parts }]).messages[0]?.content).toBe(parts)
  })

  test('a text or message with fields of the provider stays: they may point into it', () => {
    const messages: Message[] = [
      { role: 'assistant', content: wide, extra: { annotations: [{ start_index: 10 }] } },
      { role: 'assistant', content: [text(wide, { thought: { signature: 's' } })] }
    ]
    expect(compressMessages(messages).messages).toBe(messages)
  })
})

describe('what is marked for the cache of the provider', () => {
  const marked: [string, Message][] = [
    ['on a message', { role: 'user', content: wide, extra: mark }],
    ['on a part', { role: 'user', content: [text(wide, mark)] }],
    ['on an image', { role: 'user', content: [text(wide), { type: 'image', url: 'https://a/b', extra: mark }] }],
    [
      'in a part of Bedrock',
      { role: 'user', content: [text(wide), { type: 'other', value: { cachePoint: { type: 'default' } } }] }
    ],
    ['inside of a result', { role: 'user', content: [{ type: 'other', value: { content: [{ type: 'text', ...mark }] } }] }],
    ['on instructions', { role: 'system', content: wide, extra: mark }],
    ['on what a tool answered', { role: 'tool', toolCallId: '1', content: [text(wide, mark)] }]
  ]

  test.each(marked)('a mark %s keeps everything up to it', (_, message) => {
    const before: Message[] = [{ role: 'user', content: wide }, { role: 'assistant', content: [text(wide)] }, message]
    expect(compressMessages(frozen(before)).messages).toBe(before)
    const messages = frozen<Message[]>([...before, { role: 'user', content: wide }])
    const after = compressMessages(messages).messages
    for (const index of [0, 1, 2]) expect(after[index]).toBe(messages[index])
    expect(after[3]).toEqual({ role: 'user', content: narrow })
  })

  test('behind the mark, the parts of the same message are compressed', () => {
    const parts = [text(wide), text(wide, mark), text(wide)]
    const { messages } = compressMessages([{ role: 'user', content: parts }])
    const content = messages[0]?.content as Part[]
    expect(content[0]).toBe(parts[0])
    expect(content[1]).toBe(parts[1])
    expect(content[2]).toEqual(text(narrow))
  })

  test('a mark that is null is none', () => {
    const messages: Message[] = [{ role: 'user', content: [text(wide), { type: 'other', value: { cache_control: null } }] }]
    expect(compressMessages(messages).messages).not.toBe(messages)
  })
})

const content = fc.constantFrom(wide, narrow, 'A  b.', 'x', '```\na   b', '  ', '{"a":  1}')
const message: fc.Arbitrary<Message> = fc.oneof(
  fc.record({ role: fc.constantFrom('user' as const, 'assistant' as const, 'system' as const), content }),
  fc.record({
    role: fc.constant('user' as const),
    content: fc.array(
      content.map((each) => text(each)),
      { maxLength: 3 }
    )
  }),
  fc.record({ role: fc.constant('tool' as const), toolCallId: fc.constant('1'), content })
)
const conversation = fc.array(message, { maxLength: 8 })

describe(`any conversation (seed ${seed})`, () => {
  test('a message is compressed alike whatever follows it, and twice is once', () => {
    fc.assert(
      fc.property(conversation, conversation, (before, after) => {
        frozen(before)
        const alone = compressMessages(before).messages
        expect(compressMessages([...before, ...after]).messages.slice(0, before.length)).toEqual(alone)
        expect(compressMessages(alone).messages).toBe(alone)
        for (const [index, each] of alone.entries()) {
          if (JSON.stringify(each) === JSON.stringify(before[index])) expect(each).toBe(before[index])
        }
      }),
      { seed, numRuns: 500 }
    )
  })
})

test('what was saved is the sum over the texts', () => {
  const tokenizer = { count: (each: string) => each.length }
  const messages: Message[] = [
    { role: 'user', content: 'a   b' },
    { role: 'user', content: [text('a  b'), text('a b')] }
  ]
  expect(compressMessages(messages, { tokenizer })).toMatchObject({ savedTokens: 3, savedChars: 3 })
  expect(compressMessages(messages).savedTokens).toBeUndefined()
})

test('wrong options are refused with the cure', () => {
  expect(() => compressMessages([], { role: ['user'] } as never)).toThrow(/no option "role"; it has roles, tokenizer/)
  expect(() => compressMessages([], { roles: ['system'] } as never)).toThrow(
    /roles may be 'user', 'assistant' and 'tool', not "system"/
  )
  expect(() => compressMessages([], { tokenizer: {} as never })).toThrow(/tokenizerFor/)
})

const recordings = new URL('../../../../shared/real/recordings/', import.meta.url)
const isReal = existsSync(recordings)
if (!isReal) console.warn(`skipped: no recordings at ${recordings.pathname}`)

test.skipIf(!isReal)('of recorded conversations no word is lost, and marked ones keep their prefix', () => {
  let marked = 0
  let seen = 0
  for (const file of globSync('*/*.json', { cwd: recordings.pathname })) {
    const { request } = JSON.parse(readFileSync(new URL(file, recordings), 'utf8')) as { request?: { body?: unknown } | null }
    const body = (typeof request?.body === 'string' ? tryJson(request.body) : request?.body) as
      | { messages?: unknown }
      | null
      | undefined
    if (!Array.isArray(body?.messages)) continue
    const messages = (body.messages as Record<string, unknown>[]).filter(({ content: each }) => each != null).map(asMessage)
    seen++
    const after = compressMessages(frozen(messages)).messages
    const words = (of: readonly Message[]): string => JSON.stringify(of).replaceAll(/\\[nrt]| /g, '')
    expect(words(after), file).toBe(words(messages))
    const last = messages.findLastIndex((each) => JSON.stringify(each).includes('"cache_control"'))
    if (last !== -1) marked++
    for (let index = 0; index < last; index++) expect(after[index], file).toBe(messages[index])
  }
  expect(seen).toBeGreaterThan(100)
  expect(marked).toBeGreaterThan(0)
})

function tryJson(body: string): unknown {
  try {
    return JSON.parse(body)
  } catch {
    return undefined // forms and the like have no messages
  }
}

/** A message of OpenAI or Anthropic, as far as its texts go. */
function asMessage({ role, content: given }: Record<string, unknown>): Message {
  const parts = given as string | Record<string, unknown>[]
  if (typeof parts === 'string') return { role: role as 'user', content: parts }
  const asPart = ({ type, text: of, ...rest }: Record<string, unknown>): Part => {
    if (type !== 'text') return { type: 'other', value: { type, text: of, ...rest } as never }
    return Object.keys(rest).length === 0
      ? { type: 'text', text: of as string }
      : { type: 'text', text: of as string, extra: rest as never }
  }
  return { role: role as 'user', content: parts.map(asPart) }
}
