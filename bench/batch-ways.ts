// The ways to get all items through some work, so many at a time. Each gives the sum of what came out, for a check.
import type { batch as Batch, BatchOptions } from '@millrace/batch'

export type Items = readonly number[] | AsyncIterable<number>
type Work = (item: number) => Promise<number>

export interface Job {
  readonly items: Items
  readonly work: Work
  readonly concurrency: number
  /** What is known of an item beforehand. */
  readonly lengthOf: (item: number) => number
}

/** Loads what it needs, so that no run pays for that. */
type Way = () => Promise<(job: Job) => Promise<number>>

export const ways: Readonly<Record<string, Way>> = {
  'bare loops': async () => bareLoops,
  'bare loops again': async () => bareLoops,
  batch: async () => overBatch(await load(), () => ({})),
  'batch in input order': async () => overBatch(await load(), () => ({ order: 'input' })),
  'batch longest first': async () => overBatch(await load(), ({ lengthOf }) => ({ length: lengthOf })),

  /** Reads no async iterable. */
  async 'p-limit'() {
    const { default: pLimit } = await import('p-limit')
    return async ({ items, work, concurrency }) => sumOf(await pLimit(concurrency).map(await read(items), work))
  },

  /** As its readme says: an item is taken when there is room for it. */
  async 'p-queue'() {
    const { default: PQueue } = await import('p-queue')
    return async ({ items, work, concurrency }) => {
      const queue = new PQueue({ concurrency })
      let sum = 0
      for await (const item of items) {
        if (queue.size >= concurrency) await queue.onSizeLessThan(concurrency)
        void queue
          .add(() => work(item))
          .then((value) => {
            sum += value
          })
      }
      await queue.onIdle()
      return sum
    }
  },

  /** Reads no iterable but arrays. */
  async 'LangChain .batch'() {
    const { RunnableLambda } = await import('@langchain/core/runnables')
    return async ({ items, work, concurrency }) => {
      const lambda = new RunnableLambda<number, number>({ func: work })
      return sumOf(await lambda.batch([...(await read(items))], { maxConcurrency: concurrency }))
    }
  },

  async 'fixed windows'() {
    return async ({ items, work, concurrency }) => {
      let sum = 0
      const run = async (window: readonly number[]): Promise<void> => {
        sum += sumOf(await Promise.all(window.map(work)))
      }
      if (!(Symbol.asyncIterator in items)) {
        for (let at = 0; at < items.length; at += concurrency) await run(items.slice(at, at + concurrency))
        return sum
      }
      let window: number[] = []
      for await (const item of items) {
        if (window.push(item) < concurrency) continue
        await run(window)
        window = []
      }
      await run(window)
      return sum
    }
  }
}

async function bareLoops({ items, work, concurrency }: Job): Promise<number> {
  let sum = 0
  async function overArray(iterator: Iterator<number>): Promise<void> {
    for (let next = iterator.next(); next.done !== true; next = iterator.next()) {
      const value = await work(next.value)
      sum += value
    }
  }
  async function overAsync(iterator: AsyncIterator<number>): Promise<void> {
    for (let next = await iterator.next(); next.done !== true; next = await iterator.next()) {
      const value = await work(next.value)
      sum += value
    }
  }
  if (Symbol.asyncIterator in items) {
    const iterator = items[Symbol.asyncIterator]()
    await Promise.all(Array.from({ length: concurrency }, () => overAsync(iterator)))
  } else {
    const iterator = items[Symbol.iterator]()
    await Promise.all(Array.from({ length: concurrency }, () => overArray(iterator)))
  }
  return sum
}

async function load(): Promise<typeof Batch> {
  return (await import('@millrace/batch')).batch
}

function overBatch(batch: typeof Batch, optionsOf: (job: Job) => BatchOptions<number>): (job: Job) => Promise<number> {
  return async (job) => {
    let sum = 0
    for await (const outcome of batch(job.items, job.work, { concurrency: job.concurrency, ...optionsOf(job) })) {
      if (outcome.status === 'rejected') throw outcome.reason
      sum += outcome.value
    }
    return sum
  }
}

async function read(items: Items): Promise<readonly number[]> {
  if (!(Symbol.asyncIterator in items)) return items
  const all: number[] = []
  for await (const item of items) all.push(item)
  return all
}

const sumOf = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0)

export async function openWay(name: string): Promise<(job: Job) => Promise<number>> {
  const way = ways[name]
  if (way === undefined) throw new TypeError(`${name} is no way; they are ${Object.keys(ways).join(', ')}`)
  return way()
}
