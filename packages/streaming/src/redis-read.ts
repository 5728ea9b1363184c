import { isMillraceError } from '@millrace/core'
import { entriesOf, type LogEntry, readBehind } from './redis-entry.ts'
import type { LogCounts, RedisLogOptions } from './redis-options.ts'

/** An item of a log behind which there is something to read. */
export interface Place {
  readonly key: string
  readonly at: number
  /** What the last read has shown: that there was all, that there is more, nothing. */
  readonly pace: Pace
  /** Those that have waited longest are read for first. */
  readonly dueAt: number
  /** The entries read last were small: many of them make no large reply. */
  readonly small: boolean
}

export type Pace = 'keeps-up' | 'behind' | 'unknown'

/** What a read of one place has brought. */
export type Outcome = { readonly startedAt: number } & (
  | {
      readonly type: 'read'
      readonly entries: readonly (LogEntry | undefined)[]
      readonly more: boolean
      readonly small: boolean
    }
  /** Redis did not answer, or not now. */
  | { readonly type: 'away'; readonly error: unknown }
  /** What there is, is no log. */
  | { readonly type: 'refused'; readonly text: string }
)

// An entry has 64 Ki characters at most, unless one item is larger. A reply must come within the time limit of a command:
// 4 Mi characters for new readers, and 1 Mi, or 128 small entries, for one that catches up. Those that keep up get what has
// come since they were read for, which is little.
const livePlaces = 128
const liveEntries = 8
const newPlaces = 16
const newEntries = 4
const ownEntries = 16
const ownSmallEntries = 128
const smallChars = 8192
/** New readers, and those that catch up, hold up the others for about so long, or one command. */
const catchUpForMs = 20

/**
 * Reads behind all places, no two of which are the same, one command at a time. New readers and those that keep up share
 * commands; one that lags behind, or stands elsewhere in a log, gets its own. Those that keep up come first; of the others,
 * those that found no time are still due.
 */
export async function readPlaces<P extends Place>(
  places: readonly P[],
  command: RedisLogOptions['command'],
  counts: LogCounts,
  give: (place: P, outcome: Outcome) => void
): Promise<void> {
  const keys = new Set<string>()
  const live: P[] = []
  const fresh: P[] = []
  const own: P[] = []
  for (const place of places) {
    if (place.pace === 'behind' || keys.has(place.key)) own.push(place)
    else {
      keys.add(place.key)
      if (place.pace === 'keeps-up') live.push(place)
      else fresh.push(place)
    }
  }
  let away: Outcome | undefined

  async function read(some: readonly P[], count: number): Promise<void> {
    // When Redis is away for one command, the others do not wait for it as well.
    const outcomes = away === undefined ? await readOnce(some, count) : some.map(() => away as Outcome)
    if (outcomes === 'apart') {
      for (const place of some) await read([place], count)
      return
    }
    for (const [index, outcome] of outcomes.entries()) give(some[index] as P, outcome)
  }

  /** `apart` when Redis refused the command as a whole: one key may have spoilt it for all. */
  async function readOnce(some: readonly P[], count: number): Promise<readonly Outcome[] | 'apart'> {
    const startedAt = performance.now()
    const args = readBehind(some, count)
    let reply: unknown
    counts.reads++
    try {
      reply = await command(args)
    } catch (error) {
      counts.readFailures++
      const word = refusal(error)
      if (word !== undefined && some.length > 1) return 'apart'
      const outcome: Outcome = { type: 'away', startedAt, error }
      if (word === undefined) away = outcome
      if (word !== 'WRONGTYPE') return some.map(() => outcome)
      return some.map(() => ({ type: 'refused', startedAt, text: 'the key of the log holds something that is no stream' }))
    }
    const found = entriesOf(reply)
    if (found === undefined) {
      counts.readFailures++
      const text = 'command gave no reply to XREAD that is one: it must answer as RESP 2 does'
      return some.map(() => ({ type: 'refused', startedAt, text }))
    }
    return some.map(({ key }) => {
      const entries = found.get(key) ?? []
      return { type: 'read', startedAt, entries, more: entries.length >= count, small: areSmall(entries) }
    })
  }

  for (const some of groups(live, livePlaces)) await read(some, liveEntries)
  const until = performance.now() + catchUpForMs
  const rest = [...groups(fresh, newPlaces), ...own.map((place) => [place])]
  for (const some of rest.toSorted((one, other) => dueAt(one) - dueAt(other))) {
    const [place] = some as [P, ...P[]]
    const ownCount = place.small ? ownSmallEntries : ownEntries
    await read(some, some.length === 1 ? ownCount : newEntries)
    if (performance.now() >= until) return
  }
}

function groups<P>(places: readonly P[], size: number): P[][] {
  const all: P[][] = []
  for (let from = 0; from < places.length; from += size) all.push(places.slice(from, from + size))
  return all
}

function dueAt([place]: readonly Place[]): number {
  return place?.dueAt ?? 0
}

/** The last entries of a log tell what the next are like. */
function areSmall(entries: readonly (LogEntry | undefined)[]): boolean {
  const chars = (entry: LogEntry | undefined): number =>
    entry?.type === 'items' ? entry.items.reduce((sum, item) => sum + item.length, 0) : 0
  return entries.every((entry) => chars(entry) <= smallChars)
}

/** Redis' own word, such as `WRONGTYPE`; undefined when it was not Redis that failed. */
function refusal(error: unknown): string | undefined {
  if (isMillraceError(error, 'unavailable')) return error.details.providerCode
  return error instanceof Error ? /^[A-Z]{2,32}(?= )/.exec(error.message)?.[0] : undefined
}
