import { setTimeout as delay } from 'node:timers/promises'
import { type Cache, createCache, withCache } from '@millrace/cache'
import { createRedis, type RedisStore } from '@millrace/cache/redis'
import {
  type CallOptions,
  type ChatRequest,
  type Chunk,
  isMillraceError,
  MillraceError,
  type Provider,
  pipe
} from '@millrace/core'
import { createRedisLog, type RedisLog } from '@millrace/streaming/redis'
import { type Random, type RedisServer, requireRedis, seededRandom } from '@millrace/testkit'
import { afterAll, describe, expect, it } from 'vitest'

// MILLRACE_CACHE_CHAOS=20000 for a long run; the seed may be set beside it.
const asks = Number(process.env.MILLRACE_CACHE_CHAOS ?? 400)
const seed = Number(process.env.MILLRACE_CACHE_CHAOS_SEED ?? 20261123)

const { server: redis, skip } = await requireRedis()
const ends: (() => Promise<unknown>)[] = [async () => redis?.stop()]
afterAll(async () => {
  for (const end of ends.toReversed()) await end()
})

const workers = 12
const keys = 8
/** Nothing here takes longer than a lease and some round trips; the rest is for a busy machine. */
const deadlineMs = 15_000
/** How long an invalidation takes to reach other processes at most, by a clock that is read once in a burst. */
const reachMs = 1100

/** What the upstream knew when it was asked, as the answer's text. */
interface Answer {
  readonly key: string
  readonly tenant: string
  readonly version: number
}

interface Member {
  readonly cache: Cache
  readonly store: RedisStore
  readonly log: RedisLog
  readonly ask: Provider
  /** Of each key, the newest version whose invalidation has ended here. */
  readonly forgotten: Map<string, number>
}

/** Of each key, what was forgotten by whom and when that had ended. */
interface Invalidation {
  readonly version: number
  readonly endedAt: number
}

/** Slow, failing, and of the opinion that counts: the version of a key is read when the call begins. */
function createUpstream(random: Random): {
  readonly provider: Provider
  readonly versions: Map<string, number>
  readonly counts: { calls: number; open: number }
} {
  const versions = new Map<string, number>()
  const counts = { calls: 0, open: 0 }
  async function* provider({ messages }: ChatRequest, { tenant = '', signal }: CallOptions): AsyncGenerator<Chunk> {
    const key = messages[0]?.content as string
    const answer: Answer = { key, tenant, version: versions.get(key) ?? 0 }
    const words = JSON.stringify(answer)
    const fate = random()
    counts.calls++
    counts.open++
    try {
      yield { type: 'start', provider: 'test', model: 'm-1' }
      await delay(random() * (fate > 0.9 ? 600 : 40), undefined, { signal })
      if (fate < 0.06) throw new MillraceError('unavailable', 'out of order', { details: {} })
      if (fate < 0.09) throw new Error('not one of ours')
      yield { type: 'text', text: words.slice(0, 9) }
      await delay(random() * 20, undefined, { signal })
      if (fate < 0.12) throw new Error('not one of ours')
      yield { type: 'text', text: words.slice(9) }
      yield { type: 'finish', reason: 'stop' }
    } finally {
      counts.open--
    }
  }
  return { provider, versions, counts }
}

async function createMember(provider: Provider): Promise<Member> {
  const store = createRedis({ url: (redis as RedisServer).url, commandTimeoutMs: 5000 })
  const log = createRedisLog({ command: store.command })
  const cache = createCache({
    store,
    log,
    scope: 'chaos',
    leaseMs: 1000,
    storeTimeoutMs: 5000,
    ttlMs: 300,
    staleWhileRevalidateMs: 200,
    staleIfErrorMs: 500,
    maxEntries: 6
  })
  ends.push(async () => {
    await cache.close()
    await log.close()
    await store.close()
  })
  await until(() => store.ready)
  return { cache, store, log, ask: pipe(provider, withCache(cache, { origin: 'test' })), forgotten: new Map() }
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + 10_000
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`not in time: ${condition.toString()}`)
    await delay(5)
  }
}

/** Calls under way in a cache: it shows them to nobody else. */
function flightsOf(cache: Cache): number {
  const inner = Object.getOwnPropertySymbols(cache).find(({ description }) => description === 'millrace.cache')
  return Reflect.get(cache, inner as symbol).flights.size
}

describe.skipIf(skip !== undefined)('three caches over one Redis', () => {
  it(`give every one of ${asks} askers the answer that is theirs, and not one from before an invalidation (seed ${seed})`, {
    timeout: 60_000 + asks * 20
  }, async () => {
    const random = seededRandom(seed)
    const { provider, versions, counts } = createUpstream(random)
    const members = await Promise.all([1, 2, 3].map(() => createMember(provider)))
    const invalidations = new Map<string, Invalidation[]>()
    const wrong: string[] = []
    let answered = 0
    let next = 0

    const pick = (count: number): number => Math.floor(random() * count)

    async function invalidate({ cache, forgotten }: Member, key: string): Promise<void> {
      const version = (versions.get(key) ?? 0) + 1
      versions.set(key, version)
      await cache.invalidate({ tags: [key] })
      forgotten.set(key, Math.max(forgotten.get(key) ?? 0, version))
      invalidations.set(key, [...(invalidations.get(key) ?? []), { version, endedAt: performance.now() }])
    }

    /** The oldest version that somebody who asks now may be given. */
    function oldestOf({ forgotten }: Member, key: string): number {
      const reached = performance.now() - reachMs
      const elsewhere = (invalidations.get(key) ?? []).filter(({ endedAt }) => endedAt < reached)
      return Math.max(forgotten.get(key) ?? 0, ...elsewhere.map(({ version }) => version))
    }

    async function ask(member: Member, number: number): Promise<void> {
      const [key, tenant] = [`k${pick(keys)}`, `t${pick(2)}`]
      if (random() < 0.05) return invalidate(member, key)
      const controller = new AbortController()
      const leaves = random() < 0.2 ? delay(random() * 60).then(() => controller.abort('left')) : undefined
      const oldest = oldestOf(member, key)
      const cache = { tags: [key], noStore: random() < 0.05, refresh: random() < 0.05 }
      const options: CallOptions = { tenant, signal: controller.signal, cache }
      const chunks = member.ask({ model: 'm', messages: [{ role: 'user', content: key }] }, options)
      const stopsEarly = random() < 0.05
      let text = ''
      try {
        for await (const chunk of chunks) {
          if (chunk.type === 'text') text += chunk.text
          if (chunk.type === 'text' && stopsEarly) break
        }
      } catch (error) {
        const expected =
          (error === 'left' && controller.signal.aborted) ||
          (isMillraceError(error) && ['unavailable', 'network', 'protocol'].includes(error.code)) ||
          (error instanceof Error && error.message === 'not one of ours')
        if (!expected) wrong.push(`ask ${number}: ${String(error)}`)
        return
      } finally {
        await leaves
      }
      if (stopsEarly && !text.endsWith('}')) return
      answered++
      const answer = JSON.parse(text) as Answer
      if (answer.key !== key || answer.tenant !== tenant) wrong.push(`ask ${number} for ${key} of ${tenant} got ${text}`)
      if (answer.version < oldest) wrong.push(`ask ${number} got ${text}, though ${oldest} was known before it began`)
    }

    async function work(): Promise<void> {
      while (next < asks) {
        const number = next++
        const clock = new AbortController()
        const late = delay(deadlineMs, 'hangs', { signal: clock.signal }).catch(() => undefined)
        const end = await Promise.race([ask(members[number % 3] as Member, number), late])
        clock.abort()
        if (end === 'hangs') wrong.push(`ask ${number} hangs`)
        await delay(random() * 40)
      }
    }

    await Promise.all(Array.from({ length: workers }, work))
    expect(wrong).toEqual([])
    expect(answered).toBeGreaterThan(asks / 2)
    expect(counts.calls).toBeLessThan(asks)
    const { command } = (members[0] as Member).store
    await until(() => counts.open === 0 && members.every(({ cache }) => flightsOf(cache) === 0))
    await until(async () => ((await command(['KEYS', '*:l:*'])) as string[]).length === 0)
    for (const { log } of members) await until(() => log.stats().writers === 0 && log.stats().followers === 0)
    for (const { cache } of members) {
      const { storeErrors, corrupt, hits, joined } = cache.stats()
      expect({ storeErrors, corrupt }).toEqual({ storeErrors: 0, corrupt: 0 })
      expect(hits + joined).toBeGreaterThan(0)
    }
  })
})
