import type { Json, LogReader, Timeouts } from '@millrace/core'
import type { Kind } from './entry.ts'
import type { Run } from './flight.ts'
import type { CacheCallOptions } from './options.ts'

/** What a door hands out: a kind of answer that comes in items. */
export interface Door<T> {
  readonly kind: Kind
  /**
   * What is kept of a whole run, compact; undefined when it must not be. `refusal`: it is a deterministic 400, 404, 413
   * or 422, for the negative cache. `error` is what the run ended with.
   */
  worth(run: Run<T> | undefined, error: unknown, pace: 'fast' | 'recorded'): Worth | undefined
  /** The items of what was kept. */
  itemsOf(value: unknown): readonly T[]
  weigh(item: T): number
  /** Makes an item safe to be shared by all who ask. */
  freeze(item: T): void
  /** After it only bookkeeping follows. */
  isLast(item: T): boolean
  /** Whether the answer has begun with this item: before it, a failure can still be answered otherwise. */
  isContent(item: T): boolean
  /** Whether this item tells of a failure that an answer past its time is better than. */
  isFailure(item: T): boolean
  /** Whether an error is one that an answer past its time is better than. */
  isOutage(error: unknown): boolean
  /** Items as JSON, for askers in other processes; undefined for what cannot be told. */
  encode(item: T): Json | undefined
  decode(json: Json): T | undefined
}

/** What is asked of the cache. */
export interface Question<T> {
  readonly door: Door<T>
  readonly key: string
  readonly asked: CacheCallOptions
  readonly callId: string | undefined
  readonly signal: AbortSignal | undefined
  readonly timeouts: Timeouts | undefined
  /** True: nobody reads it before its end, so another process' call is not handed over before that either. */
  readonly whole: boolean
  /** Whose credential it is sent with, as `byOf` tells: another one's failure is not shared. */
  readonly by: () => string
  /** The groups that what is kept belongs to. Called in the same turn when memory does not have the answer. */
  readonly groups: () => readonly string[]
  /** The upstream call, under a signal that belongs to all who ask. `background`: nobody waits for it. */
  readonly start: (signal: AbortSignal, background: boolean) => AsyncIterable<T>
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

/** For `Question.groups`, which is asked for at each step and hashes a name for each group. */
export function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined
  return () => {
    made ??= { value: make() }
    return made.value
  }
}
