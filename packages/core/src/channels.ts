import { channel } from 'node:diagnostics_channel'
import type { CallOptions } from './call.ts'
import type { Chunk, Facts, FinishReason, NoteSource, StartChunk, Usage } from './chunk.ts'
import type { ChatRequest } from './request.ts'
import type { CallTally } from './tally.ts'

/** Every message says which object sent it (channels are process-wide) and which call it belongs to. */
export interface ChannelMessage {
  readonly owner: object
  readonly callId: string
}

interface CallMessage extends ChannelMessage {
  /** The call itself, for two may have one `callId`: the same object in all its messages. */
  readonly call: CallTally
  /** The object the caller passed; not a copy. Listeners must not keep or change it. */
  readonly request: ChatRequest
  readonly stream: boolean
}

export interface CallStart extends CallMessage {
  /** What the caller said about the call, where packages find their own key. */
  readonly options: CallOptions
  /** `performance.now()`. */
  readonly startedAt: number
}

/** Content has arrived: told of each read that brought some. */
export interface CallContent extends CallMessage {
  /** Since the call's start. */
  readonly elapsedMs: number
  /** Since the last read that brought content; absent for the first. */
  readonly gapMs?: number | undefined
  /** What the read brought; not a copy. Listeners must not keep or change it. */
  readonly chunks: readonly Chunk[]
  /** Who answers. */
  readonly start?: StartChunk | undefined
}

export interface CallEnd extends CallMessage {
  /** `aborted`: by the caller's signal. `abandoned`: the reader left the loop. */
  readonly outcome: 'success' | 'error' | 'aborted' | 'abandoned'
  readonly elapsedMs: number
  /** Absent when there was no content. */
  readonly firstContentMs?: number | undefined
  /** Chunks with content. */
  readonly contents: number
  readonly provider?: string | undefined
  readonly model?: string | undefined
  readonly id?: string | undefined
  readonly finish?: FinishReason | undefined
  readonly usage?: Usage | undefined
  /**
   * What the billed tokens cost in USD by the owner's price list, else by that of whoever watches the call further in. `null`
   * if no list knows the price of what was used, absent without usage or list.
   */
  readonly cost?: number | null | undefined
  /** The same of tokens that were not billed: what they would have cost. */
  readonly saved?: number | undefined
  /**
   * Time spent in this process: of a stream until its first content, of a plain answer until its end, less what was waited
   * for the provider, for the reader, and for whatever else told of it (see `CallTally`). Absent for what did not succeed,
   * for a joined answer, and where the provider does not tell its time.
   */
  readonly overheadMs?: number | undefined
  readonly notes: Readonly<Partial<Record<NoteSource, Facts>>>
  readonly error?: unknown
}

/** One HTTP request of a call; a free resend of it belongs to it. */
export interface AttemptStart extends ChannelMessage {
  /** The call, where the request tells it: a `callId` may be another's too. */
  readonly call?: CallTally | undefined
  /** 1 for the first. */
  readonly attempt: number
  readonly method: string
  /** Scheme, host and port; neither path nor query. */
  readonly origin: string
}

/** The response has been let through (a stream's with its first content, a small answer whole), or the attempt failed before. */
export interface AttemptEnd extends ChannelMessage {
  readonly call?: CallTally | undefined
  readonly attempt: number
  readonly origin: string
  readonly elapsedMs: number
  readonly status?: number | undefined
  readonly error?: unknown
  /** Ended by the request's own signal, its call's or a faster hedge's; then `error` is the signal's reason. */
  readonly aborted?: boolean | undefined
}

export interface CacheLookup extends ChannelMessage {
  readonly state: 'hit' | 'stale' | 'joined' | 'miss' | 'bypass'
  readonly elapsedMs: number
  readonly ageMs?: number | undefined
}

interface TypedChannel<M extends ChannelMessage> {
  readonly hasSubscribers: boolean
  readonly name: string | symbol
  publish(message: M): void
  subscribe(listener: (message: M, name: string | symbol) => void): void
  unsubscribe(listener: (message: M, name: string | symbol) => void): void
}

const typed = <M extends ChannelMessage>(name: string): TypedChannel<M> => channel(name) as TypedChannel<M>

/**
 * Where packages tell what they do. Publish only behind `hasSubscribers`: unheard, that costs about a nanosecond.
 *
 * @example
 * channels.callEnd.subscribe(({ outcome, elapsedMs }) => console.log(outcome, elapsedMs))
 */
export const channels: {
  readonly callStart: TypedChannel<CallStart>
  readonly callContent: TypedChannel<CallContent>
  readonly callEnd: TypedChannel<CallEnd>
  readonly attemptStart: TypedChannel<AttemptStart>
  readonly attemptEnd: TypedChannel<AttemptEnd>
  readonly cacheLookup: TypedChannel<CacheLookup>
} = {
  callStart: typed('millrace:call:start'),
  callContent: typed('millrace:call:content'),
  callEnd: typed('millrace:call:end'),
  attemptStart: typed('millrace:attempt:start'),
  attemptEnd: typed('millrace:attempt:end'),
  cacheLookup: typed('millrace:cache:lookup')
}
