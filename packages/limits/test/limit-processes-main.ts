// A process that shares limits for limit-processes.test.ts. Its one argument is a JSON `Task`; it reports by messages.
import { setTimeout as delay } from 'node:timers/promises'
import { seededRandom } from '@millrace/testkit'
import type { RedisLimits } from '../src/redis.ts'
import type { Terms } from '../src/store.ts'
import { grantedAt, rateAsk, rateEnd } from './asks.ts'
import { connect } from './redis-connection.ts'

interface Place {
  readonly url: string
  readonly namespace: string
  readonly terms: Terms
  /** By how much all clocks of the process are off. */
  readonly skewMs: number
  readonly leaseMs: number
}
/** Takes again and again for `forMs`. */
interface Rush extends Place {
  readonly does: 'rush'
  readonly seed: number
  readonly forMs: number
  readonly everyMs: number
}
/** Takes so many places and keeps them. */
interface Hold extends Place {
  readonly does: 'hold'
  readonly places: number
}
export type Task = Rush | Hold

/** One take: when it came about, for how long it was held or would have been, and what became of it. */
export interface Taken {
  readonly atMs: number
  readonly tokens: number
  readonly holdMs: number
  readonly granted: boolean
}

const rightNow = Date.now.bind(Date)

function skew(ms: number): void {
  const now = performance.now.bind(performance)
  Date.now = () => rightNow() + ms
  performance.now = () => now() + ms
}

/** Sent for good when it resolves: what a process that ends has not sent is lost. */
function report(word: unknown): Promise<unknown> {
  return new Promise((resolve) => process.send?.(word, resolve))
}

async function rush(store: RedisLimits, { seed, forMs, everyMs, terms }: Rush): Promise<void> {
  const random = seededRandom(seed)
  const all: Promise<Taken>[] = []
  async function take(): Promise<Taken> {
    const ask = rateAsk(terms, { tokens: 1 + Math.floor(random() * 20) })
    const holdMs = 5 + random() * 50
    const sentMs = rightNow()
    const verdict = await store.take([ask])
    if (!verdict.granted) return { atMs: (sentMs + rightNow()) / 2, tokens: ask.tokens, holdMs, granted: false }
    await delay(holdMs)
    const doneMs = rightNow()
    await store.end([rateEnd(ask, verdict.at, { usedTokens: ask.tokens * 0.8 })])
    return { atMs: verdict.at, tokens: ask.tokens, holdMs: (doneMs + rightNow()) / 2 - verdict.at, granted: true }
  }
  const begin = rightNow()
  while (rightNow() - begin < forMs) {
    all.push(take())
    await delay(random() * 2 * everyMs)
  }
  await report(await Promise.all(all))
}

async function hold(store: RedisLimits, { terms, places }: Hold): Promise<void> {
  for (let count = 0; count < places; count++) grantedAt(await store.take([rateAsk(terms)]))
  await report('holding')
  await delay(60_000)
}

const task = JSON.parse(process.argv[2] ?? '') as Task
skew(task.skewMs)
const { createRedisLimits } = await import('../src/redis.ts')
const connection = await connect(task.url)
const store = createRedisLimits({ command: connection.command, namespace: task.namespace, leaseMs: task.leaseMs })
process.once('message', async () => {
  if (task.does === 'hold') await hold(store, task)
  else await rush(store, task)
  await store.close()
  await connection.close()
  process.disconnect()
})
await report('ready')
