// The ways to find one of 1,000 answers of 4 KB in Redis. Each fills its own part of it first.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Cache } from '@millrace/cache'
import type { RedisStore } from '@millrace/cache/redis'
import {
  answering,
  bodies,
  bodyNamed,
  bodyText,
  generationText,
  keys,
  lookUp,
  names,
  origin,
  shortRequests,
  textNamed,
  texts,
  ttlMs
} from './cache-traffic.ts'
import type { Work } from './turns.ts'

const byKey = (get: (key: string) => unknown): Promise<Work> => lookUp({ all: keys, get, textOf: bodyText }, 1)

export const redisSubjects: Readonly<Record<string, (url: string) => Promise<Work>>> = {
  '@redis/client and JSON.parse': nodeRedis,
  '@redis/client and JSON.parse again': nodeRedis,

  async 'ioredis and JSON.parse'(url) {
    const { Redis } = await import('ioredis')
    const client = new Redis(url)
    for (const [index, key] of keys.entries()) await client.set(`ioredis:${key}`, JSON.stringify(bodies[index]), 'PX', ttlMs)
    return byKey(async (key) => parsed(await client.get(`ioredis:${key}`)))
  },

  async 'createRedis and JSON.parse'(url) {
    const redis = await openRedis(url)
    for (const [index, key] of keys.entries()) await redis.set(key, JSON.stringify(bodies[index]), ttlMs)
    return byKey(async (key) => parsed(await redis.get(key)))
  },

  async 'withCache and collect'(url) {
    const { withCache } = await import('@millrace/cache')
    const { collect } = await import('@millrace/core')
    const upstream = createUpstream()
    const cached = withCache(await openCache(url), { origin })(answering(textNamed, upstream.mayCall))
    const get = (request: (typeof shortRequests)[number]): Promise<{ readonly text: string }> => collect(cached(request, {}))
    await upstream.fill(shortRequests, get)
    return lookUp({ all: shortRequests, get, textOf: ({ text }: { readonly text: string }) => text }, 1)
  },

  async 'cache.wrap'(url) {
    const cache = await openCache(url)
    const upstream = createUpstream()
    const get = (name: string): Promise<unknown> =>
      cache.wrap(name, async () => {
        if (!upstream.mayCall()) throw new Error('a miss')
        return bodyNamed(name)
      })
    await upstream.fill(names, get)
    return lookUp({ all: names, get, textOf: bodyText }, 1)
  },

  async 'Keyv over @keyv/redis'(url) {
    const { Keyv } = await import('keyv')
    const { default: KeyvRedis } = await import('@keyv/redis')
    const cache = new Keyv({ store: new KeyvRedis(url), namespace: 'keyv', useKeyPrefix: false, ttl: ttlMs })
    for (const [index, key] of keys.entries()) await cache.set(key, bodies[index])
    return byKey((key) => cache.get(key))
  },

  async 'cacheable over @keyv/redis'(url) {
    const { Cacheable } = await import('cacheable')
    const { default: KeyvRedis } = await import('@keyv/redis')
    const cache = new Cacheable({ primary: new KeyvRedis(url), namespace: 'cacheable', ttl: ttlMs })
    for (const [index, key] of keys.entries()) await cache.set(key, bodies[index])
    return byKey((key) => cache.get(key))
  },

  async 'BentoCache over ioredis'(url) {
    const { BentoCache, bentostore } = await import('bentocache')
    const { redisDriver } = await import('bentocache/drivers/redis')
    const { Redis } = await import('ioredis')
    const store = bentostore().useL2Layer(redisDriver({ connection: new Redis(url) }))
    const cache = new BentoCache({ default: 'redis', ttl: ttlMs, stores: { redis: store } })
    for (const [index, key] of keys.entries()) await cache.set({ key, value: bodies[index] })
    return byKey((key) => cache.get({ key }))
  },

  async 'LangChain RedisCache'(url) {
    const { RedisCache } = await import('@langchain/redis')
    const { AIMessage } = await import('@langchain/core/messages')
    const { createClient } = await import('@redis/client')
    const client = await createClient({ url }).connect()
    // It names another version of the client, of which it calls get and set: so all stand on the same one.
    const cache = new RedisCache(client as never)
    for (const [index, key] of keys.entries()) {
      const generation = { text: texts[index] ?? '', message: new AIMessage(texts[index] ?? '') }
      await cache.update(key, 'langchain', [generation])
    }
    return lookUp({ all: keys, get: (key) => cache.lookup(key, 'langchain'), textOf: generationText }, 1)
  }
}

async function nodeRedis(url: string): Promise<Work> {
  const { createClient } = await import('@redis/client')
  const client = await createClient({ url }).connect()
  const options = { expiration: { type: 'PX', value: ttlMs } } as const
  for (const [index, key] of keys.entries()) await client.set(`client:${key}`, JSON.stringify(bodies[index]), options)
  return byKey(async (key) => parsed(await client.get(`client:${key}`)))
}

function parsed(text: string | null | undefined): unknown {
  return JSON.parse(text ?? 'null')
}

async function openRedis(url: string): Promise<RedisStore> {
  const { createRedis } = await import('@millrace/cache/redis')
  // No limit is part of what is measured: a machine that stalls for a moment would end the run.
  const redis = createRedis({ url, commandTimeoutMs: 10_000 })
  while (!redis.ready) await sleep(5)
  return redis
}

async function openCache(url: string): Promise<Cache> {
  const { createCache } = await import('@millrace/cache')
  return createCache({ store: await openRedis(url), scope: 'bench', ttlMs, maxBytes: 0, storeTimeoutMs: 5000 })
}

interface Upstream {
  /** Counts a call. False once the store is full: then it is a miss. */
  mayCall(): boolean
  /** Asks for all until none is missing, for what is written to the store is not waited for. */
  fill<Name>(all: readonly Name[], ask: (name: Name) => Promise<unknown>): Promise<void>
}

function createUpstream(): Upstream {
  let calls = 0
  let filled = false
  return {
    mayCall() {
      calls++
      return !filled
    },
    async fill(all, ask) {
      do {
        calls = 0
        for (const name of all) await ask(name)
        await sleep(20)
      } while (calls > 0)
      filled = true
    }
  }
}
