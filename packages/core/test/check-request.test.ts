import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type ChatRequest, checkRequest, isMillraceError } from '../src/index.ts'

const user = { role: 'user', content: 'Hello' }
const good = { model: 'm', messages: [user] }

/** The path of the refusal. Anything but `invalid-request` is a failure of the check itself. */
function refusedAt(request: unknown): string {
  try {
    checkRequest(request as ChatRequest)
  } catch (error) {
    if (!isMillraceError(error, 'invalid-request')) throw error
    expect(error.message).toContain(error.details.path)
    return error.details.path ?? ''
  }
  throw new Error('the request was accepted')
}

const expectAccepted = (request: unknown): void => expect(() => checkRequest(request as ChatRequest)).not.toThrow()

const message = (fields: object): unknown => ({ ...good, messages: [user, { ...user, ...fields }] })
const part = (fields: object): unknown => ({ ...good, messages: [{ role: 'user', content: [fields] }] })
const withField = (field: string, value: unknown): unknown => ({ ...good, [field]: value })

describe('checkRequest', () => {
  it('accepts every field of the contract', () => {
    const call = { id: 'c1', name: 'weather', arguments: '{}' }
    const request: ChatRequest = {
      model: 'm',
      messages: [
        { role: 'system', content: 'Be brief', name: 'house' },
        { role: 'developer', content: 'x', extra: { cache_control: { type: 'ephemeral' } } },
        {
          role: 'user',
          content: [
            { type: 'text', text: '' },
            { type: 'image', url: 'data:image/png;base64,AAAA', detail: 'low' },
            { type: 'audio', data: 'AAAA', format: 'wav' },
            { type: 'file', fileId: 'f1', filename: 'a.pdf' },
            { type: 'file', url: 'data:application/pdf;base64,AAAA' },
            { type: 'other', value: { type: 'search_result' } }
          ]
        },
        { role: 'assistant', content: [{ type: 'reasoning', text: 'hm', signature: 's' }], toolCalls: [call] },
        { role: 'assistant', content: '', toolCalls: [] },
        { role: 'tool', content: 'sunny', toolCallId: 'c1' }
      ],
      tools: [{ name: 'weather', description: 'd', parameters: { type: 'object' }, strict: true, extra: {} }],
      toolChoice: { name: 'weather' },
      responseFormat: { type: 'json-schema', name: 'n', schema: {}, description: 'd', strict: false },
      maxOutputTokens: 1,
      temperature: 0,
      topP: 1,
      stop: ['\n'],
      seed: 0,
      extra: { user: 'u', logit_bias: { '1': -100 } }
    }
    expectAccepted(request)
    for (const toolChoice of ['auto', 'none', 'required']) expectAccepted({ ...request, toolChoice })
    for (const type of ['text', 'json']) expectAccepted({ ...request, responseFormat: { type } })
  })

  it('takes a field that is undefined for one that is absent, known or not', () => {
    expectAccepted({ ...good, tools: undefined, extra: undefined, stream: undefined })
    expectAccepted({ ...good, messages: [{ ...user, name: undefined }] })
  })

  it.each<[string, unknown, string]>([
    ['null', null, ''],
    ['a string', 'hello', ''],
    ['an array', [good], ''],
    ['an instance of a class', Object.assign(new Date(), good), ''],
    ['no model', { messages: [user] }, 'model'],
    ['an empty model', { ...good, model: '' }, 'model'],
    ['no messages', { model: 'm' }, 'messages'],
    ['messages that are no array', { ...good, messages: 'hello' }, 'messages'],
    ['an empty list of messages', { ...good, messages: [] }, 'messages'],
    ['a hole in the messages', { ...good, messages: Array(2) }, 'messages[0]'],
    ['a message that is null', { ...good, messages: [user, null] }, 'messages[1]'],
    ['a role outside the five', message({ role: 'function' }), 'messages[1].role'],
    ['a role in capitals', message({ role: 'User' }), 'messages[1].role'],
    ['a role named like a property of all objects', message({ role: 'constructor' }), 'messages[1].role'],
    ['no role', message({ role: undefined }), 'messages[1].role'],
    ['no content', message({ content: undefined }), 'messages[1].content'],
    ['content that is null', message({ content: null }), 'messages[1].content'],
    ['content that is a number', message({ content: 5 }), 'messages[1].content'],
    ['a name that is no string', message({ name: 5 }), 'messages[1].name'],
    ['an extra that is no object', message({ extra: [] }), 'messages[1].extra'],
    ['an unknown field of a message', message({ tool_calls: [] }), 'messages[1].tool_calls'],
    ['tool calls of a user', message({ toolCalls: [] }), 'messages[1].toolCalls'],
    ['a tool message without its call', message({ role: 'tool' }), 'messages[1].toolCallId'],
    ['tool calls that are no array', message({ role: 'assistant', toolCalls: {} }), 'messages[1].toolCalls'],
    [
      'a tool call without id',
      message({ role: 'assistant', toolCalls: [{ name: 'n', arguments: '' }] }),
      'messages[1].toolCalls[0].id'
    ],
    [
      'parsed arguments',
      message({ role: 'assistant', toolCalls: [{ id: 'i', name: 'n', arguments: {} }] }),
      'messages[1].toolCalls[0].arguments'
    ],
    ['a part without type', part({ text: 'x' }), 'messages[0].content[0].type'],
    ['an unknown part', part({ type: 'image_url' }), 'messages[0].content[0].type'],
    ['a part that is a string', { ...good, messages: [{ role: 'user', content: ['x'] }] }, 'messages[0].content[0]'],
    ['a text part without text', part({ type: 'text' }), 'messages[0].content[0].text'],
    ['an image without url', part({ type: 'image', url: '' }), 'messages[0].content[0].url'],
    ['an image of unknown detail', part({ type: 'image', url: 'u', detail: 'huge' }), 'messages[0].content[0].detail'],
    ['audio without format', part({ type: 'audio', data: '' }), 'messages[0].content[0].format'],
    ['a file that is nowhere', part({ type: 'file' }), 'messages[0].content[0]'],
    ['a signature that is no string', part({ type: 'reasoning', text: '', signature: 1 }), 'messages[0].content[0].signature'],
    ['an other part without value', part({ type: 'other' }), 'messages[0].content[0].value'],
    ['NaN in an other part', part({ type: 'other', value: { a: [Number.NaN] } }), 'messages[0].content[0].value.a[0]'],
    ['tools that are no array', withField('tools', {}), 'tools'],
    ['a tool without name', withField('tools', [{}]), 'tools[0].name'],
    ['a tool of the OpenAI shape', withField('tools', [{ name: 'n', function: {} }]), 'tools[0].function'],
    ['parameters that are no object', withField('tools', [{ name: 'n', parameters: 'x' }]), 'tools[0].parameters'],
    ['a function in a schema', withField('tools', [{ name: 'n', parameters: { a: () => 1 } }]), 'tools[0].parameters.a'],
    ['strict that is no flag', withField('tools', [{ name: 'n', strict: 'yes' }]), 'tools[0].strict'],
    ['an unknown tool choice', withField('toolChoice', 'any'), 'toolChoice'],
    ['a tool choice without name', withField('toolChoice', {}), 'toolChoice.name'],
    ['an unknown format', withField('responseFormat', { type: 'json_object' }), 'responseFormat.type'],
    ['a format that is a string', withField('responseFormat', 'json'), 'responseFormat'],
    ['a schema format without schema', withField('responseFormat', { type: 'json-schema', name: 'n' }), 'responseFormat.schema'],
    ['a schema format without name', withField('responseFormat', { type: 'json-schema', schema: {} }), 'responseFormat.name'],
    ['stop that is a string', withField('stop', 'x'), 'stop'],
    ['an empty stop', withField('stop', ['']), 'stop[0]'],
    ['a Date in extra', withField('extra', { when: new Date() }), 'extra.when'],
    ['a Map as extra', withField('extra', new Map()), 'extra'],
    ['a bigint in extra', withField('extra', { n: 1n }), 'extra.n'],
    ['undefined in an array', withField('extra', { list: [1, undefined] }), 'extra.list[1]'],
    ['a key with a line break', withField('extra', { 'a\nb': Number.NaN }), 'extra["a\\nb"]']
  ])('refuses %s, and names the field', (_, request, path) => {
    expect(refusedAt(request)).toBe(path)
  })

  it('refuses numbers that no provider takes', () => {
    const numbers = { maxOutputTokens: [0, 1.5], temperature: [], topP: [1.01], seed: [1.5, 2 ** 53] }
    for (const [field, values] of Object.entries(numbers)) {
      for (const value of [...values, -1, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, '1', 1n, null, {}]) {
        expect(refusedAt(withField(field, value))).toBe(field)
      }
    }
  })

  it('tells where an unknown field belongs', () => {
    expect(() => checkRequest({ ...good, max_tokens: 5 } as never)).toThrow(
      'max_tokens is no field of a request; put fields of the provider into extra'
    )
  })

  it.each([
    ['the request', '{"model":"m","messages":[{"role":"user","content":"x"}],"__proto__":{}}', '__proto__'],
    ['a message', '{"model":"m","messages":[{"role":"user","content":"x","__proto__":{}}]}', 'messages[0].__proto__'],
    [
      'a part',
      '{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"","__proto__":1}]}]}',
      'messages[0].content[0].__proto__'
    ],
    [
      'a tool call',
      '{"model":"m","messages":[{"role":"assistant","content":"","toolCalls":[{"id":"i","name":"n","arguments":"","__proto__":1}]}]}',
      'messages[0].toolCalls[0].__proto__'
    ],
    [
      'a tool',
      '{"model":"m","messages":[{"role":"user","content":""}],"tools":[{"name":"n","__proto__":{}}]}',
      'tools[0].__proto__'
    ],
    [
      'a tool schema',
      '{"model":"m","messages":[{"role":"user","content":""}],"tools":[{"name":"n","parameters":{"a":{"__proto__":{}}}}]}',
      'tools[0].parameters.a.__proto__'
    ],
    [
      'a tool choice',
      '{"model":"m","messages":[{"role":"user","content":""}],"toolChoice":{"name":"n","__proto__":{}}}',
      'toolChoice.__proto__'
    ],
    [
      'a response format',
      '{"model":"m","messages":[{"role":"user","content":""}],"responseFormat":{"type":"json","__proto__":{}}}',
      'responseFormat.__proto__'
    ],
    [
      'extra',
      '{"model":"m","messages":[{"role":"user","content":""}],"extra":{"__proto__":{"polluted":true}}}',
      'extra.__proto__'
    ],
    [
      'extra, deep down',
      '{"model":"m","messages":[{"role":"user","content":"","extra":{"a":[{"__proto__":1}]}}]}',
      'messages[0].extra.a[0].__proto__'
    ]
  ])('refuses a __proto__ key in %s', (_, text, path) => {
    expect(refusedAt(JSON.parse(text))).toBe(path)
    expect(() => checkRequest(JSON.parse(text))).toThrow('is a key that pollutes prototypes; remove it')
    expect(({} as { polluted?: unknown }).polluted).toBeUndefined()
  })

  it('refuses a prototype that carries fields, for a copy would lose them', () => {
    expect(refusedAt(Object.assign(Object.create({ temperature: 1 }), good))).toBe('')
  })

  it('keeps what the caller wrote out of its message', () => {
    const canary = 'CANARY'
    const bad = [message({ role: canary }), part({ type: canary }), withField('toolChoice', canary), withField('seed', canary)]
    for (const request of bad) expect(() => checkRequest(request as ChatRequest)).not.toThrow(canary)
  })

  it('accepts any valid request (seed 1)', () => {
    const text = fc.string({ unit: 'binary', maxLength: 20 })
    const name = fc.string({ minLength: 1, maxLength: 8 })
    const extra = fc.dictionary(
      name.filter((key) => key !== '__proto__'),
      fc.jsonValue({ maxDepth: 4 }).map(withoutProto),
      { maxKeys: 3 }
    )
    const opt = { requiredKeys: [] as [] }
    const anyPart = fc.oneof(
      fc.record({ type: fc.constant('text'), text, extra }, { requiredKeys: ['type', 'text'] }),
      fc.record({ type: fc.constant('image'), url: name }),
      fc.record({ type: fc.constant('reasoning'), text, signature: text }, { requiredKeys: ['type', 'text'] }),
      fc.record({ type: fc.constant('other'), value: extra })
    )
    const content = fc.oneof(text, fc.array(anyPart, { maxLength: 3 }))
    const call = fc.record({ id: name, name, arguments: text })
    const anyMessage = fc.oneof(
      fc.record(
        { role: fc.constantFrom('system', 'developer', 'user'), content, name: text, extra },
        { requiredKeys: ['role', 'content'] }
      ),
      fc.record(
        { role: fc.constant('assistant'), content, toolCalls: fc.array(call, { maxLength: 2 }) },
        { requiredKeys: ['role', 'content'] }
      ),
      fc.record({ role: fc.constant('tool'), content, toolCallId: name })
    )
    const options = fc.record(
      {
        maxOutputTokens: fc.integer({ min: 1 }),
        temperature: fc.double({ min: 0, noNaN: true, max: 1e6 }),
        topP: fc.double({ min: 0, max: 1, noNaN: true }),
        seed: fc.maxSafeNat(),
        stop: fc.array(name, { maxLength: 2 }),
        extra
      },
      opt
    )
    fc.assert(
      fc.property(name, fc.array(anyMessage, { minLength: 1, maxLength: 4 }), options, (model, messages, rest) => {
        checkRequest({ model, messages, ...rest } as ChatRequest)
      }),
      { seed: 1, numRuns: 500 }
    )
  })

  it('throws nothing but invalid-request with a path, whatever it is given (seed 2)', () => {
    const anything = fc.anything({
      withBigInt: true,
      withDate: true,
      withMap: true,
      withSet: true,
      withNullPrototype: true,
      withSparseArray: true,
      withTypedArray: true,
      withObjectString: true,
      maxDepth: 4
    })
    const fieldNames = [
      'model',
      'messages',
      'tools',
      'toolChoice',
      'responseFormat',
      'maxOutputTokens',
      'topP',
      'stop',
      'seed',
      'extra',
      'x'
    ]
    const odd = fc.oneof(
      anything,
      fc.dictionary(fc.constantFrom(...fieldNames), anything),
      fc.record({
        model: fc.constant('m'),
        messages: fc.array(fc.dictionary(fc.constantFrom('role', 'content', 'name', 'extra', 'toolCalls'), anything), {
          minLength: 1
        })
      }),
      anything.map((content) => ({ model: 'm', messages: [{ role: 'user', content }] })),
      anything.map((extra) => ({ ...good, extra }))
    )
    fc.assert(
      fc.property(odd, (request) => {
        try {
          checkRequest(request as ChatRequest)
        } catch (error) {
          expect(isMillraceError(error, 'invalid-request') && typeof error.details.path).toBe('string')
        }
      }),
      { seed: 2, numRuns: 3000 }
    )
  })
})

function withoutProto(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value, (_, inner) => (Object.hasOwn(Object(inner), '__proto__') ? null : inner)))
}
