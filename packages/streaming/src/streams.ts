import { clampTimer, MillraceError, type SharedLog, type SharedLogWriter, sleep } from '@millrace/core'
import type { EventFormat } from './event-format.ts'
import { createMemoryLog } from './memory-log.ts'
import { newStreamId, type Place, placeOf, unknownStream } from './stream-place.ts'
import { type ChunkSource, type Pump, type StreamOutcome, startPump } from './stream-pump.ts'
import { type Heard, type ReaderHooks, type RunningReader, readEvents, type StreamEvents } from './stream-reader.ts'
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
   * @throws {TypeError} when an option is wrong, or the id is in use
   */
  start(source: ChunkSource, options?: StartOptions): StartedStream
  /**
   * The events behind the one with this id (`Last-Event-ID`), byte for byte as they were, and those that come; the bare id
   * of a stream stands for all of them. Whoever knows the id of a stream may read it: check whose it is before.
   *
   * @throws {MillraceError} `invalid-request` (404) for an id that is none, or of no stream any more, `network` when the log
   * that would know does not answer, `closed`
   */
  resume(lastEventId: string, options?: ResumeOptions): Promise<StreamEvents>
  /**
   * Stops a stream, by its id or that of one of its events: its provider is aborted, at once when it runs here, else within
   * about 250 ms and two commands, and its readers get a legal end with finish `cut`. False when no such stream is running.
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
  const { log: far, maxStreams, maxBytes, maxAheadBytes, keepMs, abandonMs } = settings
  const near = createMemoryLog({ maxBytes, maxLogs: 2 * maxStreams, keepMs })
  const running = new Map<string, Pump>()
  const readers = new Set<RunningReader>()
  /** Those of them that read streams of other replicas, and say so there. */
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
    if (running.size >= maxStreams) {
      counts.refused++
      throw new MillraceError('queue-full', `${maxStreams} streams are running already (maxStreams)`, {
        details: { limit: maxStreams }
      })
    }
    if (running.has(id)) throw new TypeError('id must be new: a stream with this id is running')
    const log = near.write(id, { keepMs })
    if (log.broken) throw new TypeError('id must be new: a stream with this id has just ended')
    const shared = far?.write(id, { keepMs, onWord: (word) => running.get(id)?.hear(word) })
    const pump = startPump({
      source,
      format,
      logs: shared === undefined ? [log] : [log, shared],
      maxAheadBytes,
      onOver: (outcome) => ended(id, outcome)
    })
    running.set(id, pump)
    counts.started++
    arm()
    if (shared !== undefined) void pump.done.then(() => check(shared))
    return { id, events: readNear({ id, offset: 0 }, format) }
  }

  function ended(id: string, outcome: StreamOutcome): void {
    running.delete(id)
    counts[outcome]++
  }

  function check(shared: SharedLogWriter): void {
    if (shared.broken) counts.unshared++
  }

  const hooks: ReaderHooks = {
    onBegin: (reader) => readers.add(reader),
    onLeave(reader) {
      readers.delete(reader)
      distant.delete(reader)
    }
  }

  function readNear(place: Place, format: EventFormat, signal?: AbortSignal): StreamEvents {
    const heard: Heard = {
      read: (position) => running.get(place.id)?.read(position),
      waits: (change) => running.get(place.id)?.waits(change)
    }
    return readEvents(near, place, { format, signal, heard, hooks })
  }

  function readFar(log: SharedLog, place: Place, format: EventFormat, signal?: AbortSignal): StreamEvents {
    let position = place.offset
    let untold = 0
    let telling = false
    async function tell(): Promise<void> {
      if (telling) return
      telling = true
      untold = 0
      try {
        await log.tell(place.id, `read ${position}`)
      } catch {
        counts.unheard++ // told again when there is more to tell, and now and then
      }
      telling = false
    }
    const heard: Heard = {
      read(at, chars) {
        position = Math.max(position, at)
        untold += chars
        // Often enough that a fast reader does not find the provider held back for it.
        if (untold >= maxAheadBytes / 4) void tell()
      },
      waits: () => {}
    }
    const own: ReaderHooks = {
      onBegin(reader) {
        hooks.onBegin(reader)
        distant.set(reader, () => void tell())
        arm()
      },
      onLeave: hooks.onLeave
    }
    return readEvents(log, place, { format, signal, heard, hooks: own })
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
      return readNear(place, format, signal)
    }
    if (far === undefined) return refuse()
    const word = `read ${offset}`
    const there = (await far.tell(id, word)) ?? (await lookAgain(far, id, word, signal))
    // An open log may lag behind what its replica has served.
    if (there === undefined || (!there.open && offset > there.length)) return refuse()
    counts.resumedElsewhere++
    return readFar(far, place, format, signal)
  }

  async function lookAgain(
    log: SharedLog,
    id: string,
    word: string,
    signal: AbortSignal | undefined
  ): ReturnType<SharedLog['tell']> {
    await sleep(lookAgainMs, signal)
    return log.tell(id, word)
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
    if (far === undefined || (await near.tell(id, '')) !== undefined) return false
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
    stats: () => ({ running: running.size, readers: readers.size, ...counts }),
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
