import { setImmediate as tick } from 'node:timers/promises'
import { type CallOptions, type Chunk, type ErrorCode, isMillraceError, MillraceError } from '@millrace/core'
import { describe, expect, it, vi } from 'vitest'
import { type CacheOptions, createCache, keyOf, withCache } from '../src/index.ts'
import { answer, ask, cacheNote, gather, type Scripted, script, start, textOf } from './scripted.ts'

interface Rig {
  readonly scripted: Scripted
  readonly cache: ReturnType<typeof createCache>
  /** The state, and the text or the code of the error. */
  ask(options?: CallOptions['cache'], content?: string): Promise<[unknown, string]>
  /** Lets time pass, and the background work. */
  pass(ms: number): Promise<void>
}

function rig(
  answers: (call: number) => Iterable<Chunk | Error>,
  options: CacheOptions = {},
  pace?: (signal: AbortSignal | undefined) => Promise<unknown>
): Rig {
  let at = 0
  const scripted = script(answers, pace)
  const cache = createCache({ ttlMs: 1000, now: () => at, ...options })
  const cached = withCache(cache, { origin: 'test' })(scripted.provider)
  return {
    scripted,
    cache,
    async ask(asked, content) {
      try {
        const chunks = await gather(cached(ask(content), { cache: asked }))
        return [cacheNote(chunks)?.state, textOf(chunks)]
      } catch (error) {
        return ['error', isMillraceError(error) ? error.code : String(error)]
      }
    },
    async pass(ms) {
      at += ms
      for (let turn = 0; turn < 20; turn++) await tick()
    }
  }
}

const refused = (code: ErrorCode, status?: number): MillraceError =>
  new MillraceError(code, 'refused', { details: { status } as never, context: { model: 'm' } })

describe('stale while revalidate', () => {
  const options = { staleWhileRevalidateMs: 5000 }

  it('serves the old answer at once and the new one afterwards, with its age and unbilled usage', async () => {
    const { ask: get, pass, scripted, cache } = rig((call) => answer(`${call}`), options)
    expect(await get()).toEqual(['miss', '0'])
    await pass(999)
    expect(await get()).toEqual(['hit', '0'])
    await pass(2)
    expect(await get()).toEqual(['stale', '0'])
    await pass(0)
    expect(scripted.calls).toHaveLength(2)
    expect(await get()).toEqual(['hit', '1'])
    expect(cache.stats()).toMatchObject({ hits: 2, stale: 1, misses: 1, refreshes: 1, refreshErrors: 0, hitRate: 0.75 })
    await pass(6001)
    expect(await get()).toEqual(['miss', '2'])
  })

  it('refreshes once for many askers, and lets those who want a fresh one join', async () => {
    const { promise: gate, resolve: go } = Promise.withResolvers<void>()
    const {
      ask: get,
      pass,
      scripted
    } = rig(
      (call) => answer(`${call}`),
      options,
      async () => {
        if (scripted.calls.length > 1) await gate
      }
    )
    await get()
    await pass(1500)
    const stale = await Promise.all(Array.from({ length: 200 }, () => get()))
    expect(new Set(stale.map(String))).toEqual(new Set(['stale,0']))
    const fresh = get({ maxAgeMs: 1000 })
    await pass(0)
    go()
    expect(await fresh).toEqual(['joined', '1'])
    expect(scripted.calls).toHaveLength(2)
  })

  it('asks for itself, without the name, key or deadline of the call that found it stale', async () => {
    const scripted = script((call) => answer(`${call}`))
    let at = 0
    const cache = createCache({ ttlMs: 1000, now: () => at, staleWhileRevalidateMs: 5000 })
    const cached = withCache(cache, { origin: 'test' })(scripted.provider)
    await gather(cached(ask(), {}))
    at = 1500
    const controller = new AbortController()
    const call: CallOptions = {
      signal: controller.signal,
      callId: 'mine',
      idempotencyKey: 'once',
      timeouts: { totalMs: 5, idleMs: 7 }
    }
    await gather(cached(ask(), call))
    controller.abort()
    for (let turn = 0; turn < 20; turn++) await tick()
    expect(scripted.calls[1]).toMatchObject({ ended: 'done' })
    expect(scripted.calls[1]?.options).toMatchObject({ callId: undefined, idempotencyKey: undefined, timeouts: { idleMs: 7 } })
    expect(scripted.calls[1]?.options.timeouts?.totalMs).toBe(Number.POSITIVE_INFINITY)
    expect(cache.stats().refreshes).toBe(1)
  })

  it('refreshes again and again, also where the upstream has its answer at once', async () => {
    let at = 0
    const scripted = script((call) => answer(`${call}`))
    const both = { ttlMs: 1000, now: () => at }
    const below = withCache(createCache(both), { origin: 'below' })(scripted.provider)
    const cached = withCache(createCache({ ...both, staleWhileRevalidateMs: 60_000 }), { origin: 'test' })(below)
    const seen: string[] = []
    for (let round = 0; round < 4; round++) {
      seen.push(textOf(await gather(cached(ask(), {}))))
      for (let turn = 0; turn < 20; turn++) await tick()
      at += 1500
    }
    expect(seen).toEqual(['0', '0', '1', '2'])
  })

  it('keeps serving when the refresh fails, counts it, and leaves the provider alone for a second', async () => {
    const {
      ask: get,
      pass,
      scripted,
      cache
    } = rig((call) => (call === 0 ? answer('0') : [start, refused('overloaded', 503)]), options)
    await get()
    await pass(1500)
    for (let n = 0; n < 50; n++) {
      expect(await get()).toEqual(['stale', '0'])
      await pass(10)
    }
    expect(scripted.calls).toHaveLength(2)
    await pass(1000)
    await get()
    await pass(0)
    expect(scripted.calls).toHaveLength(3)
    expect(cache.stats()).toMatchObject({ refreshErrors: 2, refreshes: 0 })
  })

  it.each([{}, { maxBytes: 0 }])('leaves the provider alone for a second with a store as well, %o', async (memory) => {
    const store = new Map<string, string>()
    const {
      ask: get,
      pass,
      scripted,
      cache
    } = rig((call) => (call === 0 ? answer('0') : [start, refused('overloaded', 503)]), {
      ...options,
      ...memory,
      store,
      scope: 's'
    })
    await get()
    await pass(1500)
    // What lies in the store is as old as the wall clock says, unlike what is in memory.
    const wall = vi.spyOn(Date, 'now').mockReturnValue(Date.now() + 1500)
    try {
      for (let n = 0; n < 50; n++) {
        expect(await get()).toEqual(['stale', '0'])
        await pass(10)
      }
      expect(scripted.calls).toHaveLength(2)
      await pass(1000)
      await get()
      await pass(0)
      expect(scripted.calls).toHaveLength(3)
      expect(cache.stats()).toMatchObject({ refreshErrors: 2, refreshes: 0 })
    } finally {
      wall.mockRestore()
    }
  })

  it('fetches nothing in the background for those whose answer would not be kept', async () => {
    const { ask: get, pass, scripted, cache } = rig((call) => answer(`${call}`), options)
    await get()
    await pass(1500)
    for (const asked of [{ noStore: true }, { ttlMs: 0 }]) {
      expect(await get(asked)).toEqual(['stale', '0'])
      await pass(0)
    }
    expect(scripted.calls).toHaveLength(1)
    expect(cache.stats()).toMatchObject({ refreshes: 0, refreshErrors: 0, notStored: 0 })
    await get()
    await pass(0)
    expect(await get()).toEqual(['hit', '1'])
  })

  it('shows no old answer to those who peek', async () => {
    const { ask: get, pass, cache } = rig((call) => answer(`${call}`), { ...options, scope: 's' })
    await get()
    const key = keyOf(ask(), { origin: 'test', scope: 's' })
    await pass(999)
    expect(cache.peek(key)).toBeDefined()
    await pass(2)
    expect(cache.peek(key)).toBeUndefined()
    expect(await get()).toEqual(['stale', '0'])
  })

  it('ends refreshes on close, and begins none after it', async () => {
    const {
      ask: get,
      pass,
      scripted,
      cache
    } = rig(
      (call) => answer(`${call}`),
      options,
      (signal) => (scripted.calls.length > 1 ? new Promise((_, reject) => signal?.addEventListener('abort', reject)) : tick())
    )
    await get()
    await pass(1500)
    expect(await get()).toEqual(['stale', '0'])
    await pass(0)
    await cache.close()
    expect(scripted.calls[1]?.ended).toBe('aborted')
  })
})

describe('stale if error', () => {
  const options = { staleIfErrorMs: 5000 }

  it.each<[ErrorCode, number | undefined]>([
    ['network', undefined],
    ['rate-limited', 429],
    ['quota-exceeded', 429],
    ['overloaded', 503],
    ['unavailable', 500]
  ])('gives the old answer where the upstream fails with %s before content', async (code, status) => {
    const { ask: get, pass, cache } = rig((call) => (call === 0 ? answer('0') : [start, refused(code, status)]), options)
    await get()
    await pass(1500)
    expect(await get()).toEqual(['stale', '0'])
    expect(cache.stats()).toMatchObject({ stale: 1, misses: 1 })
    await pass(6000)
    expect(await get()).toEqual(['error', code])
  })

  it('tells what asking again cannot cure, and what breaks behind content', async () => {
    for (const code of ['unauthorized', 'invalid-request', 'context-overflow', 'content-filtered'] as const) {
      const { ask: get, pass } = rig((call) => (call === 0 ? answer('0') : [refused(code, 400)]), options)
      await get()
      await pass(1500)
      expect(await get()).toEqual(['error', code])
    }
    const { ask: get, pass } = rig(
      (call) => (call === 0 ? answer('0') : [start, { type: 'text', text: 'half' }, refused('network')]),
      options
    )
    await get()
    await pass(1500)
    expect(await get()).toEqual(['error', 'network'])
  })

  it('waits for the new answer where there is one, and keeps to maxAgeMs and refresh', async () => {
    const { ask: get, pass } = rig(
      (call) => (call === 2 || call === 3 ? [refused('overloaded', 503)] : answer(`${call}`)),
      options
    )
    await get()
    await pass(1500)
    expect(await get()).toEqual(['miss', '1'])
    await pass(1500)
    expect(await get({ maxAgeMs: 1000 })).toEqual(['error', 'overloaded'])
    expect(await get({ refresh: true })).toEqual(['error', 'overloaded'])
    expect(await get({ refresh: true })).toEqual(['miss', '4'])
  })

  it('gives nothing that was forgotten while it waited for the upstream', async () => {
    const { promise: gate, resolve: go } = Promise.withResolvers<void>()
    const {
      ask: get,
      pass,
      scripted,
      cache
    } = rig(
      (call) => (call === 0 ? answer('0') : [start, refused('overloaded', 503)]),
      options,
      async () => {
        if (scripted.calls.length > 1) await gate
      }
    )
    await get({ tags: ['anna'] })
    await pass(1500)
    const waiting = get({ tags: ['anna'] })
    await pass(0)
    await cache.invalidate({ tags: ['anna'] })
    go()
    expect(await waiting).toEqual(['error', 'overloaded'])
    expect(cache.stats().stale).toBe(0)
  })

  it('passes the abort of the caller on, and holds nothing back then', async () => {
    const scripted = script(
      (call) => answer(`${call}`),
      (signal) => (scripted.calls.length > 1 ? new Promise((_, reject) => signal?.addEventListener('abort', reject)) : tick())
    )
    let at = 0
    const cache = createCache({ ttlMs: 1000, now: () => at, ...options })
    const cached = withCache(cache, { origin: 'test' })(scripted.provider)
    await gather(cached(ask(), {}))
    at = 1500
    const controller = new AbortController()
    const waiting = gather(cached(ask(), { signal: controller.signal })).catch((error: unknown) => error)
    await tick()
    controller.abort('mine')
    expect(await waiting).toBe('mine')
    const left = cached(ask(), {})[Symbol.asyncIterator]()
    const pending = left.next()
    await tick()
    await left.return?.()
    expect(await pending).toEqual({ done: true, value: undefined })
    for (let turn = 0; turn < 5; turn++) await tick()
    expect(scripted.calls.slice(1).map(({ ended }) => ended)).toEqual(['aborted', 'aborted'])
  })
})

describe('the negative cache', () => {
  it('gives a deterministic refusal again, for a short time, in memory alone', async () => {
    const store = new Map<string, string>()
    for (const status of [400, 404, 413, 422]) {
      const {
        ask: get,
        pass,
        scripted
      } = rig(() => [refused('invalid-request', status)], {
        negativeTtlMs: 500,
        store,
        scope: 's'
      })
      expect(await get()).toEqual(['error', 'invalid-request'])
      expect(await get()).toEqual(['error', 'invalid-request'])
      expect(scripted.calls).toHaveLength(1)
      await pass(501)
      await get()
      expect(scripted.calls).toHaveLength(2)
    }
    expect([...store.keys()].filter((key) => key.includes(':e:'))).toEqual([])
  })

  it('never keeps other refusals, nor any where it is not asked to, by option or by noStore', async () => {
    for (const [code, status] of [
      ['unauthorized', 401],
      ['unauthorized', 403],
      ['unavailable', 408],
      ['unavailable', 409],
      ['rate-limited', 429],
      ['unavailable', 500],
      ['invalid-request', undefined]
    ] as const) {
      const { ask: get, scripted } = rig(() => [refused(code, status)], { negativeTtlMs: 500 })
      await get()
      await get()
      expect(scripted.calls).toHaveLength(2)
    }
    const off = rig(() => [refused('invalid-request', 400)])
    await off.ask()
    await off.ask()
    expect(off.scripted.calls).toHaveLength(2)
    const told = rig(() => [refused('invalid-request', 400)], { negativeTtlMs: 500 })
    await told.ask({ noStore: true })
    await told.ask({ noStore: true })
    expect(told.scripted.calls).toHaveLength(2)
  })

  it('gives way to an answer that comes later', async () => {
    const { ask: get } = rig((call) => (call === 0 ? [refused('invalid-request', 404)] : answer('found')), { negativeTtlMs: 500 })
    await get()
    expect(await get({ refresh: true })).toEqual(['miss', 'found'])
    expect(await get()).toEqual(['hit', 'found'])
  })
})
