// A program, not a test: one of several processes that send their part of a trace through one limiter.
import { readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { createLimiter, type LimitOptions } from '@millrace/limits'
import { createRedisLimits } from '@millrace/limits/redis'
import { createClient } from '@redis/client'

export interface ChildOptions {
  readonly url: string
  readonly redisUrl: string
  readonly trace: string
  readonly index: number
  readonly processes: number
  /** So many times as fast as it was recorded. */
  readonly speed: number
  readonly limits: readonly LimitOptions[]
  /** By the clock of the day: all begin together. */
  readonly startAt: number
  readonly runMs: number
}

const { url, redisUrl, trace, index, processes, speed, limits, startAt, runMs } = JSON.parse(
  process.argv[2] ?? ''
) as ChildOptions
const client = await createClient({ url: redisUrl }).connect()
const store = createRedisLimits({ command: (args) => client.sendCommand([...args]), commandTimeoutMs: 5000 })
const limiter = createLimiter({ limits, store, processes, maxQueue: 100_000, queueMs: Number.POSITIVE_INFINITY })
const ended = new AbortController()
const fetch = limiter.fetch(globalThis.fetch)
const words = 'the answer to a question that nobody asked is of no use to those who did not hear it '.repeat(1000)

/** The recording begins with two quiet minutes, in which nothing would wait. */
const quietLines = 500
const lines = readFileSync(trace, 'utf8')
  .trim()
  .split('\n')
  .slice(1 + quietLines)
const firstAt = Date.parse(lines[0]?.split(',')[0] ?? '')
const counts = { sent: 0, refused: 0, failed: 0 }
const calls: Promise<void>[] = []

async function call(inputTokens: number, outputTokens: number): Promise<void> {
  const content = words.slice(0, Math.max(4, (inputTokens - 4) * 4))
  const body = JSON.stringify({ model: 'scripted', messages: [{ role: 'user', content }], max_tokens: outputTokens })
  try {
    const response = await fetch(`${url}/chat/completions`, { method: 'POST', body, signal: ended.signal })
    await response.text()
    counts.sent++
    if (response.status === 429) counts.refused++
  } catch (error) {
    if (!ended.signal.aborted) throw error
    counts.failed++
  }
}

for (const [number, line] of lines.entries()) {
  if (number % processes !== index) continue
  const [at = '', context, generated] = line.split(',')
  const dueAt = startAt + (Date.parse(at) - firstAt) / speed
  if (dueAt > startAt + runMs) break
  const waitMs = dueAt - Date.now()
  if (waitMs > 0) await delay(waitMs)
  calls.push(call(Number(context), Math.max(1, Number(generated))))
}
await delay(Math.max(0, startAt + runMs - Date.now()))
const { queued } = limiter.stats()
ended.abort()
await Promise.all(calls)
const stats = limiter.stats()
await limiter.close()
await store.close()
await client.close()
console.log(JSON.stringify({ ...counts, queued, stats }))
