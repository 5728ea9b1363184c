import type { ChatRequest, Chunk, Message } from '@millrace/core'
import { describe, expect, test } from 'vitest'
import { asksForContent, type ContentOptions, createContentCapture } from '../src/content.ts'

interface Captured {
  readonly system: unknown
  readonly input: unknown
  readonly output: unknown
  readonly tools: unknown
  /** All attributes as one text. */
  readonly all: string
  readonly failures: number
}

const model = 'gpt-5.6'
const hello: ChatRequest = { model, messages: [{ role: 'user', content: 'Hello' }] }

function capture(request: unknown, chunks: readonly Chunk[] = [], options: ContentOptions = {}): Captured {
  let failures = 0
  const call = createContentCapture(options, () => failures++).start(request as ChatRequest)
  call.add(chunks)
  const attributes = call.attributes(chunks.length === 0 ? undefined : 'stop')
  const read = (name: string): unknown => {
    const json = attributes[name]
    return typeof json === 'string' ? (JSON.parse(json) as unknown) : json
  }
  return {
    system: read('gen_ai.system_instructions'),
    input: read('gen_ai.input.messages'),
    output: read('gen_ai.output.messages'),
    tools: read('gen_ai.tool.definitions'),
    all: JSON.stringify(attributes),
    failures
  }
}

const captureMessages = (messages: unknown, options?: ContentOptions): Captured => capture({ model, messages }, [], options)
const captureContent = (...content: unknown[]): unknown => {
  return (captureMessages([{ role: 'user', content }]).input as [{ parts: unknown }])[0].parts
}
const answer = (chunks: readonly Chunk[], options?: ContentOptions): unknown => {
  return (capture(hello, chunks, options).output as [{ parts: unknown }])[0].parts
}
const text = (content: string): unknown => ({ type: 'text', content })

describe('what goes to the model', () => {
  test('a conversation stands as the conventions have it, the instructions before it apart', () => {
    const messages: Message[] = [
      { role: 'system', content: 'Be brief.' },
      { role: 'developer', content: [{ type: 'text', text: 'Use tools.' }] },
      { role: 'user', content: 'Weather in Paris?' },
      {
        role: 'assistant',
        content: [
          { type: 'reasoning', text: 'I need a tool', signature: 'c2lnbmVk' },
          { type: 'text', text: 'Let me see.' }
        ],
        toolCalls: [{ id: 'call_1', name: 'get_weather', arguments: '{"location": "Paris"}' }]
      },
      { role: 'tool', toolCallId: 'call_1', content: 'rainy, 57°F' },
      { role: 'tool', toolCallId: 'call_2', content: [{ type: 'text', text: 'wind' }] },
      { role: 'system', content: 'Now in French.' }
    ]
    const { system, input, output, tools, all, failures } = captureMessages(messages)
    expect(system).toEqual([text('Be brief.'), text('Use tools.')])
    expect(input).toEqual([
      { role: 'user', parts: [text('Weather in Paris?')] },
      {
        role: 'assistant',
        parts: [
          { type: 'reasoning', content: 'I need a tool' },
          text('Let me see.'),
          { type: 'tool_call', id: 'call_1', name: 'get_weather', arguments: { location: 'Paris' } }
        ]
      },
      { role: 'tool', parts: [{ type: 'tool_call_response', id: 'call_1', response: 'rainy, 57°F' }] },
      { role: 'tool', parts: [{ type: 'tool_call_response', id: 'call_2', response: [text('wind')] }] },
      { role: 'system', parts: [text('Now in French.')] }
    ])
    expect([output, tools]).toEqual([undefined, undefined])
    expect(all).not.toContain('c2lnbmVk')
    expect(failures).toBe(0)
  })

  test('a message without content has no parts', () => {
    expect(captureMessages([{ role: 'assistant', content: '' }]).input).toEqual([{ role: 'assistant', parts: [] }])
  })

  test('tools are names and descriptions, without the schema of their parameters', () => {
    const tools = [{ name: 'add', description: 'Adds', parameters: { type: 'object', secret: true } }, { name: 'now' }]
    expect(capture({ ...hello, tools }).tools).toEqual([
      { type: 'function', name: 'add', description: 'Adds' },
      { type: 'function', name: 'now' }
    ])
  })

  test('of images, audio and files only type, size, file id and the address without its query and password', () => {
    expect(
      captureContent(
        { type: 'image', url: 'data:image/png;base64,QUJDRA==' },
        { type: 'image', url: 'https://bob:hunter2@pictures.test:8443/cat.png?key=hunter2#hunter2' },
        { type: 'image', url: ' DATA:image/svg+xml,<svg/>' },
        { type: 'image', url: `data:QUJD/QUJD${'QUJD'.repeat(1000)}` },
        { type: 'image', url: 'javascript:alert(1)' },
        { type: 'audio', data: 'QUJD', format: 'wav' },
        { type: 'file', fileId: 'file-1', filename: 'Letter to Ann.pdf' },
        { type: 'file', url: 'data:application/pdf;base64,QUJD' },
        { type: 'other', value: { type: 'document', source: { data: 'QUJD' } } }
      )
    ).toEqual([
      { type: 'blob', mime_type: 'image/png', modality: 'image', bytes: 4 },
      { type: 'uri', modality: 'image', uri: 'https://pictures.test:8443/cat.png' },
      { type: 'blob', mime_type: 'image/svg+xml', modality: 'image', bytes: 4 },
      { type: 'blob', modality: 'image', bytes: 3006 },
      { type: 'uri', modality: 'image' },
      { type: 'blob', mime_type: 'audio/wav', modality: 'audio', bytes: 3 },
      { type: 'file', modality: 'document', file_id: 'file-1' },
      { type: 'blob', mime_type: 'application/pdf', modality: 'document', bytes: 3 },
      { type: 'other' }
    ])
  })

  test('a request changed after the start is recorded as it was', () => {
    const messages = [{ role: 'user', content: 'before' }]
    const call = createContentCapture({}, () => {}).start({ model, messages } as ChatRequest)
    messages[0] = { role: 'user', content: 'after' }
    messages.push({ role: 'user', content: 'more' })
    expect(call.attributes()).toEqual({
      'gen_ai.input.messages': '[{"role":"user","parts":[{"type":"text","content":"before"}]}]'
    })
  })
})

describe('what is too long', () => {
  test('a text is cut at its end and says how much is missing', () => {
    const { input } = captureMessages([{ role: 'user', content: 'x'.repeat(10_000) }], { maxChars: 300 })
    const [{ parts }] = input as [{ parts: [{ content: string }] }]
    const [, kept, missing] = /^(x+)…\[(\d+) characters more\]$/.exec(parts[0].content) ?? []
    expect(kept?.length).toBeGreaterThan(100)
    expect((kept?.length ?? 0) + Number(missing)).toBe(10_000)
  })

  test('the oldest messages are left out and counted, the last one and the instructions are kept', () => {
    const messages = [
      { role: 'system', content: 'Be brief.' },
      ...Array.from({ length: 1000 }, (_, index) => ({ role: 'user', content: `message ${index}` }))
    ]
    const { system, input } = captureMessages(messages, { maxChars: 1000 })
    const [first, ...kept] = input as [unknown, ...unknown[]]
    expect(system).toEqual([text('Be brief.')])
    expect(first).toEqual({ role: 'omitted', parts: [], messages: 1000 - kept.length })
    expect(kept.length).toBeGreaterThan(5)
    expect(kept.at(-1)).toEqual({ role: 'user', parts: [text('message 999')] })
  })

  test('a long call of a tool leaves the message that holds it, and an id without end costs no more than its room', () => {
    const toolCalls = [{ id: 'i'.repeat(1e6), name: 'write', arguments: JSON.stringify({ path: 'a', text: 'y'.repeat(1e6) }) }]
    const { input } = captureMessages([{ role: 'assistant', content: 'I write it.', toolCalls }], { maxChars: 1024 })
    const [{ parts }] = input as [{ parts: { type: string; arguments?: string }[] }]
    expect(parts.map(({ type }) => type)).toEqual(['omitted', 'tool_call'])
    expect(parts[1]?.arguments).toMatch(/^\{"path":"a","text":"y+…\[\d+ characters more\]$/)
  })

  test('a surrogate pair is never halved, whatever the length before it', () => {
    for (let before = 0; before < 8; before++) {
      const { all } = captureMessages([{ role: 'user', content: 'x'.repeat(before) + '😀'.repeat(1000) }], { maxChars: 256 })
      expect(all).toContain('😀…[')
      expect(all).not.toMatch(/\ufffd|\\ud83d/)
    }
  })
})

describe('what comes from the model', () => {
  test('text, refusal, reasoning and parallel tool calls in pieces become the parts of one message', () => {
    const chunks: Chunk[] = [
      { type: 'start', provider: 'openai', model },
      { type: 'reasoning', text: 'Hm' },
      { type: 'reasoning', text: 'm.', signature: 'c2lnbmVk' },
      { type: 'text', text: 'Let ' },
      { type: 'extra', name: 'logprobs', value: [1, 'secret'] },
      { type: 'text', text: 'me.' },
      { type: 'tool-call', index: 1, id: 'call_b', name: 'now', arguments: '' },
      { type: 'tool-call', index: 0, id: 'call_a', name: 'get', arguments: '{"a"' },
      { type: 'tool-call', index: 1, arguments: 'not ' },
      { type: 'tool-call', index: 0, arguments: ':[1]}' },
      { type: 'tool-call', index: 1, arguments: 'json' },
      { type: 'refusal', text: 'No.' },
      { type: 'finish', reason: 'stop' }
    ]
    const { output, all, failures } = capture(hello, chunks)
    expect(output).toEqual([
      {
        role: 'assistant',
        parts: [
          { type: 'extra', chunks: 1 },
          { type: 'reasoning', content: 'Hmm.' },
          text('Let me.'),
          { type: 'refusal', content: 'No.' },
          { type: 'tool_call', id: 'call_a', name: 'get', arguments: { a: [1] } },
          { type: 'tool_call', id: 'call_b', name: 'now', arguments: 'not json' }
        ],
        finish_reason: 'stop'
      }
    ])
    expect(all).not.toMatch(/c2lnbmVk|secret/)
    expect(failures).toBe(0)
  })

  test.for([
    ['stop', 'stop'],
    ['length', 'length'],
    ['tool-calls', 'tool_call'],
    ['content-filter', 'content_filter'],
    ['cut', 'cut'],
    ['other', 'other'],
    [undefined, 'error']
  ] as const)('a stream that ends with %s has finish_reason %s', ([finish, expected]) => {
    const call = createContentCapture({}, () => {}).start(hello)
    call.add([{ type: 'text', text: 'Hi' }])
    expect(call.attributes(finish)['gen_ai.output.messages']).toContain(`"finish_reason":"${expected}"`)
  })

  test('a call that failed before any content has no answer', () => {
    const call = createContentCapture({}, () => {}).start(hello)
    call.add([{ type: 'start', provider: 'openai', model }])
    expect(Object.keys(call.attributes())).toEqual(['gen_ai.input.messages'])
  })

  test('the pieces of an emoji that came in two chunks are one again', () => {
    expect(
      answer([
        { type: 'text', text: 'a\ud83d' },
        { type: 'text', text: '\ude00b' }
      ])
    ).toEqual([text('a😀b')])
  })

  test('a stream is held up to its limit and counted beyond', () => {
    const chunks: Chunk[] = Array.from({ length: 20_000 }, () => ({ type: 'text', text: '0123456789' }))
    const [part] = answer(chunks, { maxChars: 400 }) as [{ content: string }]
    const [, kept, missing] = /^(\d+)…\[(\d+) characters more\]$/.exec(part.content) ?? []
    expect((kept?.length ?? 0) + Number(missing)).toBe(200_000)
  })

  test('calls without end are held up to their limits and counted', () => {
    const chunks: Chunk[] = Array.from({ length: 5000 }, (_, index) => {
      return { type: 'tool-call', index, id: `call_${index}`, name: 'f', arguments: '{}' }
    })
    const [first, ...rest] = answer(chunks, { maxChars: 1000 }) as [unknown, ...unknown[]]
    expect(first).toEqual({ type: 'omitted', parts: 129 - rest.length })
    expect(rest.at(-1)).toEqual({ type: 'tool_call', id: 'call_127', name: 'f', arguments: {} })
  })
})

describe('redaction', () => {
  const without =
    (secret: string): NonNullable<ContentOptions['redact']> =>
    (given) =>
      given.replaceAll(secret, '[gone]')

  test('the hook is told which attribute a text is for', () => {
    const seen: string[] = []
    const redact: ContentOptions['redact'] = (given, where) => {
      seen.push(`${where}: ${given}`)
      return given
    }
    const messages = [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Hi' }
    ]
    capture({ model, messages, tools: [{ name: 'now' }] }, [{ type: 'text', text: 'Yes' }], { redact })
    expect(seen.toSorted()).toEqual(['input: Hi', 'output: Yes', 'system: Be brief.', 'tool: now'])
  })

  test('a text for which the hook gives undefined is left out, and the call of a tool stands without it', () => {
    const redact: ContentOptions['redact'] = (given) => (given.includes('secret') ? undefined : given)
    const messages = [
      {
        role: 'user',
        content: [
          { type: 'text', text: 'secret' },
          { type: 'text', text: 'open' }
        ]
      },
      { role: 'assistant', content: '', toolCalls: [{ id: 'call_1', name: 'f', arguments: '{"a":"secret"}' }] }
    ]
    const { input, failures } = captureMessages(messages, { redact })
    expect(input).toEqual([
      { role: 'user', parts: [{ type: 'omitted', parts: 1 }, text('open')] },
      { role: 'assistant', parts: [{ type: 'tool_call', id: 'call_1', name: 'f' }] }
    ])
    expect(failures).toBe(0)
  })

  test.for([
    [
      'throws',
      () => {
        throw new Error('secret')
      }
    ],
    ['gives a promise', async (given: string) => given],
    [
      'gives a promise that fails',
      async () => {
        throw new Error('secret')
      }
    ],
    ['gives null', () => null]
  ] as const)('when the hook %s, the text is left out and counted', async ([, hook]) => {
    const redact = hook as unknown as NonNullable<ContentOptions['redact']>
    const { input, all, failures } = captureMessages([{ role: 'user', content: 'secret' }], { redact })
    await new Promise(setImmediate) // an unhandled rejection would fail the run
    expect(input).toEqual([{ role: 'user', parts: [{ type: 'omitted', parts: 1 }] }])
    expect(all).not.toContain('secret')
    expect(failures).toBe(1)
  })

  test('what looks like a credential is taken out, with a hook and without, also in pieces of a stream', () => {
    const key = 'sk-proj-0123456789abcdef'
    const request = { model, messages: [{ role: 'user', content: `use ${key} please` }] }
    const pieces: Chunk[] = [
      { type: 'text', text: `it is ${key.slice(0, 10)}` },
      { type: 'text', text: `${key.slice(10)} I think` }
    ]
    const seen: string[] = []
    const redact = (given: string): string => {
      seen.push(given)
      return given
    }
    for (const options of [{}, { redact }]) {
      const { input, output, all } = capture(request, pieces, options)
      expect(input).toEqual([{ role: 'user', parts: [text('use [redacted] please')] }])
      expect(output).toMatchObject([{ parts: [text('it is [redacted] I think')] }])
      expect(all).not.toContain('0123456789')
    }
    expect(seen.join()).not.toContain('0123456789')
  })

  test('a secret in pieces of a stream is found, also with other content between them', () => {
    const chunks: Chunk[] = [
      { type: 'text', text: 'The card is 4111-1111' },
      { type: 'extra', name: 'logprobs', value: 1 },
      { type: 'reasoning', text: 'hm' },
      { type: 'text', text: '-1111-1111.' }
    ]
    expect(answer(chunks, { redact: without('4111-1111-1111-1111') })).toContainEqual(text('The card is [gone].'))
  })

  test('a secret at the edge of what the hook sees leaves no half behind', () => {
    const secret = 'S3CR3T'.repeat(20)
    for (let shift = 0; shift < 130; shift++) {
      // With 300 recorded it sees 1324 characters: their edge goes through the last of eleven secrets.
      const given = `${secret.repeat(10)}${'x'.repeat(shift)}${secret}${'y'.repeat(5000)}`
      const chunks: Chunk[] = [
        { type: 'text', text: given },
        { type: 'tool-call', index: 0, arguments: given }
      ]
      const { all } = capture({ ...hello, messages: [{ role: 'user', content: given }] }, chunks, {
        maxChars: 300,
        redact: without(secret)
      })
      expect(all).not.toContain('S3C')
    }
  })

  test('keys behind an escape of JSON are taken out of arguments and of results that are JSON', () => {
    const said = '# keys\nsk-proj-0123456789abcdef\n\tBearer 0123456789abcdef\u0001KEY_sk-ant-0123456789'
    const clean = '# keys\n[redacted]\n\t[redacted]\u0001KEY_[redacted]'
    const messages = [
      { role: 'assistant', content: '', toolCalls: [{ id: '1', name: 'write', arguments: JSON.stringify({ said }) }] },
      { role: 'tool', toolCallId: '1', content: JSON.stringify({ said }) }
    ]
    const chunks: Chunk[] = [{ type: 'tool-call', index: 0, id: '1', name: 'write', arguments: JSON.stringify({ said }) }]
    const { input, output, all } = capture({ model, messages }, chunks)
    expect(input).toMatchObject([
      { parts: [{ arguments: { said: clean } }] },
      { parts: [{ response: JSON.stringify({ said: clean }) }] }
    ])
    expect(output).toMatchObject([{ parts: [{ arguments: { said: clean } }] }])
    expect(all).not.toContain('0123456789')
  })

  test('the hook sees arguments with their line breaks and tabs, whole or cut, and they stay JSON', () => {
    const redact = (given: string): string => given.replaceAll(/\bacct_\d+/g, '[account]')
    const given = { text: 'a\nacct_12\tacct_34\u0001acct_56\r\n"acct_78" C:\\new', n: [1, ''] }
    const cut = { text: `a\nacct_12 ${'x'.repeat(2000)}` }
    const recorded = (json: string): unknown => {
      const toolCalls = [{ id: '1', name: 'write', arguments: json }]
      const { input } = captureMessages([{ role: 'assistant', content: '', toolCalls }], { maxChars: 900, redact })
      return (input as [{ parts: [{ arguments: unknown }] }])[0].parts[0].arguments
    }
    expect(recorded(JSON.stringify(given, undefined, 2))).toEqual({
      text: 'a\n[account]\t[account]\u0001[account]\r\n"[account]" C:\\new',
      n: [1, '']
    })
    expect(recorded(JSON.stringify(cut))).toMatch(/^\{"text":"a\n\[account\] x+…\[\d+ characters more\]$/)
  })

  test('of a credential that is longer than what is looked at, nothing is recorded', () => {
    const key = '0123456789'.repeat(300)
    const filler = 'word '.repeat(1440)
    for (const secret of [`eyJhbGciOiJIUzI1NiJ9.eyJz${key}.${key}`, `sk-${key}`, `Bearer ${key}`, `/?sig=${key}`]) {
      const { all } = captureMessages([{ role: 'user', content: `${filler}${secret} ${filler}` }])
      expect(all).not.toContain('0123456789')
    }
    for (let shift = 0; shift < 1100; shift += 7) {
      const url = `x${'y'.repeat(shift)} https://user:${key.slice(0, 900)}@example.com ${filler}`
      expect(captureMessages([{ role: 'user', content: url }], { maxChars: 1000 }).all).not.toContain('0123456789')
    }
  })

  test('a secret behind escapes of JSON is found in the arguments of a call', () => {
    const json = '{"a":"S3\\u0043R3T\\/x","b":"\\\\u0041\\"\\u000a\\ud83d\\ude00"}'
    const toolCalls = [{ id: '1', name: 'f', arguments: json }]
    const { input } = captureMessages([{ role: 'assistant', content: '', toolCalls }], { redact: without('S3CR3T/x') })
    const [{ parts }] = input as [{ parts: [{ arguments: unknown }] }]
    expect(parts[0].arguments).toEqual({ a: '[gone]', b: '\\u0041"\n😀' })
  })
})

describe('options', () => {
  test.for([
    [{ maxChar: 1 }, 'content has no option "maxChar"'],
    [{ maxChars: 255 }, 'maxChars must be a whole number of at least 256'],
    [{ maxChars: Number.POSITIVE_INFINITY }, 'maxChars must be a whole number'],
    [{ redact: true }, 'redact must be a function that gives'],
    [true, 'content takes an object of options, not boolean: `\\{\\}` for the defaults']
  ] as const)('%o is refused', ([options, message]) => {
    expect(() => createContentCapture(options as ContentOptions, () => {})).toThrow(new RegExp(`^${message}`))
    expect(() => createContentCapture(options as ContentOptions, () => {})).toThrow(TypeError)
  })

  test.for([
    ['true', true],
    [' TRUE ', true],
    ['1', true],
    ['span_only', true],
    ['SPAN_AND_EVENT', true],
    ['event_only', false],
    ['no_content', false],
    ['false', false],
    ['', false],
    ['yes please', false],
    [undefined, false]
  ] as const)('the variable with %o asks for content: %o', ([value, asks]) => {
    expect(asksForContent({ OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT: value })).toBe(asks)
  })
})
