import { setTimeout as delay } from 'node:timers/promises'
import { collect, isMillraceError } from '@millrace/core'
import { Keyv } from 'keyv'
import { describe, expect, it, vi } from 'vitest'
import { type Cache, type CacheOptions, createCache, type Store, withCache } from '../src/index.ts'
import { until } from './redis-rig.ts'
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
      const { store, map } = make()
      const one = replica(store)
      const two = replica(store)
      expect(await one.state()).toBe('miss')
      await one.cache.close()
      const get = vi.spyOn(map, 'get')
      expect(await Promise.all([two.state(), two.state(), two.state()])).toEqual(['hit', 'hit', 'hit'])
      const read = get.mock.calls.map(([key]) => key)
      expect(read.filter((key) => key.includes('cache:e:'))).toHaveLength(1)
      expect(read.filter((key) => key.includes('cache:g:'))).toHaveLength(2) // the words of all, and of the scope
      expect(await two.state()).toBe('hit')
      expect(get).toHaveBeenCalledTimes(3)
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

describe('a process whose clock is behind', () => {
  it('misses what comes from the future, and leaves it there for the others', async () => {
    const map = new Map<string, string>()
    const writer = replica(map as Store)
    await writer.state()
    await writer.cache.close()
    const entry = [...map.keys()].find((key) => key.startsWith('cache:e:')) as string
    const text = map.get(entry)
    const wall = vi.spyOn(Date, 'now').mockReturnValue(Date.now() - 61_000)
    const late = createCache({ store: map as Store, scope: 'shared' })
    try {
      const cached = withCache(late, { origin: 'test' })(script(() => answer('a b')).provider)
      expect(cacheNote(await gather(cached(ask(), { cache: { noStore: true } })))?.state).toBe('miss')
      await delay(5)
    } finally {
      wall.mockRestore()
    }
    expect(map.get(entry)).toBe(text)
    expect(late.stats().corrupt).toBe(0)
    expect(await replica(map as Store).state()).toBe('hit')
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
    it(`that ${name} fails no call, and is asked by three of them at most`, async () => {
      const errors: unknown[] = []
      const asked: string[] = []
      const method =
        (called: string) =>
        (about: unknown): unknown => {
          if (about !== 'millrace:probe') asked.push(called) // that one is asked in the background
          return fail()
        }
      const store = { get: method('get'), getMany: method('getMany'), set: method('set'), delete: method('delete') }
      const { cache, state } = replica(store, { storeTimeoutMs: 20, onStoreError: (error) => errors.push(error) })
      let callsThatAsked = 0
      for (let call = 0; call < 30; call++) {
        const before = asked.length
        expect(await state(`question ${call}`)).toBe('miss')
        if (asked.length > before) callsThatAsked++
      }
      expect(callsThatAsked).toBeLessThanOrEqual(3)
      expect(asked).not.toContain('set') // the word it would be kept under is not known
      expect(cache.stats()).toMatchObject({ misses: 30, stored: 30, notStored: 0, storeErrors: errors.length, corrupt: 0 })
      expect(await state('question 0')).toBe('hit') // what came meanwhile is in memory
      await cache.close()
    })
  }

  it('is waited for once a call, and then no more', async () => {
    const storeTimeoutMs = 200
    const slow: Store[] = [
      { get: never, set: never, delete: never },
      { get: never, getMany: never, set: never, delete: never },
      { get: () => undefined, getMany: (keys) => keys.map(() => undefined), set: never, delete: never }
    ]
    for (const store of slow) {
      const { cache, state } = replica(store, { storeTimeoutMs })
      const takes: number[] = []
      const late: Promise<number>[] = []
      for (let call = 0; call < 10; call++) {
        const at = performance.now()
        // From the same moment on, under the same load.
        const bare = delay(storeTimeoutMs).then(() => performance.now() - at)
        expect(await state(`question ${call}`)).toBe('miss')
        const ms = performance.now() - at
        takes.push(ms)
        late.push(bare.then((bareMs) => ms - bareMs))
      }
      expect(Math.max(...(await Promise.all(late)))).toBeLessThan(100)
      expect(takes.filter((ms) => ms > storeTimeoutMs / 2).length).toBeLessThanOrEqual(3)
      await cache.close()
    }
  })

  it('is used again within two seconds of its return', async () => {
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
    const { cache, state } = replica(store)
    for (let call = 0; call < 5; call++) await state(`question ${call}`)
    down = false
    await state('too early')
    expect(map.size).toBe(0)
    const at = performance.now()
    await until(async () => {
      const question = `${Math.random()}`
      await state(question)
      await delay(5)
      return (await replica(store).state(question)) === 'hit'
    })
    expect(performance.now() - at).toBeLessThan(2000)
    expect(await replica(store).state('too early')).toBe('miss') // what was answered without the store stays in memory
    expect(await state('too early')).toBe('hit')
    expect(cache.stats().storeErrors).toBeLessThan(10)
    await cache.close()
  })

  it('costs no answer when it fails once', async () => {
    const map = new Map<string, string>()
    let failures = 1
    const store: Store = {
      get: (key) => (failures-- > 0 ? rejects() : map.get(key)),
      set: (key, value) => map.set(key, value),
      delete: (key) => map.delete(key)
    }
    const { cache, state } = replica(store)
    expect([await state('a'), await state('b')]).toEqual(['miss', 'miss'])
    await cache.close()
    const other = replica(store)
    expect([await other.state('a'), await other.state('b')]).toEqual(['hit', 'hit'])
    expect(cache.stats()).toMatchObject({ stored: 2, storeErrors: 1, storeSkipped: 0 })
  })

  it('is counted when it answers a write with false, and so is a listener that throws', async () => {
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
    // The write and the listener; the text it read was foreign.
    expect(cache.stats()).toMatchObject({ storeErrors: 2, writesRefused: 1, corrupt: 1 })
  })

  it('is told to a listener that may also be async and reject: it is counted, and nobody is left with it', async () => {
    const unhandled: unknown[] = []
    const note = (error: unknown): void => void unhandled.push(error)
    process.on('unhandledRejection', note)
    try {
      const { cache, state } = replica(
        { get: rejects, set: rejects, delete: rejects },
        { onStoreError: (async () => Promise.reject(new Error('the logger is down'))) as never }
      )
      expect(await state()).toBe('miss')
      await delay(5)
      expect(unhandled).toEqual([])
      const { storeErrors } = cache.stats()
      expect(storeErrors).toBeGreaterThan(0)
      expect(storeErrors % 2).toBe(0) // each failure, and the listener's each time
      await cache.close()
    } finally {
      process.off('unhandledRejection', note)
    }
  })

  it('is not waited for by one who aborts', async () => {
    const { promise: asked, resolve: wasAsked } = Promise.withResolvers<void>()
    const store: Store = {
      get() {
        wasAsked()
        return never()
      },
      set: never,
      delete: never
    }
    const cache = createCache({ store, scope: 's', storeTimeoutMs: 10_000 })
    const controller = new AbortController()
    const at = performance.now()
    const waiting = cache.wrap('k', async () => 1, { signal: controller.signal })
    await asked
    controller.abort('enough')
    await expect(waiting).rejects.toBe('enough')
    expect(performance.now() - at).toBeLessThan(5000)
  })

  it('makes clear() and invalidate() reject when it still has what it says it deleted, whoever wrote that', async () => {
    const map = new Map<string, string>()
    const wrote = replica(map as Store)
    await wrote.state()
    await wrote.cache.close()
    // As a Keyv does over an adapter whose delete fails: it tells a listener, and answers false.
    const store: Store = { get: (key) => map.get(key), set: (key, value) => map.set(key, value), delete: async () => false }
    const user = replica(store)
    expect(await user.state()).toBe('hit')
    const stranger = replica(store) // has read nothing yet, as the process of a webhook
    for (const { cache } of [user, stranger]) {
      expect(isMillraceError(await failure(cache.clear()), 'unavailable')).toBe(true)
      expect(isMillraceError(await failure(cache.invalidate({ scope: 'shared' })), 'unavailable')).toBe(true)
      expect(cache.stats().entries).toBe(0)
    }
    await stranger.cache.invalidate({ tags: ['never used'] }) // there was nothing to delete
  })

  it('is asked and written for what the caller asked, even when it changes its request meanwhile', async () => {
    const { provider, calls } = script((_call, request) => answer(`to ${request.messages.length}`))
    const map = new Map<string, string>()
    const store: Store = {
      get: async (key) => {
        await delay(5)
        return map.get(key)
      },
      set: async (key, value) => {
        await delay(5)
        map.set(key, value)
      },
      delete: (key) => map.delete(key)
    }
    const cache = createCache({ store, scope: 's', storeTimeoutMs: 5000 })
    const cached = withCache(cache, { origin: 'test' })(provider)
    const request = { model: 'm', messages: [{ role: 'user' as const, content: 'x' }] }
    const pending = collect(cached(request, {}))
    request.messages.push({ role: 'user', content: 'y' })
    expect((await pending).text).toBe('to 1')
    await cache.close()
    const other = withCache(createCache({ store, scope: 's', storeTimeoutMs: 5000 }), { origin: 'test' })(provider)
    expect((await collect(other(ask('x'), {}))).text).toBe('to 1')
    expect(calls).toHaveLength(1)
    expect((await collect(other(request, {}))).text).toBe('to 2')
  })

  it('gets no entry of an answer that is too large', async () => {
    const map = new Map<string, string>()
    const cache = createCache({ store: map, scope: 's', maxEntryBytes: 3000 })
    for (const length of [500, 3000]) {
      const { provider } = script(() => [start, { type: 'text', text: 'x'.repeat(length) }, { type: 'finish', reason: 'stop' }])
      await collect(withCache(cache, { origin: 'test' })(provider)(ask(`${length}`), {}))
    }
    await cache.close()
    expect([...map.keys()].filter((key) => key.startsWith('cache:e:'))).toHaveLength(1)
  })
})

async function failure(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => undefined,
    (error: unknown) => error
  )
}
