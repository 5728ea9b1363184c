import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as wait } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { createBatchQueue, createBatchWorker, type Outcome } from '@millrace/batch/bullmq'
import { isMillraceError } from '@millrace/core'
import { type RedisServer, requireRedis } from '@millrace/testkit'
import { createClient } from 'redis'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

const program = fileURLToPath(new URL('./queue-close-main.ts', import.meta.url))
const { skip, server: probe } = await requireRedis()
await probe?.stop()

let server: RedisServer
let folder: string
const long = process.env['MILLRACE_LONG'] === '1'
const faults: unknown[] = []
const note = (error: unknown): void => void faults.push(error)

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'millrace-queue-'))
  faults.length = 0
  process.on('unhandledRejection', note).on('uncaughtException', note)
})

afterEach(async () => {
  process.off('unhandledRejection', note).off('uncaughtException', note)
  server.resume()
  await server.stop()
  await rm(folder, { recursive: true, force: true })
  if (faults.length > 0) throw new AggregateError(faults, 'an error that nobody heard')
})

async function start(port?: number, keep?: 'keep'): Promise<void> {
  const args = keep === undefined ? [] : ['--dir', folder, '--appendonly', 'yes', '--appendfsync', 'always']
  server = (await requireRedis({ ...(port === undefined ? {} : { port }), args })).server as RedisServer
}

function numbers(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index)
}

function expectEach(outcomes: readonly Outcome<number>[], count: number): void {
  const sorted = outcomes.toSorted((a, b) => a.index - b.index)
  expect(sorted).toEqual(numbers(count).map((index) => ({ index, status: 'fulfilled', value: index * 2 })))
}

describe.skipIf(skip !== undefined)('a batch whose Redis goes away', { timeout: 20_000 }, () => {
  async function through(disturb: () => Promise<void>, count = 200) {
    const name = randomUUID()
    const common = { name, connection: server.url, redisTimeoutMs: 6000 }
    const ran = new Map<number, number>()
    const outcomes: Outcome<number>[] = []
    await using queue = createBatchQueue<number, number>({ ...common, checkMs: 200 })
    await using worker = createBatchWorker<number, number>({
      ...common,
      // BullMQ's search for dead workers rests 5 s when it is cut itself: the first one is to come after the cuts.
      lockMs: 700,
      async work(item) {
        ran.set(item, (ran.get(item) ?? 0) + 1)
        await wait(10)
        return item * 2
      }
    })
    for await (const outcome of queue.run(numbers(count), { window: 40 })) {
      outcomes.push(outcome)
      if (outcomes.length === 60) await disturb()
    }
    expectEach(outcomes, count)
    return { ran, queue: queue.stats(), worker: worker.stats() }
  }

  test('goes on after Redis restarted with its data', async () => {
    await start(undefined, 'keep')
    const { ran } = await through(async () => {
      await server.kill()
      await wait(200)
      await start(server.port, 'keep')
    })
    // Paid twice at most: what ran when it broke.
    expect([...ran.values()].filter((times) => times > 1).length).toBeLessThanOrEqual(16)
  })

  test('sends again what a Redis has lost that restarted empty', async () => {
    await start()
    const { queue } = await through(async () => {
      await server.kill()
      await wait(100)
      await start(server.port)
    })
    expect(queue.resubmitted).toBeGreaterThan(0)
  })

  test('loses nothing when its connections are cut again and again', async () => {
    await start()
    const killer = await createClient({ url: server.url }).connect()
    let cuts = 0
    const timer = setInterval(async () => {
      if (++cuts > 8) return
      await killer.sendCommand(['CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes'])
    }, 30)
    await through(() => Promise.resolve(), 300)
    clearInterval(timer)
    expect(cuts).toBeGreaterThan(3)
    killer.destroy()
  })

  test.each(long ? ['long'] : [])('gets over a Redis that stands still for a while', async () => {
    await start()
    const { worker } = await through(async () => {
      server.pause()
      setTimeout(() => server.resume(), 3500)
    })
    expect(worker.redisErrors).toBeGreaterThan(0)
  })

  test('throws what it knows and then `network` when Redis stays away', async () => {
    await start()
    const connection = server.url
    const queue = createBatchQueue<number, number>({ name: 'a', connection, redisTimeoutMs: 1000 })
    const worker = createBatchWorker<number, number>({ name: 'a', connection, redisTimeoutMs: 1000, work: (item) => item * 2 })
    const outcomes = queue.run(numbers(500), { window: 4 })
    await outcomes.next()
    await server.kill()
    const closed = worker.close({ graceMs: 100 })
    const startedAt = performance.now()
    let error: unknown
    try {
      for await (const outcome of outcomes) expect(outcome.status).toBe('fulfilled')
    } catch (caught) {
      error = caught
    }
    expect(isMillraceError(error, 'network')).toBe(true)
    expect(performance.now() - startedAt).toBeLessThan(6000)
    await Promise.all([queue.close({ graceMs: 100 }), closed])
  })

  test('a wrong password is told at once, and is in no error', async () => {
    await start()
    const admin = await createClient({ url: server.url }).connect()
    await admin.sendCommand(['CONFIG', 'SET', 'requirepass', 'right-secret'])
    const connection = server.url.replace('redis://', 'redis://:wrong-secret@')
    await using queue = createBatchQueue<number, number>({ name: 'a', connection })
    const error = await queue
      .run([1])
      .next()
      .catch((caught: unknown) => caught)
    expect(isMillraceError(error, 'unauthorized')).toBe(true)
    expect(JSON.stringify(error) + String((error as Error).stack)).not.toContain('secret')
    await admin.sendCommand(['CONFIG', 'SET', 'requirepass', ''])
    admin.destroy()
  })

  test('close ends within its grace while Redis is frozen and work is running', async () => {
    await start()
    const common = { name: 'a', connection: server.url }
    const queue = createBatchQueue<number, number>(common)
    const worker = createBatchWorker<number, number>({
      ...common,
      work: (_, { signal }) => wait(60_000, 1, { signal })
    })
    const first = queue
      .run(numbers(10))
      .next()
      .catch((caught: unknown) => caught)
    await expect.poll(() => worker.stats().running, { timeout: 5000 }).toBe(10)
    server.pause()
    const startedAt = performance.now()
    await Promise.all([queue.close({ graceMs: 100 }), worker.close({ graceMs: 100 })])
    expect(performance.now() - startedAt).toBeLessThan(4000)
    expect(isMillraceError(await first, 'closed')).toBe(true)
    await Promise.all([queue.close(), worker.close()])
  })

  test('a process that closes all ends by itself, with Redis gone or frozen', async () => {
    await start()
    const gone = server.url
    await server.stop()
    await start()
    server.pause()
    async function close(url: string): Promise<unknown> {
      const child = spawn(process.execPath, ['--conditions=@millrace/source', program, url], {
        stdio: ['ignore', 'pipe', 'inherit']
      })
      const told = text(child.stdout)
      const [code] = await once(child, 'exit')
      return [code, await told]
    }
    expect(await Promise.all([close(gone), close(server.url)])).toEqual([
      [0, 'closed\n'],
      [0, 'closed\n']
    ])
  })

  test('a run that hands nothing in gets its results from a Redis that is full; only who must write fails', async () => {
    await start()
    const name = randomUUID()
    const client = createClient({ url: server.url })
    await client.connect()
    const common = { name, connection: server.url }
    await using queue = createBatchQueue<number, number>({ ...common, checkMs: 60_000 })
    await using worker = createBatchWorker<number, number>({
      ...common,
      redisTimeoutMs: 3000,
      lockMs: 1000,
      async work(item) {
        await wait(500)
        return item * 2
      }
    })
    const gather = async (items: Iterable<number> | AsyncIterable<number>): Promise<Outcome<number>[]> => {
      const outcomes: Outcome<number>[] = []
      for await (const outcome of queue.run(items)) outcomes.push(outcome)
      return outcomes
    }
    const handedIn = gather(numbers(10))
    const writing = gather(
      (async function* () {
        yield 1
        await wait(400)
        yield 2
      })()
    ).catch((error: unknown) => error)
    await wait(250)
    await client.configSet('maxmemory', '1')
    await wait(1200)
    await client.configSet('maxmemory', '0')
    expectEach(await handedIn, 10)
    expect(isMillraceError(await writing)).toBe(true)
    expect(worker.stats().running).toBe(0)
    client.destroy()
  })
})

describe.skipIf(skip !== undefined)('a worker that has lost its claim', { timeout: 20_000 }, () => {
  test('still aborts the signal of what it runs when it is closed', async () => {
    await start()
    const common = { name: randomUUID(), connection: server.url, lockMs: 500 }
    const aborted: string[] = []
    const made = (label: string) =>
      createBatchWorker<number, number>({
        ...common,
        work: (_, { signal }) =>
          new Promise((_resolve, reject) => {
            signal.addEventListener('abort', () => {
              aborted.push(label)
              reject(signal.reason)
            })
          })
      })
    const queue = createBatchQueue<number, number>({ name: common.name, connection: server.url })
    const first = made('first')
    const run = queue.run([1])
    // Closed with the queue; what it then throws is told in another test.
    const pending = run.next().catch(() => undefined)
    await expect.poll(() => first.stats().running).toBe(1)
    const second = made('second')
    await wait(200)
    // The loop stands still for longer than the lock.
    for (const from = performance.now(); performance.now() - from < 700; );
    await first.close({ graceMs: 200 })
    await expect.poll(() => aborted).toContain('first')
    await expect.poll(() => first.stats().running).toBe(0)
    await queue.close()
    await pending
    await second.close({ graceMs: 100 })
  })
})
