import { type Json, MillraceError } from '@millrace/core'
import type { Outcome } from './outcome.ts'
import { errorOf, plainError } from './recorded-error.ts'

/** What BullMQ carries for one item. */
export interface QueuedItem<I> {
  /** Of the producer: where its results go. */
  readonly from: string
  readonly run: string
  readonly index: number
  readonly resultTtlMs: number
  readonly item: I
}

/** Where one producer's items are open, and where their results wait for it. */
export interface ResultKeys {
  /** A hash with a field for each item that nobody has a result of yet. Whoever takes the field away may say the result. */
  readonly open: string
  /** A stream of results, emptied by the producer as it reads. */
  readonly results: string
}

export function resultKeys(prefix: string, name: string, from: string): ResultKeys {
  return { open: `${prefix}:${name}:open:${from}`, results: `${prefix}:${name}:results:${from}` }
}

/** An item's name in its queue. It is the same however often the item runs, and so is its idempotency key. */
export function jobIdOf(run: string, index: number): string {
  return `${run}-${index}`
}

/**
 * Stores a result if its item is still open, and takes that away in the same step: of a worker that was believed dead and the
 * one that did its work again, one is heard.
 */
export const putScript = `
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('XADD', KEYS[2], '*', 'i', ARGV[1], 'r', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1`

/** BullMQ's own pause, which all workers look at before they take a job. A shorter one does not end a longer one. */
export const pauseScript = `
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1]) end
return 1`

/** BullMQ counts the jobs it starts in the pause's key; so many are a pause. */
export const pausedCount = 1_000_000_000

/** What came of an item, as text; `fulfilled` tells which it is. */
export interface PackedOutcome {
  readonly fulfilled: boolean
  readonly text: string
}

/** A value that has more than `maxBytes` as JSON, or is none of JSON, becomes an error that says so. */
export function packValue(value: unknown, maxBytes: number): PackedOutcome {
  let text: string
  try {
    text = JSON.stringify({ value })
  } catch (cause) {
    const message = 'the result cannot be written as JSON: return plain data'
    return packError(new MillraceError('invalid-request', message, { details: {}, cause }), maxBytes)
  }
  return fits(text, maxBytes) ? { fulfilled: true, text } : packError(tooLarge('result', text, maxBytes), maxBytes)
}

/** Neither stack nor cause nor what hangs on the error: only what says what went wrong. */
export function packError(error: unknown, maxBytes: number): PackedOutcome {
  const text = JSON.stringify({ error: plainError(error) })
  if (fits(text, Math.max(maxBytes, smallBytes))) return { fulfilled: false, text }
  return { fulfilled: false, text: JSON.stringify({ error: plainError(tooLarge('error', text, maxBytes)) }) }
}

/** An error of our own always fits. */
const smallBytes = 1000

function fits(text: string, maxBytes: number): boolean {
  return Buffer.byteLength(text) <= maxBytes
}

function tooLarge(what: 'result' | 'error', text: string, maxBytes: number): MillraceError {
  const size = `the ${what} has ${Buffer.byteLength(text)} bytes, more than maxResultBytes, ${maxBytes}`
  return new MillraceError('protocol', `${size}: store it elsewhere and return its address`, {
    details: { reason: 'too-large' },
    retryable: false
  })
}

export function unpack<O>(index: number, text: string): Outcome<O> {
  let packed: { readonly value?: O; readonly error?: Json }
  try {
    packed = JSON.parse(text) as typeof packed
  } catch {
    // Without the cause, which quotes the text.
    const reason = new MillraceError('protocol', 'the result in Redis is no JSON', { details: { reason: 'malformed' } })
    return { index, status: 'rejected', reason }
  }
  if (packed.error !== undefined) return { index, status: 'rejected', reason: errorOf(packed.error) }
  return { index, status: 'fulfilled', value: packed.value as O }
}

/** @throws {MillraceError} `invalid-request` for an item that cannot be sent; `details.path` names it */
export function checkItem(item: unknown, index: number, maxBytes: number): void {
  const details = { path: `items[${index}]` }
  let text: string | undefined
  try {
    text = JSON.stringify(item)
  } catch (error) {
    throw new MillraceError('invalid-request', `items[${index}] cannot be written as JSON: give plain data`, {
      details,
      cause: error
    })
  }
  if (text === undefined) {
    throw new MillraceError('invalid-request', `items[${index}] is ${typeof item}: give plain data`, { details })
  }
  const bytes = Buffer.byteLength(text)
  if (bytes <= maxBytes) return
  const message = `items[${index}] has ${bytes} bytes, more than maxItemBytes, ${maxBytes}: store it elsewhere and send its address`
  throw new MillraceError('invalid-request', message, { details })
}

/** What a run ends with when its queue is closed. */
export function closedError(): MillraceError {
  return new MillraceError('closed', 'the queue was closed', { details: {} })
}

/** What comes of an item that BullMQ has given up. */
export function abandoned(): MillraceError {
  return new MillraceError('unavailable', 'the item was given up: its workers died, or lost Redis, each time it ran', {
    details: {},
    retryable: false
  })
}
