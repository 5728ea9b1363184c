import { checkJson, isJsonObject, isMillraceError, MillraceError, parseJson } from '@millrace/core'
import type { Outcome } from './outcome.ts'
import { errorOf, plainError } from './recorded-error.ts'

/** What BullMQ carries for one item. */
export interface QueuedItem {
  /** Of the producer: where its results go. */
  readonly from: string
  readonly run: string
  readonly index: number
  readonly resultTtlMs: number
  /** As JSON text, so that it is written once. */
  readonly item: string
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
local ms = tonumber(ARGV[1])
if ms > 0 and redis.call('PTTL', KEYS[1]) < ms then redis.call('SET', KEYS[1], ARGV[2], 'PX', ms) end
return 1`

/** The same for an item that was refused, unless it was refused so often before: then 0. Its job counts that. */
export const refuseScript: string = `
if redis.call('EXISTS', KEYS[2]) == 1 and redis.call('HINCRBY', KEYS[2], 'refusals', 1) > tonumber(ARGV[3]) then return 0 end
${pauseScript}`

/** BullMQ counts the jobs it starts in the pause's key; so many are a pause. */
export const pausedCount = 1_000_000_000

/** What came of an item, as text; `fulfilled` tells which it is. */
export interface PackedOutcome {
  readonly fulfilled: boolean
  readonly text: string
}

/** A value that has more than `maxBytes` as JSON, or that JSON would bend, becomes an error that says so. */
export function packValue(value: unknown, maxBytes: number): PackedOutcome {
  let text: string
  try {
    text = value === undefined ? '{}' : `{"value":${jsonText(value, 'result')}}`
  } catch (error) {
    return packError(error, maxBytes)
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
  const packed = parseJson(text)
  if (!isJsonObject(packed)) {
    const message = 'the result in Redis is not one of ours'
    return { index, status: 'rejected', reason: new MillraceError('protocol', message, { details: { reason: 'malformed' } }) }
  }
  if (packed['error'] !== undefined) return { index, status: 'rejected', reason: errorOf(packed['error']) }
  return { index, status: 'fulfilled', value: packed['value'] as O }
}

/**
 * An item as it is sent.
 *
 * @throws {MillraceError} `invalid-request` for an item that cannot be sent; `details.path` names it
 */
export function packItem(item: unknown, index: number, maxBytes: number): string {
  const path = `items[${index}]`
  const text = jsonText(item, path)
  const bytes = Buffer.byteLength(text)
  if (bytes <= maxBytes) return text
  const message = `${path} has ${bytes} bytes, more than maxItemBytes, ${maxBytes}: store it elsewhere and send its address`
  throw new MillraceError('invalid-request', message, { details: { path } })
}

/** @throws {MillraceError} `invalid-request` for what would come out of JSON as something else */
function jsonText(value: unknown, path: string): string {
  try {
    checkJson(value, path)
    return JSON.stringify(value)
  } catch (cause) {
    if (isMillraceError(cause)) throw cause
    throw new MillraceError('invalid-request', `${path} cannot be written as JSON: give plain data`, { details: { path }, cause })
  }
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
