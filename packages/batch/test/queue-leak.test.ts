import { createBatchQueue, createBatchWorker } from '@millrace/batch/bullmq'
import { probeLeaks, requireRedis } from '@millrace/testkit'
import { afterAll, expect, test } from 'vitest'

const { server, skip } = await requireRedis()
afterAll(() => server?.stop())

test.skipIf(skip !== undefined)('queues and workers that are closed leave no socket and no timer', async () => {
  const probe = probeLeaks({ settleMs: 5000 })
  for (const name of ['a', 'b', 'c']) {
    const common = { name, connection: server?.url ?? '' }
    await using queue = createBatchQueue<number, number>(common)
    await using worker = createBatchWorker<number, number>({ ...common, work: (item) => item })
    const outcomes = queue.run([1, 2, 3])
    expect((await outcomes.next()).done).toBe(false)
    expect(worker.stats().redisErrors).toBe(0)
  }
  await probe.check()
})

test.skipIf(skip !== undefined)('work that ignores its signal keeps nothing alive, and its item runs elsewhere', async () => {
  const probe = probeLeaks({ settleMs: 2000 })
  {
    const common = { name: 'deaf', connection: server?.url ?? '' }
    await using queue = createBatchQueue<number, string>(common)
    const worker = createBatchWorker<number, string>({ ...common, work: () => new Promise(() => {}) })
    const outcome = queue.run([1]).next()
    await expect.poll(() => worker.stats().running).toBe(1)
    await worker.close({ graceMs: 0 })
    await using _ = createBatchWorker<number, string>({ ...common, work: () => 'heard' })
    expect((await outcome).value).toMatchObject({ status: 'fulfilled', value: 'heard' })
  }
  await probe.check()
})
