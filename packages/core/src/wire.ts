import type { Timeouts } from './call.ts'
import type { Deadline } from './deadline.ts'
import type { CallTally } from './tally.ts'

/**
 * The lean face of the wire. Resolves with the response's head, whatever its status; rejects when there is none. Retry,
 * breaker and hedge are a `Layer<Send>`.
 */
export type Send = (request: HttpRequest) => Promise<HttpResponse>

export interface HttpRequest {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE' | 'HEAD' | 'OPTIONS'
  readonly url: string
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>
  readonly body?: string | Uint8Array | AsyncIterable<Uint8Array> | undefined
  /** Ends the exchange at any point: before, while connecting, waiting, or reading the body. */
  readonly signal?: AbortSignal | undefined
  readonly timeouts?: Timeouts | undefined
  /** The call's total deadline, held by a layer further out; who waits looks at what is left of it. */
  readonly deadline?: Deadline | undefined
  readonly callId?: string | undefined
  /** The call itself, for listeners. */
  readonly tally?: CallTally | undefined
  /** What the call may take of its limits: `CallOptions.permit`. */
  readonly permit?: object | undefined
  /** Which try of the call this is; set by the layer that retries. @default 1 */
  readonly attempt?: number | undefined
}

export interface HttpResponse {
  readonly status: number
  /** Names in lower case; a repeated header's values are joined by `, `. */
  readonly headers: Readonly<Record<string, string>>
  readonly body: HttpBody
  /** Requests it took to get here, this one included; a hedge counts too. */
  readonly attempts: number
  /**
   * A stream whose head says 200 may still hold a refusal: the status that the error event in place of its first content
   * stands for, or 502 where it ended before any content. The body still holds it. Absent for all that went well.
   */
  readonly refusal?: number | undefined
  /** Set when a second request was sent beside a slow one, and which of the two this is. */
  readonly hedge?: 'lost' | 'won' | undefined
}

/**
 * A response's bytes, read once: by iterating, or by `text()`. Each batch holds everything that has arrived since the
 * last one, so that many small events cost one promise. Leaving the loop closes the socket.
 */
export interface HttpBody extends AsyncIterable<readonly Uint8Array[]> {
  /**
   * The whole body, decoded as UTF-8 (a leading BOM dropped).
   *
   * @throws {MillraceError} `protocol` with `reason: 'too-large'` past `maxBytes`; `network` when it breaks off
   */
  text(maxBytes?: number): Promise<string>
  /** Gives up the rest: the socket is closed. Safe to call twice. */
  cancel(reason?: unknown): void
  /** True once all of it has arrived: whether or not it is read, it holds no socket open. */
  readonly complete?: boolean | undefined
}

/** What a failed attempt knew of where it was; also the phases of a request. */
export type WirePhase = 'dns' | 'connect' | 'tls' | 'send' | 'headers' | 'body'
