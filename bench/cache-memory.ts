// The ways to keep 1,000 answers of 4 KB in memory and find one again.
import {
  answering,
  bodies,
  bodyNamed,
  bodyText,
  generationText,
  keys,
  lookUp,
  model,
  names,
  origin,
  shortRequests,
  textNamed,
  texts,
  ttlMs
} from './cache-traffic.ts'
import type { Work } from './turns.ts'

/** So short that the clock around each would weigh as much. */
const batch = 1000

const byKey = (get: (key: string) => unknown): Promise<Work> => lookUp({ all: keys, get, textOf: bodyText }, batch)

export const memorySubjects: Readonly<Record<string, () => Promise<Work>>> = {
  'lru-cache with max and ttl': lruCache,
  'lru-cache with max and ttl again': lruCache,

  async Map() {
    const map = new Map(keys.map((key, index) => [key, bodies[index]]))
    return byKey((key) => map.get(key))
  },

  async 'cache.peek'() {
    const { createCache, keyOf, withCache } = await import('@millrace/cache')
    const { collect } = await import('@millrace/core')
    const cache = createCache({ ttlMs, scope: 'bench' })
    const cached = withCache(cache, { origin })(answering(textNamed, () => true))
    for (const request of shortRequests) await collect(cached(request, {}))
    const ready = shortRequests.map((request) => keyOf(request, { origin, scope: 'bench' }))
    interface Kept {
      readonly chunks: readonly { readonly text?: string }[]
    }
    const textOf = ({ chunks }: Kept): string | undefined => chunks.find(({ text }) => text !== undefined)?.text
    return lookUp({ all: ready, get: cache.peek, textOf }, batch)
  },

  async 'cache.wrap'() {
    const { createCache } = await import('@millrace/cache')
    const cache = createCache({ ttlMs, scope: 'bench' })
    for (const name of names) await cache.wrap(name, async () => bodyNamed(name))
    const miss = (): never => {
      throw new Error('a miss')
    }
    return lookUp({ all: names, get: (name) => cache.wrap(name, miss), textOf: bodyText }, batch)
  },

  'BentoCache not serialising': () => bentoCache({ serialize: false }),
  BentoCache: () => bentoCache({}),

  async 'LangChain InMemoryCache'() {
    const { InMemoryCache } = await import('@langchain/core/caches')
    const { AIMessage } = await import('@langchain/core/messages')
    const cache = new InMemoryCache()
    for (const [index, key] of keys.entries()) {
      const generation = { text: texts[index] ?? '', message: new AIMessage(texts[index] ?? '') }
      await cache.update(key, model, [generation])
    }
    return lookUp({ all: keys, get: (key) => cache.lookup(key, model), textOf: generationText }, batch)
  },

  async cacheable() {
    const { Cacheable } = await import('cacheable')
    const cache = new Cacheable({ ttl: ttlMs })
    for (const [index, key] of keys.entries()) await cache.set(key, bodies[index])
    return byKey((key) => cache.get(key))
  },

  async Keyv() {
    const { Keyv } = await import('keyv')
    const cache = new Keyv({ ttl: ttlMs })
    for (const [index, key] of keys.entries()) await cache.set(key, bodies[index])
    return byKey((key) => cache.get(key))
  }
}

async function lruCache(): Promise<Work> {
  const { LRUCache } = await import('lru-cache')
  const cache = new LRUCache<string, object>({ max: 10_000, ttl: ttlMs })
  for (const [index, key] of keys.entries()) cache.set(key, bodies[index])
  return byKey((key) => cache.get(key))
}

async function bentoCache(options: { readonly serialize?: boolean }): Promise<Work> {
  const { BentoCache, bentostore } = await import('bentocache')
  const { memoryDriver } = await import('bentocache/drivers/memory')
  const store = bentostore().useL1Layer(memoryDriver({ maxItems: 10_000, ...options }))
  const cache = new BentoCache({ default: 'memory', ttl: ttlMs, stores: { memory: store } })
  for (const [index, key] of keys.entries()) await cache.set({ key, value: bodies[index] })
  return byKey((key) => cache.get({ key }))
}
