/** What a producer has counted so far. */
export interface BatchQueueStats {
  readonly runs: number
  /** Items that wait for a worker or are with one. */
  readonly waiting: number
  /** Items put into the queue again, because Redis had lost them. */
  readonly resubmitted: number
  /** Results of items that had one already. */
  readonly dropped: number
  /** Items that could not be taken out of the queue; no result of theirs is heard. */
  readonly failedCancels: number
  /** Hooks of yours that threw: `onProgress` and `return` of the input. */
  readonly failedHooks: number
  /** Errors of connections to Redis. */
  readonly redisErrors: number
}

/** What a worker has counted so far. */
export interface BatchWorkerStats {
  /** Items that work runs for, or that wait for the limiter. */
  readonly running: number
  readonly fulfilled: number
  readonly rejected: number
  /** Items that nobody waited for: cancelled, or done by another worker. */
  readonly skipped: number
  /** Results that came too late: the item was cancelled, or done by another worker. */
  readonly late: number
  /** Items put back behind a pause. */
  readonly paused: number
  /** Items of dead workers that this one put back into the queue. */
  readonly recovered: number
  /** Claims that could not be renewed in time. */
  readonly lostLocks: number
  /** Calls of `pause` and `cost` that threw. */
  readonly failedHooks: number
  /** Errors of connections to Redis. */
  readonly redisErrors: number
}
