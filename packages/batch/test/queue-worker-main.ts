import { appendFileSync } from 'node:fs'
import { setTimeout as wait } from 'node:timers/promises'
import { type BatchWorkerOptions, createBatchWorker } from '@millrace/batch/bullmq'

/** A worker in a process of its own: notes each item it begins in a file, and tells its counts when it is told to end. */
interface Given extends Omit<BatchWorkerOptions<number, number>, 'work'> {
  readonly file: string
  readonly workMs: number
}

const { file, workMs, ...options } = JSON.parse(process.argv[2] as string) as Given
const worker = createBatchWorker<number, number>({
  ...options,
  async work(item, { index, idempotencyKey, signal }) {
    appendFileSync(file, `${JSON.stringify({ pid: process.pid, index, key: idempotencyKey })}\n`)
    await wait(workMs, undefined, { signal })
    return item * 2
  }
})
process.once('SIGTERM', async () => {
  await worker.close()
  console.log(JSON.stringify(worker.stats()))
})
