import { MillraceError, onAbort, type SharedFollowOptions } from '@millrace/core'
import { inTurn } from './in-turn.ts'
import type { LastWord, LogEntry } from './redis-entry.ts'

/** One reader of one log: what was read for it and not yet taken, and where it goes on. */
export interface Follower {
  readonly key: string
  readonly isAlive: (() => Promise<boolean>) | undefined
  /** Number of the next item to be read. */
  readonly at: number
  /** It wants to be read for: it has room, and the log has not ended. */
  readonly hungry: boolean
  /** Takes what was read; false when there was nothing new. */
  take(entries: readonly (LogEntry | undefined)[]): boolean
  /** Ends it, behind what was read already. */
  fail(error: unknown): void
}

export interface FollowerHost {
  /** It has become hungry. */
  feed(follower: Follower): void
  /** It is not hungry any more. */
  full(follower: Follower): void
  /** Its reader has begun, or ceased, to wait. */
  waits(change: 1 | -1): void
}

type Result = IteratorResult<readonly string[], undefined>

/**
 * A reader that is slower than the writer has this many characters read ahead, and one more read: so it rarely matters that
 * a log goes soon after its end.
 */
const maxReadyChars = 1_048_576

export function createFollower(
  key: string,
  options: SharedFollowOptions,
  host: FollowerHost
): AsyncIterableIterator<readonly string[], undefined> {
  const { offset = 0, signal, isAlive } = options
  let at = offset
  let writer: string | undefined
  let ready: (readonly string[])[] = []
  let readyChars = 0
  let state: 'new' | 'open' | 'ended' | 'failed' | 'left' = 'new'
  let failure: unknown
  let waiting: PromiseWithResolvers<Result> | undefined
  let off: (() => void) | undefined

  function begin(): void {
    state = 'open'
    off = onAbort(signal, (reason) => {
      ready = [] // an abort does not wait for what was read
      over('failed', reason)
    })
  }

  function over(as: 'ended' | 'failed' | 'left', error?: unknown): void {
    if (state !== 'open' && as !== 'left') return
    state = as
    failure = error
    off?.()
    host.full(follower)
    settle()
  }

  function settle(): void {
    if (waiting === undefined || (ready.length === 0 && state === 'open')) return
    const reader = waiting
    waiting = undefined
    host.waits(-1)
    reader.resolve(result())
  }

  function result(): Result | Promise<Result> {
    if (ready.length > 0) {
      const value = ready.length === 1 ? (ready[0] as readonly string[]) : ready.flat()
      ready = []
      readyChars = 0
      return { done: false, value }
    }
    if (state !== 'failed') return { done: true, value: undefined }
    state = 'left'
    return Promise.reject(failure)
  }

  function next(): Promise<Result> {
    if (state === 'new') begin()
    if (ready.length > 0 || state !== 'open') {
      const taken = Promise.resolve(result())
      if (state === 'open') host.feed(follower)
      return taken
    }
    const { promise } = (waiting = Promise.withResolvers())
    host.waits(1)
    host.feed(follower)
    return promise
  }

  /** The items of an entry that this reader lacks; undefined when it cannot go on. */
  function lacking(entry: LogEntry | undefined): readonly string[] | undefined {
    if (entry === undefined) return broken('unexpected', 'the log holds an entry that no writer of Millrace has written')
    writer ??= entry.writer
    if (writer !== entry.writer) return broken('unexpected', 'the log has two writers: its id was used twice')
    if (entry.type !== 'items') return finish(entry.type, entry.length)
    const first = entry.end - entry.items.length
    if (first > at) return broken('incomplete', missing)
    return first === at ? entry.items : entry.items.slice(at - first)
  }

  function finish(word: LastWord, length: number): undefined {
    if (word === 'too-large') return broken('too-large', 'the log went over the bound of its writer (maxBytes)')
    if (word === 'broken') return broken('incomplete', 'the writer could not go on with the log')
    if (length > at) return broken('incomplete', missing)
    over('ended')
  }

  function broken(reason: 'incomplete' | 'too-large' | 'unexpected', text: string): undefined {
    over('failed', new MillraceError('protocol', text, { details: { reason } }))
    return undefined
  }

  const follower: Follower = {
    key,
    isAlive,
    get at() {
      return at
    },
    get hungry() {
      return state === 'open' && readyChars < maxReadyChars
    },
    take(entries) {
      const before = at
      for (const entry of entries) {
        const items = lacking(entry)
        if (items === undefined) break
        if (items.length === 0) continue
        ready.push(items)
        at += items.length
        for (const item of items) readyChars += item.length
      }
      settle()
      if (state === 'open' && !follower.hungry) host.full(follower)
      return at > before
    },
    fail: (error) => over('failed', error)
  }

  return {
    next: inTurn(next),
    async return() {
      ready = []
      over('left')
      return { done: true, value: undefined }
    },
    [Symbol.asyncIterator]() {
      return this
    }
  }
}

const missing = 'part of the log is missing'
