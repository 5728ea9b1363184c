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
import { afterAll, describe, expect, test, vi } from 'vitest'
import { createLanes } from '../src/queue-lanes.ts'

const { server, skip } = await requireRedis()
const connection = server?.url ?? ''
const long = process.env['MILLRACE_LONG'] === '1'
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
      expect.stringMatching(/items\[1\] must be a JSON value, not undefined/),
      expect.stringMatching(/the result has 2012 bytes, more than maxResultBytes, 1000: store it/),
      expect.stringMatching(/result must be a JSON value, not bigint/),
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
    for (const [items, told] of [
      [null, 'null'],
      ['a', 'a string'],
      [{}, 'an object']
    ] as const) {
      expect(() => queue.run(items as never)).toThrow(
        `run takes an array of items, or anything else that can be iterated, not ${told}`
      )
    }
    for (const wrong of [{ pause: 5 }, { cost: 5 }, { limiter: {} }]) {
      const options = { name: 'a', connection, work: () => 1, ...wrong } as never
      expect(() => createBatchWorker(options)).toThrow(new RegExp(`${Object.keys(wrong)[0]} must be`))
    }
  })
})

describe.skipIf(skip !== undefined)('what is odd', { timeout: 15_000 }, () => {
  test('an input whose results cannot be read ends its run with the reason', async () => {
    await using queue = createBatchQueue<number, number>({ name: randomUUID(), connection })
    const broken = (next: () => unknown): AsyncIterable<number> => ({ [Symbol.asyncIterator]: () => ({ next }) as never })
    const thrown = () => {
      throw new Error('unreadable')
    }
    await expect(all(queue.run(broken(() => undefined)))).rejects.toThrow(TypeError)
    await expect(all(queue.run(broken(() => Object.defineProperty({}, 'done', { get: thrown }))))).rejects.toThrow('unreadable')
    await expect(all(queue.run(broken(() => Object.defineProperty({}, 'value', { get: thrown }))))).rejects.toThrow('unreadable')
    await expect(all(queue.run({ [Symbol.asyncIterator]: thrown }))).rejects.toThrow('unreadable')
    // What is no promise is taken all the same, as `for await` does.
    expect(await all(queue.run(broken(() => ({ done: true, value: undefined }))))).toEqual([])
    expect(queue.stats().runs).toBe(0)
  })

  test('an error that cannot be read is the reason of a rejected outcome, after one run', async () => {
    const { proxy, revoke } = Proxy.revocable({}, {})
    revoke()
    const failures: unknown[] = [
      Object.create(null),
      Object.assign(new Error('x'), { message: 10n }),
      proxy,
      new MillraceError('unavailable', 'broken', { details: { providerCode: 10n } as never }),
      new Error('x'.repeat(500_000))
    ]
    let runs = 0
    await using made = pair<number, never>(
      (item) => {
        runs++
        throw failures[item]
      },
      { lockMs: 500 },
      { checkMs: 300 }
    )
    const outcomes = await all(made.queue.run(numbers(failures.length), { order: 'input' }))
    expect(outcomes.map((outcome) => outcome.status === 'rejected' && (outcome.reason as Error).message.slice(0, 100))).toEqual([
      'a thrown object that cannot be read',
      '10',
      'a thrown object that cannot be read',
      'broken',
      'x'.repeat(100)
    ])
    expect(outcomes[3]).toMatchObject({ reason: { code: 'unavailable' } })
    expect(runs).toBe(failures.length)
  })

  test('an item that was taken for unwanted and is wanted again runs again', async () => {
    const client = await createClient({ url: connection }).connect()
    let runs = 0
    await using made = pair<number, string>(
      async (_, { signal }) => {
        if (++runs > 1) return 'done'
        const open = await client.keys(`millrace:${made.name}:open:*`)
        while (!signal.aborted) {
          await client.del(open)
          await wait(10)
        }
        await expect.poll(() => client.exists(open)).toBe(1)
        throw signal.reason
      },
      {},
      { checkMs: 200 }
    )
    expect(await all(made.queue.run([0]))).toEqual([{ index: 0, status: 'fulfilled', value: 'done' }])
    await expect.poll(() => made.worker.stats()).toMatchObject({ fulfilled: 1, rejected: 0 })
    client.destroy()
  })

  test('items and results that JSON would bend are rejected, and say what they are', async () => {
    const odd: unknown[] = [new Map([[1, 2]]), Promise.resolve(1), Number.NaN, { at: [new Date(0)] }]
    let runs = 0
    await using made = pair<unknown, unknown>((item) => {
      runs++
      return odd[item as number]
    })
    const messages = async (items: unknown[]): Promise<unknown[]> =>
      (await all(made.queue.run(items, { order: 'input' }))).map(
        (outcome) => outcome.status === 'rejected' && (outcome.reason as Error).message
      )
    expect(await messages(odd)).toEqual([
      'items[0] must be plain JSON, not an instance of a class',
      'items[1] must be plain JSON, not an instance of a class',
      'items[2] must be a finite number',
      'items[3].at[0] must be plain JSON, not an instance of a class'
    ])
    expect(runs).toBe(0)
    expect(await messages([0, 1, 2, 3])).toEqual([
      'result must be plain JSON, not an instance of a class',
      false,
      'result must be a finite number',
      'result.at[0] must be plain JSON, not an instance of a class'
    ])
  })

  test('an item is sent as it was when it was read', async () => {
    await using made = pair<{ n: number }, number>(({ n }) => n)
    function* input(): Generator<{ n: number }> {
      const row = { n: 0 }
      for (; row.n < 5; row.n++) yield row
    }
    const outcomes = await all(made.queue.run(input(), { order: 'input' }))
    expect(outcomes.map((outcome) => outcome.status === 'fulfilled' && outcome.value)).toEqual(numbers(5))
  })

  test('a clock that is set back does not make an item run twice', async () => {
    let runs = 0
    await using made = pair<number, number>(
      async (item) => {
        runs++
        await wait(1100)
        return item
      },
      { lockMs: 500 }
    )
    const outcomes = all(made.queue.run([7]))
    await expect.poll(() => runs, { interval: 5 }).toBe(1)
    const now = vi.spyOn(Date, 'now').mockImplementation(() => performance.timeOrigin + performance.now() - 3_600_000)
    try {
      expect(await outcomes).toEqual([{ index: 0, status: 'fulfilled', value: 7 }])
    } finally {
      now.mockRestore()
    }
    expect(runs).toBe(1)
    expect(made.worker.stats().lostLocks).toBe(0)
  })

  test('a result that is not ours rejects its item and no other', async () => {
    const texts = ['null', '5', '{', '[]', '{"error":null}']
    const name = randomUUID()
    await using queue = createBatchQueue<number, number>({ name, connection })
    const outcomes = all(queue.run(numbers(texts.length), { order: 'input' }))
    const client = await createClient({ url: connection }).connect()
    const open = async (): Promise<string> => (await client.keys(`millrace:${name}:open:*`))[0] ?? ''
    await expect.poll(async () => client.hLen(await open())).toBe(texts.length)
    for (const i of await client.hKeys(await open())) {
      const r = texts[Number(i.split('-').at(-1))] as string
      await client.xAdd((await open()).replace(':open:', ':results:'), '*', { i, r })
    }
    client.destroy()
    const reasons = (await outcomes).map((outcome) => outcome.status === 'rejected' && (outcome.reason as Error).message)
    const noJson = 'the result in Redis is not one of ours'
    expect(reasons).toEqual([noJson, noJson, noJson, noJson, 'no error was recorded'])
  })

  test('no more bytes than so many are sent at a time, and what is larger goes alone', async () => {
    const lanes = createLanes(10, 100)
    let bytes = 0
    const seen: number[] = []
    await Promise.all(
      [40, 60, 500, 30].map((size) =>
        lanes(async () => {
          seen.push((bytes += size))
          await wait(1)
          bytes -= size
        }, size)
      )
    )
    expect(seen).toEqual([40, 100, 500, 30])
  })

  test('no more than so much is asked of Redis at a time', async () => {
    const lanes = createLanes(3)
    let running = 0
    let most = 0
    const done = await Promise.allSettled(
      numbers(20).map((index) =>
        lanes(async () => {
          most = Math.max(most, ++running)
          await wait(1)
          running--
          if (index === 4) throw new Error('four')
          return index
        })
      )
    )
    expect(most).toBe(3)
    expect(done.filter(({ status }) => status === 'rejected')).toHaveLength(1)
  })

  test.each(long ? ['long'] : [])('a window of 60,000 is no more than Redis can take', { timeout: 120_000 }, async () => {
    await using made = pair<number, number>((item) => item, { concurrency: 200 })
    let fulfilled = 0
    for await (const { status } of made.queue.run(numbers(60_000), { window: 60_000 })) if (status === 'fulfilled') fulfilled++
    expect(fulfilled).toBe(60_000)
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
        throw new MillraceError('rate-limited', 'slow down', { details: { retryAfterMs: 350 } })
      }
      return wait(5, item)
    }
    await using made = pair<number, number>(work(1), { concurrency: 1 })
    await using second = createBatchWorker<number, number>({ name: made.name, connection, work: work(2), concurrency: 1 })
    const outcomes = await all(made.queue.run(numbers(60)))
    expect(outcomes.every(({ status }) => status === 'fulfilled')).toBe(true)
    expect(outcomes).toHaveLength(60)
    const gaps = times.toSorted((a, b) => a.at - b.at).map(({ at }, index, sorted) => at - (sorted[index - 1]?.at ?? at))
    expect(Math.max(...gaps)).toBeGreaterThan(300)
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

  test('being put back by a closing worker is no refusal', async () => {
    let runs = 0
    const work = (_: number, { signal }: { signal: AbortSignal }): Promise<string> => {
      if (++runs <= 2) return wait(10_000, '', { signal })
      if (runs === 3) throw new MillraceError('overloaded', 'full', { details: { retryAfterMs: 20 } })
      return Promise.resolve('done')
    }
    await using made = pair<number, string>(work, { maxPauses: 1 })
    const common = { name: made.name, connection, work, maxPauses: 1 }
    const outcomes = all(made.queue.run([0]))
    await expect.poll(() => runs).toBe(1)
    await made.worker.close({ graceMs: 0 })
    const second = createBatchWorker<number, string>(common)
    await expect.poll(() => runs).toBe(2)
    await second.close({ graceMs: 0 })
    await using _ = createBatchWorker<number, string>(common)
    expect(await outcomes).toEqual([{ index: 0, status: 'fulfilled', value: 'done' }])
  })

  test('an item for which the limiter has no room yet waits, without an end', async () => {
    let full = true
    const asked: number[] = []
    const limiter = {
      async run<T>(_: object, work: (permit: object) => T | Promise<T>, { queueMs }: { queueMs: number }): Promise<T> {
        asked.push(queueMs)
        if (full) throw new MillraceError('queue-full', 'full', { details: { limit: 0 } })
        return work({})
      }
    }
    await using made = pair<number, number>((item) => item, { limiter, maxPauses: 0 })
    const outcomes = all(made.queue.run([7]))
    await expect.poll(() => asked.length).toBe(1)
    full = false
    expect(await outcomes).toEqual([{ index: 0, status: 'fulfilled', value: 7 }])
    expect(asked).toEqual([Infinity, Infinity])
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
