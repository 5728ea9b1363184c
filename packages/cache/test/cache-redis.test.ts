import { setTimeout as delay, setImmediate as tick } from 'node:timers/promises'
import { inspect } from 'node:util'
import KeyvRedis from '@keyv/redis'
import { probeLeaks } from '@millrace/testkit'
import { Keyv } from 'keyv'
import { afterEach, describe, expect, it } from 'vitest'
import { type Cache, type CacheOptions, createCache, type Store, withCache } from '../src/index.ts'
import { createRedis } from '../src/redis.ts'
import { startRedisProxy } from './redis-proxy.ts'
import { missingRedis, redisRig, until } from './redis-rig.ts'
import { redisStates, setScene } from './redis-states.ts'
import { answer, ask, cacheNote, gather, script, textOf } from './scripted.ts'

const skip = await missingRedis()
const rig = redisRig()
afterEach(() => rig.close())

/** A cache of its own, as another process would have it, asked through one door or the other. Patient unless told otherwise. */
interface Replica {
  readonly cache: Cache
  /** Asks, and gives what the cache did; fails when the answer is not the one to this question. */
  chat(question: string, tenant?: string): Promise<unknown>
  wrap(question: string): Promise<unknown>
  /** How often the upstream was asked. */
  readonly calls: number
}

const doors = ['chat', 'wrap'] as const

function replica(options: CacheOptions): Replica {
  const { provider, calls } = script((call, { messages }) =>
    answer(`${messages[0]?.content as string} ${calls[call]?.options.tenant ?? ''}`)
  )
  const cache = rig.owns(createCache({ scope: 'shared', storeTimeoutMs: 5000, ...options }))
  const cached = withCache(cache, { origin: 'test', credential: 'canary-credential' })(provider)
  let computed = 0
  return {
    cache,
    async chat(question, tenant) {
      const chunks = await gather(cached(ask(question), { tenant }))
      if (textOf(chunks) !== `${question} ${tenant ?? ''}`) throw new Error(`${question} got the answer ${textOf(chunks)}`)
      return cacheNote(chunks)?.state
    },
    async wrap(question) {
      const before = computed
      const value = await cache.wrap(question, async () => {
        computed++
        return { to: question }
      })
      if (value.to !== question) throw new Error(`${question} got the answer ${value.to}`)
      return computed === before ? 'hit' : 'miss'
    },
    get calls() {
      return calls.length + computed
    }
  }
}

async function timed(work: Promise<unknown>): Promise<number> {
  const at = performance.now()
  await work
  return performance.now() - at
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0

describe.skipIf(skip)('a cache over a Redis', () => {
  const timeoutMs = 50
  const rounds = 200

  for (const state of redisStates) {
    it(`${state.name} answers every call, at most five of them a deadline later`, { timeout: 30_000 }, async () => {
      const unhandled = rig.unhandled()
      const scene = await setScene(rig)
      const earlier = replica({ store: scene.admin })
      for (const door of doors) expect(await earlier[door]('there')).toBe('miss')
      await earlier.cache.close()

      let end: (() => unknown) | undefined
      if (state.fromStart) end = await state.begin(scene)
      const errors: unknown[] = []
      const onStoreError = (error: unknown): void => void errors.push(error)
      // A process for each way to ask, so that each finds out for itself; and one without a store, for what this machine takes.
      const stores = { chat: scene.open(state), wrap: scene.open(state) }
      const caches = {
        chat: replica({ store: stores.chat, storeTimeoutMs: timeoutMs, onStoreError }),
        wrap: replica({ store: stores.wrap, storeTimeoutMs: timeoutMs, onStoreError })
      }
      const alone = replica({})
      if (!state.fromStart) {
        await until(() => doors.every((door) => stores[door].ready))
        for (let n = 0; n < 20; n++) for (const door of doors) expect(await caches[door][door](`warm ${n}`)).toBe('miss')
        end = await state.begin(scene)
      }

      const reaches = state.reads === 'value' || state.writes === 'taken'
      const takes = { chat: [] as number[], wrap: [] as number[] }
      const bare: number[] = []
      const lateness: Promise<number>[] = []
      for (let n = 0; n < rounds; n++) {
        const question = n === 0 ? 'there' : `question ${n}`
        for (const door of doors) {
          // A timer of one deadline from the same moment on: what holds that one up is not the cache's fault.
          const limit = timed(delay(timeoutMs))
          const at = performance.now()
          const did = await caches[door][door](question)
          const ms = performance.now() - at
          takes[door].push(ms)
          lateness.push(limit.then((limitMs) => ms - limitMs))
          if (n > 0 || state.reads === 'nothing') expect(did).toBe('miss')
          bare.push(
            (await timed(alone[door](question))) + (reaches ? 2 * (await timed(stores[door].get('none').catch(() => {}))) : 0)
          )
        }
        await tick()
      }

      // One deadline, never two: the first calls would all be late. Two others a busy machine may hold up.
      expect((await Promise.all(lateness)).toSorted((a, b) => b - a)[2]).toBeLessThan(40)
      for (const door of doors) {
        // A Redis that answers is waited for as long as that takes on this machine; another one is given up.
        if (state.writes === 'lost') expect(takes[door].filter((ms) => ms > 40).length).toBeLessThanOrEqual(5)
        expect(median(takes[door])).toBeLessThan(median(bare) + 1)
        // What comes meanwhile is in memory, and counted.
        await until(async () => (await caches[door][door]('again')) === 'hit')
        const { misses, stored, notStored, storeErrors, storeSkipped, writesRefused } = caches[door].cache.stats()
        expect(misses).toBe(caches[door].calls)
        expect(stored + notStored).toBe(misses)
        // Groups whose words are gone are forgotten, with what is just being fetched.
        if (state.writes !== 'taken') expect(notStored).toBe(0)
        if (state.reads === 'value') expect(await replica({ store: stores[door] })[door]('there')).toBe('hit')
        if (state.writes !== 'taken') expect(storeErrors).toBeGreaterThan(0)
        if (state.writes === 'lost') expect(storeSkipped).toBeGreaterThan(0)
        if (state.writes === 'refused') expect(writesRefused + storeSkipped).toBeGreaterThan(0)
      }

      await end?.()
      const backAt = performance.now()
      for (const door of doors) {
        let n = 0
        await until(async () => {
          const question = `back ${n++}`
          await caches[door][door](question)
          await delay(5)
          const reader = replica({ store: stores[door] })
          const did = await reader[door](question)
          await reader.cache.close()
          return did === 'hit'
        })
      }
      expect(performance.now() - backAt).toBeLessThan(2000)
      for (const door of doors) await caches[door].cache.close()
      expect(unhandled).toEqual([])
      expect(inspect(errors, { depth: 9, showHidden: true })).not.toContain('canary')
    })
  }

  it('heals the word of a group that somebody overwrote', async () => {
    const { url } = await rig.server()
    const redis = await rig.opened(url)
    const one = replica({ store: redis })
    await one.chat('q')
    await one.cache.close()
    const words = (await redis.command(['KEYS', 'millrace::cache:g:*'])) as string[]
    expect(words).toHaveLength(2)
    for (const spoil of [(key: string) => ['LPUSH', key, 'x'], (key: string) => ['SET', key, 'no word of ours']]) {
      await redis.command(['DEL', ...words])
      for (const key of words) await redis.command(spoil(key))
      const two = replica({ store: redis })
      await until(async () => {
        const question = `${Math.random()}`
        await two.chat(question)
        await delay(5)
        return (await replica({ store: redis }).chat(question)) === 'hit'
      }, 2000)
    }
  })
})

describe.skipIf(skip)('processes that share a Redis', () => {
  it('serve what another one has fetched, also through a Keyv, and through the adapter that Keyv has', async () => {
    const { url } = await rig.server()
    const stores: [string, () => Promise<Store>][] = [
      ['createRedis', () => rig.opened(url)],
      ['a Keyv over it', async () => new Keyv({ store: (await rig.opened(url)) as never, namespace: 'k' })],
      ['a Keyv over KeyvRedis', async () => new Keyv({ store: keyvRedis(url), namespace: 'r' })]
    ]
    for (const [name, open] of stores) {
      const one = replica({ store: await open() })
      const two = replica({ store: await open() })
      for (const door of doors) expect(await one[door](name)).toBe('miss')
      await one.cache.close()
      for (const door of doors) expect(await two[door](name)).toBe('hit')
      expect(two.calls).toBe(0)
      expect(two.cache.stats()).toMatchObject({ storeErrors: 0, corrupt: 0 })
    }
  })

  it('answer every call over a Keyv of their own, though Keyv waits for ever for a Redis that is frozen', async () => {
    const server = await rig.server()
    const keyv = new Keyv({ store: keyvRedis(server.url) })
    const { cache, chat } = replica({ store: keyv, storeTimeoutMs: 50 })
    expect(await chat('there')).toBe('miss')
    server.pause()
    const takes: number[] = []
    for (let n = 0; n < 200; n++) takes.push(await timed(chat(`question ${n}`)))
    expect(takes.filter((ms) => ms > 40).length).toBeLessThanOrEqual(5)
    expect(cache.stats()).toMatchObject({ misses: 201, stored: 201 })
    server.resume()
    await until(async () => {
      const question = `${Math.random()}`
      await chat(question)
      await delay(5)
      return (await replica({ store: keyv }).chat(question)) === 'hit'
    })
  })

  it('leave nothing there of prompts, tenants, credentials and secrets, and give all of it a lifetime', async () => {
    const { url } = await rig.server()
    const redis = await rig.opened(url)
    const { provider, calls } = script(() => answer('a b'))
    const cache = rig.owns(createCache({ store: redis, secret: 'canary-secret-of-the-team' }))
    const cached = withCache(cache, { origin: 'https://canary.example', credential: 'canary-credential' })(provider)
    for (const tenant of ['canary-one', 'canary-two', 'canary-one']) {
      await gather(cached(ask('canary-prompt'), { tenant, cache: { tags: ['canary-tag'] } }))
      await cache.wrap({ canary: 'canary-key' }, async () => 'a value', { tenant })
    }
    expect(calls.map(({ options }) => options.tenant)).toEqual(['canary-one', 'canary-two'])
    await cache.close()
    const keys = (await redis.command(['KEYS', '*'])) as string[]
    const groups = keys.filter((key) => /^millrace::cache:g:[0-9a-f]{32}$/.test(key))
    const entries = keys.filter((key) => /^millrace::cache:e:[0-9a-f]{64}$/.test(key))
    expect([groups.length, entries.length, keys.length]).toEqual([6, 4, 10]) // all, two scopes (wrap has none), tenants, tag
    for (const key of keys) expect(await redis.command(['GET', key])).not.toContain('canary')
    for (const key of keys) expect(await redis.command(['PTTL', key])).toBeGreaterThan(30_000)
    for (const key of entries) expect(await redis.command(['PTTL', key])).toBeLessThanOrEqual(60_000)
  })

  it('forget together what one of them clears, and nothing that is not theirs', async () => {
    const { url } = await rig.server()
    const redis = await rig.opened(url)
    await redis.command(['SET', 'theirs', 'x'])
    const [one, two, other] = [
      replica({ store: redis }),
      replica({ store: await rig.opened(url) }),
      replica({ store: redis, namespace: 'other' })
    ]
    for (const door of doors) {
      for (const { [door]: asks } of [one, other]) await asks('q')
      await until(async () => (await two[door]('q')) === 'hit')
    }
    const before = await redis.command(['INFO', 'commandstats'])
    await one.cache.clear()
    const after = String(await redis.command(['INFO', 'commandstats']))
    expect(String(before) + after).not.toMatch(/cmdstat_(scan|keys|flushdb|flushall)/)
    for (const door of doors) expect(await one[door]('q')).toBe('miss')
    for (const door of doors) expect(await replica({ store: redis, namespace: 'other' })[door]('q')).toBe('hit')
    const upstream = two.calls
    await delay(1050) // a second for others to see it
    for (const door of doors) expect(await two[door]('q')).toBe('hit')
    expect(two.calls).toBe(upstream) // from what one has fetched since
    expect(await redis.command(['GET', 'theirs'])).toBe('x')
  })

  it('read Redis once, and call the upstream once, for 1,000 equal misses in one of them', async () => {
    const { url } = await rig.server()
    const redis = await rig.opened(url)
    const one = replica({ store: redis })
    await redis.command(['CONFIG', 'RESETSTAT'])
    expect(new Set(await Promise.all(Array.from({ length: 1000 }, () => one.chat('q'))))).toEqual(new Set(['miss', 'joined']))
    expect(one.calls).toBe(1)
    await one.cache.close()
    const two = replica({ store: redis })
    expect(new Set(await Promise.all(Array.from({ length: 1000 }, () => two.chat('q'))))).toEqual(new Set(['hit']))
    const stats = String(await redis.command(['INFO', 'commandstats']))
    expect(Number(/cmdstat_mget:calls=(\d+)/.exec(stats)?.[1])).toBeLessThanOrEqual(4) // each looks, and makes sure of its groups
    expect(two.calls).toBe(0)
  })

  it('never get the answer of another over a connection whose replies have shifted, and give that up', async () => {
    const { port, url } = await rig.server()
    const proxy = rig.owns(await startRedisProxy(port))
    const writer = replica({ store: await rig.opened(url) })
    const tenants = ['one', 'two']
    for (const tenant of tenants) for (const question of ['first', 'q']) await writer.chat(question, tenant)
    await writer.cache.close()
    const redis = await rig.opened(proxy.url, { commandTimeoutMs: 5000 })
    const { cache, chat } = replica({ store: redis })
    for (const tenant of tenants) expect(await chat('first', tenant)).toBe('hit')
    proxy.mischief = 'swallow'
    const one = chat('q', 'one')
    await until(() => proxy.mischief === 'none')
    // Its reply is the next that comes, and the one who waited before gets it. `chat` checks what each is answered with.
    const two = chat('q', 'two')
    expect(await Promise.all([one, two])).toEqual(['miss', 'miss'])
    expect(cache.stats()).toMatchObject({ corrupt: 1 })
    await until(() => redis.ready && redis.stats().connections === 2)
    await until(async () => (await replica({ store: redis }).chat('q', 'two')) === 'hit')
  })

  it('close within a deadline over a Redis that is frozen or gone, and leave nothing behind', async () => {
    const server = await rig.server()
    const leaks = probeLeaks()
    const redis = createRedis({ url: server.url })
    await until(() => redis.ready)
    const caches = Array.from({ length: 20 }, () => createCache({ store: redis, scope: 's' }))
    for (const [n, cache] of caches.entries()) await cache.wrap(n, async () => n)
    server.pause()
    await Promise.all(caches.slice(0, 10).map((cache, n) => cache.wrap(`more ${n}`, async () => n)))
    const bare = timed(delay(300))
    const closing = timed(Promise.all(caches.map((cache) => cache.close())))
    expect((await closing) - (await bare)).toBeLessThan(0)
    await redis.close()
    await leaks.check()

    const gone = createRedis({ url: server.url })
    await server.kill()
    const last = createCache({ store: gone, scope: 's' })
    expect(await last.wrap('q', async () => 7)).toBe(7)
    await Promise.all([last.close(), last.close()])
    await gone.close()
    await leaks.check()
  })
})

function keyvRedis(url: string): KeyvRedis<string> {
  const adapter = new KeyvRedis<string>(url)
  rig.owns({ close: () => adapter.disconnect(true) })
  return adapter
}
