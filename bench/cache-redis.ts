// The ways to find one of 1,000 answers of 4 KB in Redis. Each fills its own part of it first.
import { setTimeout as sleep } from 'node:timers/promises'
import type { ChatGeneration } from '@langchain/core/outputs'
import {
  answering,
  answers,
  keys,
  lookUp,
  names,
  numberOf,
  origin,
  shortRequests,
  textOf,
  texts,
  ttlMs
} from './cache-traffic.ts'
import type { Work } from './turns.ts'

const byKey = (get: (key: string) => unknown): Promise<Work> => lookUp({ names: keys, get, textOf }, 1)

export const redisSubjects: Readonly<Record<string, (url: string) => Promise<Work>>> = {
  '@redis/client and JSON.parse': nodeRedis,
  '@redis/client and JSON.parse again': nodeRedis,

  async 'ioredis and JSON.parse'(url) {
    const { Redis } = await import('ioredis')
    const client = new Redis(url)
    for (const [index, key] of keys.entries()) await client.set(`ioredis:${key}`, JSON.stringify(answers[index]), 'PX', ttlMs)
    return byKey(async (key) => JSON.parse((await client.get(`ioredis:${key}`)) as string))
  },

  async 'createRedis and JSON.parse'(url) {
    const redis = await openRedis(url)
    for (const [index, key] of keys.entries()) await redis.set(key, JSON.stringify(answers[index]), ttlMs)
    return byKey(async (key) => JSON.parse((await redis.get(key)) as string))
  },

  async 'withCache and collect'(url) {
    const { withCache } = await import('@millrace/cache')
    const { collect } = await import('@millrace/core')
    const upstream = watched()
    const provider = answering((request) => texts[numberOf(request)] as string, upstream.mayCall)
    const cached = withCache(await openCache(url), { origin })(provider)
    const ask = (index: number): Promise<{ readonly text: string }> => collect(cached(shortRequests[index] as never, {}))
    await upstream.fill(ask)
    const numbers = [...names.keys()]
    return lookUp({ names: numbers, get: ask, textOf: ({ text }: { readonly text: string }) => text }, 1)
  },

  async 'cache.wrap'(url) {
    const cache = await openCache(url)
    const upstream = watched()
    const ask = (index: number): Promise<unknown> =>
      cache.wrap(names[index] as string, async () => {
        if (!upstream.mayCall()) throw new Error('a miss')
        return answers[index]
      })
    await upstream.fill(ask)
    return lookUp({ names: [...names.keys()], get: ask, textOf }, 1)
  },

  async 'Keyv over @keyv/redis'(url) {
    const { Keyv } = await import('keyv')
    const { default: KeyvRedis } = await import('@keyv/redis')
    const cache = new Keyv({ store: new KeyvRedis(url), namespace: 'keyv', useKeyPrefix: false, ttl: ttlMs })
    for (const [index, key] of keys.entries()) await cache.set(key, answers[index])
    return byKey((key) => cache.get(key))
  },

  async 'cacheable over @keyv/redis'(url) {
    const { Cacheable } = await import('cacheable')
    const { default: KeyvRedis } = await import('@keyv/redis')
    const cache = new Cacheable({ primary: new KeyvRedis(url), namespace: 'cacheable', ttl: ttlMs })
    for (const [index, key] of keys.entries()) await cache.set(key, answers[index])
    return byKey((key) => cache.get(key))
  },

  async 'BentoCache over ioredis'(url) {
    const { BentoCache, bentostore } = await import('bentocache')
    const { redisDriver } = await import('bentocache/drivers/redis')
    const { Redis } = await import('ioredis')
    const store = bentostore().useL2Layer(redisDriver({ connection: new Redis(url) }))
    const cache = new BentoCache({ default: 'redis', ttl: ttlMs, stores: { redis: store } })
    for (const [index, key] of keys.entries()) await cache.set({ key, value: answers[index] })
    return byKey((key) => cache.get({ key }))
  },

  async 'LangChain RedisCache'(url) {
    const { RedisCache } = await import('@langchain/redis')
    const { AIMessage } = await import('@langchain/core/messages')
    const client = await connect(url)
    // It names the client of another version, of which it calls get and set. So all stand on the same one.
    const cache = new RedisCache(client as never)
    for (const [index, key] of keys.entries()) {
      const text = texts[index] as string
      const generation: ChatGeneration = { text, message: new AIMessage(text) }
      await cache.update(key, 'langchain', [generation])
    }
    const textOf = ([found]: readonly { readonly text: string }[]): string | undefined => found?.text
    return lookUp({ names: keys, get: (key) => cache.lookup(key, 'langchain'), textOf }, 1)
  }
}

async function nodeRedis(url: string): Promise<Work> {
  const client = await connect(url)
  const options = { expiration: { type: 'PX', value: ttlMs } } as const
  for (const [index, key] of keys.entries()) await client.set(`client:${key}`, JSON.stringify(answers[index]), options)
  return byKey(async (key) => JSON.parse((await client.get(`client:${key}`)) as string))
}

async function connect(url: string) {
  const { createClient } = await import('@redis/client')
  return createClient({ url }).connect()
}

async function openRedis(url: string) {
  const { createRedis } = await import('@millrace/cache/redis')
  // No limit is part of what is measured: a machine that stalls for a moment would end the run.
  const redis = createRedis({ url, commandTimeoutMs: 10_000 })
  while (!redis.ready) await sleep(5)
  return redis
}

async function openCache(url: string) {
  const { createCache } = await import('@millrace/cache')
  return createCache({ store: await openRedis(url), scope: 'bench', ttlMs, maxBytes: 0, storeTimeoutMs: 5000 })
}

/** An upstream that is only called while the store is filled. Writes are not waited for, so it takes until none is missing. */
function watched(): { mayCall(): boolean; fill(ask: (index: number) => Promise<unknown>): Promise<void> } {
  let calls = 0
  let filled = false
  return {
    mayCall() {
      calls++
      return !filled
    },
    async fill(ask) {
      do {
        calls = 0
        for (const index of names.keys()) await ask(index)
        await sleep(20)
      } while (calls > 0)
      filled = true
    }
  }
}
