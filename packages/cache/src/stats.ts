import type { CacheLookup } from '@millrace/core'

/** What a cache did since it was created. Every call that
 * came to an answer or a failure of its own is exactly one of hits, stale, joined, misses and bypassed; one that was given up
 * before may be none. */
export interface CacheStats {
  /** Answered from a tier, within the answer's lifetime. */
  readonly hits: number
  /** Answered past the answer's lifetime: while it was refreshed, or because the upstream failed. */
  readonly stale: number
  /** Shared somebody else's call, in this process or another. */
  readonly joined: number
  /** Made an upstream call. */
  readonly misses: number
  /** Did not ask the cache: by option, after `close`, for what is not eligible, or because no key could be made. */
  readonly bypassed: number
  /** Answers that were kept. */
  readonly stored: number
  /** Upstream calls whose answer was not kept: failed, given up, cut, filtered, invalid, too large, or told not to. */
  readonly notStored: number
  /** Calls in the background for answers past their lifetime, and those of them that brought none. */
  readonly refreshes: number
  readonly refreshErrors: number
  /** Calls of the store that failed or took too long. */
  readonly storeErrors: number
  /** Calls of the store that were not made, because it failed or was too slow shortly before. */
  readonly storeSkipped: number
  /** Writes that the store refused. */
  readonly writesRefused: number
  /** Entries in the store that were damaged, foreign or of another version: treated as misses and deleted. */
  readonly corrupt: number
  /** Entries that left memory for lack of room. */
  readonly evictions: number
  /** In memory now. */
  readonly entries: number
  readonly bytes: number
  /** Share of lookups without an upstream call of their own: hits, stale and joined; null before the first. */
  readonly hitRate: number | null
  /** Tokens, in and out, of the answers that were served without an upstream call. */
  readonly tokensSaved: number
  /** What they had cost, by `price`; null without one. */
  readonly moneySaved: number | null
  /** Those of them whose price is not known: `price` gave no number, or threw. */
  readonly unpriced: number
}

/** What is counted as it happens; the rest of `CacheStats` is asked for. */
export interface Counts {
  hits: number
  stale: number
  joined: number
  misses: number
  bypassed: number
  stored: number
  notStored: number
  refreshes: number
  refreshErrors: number
  tokensSaved: number
  unpriced: number
}

export function createCounts(): Counts {
  return {
    hits: 0,
    stale: 0,
    joined: 0,
    misses: 0,
    bypassed: 0,
    stored: 0,
    notStored: 0,
    refreshes: 0,
    refreshErrors: 0,
    tokensSaved: 0,
    unpriced: 0
  }
}

/** Which count a lookup adds to. */
export const countOf: Readonly<Record<CacheLookup['state'], keyof Counts>> = {
  hit: 'hits',
  stale: 'stale',
  joined: 'joined',
  miss: 'misses',
  bypass: 'bypassed'
}
