import type { SharedFollowOptions, SharedLog, SharedLogWriter, SharedWriteOptions } from '@millrace/core'
import { checkLogId, checkOffset, maxMs, wholeNumber } from './log-checks.ts'
import { newHearerName, newWriterName } from './redis-entry.ts'
import { type LogCounts, type RedisLogOptions, settingsOf } from './redis-options.ts'
import { createPoll } from './redis-poll.ts'
import { createWords } from './redis-words.ts'
import { createWriter, type RedisWriter } from './redis-writer.ts'

export type { SharedFollowOptions, SharedLog, SharedLogState, SharedLogWriter, SharedWriteOptions } from '@millrace/core'
export type { RedisLogOptions } from './redis-options.ts'

/** Logs that all processes with the same Redis and namespace can write and follow. */
export interface RedisLog extends SharedLog, AsyncDisposable {
  stats(): RedisLogStats
  /**
   * Ends its followers with `closed`, tells the followers elsewhere of each log that is still open here that it will not
   * go on, and waits for the last words of its writers, at most about twice `patienceMs`. Safe to call twice.
   */
  close(): Promise<void>
}

export interface RedisLogStats extends Readonly<LogCounts> {
  /** Logs being written here. */
  readonly writers: number
  /** Readers here that are being read for: those behind by a mebibyte, and those at an end, are not. */
  readonly followers: number
}

const renewEveryMs = 1000

/**
 * Stream logs on Redis Streams: one process appends, any number in others follow, from any item. It opens no connection
 * and uses no blocking command; all followers here share one loop of reads, every 5 ms while things come and every 50 ms in
 * silence. Each log is one key that expires by itself. What is said to the writers here (`tell`) comes into one more key,
 * read every 200 ms while one listens.
 *
 * A Redis that is away for less than `patienceMs` is only a delay. Longer, and readers get an error; writers never do, and
 * never wait.
 *
 * @throws {TypeError} when an option is wrong
 *
 * @example
 * await using redis = createRedis({ url: 'redis://127.0.0.1:6379' })
 * await using log = createRedisLog({ command: redis.command })
 * const writer = log.write('answer-1')
 * writer.append(['Hello', ' world'])
 * await writer.end()
 * for await (const items of log.follow('answer-1')) console.log(items.join(''))
 */
export function createRedisLog(options: RedisLogOptions): RedisLog {
  const settings = settingsOf(options)
  const counts: LogCounts = { appended: 0, dropped: 0, broken: 0, reads: 0, writeFailures: 0, readFailures: 0 }
  const poll = createPoll(settings, counts)
  const words = createWords(settings, counts, newWriterName())
  const writers = new Set<RedisWriter>()
  let timer: NodeJS.Timeout | undefined
  let closing: Promise<void> | undefined

  function keyOf(id: string): string {
    checkLogId(id)
    return `${settings.namespace}:${id}`
  }

  // One timer for all writers, armed while there are some. A process that has nothing else to do may end: its logs expire.
  function arm(): void {
    timer ??= setTimeout(renew, Math.min(renewEveryMs, settings.ttlMs / 3)).unref()
  }

  function renew(): void {
    timer = undefined
    for (const writer of writers) writer.renew()
    if (writers.size > 0) arm()
  }

  function left(writer: RedisWriter): void {
    writers.delete(writer)
    if (writers.size > 0) return
    clearTimeout(timer)
    timer = undefined
  }

  async function end(): Promise<void> {
    poll.close()
    words.close()
    await Promise.all([...writers].map((writer) => writer.abandon()))
  }

  const self: RedisLog = {
    write(id, { onWord, keepMs = settings.keepMs }: SharedWriteOptions = {}): SharedLogWriter {
      const key = keyOf(id)
      wholeNumber('keepMs', keepMs, 1, maxMs)
      const name = onWord === undefined ? newWriterName() : newHearerName(words.inbox)
      const writer = createWriter({ key, writer: name, keepMs }, settings, counts, () => {
        deafen?.()
        left(writer)
      })
      const deafen = closing === undefined && onWord !== undefined ? words.hear(key, onWord) : undefined
      if (closing !== undefined) {
        // What it is given is dropped and counted: who appends goes on without readers elsewhere.
        void writer.abandon()
        return writer
      }
      writers.add(writer)
      arm()
      if (onWord !== undefined) writer.announce()
      return writer
    },
    follow(id, follow: SharedFollowOptions = {}) {
      checkOffset(follow.offset ?? 0)
      return poll.follow(keyOf(id), follow)
    },
    tell: async (id, word) => words.tell(keyOf(id), word),
    stats: () => ({ writers: writers.size, followers: poll.followers, ...counts }),
    close() {
      closing ??= end()
      return closing
    },
    [Symbol.asyncDispose]: () => self.close()
  }
  return self
}
