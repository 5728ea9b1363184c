import { checkOptions } from '@millrace/core'
import { maxMs, wholeNumber } from './log-checks.ts'

export interface RedisLogOptions {
  /**
   * Sends one command to Redis, its arguments as strings, and answers as RESP 2 does: the `command` of `createRedis()`, or
   * one of a client's own, such as `(args) => client.sendCommand(args)` (a bare `client.sendCommand` has lost its client). It
   * must give up by itself when Redis is silent; it is never given a blocking command.
   */
  readonly command: (args: readonly string[]) => Promise<unknown>
  /** Put before each id, as `namespace:id`. @default 'millrace:log' */
  readonly namespace?: string | undefined
  /**
   * How long a log outlives a writer that died. The log of a living one is kept for as long as it is open. Readers take a log
   * that is not there for so long as gone for good, and hear of a writer's death after at most about 1.7 times as long: the
   * same in all processes. @default 15000
   */
  readonly ttlMs?: number | undefined
  /** How long a log stays after its end, for late readers. @default 10000 */
  readonly keepMs?: number | undefined
  /** The size of the items of one log, as UTF-8. A longer log fails for its readers. @default 8388608 */
  readonly maxBytes?: number | undefined
  /** How long a writer and a reader try again when Redis does not answer. @default 2000 */
  readonly patienceMs?: number | undefined
}

export type LogSettings = { readonly [Name in keyof RedisLogOptions]-?: NonNullable<RedisLogOptions[Name]> }

/** What a log has done so far. */
export interface LogCounts {
  /** Items that Redis took. */
  appended: number
  /** Items appended to a log that had failed or ended. */
  dropped: number
  /** Logs that failed for their readers: too large, not written, or open at `close`. */
  broken: number
  /** Commands sent for readers. */
  reads: number
  /** Commands for writers that failed, of which most are tried again. */
  writeFailures: number
  /** Commands for readers that failed, and `isAlive` that did. */
  readFailures: number
}

/** @throws {TypeError} with the cure */
export function settingsOf(options: RedisLogOptions): LogSettings {
  if (typeof options === 'object' && options !== null && 'url' in options) {
    throw new TypeError('createRedisLog takes no url: write createRedisLog({ command: createRedis({ url }).command })')
  }
  checkOptions<RedisLogOptions>('createRedisLog', options, {
    command: 1,
    namespace: 1,
    ttlMs: 1,
    keepMs: 1,
    maxBytes: 1,
    patienceMs: 1
  })
  const { command, namespace = 'millrace:log' } = options
  if (typeof command !== 'function') {
    throw new TypeError('command must be a function that sends one command, such as createRedis({ url }).command')
  }
  if (typeof namespace !== 'string' || namespace === '') throw new TypeError('namespace must be a non-empty string')
  return {
    command,
    namespace,
    ttlMs: wholeNumber('ttlMs', options.ttlMs ?? 15_000, 1, maxMs),
    keepMs: wholeNumber('keepMs', options.keepMs ?? 10_000, 1, maxMs),
    maxBytes: wholeNumber('maxBytes', options.maxBytes ?? 8_388_608, 1),
    patienceMs: wholeNumber('patienceMs', options.patienceMs ?? 2000, 0, maxMs)
  }
}

/** What a failure of `command` shows of a mistake in it, for the end of an error's text. */
export function mistakeIn(error: unknown): string {
  if (!(error instanceof TypeError)) return ''
  return `: command threw "${error.message}"; of a client it must be written as (args) => client.sendCommand(args)`
}
