/** How far a batch is. Counts are of items, times in milliseconds. */
export interface Progress {
  /** Items read from the input so far; how many there are only the input knows. */
  readonly pulled: number
  /** Items that work runs for at this moment, or that wait for a full queue. */
  readonly running: number
  /** Items that have succeeded, replayed ones among them. */
  readonly fulfilled: number
  /** Items that have failed, replayed and aborted ones among them. */
  readonly rejected: number
  /** Items whose outcome came from the journal. */
  readonly replayed: number
  /** Tries again behind a pause. */
  readonly retried: number
  /** Time in which no item was started, because a limit said so. */
  readonly pausedMs: number
  /** Since the first outcome was asked for; stands still once the batch has ended. */
  readonly elapsedMs: number
  /** Items that have settled in a second, without the replayed ones, since the beginning. */
  readonly perSecond: number
  /** Hooks of yours that threw: `onProgress`, `pause` and `length`. The batch goes on. */
  readonly failedHooks: number
  /** No further outcome settles. */
  readonly ended: boolean
}
