import { setTimeout as delay } from 'node:timers/promises'
import { clampTimer, MillraceError, type SharedLog, type SharedLogState, type SharedLogWriter, sleep } from '@millrace/core'
import type { EventFormat } from './event-format.ts'
import { createMemoryLog } from './memory-log.ts'
import { newStreamId, type Place, placeOf, unknownStream } from './stream-place.ts'
import { type ChunkSource, type Pump, type StreamOutcome, startPump } from './stream-pump.ts'
import {
  type Heard,
  type ReaderHooks,
  type RunningReader,
  readEvents,
  type StreamEvents,
  watchForgottenReaders
} from './stream-reader.ts'
import {
  checkResume,
  checkStart,
  type ResumeOptions,
  type StartedStream,
  type StartOptions,
  type StreamsOptions,
  settingsOf
} from './streams-options.ts'

export type { ChunkSource } from './stream-pump.ts'
export type { StreamEvents } from './stream-reader.ts'
export type { ResumeOptions, StartedStream, StartOptions, StreamsOptions } from './streams-options.ts'

/** Streams that outlive the connections of their clients. */
export interface Streams extends AsyncDisposable {
  /**
   * Reads `source` from now on, whether or not somebody reads `events`: leaving those ends only this reader. Its errors are
   * events too.
   *
   * @throws {MillraceError} `queue-full` at `maxStreams`; `closed`
   * @throws {TypeError} when an option is wrong, or the id is in use; what `format.begin` throws
   */
  start(source: ChunkSource, options?: StartOptions): StartedStream
  /**
   * The events behind the one with this id (`Last-Event-ID`), byte for byte as they were, and those that come; the bare id
   * of a stream stands for all of them. Where nothing is left they are `ended`: answer 204. Whoever knows the id of a stream may read it: check whose it is before.
   *
   * @throws {MillraceError} `invalid-request` (404) for an id that is none, or of no stream any more, `network` when the log
   * that would know does not answer, `closed`
   */
  resume(lastEventId: string, options?: ResumeOptions): Promise<StreamEvents>
  /**
   * Stops a stream, by its id or that of one of its events: its provider is aborted, at once when it runs here, else within
   * about 250 ms and two commands, and its readers get a legal end with finish `cut`. False when no such stream is running,
   * and after `close`.
   *
   * @throws {MillraceError} `network` when the log that would know does not answer
   */
  cancel(id: string): Promise<boolean>
  stats(): StreamsStats
  /**
   * Refuses new streams and readers with `closed`, lets running streams finish for `graceMs` (by default 10000), then ends
   * them, and readers of streams elsewhere, with an error event. Safe to call twice.
   */
  close(options?: { readonly graceMs?: number }): Promise<void>
}

export interface StreamsStats {
  /** Streams running here. */
  readonly running: number
  /** Readers here. */
  readonly readers: number
  readonly started: number
  /** How streams of this replica ended. */
  readonly finished: number
  readonly failed: number
  readonly cancelled: number
  readonly abandoned: number
  /** Started streams that found no room. */
  readonly refused: number
  /** Readers that went on with a stream of this replica, and of another one. */
  readonly resumed: number
  readonly resumedElsewhere: number
  /** Ids that were asked for and are of no stream. */
  readonly unknown: number
  /** Streams that other replicas could not, or not wholly, resume: the log was away, or they were too long for it. */
  readonly unshared: number
  /** Words of this replica's readers that did not get to the replica with the stream. */
  readonly unheard: number
}

/** A stream whose id a client has may not be in the shared log yet. */
const lookAgainMs = 100

/** A word that did not get to the replica with the stream is said again after this pause. */
const sayAgainMs = 250

/** What a reader has before its place nobody here has counted: it is said in any case. */
const unknownChars = Number.MAX_SAFE_INTEGER

/**
 * Streams with an id and a log: the provider's stream is read into it, any number of clients read from it, and one that has
 * lost its connection goes on behind the last event it had, on this replica or, over `log`, on another one. Clients here are
 * served from memory and never wait for the log.
 *
 * Bounds: `maxStreams`, and `maxBytes` of each; the provider is read at most `maxAheadBytes` ahead of the fastest client; a
 * stream without one is cancelled after `abandonMs`; ended ones stay for `keepMs`, 64 MiB of them together.
 *
 * @throws {TypeError} when an option is wrong
 *
 * @example
 * await using streams = createStreams()
 * const { id, events } = streams.start(adapter.stream(request), { format: openaiEvents() })
 * await writeSSE(events, response)
 * // and when the client comes back
 * await writeSSE(await streams.resume(lastEventId), response)
 */
export function createStreams(options: StreamsOptions = {}): Streams {
  const settings = settingsOf(options)
  const { log: far, maxStreams, maxBytes, maxAheadBytes, keepMs, abandonMs, onError } = settings
  const maxLogs = 2 * maxStreams
  // A stream is written before it is read: one that is not there has expired, and is not waited for.
  const near = createMemoryLog({ maxBytes, maxLogs, keepMs, ttlMs: 1 })
  const running = new Map<string, Pump>()
  let readers = 0
  /** Those that read streams of other replicas, and say so there. */
  const distant = new Map<RunningReader, () => void>()
  const counts = {
    started: 0,
    finished: 0,
    failed: 0,
    cancelled: 0,
    abandoned: 0,
    refused: 0,
    resumed: 0,
    resumedElsewhere: 0,
    unknown: 0,
    unshared: 0,
    unheard: 0
  }
  const sweepEveryMs = Math.max(1, abandonMs / 4)
  let sweepAt = 0
  let timer: NodeJS.Timeout | undefined
  let closing: Promise<void> | undefined
  let closed = false

  // One timer for all streams, while there are some. It keeps no process alive.
  function arm(): void {
    if (timer !== undefined || (running.size === 0 && distant.size === 0)) return
    sweepAt = performance.now() + sweepEveryMs
    timer = setTimeout(sweep, clampTimer(sweepEveryMs)).unref()
  }

  function sweep(): void {
    timer = undefined
    const now = performance.now()
    // A process that stood still could not serve its readers: that they did not read says nothing.
    const onTime = now - sweepAt < sweepEveryMs
    if (onTime) for (const pump of running.values()) if (pump.idleSince(now - abandonMs)) pump.cut('abandoned')
    for (const [reader, say] of distant) if (reader.activeSince(now - abandonMs)) say()
    arm()
  }

  function start(source: ChunkSource, { format = settings.format, id = newStreamId() }: StartOptions): StartedStream {
    if (closing !== undefined) throw closedError()
    if (running.size >= maxStreams) throw noRoom()
    if (running.has(id)) throw new TypeError('id must be new: a stream with this id is running')
    const writer = format.begin() // what may throw comes before what would be left behind
    const log = near.write(id, { keepMs })
    if (log.broken) {
      if (near.stats().open >= maxLogs) throw noRoom()
      throw new TypeError('id must be new: a stream with this id has just ended')
    }
    const shared = share(id, log)
    const pump = startPump({
      source,
      writer,
      logs: shared === undefined ? [log] : [log, shared],
      maxAheadBytes,
      onOver: (outcome, error) => ended(id, outcome, error)
    })
    running.set(id, pump)
    counts.started++
    arm()
    if (shared !== undefined) void pump.done.then(() => check(shared))
    return { id, events: readNear({ id, offset: 0 }, { format, signal: undefined, ended: false }) }
  }

  function share(id: string, log: SharedLogWriter): SharedLogWriter | undefined {
    try {
      return far?.write(id, { keepMs, onWord: (word) => running.get(id)?.hear(word) })
    } catch (error) {
      void log.end()
      throw error
    }
  }

  function noRoom(): MillraceError<'queue-full'> {
    counts.refused++
    const text = `${maxStreams} streams are running already (maxStreams)`
    return new MillraceError('queue-full', text, { details: { limit: maxStreams } })
  }

  function ended(id: string, outcome: StreamOutcome, error: unknown): void {
    running.delete(id)
    counts[outcome]++
    // In a microtask: a hearer that throws is an uncaught exception, and the stream gets its end all the same.
    if (outcome === 'failed' && onError !== undefined) queueMicrotask(() => onError(error, id))
  }

  function check(shared: SharedLogWriter): void {
    if (shared.broken) counts.unshared++
  }

  const hooks: ReaderHooks = {
    onBegin: () => readers++,
    onLeave: () => readers--,
    forgotten: watchForgottenReaders()
  }

  interface Reading {
    readonly format: EventFormat
    readonly signal: AbortSignal | undefined
    readonly ended: boolean
  }

  function readNear(place: Place, reading: Reading): StreamEvents {
    const heard: Heard = {
      read: (position) => running.get(place.id)?.read(position),
      waits: (change) => running.get(place.id)?.waits(change)
    }
    return readEvents(near, place, { ...reading, heard, hooks })
  }

  function readFar(log: SharedLog, place: Place, reading: Reading): StreamEvents {
    let position = place.offset
    let untold = unknownChars
    let telling = false
    /** Readers of this place. */
    let here = 0
    // Often enough that a fast reader does not find the provider held back for it.
    const isDue = (): boolean => untold >= maxAheadBytes / 4

    /** Says where it is, and again while more has come than may be kept from the provider. */
    async function tell(): Promise<void> {
      if (telling) return
      telling = true
      while (await say());
      telling = false
    }

    /** True when there is more to say already. */
    async function say(): Promise<boolean> {
      const saying = untold
      untold = 0
      try {
        await log.tell(place.id, `read ${position}`)
        return !closed && (here > 0 ? isDue() : untold > 0)
      } catch {
        counts.unheard++
        untold = Math.min(untold + saying, unknownChars)
        if (!isDue()) return false // said when there is more to say, and now and then
        await delay(sayAgainMs, undefined, { ref: false })
        return here > 0 && !closed
      }
    }

    const heard: Heard = {
      read(at, chars) {
        position = Math.max(position, at)
        untold = Math.min(untold + chars, unknownChars)
        if (isDue()) void tell()
      },
      waits: () => {}
    }
    const own: ReaderHooks = {
      onBegin(reader) {
        hooks.onBegin(reader)
        here++
        distant.set(reader, () => void tell())
        if (closed) reader.fail(closedError())
        else arm()
      },
      onLeave(reader) {
        hooks.onLeave(reader)
        here--
        distant.delete(reader)
        if (untold > 0 && !closed) void tell()
      },
      forgotten: hooks.forgotten
    }
    return readEvents(log, place, { ...reading, heard, hooks: own })
  }

  async function resume(lastEventId: string, { format = settings.format, signal }: ResumeOptions): Promise<StreamEvents> {
    if (closing !== undefined) throw closedError()
    signal?.throwIfAborted()
    const place = placeOf(lastEventId)
    if (place === undefined) return refuse()
    const { id, offset } = place
    const own = await near.tell(id, '')
    if (own !== undefined) {
      // What is not written yet nobody has had.
      if (offset > own.length) return refuse()
      counts.resumed++
      return readNear(place, { format, signal, ended: isEnd(own, offset) })
    }
    if (far === undefined) return refuse()
    // Only asked: a log that cannot be written to can still be read.
    const there = (await far.tell(id, '')) ?? (await lookAgain(far, id, signal))
    if (closing !== undefined) throw closedError()
    // An open log may lag behind what its replica has served.
    if (there === undefined || (!there.open && offset > there.length)) return refuse()
    counts.resumedElsewhere++
    return readFar(far, place, { format, signal, ended: isEnd(there, offset) })
  }

  async function lookAgain(log: SharedLog, id: string, signal: AbortSignal | undefined): ReturnType<SharedLog['tell']> {
    await sleep(lookAgainMs, signal)
    return log.tell(id, '')
  }

  function refuse(): never {
    counts.unknown++
    throw unknownStream()
  }

  async function cancel(lastEventId: string): Promise<boolean> {
    const id = placeOf(lastEventId)?.id
    if (id === undefined) return false
    const pump = running.get(id)
    if (pump !== undefined) {
      pump.cut('cancelled')
      return true
    }
    if (far === undefined || closed || (await near.tell(id, '')) !== undefined) return false
    return (await far.tell(id, 'cancel'))?.open === true
  }

  async function end(graceMs: number): Promise<void> {
    const pumps = [...running.values()]
    const all = Promise.all(pumps.map(({ done }) => done))
    const grace = setTimeout(() => {
      for (const pump of pumps) pump.fail(closedError())
    }, clampTimer(graceMs))
    await all
    clearTimeout(grace)
    clearTimeout(timer)
    timer = undefined
    closed = true
    for (const reader of distant.keys()) reader.fail(closedError())
    await near.close()
  }

  const self: Streams = {
    start(source, given = {}) {
      checkStart(source, given)
      return start(source, given)
    },
    async resume(lastEventId, given = {}) {
      checkResume(given)
      return resume(lastEventId, given)
    },
    cancel,
    stats: () => ({ running: running.size, readers, ...counts }),
    close({ graceMs = 10_000 } = {}) {
      if (!(graceMs >= 0)) return Promise.reject(new TypeError(`graceMs must be milliseconds from 0 up, not ${graceMs}`))
      closing ??= end(graceMs)
      return closing
    },
    [Symbol.asyncDispose]: () => self.close()
  }
  return self
}

function closedError(): MillraceError<'closed'> {
  return new MillraceError('closed', 'the streams of this service are closed', { details: {} })
}

/** Nothing is left behind `offset`, an error neither. */
function isEnd({ open, broken, length }: SharedLogState, offset: number): boolean {
  return !open && !broken && offset === length
}
