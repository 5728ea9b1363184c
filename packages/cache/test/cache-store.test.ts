import { setTimeout as delay } from 'node:timers/promises'
import { collect, isMillraceError } from '@millrace/core'
import { Keyv } from 'keyv'
import { describe, expect, it, vi } from 'vitest'
import { type Cache, type CacheOptions, createCache, type Store, withCache } from '../src/index.ts'
import { answer, ask, cacheNote, gather, script, start } from './scripted.ts'

/** Another process: a cache of its own over the same store. */
function replica(
  store: Store,
  options: CacheOptions = {}
): { cache: Cache; state: (content?: string) => Promise<unknown>; calls: unknown[] } {
  const { provider, calls } = script(() => answer('a b'))
  const cache = createCache({ store, scope: 'shared', ...options })
  const cached = withCache(cache, { origin: 'test' })(provider)
  return { cache, calls, state: async (content) => cacheNote(await gather(cached(ask(content), {})))?.state }
}

const stores: [string, () => { store: Store; map: Map<string, unknown> }][] = [
  ['new Keyv() over a Map', () => over((map) => new Keyv({ store: map }))],
  ['a Keyv with a namespace and no prefix', () => over((map) => new Keyv({ store: map, namespace: 'n', useKeyPrefix: false }))],
  ['a Map', () => over((map) => map)]
]
function over(make: (map: Map<string, unknown>) => Store): { store: Store; map: Map<string, unknown> } {
  const map = new Map<string, unknown>()
  return { store: make(map), map }
}

for (const [name, make] of stores) {
  describe(`a cache over ${name}`, () => {
    it('serves another process what one has fetched, and reads it once', async () => {
      const { store } = make()
      const one = replica(store)
      const two = replica(store)
      expect(await one.state()).toBe('miss')
      await one.cache.close()
      const get = vi.spyOn(store, 'get')
      expect(await Promise.all([two.state(), two.state(), two.state()])).toEqual(['hit', 'hit', 'hit'])
      expect(get).toHaveBeenCalledTimes(2) // the generation and the entry
      expect(await two.state()).toBe('hit')
      expect(get).toHaveBeenCalledTimes(2)
      expect(two.calls).toHaveLength(0)
      expect(two.cache.stats()).toMatchObject({ hits: 4, storeErrors: 0, corrupt: 0, entries: 1 })
    })

    it('clears its own namespace only, for all processes', async () => {
      const { store, map } = make()
      map.set('theirs', 'x')
      const one = replica(store)
      const two = replica(store)
      const other = replica(store, { namespace: 'other' })
      for (const each of [one, two, other]) await each.state()
      await delay(5)
      await one.cache.clear()
      expect(map.get('theirs')).toBe('x')
      expect(await one.state()).toBe('miss')
      const three = replica(store)
      await delay(5)
      expect(await three.state()).toBe('hit') // what one fetched after the clear
      expect(await replica(store, { namespace: 'other' }).state()).toBe('hit')
    })

    it('holds neither prompt nor scope nor tenant in a key', async () => {
      const { store, map } = make()
      const { cache, state } = replica(store, { scope: 'canary-scope' })
      await state('canary-prompt')
      await cache.close()
      expect(map.size).toBeGreaterThan(0)
      expect(JSON.stringify([...map.keys()])).not.toContain('canary')
      expect(JSON.stringify([...map])).not.toContain('canary-')
    })
  })
}

describe('entries that are not to be believed', () => {
  const isEntry = (key: string): boolean => /:[0-9a-f]{64}$/.test(key)

  async function filled(options: CacheOptions = {}): Promise<{ map: Map<string, string>; key: string; text: string }> {
    const map = new Map<string, string>()
    const { cache, state } = replica(map, options)
    await state()
    await cache.close()
    const [key, text] = [...map].find(([name]) => isEntry(name)) as [string, string]
    return { map, key, text }
  }

  it('treats 10,000 changed, cut, foreign, deep or oversized entries as misses, throws for none and deletes them', async () => {
    const { map, key, text } = await filled()
    const { cache, calls } = replica(map, { ttlMs: 1e-9 })
    const spoiled: unknown[] = [
      '',
      'x',
      '{}',
      'null',
      '[1]',
      '{"value":1}',
      `millrace0${text.slice(9)}`,
      1,
      {},
      [],
      true,
      Buffer.from(text),
      `${'['.repeat(100_000)}${']'.repeat(100_000)}`,
      'x'.repeat(9_000_000),
      text.replace('a b', 'a c'),
      `${text} `,
      `${text}\n`
    ]
    for (let cut = 0; cut < text.length; cut++) spoiled.push(text.slice(0, cut), text.slice(cut + 1))
    for (let at = 0; spoiled.length < 10_000; at = (at + 7) % text.length) {
      const code = text.charCodeAt(at) ^ (1 + (spoiled.length % 31))
      spoiled.push(text.slice(0, at) + String.fromCharCode(code) + text.slice(at + 1))
    }
    const { provider } = script(() => answer('fresh'))
    const cached = withCache(cache, { origin: 'test' })(provider)
    let served = 0
    for (const each of spoiled) {
      map.set(key, each as string)
      if ((await collect(cached(ask(), { cache: { noStore: true } }))).text !== 'fresh') served++
    }
    expect(served).toBe(0)
    expect(calls).toHaveLength(0)
    expect(cache.stats()).toMatchObject({ corrupt: spoiled.length, hits: 0 })
    expect(map.has(key)).toBe(false)
  })

  it('does not believe an entry that lies under the key of another', async () => {
    const { map, text } = await filled()
    const { state, cache } = replica(map)
    await state('another question')
    await cache.close()
    for (const key of map.keys()) if (isEntry(key)) map.set(key, text)
    expect(await replica(map as Store).state('another question')).toBe('miss')
  })

  it('with a secret, does not believe an entry that was sealed without it, or with another', async () => {
    const { map, key } = await filled({ secret: 'one secret of the team' })
    const plain = await filled()
    expect(await replica(map as Store, { secret: 'one secret of the team' }).state()).toBe('hit')
    map.set(key, plain.text)
    const reader = replica(map, { secret: 'one secret of the team' })
    expect(await reader.state()).toBe('miss')
    expect(reader.cache.stats().corrupt).toBe(1)
    expect(await replica(map as Store, { secret: 'another secret of a team' }).state()).toBe('miss')
  })

  it('serves no entry beyond its lifetime from a store that ignores lifetimes, nor one from the future', async () => {
    const { map } = await filled({ ttlMs: 60_000 })
    const wall = Date.now()
    const date = vi.spyOn(Date, 'now')
    try {
      for (const [ahead, state] of [
        [59_000, 'hit'],
        [60_100, 'miss'],
        [-30_000, 'hit'],
        [-3_600_000, 'miss']
      ] as const) {
        date.mockReturnValue(wall + ahead)
        expect(await replica(new Map(map) as Store).state()).toBe(state)
      }
    } finally {
      date.mockRestore()
    }
  })
})

describe('a store that fails', () => {
  const never = (): Promise<never> => new Promise(() => {})
  const rejects = (): Promise<never> => Promise.reject(new Error('down'))
  const throws = (): never => {
    throw new Error('down')
  }
  for (const [name, fail] of [
    ['hangs', never],
    ['rejects', rejects],
    ['throws', throws]
  ] as const) {
    it(`that ${name} fails no call, and is left alone after three failures`, async () => {
      const errors: unknown[] = []
      const get = vi.fn<() => unknown>(fail)
      const { cache, state } = replica(
        { get, set: fail, delete: fail },
        { storeTimeoutMs: 20, onStoreError: (error) => errors.push(error) }
      )
      for (let call = 0; call < 30; call++) expect(await state(`question ${call}`)).toBe('miss')
      expect(get.mock.calls.length).toBeLessThanOrEqual(4)
      expect(cache.stats()).toMatchObject({ misses: 30, stored: 30, storeErrors: errors.length })
      expect(cache.stats().storeSkipped).toBeGreaterThan(25)
      expect(errors.length).toBeGreaterThan(2)
      await cache.close()
    })
  }

  it('is waited for no longer than storeTimeoutMs, and not at all while it is left alone', async () => {
    const { cache, state } = replica({ get: never, set: never, delete: never }, { storeTimeoutMs: 60 })
    const bareAt = performance.now()
    await delay(60)
    const bare = performance.now() - bareAt
    const takes: number[] = []
    for (let call = 0; call < 10; call++) {
      const at = performance.now()
      await state(`question ${call}`)
      takes.push(performance.now() - at)
    }
    expect(Math.max(...takes)).toBeLessThan(bare + 40)
    expect(takes.filter((ms) => ms > 30).length).toBeLessThanOrEqual(3)
    await cache.close()
  })

  it('is used again after its return', async () => {
    let now = 0
    let down = true
    const map = new Map<string, string>()
    const gate = (): void => {
      if (down) throw new Error('down')
    }
    const store: Store = {
      get: (key) => (gate(), map.get(key)),
      set: (key, value) => (gate(), map.set(key, value)),
      delete: (key) => (gate(), map.delete(key))
    }
    const { cache, state } = replica(store, { now: () => now })
    for (let call = 0; call < 5; call++) await state(`question ${call}`)
    down = false
    await state('too early')
    expect(map.size).toBe(0)
    now = 1001
    await state('the probe goes out')
    await delay(5)
    await state('kept')
    await delay(5)
    expect(await replica(store).state('kept')).toBe('hit')
    expect(cache.stats().storeErrors).toBeLessThan(10)
  })

  it('counts a write that Keyv answers with false, and a listener that throws', async () => {
    const { cache, state } = replica(
      { get: () => 'aaaaaaaaaaaaaaaa', set: async () => false, delete: () => true },
      {
        onStoreError: () => {
          throw new Error('listener')
        }
      }
    )
    expect(await state()).toBe('miss')
    await cache.close()
    expect(cache.stats()).toMatchObject({ storeErrors: 2, corrupt: 1 }) // the write and the listener; the text it read was foreign
  })

  it('bounds the writes under way', async () => {
    const set = vi.fn<() => unknown>(never)
    const { cache, state } = replica({ get: () => 'aaaaaaaaaaaaaaaa', set, delete: () => true }, { storeTimeoutMs: 300 })
    await Promise.all(Array.from({ length: 200 }, (_, call) => state(`question ${call}`)))
    expect(set.mock.calls.length).toBe(64)
    expect(cache.stats().storeSkipped).toBeGreaterThanOrEqual(136)
    await cache.close()
  })

  it('makes clear() reject, with memory cleared all the same', async () => {
    const { cache, state } = replica({ get: rejects, set: rejects, delete: rejects })
    await state()
    expect(cache.stats().entries).toBe(1)
    await expect(cache.clear()).rejects.toSatisfy((error) => isMillraceError(error, 'unavailable'))
    expect(cache.stats().entries).toBe(0)
    const liar = replica({ get: () => undefined, set: () => true, delete: () => true })
    await expect(liar.cache.clear()).rejects.toSatisfy((error) => isMillraceError(error, 'unavailable'))
  })

  it('does not send what a caller changed while the store was asked under the key of what it was', async () => {
    const { provider } = script((_call, request) => answer(`to ${request.messages.length}`))
    const map = new Map<string, string>()
    const cached = withCache(createCache({ store: map, scope: 's' }), { origin: 'test' })(provider)
    const request = { model: 'm', messages: [{ role: 'user' as const, content: 'x' }] }
    const pending = gather(cached(request, {}))
    request.messages.push({ role: 'user', content: 'y' })
    expect(cacheNote(await pending)).toEqual({ state: 'bypass', reason: 'changed' })
    expect((await collect(cached(ask('x'), {}))).text).toBe('to 1')
  })

  it('gets no entry of an answer that is too large, and gives back none', async () => {
    const map = new Map<string, string>()
    const { provider } = script(() => [start, { type: 'text', text: 'x'.repeat(3000) }, { type: 'finish', reason: 'stop' }])
    const cache = createCache({ store: map, scope: 's', maxEntryBytes: 3000 })
    await collect(withCache(cache, { origin: 'test' })(provider)(ask(), {}))
    await cache.close()
    expect([...map.keys()].filter((key) => key.length > 64)).toEqual([])
  })
})
