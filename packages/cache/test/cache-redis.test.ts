import { createServer } from 'node:net'
import { setTimeout as delay, setImmediate as tick } from 'node:timers/promises'
import { inspect } from 'node:util'
import { collect, isMillraceError } from '@millrace/core'
import { type RedisServer, requireRedis, startRedis } from '@millrace/testkit'
import { Keyv } from 'keyv'
import { afterEach, describe, expect, it } from 'vitest'
import { type Cache, type CacheOptions, createCache, withCache } from '../src/index.ts'
import { createRedis, type RedisOptions, type RedisStore } from '../src/redis.ts'
import { answer, ask, cacheNote, gather, script } from './scripted.ts'

const found = await requireRedis()
await found.server?.stop()
const skip = found.skip !== undefined

const opened: { close(): Promise<unknown> }[] = []
afterEach(async () => {
  for (const each of opened.splice(0).toReversed()) await each.close()
})

async function server(options?: Parameters<typeof startRedis>[0]): Promise<RedisServer> {
  const started = await startRedis(options)
  if (started === undefined) throw new Error('Redis did not start a second time')
  opened.push({ close: () => started.stop() })
  return started
}

function door(url: string, options: Partial<RedisOptions> = {}): RedisStore {
  const redis = createRedis({ url, ...options })
  opened.push(redis)
  return redis
}

function replica(store: CacheOptions['store']): {
  cache: Cache
  state: (content?: string) => Promise<unknown>
  calls: unknown[]
} {
  const { provider, calls } = script(() => answer('a b'))
  const cache = createCache({ store, scope: 'shared' })
  opened.push(cache)
  const cached = withCache(cache, { origin: 'test' })(provider)
  return { cache, calls, state: async (content) => cacheNote(await gather(cached(ask(content), {})))?.state }
}

async function until(condition: () => boolean | Promise<boolean>, withinMs = 5000): Promise<void> {
  const end = performance.now() + withinMs
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`not within ${withinMs} ms: ${condition.toString()}`)
    await delay(5)
  }
}

/** Each of these calls must succeed; gives how long the slowest took beyond a bare timer, and how many waited at all. */
async function misses(count: number, call: (content: string) => Promise<unknown>): Promise<{ slowest: number; slow: number }> {
  const takes: number[] = []
  for (let n = 0; n < count; n++) {
    const at = performance.now()
    expect(await call(`question ${Math.random()}`)).toBe('miss')
    takes.push(performance.now() - at)
  }
  return { slowest: Math.max(...takes), slow: takes.filter((ms) => ms > 30).length }
}

describe('a cache over createRedis', () => {
  it('never hangs on a server that accepts and says nothing, and lets go of it on close', async () => {
    const sockets = new Set<import('node:net').Socket>()
    const silent = createServer((socket) => {
      sockets.add(socket)
      socket
        .resume()
        .on('close', () => sockets.delete(socket))
        .on('error', () => {})
    })
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
    const { port } = silent.address() as { port: number }
    const redis = door(`redis://:secret@127.0.0.1:${port}`, { connectTimeoutMs: 50 })
    const { state } = replica(redis)
    const { slow } = await misses(20, state)
    expect(slow).toBe(0)
    await until(() => redis.stats().connectionErrors >= 2)
    await redis.close()
    await until(() => sockets.size === 0)
    await new Promise((resolve) => silent.close(resolve))
    await expect(redis.get('k')).rejects.toSatisfy((error) => isMillraceError(error, 'closed'))
  })
})

describe.skipIf(skip)('a cache over a real Redis', () => {
  it('serves another process what one has fetched, directly and through a Keyv', async () => {
    const { url } = await server()
    for (const wrapped of [
      (store: RedisStore) => store,
      (store: RedisStore) => new Keyv({ store: store as never, namespace: 'k' })
    ]) {
      const stores = [door(url), door(url)] as const
      await until(() => stores.every((store) => store.ready))
      const one = replica(wrapped(stores[0]))
      const two = replica(wrapped(stores[1]))
      const question = wrapped.toString()
      expect(await one.state(question)).toBe('miss')
      await one.cache.close()
      expect(await two.state(question)).toBe('hit')
      expect(two.calls).toHaveLength(0)
      expect(two.cache.stats()).toMatchObject({ storeErrors: 0, corrupt: 0 })
    }
  })

  it('gives entries a lifetime on the server, keeps prompts out of it, and clears its own keys only', async () => {
    const { url } = await server()
    const redis = door(url)
    await until(() => redis.ready)
    await redis.command(['SET', 'theirs', 'x'])
    const { cache, state } = replica(redis)
    await state('canary-prompt')
    const keys = async (): Promise<string[]> => (await redis.command(['KEYS', '*'])) as string[]
    await until(async () => (await keys()).length === 3)
    for (const key of await keys()) {
      if (key === 'theirs') continue
      expect(key).toMatch(/^millrace::cache:(generation|[0-9a-f]{16}:[0-9a-f]{64})$/)
      const text = (await redis.command(['GET', key])) as string
      expect(text).not.toContain('canary')
      const ttl = (await redis.command(['PTTL', key])) as number
      if (key.endsWith('generation')) expect(ttl).toBe(-1)
      else expect(ttl).toBeGreaterThan(50_000)
    }
    await cache.clear()
    expect(await state('canary-prompt')).toBe('miss')
    expect(await redis.get('theirs')).toBeUndefined()
    expect(await redis.command(['GET', 'theirs'])).toBe('x')
    await redis.clear()
    expect(await keys()).toEqual(['theirs'])
  })

  it('makes one upstream call for 1,000 equal misses, and one read of Redis', async () => {
    const { url } = await server()
    const redis = door(url)
    await until(() => redis.ready)
    const { provider, calls: upstream } = script(() => answer('a b'))
    const cache = createCache({ store: redis, scope: 's' })
    opened.push(cache)
    const cached = withCache(cache, { origin: 'test' })(provider)
    const texts = await Promise.all(Array.from({ length: 1000 }, async () => (await collect(cached(ask(), {}))).text))
    expect(new Set(texts)).toEqual(new Set(['a b']))
    expect(upstream).toHaveLength(1)
  })

  it('works without a Redis from the start, and uses it within two seconds of its coming', async () => {
    const first = await server()
    await first.kill()
    const redis = door(first.url)
    const { cache, state } = replica(redis)
    expect((await misses(50, state)).slow).toBe(0)
    await server({ port: first.port })
    const cameAt = performance.now()
    await until(async () => {
      await state(`${Math.random()}`)
      const skipped = cache.stats().storeSkipped
      await state(`${Math.random()}`)
      return redis.ready && cache.stats().storeSkipped === skipped
    })
    expect(performance.now() - cameAt).toBeLessThan(2500)
  })

  it('survives a Redis that is killed in the middle and comes back', async () => {
    const first = await server()
    const redis = door(first.url)
    await until(() => redis.ready)
    const { cache, state } = replica(redis)
    await misses(5, state)
    await first.kill()
    expect((await misses(50, state)).slow).toBe(0)
    await server({ port: first.port })
    await until(async () => {
      await state(`${Math.random()}`)
      const skipped = cache.stats().storeSkipped
      await state(`${Math.random()}`)
      return redis.ready && cache.stats().storeSkipped === skipped
    })
    expect(redis.stats()).toMatchObject({ connections: 2 })
  })

  it('waits for a frozen Redis no longer than the deadline, three times, and uses it again when it wakes', async () => {
    const frozen = await server()
    const redis = door(frozen.url)
    await until(() => redis.ready)
    const { cache, state } = replica(redis)
    await misses(5, state)
    frozen.pause()
    const at = performance.now()
    await delay(50)
    const bare = performance.now() - at
    const { slow, slowest } = await misses(50, state)
    expect(slow).toBeLessThanOrEqual(5)
    expect(slowest).toBeLessThan(bare + 40)
    const loopAt = performance.now()
    await delay(1)
    expect(performance.now() - loopAt).toBeLessThan(50)
    await until(() => !redis.ready)
    frozen.resume()
    await until(async () => {
      await state(`${Math.random()}`)
      const skipped = cache.stats().storeSkipped
      await state(`${Math.random()}`)
      return redis.ready && cache.stats().storeSkipped === skipped
    })
  })

  it('counts what a Redis out of memory refuses, and goes on', async () => {
    const { url } = await server({ args: ['--maxmemory', '1', '--maxmemory-policy', 'noeviction'] })
    const redis = door(url)
    await until(() => redis.ready)
    const { cache, state } = replica(redis)
    await misses(10, state)
    expect(cache.stats().storeErrors).toBeGreaterThan(0)
    expect(cache.stats()).toMatchObject({ misses: 10, stored: 10 })
  })

  it('tries a wrong password again and again without telling it', async () => {
    const { url, port } = await server({ args: ['--requirepass', 'right'] })
    const wrong = door(`redis://:canary@127.0.0.1:${port}`)
    const right = door(url.replace('redis://', 'redis://:right@'))
    await until(() => wrong.stats().connectionErrors >= 2 && right.ready)
    expect((await misses(10, replica(wrong).state)).slow).toBe(0)
    expect(inspect(wrong, { depth: 9, showHidden: true })).not.toContain('canary')
    expect(await right.command(['PING'])).toBe('PONG')
  })

  it('leaves neither timers nor sockets behind, and closes twice', async () => {
    const { url } = await server()
    const count = (): number => process.getActiveResourcesInfo().filter((kind) => /TCPSocket|Timeout/.test(kind)).length
    const before = count()
    for (let round = 0; round < 20; round++) {
      const redis = createRedis({ url })
      await until(() => redis.ready)
      const cache = createCache({ store: redis, scope: 's' })
      await cache.wrap(round, async () => round)
      await cache.close()
      await Promise.all([redis.close(), redis.close()])
    }
    for (let turns = 0; turns < 10; turns++) {
      const early = createRedis({ url })
      for (let turn = 0; turn < turns; turn++) await tick()
      await early.close()
    }
    await until(() => count() <= before)
    const watcher = door(url)
    await until(() => watcher.ready)
    await until(
      async () =>
        String(await watcher.command(['CLIENT', 'LIST']))
          .trim()
          .split('\n').length === 1
    )
  })
})
