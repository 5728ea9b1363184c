// A process that writes or follows a log for redis.test.ts, as its one argument, a JSON `Task`, says. It reports by messages.
import { createHash } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { seededRandom } from '@millrace/testkit'
import { createRedisLog, type RedisLog } from '../src/redis.ts'
import { connect } from './redis-connection.ts'

interface Place {
  readonly url: string
  readonly id: string
}
/** Stops for good behind item number `stopAt`. */
interface Write extends Place {
  readonly does: 'write'
  readonly items: number
  readonly seed: number
  readonly stopAt?: number
}
/** One reader for each delay. */
interface Follow extends Place {
  readonly does: 'follow'
  readonly delaysMs: readonly number[]
}
/** Reads once, or twice, and leaves the rest to the end of the process. */
interface Forget extends Place {
  readonly does: 'forget'
  readonly reads: 1 | 2
}
export type Task = Write | Follow | Forget

const pieces = ['a', 'ü', '😀', '\ud83d', '\ude00', '"', '\\', '\n', '\u0000', '\u2028', 'न', '']

/** The items that `seed` stands for. */
export function itemsOf(seed: number, count: number): string[] {
  const random = seededRandom(seed)
  const piece = (): string => pieces[Math.floor(random() * pieces.length)] as string
  return Array.from({ length: count }, (_, number) => `${number}${piece()}${piece()}`)
}

export function digest(items: readonly string[]): string {
  return createHash('sha256').update(JSON.stringify(items)).digest('hex')
}

function report(message: unknown): void {
  process.send?.(message)
}

async function write(log: RedisLog, { id, items: count, seed, stopAt }: Write): Promise<void> {
  const random = seededRandom(seed)
  const items = itemsOf(seed, count)
  const writer = log.write(id)
  for (let at = 0; at < items.length; ) {
    const batch = items.slice(at, at + 1 + Math.floor(random() * 60))
    writer.append(batch)
    at += batch.length
    if (stopAt !== undefined && at >= stopAt) {
      while (log.stats().appended < at) await delay(1)
      report({ appended: at })
      await delay(60_000)
    }
    if (random() < 0.3) await delay(Math.floor(random() * 8))
  }
  await writer.end()
  const { appended, writeFailures } = log.stats()
  report({ appended, writeFailures })
}

async function follow(log: RedisLog, { id, delaysMs }: Follow): Promise<void> {
  async function read(delayMs: number): Promise<{ count: number; digest: string }> {
    await delay(delayMs)
    const items: string[] = []
    for await (const batch of log.follow(id)) items.push(...batch)
    return { count: items.length, digest: digest(items) }
  }
  const results = Promise.all(delaysMs.map(read))
  report('reading')
  report({ results: await results })
}

async function run(task: Task): Promise<void> {
  const connection = await connect(task.url)
  const log = createRedisLog({ command: connection.command })
  if (task.does === 'forget') {
    connection.unref()
    const reader = log.follow(task.id)[Symbol.asyncIterator]()
    for (let reads = 0; reads < task.reads; reads++) {
      if (reads > 0) await delay(30) // reading goes on meanwhile
      report({ read: (await reader.next()).value })
    }
    return // nothing is closed: what an open log keeps alive is the question
  }
  await (task.does === 'follow' ? follow(log, task) : write(log, task))
  await log.close()
  await connection.close()
}

if (process.argv[1] === import.meta.filename) {
  await run(JSON.parse(process.argv[2] ?? '') as Task)
  process.disconnect?.()
}
