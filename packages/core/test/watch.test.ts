import { getEventListeners } from 'node:events'
import { afterEach, describe, expect, it } from 'vitest'
import {
  type CallContent,
  type CallEnd,
  type CallOptions,
  CallTally,
  type ChatRequest,
  type Chunk,
  channels,
  isMillraceError,
  onAbort,
  type PriceOf,
  type Provider,
  sleep,
  type Usage,
  watch
} from '../src/index.ts'

const request: ChatRequest = { model: 'm', messages: [{ role: 'user', content: 'x' }] }
const answer: Chunk[] = [
  { type: 'start', provider: 'p', model: 'm-1', id: 'c1' },
  { type: 'note', from: 'cache', facts: { state: 'miss' } },
  { type: 'text', text: '' },
  { type: 'text', text: 'a' },
  { type: 'text', text: 'b' },
  { type: 'finish', reason: 'stop' }
]
const reason = new Error('enough')
const owner = {}

/** A provider that ends as told after its chunks: by itself, with an error, or not before it is aborted. */
function scripted(
  chunks: readonly Chunk[],
  end: 'end' | 'wait' | Error = 'end'
): Provider & { calls: CallOptions[]; returned: number } {
  const provider = async function* (_: ChatRequest, options: CallOptions): AsyncGenerator<Chunk> {
    provider.calls.push(options)
    try {
      yield* chunks
      if (end === 'wait') await sleep(60_000, options.signal)
      else if (end !== 'end') throw end
    } finally {
      provider.returned++
    }
  }
  provider.calls = [] as CallOptions[]
  provider.returned = 0
  return provider
}

const undo: (() => void)[] = []
afterEach(() => {
  for (const off of undo.splice(0)) off()
})

/** What the channels and the listener were told, in order. */
function listen() {
  const told: { name: string; message: never }[] = []
  for (const one of [channels.callStart, channels.callContent, channels.callEnd]) {
    const hear = (message: unknown, name: string | symbol): void =>
      void told.push({ name: String(name), message: message as never })
    one.subscribe(hear)
    undo.push(() => one.unsubscribe(hear))
  }
  const ends: CallEnd[] = []
  return { told, ends, layer: watch(owner, { listener: (end) => ends.push(end) }) }
}

async function read(provider: Provider, options: CallOptions = {}, leaveAt?: Chunk['type']): Promise<unknown> {
  try {
    for await (const chunk of provider(request, options)) if (chunk.type === leaveAt) break
    return undefined
  } catch (error) {
    return error
  }
}

describe('watch', () => {
  it('tells start, first content and end of a call, once each and in order', async () => {
    const { told, ends, layer } = listen()
    const provider = scripted(answer)
    expect(await read(layer(provider), { stream: false })).toBeUndefined()
    expect(told.map(({ name }) => name)).toEqual([
      'millrace:call:start',
      'millrace:call:content',
      'millrace:call:content',
      'millrace:call:end'
    ])
    const callId = provider.calls[0]?.callId
    expect(callId).toMatch(/^[0-9a-f]{8}-1$/)
    expect(told[0]?.message).toMatchObject({ owner, callId, request, options: { stream: false }, stream: false })
    const [first, second] = told.slice(1, 3).map(({ message }): CallContent => message)
    expect(first).toMatchObject({ owner, callId, gapMs: undefined, chunks: [answer[3]], start: answer[0] })
    expect(second).toMatchObject({ owner, callId, chunks: [answer[4]], start: answer[0] })
    expect(second?.gapMs).toBe((second?.elapsedMs ?? 0) - (first?.elapsedMs ?? 0))
    expect(ends).toEqual([told[3]?.message])
    expect(ends[0]?.firstContentMs).toBe(first?.elapsedMs)
    expect(ends[0]).toMatchObject({
      owner,
      callId,
      outcome: 'success',
      contents: 2,
      provider: 'p',
      model: 'm-1',
      id: 'c1',
      finish: 'stop',
      notes: { cache: { state: 'miss' } },
      error: undefined
    })
    expect(ends[0]?.firstContentMs).toBeLessThanOrEqual(ends[0]?.elapsedMs ?? 0)
  })

  it('tells what the tokens are worth by the price list, billed or not, and nothing where the list fails', async () => {
    const usage: Usage = {
      input: { uncached: 3, cacheRead: 0, cacheWrite: 0 },
      output: { text: 1, reasoning: 0 },
      estimated: false,
      billed: false
    }
    const asked: unknown[] = []
    const costOf = async (price: PriceOf, told: readonly Chunk[]): Promise<number | null | undefined> => {
      const ends: CallEnd[] = []
      await read(watch(owner, { listener: (end) => ends.push(end), price })(scripted(told)))
      expect(ends[0]?.saved === undefined || ends[0].cost === undefined).toBe(true)
      return ends[0]?.saved ?? ends[0]?.cost
    }
    const finish: Chunk = { type: 'finish', reason: 'stop' }
    const whole: Chunk[] = [{ type: 'start', provider: 'p', model: 'm-1' }, { type: 'usage', usage }, finish]
    const price: PriceOf = (...of) => {
      asked.push(of)
      return 0.25
    }
    expect(await costOf(price, whole)).toBe(0.25)
    expect(asked).toEqual([[{ ...usage, billed: true }, 'm-1', 'p']])
    expect(await costOf(price, [{ type: 'start', provider: 'p', model: 'm-1' }, finish])).toBeUndefined()
    for (const wrong of [undefined, -1, Number.NaN, Number.POSITIVE_INFINITY, '1']) {
      expect(await costOf(() => wrong as number, whole)).toBeNull()
    }
    const throws = (): never => {
      throw new Error('no list')
    }
    expect(await costOf(throws, whole)).toBeNull()
  })

  it('tells its own time: what was waited for the provider, and for anything else that tells of it, is taken off', async () => {
    const overheadOf = async (
      { state, providerMs, otherMs = 0, reader = 0 }: { state?: string; providerMs?: number; otherMs?: number; reader?: number },
      options: CallOptions = {}
    ): Promise<CallEnd | undefined> => {
      const { ends, layer } = listen()
      const slow: Provider = async function* (_request, { tally }) {
        await sleep(20)
        if (providerMs !== undefined) tally?.waitedForProvider(providerMs)
        tally?.waited(otherMs)
        yield { type: 'start', provider: 'p', model: 'm' }
        if (state !== undefined) yield { type: 'note', from: 'cache', facts: { state } }
        yield { type: 'text', text: 'a' }
        await sleep(20)
        yield { type: 'finish', reason: 'stop' }
      }
      for await (const _ of layer(slow)(request, options)) await sleep(reader)
      return ends[0]
    }
    const stream = await overheadOf({ providerMs: 5, otherMs: 2 })
    expect(stream?.overheadMs).toBeGreaterThan(10)
    expect(stream?.overheadMs).toBeLessThanOrEqual((stream?.firstContentMs ?? 0) - 7 + 0.5)
    const plain = await overheadOf({ providerMs: 5 }, { stream: false })
    expect(plain?.overheadMs).toBeGreaterThan(30)
    const slowReader = await overheadOf({ providerMs: 5, reader: 40 })
    expect((slowReader?.firstContentMs ?? 0) - (slowReader?.overheadMs ?? 0)).toBeGreaterThan(35)
    expect((await overheadOf({ state: 'hit' }))?.overheadMs).toBeGreaterThan(10)
    expect((await overheadOf({ state: 'joined', providerMs: 5 }))?.overheadMs).toBeUndefined()
    expect((await overheadOf({ state: 'stale' }))?.overheadMs).toBeUndefined()
    expect((await overheadOf({}))?.overheadMs).toBeUndefined()
    expect((await overheadOf({ providerMs: 1e6 }))?.overheadMs).toBe(0)
  })

  it('a call that is watched again further in is one call, with the price and the waits of what is inside', async () => {
    const { told, ends, layer } = listen()
    const usage: Usage = {
      input: { uncached: 1, cacheRead: 0, cacheWrite: 0 },
      output: { text: 1, reasoning: 0 },
      estimated: false,
      billed: true
    }
    const provider: Provider = async function* (_request, { tally }) {
      tally?.waitedForProvider(1)
      yield* [answer[0], { type: 'text', text: 'a' }, { type: 'usage', usage }, answer[5]] as Chunk[]
    }
    const inner = watch({}, { price: () => 0.5 })(provider)
    await read(
      layer(async function* (...of) {
        yield* inner(...of)
      })
    )
    expect(ends[0]).toMatchObject({ cost: 0.5, owner })
    expect(ends[0]?.overheadMs).toBeDefined()
    const messages = told.map(({ message }): CallEnd => message)
    expect(messages.map(({ call }) => call.isPart)).toEqual([false, true, true, false, true, false])
    expect(new Set(messages.map(({ call }) => call)).size).toBe(2)
    const own = new CallTally()
    await read(layer(provider), { tally: own })
    expect(own.providerMs).toBe(1)
    expect(told.slice(6).map(({ message }): boolean => (message as CallEnd).call.isPart)).toEqual([false, false, false])
  })

  it('money goes outward once, spent and saved apart, and the outermost price that is known stands', async () => {
    const used = (billed: boolean): Usage => ({
      input: { uncached: 1, cacheRead: 0, cacheWrite: 0 },
      output: { text: 1, reasoning: 0 },
      estimated: false,
      billed
    })
    const answers = (billed: boolean): Provider =>
      scripted([answer[0], { type: 'usage', usage: used(billed) }, answer[5]] as Chunk[])
    const priced = (usd: number | undefined) => watch({}, { price: () => usd })
    const endOf = async (provider: Provider, price?: PriceOf): Promise<CallEnd | undefined> => {
      const ends: CallEnd[] = []
      await read(watch({}, { listener: (end) => ends.push(end), price })(provider))
      return ends[0]
    }
    expect(await endOf(priced(1)(priced(1)(answers(true))))).toMatchObject({ cost: 1 })
    expect(await endOf(priced(3)(priced(1)(answers(true))))).toMatchObject({ cost: 3 })
    expect(await endOf(priced(1)(answers(true)), () => undefined)).toMatchObject({ cost: 1 })
    expect(await endOf(priced(undefined)(answers(true)), () => undefined)).toMatchObject({ cost: null })
    const both: Provider = async function* (...of) {
      for await (const _ of priced(5)(answers(false))(...of));
      for await (const _ of priced(1)(answers(true))(...of));
      yield* answer
    }
    const end = await endOf(both)
    expect([end?.cost, end?.saved]).toEqual([1, 5])
  })

  it('names that are no names reach no listener', async () => {
    const { ends, told, layer } = listen()
    for (const start of [
      { provider: 7, model: 'm' },
      { provider: 'p', model: null },
      { provider: 'p', model: 'm', id: {} }
    ]) {
      await read(layer(scripted([{ type: 'start', ...start } as never, ...answer.slice(3)])))
    }
    expect(ends.map(({ provider, model, id }) => [provider, model, id])).toEqual(
      Array.from({ length: 3 }, () => [undefined, undefined, undefined])
    )
    for (const { message } of told) if ('start' in (message as object)) expect((message as CallContent).start).toBeUndefined()
  })

  it('a call that is ended inside while nobody reads is told at once, and once', async () => {
    const { ends, layer } = listen()
    const timeout = new Error('too late')
    let end = (): void => {}
    const provider: Provider = async function* (_request, { tally }) {
      end = () => tally?.ended(timeout)
      yield* answer.slice(0, 4)
      await sleep(1)
      throw timeout
    }
    const stream = layer(provider)(request, {})[Symbol.asyncIterator]()
    end()
    await stream.next()
    end()
    end()
    expect(ends).toMatchObject([{ outcome: 'error', error: timeout }])
    for (let left = 0; left < 3; left++) await stream.next()
    await expect(stream.next()).rejects.toBe(timeout)
    expect(ends).toHaveLength(1)
  })

  it('passes every chunk through, the request itself, and options unchanged but for the name of the call', async () => {
    const provider = scripted(answer)
    const options = Object.freeze({ tenant: 't', callId: 'mine' })
    const got: Chunk[] = []
    for await (const chunk of watch(owner)(provider)(request, options)) got.push(chunk)
    expect(got).toEqual(answer)
    expect(provider.calls).toEqual([{ ...options, tally: expect.any(CallTally) }])
    await read(watch(owner)(provider), Object.freeze({ tenant: 't' }))
    expect(provider.calls[1]).toEqual({ tenant: 't', callId: expect.any(String), tally: expect.any(CallTally) })
  })

  it('names every call anew', async () => {
    const provider = scripted(answer)
    const layer = watch(owner)
    await Promise.all([read(layer(provider)), read(layer(provider)), read(watch(owner)(provider))])
    expect(new Set(provider.calls.map(({ callId }) => callId)).size).toBe(3)
  })

  it('ends with error, aborted or abandoned, exactly once', async () => {
    const { ends, told, layer } = listen()
    const failure = new Error('failed')
    expect(await read(layer(scripted(answer.slice(0, 4), failure)))).toBe(failure)
    expect(ends.at(-1)).toMatchObject({ outcome: 'error', error: failure, contents: 1 })

    const source = new AbortController()
    const reading = read(layer(scripted(answer.slice(0, 4), 'wait')), { signal: source.signal })
    await sleep(5)
    source.abort(reason)
    expect(await reading).toBe(reason)
    expect(ends.at(-1)).toMatchObject({ outcome: 'aborted', error: reason })
    expect(getEventListeners(source.signal, 'abort')).toHaveLength(0)

    const left = scripted(answer)
    await read(layer(left), {}, 'text')
    expect(ends.at(-1)).toMatchObject({ outcome: 'abandoned', error: undefined })
    expect(left.returned).toBe(1)

    await read(layer(scripted(answer)), { signal: AbortSignal.abort(reason) }, 'text')
    expect(ends.at(-1)?.outcome).toBe('aborted')

    expect(ends).toHaveLength(4)
    expect(told.filter(({ name }) => name === 'millrace:call:end')).toHaveLength(4)
    expect(told.filter(({ name }) => name === 'millrace:call:start')).toHaveLength(4)
  })

  it('takes an error of its own after an abort for an error, not for the abort', async () => {
    const { ends, layer } = listen()
    const failure = new Error('failed')
    await read(layer(scripted([], failure)), { signal: AbortSignal.abort(reason) })
    expect(ends).toMatchObject([{ outcome: 'error', error: failure }])
  })

  it('counts a reader that leaves at the finish as a success', async () => {
    const { ends, layer } = listen()
    const provider = scripted(answer)
    await read(layer(provider), {}, 'finish')
    expect(ends).toMatchObject([{ outcome: 'success', finish: 'stop' }])
    expect(provider.returned).toBe(1)
  })

  it('counts a stream without a finish as an error', async () => {
    const { ends, layer } = listen()
    await read(layer(scripted(answer.slice(0, -1))))
    expect(ends).toMatchObject([{ outcome: 'error' }])
    expect(isMillraceError(ends[0]?.error, 'protocol')).toBe(true)
  })

  it('counts a provider that throws before it gives a stream', async () => {
    const { ends, layer } = listen()
    const failure = new Error('at once')
    const thrower: Provider = () => {
      throw failure
    }
    expect(await read(layer(thrower))).toBe(failure)
    expect(ends).toMatchObject([{ outcome: 'error', error: failure }])
    const oddIterator = {
      next: () => {
        throw failure
      }
    } as unknown as AsyncIterator<Chunk>
    expect(await read(layer(() => ({ [Symbol.asyncIterator]: () => oddIterator })))).toBe(failure)
    expect(ends).toHaveLength(2)
  })

  it('begins with the first read: a stream never read has neither start nor end, and sends nothing', async () => {
    const { ends, told, layer } = listen()
    const provider = scripted(answer)
    const iterator = layer(provider)(request, {})[Symbol.asyncIterator]()
    await iterator.return?.()
    expect(await iterator.next()).toEqual({ done: true, value: undefined })
    expect([ends, told, provider.calls]).toEqual([[], [], []])
  })

  it('is over after its end: later reads and returns tell nothing more', async () => {
    const { ends, layer } = listen()
    const failure = new Error('failed')
    const provider = scripted([], failure)
    const iterator = layer(provider)(request, {})[Symbol.asyncIterator]()
    await expect(iterator.next()).rejects.toBe(failure)
    expect((await iterator.next()).done).toBe(true)
    await iterator.return?.()
    expect(ends).toHaveLength(1)
    expect(provider.calls).toHaveLength(1)
  })

  it('tells the end once when the reader leaves while a read is pending', async () => {
    const { ends, layer } = listen()
    const source = new AbortController()
    let off = (): void => {}
    const stalled: Provider = (_, { signal }) => ({
      [Symbol.asyncIterator]: () => ({
        next: () =>
          new Promise((_resolve, reject) => {
            off = onAbort(signal, reject)
          }),
        return: async () => ({ done: true, value: undefined })
      })
    })
    const iterator = layer(stalled)(request, { signal: source.signal })[Symbol.asyncIterator]()
    const pending = iterator.next()
    await iterator.return?.()
    source.abort(reason)
    await expect(pending).rejects.toBe(reason)
    off()
    expect(ends).toMatchObject([{ outcome: 'abandoned' }])
  })
})
