import {
  type LinkedAbort,
  type LogReader,
  linkAbort,
  MillraceError,
  type SharedFollowOptions,
  type StreamLog
} from '@millrace/core'
import { inTurn } from './in-turn.ts'

/** The log that is read, and what to call when this reader has left it. */
export interface Found {
  readonly log: StreamLog<string>
  readonly leave: () => void
}

const askAfterMs = 500
const done: IteratorReturnResult<undefined> = Object.freeze({ done: true, value: undefined })

/** A reader of a log in memory, in batches. It asks for the log with its first read: one that never reads holds nothing. */
export function followMemory(
  find: () => Found,
  { offset = 0, signal, isAlive }: SharedFollowOptions
): AsyncIterator<readonly string[], undefined> {
  let linked: LinkedAbort | undefined
  let found: Found | undefined
  let reader: LogReader<string> | undefined
  let asking: NodeJS.Timeout | undefined
  let waiting = false
  let left = false

  function begin(): LogReader<string> {
    linked = linkAbort(signal)
    found = find()
    return found.log.follow(offset, { signal: linked.signal, onLeave: leave })
  }

  function leave(): void {
    left = true
    linked?.[Symbol.dispose]()
    clearTimeout(asking)
    found?.leave()
  }

  function askLater(): void {
    if (isAlive !== undefined) asking = setTimeout(() => void ask(isAlive), askAfterMs).unref()
  }

  async function ask(alive: () => Promise<boolean>): Promise<void> {
    const length = found?.log.length
    let gone = false
    try {
      gone = !(await alive())
    } catch {
      // No answer: it is asked again.
    }
    if (!waiting) return
    if (gone && found?.log.length === length) linked?.abort(lostWriter())
    else askLater()
  }

  return {
    next: inTurn(async () => {
      if (left) return done
      reader ??= begin()
      waiting = true
      askLater()
      try {
        const value = await reader.nextBatch()
        return value === undefined ? done : { done: false, value }
      } finally {
        waiting = false
        clearTimeout(asking)
      }
    }),
    async return() {
      left = true
      await reader?.return?.()
      return done
    }
  }
}

function lostWriter(): MillraceError<'network'> {
  const text = 'the writer of the log is gone and has left it without an end'
  return new MillraceError('network', text, { details: { phase: 'body' } })
}
