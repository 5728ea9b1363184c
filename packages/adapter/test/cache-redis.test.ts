import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { inspect } from 'node:util'
import { type Adapter, createAdapter } from '@millrace/adapter'
import { openai } from '@millrace/adapter/openai'
import { type CacheOptions, type CacheStats, createCache } from '@millrace/cache'
import { createRedis, type RedisStore } from '@millrace/cache/redis'
import { createRedisLog } from '@millrace/streaming/redis'
import { requireRedis, type ScriptedProvider, startScriptedProvider } from '@millrace/testkit'
import { afterAll, afterEach, describe, expect, it } from 'vitest'

const { server: redis, skip } = await requireRedis()
afterAll(() => redis?.stop())

const ends: (() => unknown)[] = []
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end()
})

const slowMachine = { storeTimeoutMs: 5000 }

async function store(): Promise<RedisStore> {
  const opened = createRedis({ url: redis?.url as string, commandTimeoutMs: 5000 })
  ends.push(() => opened.close())
  while (!opened.ready) await delay(2)
  return opened
}

/** An adapter of a process of its own, as far as Redis can tell. */
async function replica(
  server: ScriptedProvider,
  apiKey: string,
  options: CacheOptions
): Promise<{ adapter: Adapter; stats: () => CacheStats }> {
  const own = await store()
  const log = createRedisLog({ command: own.command })
  const cache = createCache({ store: own, log, ...slowMachine, ...options })
  const adapter = createAdapter({ provider: openai({ apiKey, baseURL: server.url }), cache })
  ends.push(async () => {
    await adapter.close({ graceMs: 0 })
    await cache.close()
    await log.close()
  })
  return { adapter, stats: cache.stats }
}

async function provider(text: string): Promise<ScriptedProvider> {
  const server = await startScriptedProvider({ firstTokenMs: 60, reply: () => text })
  ends.push(() => server.close())
  return server
}

/** All keys, and all that lies under them. */
async function dump(): Promise<string> {
  const own = await store()
  const all: unknown[] = []
  for (const key of (await own.command(['KEYS', '*'])) as string[]) {
    const type = (await own.command(['TYPE', key])) as string
    all.push(key, await own.command(type === 'stream' ? ['XRANGE', key, '-', '+'] : ['GET', key]))
  }
  return inspect(all, { depth: 9, maxArrayLength: null, maxStringLength: null })
}

async function untilStored(stats: () => CacheStats, count: number): Promise<void> {
  while (stats().stored < count) await delay(5)
  await delay(50)
}

const question = { model: 'm', messages: [{ role: 'user' as const, content: 'canary-prompt' }] }

describe.skipIf(skip !== undefined)('a cache over Redis', () => {
  it.each<CacheOptions>([
    { secret: 'canary-secret-of-the-team' },
    { scope: 'canary-scope', secret: 'canary-secret-of-the-team' }
  ])('makes two calls for two tenants, and shows neither prompt nor key of them (%#)', async (options) => {
    const server = await provider('an answer')
    const one = await replica(server, 'canary-key-one', options)
    const again = await replica(server, 'canary-key-one', options)
    const states: unknown[] = []
    for (const tenant of ['canary-acme', 'canary-umbrella']) {
      states.push((await one.adapter.complete(question, { tenant, cache: { tags: ['canary-tag'] } })).notes.cache?.state)
    }
    await untilStored(one.stats, 2)
    for (const tenant of ['canary-acme', 'canary-umbrella']) {
      states.push((await again.adapter.stream(question, { tenant }).completion()).notes.cache?.state)
    }
    expect(states).toEqual(['miss', 'miss', 'hit', 'hit'])
    expect(server.stats().requests).toBe(2)
    const lies = await dump()
    expect(lies).toContain('an answer')
    expect(lies).not.toContain('canary')
  })

  it('serves two keys apart by default, and never from a store of another secret', async () => {
    const server = await provider('apart')
    const calls = async (apiKey: string, secret: string): Promise<unknown> => {
      const { adapter, stats } = await replica(server, apiKey, { secret })
      const { notes } = await adapter.complete(question)
      if (notes.cache?.state === 'miss') await untilStored(stats, 1)
      return notes.cache?.state
    }
    expect([
      await calls('key-a', 'the secret of team one'),
      await calls('key-b', 'the secret of team one'),
      await calls('key-a', 'the secret of team two'),
      await calls('key-a', 'the secret of team one')
    ]).toEqual(['miss', 'miss', 'miss', 'hit'])
  })

  it('encrypts entries and what goes over the log, reads what an older key wrote, and nothing without its key', async () => {
    const server = await provider('canary-answer '.repeat(400))
    const [old, fresh] = [randomBytes(32), randomBytes(32).toString('base64')]
    const before = { scope: 'encrypted', encryption: { current: 'a', keys: { a: old } }, compression: 'zstd' } as const
    const after = { ...before, encryption: { current: 'b', keys: { a: old, b: fresh } } } as const
    const one = await replica(server, 'k', before)
    const two = await replica(server, 'k', after)
    const both = await Promise.all([one, two].map(({ adapter }) => adapter.stream(question).completion()))
    expect(new Set(both.map(({ text }) => text)).size).toBe(1)
    await untilStored(one.stats, 1)
    expect(await dump()).not.toContain('canary-answer')
    const third = await replica(server, 'k', after)
    expect((await third.adapter.complete(question)).notes.cache?.state).toBe('hit')
    const stranger = await replica(server, 'k', { ...before, encryption: { current: 'c', keys: { c: randomBytes(32) } } })
    expect((await stranger.adapter.complete(question)).notes.cache?.state).toBe('miss')
    expect(stranger.stats().corrupt).toBe(1)
  })

  it('leaves nothing behind that does not expire', async () => {
    const server = await provider('gone')
    const { adapter, stats } = await replica(server, 'k', { scope: 'expiring', ttlMs: 1000 })
    await adapter.complete(question)
    await untilStored(stats, 1)
    const own = await store()
    const endless: string[] = []
    for (const key of (await own.command(['KEYS', '*'])) as string[]) {
      if (((await own.command(['PTTL', key])) as number) < 0) endless.push(key)
    }
    expect(endless).toEqual(['millrace::cache:fence'])
  })

  it('keeps what a process computes in its very first turn, and before it closes', async () => {
    const compute = async (): Promise<unknown> => {
      const redisStore = createRedis({ url: redis?.url as string, commandTimeoutMs: 5000 })
      const log = createRedisLog({ command: redisStore.command })
      const cache = createCache({ store: redisStore, log, scope: 'short-lived', ...slowMachine })
      const value = await cache.wrap('answer', async () => Math.random())
      await cache.close()
      await log.close()
      await redisStore.close()
      return value
    }
    const first = await compute()
    expect(await compute()).toBe(first)
  })
})
