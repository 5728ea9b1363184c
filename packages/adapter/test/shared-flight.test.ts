import { setTimeout as delay } from 'node:timers/promises'
import { type Cache, type CacheOptions, createCache, type Store, withCache } from '@millrace/cache'
import { createRedis, type RedisStore } from '@millrace/cache/redis'
import { type Chunk, collect, type Provider, pipe } from '@millrace/core'
import { createRedisLog, type RedisLog } from '@millrace/streaming/redis'
import { type RedisServer, requireRedis } from '@millrace/testkit'
import { afterAll, afterEach, describe, expect, it } from 'vitest'

const { server: redis, skip } = await requireRedis()

const ends: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end()
})
afterAll(() => redis?.stop())

/** What a process has of its own, several times in this one. */
interface Member {
  readonly cache: Cache
  readonly store: RedisStore
  readonly log: RedisLog
}

let scopes = 0

/** So many processes over one Redis; no test finds another's answers. */
async function members(count: number, wrapStore: (store: RedisStore, at: number) => Store = (store) => store): Promise<Member[]> {
  const scope = `${++scopes}`
  const options: CacheOptions = { scope, namespace: `n${scope}`, leaseMs: 2000, storeTimeoutMs: 5000 }
  return Promise.all(
    Array.from({ length: count }, async (_, at) => {
      const store = createRedis({ url: (redis as RedisServer).url, commandTimeoutMs: 5000 })
      const log = createRedisLog({ command: store.command })
      const cache = createCache({ ...options, store: wrapStore(store, at), log })
      ends.push(async () => {
        await cache.close()
        await log.close()
        await store.close()
      })
      await until(() => store.ready)
      return { cache, store, log }
    })
  )
}

async function until(condition: () => boolean | Promise<boolean>, withinMs = 10_000): Promise<void> {
  const end = performance.now() + withinMs
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`not within ${withinMs} ms: ${condition.toString()}`)
    await delay(5)
  }
}

const leases = async ({ store }: Member): Promise<string[]> => (await store.command(['KEYS', `*n${scopes}:l:*`])) as string[]

const request = { model: 'm', messages: [{ role: 'user' as const, content: 'Hello' }] }
const start = (id: string): Chunk => ({ type: 'start', provider: 'test', model: 'm-1', id })
const text = (words: string): Chunk => ({ type: 'text', text: words })
const finish: Chunk = { type: 'finish', reason: 'stop' }

const through = ({ cache }: Member, provider: Provider): Provider => pipe(provider, withCache(cache, { origin: 'test' }))

async function gather(stream: AsyncIterable<Chunk>): Promise<Chunk[]> {
  const chunks: Chunk[] = []
  for await (const chunk of stream) chunks.push(chunk)
  return chunks
}

/** A computation that reads `data.now` when it begins, and gives that when it is let go. */
function work(data: { now: string }): {
  compute(): Promise<string>
  readonly calls: () => number
  readonly go: () => void
} {
  const gate = Promise.withResolvers<void>()
  let calls = 0
  return {
    async compute() {
      calls++
      const read = data.now
      await gate.promise
      return read
    },
    calls: () => calls,
    go: gate.resolve
  }
}

describe.skipIf(skip !== undefined)('a lease', () => {
  /** What it does between its question for the lease and the answer, or between that and the call. */
  const moments: readonly [string, (name: string, key: string, taken: boolean) => boolean][] = [
    ['while the lease is taken', (name, key) => name === 'command' && key.includes("'INCR'")],
    ['while the store is looked at under the lease', (name, key, taken) => name === 'get' && key.includes(':e:') && taken]
  ]

  it.each(moments)('is given back by one who aborts %s', async (_name, isMoment) => {
    const reached = Promise.withResolvers<void>()
    const gate = Promise.withResolvers<void>()
    let taken = false
    let held = false
    /** Redis has done it, and we have not heard of it yet. */
    async function hold<T>(name: string, key: string, done: T): Promise<T> {
      if (!held && isMoment(name, key, taken)) {
        held = true
        reached.resolve()
        await gate.promise
      }
      if (key.includes("'INCR'")) taken = true
      return done
    }
    const [one, two] = (await members(2, (store, at) =>
      at === 0
        ? {
            prefix: store.prefix,
            get: async (key) => hold('get', key, await store.get(key)),
            set: store.set,
            delete: store.delete,
            command: async (args) => hold('command', args[1] ?? '', await store.command(args))
          }
        : store
    )) as [Member, Member]
    const controller = new AbortController()
    let computed = 0
    const asked = one.cache.wrap('k', async () => ++computed, { signal: controller.signal })
    await reached.promise
    expect(await leases(two)).toHaveLength(1)
    controller.abort('enough')
    await expect(asked).rejects.toBe('enough')
    gate.resolve()
    await until(async () => (await leases(two)).length === 0, 1800) // before it would run out by itself
    expect(await two.cache.wrap('k', async () => 'answered')).toBe('answered')
    expect(await one.cache.wrap('k', async () => 'never computed')).toBe('answered')
    expect(computed).toBe(0)
  })

  it('stays with a call that outlives its cache, until those who follow it have all of it', async () => {
    const [one, two] = (await members(2)) as [Member, Member]
    const gate = Promise.withResolvers<void>()
    let calls = 0
    async function* provider(): AsyncGenerator<Chunk, void, undefined> {
      yield start(`call-${++calls}`)
      yield text('one ')
      await gate.promise
      yield text('two')
      yield finish
    }
    const leading = collect(through(one, provider)(request, {}))
    await until(() => calls === 1)
    const following = through(two, provider)(request, {})[Symbol.asyncIterator]()
    const first = [await following.next(), await following.next(), await following.next()].map(({ value }) => value as Chunk)
    await one.cache.close()
    await delay(2500) // longer than a lease lasts that nobody renews
    gate.resolve()
    const rest = await gather({ [Symbol.asyncIterator]: () => following })
    expect(
      (
        await collect(
          (async function* () {
            yield* [...first, ...rest]
          })()
        )
      ).text
    ).toBe('one two')
    expect((await leading).text).toBe('one two')
    expect(calls).toBe(1)
    await until(async () => (await leases(two)).length === 0, 1800)
  })
})

describe.skipIf(skip !== undefined)('a call under way elsewhere that began before an invalidation', () => {
  it('is not followed afterwards: whoever asks calls for itself, and its answer is what stays', async () => {
    const [one, two, three] = (await members(3)) as [Member, Member, Member]
    const data = { now: 'old' }
    const old = work(data)
    const tags = ['document']
    const before = two.cache.wrap('k', old.compute, { tags })
    await until(() => old.calls() === 1)
    // Somebody who asked before may have what was before.
    const follower = three.cache.wrap('k', old.compute, { tags })
    await delay(100)
    data.now = 'new'
    await one.cache.invalidate({ tags })
    expect(await one.cache.wrap('k', async () => data.now, { tags })).toBe('new')
    expect(await one.cache.wrap('k', async () => 'never computed', { tags })).toBe('new')
    old.go()
    expect(await before).toBe('old')
    expect(['old', 'new']).toContain(await follower)
    await delay(1100)
    // The deposed one has written over nothing, and none has kept what it had.
    for (const { cache } of [one, two, three]) expect(await cache.wrap('k', async () => 'never computed', { tags })).toBe('new')
    expect(old.calls()).toBe(1)
    expect(await leases(one)).toEqual([])
  })

  it('is followed where something else was forgotten, and kept by those alone whose groups it knows', async () => {
    const [one, two] = (await members(2)) as [Member, Member]
    const running = work({ now: 'answer' })
    const leading = two.cache.wrap('k', running.compute, { tags: ['a'] })
    await until(() => running.calls() === 1)
    await one.cache.invalidate({ tags: ['b'] })
    const following = one.cache.wrap('k', running.compute, { tags: ['b'] })
    await delay(100)
    running.go()
    expect(await Promise.all([leading, following])).toEqual(['answer', 'answer'])
    expect(running.calls()).toBe(1)
    expect(one.cache.stats()).toMatchObject({ joined: 1, misses: 0, stored: 0, notStored: 1 })
  })
})

describe.skipIf(skip !== undefined)('a follower', () => {
  it('hears nothing of a call that is given up before its first content, but one whole answer of its own', async () => {
    const [one, two] = (await members(2)) as [Member, Member]
    const gate = Promise.withResolvers<void>()
    let calls = 0
    async function* provider(): AsyncGenerator<Chunk, void, undefined> {
      const call = ++calls
      yield start(`call-${call}`)
      if (call === 1) {
        await gate.promise
        throw new Error('not one of ours')
      }
      yield text('hello')
      yield finish
    }
    const leading = gather(through(one, provider)(request, {})).catch((error: Error) => error.message)
    await until(() => calls === 1)
    const following = gather(through(two, provider)(request, {}))
    await delay(300) // the start of the first call is in the log
    gate.resolve()
    expect(await leading).toBe('not one of ours')
    const chunks = await following
    expect(chunks.map(({ type }) => type)).toEqual(['start', 'note', 'text', 'finish'])
    expect(chunks[0]).toMatchObject({ id: 'call-2' })
    expect(calls).toBe(2)
    expect(two.cache.stats()).toMatchObject({ stored: 1, notStored: 0 })
  })

  it('gets the status of the answer that it gets, where its leader dies behind a head', async () => {
    const [one, two] = (await members(2)) as [Member, Member]
    const controller = new AbortController()
    let calls = 0
    const upstream = (async (_url, init) => {
      if (++calls > 1) return Response.json({ error: { message: 'out of order' } }, { status: 500 })
      const stopped = new Promise((_resolve, reject) => init?.signal?.addEventListener('abort', reject))
      stopped.catch(() => {})
      return new Response(new ReadableStream({ pull: () => stopped as Promise<void> }), {
        headers: { 'content-type': 'application/json' }
      })
    }) as typeof fetch
    const post = { method: 'POST', body: JSON.stringify(request) }
    const url = 'https://api.example.com/v1/chat/completions'
    const leading = one.cache
      .fetch(upstream)(url, { ...post, signal: controller.signal })
      .catch((error: unknown) => error)
    await until(() => calls === 1)
    const following = two.cache.fetch(upstream)(url, post)
    await delay(300) // the head is in the log
    for (const lease of await leases(two)) await two.store.command(['DEL', lease]) // it has run out, as of a process that was killed
    const response = await following
    expect([response.status, await response.json()]).toEqual([500, { error: { message: 'out of order' } }])
    expect(calls).toBe(2)
    controller.abort()
    await leading
  })

  it('leads no more, and keeps nothing, once a refresh in another process has taken its place', async () => {
    const [one, two, three] = (await members(3)) as [Member, Member, Member]
    const data = { now: 'old' }
    const old = work(data)
    const before = one.cache.wrap('k', old.compute)
    await until(() => old.calls() === 1)
    data.now = 'new'
    expect(await two.cache.wrap('k', async () => data.now, { refresh: true })).toBe('new')
    old.go()
    expect(await before).toBe('old')
    await until(async () => (await leases(one)).length === 0)
    expect(await three.cache.wrap('k', async () => 'never computed')).toBe('new')
  })
})
