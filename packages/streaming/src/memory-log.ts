import {
  checkOptions,
  createLog,
  MillraceError,
  type SharedFollowOptions,
  type SharedLog,
  type SharedLogWriter,
  type SharedWriteOptions,
  type StreamLog
} from '@millrace/core'
import { checkLogId, checkOffset, maxMs, wholeNumber } from './log-checks.ts'
import { followMemory } from './memory-follower.ts'

export interface MemoryLogOptions {
  /** The size of the items of one log, as UTF-8. Of a longer one the older half goes. @default 8388608 */
  readonly maxBytes?: number | undefined
  /** Logs, ended ones included. The oldest ended one makes room; where none has ended, a new log fails. @default 2000 */
  readonly maxLogs?: number | undefined
  /** The size of all ended logs together; the oldest go first. @default 67108864 */
  readonly maxKeptBytes?: number | undefined
  /** How long a log stays after its end, for late readers. @default 10000 */
  readonly keepMs?: number | undefined
  /** How long a reader waits for a log that is not there. @default 15000 */
  readonly ttlMs?: number | undefined
}

/** Logs that this process alone can write and follow. */
export interface MemoryLog extends SharedLog, AsyncDisposable {
  stats(): MemoryLogStats
  /** Ends the followers of open logs with `closed` and forgets all logs. Safe to call twice. */
  close(): Promise<void>
}

export interface MemoryLogStats {
  /** Logs being written. */
  readonly open: number
  /** Logs kept after their end, and their size in bytes. */
  readonly kept: number
  readonly keptBytes: number
  /** Ended logs that went before their time, for want of room. */
  readonly evicted: number
  /** Items appended to a log that had ended or never begun. */
  readonly dropped: number
}

interface Entry {
  readonly log: StreamLog<string>
  onWord: ((word: string) => void) | undefined
  written: boolean
  keepMs: number
  bytes: number
  followers: number
  /** When it goes. `Infinity` while it is written. */
  dueAt: number
}

/**
 * The log of a single process: what `createStreams` keeps for its own clients, and the same contract as `createRedisLog`
 * without a Redis.
 *
 * Bound: `maxLogs` logs of `maxBytes`, of which the ended ones have `maxKeptBytes` together. A reader that is further
 * behind than the log reaches back gets `protocol` with `reason: 'too-large'`; a log that found no room, `queue-full`.
 *
 * @throws {TypeError} when an option is wrong
 *
 * @example
 * await using log = createMemoryLog()
 * const writer = log.write('answer-1')
 * writer.append(['Hello', ' world'])
 * await writer.end()
 * for await (const items of log.follow('answer-1')) console.log(items.join(''))
 */
export function createMemoryLog(options: MemoryLogOptions = {}): MemoryLog {
  checkOptions<MemoryLogOptions>('createMemoryLog', options, { maxBytes: 1, maxLogs: 1, maxKeptBytes: 1, keepMs: 1, ttlMs: 1 })
  const maxBytes = wholeNumber('maxBytes', options.maxBytes ?? 8_388_608, 1)
  const maxLogs = wholeNumber('maxLogs', options.maxLogs ?? 2000, 1)
  const maxKeptBytes = wholeNumber('maxKeptBytes', options.maxKeptBytes ?? 67_108_864, 0)
  const keepByDefaultMs = wholeNumber('keepMs', options.keepMs ?? 10_000, 1, maxMs)
  const ttlMs = wholeNumber('ttlMs', options.ttlMs ?? 15_000, 1, maxMs)
  const entries = new Map<string, Entry>()
  /** Those of them that have ended, in the order of their ends: what makes room is found without a look at the others. */
  const endedOnes = new Map<string, Entry>()
  let [open, keptBytes, evicted, dropped] = [0, 0, 0, 0]
  let timer: NodeJS.Timeout | undefined
  let wakeAt = Number.POSITIVE_INFINITY
  let closed = false

  function newEntry(): Entry {
    const log = createLog<string>({ maxSize: maxBytes, sizeOf })
    return {
      log,
      onWord: undefined,
      written: false,
      keepMs: keepByDefaultMs,
      bytes: 0,
      followers: 0,
      dueAt: Number.POSITIVE_INFINITY
    }
  }

  function put(id: string, entry: Entry): void {
    if (entries.size >= maxLogs) evict(() => entries.size < maxLogs)
    if (entries.size >= maxLogs) entry.log.fail(tooMany())
    else entries.set(id, entry)
  }

  /** Lets ended logs go, the oldest first, until it is enough. */
  function evict(isEnough: () => boolean): void {
    for (const [id, entry] of endedOnes) {
      if (isEnough()) return
      evicted++
      drop(id, entry)
    }
  }

  function drop(id: string, entry: Entry): void {
    if (entries.get(id) !== entry) return
    entries.delete(id)
    if (endedOnes.delete(id)) keptBytes -= entry.bytes
  }

  /** It goes in `ms`. One timer for all, which keeps no process alive. */
  function expire(entry: Entry, ms: number): void {
    entry.dueAt = performance.now() + ms
    if (entry.dueAt >= wakeAt) return
    clearTimeout(timer)
    wakeAt = entry.dueAt
    timer = setTimeout(sweep, Math.ceil(ms)).unref()
  }

  function sweep(): void {
    const now = performance.now()
    wakeAt = Number.POSITIVE_INFINITY
    let next = wakeAt
    for (const [id, entry] of entries) {
      if (entry.dueAt > now) next = Math.min(next, entry.dueAt)
      else {
        if (!entry.written) entry.log.fail(absent())
        drop(id, entry)
      }
    }
    if (next === Number.POSITIVE_INFINITY) return
    wakeAt = next
    timer = setTimeout(sweep, Math.ceil(next - now)).unref()
  }

  function ended(id: string, entry: Entry): void {
    open--
    entry.onWord = undefined
    if (entries.get(id) !== entry) return
    keptBytes += entry.bytes
    endedOnes.set(id, entry)
    if (keptBytes > maxKeptBytes) evict(() => keptBytes <= maxKeptBytes)
    if (entries.has(id)) expire(entry, entry.keepMs)
  }

  function absent(): MillraceError<'network'> {
    return new MillraceError('network', `there was no such log for ${ttlMs} ms (ttlMs)`, { details: { phase: 'body' } })
  }

  function tooMany(): MillraceError<'queue-full'> {
    return new MillraceError('queue-full', `there are ${maxLogs} logs already (maxLogs)`, { details: { limit: maxLogs } })
  }

  function begin(id: string, { onWord, keepMs }: SharedWriteOptions): Entry {
    const awaited = entries.get(id)
    if (awaited?.written === true || closed) {
      const unheard = newEntry()
      unheard.log.end() // what it is given is dropped and counted; the log that is there goes on
      return unheard
    }
    const entry = awaited ?? newEntry()
    if (awaited === undefined) put(id, entry)
    if (entry.log.state !== 'open') return entry
    open++
    entry.written = true
    entry.onWord = onWord
    entry.keepMs = keepMs ?? keepByDefaultMs
    entry.dueAt = Number.POSITIVE_INFINITY
    return entry
  }

  /** What there is of `id`, or a place where it is waited for. */
  function find(id: string): Entry {
    const there = entries.get(id)
    if (there !== undefined) return there
    const entry = newEntry()
    if (closed) entry.log.fail(closedError())
    else put(id, entry)
    if (entries.has(id)) expire(entry, ttlMs)
    return entry
  }

  function follow(id: string, how: SharedFollowOptions): AsyncIterator<readonly string[], undefined> {
    return followMemory(() => {
      const entry = find(id)
      entry.followers++
      const leave = (): void => {
        if (--entry.followers === 0 && !entry.written) drop(id, entry)
      }
      return { log: entry.log, leave }
    }, how)
  }

  const self: MemoryLog = {
    write(id, write = {}): SharedLogWriter {
      checkLogId(id)
      if (write.keepMs !== undefined) wholeNumber('keepMs', write.keepMs, 1, maxMs)
      const entry = begin(id, write)
      const { log } = entry
      return {
        append(items) {
          if (log.state !== 'open') {
            dropped += items.length
            return
          }
          for (const item of items) {
            entry.bytes += sizeOf(item)
            log.append(item)
          }
          entry.bytes = Math.min(entry.bytes, maxBytes) // for the sum of what is kept: it is never more
        },
        async end() {
          if (log.state !== 'open') return
          log.end()
          ended(id, entry)
        },
        get broken() {
          return !log.whole || log.state === 'failed' || !entry.written
        }
      }
    },
    follow(id, how = {}) {
      checkLogId(id)
      checkOffset(how.offset ?? 0)
      return { [Symbol.asyncIterator]: () => follow(id, how) }
    },
    async tell(id, word) {
      checkLogId(id)
      if (closed) throw closedError()
      const entry = entries.get(id)
      if (entry?.written !== true) return undefined
      const { state, length } = entry.log
      if (word !== '') entry.onWord?.(word)
      return { open: state === 'open', broken: state === 'failed', length }
    },
    stats: () => ({ open, kept: endedOnes.size, keptBytes, evicted, dropped }),
    async close() {
      closed = true
      clearTimeout(timer)
      timer = undefined
      for (const { log } of entries.values()) log.fail(closedError())
      entries.clear()
      endedOnes.clear()
      ;[open, keptBytes] = [0, 0]
    },
    [Symbol.asyncDispose]: () => self.close()
  }
  return self
}

function sizeOf(item: string): number {
  return Math.max(1, Buffer.byteLength(item))
}

function closedError(): MillraceError<'closed'> {
  return new MillraceError('closed', 'the log was closed', { details: {} })
}
