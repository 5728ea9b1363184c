// Many askers for one thing that nobody has, in a process of its own: `cache-stampede-main.ts <subject> <memory or the URL of a
// Redis>`. Each turn is about another thing; its `units` are the calls that were made, its times are the askers'.
import { setTimeout as sleep } from 'node:timers/promises'
import { answering, bodies, bodyText, model, origin, texts, ttlMs } from './cache-traffic.ts'
import type { Sample, Turn } from './programs.ts'
import { quantile } from './tables.ts'

const upstreamMs = 50
const [subject = '', where = ''] = process.argv.slice(2)
const url = where === 'memory' ? undefined : where
const [body] = bodies
const [text = ''] = texts
let calls = 0

async function upstream(): Promise<unknown> {
  calls++
  await sleep(upstreamMs)
  return body
}

/** Asks for the answer to `name`; what comes is a body or a text. */
type Ask = (name: string) => Promise<unknown>

const subjects: Readonly<Record<string, () => Promise<Ask>>> = {
  async 'cache.wrap'() {
    const { cache } = await openCache()
    return (name) => cache.wrap(name, upstream)
  },

  async 'withCache and collect'() {
    const { cache, withCache } = await openCache()
    const { collect } = await import('@millrace/core')
    const answered = answering(
      () => text,
      () => true
    )
    const cached = withCache(cache, { origin })(async function* (request, options) {
      await upstream()
      yield* answered(request, options)
    })
    return async (name) => (await collect(cached({ model, messages: [{ role: 'user', content: name }] }, {}))).text
  },

  async 'BentoCache getOrSet'() {
    const { BentoCache, bentostore } = await import('bentocache')
    const { memoryDriver } = await import('bentocache/drivers/memory')
    const { redisDriver } = await import('bentocache/drivers/redis')
    const { Redis } = await import('ioredis')
    const memory = bentostore().useL1Layer(memoryDriver({ maxItems: 10_000 }))
    const store = url === undefined ? memory : memory.useL2Layer(redisDriver({ connection: new Redis(url) }))
    const cache = new BentoCache({ default: 'all', ttl: ttlMs, stores: { all: store } })
    return (name) => cache.getOrSet({ key: name, factory: upstream })
  },

  async 'cacheable getOrSet'() {
    const { Cacheable } = await import('cacheable')
    const { default: KeyvRedis } = await import('@keyv/redis')
    const cache = new Cacheable({ ttl: ttlMs, ...(url !== undefined && { secondary: new KeyvRedis(url) }) })
    return (name) => cache.getOrSet(name, upstream, { throwErrors: true })
  },

  async 'Keyv get and set'() {
    const { Keyv } = await import('keyv')
    const { default: KeyvRedis } = await import('@keyv/redis')
    const cache = new Keyv({ ttl: ttlMs, useKeyPrefix: false, ...(url !== undefined && { store: new KeyvRedis(url) }) })
    return async (name) => {
      const found: unknown = await cache.get(name)
      if (found !== undefined) return found
      const value = await upstream()
      await cache.set(name, value)
      return value
    }
  },

  async 'LangChain lookup and update'() {
    const cache = await openLangChain()
    return async (name) => {
      const found = await cache.lookup(name, model)
      if (found !== null) return found[0]?.text
      const fetched = bodyText(await upstream()) ?? ''
      await cache.update(name, model, [{ text: fetched }])
      return fetched
    }
  }
}

async function openCache() {
  const { createCache, withCache } = await import('@millrace/cache')
  if (url === undefined) return { cache: createCache({ ttlMs }), withCache }
  const { createRedis } = await import('@millrace/cache/redis')
  const { createRedisLog } = await import('@millrace/streaming/redis')
  const store = createRedis({ url })
  while (!store.ready) await sleep(5)
  const log = createRedisLog({ command: store.command })
  return { cache: createCache({ ttlMs, store, log, scope: 'bench' }), withCache }
}

async function openLangChain() {
  if (url === undefined) return new (await import('@langchain/core/caches')).InMemoryCache()
  const { RedisCache } = await import('@langchain/redis')
  const { createClient } = await import('@redis/client')
  // It names the client of another version, of which it calls get and set.
  return new RedisCache((await createClient({ url }).connect()) as never)
}

async function take(ask: Ask, name: string, askers: number): Promise<Sample> {
  calls = 0
  const cpu = process.cpuUsage()
  const startedAt = performance.now()
  const times = await Promise.all(
    Array.from({ length: askers }, async () => {
      const found = await ask(name)
      if ((typeof found === 'string' ? found : bodyText(found)) !== text) throw new Error(`${subject}: a wrong answer`)
      return performance.now() - startedAt
    })
  )
  const { user, system } = process.cpuUsage(cpu)
  return {
    units: calls,
    cpuUs: user + system,
    seconds: Math.max(...times) / 1000,
    p99Ms: quantile(times, 0.99),
    firstMs: Number.NaN,
    peakMB: process.resourceUsage().maxRSS / 1e3
  }
}

const ask = await subjects[subject]?.()
if (ask === undefined) throw new TypeError(`${subject} is no subject; they are ${Object.keys(subjects).join(', ')}`)
let turns = 0
process.on('message', (turn) => {
  // The same name in all processes, and for each subject another.
  void take(ask, `${subject} ${turns++}`, (turn as Turn).concurrency).then((sample) => process.send?.(sample))
})
process.once('disconnect', () => process.exit())
process.send?.('ready')
