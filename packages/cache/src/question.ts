import type { Json, LogReader, Timeouts } from '@millrace/core'
import type { Kind } from './entry.ts'
import type { Run } from './flight.ts'
import type { CacheCallOptions } from './options.ts'

/** What is asked of the cache, by whichever door: a kind of answer that comes in items. */
export interface Question<T> {
  readonly kind: Kind
  readonly key: string
  /** Whose credential it is sent with, as `byOf` tells: another one's failure is not shared. */
  readonly by: () => string
  /** The groups that what is kept belongs to. Called in the same turn when memory does not have the answer. */
  readonly groups: () => readonly string[]
  readonly asked: CacheCallOptions
  readonly callId: string | undefined
  readonly signal: AbortSignal | undefined
  readonly timeouts: Timeouts | undefined
  /** The upstream call, under a signal that belongs to all who ask. `background`: nobody waits for it. */
  readonly start: (signal: AbortSignal, background: boolean) => AsyncIterable<T>
  /**
   * What is kept of a whole run: plain JSON; undefined when it must not be. `refusal`: it is a deterministic 400,
   * 404, 413 or 422, for the negative cache. `error` is what the run ended with.
   */
  readonly worth: (run: Run<T> | undefined, error: unknown) => Worth | undefined
  /** The items of what was kept. */
  readonly itemsOf: (value: unknown) => readonly T[]
  readonly weigh: (item: T) => number
  /** Makes an item safe to be shared by all who ask. */
  readonly freeze: (item: T) => void
  /** After it only bookkeeping follows. */
  readonly isLast: (item: T) => boolean
  /** Whether the answer has begun with this item: before it, a failure can still be answered otherwise. */
  readonly isContent: (item: T) => boolean
  /** Whether this item tells of a failure that an answer past its time is better than. @default failures are errors */
  readonly isFailure?: ((item: T) => boolean) | undefined
  /** Items as JSON, for askers in other processes; undefined for what cannot be told. */
  readonly encode: (item: T) => Json | undefined
  readonly decode: (json: Json) => T | undefined
}

export interface Worth {
  readonly value: unknown
  readonly refusal?: boolean | undefined
}

/** Answered from what was kept, or by a call under way. */
export type Reply<T> = KeptReply | RunningReply<T>

export interface KeptReply {
  readonly state: 'hit' | 'stale'
  readonly value: unknown
  readonly ageMs: number
  readonly refusal: boolean
}

export interface RunningReply<T> {
  /** Known for certain once items have come: `hit` when another process had stored it just before we called. */
  readonly state: 'miss' | 'joined' | 'hit'
  readonly items: Items<T>
  /** Whether the upstream's bill goes to this asker. Ask it when usage arrives. */
  pays(): boolean
}

/** Read one by one, or all that is there at once. */
export type Items<T> = Pick<LogReader<T>, 'next' | 'nextBatch' | 'ended' | 'return'>

/** Set while a reply is waited for: leaves without it. */
export interface Leaving {
  leave?: (() => void) | undefined
}

/** An older answer counts as none. */
export function maxAgeOf({ asked }: { readonly asked: CacheCallOptions }): number {
  return asked.maxAgeMs ?? Number.POSITIVE_INFINITY
}
