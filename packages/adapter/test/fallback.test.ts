import { createServer } from 'node:net'
import { openai } from '@millrace/adapter/openai'
import {
  type CallOptions,
  type ChatRequest,
  type Chunk,
  collect,
  type ErrorCode,
  type ErrorDetails,
  isMillraceError,
  MillraceError,
  type Provider,
  startDeadline
} from '@millrace/core'
import { createLimiter, withLimits } from '@millrace/limits'
import { chunk, responseHead, sse, startFaultServer, startScriptedProvider } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import { describe, expect, test } from 'vitest'
import { createFallback } from '../src/fallback.ts'
import type { FallbackOptions } from '../src/fallback-options.ts'
import { createRunningCalls } from '../src/running-calls.ts'
import { failure } from './failure.ts'

const ask: ChatRequest = { model: 'm', messages: [{ role: 'user', content: 'Hello' }] }

/** What a provider was asked. */
interface Asked {
  readonly request: ChatRequest
  readonly options: CallOptions
}

/** Yields chunks and then throws, if it is given something to throw; remembers what it was asked. */
function play(
  chunks: readonly Chunk[] | (() => readonly Chunk[]),
  error?: () => unknown
): { provider: Provider; asked: Asked[] } {
  const asked: Asked[] = []
  return {
    asked,
    provider: async function* (request, options) {
      asked.push({ request, options })
      yield* typeof chunks === 'function' ? chunks() : chunks
      if (error !== undefined) throw error()
    }
  }
}

const start = (provider: string): Chunk => ({ type: 'start', provider, model: 'm' })
const text = (words: string): Chunk => ({ type: 'text', text: words })
const finish: Chunk = { type: 'finish', reason: 'stop' }
const says = (name: string): ReturnType<typeof play> => play([start(name), text(name), finish])

function make<C extends ErrorCode>(code: C, details: ErrorDetails[C], retryable?: boolean): () => MillraceError<C> {
  return () => new MillraceError(code, code, { details, retryable })
}
const failing = (error: () => unknown, before: readonly Chunk[] = []): ReturnType<typeof play> => play(before, error)
const down = (): ReturnType<typeof play> => failing(make('unavailable', { status: 500 }))

async function all(provider: Provider, options: CallOptions = {}): Promise<Chunk[]> {
  const chunks: Chunk[] = []
  for await (const each of provider(ask, options)) chunks.push(each)
  return chunks
}

function named(...players: readonly { provider: Provider }[]): { name: string; provider: Provider }[] {
  return players.map(({ provider }, index) => ({ name: String.fromCharCode(97 + index), provider }))
}

describe('who is asked', () => {
  test('the first of the list answers, and its chunks pass as they are', async () => {
    const chunks = [start('x'), text('one'), text('two'), finish]
    const second = says('b')
    const { provider, stats } = createFallback(named(play(chunks), second))
    const seen = await all(provider)
    expect(seen).toEqual(chunks)
    expect(seen.every((each, at) => each === chunks[at])).toBe(true)
    expect(second.asked).toHaveLength(0)
    expect(stats()).toMatchObject({ calls: 1, movedOn: 0, providers: [{ asked: 1, answered: 1 }, { asked: 0 }] })
  })

  test('nothing is asked before the first chunk is', async () => {
    const first = says('a')
    const { provider } = createFallback(named(first))
    const iterator = provider(ask, {})[Symbol.asyncIterator]()
    expect(first.asked).toHaveLength(0)
    await iterator.return?.()
    expect(await iterator.next()).toEqual({ done: true, value: undefined })
    expect(first.asked).toHaveLength(0)
  })

  test('behind a failure the next one answers, and a note behind the start says who and why', async () => {
    const first = failing(make('overloaded', { status: 529 }), [
      start('a'),
      { type: 'note', from: 'retry', facts: { attempts: 3 } }
    ])
    const { provider, stats } = createFallback(named(first, says('b')))
    expect(await all(provider)).toEqual([
      start('b'),
      {
        type: 'note',
        from: 'fallback',
        facts: { provider: 'b', tried: [{ provider: 'a', model: 'm', code: 'overloaded', status: 529, reason: 'failed' }] }
      },
      text('b'),
      finish
    ])
    expect(stats()).toMatchObject({
      movedOn: 1,
      providers: [
        { asked: 1, failed: 1, cooling: 1 },
        { asked: 1, answered: 1 }
      ]
    })
  })

  test('a plain answer is chosen in the same way', async () => {
    const { provider } = createFallback(named(down(), says('b')))
    const { text: said, notes } = await collect(provider(ask, { stream: false }))
    expect(said).toBe('b')
    expect(notes.fallback).toMatchObject({ provider: 'b' })
  })

  test('an answer without content is an answer', async () => {
    const { provider } = createFallback(named(play([start('a'), { type: 'finish', reason: 'content-filter' }]), says('b')))
    expect((await collect(provider(ask, {}))).finish).toBe('content-filter')
  })

  test('one that ends without content and without a finish has failed', async () => {
    const { provider } = createFallback(named(play([start('a'), text('')]), says('b')))
    expect(await collect(provider(ask, {}))).toMatchObject({
      text: 'b',
      notes: { fallback: { tried: [{ code: 'protocol', reason: 'failed' }] } }
    })
  })

  test('one that cannot even be called has failed, and an error without a code goes to the reader', async () => {
    const broken: Provider = () => {
      throw make('network', { phase: 'connect' })()
    }
    expect((await collect(createFallback(named({ provider: broken }, says('b'))).provider(ask, {}))).text).toBe('b')
    const bug: Provider = () => {
      throw new RangeError('a bug')
    }
    const second = says('b')
    await expect(all(createFallback(named({ provider: bug }, second)).provider)).rejects.toThrow(RangeError)
    expect(second.asked).toHaveLength(0)
  })

  test('once content is out, the error goes to the reader as it is, with what was received', async () => {
    const thrown = make('network', { phase: 'body' })()
    const second = says('b')
    const { provider } = createFallback(
      named(
        failing(() => thrown, [start('a'), text('half')]),
        second
      )
    )
    const error = await failure(collect(provider(ask, {})))
    expect(error).toBe(thrown)
    expect(error.partial?.text).toBe('half')
    expect(error.context).toEqual({})
    expect(second.asked).toHaveLength(0)
  })

  test('notes and usage before the content are held back and come with it, of each kind the last', async () => {
    const usage: Chunk = {
      type: 'usage',
      usage: {
        input: { uncached: 1, cacheRead: 0, cacheWrite: 0 },
        output: { text: 1, reasoning: 0 },
        estimated: false,
        billed: true
      }
    }
    const note = (attempts: number): Chunk => ({ type: 'note', from: 'retry', facts: { attempts } })
    const { provider } = createFallback(named(play([start('a'), note(1), text(''), usage, note(2), text('x'), finish])))
    expect(await all(provider)).toEqual([start('a'), note(2), usage, text('x'), finish])
  })

  test('a model is called as the provider calls it, by one name or by a table', async () => {
    const first = down()
    const second = says('b')
    const { provider } = createFallback([
      { name: 'a', provider: first.provider, model: { m: 'a-m', constructor: 'no' } },
      { name: 'b', provider: second.provider, model: 'b-m' }
    ])
    const { notes } = await collect(provider(ask, {}))
    expect(first.asked[0]?.request.model).toBe('a-m')
    expect(second.asked[0]?.request).toEqual({ ...ask, model: 'b-m' })
    expect(notes.fallback?.tried).toMatchObject([{ model: 'a-m' }])
    await all((request, options) => provider({ ...request, model: 'toString' }, options))
    expect(first.asked[1]?.request.model).toBe('toString')
  })

  test('each place of the list has an idempotency key of its own, however it is reached', async () => {
    const players = [down(), down(), says('c')]
    const { provider } = createFallback(named(...players))
    await all(provider, { idempotencyKey: 'k' })
    await all(provider, { idempotencyKey: 'l' })
    expect(players.map(({ asked }) => asked.map(({ options }) => options.idempotencyKey))).toEqual([
      ['k'],
      ['k-1'],
      ['k-2', 'l-2']
    ])
  })
})

describe('which errors move on', () => {
  const moving: readonly (readonly [string, () => MillraceError])[] = [
    ['network', make('network', { phase: 'dns' }, false)],
    ['connect', make('timeout', { clock: 'connect', limitMs: 1, elapsedMs: 1 })],
    ['headers', make('timeout', { clock: 'headers', limitMs: 1, elapsedMs: 1 })],
    ['first-chunk', make('timeout', { clock: 'first-chunk', limitMs: 1, elapsedMs: 1 })],
    ['queue', make('timeout', { clock: 'queue', limitMs: 1, elapsedMs: 1 })],
    ['rate-limited', make('rate-limited', { status: 429 })],
    ['a rate limit of ours', make('rate-limited', { retryAfterMs: 5 }, false)],
    ['quota-exceeded', make('quota-exceeded', { status: 429 })],
    ['overloaded', make('overloaded', { status: 529 })],
    ['unavailable', make('unavailable', { status: 500 })],
    ['circuit-open', make('circuit-open', { origin: 'x', retryAfterMs: 5 })],
    ['queue-full', make('queue-full', { limit: 1 })],
    ['unauthorized', make('unauthorized', { status: 401 })],
    ['incomplete', make('protocol', { reason: 'incomplete' })],
    ['malformed', make('protocol', { reason: 'malformed' })],
    ['context-overflow', make('context-overflow', { status: 400 })],
    ['a field it cannot carry', make('invalid-request', { path: 'extra.n' })],
    ['an unknown model', make('invalid-request', { status: 404 })],
    ['a retired model', make('invalid-request', { status: 400, providerCode: 'model_decommissioned' })],
    ['a body too large', make('invalid-request', { status: 413 })]
  ]
  test.each(moving)('%s moves on', async (_, error) => {
    expect((await collect(createFallback(named(failing(error), says('b'))).provider(ask, {}))).text).toBe('b')
  })

  const staying: readonly (readonly [string, () => MillraceError])[] = [
    ['the total clock', make('timeout', { clock: 'total', limitMs: 1, elapsedMs: 1 })],
    ['an answer too long', make('protocol', { reason: 'too-large' })],
    ['a wrong request', make('invalid-request', { status: 400 })],
    ['a filtered prompt', make('content-filtered', { status: 400 })],
    ['closed', make('closed', {})]
  ]
  test.each(staying)('%s does not', async (_, error) => {
    const thrown = error()
    const second = says('b')
    const { provider, stats } = createFallback(
      named(
        failing(() => thrown),
        second
      )
    )
    expect(await failure(all(provider))).toBe(thrown)
    expect(thrown.context.tried).toBeUndefined()
    expect(second.asked).toHaveLength(0)
    expect(stats().providers[0]).toMatchObject({ failed: 0, cooling: 0 })
  })

  test('a code is added or taken away by `on`', async () => {
    const filtered = (): ReturnType<typeof play> => failing(make('content-filtered', { status: 400 }))
    const on = ['content-filtered'] as const
    expect((await collect(createFallback(named(filtered(), says('b')), { on }).provider(ask, {}))).text).toBe('b')
    const { provider, stats } = createFallback(named(down(), says('b')), { on })
    expect((await failure(all(provider))).code).toBe('unavailable')
    expect(stats().providers[0]).toMatchObject({ cooling: 0 })
  })

  test('what tells of the request, or of a limit of ours, is no reason to pass a provider over', async () => {
    for (const error of [
      make('rate-limited', { retryAfterMs: 5000 }),
      make('quota-exceeded', { resetMs: 5000 }),
      make('unavailable', {}),
      make('queue-full', { limit: 1 }),
      make('timeout', { clock: 'queue', limitMs: 1, elapsedMs: 1 }),
      make('context-overflow', { status: 400 }),
      make('invalid-request', { path: 'seed' })
    ]) {
      const first = failing(error)
      const { provider } = createFallback(named(first, says('b')))
      await all(provider)
      await all(provider)
      expect(first.asked, error().code).toHaveLength(2)
    }
  })
})

describe('when all fail', () => {
  test('the last error that may pass is thrown, with whom was asked and what they said', async () => {
    const players = [
      failing(make('network', { phase: 'connect' })),
      failing(make('rate-limited', { status: 429, retryAfterMs: 7 })),
      failing(make('unauthorized', { status: 401 }))
    ]
    const { provider, stats } = createFallback(named(...players))
    const error = await failure(all(provider))
    expect(error).toMatchObject({ code: 'rate-limited', details: { retryAfterMs: 7 } })
    expect(error.context).toEqual({
      provider: 'b',
      model: 'm',
      tried: [
        { provider: 'a', model: 'm', code: 'network', reason: 'failed' },
        { provider: 'b', model: 'm', code: 'rate-limited', status: 429, reason: 'failed' },
        { provider: 'c', model: 'm', code: 'unauthorized', status: 401, reason: 'failed' }
      ]
    })
    expect(JSON.stringify(error)).not.toContain('Hello')
    expect(players.map(({ asked }) => asked.length)).toEqual([1, 1, 1])
    expect(stats()).toMatchObject({ calls: 1, exhausted: 1, movedOn: 0 })
  })

  test('where none may pass, the last one is thrown', async () => {
    const { provider } = createFallback(
      named(failing(make('unauthorized', { status: 401 })), failing(make('context-overflow', { status: 400 })))
    )
    expect((await failure(all(provider))).code).toBe('context-overflow')
  })

  test('reads beside one another fail once, and are over behind it', async () => {
    const iterator = createFallback(named(down(), down())).provider(ask, {})[Symbol.asyncIterator]()
    const reads = await Promise.allSettled([iterator.next(), iterator.next(), iterator.next()])
    expect(reads.map(({ status }) => status)).toEqual(['rejected', 'fulfilled', 'fulfilled'])
    expect(await iterator.next()).toEqual({ done: true, value: undefined })
  })
})

describe('cooling down', () => {
  function withClock(
    players: readonly ReturnType<typeof play>[],
    options: FallbackOptions = {}
  ): {
    provider: Provider
    stats: ReturnType<typeof createFallback>['stats']
    pass: (ms: number) => void
  } {
    let time = 1000
    return {
      ...createFallback(named(...players), { now: () => time, ...options }),
      pass: (ms) => {
        time += ms
      }
    }
  }

  test('one that failed is passed over for 5 s, then twice as long each time up to a minute, and told', async () => {
    const first = down()
    const { provider, pass, stats } = withClock([first, says('b')])
    let asked = 0
    for (const coolMs of [5000, 10_000, 20_000, 40_000, 60_000, 60_000]) {
      await all(provider)
      expect(first.asked).toHaveLength(++asked)
      pass(coolMs - 1)
      const { notes } = await collect(provider(ask, {}))
      expect(notes.fallback?.tried).toEqual([{ provider: 'a', model: 'm', code: 'unavailable', status: 500, reason: 'cooling' }])
      expect(first.asked).toHaveLength(asked)
      pass(1)
    }
    expect(stats().providers[0]).toMatchObject({ passedOver: 6, failed: 6 })
  })

  test.each([
    ['shorter than that of all calls', 19_999, 2],
    ['that of all calls', 20_000, 1]
  ])('a provider is cooled down by a clock of all calls, not by a shorter one of one call: %s', async (_, limitMs, times) => {
    const first = failing(make('timeout', { clock: 'first-chunk', limitMs, elapsedMs: limitMs }))
    const { provider } = createFallback(named(first, says('b')), {}, { firstChunkMs: 20_000 })
    await all(provider)
    await all(provider)
    expect(first.asked).toHaveLength(times)
  })

  test('a provider that says how long is left alone that long, but no longer than 10 minutes', async () => {
    for (const [retryAfterMs, coolMs] of [
      [30_000, 30_000],
      [86_400_000, 600_000],
      [0, 5000]
    ] as const) {
      const first = failing(make('rate-limited', { status: 429, retryAfterMs }))
      const { provider, pass } = withClock([first, says('b')])
      await all(provider)
      pass(coolMs - 1)
      await all(provider)
      expect(first.asked).toHaveLength(1)
      pass(1)
      await all(provider)
      expect(first.asked).toHaveLength(2)
    }
  })

  test('many that fail together count as one failure', async () => {
    const first = down()
    const { provider, pass } = withClock([first, says('b')])
    await Promise.all(Array.from({ length: 20 }, () => all(provider)))
    expect(first.asked).toHaveLength(20)
    pass(5000)
    await all(provider)
    expect(first.asked).toHaveLength(21)
  })

  test('an answer to what began before the failure does not end the cool-down', async () => {
    const gate = Promise.withResolvers<void>()
    let asked = 0
    const first: Provider = async function* () {
      if (++asked > 1) throw make('rate-limited', { status: 429, retryAfterMs: 9000 })()
      await gate.promise
      yield* [start('a'), text('a'), finish]
    }
    const { provider, pass } = withClock([{ provider: first, asked: [] }, says('b')])
    const early = collect(provider(ask, {}))
    await all(provider)
    gate.resolve()
    expect((await early).text).toBe('a')
    pass(8999)
    await all(provider)
    expect(asked).toBe(2)
  })

  test('of many that fail together, the one that tells the longest wait counts', async () => {
    const hints = [1000, 30_000, 20_000]
    const first = failing(() => make('overloaded', { status: 529, retryAfterMs: hints.shift() })())
    const { provider, pass } = withClock([first, says('b')])
    await Promise.all([all(provider), all(provider), all(provider)])
    pass(29_999)
    await all(provider)
    expect(first.asked).toHaveLength(3)
    pass(1)
    await all(provider)
    expect(first.asked).toHaveLength(4)
  })

  test('behind the cool-down one call at a time asks again, and its answer lets the others in', async () => {
    const gate = Promise.withResolvers<void>()
    let mode: 'fail' | 'wait' | 'answer' = 'fail'
    let asked = 0
    const first: Provider = async function* () {
      asked++
      if (mode === 'fail') throw make('unavailable', { status: 500 })()
      if (mode === 'wait') await gate.promise
      yield* [start('a'), text('a'), finish]
    }
    const { provider, pass, stats } = withClock([{ provider: first, asked: [] }, says('b')])
    await all(provider)
    pass(5000)
    mode = 'wait'
    const probe = collect(provider(ask, {}))
    const others = await Promise.all([collect(provider(ask, {})), collect(provider(ask, {}))])
    expect(others.map((each) => each.text)).toEqual(['b', 'b'])
    expect(asked).toBe(2)
    mode = 'answer'
    gate.resolve()
    expect((await probe).text).toBe('a')
    expect((await collect(provider(ask, {}))).notes).toEqual({})
    expect(stats().providers[0]).toMatchObject({ cooling: 0 })
  })

  test.each(['leaves', 'aborts'])('a call that asks again and %s before any content lets the next one ask', async (how) => {
    let mode: 'fail' | 'hang' = 'fail'
    let asked = 0
    const first: Provider = async function* (_, { signal }) {
      asked++
      if (mode === 'fail') throw make('unavailable', { status: 500 })()
      yield start('a')
      await new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason)))
    }
    const { provider, pass } = withClock([{ provider: first, asked: [] }, says('b')])
    const calls = createRunningCalls(60_000)
    const outer = calls.layer(provider)
    await all(provider)
    pass(5000)
    mode = 'hang'
    const controller = new AbortController()
    const iterator = outer(ask, { signal: controller.signal })[Symbol.asyncIterator]()
    const read = iterator.next()
    await expect.poll(() => asked).toBe(2)
    if (how === 'leaves') await iterator.return?.()
    else controller.abort('stop')
    if (how === 'leaves') expect(await read).toMatchObject({ done: true })
    else await expect(read).rejects.toBe('stop')
    mode = 'fail'
    await all(provider)
    expect(asked).toBe(3)
  })

  test('where all cool down, the one that is free soonest is asked first, and the others behind it', async () => {
    let healthy = ''
    const player = (name: string, retryAfterMs: number): { provider: Provider; asked: string[] } => {
      const asked: string[] = []
      return {
        asked,
        provider: async function* () {
          asked.push(name)
          if (name !== healthy) throw make('overloaded', { status: 529, retryAfterMs })()
          yield* [start(name), text(name), finish]
        }
      }
    }
    const players = [player('a', 30_000), player('b', 10_000), player('c', 20_000)]
    const { provider } = createFallback(named(...players))
    await failure(all(provider))
    healthy = 'b'
    expect(await collect(provider(ask, {}))).toMatchObject({
      text: 'b',
      notes: { fallback: { provider: 'b', tried: [{ provider: 'a', reason: 'cooling' }] } }
    })
    expect(players.map(({ asked }) => asked.length)).toEqual([1, 2, 1])
    healthy = ''
    await failure(all(provider)) // b has answered, so it fails anew
    healthy = 'a'
    expect((await collect(provider(ask, {}))).text).toBe('a')
  })

  test('another model of the provider is asked all the same', async () => {
    const first = failing(make('rate-limited', { status: 429, retryAfterMs: 60_000 }))
    const { provider } = createFallback(named(first, says('b')))
    await all(provider)
    await collect(provider({ ...ask, model: 'other' }, {}))
    expect(first.asked.map(({ request }) => request.model)).toEqual(['m', 'other'])
    await all(provider)
    expect(first.asked).toHaveLength(2)
  })

  test('names of models that come from outside take no memory without bound', async () => {
    const { provider, stats } = createFallback(named(down(), says('b')))
    for (let each = 0; each < 500; each++) await collect(provider({ ...ask, model: `m${each}` }, {}))
    expect(stats().providers[0]?.cooling).toBe(100)
  })

  test('coolDownMs: 0 passes nobody over', async () => {
    const first = down()
    const { provider } = createFallback(named(first, says('b')), { coolDownMs: 0 })
    await all(provider)
    await all(provider)
    expect(first.asked).toHaveLength(2)
  })
})

describe('balancing by weight', () => {
  test('each is drawn as often as its weight is of all, and the rest follow in drawn order', async () => {
    const players = [says('a'), says('b'), says('c')]
    let turn = 0
    const { provider } = createFallback(
      named(...players).map((candidate, index) => ({ ...candidate, weight: [1, 2, 7][index] })),
      { balance: 'weighted', random: () => (turn++ + 0.5) / 1000 }
    )
    for (let call = 0; call < 1000; call++) await all(provider)
    expect(players.map(({ asked }) => asked.length)).toEqual([100, 200, 700])
  })

  test('one that cools down is not drawn, and told', async () => {
    const first = down()
    const { provider } = createFallback(named(says('a'), first), { balance: 'weighted', random: () => 0.999 })
    expect((await collect(provider(ask, {}))).notes.fallback).toMatchObject({ provider: 'a', tried: [{ reason: 'failed' }] })
    expect((await collect(provider(ask, {}))).notes.fallback).toMatchObject({ provider: 'a', tried: [{ reason: 'cooling' }] })
    expect(first.asked).toHaveLength(1)
  })

  test.each([() => 1, () => Number.NaN, () => 'x' as never, (): number => expect.unreachable()])(
    'a random function that is none costs no call (%#)',
    async (random) => {
      const { provider } = createFallback(named(says('a'), says('b')), { balance: 'weighted', random })
      expect((await collect(provider(ask, {}))).text).toMatch(/^[ab]$/)
    }
  )
})

describe('aborts, deadlines and patience', () => {
  test('an abort ends the call with its reason and asks nobody else', async () => {
    const controller = new AbortController()
    const second = says('b')
    const hanging: Provider = async function* (_, { signal }) {
      yield start('a')
      setTimeout(() => controller.abort('stop'), 5)
      await new Promise((resolve) => signal?.addEventListener('abort', resolve))
      throw make('network', { phase: 'body' })()
    }
    const { provider, stats } = createFallback(named({ provider: hanging }, second))
    await expect(all(provider, { signal: controller.signal })).rejects.toBe('stop')
    await expect(all(provider, { signal: AbortSignal.abort('before') })).rejects.toBe('before')
    expect(second.asked).toHaveLength(0)
    expect(stats().providers[0]).toMatchObject({ asked: 1, failed: 0, cooling: 0 })
  })

  test('a call whose total deadline is over moves nowhere', async () => {
    const second = says('b')
    using deadline = startDeadline('total', 0.001, () => {})
    while (deadline.remainingMs() > 0);
    const { provider } = createFallback(named(down(), second))
    expect((await failure(all(provider, { deadline }))).code).toBe('unavailable')
    expect(second.asked).toHaveLength(0)
  })

  test('a flood without content, which never lets a timer run, ends with the deadline and is left', async () => {
    let left = false
    const flood: Provider = async function* () {
      try {
        yield start('a')
        for (;;) yield { type: 'note', from: 'retry', facts: { attempts: 1 } } satisfies Chunk
      } finally {
        left = true
      }
    }
    const calls = createRunningCalls(50)
    const { provider } = createFallback(named({ provider: flood }, says('b')))
    const error = await failure(all(calls.layer(provider)))
    expect(error.details).toMatchObject({ clock: 'total' })
    await expect.poll(() => left).toBe(true)
  })

  test('while another is left, waits are short; for the last one they are what they were', async () => {
    const players = [down(), down(), says('c')]
    using deadline = startDeadline('total', 60_000, () => {})
    const { provider } = createFallback(named(...players), { patienceMs: 250 })
    const options: CallOptions = { deadline }
    await all(provider, options)
    const first = players[0]?.asked[0]?.options.deadline
    expect(first?.remainingMs()).toBe(250)
    if (first !== undefined) first.queued = true
    expect(deadline.queued).toBe(true)
    first?.[Symbol.dispose]()
    expect(deadline.remainingMs()).toBeGreaterThan(250)
    expect(players[2]?.asked[0]?.options).toBe(options)
    using short = startDeadline('total', 100, () => {})
    await all(createFallback(named(...players)).provider, { deadline: short })
    expect(players[0]?.asked.at(-1)?.options.deadline?.remainingMs()).toBeLessThanOrEqual(100)
  })

  test('a provider whose limits are full is waited for no longer than the patience, while another is left', async () => {
    await using limiter = createLimiter({ limits: [{ concurrency: 1 }] })
    const gate = Promise.withResolvers<void>()
    const slow: Provider = async function* () {
      yield start('a')
      await gate.promise
      yield* [text('a'), finish]
    }
    const guarded = named({ provider: slow }, says('b')).map((each) => ({
      ...each,
      provider: withLimits(limiter, { provider: each.name })(each.provider)
    }))
    const { provider } = createFallback(guarded, { patienceMs: 40 })
    const outer = createRunningCalls(20_000).layer(provider)
    const holding = collect(outer(ask, {}))
    const { text: said, notes } = await collect(outer(ask, {}))
    expect(said).toBe('b')
    expect(notes.fallback).toMatchObject({ provider: 'b', tried: [{ provider: 'a', code: 'timeout', reason: 'limited' }] })
    gate.resolve()
    expect((await holding).text).toBe('a')
    // It was ours that was full: the provider is asked again at once.
    expect((await collect(outer(ask, {}))).text).toBe('a')
  })

  test('a reader that leaves before the content leaves the provider too', async () => {
    let left = 0
    const slow: Provider = async function* () {
      try {
        yield start('a')
        await new Promise((resolve) => setTimeout(resolve, 20))
        yield text('a')
      } finally {
        left++
      }
    }
    const second = says('b')
    const { provider } = createFallback(named({ provider: slow }, second))
    const iterator = provider(ask, {})[Symbol.asyncIterator]()
    const read = iterator.next()
    await iterator.return?.()
    expect(await read).toEqual({ done: true, value: undefined })
    expect(left).toBe(1)
    expect(second.asked).toHaveLength(0)
  })
})

describe('wrong options are refused', () => {
  const wrong: readonly (readonly [object, RegExp])[] = [
    [{ balanced: 1 }, /no option "balanced"/],
    [{ balance: 'random' }, /'ordered' or 'weighted'/],
    [{ on: ['toString'] }, /list of error codes/],
    [{ on: ['closed'] }, /list of error codes/],
    [{ coolDownMs: -1 }, /coolDownMs/],
    [{ coolDownMs: Number.POSITIVE_INFINITY }, /coolDownMs/],
    [{ patienceMs: Number.NaN }, /patienceMs/],
    [{ random: 1 }, /random/],
    [{ now: 1 }, /now/]
  ]
  test.each(wrong)('%o', (options, message) => {
    expect(() => createFallback(named(says('a')), options as FallbackOptions)).toThrow(message)
    expect(() => createFallback(named(says('a')), options as FallbackOptions)).toThrow(TypeError)
  })

  test('an empty list is refused', () => {
    expect(() => createFallback([])).toThrow(TypeError)
  })
})

describe('over real sockets', () => {
  const head = responseHead(200, { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' })
  const delta = (content: string): object => ({ id: 'c', model: 'm', choices: [{ index: 0, delta: { content } }] })

  /** Two servers behind one transport, the call held to a deadline as an adapter holds it. */
  async function withServers(
    firstURL: string,
    use: (provider: Provider, answered: () => number) => Promise<void>,
    options: FallbackOptions = {}
  ): Promise<void> {
    await using second = await startScriptedProvider({ reply: () => 'from the second' })
    await using transport = createTransport({ retry: { baseMs: 1 } })
    const connected = [firstURL, second.url].map((baseURL, index) => ({
      name: `server-${index}`,
      provider: openai({ apiKey: 'k', baseURL }).connect(transport.send)
    }))
    const calls = createRunningCalls(20_000)
    await use(calls.layer(createFallback(connected, options).provider), () => second.stats().requests)
    expect(calls.size).toBe(0)
  }

  test.each([true, false])('500 behind all its retries moves on (stream: %s)', async (stream) => {
    await using first = await startScriptedProvider({ reply: () => ({ status: 500 }) })
    await withServers(first.url, async (provider) => {
      const { text: said, notes } = await collect(provider(ask, { stream }))
      expect(said).toBe('from the second')
      expect(notes.fallback?.tried).toEqual([
        { provider: 'server-0', model: 'm', code: 'unavailable', status: 500, reason: 'failed' }
      ])
      expect(first.stats().requests).toBe(3)
      expect((await collect(provider(ask, { stream }))).notes.fallback?.tried).toMatchObject([{ reason: 'cooling' }])
      expect(first.stats().requests).toBe(3)
    })
  })

  test('429 with a long Retry-After moves on at once, and is waited for where nobody else is left', async () => {
    await using first = await startScriptedProvider({ reply: () => ({ status: 429, headers: { 'retry-after': '5' } }) })
    await withServers(first.url, async (provider) => {
      const startedAt = performance.now()
      const { notes } = await collect(provider(ask, {}))
      expect(performance.now() - startedAt).toBeLessThan(4000)
      expect(notes.fallback?.tried).toMatchObject([{ code: 'rate-limited', status: 429 }])
      expect(first.stats().requests).toBe(1)
    })

    let refusals = 0
    await using only = await startScriptedProvider({
      reply: () => (refusals++ === 0 ? { status: 429, headers: { 'retry-after': '1' } } : 'at last')
    })
    await using transport = createTransport()
    const { provider } = createFallback(
      [{ name: 'only', provider: openai({ apiKey: 'k', baseURL: only.url }).connect(transport.send) }],
      { patienceMs: 0 }
    )
    expect((await collect(createRunningCalls(20_000).layer(provider)(ask, {}))).text).toBe('at last')
  })

  test('a refused connection moves on', async () => {
    const server = createServer().listen(0)
    const { port } = server.address() as { port: number }
    await new Promise((resolve) => server.close(resolve))
    await withServers(`http://127.0.0.1:${port}/v1`, async (provider) => {
      expect((await collect(provider(ask, {}))).notes.fallback?.tried).toMatchObject([{ code: 'network' }])
    })
  })

  test('an error event in place of the first content moves on, though the head said 200', async () => {
    await using first = await startFaultServer(async (connection) => {
      for (;;) {
        await connection.request()
        const error = { error: { message: 'The server is overloaded', type: 'server_error', code: null } }
        await connection.write(head + chunk(sse([{ id: 'c', model: 'm', choices: [] }, error])) + chunk(''))
      }
    })
    await withServers(`${first.url}/v1`, async (provider) => {
      const seen = await all(provider)
      expect(seen.filter(({ type }) => type === 'start')).toHaveLength(1)
      expect(seen.flatMap((each) => (each.type === 'text' ? [each.text] : [])).join('')).toBe('from the second')
      expect(seen[1]).toMatchObject({ type: 'note', from: 'fallback', facts: { provider: 'server-1' } })
    })
  })

  test('a reset in the middle of the answer is told with what was received, and nobody else is asked', async () => {
    await using first = await startFaultServer(async (connection) => {
      await connection.request()
      await connection.write(head + chunk(sse([delta('half an')])))
      await connection.pause(50)
      connection.reset()
    })
    await withServers(`${first.url}/v1`, async (provider, answered) => {
      const error = await failure(collect(provider(ask, {})))
      expect(isMillraceError(error, 'network')).toBe(true)
      expect(error.partial?.text).toBe('half an')
      expect(answered()).toBe(0)
    })
  })
})
