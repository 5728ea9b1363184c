import { checkOptions, type SharedLog } from '@millrace/core'
import { isAsyncIterable } from './check-source.ts'
import { checkFormat, type EventFormat } from './event-format.ts'
import { maxMs, wholeNumber } from './log-checks.ts'
import { plainEvents } from './plain-events.ts'
import { isStreamId } from './stream-place.ts'
import type { ChunkSource } from './stream-pump.ts'
import type { StreamEvents } from './stream-reader.ts'

export interface StreamsOptions {
  /**
   * Where other replicas find the streams of this one: `createRedisLog()`. It stays yours to close, after the streams.
   * @default none: a stream is resumed where it was begun
   */
  readonly log?: SharedLog | undefined
  /** How chunks are written, where a call does not say. @default plainEvents() */
  readonly format?: EventFormat | undefined
  /** Streams running here at the same time; one more is refused with `queue-full`. @default 1000 */
  readonly maxStreams?: number | undefined
  /** Events kept here of one stream. Of a longer one the older half goes, and cannot be resumed from. @default 8388608 */
  readonly maxBytes?: number | undefined
  /** How far the provider is read ahead of the fastest client; at most half of `maxBytes`. @default 1048576 */
  readonly maxAheadBytes?: number | undefined
  /** How long a stream can be resumed after its end. @default 60000 */
  readonly keepMs?: number | undefined
  /**
   * A stream that nobody has read, or waited for, for so long is cancelled upstream: nobody pays for what nobody will see.
   * The same in all replicas. @default 30000
   */
  readonly abandonMs?: number | undefined
  /**
   * Told once of each stream that failed, with what clients are not told: the error of the provider, or of your generator. What
   * it throws is an uncaught exception. @default none
   */
  readonly onError?: ((error: unknown, id: string) => void) | undefined
}

export interface StartOptions {
  /** @default that of `createStreams` */
  readonly format?: EventFormat | undefined
  /** 22 characters of base64url that nobody can guess, such as `randomBytes(16).toString('base64url')`. @default such */
  readonly id?: string | undefined
}

export interface ResumeOptions {
  /** For an error event of this reader's own. @default that of `createStreams` */
  readonly format?: EventFormat | undefined
  /** Ends this reader. */
  readonly signal?: AbortSignal | undefined
}

export interface StartedStream {
  readonly id: string
  /** Ready events, for `toSSEResponse` or `writeSSE`. */
  readonly events: StreamEvents
}

export type StreamsSettings = {
  readonly [Name in Exclude<keyof StreamsOptions, 'log' | 'onError'>]-?: NonNullable<StreamsOptions[Name]>
} & {
  readonly log: SharedLog | undefined
  readonly onError: StreamsOptions['onError']
}

/** @throws {TypeError} with the cure */
export function settingsOf(options: StreamsOptions): StreamsSettings {
  checkOptions<StreamsOptions>('createStreams', options, {
    log: 1,
    format: 1,
    maxStreams: 1,
    maxBytes: 1,
    maxAheadBytes: 1,
    keepMs: 1,
    abandonMs: 1,
    onError: 1
  })
  const { log, format = plainEvents(), onError } = options
  if (log !== undefined && (typeof log?.write !== 'function' || typeof log.tell !== 'function')) {
    throw new TypeError('log must be a shared log: write log: createRedisLog({ command: redis.command })')
  }
  checkFormat(format)
  if (onError !== undefined && typeof onError !== 'function')
    throw new TypeError('onError must be a function of an error and an id')
  const maxBytes = wholeNumber('maxBytes', options.maxBytes ?? 8_388_608, 2)
  const ahead = options.maxAheadBytes ?? Math.min(1_048_576, Math.floor(maxBytes / 2))
  return {
    log,
    onError,
    format,
    maxStreams: wholeNumber('maxStreams', options.maxStreams ?? 1000, 1),
    maxBytes,
    // The older half of a log may go at any time: what no client has read must lie in the other.
    maxAheadBytes: wholeNumber('maxAheadBytes', ahead, 1, Math.floor(maxBytes / 2)),
    keepMs: wholeNumber('keepMs', options.keepMs ?? 60_000, 1, maxMs),
    abandonMs: wholeNumber('abandonMs', options.abandonMs ?? 30_000, 1, maxMs)
  }
}

/** @throws {TypeError} with the cure */
export function checkStart(source: ChunkSource, options: StartOptions): void {
  checkOptions<StartOptions>('start', options, { format: 1, id: 1 })
  if (typeof source !== 'function' && !isAsyncIterable(source)) {
    throw new TypeError('start takes an async iterable of chunks, or a function of a signal that gives one')
  }
  if (options.format !== undefined) checkFormat(options.format)
  if (options.id !== undefined && !isStreamId(options.id)) {
    throw new TypeError("id must be 22 characters of base64url, such as randomBytes(16).toString('base64url')")
  }
}

/** @throws {TypeError} with the cure */
export function checkResume(options: ResumeOptions): void {
  checkOptions<ResumeOptions>('resume', options, { format: 1, signal: 1 })
  if (options.format !== undefined) checkFormat(options.format)
}
