import { isMillraceError, type LinkedAbort, linkAbort, MillraceError } from '@millrace/core'
import { type Job, RateLimitError, Worker } from 'bullmq'
import { createClaims } from './queue-claims.ts'
import { createLink } from './queue-link.ts'
import { wholeNumber } from './queue-options.ts'
import type { BatchWorkerStats } from './queue-stats.ts'
import {
  jobIdOf,
  type PackedOutcome,
  packError,
  packValue,
  pausedCount,
  pauseScript,
  putScript,
  type QueuedItem,
  refuseScript,
  resultKeys
} from './queue-wire.ts'
import { type BatchWorkerOptions, type ItemCost, workerSettings } from './queue-worker-options.ts'

export interface BatchWorker extends AsyncDisposable {
  stats(): BatchWorkerStats
  /**
   * Takes no more items and waits for those that run; after `graceMs` it aborts their signals and puts them back into the queue.
   * Ends within a second of that, whatever Redis does.
   */
  close(options?: { /** @default 10_000 */ readonly graceMs?: number }): Promise<void>
}

interface Running extends Pick<QueuedItem, 'from' | 'run' | 'index'> {
  readonly linked: LinkedAbort
  unwanted: boolean
  /** Work was called. */
  began: boolean
  /** Waits for work no longer, even if it ignores its signal. */
  readonly giveUp: (reason: unknown) => void
}

const lookMs = 500
const maxPauseMs = 86_400_000
/** How long nobody takes an item while as many wait for the limiter as may. */
const fullMs = 1_000

/**
 * Works on the items of all producers of one queue. It begins at once, and keeps trying while Redis is away.
 *
 * @throws {TypeError} when an option is wrong
 *
 * @example
 * await using worker = createBatchWorker<string, number>({
 *   name: 'lengths',
 *   connection: 'redis://127.0.0.1:6379',
 *   work: (text) => text.length
 * })
 * await once(process, 'SIGTERM')
 */
export function createBatchWorker<I, O>(options: BatchWorkerOptions<I, O>): BatchWorker {
  const { name, prefix, address, redisTimeoutMs, work, concurrency, limiter, cost, pause, ...settings } = workerSettings(options)
  const { maxPauses, lockMs, maxStalls, maxResultBytes } = settings
  const link = createLink(address, redisTimeoutMs)
  const running = new Set<Running>()
  const stored = new WeakSet<object>()
  const counts = { fulfilled: 0, rejected: 0, skipped: 0, late: 0, paused: 0, recovered: 0, lostLocks: 0, failedHooks: 0 }
  const claims = createClaims(lockMs, {
    lost: () => counts.lostLocks++,
    failed: () => link.count()
  })
  const pauseKey = `${prefix}:${name}:limiter`
  let handingBack = false
  let looking: NodeJS.Timeout | undefined
  let closing: Promise<void> | undefined

  const bull = new Worker<QueuedItem>(name, perform, {
    connection: link.forBull,
    prefix,
    concurrency,
    lockDuration: lockMs,
    skipLockRenewal: true,
    stalledInterval: Math.ceil(lockMs / 2),
    maxStalledCount: maxStalls,
    // The waits of BullMQ are as short as a connection may be silent.
    drainDelay: 1,
    runRetryDelay: 500,
    skipVersionCheck: true,
    // It looks for a pause only with a limit of its own: one that is never reached.
    limiter: { max: pausedCount, duration: 1 },
    maximumRateLimitDelay: 5_000
  })
  bull.on('error', () => {
    // Counted at the client; a result that could not be stored is stored by the next worker that has the item.
  })
  // A connection that breaks just when BullMQ says that a job is done makes it a failed one. Its result is stored: it may go.
  bull.on('failed', (job) => {
    if (job !== undefined && stored.has(job)) link.ask(() => job.remove()).catch(() => link.count())
  })
  bull.on('stalled', () => counts.recovered++)

  async function isOpen({ from, run, index }: Pick<QueuedItem, 'from' | 'run' | 'index'>): Promise<boolean> {
    return (await link.ask((client) => client.hExists(resultKeys(prefix, name, from).open, jobIdOf(run, index)))) === 1
  }

  /** Its value is BullMQ's: nothing. Results go to the one who asked, in one step with the end of the item's being open. */
  async function perform(job: Job<QueuedItem>): Promise<null> {
    const { from, run, index, resultTtlMs } = job.data
    using _ = claims.hold(job)
    if (!(await isOpen(job.data))) return skip()
    if (handingBack) return await putBack(0)
    using linked = linkAbort()
    const { promise: givenUp, reject: giveUp } = Promise.withResolvers<never>()
    const entry: Running = { from, run, index, linked, unwanted: false, began: false, giveUp }
    running.add(entry)
    look()
    let outcome: PackedOutcome
    try {
      outcome = packValue(await Promise.race([worked(job, entry), givenUp]), maxResultBytes)
    } catch (error) {
      // Its error is that of the abort. Who lost sight of the item may have sent it again meanwhile.
      if (entry.unwanted && !(await isOpen(job.data))) return skip()
      if (handingBack || entry.unwanted) return await putBack(0)
      // It is not the item's fault, which has not begun.
      if (!entry.began && isMillraceError(error, 'queue-full')) return await putBack(fullMs)
      const pauseMs = pauseOf(error)
      if (pauseMs !== undefined) await refuse(job, pauseMs)
      outcome = packError(error, maxResultBytes)
    } finally {
      running.delete(entry)
    }
    const { open, results } = resultKeys(prefix, name, from)
    const script = { keys: [open, results], arguments: [jobIdOf(run, index), outcome.text, `${resultTtlMs}`] }
    const first = await link.ask((client) => client.eval(putScript, script))
    stored.add(job)
    if (first !== 1) counts.late++
    else if (outcome.fulfilled) counts.fulfilled++
    else counts.rejected++
    return null
  }

  function skip(): null {
    counts.skipped++
    return null
  }

  async function worked(job: Job<QueuedItem>, entry: Running): Promise<O> {
    const { run, index } = entry
    const { signal } = entry.linked
    const item = JSON.parse(job.data.item) as I
    const begin = async (permit?: object): Promise<O> => {
      entry.began = true
      return work(item, { index, signal, attempt: job.attemptsStarted, idempotencyKey: jobIdOf(run, index), permit })
    }
    if (limiter === undefined) return begin()
    // It waits here instead of in Redis: no reason to reject it, however long.
    return limiter.run(costOf(item), begin, { signal, queueMs: Number.POSITIVE_INFINITY })
  }

  function costOf(item: I): ItemCost {
    try {
      return cost(item)
    } catch (error) {
      counts.failedHooks++
      throw error
    }
  }

  function pauseOf(error: unknown): number | undefined {
    try {
      const ms = pause(error)
      return ms !== undefined && ms >= 0 ? Math.min(Math.ceil(ms), maxPauseMs) : undefined
    } catch {
      // The item is rejected with the error it had; counted.
      counts.failedHooks++
      return undefined
    }
  }

  /** Returns only when the item has been refused too often. */
  async function refuse(job: Job, pauseMs: number): Promise<void> {
    if (maxPauses === 0) return
    const keys = [pauseKey, `${prefix}:${name}:${job.id}`]
    const script = { keys, arguments: [`${pauseMs}`, `${pausedCount}`, `${maxPauses}`] }
    if ((await link.ask((client) => client.eval(refuseScript, script))) === 0) return
    if (pauseMs > 0) counts.paused++
    throw new RateLimitError()
  }

  async function putBack(pauseMs: number): Promise<never> {
    if (pauseMs > 0) {
      counts.paused++
      const script = { keys: [pauseKey], arguments: [`${pauseMs}`, `${pausedCount}`] }
      await link.ask((client) => client.eval(pauseScript, script))
    }
    // BullMQ's word for: back to the head of the queue.
    throw new RateLimitError()
  }

  /** While something runs: is it still wanted? */
  function look(): void {
    looking ??= setTimeout(async () => {
      try {
        await Promise.all(
          [...running].map(async (entry) => {
            if (entry.unwanted || (await isOpen(entry)) || !running.has(entry)) return
            entry.unwanted = true
            entry.linked.abort(unwanted())
          })
        )
      } catch {
        // Redis is away, which the client counted: what runs goes on.
      }
      looking = undefined
      if (running.size > 0) look()
    }, lookMs).unref()
  }

  async function end(graceMs: number): Promise<void> {
    const ended = bull.close()
    try {
      // Where it has nothing in hand, what does not end is BullMQ's wait for Redis. Work whose claim was lost still runs.
      if ((await within(graceMs, ended)) || (claims.size === 0 && running.size === 0)) return
      handingBack = true
      const reason = new MillraceError('closed', 'the worker was closed', { details: {} })
      for (const { linked } of running) linked.abort(reason)
      if ((await within(500, ended)) || running.size === 0) return
      for (const { giveUp } of running) giveUp(reason)
      await within(500, ended)
    } finally {
      clearTimeout(looking)
      link.close()
    }
  }

  return {
    stats: () => ({ running: running.size, ...counts, redisErrors: link.errors }),
    close({ graceMs = 10_000 } = {}) {
      closing ??= end(wholeNumber('graceMs', graceMs, 0))
      return closing
    },
    [Symbol.asyncDispose]() {
      return this.close()
    }
  }
}

async function within(ms: number, work: Promise<void>): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<false>()
  const timer = setTimeout(resolve, ms, false)
  try {
    return await Promise.race([work.then(() => true), promise])
  } finally {
    clearTimeout(timer)
  }
}

function unwanted(): MillraceError {
  return new MillraceError('closed', 'nobody waits for this item any more', { details: {} })
}
