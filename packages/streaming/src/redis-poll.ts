import { MillraceError, type SharedFollowOptions } from '@millrace/core'
import { createFollower, type Follower } from './redis-follower.ts'
import { type LogCounts, type LogSettings, mistakeIn } from './redis-options.ts'
import { type Outcome, type Pace, type Place, readPlaces } from './redis-read.ts'

/** Reads for all followers, one command at a time, and only while there are some. */
export interface Poll {
  follow(key: string, options: SharedFollowOptions): AsyncIterable<readonly string[]>
  readonly followers: number
  /** Ends all followers with `closed`. */
  close(): void
}

/** What is known of a follower that wants to be read for. Times are those of `performance.now()`. */
interface Turn {
  dueAt: number
  pauseMs: number
  pace: Pace
  small: boolean
  /** Nothing new has come since. */
  quietSince: number
  /** When `isAlive` was asked last, and when Redis was asked whether there is such a log. */
  askedAt: number
  lookedAt: number
  asking: boolean
  /** The log was there once, and since when it has not been. */
  seen: boolean
  absentSince: number | undefined
  /** That nothing will come any more but what one last look finds, and why. */
  gone: { readonly at: number; readonly text: string } | undefined
  /** No read has succeeded since. */
  awaySince: number | undefined
}

/** Followers of one log that stand at the same item: what is read for one is read for all. */
interface Row extends Place {
  readonly followers: Follower[]
}

const minPauseMs = 5
const maxPauseMs = 50
const askAfterMs = 500

export function createPoll(settings: LogSettings, counts: LogCounts): Poll {
  const { command, ttlMs, patienceMs } = settings
  const turns = new Map<Follower, Turn>()
  let waiting = 0
  let timer: NodeJS.Timeout | undefined
  let wakeAt = 0
  let reading = false
  let closed = false

  function feed(follower: Follower): void {
    if (closed) return follower.fail(closedError())
    if (turns.has(follower)) return
    const now = performance.now()
    turns.set(follower, {
      dueAt: now,
      pauseMs: minPauseMs,
      pace: 'unknown',
      small: false,
      quietSince: now,
      askedAt: now,
      lookedAt: now,
      asking: false,
      seen: false,
      absentSince: now,
      gone: undefined,
      awaySince: undefined
    })
    arm(now)
  }

  function full(follower: Follower): void {
    turns.delete(follower)
    if (turns.size === 0) stop()
  }

  // A reader that waits keeps the process alive, as one of a socket does; reading ahead does not.
  function waits(change: 1 | -1): void {
    waiting += change
    if (waiting === 0) timer?.unref()
    else timer?.ref()
  }

  function stop(): void {
    clearTimeout(timer)
    timer = undefined
  }

  function arm(at: number): void {
    if (reading || (timer !== undefined && wakeAt <= at)) return
    stop()
    wakeAt = at
    timer = setTimeout(() => void round(), Math.max(0, Math.ceil(at - performance.now())))
    if (waiting === 0) timer.unref()
  }

  async function round(): Promise<void> {
    timer = undefined
    reading = true
    await readPlaces(dueRows(), command, counts, give)
    reading = false
    let next = Number.POSITIVE_INFINITY
    for (const { dueAt } of turns.values()) next = Math.min(next, dueAt)
    if (next < Number.POSITIVE_INFINITY) arm(next)
  }

  /** What is due, and what is halfway there, so that many followers come to share one beat. */
  function dueRows(): Row[] {
    const now = performance.now()
    const rows = new Map<string, Row>()
    for (const [follower, { dueAt, pauseMs, pace, small }] of turns) {
      if (dueAt - pauseMs / 2 > now) continue
      const { key, at } = follower
      const place = `${at} ${key}`
      const row = rows.get(place)
      if (row === undefined) rows.set(place, { key, at, pace, small, dueAt, followers: [follower] })
      else row.followers.push(follower)
    }
    return [...rows.values()]
  }

  function give({ followers }: Row, outcome: Outcome): void {
    for (const follower of followers) {
      const turn = turns.get(follower)
      if (turn !== undefined) take(follower, turn, outcome) // it may have left meanwhile
    }
  }

  function take(follower: Follower, turn: Turn, outcome: Outcome): void {
    if (outcome.type === 'refused') {
      return follower.fail(new MillraceError('protocol', outcome.text, { details: { reason: 'unexpected' } }))
    }
    const now = performance.now()
    if (outcome.type === 'away') {
      turn.awaySince ??= outcome.startedAt
      turn.pace = 'unknown' // much may have come meanwhile
      turn.small = false
      if (now - turn.awaySince < patienceMs) return later(turn)
      const text = `Redis did not give the log for ${patienceMs} ms (patienceMs)${mistakeIn(outcome.error)}`
      return follower.fail(networkError(text, outcome.error))
    }
    turn.awaySince = undefined
    if (outcome.entries.length > 0) {
      turn.seen = true
      turn.absentSince = undefined
    }
    turn.pace = outcome.more ? 'behind' : 'keeps-up'
    turn.small = outcome.small
    if (follower.take(outcome.entries)) {
      turn.pauseMs = minPauseMs
      turn.quietSince = now
      turn.dueAt = outcome.more ? now : now + minPauseMs
      return
    }
    if (turn.gone !== undefined && turn.gone.at <= outcome.startedAt) return follower.fail(networkError(turn.gone.text))
    later(turn)
    askAround(follower, turn, now)
  }

  function later(turn: Turn): void {
    turn.pauseMs = Math.min(turn.pauseMs * 1.5, maxPauseMs)
    turn.dueAt = performance.now() + turn.pauseMs
  }

  /** Whether there is any point in waiting on. The answer is not waited for: the followers of other logs go on. */
  function askAround(follower: Follower, turn: Turn, now: number): void {
    const { key, isAlive } = follower
    if (turn.asking || now - turn.quietSince < askAfterMs) return
    // A living writer keeps its log, however silent it is. Whoever can be asked knows sooner that it is gone.
    const lookEveryMs = isAlive === undefined ? Math.max(askAfterMs, ttlMs / 8) : ttlMs
    if (now - Math.max(turn.quietSince, turn.lookedAt) >= lookEveryMs) void ask(turn, () => look(key, turn))
    else if (isAlive !== undefined && now - turn.askedAt >= askAfterMs) void ask(turn, () => askWriter(isAlive, turn))
  }

  /** Gone is what was there and is not for longer than a Redis that comes back empty is without it, or never came. */
  async function look(key: string, turn: Turn): Promise<string | undefined> {
    const lookedAt = (turn.lookedAt = performance.now())
    if (Number(await command(['EXISTS', key])) > 0) {
      turn.seen = true
      turn.absentSince = undefined
      return undefined
    }
    turn.absentSince ??= lookedAt
    const patience = turn.seen ? ttlMs / 2 : ttlMs
    return lookedAt - turn.absentSince < patience ? undefined : `there was no such log for ${patience} ms (ttlMs)`
  }

  async function askWriter(isAlive: () => Promise<boolean>, turn: Turn): Promise<string | undefined> {
    turn.askedAt = performance.now()
    return (await isAlive()) ? undefined : 'the writer of the log is gone and has left it without an end'
  }

  async function ask(turn: Turn, question: () => Promise<string | undefined>): Promise<void> {
    turn.asking = true
    try {
      const text = await question()
      if (text !== undefined) turn.gone ??= { at: performance.now(), text }
    } catch {
      counts.readFailures++ // no answer: it is asked again
    }
    turn.asking = false
  }

  return {
    follow: (key, options) => ({
      [Symbol.asyncIterator]: () => createFollower(key, options, { feed, full, waits })
    }),
    get followers() {
      return turns.size
    },
    close() {
      closed = true
      for (const follower of turns.keys()) follower.fail(closedError())
    }
  }
}

function networkError(text: string, cause?: unknown): MillraceError<'network'> {
  return new MillraceError('network', text, { details: { phase: 'body' }, cause })
}

function closedError(): MillraceError<'closed'> {
  return new MillraceError('closed', 'the log was closed', { details: {} })
}
