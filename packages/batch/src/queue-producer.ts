import { randomUUID } from 'node:crypto'
import { checkOptions } from '@millrace/core'
import { Queue } from 'bullmq'
import type { Outcome } from './outcome.ts'
import { createLanes } from './queue-lanes.ts'
import { blockSeconds, createLink, type RedisClient } from './queue-link.ts'
import { type BatchQueueOptions, queueSettings, wholeNumber } from './queue-options.ts'
import { createRun, type Pending, type QueueRun, type QueueRunOptions } from './queue-run.ts'
import type { BatchQueueStats } from './queue-stats.ts'
import { abandoned, closedError, jobIdOf, packItem, type QueuedItem, resultKeys, unpack } from './queue-wire.ts'

/** Sends items to workers on any machine and gives back what became of them. */
export interface BatchQueue<I, O> extends AsyncDisposable {
  /**
   * Yields one outcome for each item, exactly once. Nothing is read from the input before the first outcome is asked for. Several
   * runs at a time share the workers and nothing else.
   *
   * The loop throws `network` when Redis was away longer than `redisTimeoutMs`, `unavailable` when it refuses (full), and what
   * the input throws.
   *
   * @throws {TypeError} when an option is wrong
   */
  run(items: Iterable<I> | AsyncIterable<I>, options?: QueueRunOptions): AsyncIterableIterator<Outcome<O>>
  stats(): BatchQueueStats
  /** Ends all runs with `closed`, takes their items out of the queue, and gives up what Redis has not answered after `graceMs`. */
  close(options?: { /** @default 2000 */ readonly graceMs?: number }): Promise<void>
}

type Run = QueueRun<unknown>

/** Results that one answer of Redis may hold: of 1 MiB each, a slow link is to bring them all before it counts as silent. */
const readCount = 4
/** Of items that are sent at a time. */
const abreastBytes = 2_097_152
const maxFailures = 3
/** Items that Redis is asked about at a time: a command behind too many others is answered too late, and sent once more. */
const abreast = 500

/**
 * The producer's side of a queue on BullMQ. It connects at once and keeps the connection up.
 *
 * Results wait in a stream of this producer in Redis until it has read them. It also looks up what is under way every
 * `checkMs` and after each reconnect, so that an item that Redis has lost is sent again.
 *
 * @throws {TypeError} when an option is wrong
 *
 * @example
 * await using queue = createBatchQueue<string, number>({ name: 'lengths', connection: 'redis://127.0.0.1:6379' })
 * for await (const outcome of queue.run(['a', 'bb'])) console.log(outcome)
 */
export function createBatchQueue<I, O>(options: BatchQueueOptions): BatchQueue<I, O> {
  const settings = queueSettings(options)
  const { name, prefix, resultTtlMs, checkMs } = settings
  const link = createLink(settings.address, settings.redisTimeoutMs)
  const from = randomUUID()
  const keys = resultKeys(prefix, name, from)
  const bull = new Queue(name, {
    connection: link.forBull,
    prefix,
    // Else a connection that breaks during the check makes the queue useless for good.
    skipVersionCheck: true,
    skipWaitingForReady: true,
    // Nobody reads BullMQ's events here.
    streams: { events: { maxLen: 1000 } }
  })
  bull.on('error', () => {
    // Counted at the client; what a command of ours meets, its caller is told.
  })
  const lanes = createLanes(abreast, abreastBytes)
  const runs = new Map<string, Run>()
  const working = new Set<Promise<unknown>>()
  let reader: RedisClient | undefined
  let reading = false
  let checking = false
  let timer: NodeJS.Timeout | undefined
  let resubmitted = 0
  let dropped = 0
  let failedCancels = 0
  let failedHooks = 0
  let closing: Promise<void> | undefined

  /** Keeps `close` waiting for it. */
  function inBackground(work: Promise<unknown>, fail: (error: unknown) => void = failAll): void {
    const settled = work.catch(fail).finally(() => working.delete(settled))
    working.add(settled)
  }

  function failAll(error: unknown): void {
    for (const one of runs.values()) one.fail(error)
  }

  async function submit(id: string, of: Run, index: number, pending: Pending): Promise<void> {
    const jobId = jobIdOf(id, index)
    const item: QueuedItem = { from, run: id, index, resultTtlMs, item: pending.text }
    const jobOptions = { jobId, removeOnComplete: true, removeOnFail: { age: Math.ceil(resultTtlMs / 1000), count: 1000 } }
    const isWanted = (): boolean => of.pending.get(index) === pending
    try {
      await lanes(async () => {
        if (!isWanted()) return
        await link.ask((client) => client.multi().hSet(keys.open, jobId, '1').pExpire(keys.open, resultTtlMs).exec())
        // Not addBulk: its transaction fails for ever against a Redis that restarted without its scripts.
        await link.ask(() => bull.add('item', item, jobOptions))
      }, Buffer.byteLength(pending.text))
    } catch (error) {
      // Its result came all the same: the command ran, and its answer was lost.
      if (isWanted()) throw error
      link.count()
    }
    pending.submitted = true
    // It may have been given up meanwhile.
    if (!isWanted()) await cancel(id, [index])
  }

  async function cancel(id: string, indexes: readonly number[]): Promise<void> {
    const ids = indexes.map((index) => jobIdOf(id, index))
    try {
      await link.ask((client) => client.hDel(keys.open, ids))
      // One that runs is locked and stays: its worker sees that it is not open any more.
      await Promise.all(ids.map((jobId) => lanes(() => link.ask(() => bull.remove(jobId)))))
    } catch {
      // Their results are not heard all the same, and the keys expire.
      failedCancels += indexes.length
    }
  }

  async function read(): Promise<void> {
    if (reading) return
    reading = true
    let last = '0'
    try {
      reader ??= link.open()
      while (runs.size > 0) {
        const replies = await link.ask(
          (client) => client.xRead({ key: keys.results, id: last }, { BLOCK: blockSeconds * 1000, COUNT: readCount }),
          reader
        )
        const entries = (replies as { messages: Entry[] }[] | null)?.[0]?.messages ?? []
        last = entries.at(-1)?.id ?? last
        await take(entries)
      }
    } finally {
      reading = false
    }
  }

  async function take(entries: readonly Entry[]): Promise<void> {
    for (const { message } of entries) {
      const { i: jobId = '', r: text = '' } = message
      const [, id = '', index = ''] = /^(.*)-(\d+)$/.exec(jobId) ?? []
      if (runs.get(id)?.settle(unpack(Number(index), text)) !== true) dropped++
    }
    if (entries.length === 0) return
    await link.ask((client) =>
      client.xDel(
        keys.results,
        entries.map(({ id }) => id)
      )
    )
  }

  /** Looks up all that is under way: takes results that were missed, sends again what is lost, and keeps the keys alive. */
  async function check(): Promise<void> {
    if (checking || runs.size === 0) return
    checking = true
    clearTimeout(timer)
    try {
      const asked = [...runs].flatMap(([id, of]) =>
        [...of.pending].flatMap(([index, pending]) =>
          pending.submitted ? [{ id, of, index, pending, jobId: jobIdOf(id, index) }] : []
        )
      )
      // Also when there are none: the keys are to live on.
      for (let at = 0; at === 0 || at < asked.length; at += abreast) await lookUp(asked.slice(at, at + abreast))
    } finally {
      checking = false
      schedule()
    }
  }

  async function lookUp(asked: readonly Asked[]): Promise<void> {
    // Jobs first, then open items, then results: a job that ends in between has closed its item, and stored its result in the same
    // step, before it went. Not in MULTI, which a full Redis refuses.
    const jobs = await Promise.all(
      asked.map(({ jobId }) => link.ask((client) => client.hmGet(`${prefix}:${name}:${jobId}`, ['name', 'failedReason'])))
    )
    const open = await link.ask((client) => client.hmGet(keys.open, ['', ...asked.map(({ jobId }) => jobId)]))
    for (let after = '-'; ; ) {
      const entries: Entry[] = await link.ask((client) => client.xRange(keys.results, after, '+', { COUNT: readCount }))
      await take(entries)
      if (entries.length < readCount) break
      after = `(${entries.at(-1)?.id}`
    }
    await link.ask((client) => Promise.all([keys.open, keys.results].map((key) => client.pExpire(key, resultTtlMs))))
    for (const [at, { id, of, index, pending, jobId }] of asked.entries()) {
      if (of.pending.get(index) !== pending) continue
      const [found, reason] = jobs[at] ?? []
      if (typeof reason === 'string') {
        await link.ask(() => bull.remove(jobId))
        if (/stalled/.test(reason) || ++pending.failures > maxFailures) {
          await cancel(id, [index])
          of.settle({ index, status: 'rejected', reason: abandoned() })
          continue
        }
      } else if (typeof found === 'string' && open[at + 1] !== null) continue
      resubmitted++
      pending.submitted = false
      inBackground(submit(id, of, index, pending), of.fail)
    }
  }

  function schedule(): void {
    clearTimeout(timer)
    if (runs.size === 0 || closing !== undefined) return
    // The connection that reads keeps the process alive.
    timer = setTimeout(() => inBackground(check()), Math.min(checkMs, resultTtlMs / 3)).unref()
  }

  link.onReady(() => inBackground(check()))

  function start(items: Iterable<I> | AsyncIterable<I>, runOptions: QueueRunOptions = {}): AsyncIterableIterator<Outcome<O>> {
    checkOptions<QueueRunOptions>('run', runOptions, { window: 1, order: 1, signal: 1, onProgress: 1 })
    const id = randomUUID()
    const made: QueueRun<O> = createRun<I, O>(items, runOptions, {
      begin() {
        if (closing !== undefined) {
          made.fail(closedError())
          return
        }
        runs.set(id, made)
        read().catch(failAll)
        schedule()
      },
      pack: (item, index) => packItem(item, index, settings.maxItemBytes),
      // Other runs may need nothing written, as where Redis is full.
      submit: (index, pending) => inBackground(submit(id, made, index, pending), made.fail),
      cancel: (indexes) => inBackground(cancel(id, indexes)),
      end() {
        runs.delete(id)
        if (runs.size === 0) clearTimeout(timer)
      },
      count() {
        failedHooks++
      }
    })
    return made.outcomes
  }

  async function end(graceMs: number): Promise<void> {
    const { promise: late, resolve } = Promise.withResolvers<void>()
    const impatient = setTimeout(resolve, graceMs)
    try {
      failAll(closedError())
      clearTimeout(timer)
      await Promise.race([late, farewell()])
    } finally {
      clearTimeout(impatient)
      link.close()
      await bull.close()
    }
  }

  async function farewell(): Promise<void> {
    try {
      // Cancelling may begin more of it.
      while (working.size > 0) await Promise.all(working)
      await link.ask((client) => client.del([keys.open, keys.results]))
    } catch {
      // Redis is away: the keys expire by themselves.
      failedCancels++
    }
  }

  return {
    run: start,
    stats: () => ({
      runs: runs.size,
      waiting: [...runs.values()].reduce((sum, { pending }) => sum + pending.size, 0),
      resubmitted,
      dropped,
      failedCancels,
      failedHooks,
      redisErrors: link.errors
    }),
    close({ graceMs = 2000 } = {}) {
      closing ??= end(wholeNumber('graceMs', graceMs, 0))
      return closing
    },
    [Symbol.asyncDispose]() {
      return this.close()
    }
  }
}

/** An item that is looked up. */
interface Asked {
  readonly id: string
  readonly of: Run
  readonly index: number
  readonly pending: Pending
  readonly jobId: string
}

interface Entry {
  readonly id: string
  readonly message: { readonly i?: string; readonly r?: string }
}
