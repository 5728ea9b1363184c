import { createServer, request as httpRequest, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  type CallOptions,
  type ChatRequest,
  type Chunk,
  checkRequest,
  linkAbort,
  onAbort,
  type Provider,
  type Usage
} from '../src/index.ts'
import { type ConformanceCase, type ConformanceSubject, providerConformance } from '../src/testing.ts'

// A server of two words: `fast` answers at once, `slow` in 50 pieces over a second and more.
let server: Server
let base = ''
let seen = 0
let open = 0

beforeAll(async () => {
  server = createServer(async (asked, answer) => {
    seen++
    open++
    answer.once('close', () => open--)
    const pieces = asked.url === '/slow' ? 50 : 3
    for (let piece = 0; piece < pieces && !answer.closed; piece++) {
      answer.write(`word${piece} `)
      if (asked.url === '/slow') await delay(30)
    }
    answer.end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})
afterAll(() => {
  server.closeAllConnections()
  server.close()
})

const request: ChatRequest = { model: 'fast', messages: [{ role: 'user', content: 'Hello' }] }
const slowRequest: ChatRequest = { ...request, model: 'slow' }

async function* bytesOf(model: string, signal: AbortSignal | undefined): AsyncGenerator<string> {
  signal?.throwIfAborted()
  const asked = httpRequest(`${base}/${model}`)
  const off = onAbort(signal, (reason) => asked.destroy(reason as Error))
  try {
    const response = await new Promise<AsyncIterable<Buffer> & { destroy(): void }>((resolve, reject) => {
      asked.once('error', reject).once('response', resolve).end()
    })
    for await (const bytes of response) yield bytes.toString()
  } catch (error) {
    signal?.throwIfAborted()
    throw error
  } finally {
    off()
    asked.destroy()
  }
}

const start = (model: string): Chunk => ({ type: 'start', provider: 'test', model })
const usage: Usage = {
  input: { uncached: 1, cacheRead: 0, cacheWrite: 0 },
  output: { text: 3, reasoning: 0 },
  estimated: false,
  billed: true
}

async function* good(asked: ChatRequest, { signal, stream }: CallOptions): AsyncGenerator<Chunk> {
  checkRequest(asked)
  signal?.throwIfAborted()
  yield start(asked.model)
  let whole = ''
  for await (const text of bytesOf(asked.model, signal)) {
    whole += text
    if (stream !== false) yield { type: 'text', text }
  }
  if (stream === false) yield { type: 'text', text: whole }
  yield { type: 'usage', usage }
  yield { type: 'finish', reason: 'stop' }
}

function casesFor(provider: Provider): readonly ConformanceCase[] {
  const subject: ConformanceSubject = { provider, request, slowRequest, requestsSeen: () => seen, openAnswers: () => open }
  return providerConformance(() => subject)
}

describe('the suite on a good provider', () => {
  it.each(casesFor(good).map(({ title, run }) => [title, run] as const))('%s', async (_, run) => {
    await run()
  })
})

/** Changes one thing of a good provider. */
const mapped = (change: (chunk: Chunk) => readonly Chunk[]): Provider =>
  async function* (asked, options) {
    for await (const chunk of good(asked, options)) yield* change(chunk)
  }
const twice = (type: Chunk['type']): Provider => mapped((chunk) => (chunk.type === type ? [chunk, chunk] : [chunk]))
const order = 'yields one start first'
const note: Chunk = { type: 'note', from: 'provider', facts: {} }

let shared = ''
let answers = 0

const bad: readonly [string, Provider, string][] = [
  ['has no start', mapped((chunk) => (chunk.type === 'start' ? [] : [chunk])), order],
  ['has two starts', twice('start'), order],
  ['has no finish', mapped((chunk) => (chunk.type === 'finish' ? [] : [chunk])), 'gives the same answer with stream: false'],
  ['has two finishes', twice('finish'), order],
  [
    'yields something behind its finish',
    mapped((chunk) => (chunk.type === 'finish' ? [chunk, { type: 'text', text: '' }] : [chunk])),
    order
  ],
  ['tells usage twice', twice('usage'), order],
  ['tells a note after content', mapped((chunk) => (chunk.type === 'finish' ? [note, chunk] : [chunk])), order],
  [
    'has usage that is no number',
    mapped((chunk) =>
      chunk.type === 'usage' ? [{ ...chunk, usage: { ...chunk.usage, output: { text: Number.NaN, reasoning: 0 } } }] : [chunk]
    ),
    order
  ],
  [
    'drops text without a stream',
    (asked, options) =>
      options.stream === false
        ? mapped((chunk) => (chunk.type === 'text' ? [{ type: 'text', text: 'word0' }] : [chunk]))(asked, options)
        : good(asked, options),
    'gives the same answer with stream: false'
  ],
  [
    'sends eagerly',
    (asked, options) => {
      const chunks = good(asked, options)
      const ready = [chunks.next(), chunks.next()]
      return (async function* () {
        for (const each of ready) {
          const { value, done } = await each
          if (done !== true) yield value
        }
        yield* chunks
      })()
    },
    'sends nothing before the first chunk is asked for'
  ],
  [
    'looks at the signal after sending',
    async function* (asked, { signal, ...options }) {
      for await (const chunk of good(asked, options)) {
        if (chunk.type !== 'start') signal?.throwIfAborted()
        yield chunk
      }
    },
    'sends nothing when the signal is aborted already'
  ],
  [
    'wraps the reason of an abort',
    async function* (asked, options) {
      try {
        yield* good(asked, options)
      } catch (error) {
        throw new Error('wrapped', { cause: error })
      }
    },
    'rejects with the reason of an abort in the middle'
  ],
  [
    'ignores the signal',
    (asked, { signal: _, ...options }) => good(asked, options),
    'rejects with the reason of an abort while a read is pending'
  ],
  [
    'leaves its listener on the signal',
    (asked, options) => {
      options.signal?.addEventListener('abort', () => {})
      return good(asked, options)
    },
    'leaves no listener behind a whole answer'
  ],
  [
    'goes on reading when the reader has left',
    (asked, { signal }) => {
      const linked = linkAbort(signal)
      const chunks = good(asked, { signal: linked.signal })
      return { [Symbol.asyncIterator]: () => ({ next: () => chunks.next() }) }
    },
    'closes the connection when the reader leaves the loop'
  ],
  [
    'writes into the request',
    (asked, options) => {
      Object.assign(asked, { temperature: 0 })
      return good(asked, options)
    },
    'changes neither the request nor the options'
  ],
  [
    'writes into the options',
    (asked, options) => {
      Object.assign(options, { callId: 'x' })
      return good(asked, options)
    },
    'changes neither the request nor the options'
  ],
  [
    'sends whatever it is given',
    (asked, options) => good(asked.messages.length === 0 ? request : asked, options),
    'refuses a request it cannot send'
  ],
  [
    'keeps state of a call outside of it',
    async function* (asked, options) {
      shared = ''
      for await (const chunk of good(asked, options)) {
        if (chunk.type !== 'text') {
          if (chunk.type === 'finish') yield { type: 'text', text: shared }
          yield chunk
          continue
        }
        shared += chunk.text
        await delay(1)
      }
    },
    'keeps calls apart'
  ],
  [
    'answers differently each time',
    mapped((chunk) => (chunk.type === 'text' ? [{ ...chunk, text: `${chunk.text}${answers++}` }] : [chunk])),
    'keeps calls apart'
  ]
]

describe('the suite on a provider that', () => {
  it.each(bad)('%s: is caught', async (_, provider, title) => {
    const one = casesFor(provider).find((each) => each.title.startsWith(title))
    if (one === undefined) throw new Error(`no case is called ${title}`)
    await expect(one.run()).rejects.toBeInstanceOf(Error)
  })
})
