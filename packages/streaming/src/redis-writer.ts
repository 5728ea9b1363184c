import { type SharedLogWriter, sleep } from '@millrace/core'
import { addItems, addLastWord, keepLog, type Owner } from './redis-entry.ts'
import type { LogCounts, LogSettings } from './redis-options.ts'

export interface RedisWriter extends SharedLogWriter {
  /** Makes the log, although there is no item yet. */
  announce(): void
  /** Called now and then: keeps the log of a silent writer, and tells again what Redis has not heard. */
  renew(): void
  /** Tells the readers that there will be no more. Resolves as `end` does. */
  abandon(): Promise<void>
}

/** An entry has about this many characters at most, or one item: a reader takes several at once. */
const maxEntryChars = 65_536
const firstPauseMs = 10
const maxPauseMs = 250

/** One command at a time is under way; what comes meanwhile, `maxBytes` at most, makes the next one. */
export function createWriter(
  { key, writer: name, keepMs }: Owner & { readonly keepMs: number },
  settings: LogSettings,
  counts: LogCounts,
  onEnd: () => void
): RedisWriter {
  const { command, ttlMs, maxBytes, patienceMs } = settings
  const owner: Owner = { key, writer: name }
  let pending: string[] = []
  let bytes = 0
  /** Items that Redis has. */
  let length = 0
  let failed: 'too-large' | 'broken' | undefined
  /** Redis has heard of the failure. */
  let told = false
  let renewing = false
  let working = false
  let sentAt = performance.now()
  let ended: PromiseWithResolvers<void> | undefined

  function fail(as: 'too-large' | 'broken'): void {
    if (failed !== undefined) return
    failed = as
    counts.broken++
    pending = []
  }

  async function work(): Promise<void> {
    if (working) return
    working = true
    if (renewing) await renewLog()
    while (pending.length > 0) await sendItems()
    if (failed !== undefined) told = await attempt(addLastWord(owner, failed, length, ttlMs))
    else if (ended !== undefined) await insist(addLastWord(owner, 'end', length, keepMs))
    working = false
    if (ended === undefined) return
    onEnd()
    ended.resolve()
  }

  async function renewLog(): Promise<void> {
    renewing = false
    if (failed === undefined) await attempt(keepLog(owner, length, ttlMs))
  }

  async function sendItems(): Promise<void> {
    const items = nextBatch()
    const end = length + items.length
    if (!(await insist(addItems(owner, items, end, ttlMs)))) return fail('broken')
    length = end
    counts.appended += items.length
  }

  function nextBatch(): string[] {
    let count = 0
    for (let size = 0; count < pending.length; count++) {
      size += (pending[count] as string).length
      if (size > maxEntryChars && count > 0) break
    }
    return pending.splice(0, count)
  }

  /** Tries for `patienceMs`: a Redis that restarts, or is frozen for a moment, costs nobody the stream. */
  async function insist(args: readonly string[]): Promise<boolean> {
    const startedAt = performance.now()
    for (let pauseMs = firstPauseMs; !(await attempt(args)); pauseMs = Math.min(pauseMs * 2, maxPauseMs)) {
      if (performance.now() + pauseMs - startedAt > patienceMs) return false
      await sleep(pauseMs)
    }
    return true
  }

  async function attempt(args: readonly string[]): Promise<boolean> {
    try {
      await command(args)
      sentAt = performance.now()
      return true
    } catch {
      // What it was, the owner of `command` knows. Here it only counts, and may cost the readers this log.
      counts.writeFailures++
      return false
    }
  }

  const self: RedisWriter = {
    get broken() {
      return failed !== undefined
    },
    announce() {
      renewing = true
      void work()
    },
    append(items) {
      if (ended !== undefined || failed !== undefined) {
        counts.dropped += items.length
        return
      }
      for (const item of items) {
        bytes += Buffer.byteLength(item)
        pending.push(item)
      }
      if (bytes > maxBytes) fail('too-large')
      void work()
    },
    end() {
      if (ended === undefined) {
        ended = Promise.withResolvers()
        void work()
      }
      return ended.promise
    },
    renew() {
      const untold = failed !== undefined && !told
      if (working || (!untold && performance.now() - sentAt < ttlMs / 3)) return
      renewing = true
      void work()
    },
    abandon() {
      if (ended === undefined) fail('broken')
      return self.end()
    }
  }
  return self
}
