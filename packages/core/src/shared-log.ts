/**
 * A stream log that other processes can follow, the outside form of `StreamLog`: what one process appends under an id,
 * any number of others read from any position while it grows. Made by `@millrace/streaming/redis`; the cache shares calls
 * across processes over it. Items are texts: who appends says how a thing becomes one, a failure too.
 */
export interface SharedLog {
  /** Begins the log `id`, which nobody has written before. Nothing is waited for. */
  write(id: string, options?: SharedWriteOptions): SharedLogWriter
  /**
   * The items from number `offset` on, in batches as they come, until the log has ended. A log that is not there yet is
   * waited for.
   *
   * @throws {MillraceError} `network` when the store stays away, the writer is gone (`isAlive`), or there is no such log for as
   * long as a dead one is kept; `protocol` with `reason: 'too-large'` when the writer went over the log's bound,
   * `'incomplete'` when part of it is missing, `'unexpected'` when it holds something else; `closed`; `signal.reason`
   */
  follow(id: string, options?: SharedFollowOptions): AsyncIterable<readonly string[]>
  /**
   * Says a word to whoever writes the log `id` and listens (`onWord`), wherever that is, and gives the state of the log;
   * `undefined` when there is no such log, or no more. `''` is not passed on. A word may be heard twice, or by nobody: its
   * writer may be gone.
   *
   * @throws {MillraceError} `network` when the store does not answer, `protocol` when it holds something else, `closed`
   */
  tell(id: string, word: string): Promise<SharedLogState | undefined>
}

export interface SharedLogState {
  /** It may go on. */
  readonly open: boolean
  /** It will not go on, and has no end: its readers get an error. */
  readonly broken: boolean
  /** Its items so far. */
  readonly length: number
}

export interface SharedWriteOptions {
  /** Hears what is said to the log with `tell`, until its end. The log is announced at once. It must not throw. */
  readonly onWord?: ((word: string) => void) | undefined
  /** How long the log stays after its end, in milliseconds. @default as the log is set up */
  readonly keepMs?: number | undefined
}

export interface SharedLogWriter {
  /** Kept in order and sent in batches. What cannot be sent ends the log for its readers, never for its writer. */
  append(items: readonly string[]): void
  /** Resolves when readers can see the end, or cannot be told any more. Never rejects. Safe to call twice. */
  end(): Promise<void>
  /** Readers cannot get all of it: it could not be sent, or went over a bound. */
  readonly broken: boolean
}

export interface SharedFollowOptions {
  /** @default 0 */
  readonly offset?: number | undefined
  readonly signal?: AbortSignal | undefined
  /** Asked now and then while nothing new comes: false means that the writer will not go on. @default it is believed to live */
  readonly isAlive?: (() => Promise<boolean>) | undefined
}
