import { isMillraceError } from '@millrace/core'
import { entriesOf, type LogEntry, readBehind } from './redis-entry.ts'
import type { LogCounts, RedisLogOptions } from './redis-options.ts'

/** An item of a log behind which there is something to read. */
export interface Place {
  readonly key: string
  readonly at: number
  /** The last read did not bring all that there was. */
  readonly more: boolean
}

/** What a read of one place has brought. */
export type Outcome = { readonly startedAt: number } & (
  | { readonly type: 'read'; readonly entries: readonly (LogEntry | undefined)[]; readonly more: boolean }
  /** Redis did not answer, or not now. */
  | { readonly type: 'away'; readonly error: unknown }
  /** What there is, is no log. */
  | { readonly type: 'refused'; readonly text: string }
)

// An entry has 64 Ki characters at most, unless one item is larger: so one command reads at most 64 Mi characters where many
// logs share it, and at most one whole log where they do not.
const maxPlaces = 128
const sharedEntries = 8
const ownEntries = 1000

/**
 * Reads behind all places, no two of which are the same, one command at a time. New readers and those that keep up share
 * commands; one that lags behind, or stands elsewhere in a log, gets its own.
 */
export async function readPlaces<P extends Place>(
  places: readonly P[],
  command: RedisLogOptions['command'],
  counts: LogCounts,
  give: (place: P, outcome: Outcome) => void
): Promise<void> {
  const shared = new Map<string, P>()
  const own: P[] = []
  for (const place of places) {
    if (place.more || shared.has(place.key)) own.push(place)
    else shared.set(place.key, place)
  }
  const together = [...shared.values()]
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
      return { type: 'read', startedAt, entries, more: entries.length >= count }
    })
  }

  for (const place of own) await read([place], ownEntries)
  for (let from = 0; from < together.length; from += maxPlaces) {
    await read(together.slice(from, from + maxPlaces), sharedEntries)
  }
}

/** Redis' own word, such as `WRONGTYPE`; undefined when it was not Redis that failed. */
function refusal(error: unknown): string | undefined {
  if (isMillraceError(error, 'unavailable')) return error.details.providerCode
  return error instanceof Error ? /^[A-Z]{2,32}(?= )/.exec(error.message)?.[0] : undefined
}
