import { randomUUID } from 'node:crypto'
import { setTimeout as wait } from 'node:timers/promises'
import {
  type BatchQueueOptions,
  type BatchWorkerOptions,
  createBatchQueue,
  createBatchWorker,
  type Outcome,
  type QueueProgress
} from '@millrace/batch/bullmq'
import { isMillraceError, MillraceError } from '@millrace/core'
import { requireRedis } from '@millrace/testkit'
import { createClient } from 'redis'
import { afterAll, describe, expect, test } from 'vitest'

const { server, skip } = await requireRedis()
const connection = server?.url ?? ''
afterAll(() => server?.stop())

/** A queue with a name of its own and one worker in this process. */
function pair<I, O>(
  work: BatchWorkerOptions<I, O>['work'],
  more: Partial<BatchWorkerOptions<I, O>> = {},
  ofQueue: Partial<BatchQueueOptions> = {}
) {
  const name = randomUUID()
  const queue = createBatchQueue<I, O>({ name, connection, ...ofQueue })
  const worker = createBatchWorker<I, O>({ name, connection, work, ...more })
  return {
    name,
    queue,
    worker,
    async [Symbol.asyncDispose]() {
      await Promise.all([queue.close(), worker.close({ graceMs: 100 })])
    }
  }
}

async function all<O>(outcomes: AsyncIterable<Outcome<O>>): Promise<Outcome<O>[]> {
  const taken: Outcome<O>[] = []
  for await (const outcome of outcomes) taken.push(outcome)
  return taken
}

function numbers(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index)
}

describe.skipIf(skip !== undefined)('a batch over a queue', { timeout: 15_000 }, () => {
  test('yields every item once, with its value, and tells how far it is', async () => {
    await using made = pair<number, number>((item) => item * 2)
    const told: QueueProgress[] = []
    const outcomes = await all(made.queue.run(numbers(250), { onProgress: (progress) => told.push(progress) }))
    expect(outcomes.toSorted((a, b) => a.index - b.index)).toEqual(
      numbers(250).map((index) => ({ index, status: 'fulfilled', value: index * 2 }))
    )
    expect(told.at(-1)).toMatchObject({ pulled: 250, waiting: 0, fulfilled: 250, rejected: 0, ended: true })
    // A result is read before its worker has counted it.
    await expect.poll(() => made.worker.stats()).toMatchObject({ fulfilled: 250, late: 0, skipped: 0 })
  })

  test('keeps the order of the input where that is asked for', async () => {
    await using made = pair<number, number>(async (item) => {
      await wait(item % 7)
      return item
    })
    const outcomes = await all(made.queue.run(numbers(100), { order: 'input', window: 20 }))
    expect(outcomes.map(({ index }) => index)).toEqual(numbers(100))
  })

  test('reads no more of the input than the window, and nothing before it is asked', async () => {
    await using made = pair<number, number>((item) => item)
    let pulled = 0
    function* input(): Generator<number> {
      for (const item of numbers(50)) {
        pulled++
        yield item
      }
    }
    const outcomes = made.queue.run(input(), { window: 8 })
    await wait(50)
    expect(pulled).toBe(0)
    for (let taken = 1; taken <= 30; taken++) {
      await outcomes.next()
      expect(pulled - taken).toBeLessThanOrEqual(8)
    }
    await outcomes.return?.()
    expect(await outcomes.next()).toEqual({ done: true, value: undefined })
  })

  test('gives errors back as they were thrown, without what hangs on them', async () => {
    const failures: unknown[] = [
      new MillraceError('context-overflow', 'too long', {
        details: { limit: 10, tokens: 20 },
        context: { provider: 'openai' },
        cause: new Error('a secret')
      }),
      Object.assign(new RangeError('out of range'), { code: 'E_RANGE', request: 'a secret' }),
      'just a string'
    ]
    await using made = pair<number, never>((item) => {
      throw failures[item]
    })
    const reasons = (await all(made.queue.run([0, 1, 2], { order: 'input' }))).map(
      (outcome) => outcome.status === 'rejected' && outcome.reason
    )
    expect(isMillraceError(reasons[0], 'context-overflow')).toBe(true)
    expect(JSON.stringify(reasons[0])).toBe(JSON.stringify(failures[0]))
    expect(reasons[1]).toMatchObject({ name: 'RangeError', message: 'out of range', code: 'E_RANGE' })
    expect(reasons[2]).toMatchObject({ message: expect.stringMatching(/^a thrown string/) as string })
    expect(JSON.stringify(reasons)).not.toContain('secret')
  })

  test('rejects an item or a result that is too large, or is no data, and says what to do', async () => {
    await using made = pair<unknown, unknown>(
      (item) => (item === 'big' ? 'x'.repeat(2000) : item === 'loop' ? 1n : undefined),
      { maxResultBytes: 1000 },
      { maxItemBytes: 1000 }
    )
    const outcomes = await all(made.queue.run(['x'.repeat(1001), undefined, 'big', 'loop', 'nothing'], { order: 'input' }))
    const messages = outcomes.map((outcome) =>
      outcome.status === 'rejected' ? (outcome.reason as Error).message : outcome.value
    )
    expect(messages).toEqual([
      expect.stringMatching(/items\[0\] has 1003 bytes, more than maxItemBytes, 1000: store it elsewhere/),
      expect.stringMatching(/items\[1\] is undefined: give plain data/),
      expect.stringMatching(/the result has 2012 bytes, more than maxResultBytes, 1000: store it/),
      expect.stringMatching(/cannot be written as JSON/),
      undefined
    ])
  })

  test('keeps runs apart that go on at the same time under one name', async () => {
    await using made = pair<string, string>(async (item) => {
      await wait(2)
      return item
    })
    await using other = createBatchQueue<string, string>({ name: made.name, connection })
    const runs = [made.queue, made.queue, other].map(async (queue, which) => {
      const outcomes = await all(
        queue.run(
          numbers(60).map((item) => `${which}:${item}`),
          { order: 'input', window: 10 }
        )
      )
      return outcomes.map((outcome) => outcome.status === 'fulfilled' && outcome.value)
    })
    expect(await Promise.all(runs)).toEqual([0, 1, 2].map((which) => numbers(60).map((item) => `${which}:${item}`)))
  })

  test('leaves nothing of a run in Redis', async () => {
    await using made = pair<number, number>((item) => {
      if (item % 2 === 0) throw new Error('even')
      return item
    })
    await all(made.queue.run(numbers(40)))
    await made.queue.close()
    await made.worker.close()
    const client = await createClient({ url: connection }).connect()
    const left = (await client.keys('*')).filter((key) => key.includes(made.name))
    client.destroy()
    const own = left.map((key) => key.split(':')[2])
    expect(
      own.filter((key) => !['meta', 'events', 'marker', 'stalled-check', 'limiter', 'id', 'stalled'].includes(key as string))
    ).toEqual([])
  })

  test('an abort takes waiting items out, aborts running ones, and settles everything', async () => {
    const controller = new AbortController()
    const reason = new Error('enough')
    const began: number[] = []
    let aborted = 0
    await using made = pair<number, number>(
      async (item, { signal }) => {
        if (began.push(item) === 3) setTimeout(() => controller.abort(reason), 100)
        try {
          await wait(10_000, undefined, { signal })
        } catch (error) {
          aborted++
          throw error
        }
        return item
      },
      { concurrency: 3 }
    )
    const outcomes: Outcome<number>[] = []
    await expect(async () => {
      for await (const outcome of made.queue.run(numbers(20), { window: 10, signal: controller.signal })) outcomes.push(outcome)
    }).rejects.toBe(reason)
    expect(outcomes).toHaveLength(10)
    expect(outcomes.every((outcome) => outcome.status === 'rejected' && outcome.reason === reason)).toBe(true)
    await expect.poll(() => made.worker.stats().running, { timeout: 5_000 }).toBe(0)
    expect(aborted).toBe(3)
    expect(began).toHaveLength(3)
    // The worker goes on with what others ask for.
    const next = made.queue.run([1])
    const pending = next.next()
    await expect.poll(() => began.length, { timeout: 5_000 }).toBe(4)
    await next.return?.()
    expect(await pending).toMatchObject({ done: true })
  })

  test('refuses what cannot be right', async () => {
    expect(() => createBatchQueue({ name: 'a:b', connection })).toThrow(/name must be/)
    expect(() => createBatchQueue({ name: 'a', connection: 'http://user:secret@x' })).toThrow(
      /^(?!.*secret).*connection must be a Redis URL/
    )
    expect(() => createBatchWorker({ name: 'a', connection, work: () => 1, concurrency: 0 })).toThrow(/concurrency must be/)
    expect(() => createBatchQueue({ name: 'a', connection, ttl: 1 } as never)).toThrow(/has no option "ttl"/)
    await using queue = createBatchQueue({ name: 'a', connection })
    expect(() => queue.run([], { window: Number.NaN })).toThrow(/window must be/)
  })
})

describe.skipIf(skip !== undefined)('limits over workers', { timeout: 15_000 }, () => {
  test('a rate limit pauses all workers, and the item runs again', async () => {
    const times: { worker: number; at: number }[] = []
    let refused = false
    const work = (worker: number) => (item: number) => {
      times.push({ worker, at: performance.now() })
      if (item === 5 && !refused) {
        refused = true
        throw new MillraceError('rate-limited', 'slow down', { details: { retryAfterMs: 600 } })
      }
      return wait(5, item)
    }
    await using made = pair<number, number>(work(1), { concurrency: 1 })
    await using second = createBatchWorker<number, number>({ name: made.name, connection, work: work(2), concurrency: 1 })
    const outcomes = await all(made.queue.run(numbers(60)))
    expect(outcomes.every(({ status }) => status === 'fulfilled')).toBe(true)
    expect(outcomes).toHaveLength(60)
    const gaps = times.toSorted((a, b) => a.at - b.at).map(({ at }, index, sorted) => at - (sorted[index - 1]?.at ?? at))
    expect(Math.max(...gaps)).toBeGreaterThan(500)
    expect(made.worker.stats().paused + second.stats().paused).toBe(1)
    expect(new Set(times.map(({ worker }) => worker)).size).toBe(2)
  })

  test('an item that is refused again and again is rejected in the end', async () => {
    let runs = 0
    await using made = pair<number, number>(
      () => {
        runs++
        throw new MillraceError('overloaded', 'full', { details: { retryAfterMs: 20 } })
      },
      { maxPauses: 2 }
    )
    const [outcome] = await all(made.queue.run([0]))
    expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'overloaded' } })
    expect(runs).toBe(3)
  })

  test('two workers keep to one limiter, which is told what an item costs', async () => {
    let most = 0
    const asked: unknown[] = []
    const running = new Set<Promise<unknown>>()
    const limiter = {
      async run<T>(cost: object, work: (permit: object) => T | Promise<T>): Promise<T> {
        asked.push(cost)
        while (running.size >= 2) await Promise.race(running)
        const done = Promise.resolve(work({ permit: true })).finally(() => running.delete(done))
        running.add(done)
        most = Math.max(most, running.size)
        return done
      }
    }
    const more = { limiter, cost: (item: number) => ({ tokens: item }), concurrency: 8 }
    const permits = new Set<unknown>()
    const work = (item: number, { permit }: { permit: object | undefined }) => {
      permits.add(JSON.stringify(permit))
      return wait(3, item)
    }
    await using made = pair<number, number>(work, more)
    await using second = createBatchWorker<number, number>({ name: made.name, connection, work, ...more })
    expect(await all(made.queue.run(numbers(50)))).toHaveLength(50)
    await expect.poll(() => made.worker.stats().fulfilled + second.stats().fulfilled).toBe(50)
    expect(most).toBe(2)
    expect(asked).toHaveLength(50)
    expect(asked).toContainEqual({ tokens: 7 })
    expect([...permits]).toEqual(['{"permit":true}'])
  })
})
