/**
 * A stream log that other processes can follow, the outside form of `StreamLog`: what one process appends under an id,
 * any number of others read from any position while it grows. Made by `@millrace/streaming/redis`; the cache shares calls
 * across processes over it. Items are texts: who appends says how a thing becomes one, a failure too.
 */
export interface SharedLog {
  /** Begins the log `id`, which nobody has written before. Nothing is waited for. */
  write(id: string): SharedLogWriter
  /**
   * The items from number `offset` on, in batches as they come, until the log has ended. A log that is not there yet is
   * waited for.
   *
   * @throws {MillraceError} `network` when the store stays away, the writer is gone (`isAlive`), or there is no such log for as
   * long as a dead one is kept; `protocol` with `reason: 'too-large'` when the writer went over the log's bound,
   * `'incomplete'` when part of it is missing, `'unexpected'` when it holds something else; `closed`; `signal.reason`
   */
  follow(id: string, options?: SharedFollowOptions): AsyncIterable<readonly string[]>
}

export interface SharedLogWriter {
  /** Kept in order and sent in batches. What cannot be sent ends the log for its readers, never for its writer. */
  append(items: readonly string[]): void
  /** Resolves when readers can see the end, or cannot be told any more. Never rejects. Safe to call twice. */
  end(): Promise<void>
}

export interface SharedFollowOptions {
  /** @default 0 */
  readonly offset?: number | undefined
  readonly signal?: AbortSignal | undefined
  /** Asked now and then while nothing new comes: false means that the writer will not go on. @default it is believed to live */
  readonly isAlive?: (() => Promise<boolean>) | undefined
}
