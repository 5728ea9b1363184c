import { type Completion, checkOptions, type ErrorDetails, MillraceError } from '@millrace/core'
import { isAsyncIterable } from './check-source.ts'
import { checkFormat, type EventFormat } from './event-format.ts'
import type { SSESource } from './sse-source.ts'

export type { SSESource } from './sse-source.ts'

/** The options of both writers. */
export interface SSEWriteOptions {
  /** @default plainEvents() */
  readonly format?: EventFormat | undefined
  /** Sends a comment line after so many milliseconds of silence, so that no proxy takes the connection for dead. `Infinity`: never. @default 15000 */
  readonly heartbeatMs?: number | undefined
  /**
   * The head waits so long, in milliseconds, for the first content, so that a failure before it can still get a status of
   * its own. @default 10000
   */
  readonly headWithinMs?: number | undefined
  /** Ends the stream after so many milliseconds with a `timeout` error event, whatever it is busy with. @default Infinity */
  readonly maxDurationMs?: number | undefined
  /** Ends the stream, with an error event if there is still somebody to read it. */
  readonly signal?: AbortSignal | undefined
  /** @default 200 */
  readonly status?: number | undefined
  /** More headers, or others than the usual ones; a function is given what the layers have told in notes so far. */
  readonly headers?: HeadersOfAnswer | ((notes: Completion['notes']) => HeadersOfAnswer) | undefined
  /** Told of what ended a stream that broke after its head, and of what a source throws on being left. */
  readonly onError?: ((error: unknown) => void) | undefined
}

type HeadersOfAnswer = Readonly<Record<string, string>>

const known: Readonly<Record<keyof SSEWriteOptions, 1>> = {
  format: 1,
  heartbeatMs: 1,
  headWithinMs: 1,
  maxDurationMs: 1,
  signal: 1,
  status: 1,
  headers: 1,
  onError: 1
}

export function checkWriting(of: string, source: SSESource, options: SSEWriteOptions): void {
  checkOptions<SSEWriteOptions>(of, options, known)
  if (typeof source !== 'function' && !isAsyncIterable(source)) {
    throw new TypeError(
      `${of} takes an async iterable of chunks, or a function of a signal that gives one; await a promise of it first`
    )
  }
  const { format, heartbeatMs = 1, headWithinMs = 0, maxDurationMs = 1, status = 200, headers, signal, onError } = options
  if (format !== undefined) checkFormat(format)
  if (!(heartbeatMs > 0))
    throw new TypeError(`heartbeatMs must be milliseconds above 0, or Infinity for none, not ${heartbeatMs}`)
  if (!(headWithinMs >= 0)) throw new TypeError(`headWithinMs must be milliseconds from 0 up, not ${headWithinMs}`)
  if (!(maxDurationMs > 0)) {
    throw new TypeError(`maxDurationMs must be milliseconds above 0, or Infinity for no limit, not ${maxDurationMs}`)
  }
  // These have no body.
  if (!(Number.isInteger(status) && status >= 200 && status <= 599 && ![204, 205, 304].includes(status))) {
    throw new TypeError(`status must be a status with a body, such as 200, not ${status}`)
  }
  if (headers !== undefined && typeof headers !== 'function' && !isPlain(headers)) {
    throw new TypeError("headers must be a plain object such as { 'x-request-id': id }, or a function that gives one")
  }
  if (signal !== undefined && typeof signal?.aborted !== 'boolean') throw new TypeError('signal must be an AbortSignal')
  if (onError !== undefined && typeof onError !== 'function') throw new TypeError('onError must be a function')
}

/** `Headers`, which has no keys, would be lost. */
function isPlain(value: unknown): boolean {
  return typeof value === 'object' && value !== null && [Object.prototype, null].includes(Object.getPrototypeOf(value))
}

/** The head of every answer of events. No proxy may keep them back, pack or change them. */
export function headersOf(options: SSEWriteOptions, notes: Completion['notes']): Record<string, string> {
  const { headers = {} } = options
  const own = typeof headers === 'function' ? headers(notes) : headers
  const all: Record<string, string> = {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache, no-transform',
    'x-accel-buffering': 'no'
  }
  for (const [name, value] of Object.entries(own)) all[name.toLowerCase()] = value
  return all
}

/** The end of `maxDurationMs`. */
export function tooLong(clocked: ErrorDetails['timeout']): MillraceError<'timeout'> {
  const text = `the stream of events was open for ${clocked.limitMs} ms (maxDurationMs)`
  return new MillraceError('timeout', text, { details: { ...clocked, clock: 'total' } })
}
