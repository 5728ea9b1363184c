import { heapAfterGc, probeLeaks, seededRandom } from '@millrace/testkit'
import { expect, it } from 'vitest'
import type { Queued } from '../src/flow.ts'
import { createLimiter } from '../src/index.ts'
import { createQueue } from '../src/queue.ts'

it('keeps nothing of calls, tenants, waits and aborts that are over', { timeout: 60_000 }, async () => {
  const probe = probeLeaks()
  const seed = 5
  const random = seededRandom(seed)
  const limiter = createLimiter({ limits: [{ concurrency: 20 }, { by: 'tenant', concurrency: 2 }], maxQueue: 5000 })
  let tenants = 0
  const round = async (): Promise<void> => {
    const calls = Array.from({ length: 2000 }, async () => {
      const controller = new AbortController()
      const tenant = random() < 0.5 ? `t${tenants++}` : `t${Math.floor(random() * 10)}`
      const done = limiter.run({ tenant, tokens: 10 }, () => new Promise(setImmediate), { signal: controller.signal })
      if (random() < 0.3) controller.abort(new Error('gone'))
      await done.catch(() => {})
    })
    await Promise.all(calls)
  }
  for (let index = 0; index < 15; index++) await round() // until the store's states have reached their bound
  const before = await heapAfterGc()
  for (let index = 0; index < 10; index++) await round()
  expect((await heapAfterGc()) - before, `seed ${seed}`).toBeLessThan(3_000_000)
  expect(limiter.stats()).toMatchObject({ running: 0, queued: 0 })
  await limiter.close()
  await probe.check()
})

it('forgets tenants that were served while the queue never ran empty', async () => {
  const queue = createQueue<Queued>()
  const call = (tenant: string): Queued => ({
    tenant,
    priority: 0,
    weight: 1,
    demand: { asks: [{ kind: 'rate', key: 'k', terms: {} as never, tokens: 1, place: true }], shared: 1, isCall: true }
  })
  const serve = (from: number, count: number): void => {
    for (let index = from; index < from + count; index++) {
      queue.add(call(`a tenant with a rather long name, number ${index}`))
      queue.granted(queue.next(0) as Queued)
    }
  }
  queue.add(call('first'))
  queue.add(call('second'))
  serve(0, 20_000)
  const before = await heapAfterGc()
  serve(20_000, 50_000)
  expect((await heapAfterGc()) - before).toBeLessThan(1_000_000)
})
