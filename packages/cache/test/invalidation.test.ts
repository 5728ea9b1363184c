import { setTimeout as delay, setImmediate as tick } from 'node:timers/promises'
import { isMillraceError } from '@millrace/core'
import { describe, expect, it } from 'vitest'
import { type Cache, type CacheOptions, createCache, type Store, withCache } from '../src/index.ts'
import { answer, ask, cacheNote, gather, script } from './scripted.ts'

/** A cache, and what it says of a question asked by a tenant with tags. */
function replica(options: CacheOptions = {}): {
  readonly cache: Cache
  readonly calls: unknown[]
  get(content: string, about?: { readonly tenant?: string; readonly tags?: readonly string[] }): Promise<unknown>
} {
  const { provider, calls } = script((call) => answer(`${call}`))
  const cache = createCache(options)
  const cached = withCache(cache, { origin: 'test' })(provider)
  return {
    cache,
    calls,
    get: async (content, { tenant, tags } = {}) =>
      cacheNote(await gather(cached(ask(content), { tenant, cache: { tags } })))?.state
  }
}

/** A store like a Redis with others' keys in it: it counts its calls, and refuses to list or to empty itself. */
function storeOf(
  entries = new Map<string, string>()
): Store & { readonly entries: Map<string, string>; calls: number; down: boolean } {
  const self = {
    entries,
    calls: 0,
    down: false,
    get: (key: string) => self.call(() => entries.get(key)),
    set: (key: string, value: string) => self.call(() => void entries.set(key, value)),
    delete: (key: string) => self.call(() => entries.delete(key)),
    clear: () => {
      throw new Error('the keys of others would be gone')
    },
    async call<T>(work: () => T): Promise<T> {
      self.calls++
      if (self.down) throw new Error('down')
      return work()
    }
  }
  return self
}

describe('invalidate', () => {
  it('forgets what belongs to a tag, a tenant, a scope, and nothing else', async () => {
    const { cache, get } = replica({ scope: (call) => (call.tenant === 'guest' ? 'public' : 'shop') })
    const all = [
      ['a', { tags: ['x'] }],
      ['b', { tags: ['x', 'y'] }],
      ['c', { tags: ['y'] }],
      ['d', { tenant: 'acme', tags: ['x'] }],
      ['e', { tenant: 'guest' }],
      ['f', {}]
    ] as const
    const states = async (): Promise<string> =>
      (await Promise.all(all.map(async ([q, about]) => (await get(q, about)) === 'hit'))).map(Number).join('')
    await states()
    expect(await states()).toBe('111111')
    await cache.invalidate({ tags: ['x'] })
    expect(await states()).toBe('001011')
    await cache.invalidate({ tags: ['y', 'never used'] })
    expect(await states()).toBe('100111')
    await cache.invalidate({ tenant: 'acme' })
    expect(await states()).toBe('111011')
    await cache.invalidate({ scope: 'public' })
    expect(await states()).toBe('111101')
    await cache.invalidate({ scope: 'shop' })
    expect(await states()).toBe('000010')
    await cache.clear()
    expect(await states()).toBe('000000')
  })

  it('refuses to forget nothing in particular', async () => {
    await expect(createCache().invalidate({})).rejects.toThrow(/tags: \['document:12'\]/)
    const { get } = replica()
    for (const tags of [[''], 'x', [7], Array.from({ length: 65 }, String)]) {
      await expect(get('q', { tags: tags as never })).rejects.toThrow(
        /cache\.tags must be a list of at most 64 non-empty strings/
      )
    }
  })

  it('does not keep what a call brings that began before', async () => {
    const gate = Promise.withResolvers<void>()
    const { provider, calls } = script(
      () => answer('old'),
      () => gate.promise
    )
    const cache = createCache()
    const cached = withCache(cache, { origin: 'test' })(provider)
    const options = { cache: { tags: ['x'] } }
    const before = gather(cached(ask(), options))
    await delay(1)
    await cache.invalidate({ tags: ['x'] })
    const after = gather(cached(ask(), options))
    gate.resolve()
    await Promise.all([before, after])
    expect(calls).toHaveLength(2) // the second one did not join the first
    expect(cacheNote(await gather(cached(ask(), options)))?.state).toBe('hit')
    expect(cache.stats()).toMatchObject({ stored: 1, notStored: 1 })
  })

  it('lets those who ask join a running call, whatever else is forgotten meanwhile, but for its groups and theirs', async () => {
    const gate = Promise.withResolvers<void>()
    const cache = createCache()
    let computed = 0
    const get = (tags: readonly string[]): Promise<number> =>
      cache.wrap(
        'k',
        async () => {
          const number = ++computed
          await gate.promise
          return number
        },
        { tags }
      )
    const first = [get(['x'])]
    for (let n = 0; n < 50; n++) {
      await cache.invalidate({ tags: [`other ${n}`] })
      first.push(get(['x']), get([`later ${n}`]))
    }
    expect(computed).toBe(1)
    await cache.invalidate({ tags: ['y'] })
    first.push(get(['x']))
    const second = [get(['y'])] // of what was forgotten, as it sees it
    await cache.invalidate({ tags: ['y'] })
    const third = [get(['x']), get([])] // joining the second one would be wrong for its tag
    await tick()
    expect(computed).toBe(3)
    gate.resolve()
    expect(new Set(await Promise.all(first))).toEqual(new Set([1]))
    expect(await Promise.all(second)).toEqual([2])
    expect(await Promise.all(third)).toEqual([3, 3])
    expect(await get(['x'])).toBe(3)
  })

  it.each([
    ['having asked something else since', true],
    ['as their first question since', false]
  ])('keeps those who ask, %s, from joining a call that began before another process forgot it', async (_title, asksBetween) => {
    let at = 0
    const store = storeOf()
    const [one, two] = [0, 1].map(() => createCache({ store, scope: 's', now: () => at })) as [Cache, Cache]
    const gate = Promise.withResolvers<void>()
    let data = 'old'
    const get = (): Promise<string> =>
      one.wrap(
        'k',
        async () => {
          const read = data
          await gate.promise
          return read
        },
        { tags: ['x'] }
      )
    const before = get()
    await delay(5)
    data = 'new'
    await two.invalidate({ tags: ['x'] })
    at += 1000
    if (asksBetween) await one.wrap('something else', async () => 1, { tags: ['x'] })
    const after = get()
    await delay(5)
    gate.resolve()
    expect([await before, await after]).toEqual(['old', 'new'])
    expect(await get()).toBe('new')
    expect(one.stats()).toMatchObject({ joined: 0, hits: 1 })
  })

  it('reaches another process over the store within a second, also for what that one has in memory', async () => {
    const store = storeOf()
    const [one, two] = [replica({ store, scope: 's' }), replica({ store, scope: 's' })]
    await one.get('q', { tags: ['x'] })
    await delay(5)
    expect(await two.get('q')).toBe('hit')
    expect(await two.get('q')).toBe('hit')
    await one.cache.invalidate({ tags: ['x'] })
    expect(await one.get('q')).toBe('miss')
    await delay(1050)
    // What one has fetched since carries no tag; two reads that from the store instead of its own.
    expect(await two.get('q')).toBe('hit')
    expect(two.calls).toHaveLength(0)
    expect(two.cache.peek('nothing')).toBeUndefined()
    await one.cache.clear()
    await delay(1050)
    expect(await two.get('q')).toBe('miss')
  })

  it('costs a command a group over 100,000 entries, and leaves the keys of others alone', async () => {
    const theirs = new Map([['theirs', 'x']])
    const store = storeOf(theirs)
    const { cache, get } = replica({ store, scope: 's', maxEntries: 10 })
    for (let n = 0; n < 20; n++) await get(`q${n}`, { tags: ['x'] })
    await delay(10)
    for (let n = 0; n < 100_000; n++) store.entries.set(`cache:e:other${n}`, 'x')
    store.calls = 0
    await cache.invalidate({ tags: ['x'] })
    expect(store.calls).toBe(3) // looked at, deleted, and looked at again
    expect(await get('q1', { tags: ['x'] })).toBe('miss')
    await cache.clear()
    expect(store.entries.get('theirs')).toBe('x')
  })

  it('does not bring back what was forgotten when the store loses a word', async () => {
    const store = storeOf()
    const one = replica({ store, scope: 's', maxBytes: 0 })
    await one.get('q', { tags: ['x'] })
    await delay(5)
    for (const key of store.entries.keys()) if (key.startsWith('cache:g:')) store.entries.delete(key)
    const two = replica({ store, scope: 's', maxBytes: 0 })
    expect(await two.get('q', { tags: ['x'] })).toBe('miss')
    await delay(5)
    expect(await two.get('q', { tags: ['x'] })).toBe('hit')
  })

  it('says so when the store did not take it, and forgets here all the same', async () => {
    const store = storeOf()
    const { cache, get } = replica({ store, scope: 's' })
    await get('q', { tags: ['x'] })
    store.down = true
    const error = await cache.invalidate({ tags: ['x'] }).catch((thrown: unknown) => thrown)
    expect(isMillraceError(error, 'unavailable')).toBe(true)
    expect(await get('q')).toBe('miss')
    expect(isMillraceError(await cache.clear().catch((thrown: unknown) => thrown), 'unavailable')).toBe(true)
  })

  it('shows no tag, tenant or scope in the store', async () => {
    const store = storeOf()
    const { cache, get } = replica({ store, scope: 'canary-scope' })
    await get('canary-prompt', { tenant: 'canary-tenant', tags: ['canary-tag'] })
    await cache.close()
    expect(store.entries.size).toBe(5)
    expect([...store.entries].flat().join('\n')).not.toContain('canary')
  })

  it('stays right after more groups were forgotten than it keeps in mind', async () => {
    const { cache, get } = replica()
    await get('q', { tags: ['x'] })
    await get('other', { tags: ['y'] })
    await cache.invalidate({ tags: ['x'] })
    await cache.invalidate({ tags: Array.from({ length: 20_000 }, (_, n) => `t${n}`) })
    expect(await get('q', { tags: ['x'] })).toBe('miss')
    expect(await get('q', { tags: ['x'] })).toBe('hit')
  })

  it('reaches what another process has in memory alone, because the store was out when it came', async () => {
    const store = storeOf()
    let at = 0
    const out = createCache({ store, scope: 's', now: () => at })
    const well = createCache({ store, scope: 's', now: () => at })
    const get = (cache: Cache, value: string): Promise<string> => cache.wrap('k', async () => value)
    store.down = true
    expect(await get(out, 'old')).toBe('old')
    store.down = false
    expect(await get(well, 'old')).toBe('old')
    await well.clear()
    await delay(500) // it asks after the store in its own time
    at += 1000
    expect(await get(out, 'new')).toBe('new')
  })

  it('reaches an answer that came after it and was begun before it, in another process', async () => {
    const store = storeOf()
    let at = 0
    const [one, two] = [0, 1].map(() => createCache({ store, scope: 's', now: () => at })) as [Cache, Cache]
    const gate = Promise.withResolvers<string>()
    const slow = one.wrap('k', () => gate.promise)
    await delay(5)
    at += 1000
    await two.clear()
    at += 3000
    gate.resolve('old')
    expect(await slow).toBe('old')
    expect(await one.wrap('k', async () => 'new')).toBe('new')
  })
})
