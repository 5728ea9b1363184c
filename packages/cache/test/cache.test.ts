import { getEventListeners } from 'node:events'
import { setImmediate as tick } from 'node:timers/promises'
import { inspect } from 'node:util'
import type { Json } from '@millrace/core'
import { describe, expect, it } from 'vitest'
import { type CacheOptions, createCache, type Store, withCache } from '../src/index.ts'

describe('createCache', () => {
  it('refuses wrong options and says what to write', () => {
    const map = new Map() as Store
    const wrong: [CacheOptions, RegExp][] = [
      [{ store: map }, /scope: 'my-service'/],
      [{ store: {} as Store, scope: 's' }, /it has no get\(\)/],
      [{ store: 'redis://localhost' as never, scope: 's' }, /must be a Keyv/],
      [{ scope: '' }, /scope must be/],
      [{ secret: 'short' }, /at least 16/],
      [{ namespace: 'a b' }, /namespace must be/],
      [{ ttlMs: 0 }, /ttlMs must be a finite number above 0/],
      [{ ttlMs: Number.NaN }, /ttlMs/],
      [{ ttlMs: Infinity }, /ttlMs/],
      [{ maxBytes: -1 }, /maxBytes/],
      [{ maxEntries: 1.5 }, /maxEntries must be a whole number/],
      [{ maxEntryBytes: '1' as never }, /maxEntryBytes/],
      [{ storeTimeoutMs: 0 }, /storeTimeoutMs/],
      [{ onStoreError: 'log' as never }, /onStoreError/],
      [{ now: 1 as never }, /now must be/]
    ]
    for (const [options, text] of wrong) {
      expect(() => createCache(options)).toThrow(TypeError)
      expect(() => createCache(options)).toThrow(text)
    }
    expect(() => withCache(createCache(), {} as never)).toThrow(/who answers/)
  })

  it('starts with empty counts and no rate', () => {
    expect(createCache().stats()).toEqual({
      hits: 0,
      stale: 0,
      joined: 0,
      misses: 0,
      bypassed: 0,
      stored: 0,
      notStored: 0,
      refreshes: 0,
      refreshErrors: 0,
      storeErrors: 0,
      storeSkipped: 0,
      writesRefused: 0,
      corrupt: 0,
      evictions: 0,
      entries: 0,
      bytes: 0,
      hitRate: null,
      tokensSaved: 0,
      moneySaved: null,
      unpriced: 0
    })
  })

  it('shows neither its secret nor an answer when it is printed', async () => {
    const cache = createCache({ secret: 'canary-secret-of-the-team', scope: 'canary-scope' })
    await cache.wrap('canary-key', async () => 'canary-value')
    expect(inspect(cache, { depth: 30, showHidden: true })).not.toContain('canary')
  })

  it('closes twice, and forgets', async () => {
    const cache = createCache()
    await cache.wrap('a', async () => 1)
    expect(cache.stats().entries).toBe(1)
    await Promise.all([cache.close(), cache.close(), cache[Symbol.asyncDispose]()])
    expect(cache.stats().entries).toBe(0)
    let computed = 0
    for (let round = 0; round < 2; round++) await cache.wrap('a', async () => ++computed)
    expect(computed).toBe(2)
    expect(cache.stats()).toMatchObject({ bypassed: 2, entries: 0 })
  })
})

describe('wrap', () => {
  it('computes once for equal keys, whatever their property order, and gives a frozen value', async () => {
    const cache = createCache()
    let computed = 0
    const compute = async (): Promise<{ deep: number[] }> => ({ deep: [++computed] })
    const first = await cache.wrap({ a: 1, b: 2 }, compute)
    const second = await cache.wrap({ b: 2, a: 1 }, compute)
    expect(second).toEqual({ deep: [1] })
    for (const value of [first, second]) expect(() => value.deep.push(2)).toThrow(TypeError)
    expect(await cache.wrap({ a: 1, b: '2' }, compute)).toEqual({ deep: [2] })
  })

  it('keeps null, false, 0 and the empty text as values', async () => {
    const cache = createCache()
    for (const value of [null, false, 0, ''] satisfies Json[]) {
      let computed = 0
      for (let round = 0; round < 2; round++) {
        expect(await cache.wrap({ value }, async () => (computed++, value))).toBe(value)
      }
      expect(computed).toBe(1)
    }
  })

  it('makes one computation for 1,000 askers at the same time', async () => {
    const cache = createCache()
    let computed = 0
    const values = await Promise.all(
      Array.from({ length: 1000 }, () => cache.wrap('key', async () => (await tick(), { n: ++computed })))
    )
    expect(new Set(values.map(({ n }) => n))).toEqual(new Set([1]))
    expect(cache.stats()).toMatchObject({ misses: 1, joined: 999, stored: 1 })
  })

  it('shares a failure once and does not keep it', async () => {
    const cache = createCache()
    const broken = new Error('broken')
    let computed = 0
    const compute = async (): Promise<number> => {
      await tick()
      if (++computed === 1) throw broken
      return computed
    }
    for (const result of await Promise.allSettled([cache.wrap('k', compute), cache.wrap('k', compute)])) {
      expect(result).toMatchObject({ status: 'rejected', reason: broken })
    }
    expect(await cache.wrap('k', compute)).toBe(2)
    await expect(
      cache.wrap('sync', () => {
        throw broken
      })
    ).rejects.toBe(broken)
    expect(cache.stats()).toMatchObject({ notStored: 2, stored: 1 })
  })

  it('lets one asker abort without the others, and aborts the computation with the last', async () => {
    const cache = createCache()
    const gate = Promise.withResolvers<number>()
    let seen: AbortSignal | undefined
    const compute = (signal: AbortSignal): Promise<number> => {
      seen = signal
      return gate.promise
    }
    const [one, two] = [new AbortController(), new AbortController()]
    const first = cache.wrap('k', compute, { signal: one.signal })
    const second = cache.wrap('k', compute, { signal: two.signal })
    await tick()
    const reason = new Error('enough')
    one.abort(reason)
    await expect(first).rejects.toBe(reason)
    expect(seen?.aborted).toBe(false)
    two.abort(reason)
    await expect(second).rejects.toBe(reason)
    expect(seen?.aborted).toBe(true)
    expect(await cache.wrap('k', async () => 5)).toBe(5)
    gate.reject(new Error('late, and heard by nobody'))
    await tick()
    for (const { signal } of [one, two]) expect(getEventListeners(signal, 'abort')).toHaveLength(0)
    await expect(cache.wrap('k', compute, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
  })

  it('hands on what is not plain JSON, and does not keep it', async () => {
    const cache = createCache()
    const cycle: { self?: unknown } = {}
    cycle.self = cycle
    for (const value of [
      undefined,
      new Date(0),
      new Map(),
      Number.NaN,
      { a: [undefined] },
      cycle,
      JSON.parse('{"__proto__":1}')
    ]) {
      expect(await cache.wrap('k', async () => value)).toBe(value)
    }
    expect(cache.stats()).toMatchObject({ stored: 0, notStored: 7, entries: 0 })
  })

  it('refuses a key that is not plain JSON', async () => {
    await expect(createCache().wrap(new Date() as never, async () => 1)).rejects.toThrow(TypeError)
  })

  it('keeps nothing of a computation that a newer one was put in place of', async () => {
    const cache = createCache()
    const gate = Promise.withResolvers<void>()
    let data = 'old'
    const slow = cache.wrap('k', async () => {
      const read = data
      await gate.promise
      return read
    })
    await tick()
    data = 'new'
    expect(await cache.wrap('k', async () => data, { refresh: true })).toBe('new')
    gate.resolve()
    expect(await slow).toBe('old')
    expect(await cache.wrap('k', async () => 'nothing is computed')).toBe('new')
    expect(cache.stats()).toMatchObject({ hits: 1, stored: 1, notStored: 1 })
  })

  it('obeys tenant, ttlMs, maxAgeMs, noStore, bypass and refresh', async () => {
    let now = 0
    let computed = 0
    const cache = createCache({ now: () => now })
    const ask = (options = {}): Promise<number> => cache.wrap('k', async () => ++computed, options)
    expect(await ask({ noStore: true })).toBe(1)
    expect(await ask({ ttlMs: 100 })).toBe(2)
    expect(await ask({ tenant: 'a' })).toBe(3)
    now = 50
    expect(await ask()).toBe(2)
    expect(await ask({ bypass: true })).toBe(4)
    expect(await ask({ maxAgeMs: 10 })).toBe(5)
    expect(await ask()).toBe(5)
    expect(await ask({ refresh: true })).toBe(6)
    now = 50 + 60_000
    expect(await ask()).toBe(7)
  })

  it('shares values through a store, apart from the answers of withCache', async () => {
    const store = new Map() as Store
    const one = createCache({ store, scope: 's' })
    await one.wrap({ q: 1 }, async () => ({ v: [1, '\ud800', null] }))
    await one.close()
    const two = createCache({ store, scope: 's' })
    const value = await two.wrap({ q: 1 }, async () => ({ v: [] as unknown[] }))
    expect(value).toEqual({ v: [1, '\ud800', null] })
    expect(Object.isFrozen(value.v)).toBe(true)
  })

  it('hands out frozen copies, and leaves what was computed to its owner', async () => {
    const cache = createCache()
    const mine = { list: [1] }
    const first = await cache.wrap('mine', async () => mine)
    mine.list.push(2)
    expect(first).toEqual({ list: [1] })
    expect(() => first.list.push(3)).toThrow(TypeError)
    expect(await cache.wrap('mine', async () => mine)).toEqual({ list: [1] })
  })

  it('takes an interface as a key, and gives an old value where the service is out', async () => {
    interface Request {
      readonly model: string
      readonly n?: number
    }
    let now = 0
    const cache = createCache({ ttlMs: 100, staleIfErrorMs: 1000, now: () => now })
    const request: Request = { model: 'm' }
    const outage = Object.assign(new Error('busy'), { status: 503 })
    const fail = (failure: Error) =>
      cache.wrap(request, async () => {
        throw failure
      })
    await cache.wrap(request, async () => 'old')
    now = 500
    const refused = Object.assign(new Error('ECONNREFUSED'), { code: 'ECONNREFUSED' })
    for (const error of [outage, refused, new TypeError('fetch failed')]) expect(await fail(error)).toBe('old')
    for (const error of [new TypeError('x is undefined'), Object.assign(new Error('no'), { status: 401 })]) {
      await expect(fail(error)).rejects.toBe(error)
    }
  })

  it('tells a number from a text that looks like one, and refuses names that are none', async () => {
    expect(() => createCache({ ttlMs: '300' as never })).toThrow(/not the text "300": write Number/)
    expect(() => createCache({ staleIfErrorMs: -1 })).toThrow(/from 0 up/)
    const cache = createCache()
    await expect(cache.wrap('k', async () => 1, { ttl: 1 } as never)).rejects.toThrow(/no option "ttl"/)
    await expect(cache.invalidate({ tags: ['a'], tennant: 'x' } as never)).rejects.toThrow(/tennant/)
    await expect(cache.invalidate({ tags: 'abc' as never })).rejects.toThrow(/list of non-empty strings/)
  })

  it('keeps the answer of a call under way when the refresh in its place fails', async () => {
    const cache = createCache()
    const gate = Promise.withResolvers<string>()
    const before = cache.wrap('k', () => gate.promise)
    const refresh = cache.wrap('k', async () => Promise.reject(new Error('down')), { refresh: true })
    await expect(refresh).rejects.toThrow('down')
    gate.resolve('good')
    expect(await before).toBe('good')
    expect(await cache.wrap('k', async () => 'computed again')).toBe('good')
  })
})
