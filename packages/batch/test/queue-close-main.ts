import { setTimeout as wait } from 'node:timers/promises'
import { createBatchQueue, createBatchWorker } from '@millrace/batch/bullmq'

/** Asks a Redis that does not answer, closes all, and has to end by itself. */
const common = { name: 'a', connection: process.argv[2] as string }
const queue = createBatchQueue<number, number>(common)
const worker = createBatchWorker<number, number>({ ...common, work: (item) => item })
const first = queue
  .run([1, 2, 3])
  .next()
  .then(
    () => 'an outcome',
    (error: { code?: string }) => error.code
  )
await wait(100)
await Promise.all([queue.close({ graceMs: 100 }), worker.close({ graceMs: 100 })])
console.log(await first)
