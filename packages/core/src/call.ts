import type { Chunk } from './chunk.ts'
import type { Deadline } from './deadline.ts'
import type { ChatRequest } from './request.ts'
import type { CallTally } from './tally.ts'

/** From a request to the chunks of its answer. Nothing is sent before the first chunk is asked for. */
export type Provider = (request: ChatRequest, options: CallOptions) => AsyncIterable<Chunk>

/** Wraps a thing of type `T` into another of the same type: a provider, a `Send`, a stream. */
export type Layer<T> = (next: T) => T

/**
 * What a caller can say about one call. Layers pass it on and never change it. Each package that has options of its own
 * adds one key named after itself by declaration merging.
 */
export interface CallOptions {
  /** Aborting it ends the call; the call then rejects with `signal.reason`, unwrapped. */
  readonly signal?: AbortSignal | undefined
  /** False lets the provider answer from one JSON body instead of a stream. @default true */
  readonly stream?: boolean | undefined
  /** Whom the call is for: part of the cache's key and of fair queues. */
  readonly tenant?: string | undefined
  /** Higher goes first in a queue. @default 0 */
  readonly priority?: number | undefined
  /** Sent as `Idempotency-Key` with every attempt of the call. */
  readonly idempotencyKey?: string | undefined
  readonly timeouts?: Timeouts | undefined
  /** The running total deadline; set by the layer that holds it, so that who waits can look at what is left. */
  readonly deadline?: Deadline | undefined
  /** Names the call in every message on the channels. @default made by the outermost layer */
  readonly callId?: string | undefined
  /** Where layers tell what they waited for; set by `watch`. */
  readonly tally?: CallTally | undefined
  /** What the call may take of its limits; set by the layer that holds them, for the part of it that stands on the wire. */
  readonly permit?: object | undefined
}

/** Limits of one call, in milliseconds; `Infinity` lifts one. An error names the clock that fired. */
export interface Timeouts {
  /** DNS, TCP and TLS together. @default 10000 */
  readonly connectMs?: number | undefined
  /** From the request sent to the response's head. @default Infinity: a plain answer's head comes with its end */
  readonly headersMs?: number | undefined
  /**
   * To the first content of a stream, from the provider's start: over all its attempts and the waits between them. The
   * reader's own time does not count. @default Infinity
   */
  readonly firstChunkMs?: number | undefined
  /** Silence between two contents of a stream: heartbeats, empty deltas and the time to parse them. @default 60000 */
  readonly idleMs?: number | undefined
  /** The whole call: queue, attempts, waits between them, and the last byte. @default 300000 in an adapter, 600000 in a transport */
  readonly totalMs?: number | undefined
}

/** Which clock of a call fired. */
export type Clock = 'queue' | 'connect' | 'headers' | 'first-chunk' | 'idle' | 'total'
