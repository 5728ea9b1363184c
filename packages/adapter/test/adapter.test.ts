import { AsyncLocalStorage } from 'node:async_hooks'
import { getEventListeners } from 'node:events'
import { inspect } from 'node:util'
import { type Adapter, type AdapterOptions, createAdapter } from '@millrace/adapter'
import { openai } from '@millrace/adapter/openai'
import { createCache } from '@millrace/cache'
import {
  type CallEnd,
  CallTally,
  type ChatRequest,
  type Chunk,
  channels,
  isMillraceError,
  MillraceError,
  type Provider,
  type Send
} from '@millrace/core'
import { coalesce, limitTokens } from '@millrace/streaming'
import { type ScriptedProvider, startScriptedProvider } from '@millrace/testkit'
import { createTokenizers } from '@millrace/tokens'
import { createTransport } from '@millrace/transport'
import { describe, expect, test } from 'vitest'

const ask = (content: string, more: Partial<ChatRequest> = {}): ChatRequest => ({
  model: 'scripted-large',
  messages: [{ role: 'user', content }],
  ...more
})
const slow = { text: 'word '.repeat(300), tokensPerSecond: 60 }

interface Setup extends AsyncDisposable {
  server: ScriptedProvider
  adapter: Adapter
}

async function setUp(
  options: Partial<AdapterOptions> = {},
  scripted: Parameters<typeof startScriptedProvider>[0] = {}
): Promise<Setup> {
  const server = await startScriptedProvider({ reply: ({ prompt }) => (prompt === 'slow' ? slow : undefined), ...scripted })
  const adapter = createAdapter({ provider: openai({ apiKey: 'k', baseURL: server.url }), ...options })
  return {
    server,
    adapter,
    async [Symbol.asyncDispose]() {
      await adapter.close({ graceMs: 0 })
      await server.close()
    }
  }
}

describe('complete and stream', () => {
  test('give the same answer, in one object and as it comes', async () => {
    await using it = await setUp()
    const whole = await it.adapter.complete(ask('Why is the sky blue?'))
    let text = ''
    const stream = it.adapter.stream(ask('Why is the sky blue?'))
    for await (const chunk of stream) if (chunk.type === 'text') text += chunk.text
    expect(whole).toMatchObject({ provider: 'openai', model: 'scripted-large', finish: 'stop' })
    expect(text).toBe(whole.text)
    expect(stream.partial).toMatchObject({ text, finish: 'stop' })
    expect(whole.usage?.input.uncached).toBeGreaterThan(0)
    expect(await it.adapter.stream(ask('Why is the sky blue?')).completion()).toMatchObject({ text })
  })

  test('a stream that nobody reads sends nothing', async () => {
    await using it = await setUp()
    it.adapter.stream(ask('x'))
    await new Promise((resolve) => setTimeout(resolve, 30))
    expect(it.server.stats().requests).toBe(0)
  })

  test("the caller's abort rejects with its reason, unwrapped, and the text so far is on the stream", async () => {
    await using it = await setUp()
    const controller = new AbortController()
    const reason = { stopped: 'by the user' }
    const stream = it.adapter.stream(ask('slow'), { signal: controller.signal })
    let seen = ''
    const reading = (async () => {
      for await (const chunk of stream) {
        if (chunk.type !== 'text') continue
        seen += chunk.text
        if (seen.length > 20) controller.abort(reason)
      }
    })()
    await expect(reading).rejects.toBe(reason)
    expect(stream.partial.text).toBe(seen)
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
    await expect.poll(() => it.server.stats().openAnswers).toBe(0)
    expect(it.adapter.stats()).toMatchObject({ calls: 1, aborted: 1, failed: 0, running: 0 })
  })

  test('onAbort of complete is told what had come', async () => {
    await using it = await setUp()
    const controller = new AbortController()
    const partials: unknown[] = []
    setTimeout(() => controller.abort('enough'), 50)
    const call = it.adapter.complete(ask('slow'), {
      signal: controller.signal,
      onAbort: (partial) => partials.push(partial.text)
    })
    await expect(call).rejects.toBe('enough')
    expect(partials).toEqual([''])
  })

  test('the total deadline ends a call wherever it is, names itself and carries the text so far', async () => {
    await using it = await setUp({ timeouts: { totalMs: 300 } })
    const error = await it.adapter
      .stream(ask('slow'))
      .completion()
      .catch((thrown: unknown) => thrown)
    if (!isMillraceError(error, 'timeout')) throw error
    expect(error.details).toMatchObject({ clock: 'total', limitMs: 300 })
    expect(error.partial?.text).toMatch(/^word /)
    await expect.poll(() => it.server.stats().openAnswers).toBe(0)
  })

  test('it ends even a provider that ignores its signal', async () => {
    const deaf: Provider = async function* () {
      yield { type: 'start', provider: 'deaf', model: 'm' }
      await new Promise(() => {})
    }
    await using adapter = createAdapter({ provider: deaf, timeouts: { totalMs: 50 } })
    const error = await adapter.complete(ask('x')).catch((thrown: unknown) => thrown)
    expect(isMillraceError(error, 'timeout')).toBe(true)
    const stream = adapter.stream(ask('x'), { timeouts: { totalMs: 10_000 } })
    await stream.next()
    const pending = stream.next()
    await stream.return()
    expect(await pending).toEqual({ done: true, value: undefined })
  })

  test('leaving the loop closes the connection', async () => {
    await using it = await setUp()
    for await (const chunk of it.adapter.stream(ask('slow'))) if (chunk.type === 'text') break
    await expect.poll(() => it.server.stats().openAnswers).toBe(0)
    expect(it.adapter.stats().running).toBe(0)
  })

  test('a provider that ends without a finish is an error, never a success', async () => {
    const cut: Provider = async function* () {
      yield { type: 'start', provider: 'p', model: 'm' }
      yield { type: 'text', text: 'half' }
    }
    await using adapter = createAdapter({ provider: cut })
    for (const call of [adapter.complete(ask('x')), adapter.stream(ask('x')).completion()]) {
      const error = await call.catch((thrown: unknown) => thrown)
      if (!isMillraceError(error, 'protocol')) throw error
      expect([error.details.reason, error.partial?.text]).toEqual(['incomplete', 'half'])
    }
  })
})

describe('pulls', () => {
  test('that come while another waits are answered in turn, by one call of the provider', async () => {
    let opened = 0
    const provider: Provider = () => ({
      async *[Symbol.asyncIterator](): AsyncGenerator<Chunk> {
        opened++
        yield { type: 'start', provider: 'own', model: 'm' }
        yield { type: 'text', text: 'hello' }
        yield { type: 'finish', reason: 'stop' }
      }
    })
    await using adapter = createAdapter({ provider })
    const stream = adapter.stream({ model: 'm', messages: [{ role: 'user', content: 'Hi' }] })
    const results = await Promise.all([stream.next(), stream.next(), stream.next(), stream.next()])
    expect(results.map(({ value }) => value?.type)).toEqual(['start', 'text', 'finish', undefined])
    expect(opened).toBe(1)
  })
})

describe('what a call cost', () => {
  test('money is spent and saved by the price, and what has none, or no usage, is counted', async () => {
    const asked: unknown[] = []
    const price: AdapterOptions['price'] = (usage, model, provider) => {
      asked.push([model, provider, usage.billed])
      return model === 'scripted-large' ? 0.25 : undefined
    }
    await using it = await setUp({ cache: {}, price })
    expect(it.adapter.stats()).toMatchObject({ moneySpent: 0, moneySaved: 0, unpriced: 0, unmetered: 0, meanOverheadMs: null })
    await it.adapter.complete(ask('Why?'))
    await it.adapter.complete(ask('Why?'))
    await it.adapter.complete(ask('Why?', { model: 'scripted-small' }))
    expect(it.adapter.stats()).toMatchObject({ moneySpent: 0.25, moneySaved: 0.25, unpriced: 1, unmetered: 0 })
    expect(asked).toEqual([
      ['scripted-large', 'openai', true],
      ['scripted-large', 'openai', true],
      ['scripted-small', 'openai', true]
    ])
    for await (const chunk of it.adapter.stream(ask('slow'))) if (chunk.type === 'text') break
    expect(it.adapter.stats()).toMatchObject({ calls: 4, unmetered: 1, unpriced: 1 })
  })

  test('without a price there is no money to tell, and a price that is none is refused', async () => {
    await using it = await setUp()
    await it.adapter.complete(ask('Why?'))
    expect(it.adapter.stats()).toMatchObject({ moneySpent: null, moneySaved: null, unpriced: 0 })
    expect(() => createAdapter({ provider: openai({ apiKey: 'k' }), price: 3 as never })).toThrow(/price must be a function/)
  })

  test('own overhead is told, and is not the time of the provider', async () => {
    await using it = await setUp({ cache: {} }, { firstTokenMs: 150 })
    const tally = new CallTally()
    await it.adapter.complete(ask('warm'), { tally }) // the first call waits for modules too
    expect(tally.providerMs).toBeGreaterThan(140)
    await it.adapter.complete(ask('Why?'))
    await it.adapter.stream(ask('How?')).completion()
    const { meanMs, meanOverheadMs } = it.adapter.stats()
    expect(meanMs).toBeGreaterThan(140)
    expect(meanOverheadMs).toBeGreaterThan(0)
    expect(meanOverheadMs).toBeLessThan(120)
    await it.adapter.complete(ask('Why?'))
    expect(it.adapter.stats().cachedMeanMs).toBeLessThan(120)
  })
})

describe('own overhead is never the time of others', () => {
  const overheadOf = async (options: Partial<AdapterOptions>, scripted: object, read: (adapter: Adapter) => Promise<unknown>) => {
    const ends: CallEnd[] = []
    const hear = (end: CallEnd): number => ends.push(end)
    channels.callEnd.subscribe(hear)
    try {
      await using it = await setUp(options, scripted)
      await it.adapter.complete(ask('warm'))
      await read(it.adapter)
    } finally {
      channels.callEnd.unsubscribe(hear)
    }
    return ends.at(-1)
  }
  const stream = async (adapter: Adapter): Promise<unknown> => adapter.stream(ask('Why?')).completion()

  test('not of a reader between two chunks', async () => {
    const singly: AdapterOptions['operators'] = [
      async function* (chunks) {
        for await (const chunk of chunks) yield chunk
      }
    ]
    const end = await overheadOf({ operators: singly }, {}, async (adapter) => {
      let chunks = 0
      for await (const _ of adapter.provider(ask('Why?'), {})) {
        if (++chunks < 4) await new Promise((resolve) => setTimeout(resolve, 120))
      }
    })
    expect(end?.overheadMs).toBeLessThan(100)
  })

  test('not of a provider that fails before an old answer is served', async () => {
    let broken = false
    const reply = async () => {
      if (!broken) return 'fine'
      await new Promise((resolve) => setTimeout(resolve, 300))
      return { status: 500, body: '' }
    }
    const cache = { ttlMs: 30, staleIfErrorMs: 60_000 }
    const end = await overheadOf({ cache, transport: { retry: false } }, { reply }, async (adapter) => {
      await adapter.complete(ask('Why?'))
      await new Promise((resolve) => setTimeout(resolve, 60))
      broken = true
      await adapter.complete(ask('Why?'))
    })
    expect(end?.notes.cache?.state).toBe('stale')
    expect(end?.elapsedMs).toBeGreaterThan(250)
    expect(end?.overheadMs).toBeLessThan(150)
  })

  test('not of a summary, nor of the pace of a replay', async () => {
    const summarize = async (): Promise<string> => {
      await new Promise((resolve) => setTimeout(resolve, 300))
      return 'earlier: words'
    }
    const turn = [
      { role: 'user', content: 'word '.repeat(150) },
      { role: 'assistant', content: 'word '.repeat(150) }
    ] as const
    const summed = await overheadOf({ tokens: { contextWindow: 512, summarize } }, {}, (adapter) =>
      adapter.complete({ model: 'scripted-large', messages: [...turn, ...turn, { role: 'user', content: 'Why?' }] })
    )
    expect(summed?.notes.tokens?.dropped).toBeGreaterThan(0)
    expect(summed?.overheadMs).toBeLessThan(200)

    const brief = { reply: () => ({ text: 'word '.repeat(12), tokensPerSecond: 40 }) }
    const paced = await overheadOf({ cache: { pace: 'recorded' } }, brief, async (adapter) => {
      await stream(adapter)
      await stream(adapter)
    })
    expect(paced?.notes.cache?.state).toBe('hit')
    expect(paced?.overheadMs).toBeLessThan(100)
  })
})

test('a call that its deadline ends is told at once, read or not', async () => {
  const ends: CallEnd[] = []
  const hear = (end: CallEnd): number => ends.push(end)
  channels.callEnd.subscribe(hear)
  try {
    await using it = await setUp({ timeouts: { totalMs: 80 } })
    const unread = it.adapter.provider(ask('slow'), {})[Symbol.asyncIterator]()
    await unread.next()
    await expect.poll(() => ends.length).toBe(1)
    expect(ends[0]).toMatchObject({ outcome: 'error', error: { code: 'timeout' } })
    expect(it.adapter.stats()).toMatchObject({ calls: 1, failed: 1, running: 0 })
    // What had arrived is handed out before.
    const readOn = async (): Promise<void> => {
      while ((await unread.next()).done !== true);
    }
    await expect(readOn()).rejects.toMatchObject({ code: 'timeout' })
    expect(ends).toHaveLength(1)
  } finally {
    channels.callEnd.unsubscribe(hear)
  }
})

test('a stream runs in the context it was asked for in, whoever reads it', async () => {
  const storage = new AsyncLocalStorage<string>()
  const seen: unknown[] = []
  const hear = (): void => void seen.push(storage.getStore())
  channels.callStart.subscribe(hear)
  try {
    await using it = await setUp()
    const stream = storage.run('the request', () => it.adapter.stream(ask('Why?')))
    await storage.run('the server', () => stream.completion())
    await storage.run('another', () => it.adapter.complete(ask('Why?')))
    expect(seen).toEqual(['the request', 'another'])
  } finally {
    channels.callStart.unsubscribe(hear)
  }
})

describe('with a cache', () => {
  test('the second equal call is a hit, streamed or not, and its tokens are counted as saved', async () => {
    await using it = await setUp({ cache: {} })
    const first = await it.adapter.complete(ask('Why?'))
    const second = await it.adapter.stream(ask('Why?')).completion()
    expect([first.notes.cache?.state, second.notes.cache?.state]).toEqual(['miss', 'hit'])
    expect(second.text).toBe(first.text)
    expect([first.usage?.billed, second.usage?.billed]).toEqual([true, false])
    expect(it.server.stats().requests).toBe(1)
    const stats = it.adapter.stats()
    expect(stats).toMatchObject({ calls: 2, succeeded: 2, cached: 1 })
    expect(stats.tokensSaved).toEqual(stats.tokens)
    expect(stats.tokens.input).toBe(it.server.stats().tokensIn)
    expect(stats.meanMs).toBeGreaterThan(0)
  })

  test('a hundred equal calls at once are one call upstream', async () => {
    await using it = await setUp({ cache: {} }, { firstTokenMs: 50 })
    const answers = await Promise.all(Array.from({ length: 100 }, () => it.adapter.stream(ask('Why?')).completion()))
    expect(new Set(answers.map(({ text }) => text)).size).toBe(1)
    expect(it.server.stats().requests).toBe(1)
    expect(it.adapter.stats().cached).toBe(99)
  })

  test('a failure is not cached, and neither is an aborted answer', async () => {
    let fail = true
    await using it = await setUp(
      { cache: {}, transport: { retry: false } },
      { reply: () => (fail ? { status: 500, body: '' } : 'fine') }
    )
    await expect(it.adapter.complete(ask('x'))).rejects.toMatchObject({ code: 'unavailable' })
    fail = false
    expect((await it.adapter.complete(ask('x'))).text).toBe('fine')
  })

  test('two keys share no answer, unless the cache has a scope, and other headers never do', async () => {
    await using cache = createCache()
    await using shared = createCache({ scope: 'all of us' })
    const server = await startScriptedProvider()
    const state = async (of: typeof cache, apiKey: string, headers?: Record<string, string>): Promise<unknown> => {
      await using adapter = createAdapter({ provider: openai({ apiKey, baseURL: server.url, headers }), cache: of })
      return (await adapter.complete(ask('Why?'))).notes.cache?.state
    }
    expect([await state(cache, 'canary-a'), await state(cache, 'canary-b'), await state(cache, 'canary-a')]).toEqual([
      'miss',
      'miss',
      'hit'
    ])
    expect([await state(shared, 'canary-a'), await state(shared, 'canary-b')]).toEqual(['miss', 'hit'])
    expect(await state(shared, 'canary-a', { 'x-beta': 'on' })).toBe('miss')
    expect(await state(shared, 'canary-b', { 'x-beta': 'on' })).toBe('hit')
    expect(await state(cache, 'canary-a', { 'openai-project': 'p' })).toBe('miss')
    expect(await state(shared, 'canary-a', { 'openai-project': 'p' })).toBe('hit')
    expect(inspect({ cache, shared, provider: openai({ apiKey: 'canary-a' }) }, { depth: 20, showHidden: true })).not.toContain(
      'canary'
    )
    await server.close()
  })

  test('closing an adapter ends nothing that another one has joined', async () => {
    await using cache = createCache({ scope: 'both' })
    const server = await startScriptedProvider({ firstTokenMs: 150 })
    const provider = openai({ apiKey: 'k', baseURL: server.url })
    const first = createAdapter({ provider, cache })
    await using second = createAdapter({ provider, cache })
    const leads = first.complete(ask('Why?')).catch((error: unknown) => error)
    while (server.stats().requests === 0) await new Promise((resolve) => setTimeout(resolve, 5))
    const joined = Promise.all(Array.from({ length: 20 }, () => second.complete(ask('Why?'))))
    await new Promise((resolve) => setTimeout(resolve, 20))
    await first.close({ graceMs: 0 })
    expect(isMillraceError(await leads, 'closed')).toBe(true)
    expect(new Set((await joined).map(({ text }) => text)).size).toBe(1)
    expect(server.stats().requests).toBeLessThanOrEqual(2)
    await server.close()
  })

  test('a cache of the caller is used and not closed', async () => {
    await using cache = createCache()
    const it = await setUp({ cache })
    await it.adapter.complete(ask('Why?'))
    await it[Symbol.asyncDispose]()
    await using again = await setUp({ cache, origin: 'elsewhere' })
    expect((await again.adapter.complete(ask('Why?'))).notes.cache?.state).toBe('miss')
    expect(cache.stats().misses).toBe(2)
  })
})

describe('with a token budget and operators', () => {
  test('a conversation that is too long loses its oldest turns and says so', async () => {
    await using it = await setUp({ tokens: { contextWindow: 400, reserve: 100 } })
    const turns = Array.from({ length: 20 }, (_, turn) => ({
      role: turn % 2 === 0 ? ('user' as const) : ('assistant' as const),
      content: `turn ${turn} ${'word '.repeat(30)}`
    }))
    const messages = [{ role: 'system' as const, content: 'Be brief.' }, ...turns, { role: 'user' as const, content: 'And now?' }]
    const completion = await it.adapter.complete({ model: 'gpt-4o', messages })
    expect(completion.notes.tokens?.dropped).toBeGreaterThan(5)
    const sent = it.server.requests[0]?.body.messages as { role: string; content: string }[]
    expect(sent[0]?.content).toBe('Be brief.')
    expect(sent.at(-1)?.content).toBe('And now?')
    expect(sent.length).toBeLessThan(messages.length)
  })

  test('tokenizers of the caller are used, and stay open when the adapter closes', async () => {
    await using tokenizers = createTokenizers()
    const long = { role: 'user' as const, content: 'word   '.repeat(300) }
    {
      await using it = await setUp({ tokens: { contextWindow: 400, tokenizers, compress: true, reserve: 10 } })
      const messages = [long, { role: 'assistant' as const, content: 'Yes.' }, { role: 'user' as const, content: 'And   now?' }]
      const completion = await it.adapter.complete({ model: 'gpt-4o', messages })
      expect(completion.notes.tokens?.compressed).toBeGreaterThan(0)
      const sent = it.server.requests[0]?.body.messages as { content: string }[]
      expect(sent.at(-1)?.content).toBe('And now?')
    }
    expect(tokenizers.for('gpt-4o').count('still open')).toBe(2)
  })

  test('a stream runs through its operators in order', async () => {
    await using tokenizers = createTokenizers()
    const counter = (): ReturnType<ReturnType<typeof tokenizers.for>['counter']> => tokenizers.for('gpt-4o').counter()
    await using it = await setUp({ operators: [limitTokens(10, counter), coalesce({ minChars: 20, maxDelayMs: 1000 })] })
    const chunks: Chunk[] = []
    for await (const chunk of it.adapter.stream(ask('slow'))) chunks.push(chunk)
    expect(chunks.at(-1)).toEqual({ type: 'finish', reason: 'cut' })
    expect(chunks.filter(({ type }) => type === 'text').length).toBeLessThanOrEqual(3)
    await expect.poll(() => it.server.stats().openAnswers).toBe(0)
  })
})

describe('batch', () => {
  test('settles every request, a bounded number at a time, and one failure touches no other', async () => {
    await using it = await setUp(
      { transport: { retry: false } },
      { firstTokenMs: 10, reply: ({ prompt }) => (prompt === 'bad' ? { status: 400, body: '{}' } : `answer to ${prompt}`) }
    )
    const requests = Array.from({ length: 40 }, (_, index) => ask(index === 7 ? 'bad' : `question ${index}`))
    const results: Record<number, string> = {}
    for await (const result of it.adapter.batch(requests, { concurrency: 5 })) {
      results[result.index] = result.status === 'fulfilled' ? result.value.text : 'failed'
    }
    expect(Object.keys(results)).toHaveLength(40)
    expect(results[7]).toBe('failed')
    expect(results[8]).toBe('answer to question 8')
    expect(it.server.stats().maxOpenAnswers).toBeLessThanOrEqual(5)
    expect(it.server.stats().maxOpenAnswers).toBeGreaterThan(2)
  })

  test('pulls lazily, does not let a slow input hold results up, and aborts what runs when it is left', async () => {
    await using it = await setUp()
    let pulled = 0
    async function* input(): AsyncGenerator<ChatRequest> {
      for (;;) {
        if (++pulled > 2) await new Promise((resolve) => setTimeout(resolve, 10_000).unref())
        yield ask(pulled === 1 ? 'quick' : 'slow')
      }
    }
    for await (const result of it.adapter.batch(input(), { concurrency: 4 })) {
      expect(result.index).toBe(0)
      break
    }
    expect(pulled).toBeLessThanOrEqual(3)
    await expect.poll(() => it.server.stats().openAnswers).toBe(0)
  })

  test.each([0, -1, Number.NaN, 1.5])('refuses a concurrency of %d', async (concurrency) => {
    await using it = await setUp()
    expect(() => it.adapter.batch([], { concurrency })).toThrow(/concurrency must be a whole number/)
  })

  test('a broken input is thrown after what had been started has settled', async () => {
    await using it = await setUp()
    function* input(): Generator<ChatRequest> {
      yield ask('one')
      throw new Error('the file ended badly')
    }
    const seen: string[] = []
    await expect(
      (async () => {
        for await (const result of it.adapter.batch(input())) seen.push(result.status)
      })()
    ).rejects.toThrow('the file ended badly')
    expect(seen).toEqual(['fulfilled'])
  })
})

describe('closing', () => {
  test('lets running calls finish, refuses new ones, and is safe twice', async () => {
    await using it = await setUp({}, { reply: () => ({ text: 'word '.repeat(10), tokensPerSecond: 50 }) })
    const running = it.adapter.stream(ask('x')).completion()
    await expect.poll(() => it.server.stats().openAnswers).toBe(1)
    const closing = it.adapter.close()
    await expect(it.adapter.complete(ask('y'))).rejects.toMatchObject({ code: 'closed' })
    expect((await running).finish).toBe('stop')
    await closing
    await it.adapter.close()
  })

  test('ends what is still running after the grace, with the text so far', async () => {
    await using it = await setUp()
    const running = it.adapter
      .stream(ask('slow'))
      .completion()
      .catch((thrown: unknown) => thrown)
    await expect.poll(() => it.server.stats().openAnswers).toBe(1)
    await it.adapter.close({ graceMs: 200 })
    const error = await running
    if (!isMillraceError(error, 'closed')) throw error
    expect(error.partial?.text).toMatch(/^word/)
  })

  test('drains calls first: one that moves on to another provider meanwhile still gets its permit, and all are given back', async () => {
    await using it = await setUp()
    const late: Provider = async function* () {
      await new Promise((resolve) => setTimeout(resolve, 60))
      yield* []
      throw new MillraceError('unavailable', 'down', { details: { status: 500 } })
    }
    const adapter = createAdapter({
      provider: [{ name: 'late', provider: late }, openai({ apiKey: 'k', baseURL: it.server.url })],
      origin: 'test',
      limits: { limits: [{ by: 'provider', concurrency: 1 }] },
      cache: { ttlMs: 20, staleWhileRevalidateMs: 60_000 }
    })
    const call = adapter.complete(ask('x'))
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(adapter.stats().limits).toMatchObject({ running: 1 })
    const closing = adapter.close({ graceMs: 5000 })
    await expect(adapter.complete(ask('y'))).rejects.toMatchObject({ code: 'closed' })
    expect(await call).toMatchObject({ provider: 'openai', notes: { fallback: { tried: [{ provider: 'late', status: 500 }] } } })
    await closing
    expect(adapter.stats()).toMatchObject({ running: 0, limits: { running: 0, queued: 0, granted: 2 } })
  })

  test('ends a refresh of the cache in the background before its permit is looked for', async () => {
    let asked = 0
    const adapter = createAdapter({
      provider: async function* (request, { signal }) {
        yield { type: 'start', provider: 'p', model: request.model }
        if (++asked > 1) await new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason)))
        yield { type: 'text', text: 'old' }
        yield { type: 'finish', reason: 'stop' }
      },
      origin: 'test',
      limits: { limits: [{ by: [], concurrency: 5 }] },
      cache: { ttlMs: 5, staleWhileRevalidateMs: 60_000 }
    })
    await adapter.complete(ask('x'))
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect((await adapter.complete(ask('x'))).notes.cache).toMatchObject({ state: 'stale' })
    await expect.poll(() => asked).toBe(2)
    expect(adapter.stats().limits?.running).toBe(1)
    await adapter.close({ graceMs: 0 })
    expect(adapter.stats().limits).toMatchObject({ running: 0, queued: 0 })
  })

  test('a transport that was handed in stays open', async () => {
    await using transport = createTransport()
    await using it = await setUp({ transport })
    await it.adapter.complete(ask('x'))
    await it.adapter.close()
    expect((await transport.fetch(`${it.server.url}/models`)).status).toBe(200)
  })
})

test.each([
  [{ provider: undefined }, /provider must be/],
  [{ provider: (() => {}) as never, cache: {} }, /origin is missing/],
  [{ timeouts: { totalMs: Number.NaN } }, /timeouts.totalMs must be/],
  [{ timeouts: { totalMs: -1 } }, /timeouts.totalMs must be/],
  [{ timeouts: { total: 5 } as never }, /timeouts.total is unknown/],
  [{ tokens: { contextWindow: 0 } }, /contextWindow/],
  [{ transport: { maxConnections: 0 } }, /maxConnections/],
  [{ transport: { limits: (next: Send) => next }, limits: {} }, /the transport does not know the limits/],
  [{ limits: { limits: [{ concurrency: 0 }] } }, /concurrency/],
  [{ fallback: {} }, /fallback needs several providers/],
  [{ provider: [] }, /provider is an empty list/],
  [{ limits: 5 as never }, /limits must be the options of a limiter/],
  [{ provider: [{ provider: openai({ apiKey: 'k' }), model: new Map() as never }] }, /model must be/],
  [{ provider: [1, 2].map(() => ({ name: 'a', provider: openai({ apiKey: 'k' }) })) }, /two providers are named "a"/],
  [{ provider: [{ provider: openai({ apiKey: 'k' }), weight: 0 }] }, /weight must be/],
  [{ provider: [{ provider: openai({ apiKey: 'k' }), modle: 'x' }] }, /modle/]
] satisfies readonly (readonly [object, RegExp])[])('options %j are a TypeError that says what to write', (options, message) => {
  const create = (): unknown => createAdapter({ provider: openai({ apiKey: 'k' }), ...(options as object) } as AdapterOptions)
  expect(create).toThrow(TypeError)
  expect(create).toThrow(message)
})

test('after 2,000 calls, aborts among them, nothing is left running and no listener stays on a shared signal', async () => {
  await using it = await setUp({ cache: {} })
  const { signal } = new AbortController()
  for (let round = 0; round < 100; round++) {
    await Promise.all(
      Array.from({ length: 20 }, async (_, index) => {
        if (index % 5 === 0) {
          for await (const chunk of it.adapter.stream(ask(`${round} ${index}`), { signal })) if (chunk.type === 'text') break
        } else await it.adapter.complete(ask(`${round % 10} ${index}`), { signal })
      })
    )
  }
  expect(it.adapter.stats().running).toBe(0)
  expect(getEventListeners(signal, 'abort')).toHaveLength(0)
})
