import type { Job } from 'bullmq'

/** The locks of the jobs that a worker has in hand. */
export interface Claims {
  /** Renews the job's lock until the claim is disposed. */
  hold(job: Job): Disposable
  readonly size: number
}

/**
 * Renews each lock every quarter of its time. BullMQ's own renewal goes by the wall clock: set back, it stops for as long, and what
 * runs is run once more elsewhere.
 */
export function createClaims(lockMs: number, told: { lost(): void; failed(): void }): Claims {
  const held = new Set<Job>()
  let timer: NodeJS.Timeout | undefined

  function arm(): void {
    timer ??= setTimeout(renewAll, lockMs / 4).unref()
  }

  async function renewAll(): Promise<void> {
    await Promise.all([...held].map(renew))
    timer = undefined
    if (held.size > 0) arm()
  }

  async function renew(job: Job): Promise<void> {
    try {
      if ((await job.extendLock(job.token ?? '', lockMs)) === 1) return
      // One that ended meanwhile has no lock any more.
      if (held.delete(job)) told.lost()
    } catch {
      // Redis is away; counted, and tried again.
      told.failed()
    }
  }

  return {
    get size() {
      return held.size
    },
    hold(job) {
      held.add(job)
      arm()
      return { [Symbol.dispose]: () => void held.delete(job) }
    }
  }
}
