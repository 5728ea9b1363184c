import { setTimeout as delay } from 'node:timers/promises'
import { type Chunk, isMillraceError, type MillraceError, type ServerSentEvent } from '@millrace/core'
import { describe, expect, test, vi } from 'vitest'
import { type IdleTimeoutOptions, idleTimeout } from '../src/idle-timeout.ts'
import { fed, finish, from, gather, start, text } from './source.ts'

async function failureOf(stream: AsyncIterable<unknown>): Promise<MillraceError<'timeout'>> {
  const error = await gather(stream).catch((thrown: unknown) => thrown)
  if (!isMillraceError(error, 'timeout')) throw new Error(`no timeout, but ${String(error)}`)
  return error
}

/** Gives `silence` every few milliseconds, for ever. */
async function* every(ms: number, silence: () => Chunk): AsyncGenerator<Chunk> {
  for (;;) {
    await delay(ms)
    yield silence()
  }
}

describe('the clocks', () => {
  test('end a stream that never begins with first-chunk, about when a bare timer of that length ends', async () => {
    const source = fed()
    const startedAt = performance.now()
    const bare = delay(60).then(() => performance.now() - startedAt)
    const error = await failureOf(idleTimeout({ firstChunkMs: 60 })(source))
    const tookMs = performance.now() - startedAt
    expect(error.details).toMatchObject({ clock: 'first-chunk', limitMs: 60 })
    expect(tookMs).toBeGreaterThanOrEqual(59)
    expect(tookMs).toBeLessThan((await bare) + 60)
    expect(source.returned).toBe(1)
  })

  test('end a stream that falls silent with idle, behind what it had given', async () => {
    const source = fed()
    source.give(start)
    source.give(text('word'))
    const got: Chunk[] = []
    const reading = async (): Promise<void> => {
      for await (const chunk of idleTimeout({ idleMs: 40 })(source)) got.push(chunk)
    }
    await expect(reading()).rejects.toMatchObject({ code: 'timeout', details: { clock: 'idle', limitMs: 40 } })
    expect(got).toEqual([start, text('word')])
    expect(source.returned).toBe(1)
  })

  test('end it once: after the error there is the end, and a late answer changes nothing', async () => {
    const source = fed()
    const stream = idleTimeout({ firstChunkMs: 20 })(source)[Symbol.asyncIterator]()
    await expect(stream.next()).rejects.toMatchObject({ code: 'timeout' })
    source.give(text('too late'))
    expect((await stream.next()).done).toBe(true)
    await stream.return?.()
    expect(source.returned).toBe(1)
  })

  test('do not wait for a generator that is stuck in a read', async () => {
    let closed = false
    async function* stuck(): AsyncGenerator<Chunk> {
      try {
        yield start
        await new Promise(() => {})
      } finally {
        closed = true
      }
    }
    expect((await failureOf(idleTimeout({ firstChunkMs: 30 })(stuck()))).details.clock).toBe('first-chunk')
    expect(closed).toBe(false)
  })
})

describe('silence', () => {
  const silences: [string, () => Chunk][] = [
    ['notes', () => ({ type: 'note', from: 'cache', facts: {} })],
    ['empty texts', () => text('')],
    ['empty reasoning', () => ({ type: 'reasoning', text: '' })],
    ['hollow extras', () => ({ type: 'extra', name: 'logprobs', value: { content: [] } })],
    ['usage', () => ({ type: 'usage', usage: usage() })]
  ]
  test.each(silences)('is not broken by %s, which are passed on', async (_name, silence) => {
    let passed = 0
    const stream = idleTimeout({ firstChunkMs: 80 })(every(5, silence))
    const reading = async (): Promise<void> => {
      for await (const _ of stream) passed++
    }
    await expect(reading()).rejects.toMatchObject({ details: { clock: 'first-chunk' } })
    expect(passed).toBeGreaterThan(1)
  })

  test('is not broken by a flood that lets no timer run', async () => {
    let given = 0
    async function* flood(): AsyncGenerator<Chunk> {
      for (; given < 1e8; given++) yield text('')
    }
    const reading = async (): Promise<void> => {
      for await (const _ of idleTimeout({ firstChunkMs: 30 })(flood()));
    }
    await expect(reading()).rejects.toMatchObject({ details: { clock: 'first-chunk' } })
    expect(given).toBeLessThan(1e8)
  })

  test.each<[string, Chunk]>([
    ['text', text('word')],
    ['a refusal', { type: 'refusal', text: 'no' }],
    ['a signature', { type: 'reasoning', text: '', signature: 'x' }],
    ['the name of a tool', { type: 'tool-call', index: 0, name: 'find', arguments: '' }],
    ['log probabilities', { type: 'extra', name: 'logprobs', value: { content: [1] } }]
  ])('is broken by %s', async (_name, content) => {
    async function* slow(): AsyncGenerator<Chunk> {
      for (let count = 0; count < 6; count++) {
        await delay(50)
        yield content
      }
    }
    // Six gaps are longer than the limit, each alone is well below it.
    expect(await gather(idleTimeout({ firstChunkMs: 250, idleMs: 250 })(slow()))).toHaveLength(6)
  })

  test("is the source's alone: a slow reader trips nothing", async () => {
    let got = 0
    const source = from(Array.from({ length: 6 }, () => text('word')))
    for await (const _ of idleTimeout({ firstChunkMs: 25, idleMs: 25 })(source)) {
      await delay(40)
      got++
    }
    expect(got).toBe(6)
  })

  test('adds up over reads that bring no content, without the time between them', async () => {
    let rests = 0
    const startedAt = performance.now()
    const reading = async (): Promise<void> => {
      for await (const _ of idleTimeout({ firstChunkMs: 100 })(every(30, () => text('')))) {
        await delay(60)
        rests++
      }
    }
    await expect(reading()).rejects.toMatchObject({ details: { clock: 'first-chunk' } })
    expect(performance.now() - startedAt).toBeGreaterThanOrEqual(98 + rests * 59)
  })

  test('is not seen in content that came while the event loop was blocked', async () => {
    async function* source(): AsyncGenerator<Chunk> {
      yield text('one')
      const arrived = new Promise((resolve) => setTimeout(() => setImmediate(resolve), 1))
      const until = performance.now() + 100
      while (performance.now() < until);
      await arrived
      yield text('two')
      yield finish
    }
    expect(await gather(idleTimeout({ idleMs: 30 })(source()))).toHaveLength(3)
  })
})

describe('other streams than of chunks', () => {
  const event = (data: string): ServerSentEvent => ({ event: 'message', data, id: '' })

  test('say what is content', async () => {
    async function* events(): AsyncGenerator<ServerSentEvent> {
      yield event('word')
      for (;;) {
        await delay(5)
        yield event('')
      }
    }
    const stream = idleTimeout<ServerSentEvent>({ idleMs: 60, isContent: ({ data }) => data !== '' })(events())
    expect((await failureOf(stream)).details.clock).toBe('idle')
  })

  test('end with what isContent throws, and are returned', async () => {
    const source = fed()
    source.give(start)
    const boom = new Error('boom')
    const isContent = (): boolean => {
      throw boom
    }
    await expect(gather(idleTimeout<Chunk>({ isContent })(source))).rejects.toBe(boom)
    expect(source.returned).toBe(1)
  })
})

test('has the limits a call has: none to the first content, a minute between two', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setImmediate', 'clearImmediate', 'performance'] })
  try {
    const source = fed()
    const stream = idleTimeout()(source)[Symbol.asyncIterator]()
    const first = stream.next()
    await vi.advanceTimersByTimeAsync(3_600_000)
    source.give(text('word'))
    expect((await first).value).toEqual(text('word'))
    const failure = stream.next().catch((thrown: unknown) => thrown)
    await vi.advanceTimersByTimeAsync(59_990)
    expect(source.returned).toBe(0)
    await vi.advanceTimersByTimeAsync(30)
    expect(await failure).toMatchObject({ details: { clock: 'idle', limitMs: 60_000 } })
    expect(vi.getTimerCount()).toBe(0)
  } finally {
    vi.useRealTimers()
  }
})

test('keeps no process alive, and has no timer without a limit', async () => {
  const before = process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length
  const streams = [idleTimeout(), idleTimeout({ idleMs: Number.POSITIVE_INFINITY })].map((operator) => {
    const stream = operator(fed())[Symbol.asyncIterator]()
    return { stream, pending: stream.next() }
  })
  expect(process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout')).toHaveLength(before)
  for (const { stream, pending } of streams) {
    await stream.return?.()
    await pending
  }
})

test('refuses wrong options at creation', () => {
  for (const wrong of [-1, Number.NaN, '5', null]) {
    expect(() => idleTimeout({ firstChunkMs: wrong } as IdleTimeoutOptions)).toThrow(/firstChunkMs must be .* milliseconds/)
    expect(() => idleTimeout({ idleMs: wrong } as IdleTimeoutOptions)).toThrow(/idleMs must be .* milliseconds/)
  }
  expect(() => idleTimeout({ idle: 5 } as IdleTimeoutOptions)).toThrow(/no option "idle"; it has firstChunkMs, idleMs/)
  expect(() => idleTimeout(5 as IdleTimeoutOptions)).toThrow(TypeError)
  expect(() => idleTimeout({ isContent: 'text' } as IdleTimeoutOptions)).toThrow(/isContent must be a function/)
})

function usage(): Extract<Chunk, { type: 'usage' }>['usage'] {
  return {
    input: { uncached: 1, cacheRead: 0, cacheWrite: 0 },
    output: { text: 1, reasoning: 0 },
    estimated: false,
    billed: true
  }
}

test('says what to write where the stream was given in place of the options, or a text in place of a number', () => {
  expect(() => idleTimeout(from([finish]) as never)).toThrow('idleTimeout takes options: write idleTimeout()(stream)')
  expect(() => idleTimeout({ idleMs: '500' as never })).toThrow('not "500"')
})
