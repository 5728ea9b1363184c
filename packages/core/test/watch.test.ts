import { getEventListeners } from 'node:events'
import { afterEach, describe, expect, it } from 'vitest'
import {
  type CallEnd,
  type CallOptions,
  type ChatRequest,
  type Chunk,
  channels,
  isMillraceError,
  onAbort,
  type Provider,
  sleep,
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
    expect(told.map(({ name }) => name)).toEqual(['millrace:call:start', 'millrace:call:content', 'millrace:call:end'])
    const callId = provider.calls[0]?.callId
    expect(callId).toMatch(/^[0-9a-f]{8}-1$/)
    expect(told[0]?.message).toMatchObject({ owner, callId, request, stream: false })
    expect(told[1]?.message).toMatchObject({ owner, callId })
    expect(ends).toEqual([told[2]?.message])
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

  it('passes every chunk through, the request itself, and options unchanged but for the name of the call', async () => {
    const provider = scripted(answer)
    const options = Object.freeze({ tenant: 't', callId: 'mine' })
    const got: Chunk[] = []
    for await (const chunk of watch(owner)(provider)(request, options)) got.push(chunk)
    expect(got).toEqual(answer)
    expect(provider.calls).toEqual([options])
    expect(provider.calls[0]).toBe(options)
    await read(watch(owner)(provider), Object.freeze({ tenant: 't' }))
    expect(provider.calls[1]).toEqual({ tenant: 't', callId: expect.any(String) })
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
