import { createBatchQueue, createBatchWorker } from '@millrace/batch/bullmq'
import { createRedis } from '@millrace/cache/redis'
import { createLimiter } from '@millrace/limits'
import { createRedisLimits } from '@millrace/limits/redis'
import { requireRedis } from '@millrace/testkit'
import { expect, test } from 'vitest'

const { server, skip } = await requireRedis()
if (skip !== undefined) console.log(`skipped: ${skip}`)

test.runIf(server !== undefined)(
  'workers of one queue, each with a limiter of its own on one Redis, keep one rate together',
  async () => {
    await using redis = createRedis({ url: server?.url as string })
    const startedAt: number[] = []
    const parts = Array.from({ length: 2 }, () => {
      const store = createRedisLimits({ command: redis.command })
      // 20 at once, and 40 a second.
      const limiter = createLimiter({
        limits: [{ by: 'provider', requestsPerMinute: 2400, windowMs: 500, adaptive: false }],
        store,
        processes: 2
      })
      const worker = createBatchWorker<number, number>({
        name: 'paced',
        connection: server?.url as string,
        concurrency: 20,
        limiter,
        cost: () => ({ provider: 'p' }),
        work(item) {
          startedAt.push(performance.now())
          return item * 2
        }
      })
      return { store, limiter, worker }
    })
    const queue = createBatchQueue<number, number>({ name: 'paced', connection: server?.url as string })
    const values: number[] = []
    for await (const outcome of queue.run(Array.from({ length: 40 }, (_, item) => item))) {
      values.push(outcome.status === 'fulfilled' ? outcome.value : Number.NaN)
    }
    expect(values.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 40 }, (_, item) => item * 2))
    const took = Math.max(...startedAt) - Math.min(...startedAt)
    // 20 of them had to wait for their turn at 40 a second; that they are not held back for ever is the test's own time limit.
    expect(took).toBeGreaterThan(400)
    expect(parts.map(({ limiter }) => limiter.stats().degradedCalls)).toEqual([0, 0])
    await queue.close()
    for (const { worker, limiter, store } of parts) {
      await worker.close()
      await limiter.close()
      await store.close()
    }
    await server?.stop()
  }
)
