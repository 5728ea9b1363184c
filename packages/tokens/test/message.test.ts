import {
  isMillraceError,
  type Json,
  type JsonObject,
  type Message,
  type Part,
  type ResponseFormat,
  type Tool,
  type ToolCall
} from '@millrace/core'
import fc from 'fast-check'
import { afterAll, expect, test } from 'vitest'
import { compactJson, formatText, parallelResultText } from '../src/call-text.ts'
import { createTokenizers } from '../src/index.ts'
import { maxTokens, uncountedParts } from '../src/message.ts'
import { toolText } from '../src/tool-text.ts'
import { since } from './cpu.ts'

const seed = 20_261_123
const tokenizers = createTokenizers()
afterAll(() => tokenizers.close())

const user = (content: string | readonly Part[]): Message => ({ role: 'user', content })
const calling = (content: string, ...toolCalls: readonly ToolCall[]): Message => ({ role: 'assistant', content, toolCalls })
const call = (id: string, name = 'look', given = '{}'): ToolCall => ({ id, name, arguments: given })
const answer = (toolCallId: string, content: string): Message => ({ role: 'tool', toolCallId, content })
const count = (messages: readonly Message[], beside = {}, model = 'gpt-4o'): number =>
  tokenizers.for(model).countMessages(messages, beside)

const model = fc.constantFrom(
  'gpt-4o',
  'gpt-4',
  'o3',
  'gpt-5.6',
  'gpt-oss-120b',
  'gpt-5-nano',
  'claude-opus-5-5',
  'command-a',
  'gemini-3-pro',
  'deployment'
)
const text = fc.oneof(
  fc.string({ unit: 'grapheme', maxLength: 40 }),
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.json({ maxDepth: 2 })
)
const some = text.filter((given) => given !== '')
const pixel = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ'
const url = fc.oneof(
  some,
  fc.base64String({ maxLength: 200 }).map((data) => `data:image/png;base64,${data}`),
  fc.constant(`data:image/png;base64,${pixel}`)
)
const part: fc.Arbitrary<Part> = fc.oneof(
  fc.record({ type: fc.constant('text' as const), text }),
  fc.record({ type: fc.constant('reasoning' as const), text, signature: text }),
  fc.record({ type: fc.constant('image' as const), url, detail: fc.constantFrom('low', 'high', 'auto', undefined) }),
  fc.record({ type: fc.constant('audio' as const), data: text, format: some }),
  fc.record({ type: fc.constant('file' as const), url, filename: text }),
  fc.record({
    type: fc.constant('other' as const),
    value: fc.dictionary(fc.string({ unit: 'grapheme', maxLength: 5 }), fc.jsonValue() as fc.Arbitrary<Json>, { maxKeys: 3 })
  })
)
const content = fc.oneof(text, fc.array(part, { maxLength: 4 }))
const id = fc.constantFrom('a', 'b', 'c')
const toolCalls = fc.array(fc.record({ id, name: some, arguments: text }), { maxLength: 3 })
const message: fc.Arbitrary<Message> = fc.oneof(
  fc.record({
    role: fc.constantFrom('system' as const, 'developer' as const, 'user' as const),
    content,
    name: fc.option(text, { nil: undefined })
  }),
  fc.record({ role: fc.constant('assistant' as const), content, toolCalls: fc.option(toolCalls, { nil: undefined }) }),
  fc.record({ role: fc.constant('tool' as const), toolCallId: id, content })
)
const schema: fc.Arbitrary<Json> = fc.letrec((tie) => ({
  node: fc.oneof(
    { maxDepth: 3 },
    fc.record(
      {
        type: fc.constantFrom<Json>('string', 'integer', 'null', 'object', ['string', 'null']),
        title: text,
        description: text,
        format: text
      },
      { requiredKeys: [] }
    ),
    fc.record({ type: fc.constant('array'), items: tie('node') }),
    fc.record({ anyOf: fc.array(tie('node'), { maxLength: 3 }), default: text }, { requiredKeys: ['anyOf'] }),
    fc.record({ enum: fc.array(text, { maxLength: 3 }) }),
    fc.record({
      type: fc.constant('object'),
      properties: fc.dictionary(text, tie('node'), { maxKeys: 3 }),
      required: fc.array(text, { maxLength: 2 })
    })
  )
})).node as fc.Arbitrary<Json>
const parameters = fc.record({
  type: fc.constant('object'),
  properties: fc.dictionary(text, schema, { maxKeys: 4 }),
  required: fc.array(text, { maxLength: 2 })
})
const tools = fc.array(fc.record({ name: some, description: text, parameters }), { maxLength: 3 }) as fc.Arbitrary<Tool[]>
const toolChoice = fc.oneof(
  fc.constantFrom('auto' as const, 'none' as const, 'required' as const, undefined),
  fc.record({ name: some })
)
const responseFormat = fc.option(
  fc.record({
    type: fc.constant('json-schema' as const),
    name: some,
    schema: parameters,
    description: fc.option(text, { nil: undefined })
  }),
  { nil: undefined }
) as fc.Arbitrary<ResponseFormat | undefined>

test(`any request of the contract counts a whole number, which the proof by bytes is never below (seed ${seed})`, () => {
  const beside = fc.record({ tools, toolChoice, responseFormat })
  fc.assert(
    fc.property(model, fc.array(message, { maxLength: 6 }), beside, (name, messages, given) => {
      const tokens = count(messages, given, name)
      expect(tokens).toSatisfy((value: number) => Number.isSafeInteger(value) && value >= 0)
      expect(tokens).toBeLessThanOrEqual(maxTokens(messages, { ...given, model: name }))
      expect(tokens).toBeLessThanOrEqual(maxTokens(messages, given))
    }),
    { seed, numRuns: 700 }
  )
})

test(`calls and their results add up: an exchange costs the same wherever it stands (seed ${seed})`, () => {
  const exchange = fc.tuple(
    fc.array(fc.record({ name: some, arguments: text, result: text }), { minLength: 1, maxLength: 3 }),
    text
  )
  fc.assert(
    fc.property(model, fc.array(exchange, { maxLength: 4 }), (name, exchanges) => {
      const units = exchanges.map(([calls, said], unit) => [
        calling(said, ...calls.map((one, index) => call(`${unit}-${index}`, one.name, one.arguments))),
        ...calls.map((one, index) => answer(`${unit}-${index}`, one.result))
      ])
      const frame = count([], {}, name)
      const sum = units.reduce((total, unit) => total + count(unit, {}, name) - frame, frame)
      expect(count(units.flat(), {}, name)).toBe(sum)
    }),
    { seed, numRuns: 200 }
  )
})

test('base64 is never counted as text, in a tool message either', () => {
  const base64 = 'A'.repeat(100_000)
  const parts: Part[] = [
    { type: 'image', url: `data:image/png;base64,${base64}` },
    { type: 'audio', data: base64, format: 'wav' },
    { type: 'file', url: `data:application/pdf;base64,${base64}` }
  ]
  expect(count([user(parts)])).toBe(count([user('')]))
  expect(count([{ role: 'tool', toolCallId: 'a', content: parts }])).toBe(count([answer('a', '')]))
  expect(maxTokens([user(parts)], { model: 'gpt-4o' })).toBeLessThan(50)
  expect(uncountedParts([user(parts), user([{ type: 'text', text: 'a' }])])).toBe(3)
})

test('an image that can be counted is in the count and in the proof by bytes', () => {
  const image: Message = user([{ type: 'image', url: `data:image/png;base64,${pixel}` }])
  expect(count([image]) - count([user('')])).toBe(255)
  expect(count([image], {}, 'gpt-5') - count([user('')], {}, 'gpt-5')).toBe(210)
  expect(maxTokens([image], { model: 'gpt-4o' })).toBeGreaterThanOrEqual(count([image]))
  expect(uncountedParts([image], 'gpt-4o')).toBe(0)
})

test('a call costs the same however its arguments are spaced', () => {
  const spaced = calling('', call('a', 'look', '{ "city":  "New York",\n "units": ["C", "F"] }'))
  expect(count([spaced])).toBe(count([calling('', call('a', 'look', '{"city":"New York","units":["C","F"]}'))]))
  expect(compactJson('{"a b" : "c \\" d , e" , "f": [1, 2]}')).toBe('{"a b":"c \\" d , e","f":[1,2]}')
})

test('parallel results are charged as JSON with all but ASCII escaped: Korean takes many times what it takes alone', () => {
  const korean = '테스트 '.repeat(100)
  const alone = count([calling('', call('a')), answer('a', korean)])
  const two = count([calling('', call('a'), call('b')), answer('a', korean), answer('b', korean)])
  expect(two).toBeGreaterThan(alone * 10)
  const english = 'test '.repeat(100)
  const plain = count([calling('', call('a'), call('b')), answer('a', english), answer('b', english)])
  expect(plain).toBeLessThan(count([calling('', call('a')), answer('a', english)]) * 2 + 40)
  expect(parallelResultText('{"a":[1,"é"]}')).toBe('{"a": [1, "\\u00e9"]}')
  expect(parallelResultText('a "b"')).toBe('"a \\"b\\""')
})

test('text beside calls is a message of its own', () => {
  const said = 'Let me look that up.'
  expect(count([calling(said, call('a'))])).toBe(
    count([calling('', call('a'))]) + count([{ role: 'assistant', content: said }]) - count([])
  )
})

test('a tool the model is forced to call is charged with its name, and tools it must not call with one token', () => {
  const given = { tools: [{ name: 'look' }] }
  const free = count([user('hi')], given)
  expect(count([user('hi')], { ...given, toolChoice: 'required' })).toBe(free)
  expect(count([user('hi')], { ...given, toolChoice: 'none' })).toBe(free + 1)
  expect(count([user('hi')], { ...given, toolChoice: { name: 'look' } })).toBe(free + 5)
  expect(count([user('hi')], { toolChoice: 'none' })).toBe(count([user('hi')]))
})

test('a structured answer is charged for its schema, without the rules that go without saying', () => {
  const properties = { joke: { type: 'string' } }
  const strict = { type: 'object', properties, required: ['joke'], additionalProperties: false }
  const format = (given: Tool['parameters']): ResponseFormat => ({ type: 'json-schema', name: 'joke', schema: given ?? {} })
  const told = { responseFormat: format(strict) }
  expect(count([user('hi')], told)).toBe(count([user('hi')], { responseFormat: format({ type: 'object', properties }) }))
  expect(count([user('hi')], told)).toBeGreaterThan(count([user('hi')]) + 20)
  expect(count([user('hi')], { responseFormat: { type: 'json' } })).toBe(count([user('hi')]))
  const named = { properties: { required: { type: 'array' }, additionalProperties: { type: 'string' } } }
  expect(formatText({ type: 'json-schema', name: 'joke', schema: named })).toContain(JSON.stringify(named))
})

test('a schema with a cycle is refused at once', () => {
  const cyclic: Record<string, unknown> = { type: 'object' }
  cyclic['properties'] = { a: cyclic, b: cyclic }
  const refused = (beside: object): unknown => {
    try {
      return count([user('hi')], beside)
    } catch (error) {
      return isMillraceError(error, 'invalid-request') ? error.details.path : error
    }
  }
  expect(refused({ tools: [{ name: 'f', parameters: cyclic }] })).toBe('tools[0].parameters.properties.a')
  expect(refused({ responseFormat: { type: 'json-schema', name: 'f', schema: cyclic } })).toBe(
    'responseFormat.schema.properties.a'
  )
})

test('hostile arguments and results take linear time', () => {
  const timeOf = (unit: string, length: number): number => {
    const given = unit.repeat(length / unit.length)
    const startedAt = process.cpuUsage()
    maxTokens([calling('', call('a', 'f', given))], { model: 'gpt-4o' })
    compactJson(given)
    parallelResultText(given)
    return since(startedAt)
  }
  for (const unit of ['"', '\\"', '[', '{"a":', ' ', ',', '" "', '\n"\\']) {
    timeOf(unit, 24_000)
    expect(timeOf(unit, 2_400_000), unit).toBeLessThan(1000)
  }
})

test('tools without comments stand on one line, others on a line a property', () => {
  const tool = (properties: NonNullable<Tool['parameters']>): Tool[] => [
    { name: 'f', parameters: { type: 'object', properties, required: ['a'] } }
  ]
  const body = (properties: NonNullable<Tool['parameters']>, style: 'inline' | 'lines' = 'lines'): string | undefined =>
    /\(_: ([^]*)\) => any/.exec(toolText(tool(properties), style))?.[1]
  expect(body({ a: { type: 'integer' }, b: { type: 'array', items: { type: 'string' } } })).toBe('{ a: number, b?: string[] }')
  expect(body({ a: { type: ['string', 'null'], title: 'A' } })).toBe('{\n// A\na: string | null,\n}')
  expect(body({ a: { type: 'string', title: 'A', description: 'the first' } })).toBe('{\n// A\n//\n// the first\na: string,\n}')
  const either = { a: { anyOf: [{ type: 'string', format: 'date' }, { type: 'null' }] } }
  expect(body(either)).toBe('{\na:\n | string // format: date\n | null\n,\n}')
  expect(body(either, 'inline')).toBe('{\na: string | null,\n}')
})

test('refuses what has another shape than the contract, and says where: it would count too little', () => {
  const said = { role: 'user', content: 'hello' }
  const wrong: [unknown, unknown, string][] = [
    [[{ role: 'assistant', content: null, tool_calls: [] }], {}, 'messages[0].content'],
    [[said, { role: 'assistant', content: '', tool_calls: [] }], {}, 'messages[1].tool_calls'],
    [[{ role: 'tool', content: '', tool_call_id: 'a' }], {}, 'messages[0].toolCallId'],
    [[{ role: 'usr', content: 'hello' }], {}, 'messages[0].role'],
    [[{ role: 'user', content: [{ type: 'input_text', text: 'hello' }] }], {}, 'messages[0].content[0].type'],
    [[said], { tools: [{ type: 'function', function: { name: 'f' } }] }, 'tools[0].name'],
    [[said], { tools: [{ name: 'f', input_schema: {} }] }, 'tools[0].input_schema'],
    [[said], { tools: [{ name: 'f', parameters: null }] }, 'tools[0].parameters'],
    [[said], { toolChoice: { type: 'function', function: { name: 'f' } } }, 'toolChoice.name'],
    [[said], { responseFormat: { type: 'json-schema', name: 'a' } }, 'responseFormat.schema'],
    [[said], { responseFormat: { type: 'json_schema' } }, 'responseFormat.type']
  ]
  const tokenizer = tokenizers.for('gpt-4o')
  for (const [messages, beside, path] of wrong) {
    expect(() => tokenizer.countMessages(messages as Message[], beside as never)).toThrow(
      expect.objectContaining({ code: 'invalid-request', details: { path } })
    )
  }
  expect(() => tokenizer.countMessages({ messages: [] } as never)).toThrow('messages must be an array')
})

test('a schema that names a type twice on every level is written down once a level', () => {
  let nested: JsonObject = { type: 'string' }
  for (let depth = 0; depth < 60; depth++) nested = { type: ['object', 'object'], properties: { a: nested } }
  const given = [{ name: 'f', parameters: { type: 'object', properties: { a: nested } } }]
  expect(tokenizers.for('gpt-4o').countMessages([], { tools: given })).toBeLessThan(1000)
})

test('a cycle in an enum or a default is told like one in the schema', () => {
  const cycle: Record<string, unknown> = {}
  cycle['self'] = cycle
  for (const property of [{ enum: [cycle] }, { type: 'object', default: cycle }]) {
    const given = [{ name: 'f', parameters: { type: 'object', properties: { a: property } } }] as unknown as Tool[]
    expect(() => tokenizers.for('gpt-4o').countMessages([], { tools: given })).toThrow(
      expect.objectContaining({ code: 'invalid-request' })
    )
  }
})

test('one assistant message that stands twice counts like two that are equal', () => {
  const calls = calling('', call('a', 'f', '{}'), call('b', 'f', '{}'))
  const results = [answer('a', 'yes'), answer('b', 'no')]
  const twice = [calls, ...results, calls, ...results]
  const equal = [calls, ...results, structuredClone(calls), ...results]
  expect(count(twice, {}, 'gpt-4o')).toBe(count(equal, {}, 'gpt-4o'))
})
