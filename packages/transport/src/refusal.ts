import { createSSEParser, type HttpBody, isJsonObject, type Json, onAbort, parseJson } from '@millrace/core'
import { Pieces, readText } from './pieces.ts'

/** An error body is read up to here; the rest is given up with its socket. */
const maxBytes = 64 * 1024

/** And for so long: a server that stalls inside an error has said what matters by its status. */
const maxMs = 5000

/**
 * The body of a response that is not what was asked for, as far as it comes: at most 64 KiB, and what there is after 5
 * seconds or when it breaks off. It never rejects; a body that was read to its end leaves the socket usable.
 *
 * @example
 * if (response.status >= 400) console.error(response.status, await readRefusal(response.body))
 */
export async function readRefusal(body: HttpBody): Promise<string> {
  const peeked = await peek(body, maxMs)
  peeked.body.cancel()
  return peeked.text
}

/** What has been read of a body, and the same body from its first byte on. */
export interface Peeked {
  /** At most 64 KiB. */
  readonly text: string
  readonly body: HttpBody
}

type Batch = IteratorResult<readonly Uint8Array[], undefined>

/**
 * Reads ahead until the body ends, breaks off, has brought 64 KiB, or `limitMs` have passed. Who gets the body finds all of
 * it, and its failure where it would have been.
 *
 * @throws `signal.reason` when the signal aborts meanwhile; nothing else
 */
export async function peek(body: HttpBody, limitMs: number, signal?: AbortSignal): Promise<Peeked> {
  const source = body[Symbol.asyncIterator]() as AsyncIterator<readonly Uint8Array[], undefined>
  const pieces = new Pieces()
  // Pending, failed or the end: left to who reads on. The race has seen it, so a failure nobody reads is not unhandled.
  let unread: Promise<Batch> | undefined
  let isWhole = false
  const enough = Promise.withResolvers<undefined>()
  const stop = (): void => enough.resolve(undefined)
  const timer = setTimeout(stop, limitMs)
  const off = onAbort(signal, stop)
  while (pieces.bytes < maxBytes) {
    unread = source.next()
    const batch = await Promise.race([unread, enough.promise]).catch(() => undefined)
    if (batch === undefined) break
    if (batch.done === true) {
      isWhole = true
      break
    }
    unread = undefined
    pieces.pushAll(batch.value)
  }
  clearTimeout(timer)
  off()
  if (signal?.aborted === true) {
    body.cancel(signal.reason)
    throw signal.reason
  }
  const held = pieces.take()
  const text = Buffer.concat(held).subarray(0, maxBytes).toString()
  return { text, body: readOn(body, source, held, unread, isWhole) }
}

function readOn(
  body: HttpBody,
  source: AsyncIterator<readonly Uint8Array[], undefined>,
  pieces: readonly Uint8Array[],
  unread: Promise<Batch> | undefined,
  isWhole: boolean
): HttpBody {
  let held = pieces
  function next(): Promise<Batch> {
    const value = held
    const asked = unread
    if (value.length > 0) {
      held = []
      return Promise.resolve({ done: false, value })
    }
    unread = undefined
    return asked ?? source.next()
  }
  function cancel(reason?: unknown): void {
    held = []
    body.cancel(reason)
  }
  return {
    [Symbol.asyncIterator]: () => ({
      next,
      return() {
        cancel()
        return Promise.resolve({ done: true, value: undefined })
      }
    }),
    text: (maxTextBytes = Number.POSITIVE_INFINITY) => readText(next, maxTextBytes, cancel),
    cancel,
    get complete() {
      return isWhole || body.complete === true
    }
  }
}

/** What a refusal says, where it is JSON: a body, or the error event of a stream. */
export function refusalJson(text: string): Json | undefined {
  const whole = parseJson(text)
  if (whole !== undefined || !text.includes('data:')) return whole
  let found: Json | undefined
  const parser = createSSEParser(({ data }) => {
    const event = parseJson(data)
    if (isJsonObject(event) && (isJsonObject(event.error) || event.type === 'error')) found ??= event
  })
  parser.push(Buffer.from(text))
  parser.end()
  return found
}

/** A 429 of these kinds does not end by waiting. */
const exhausted: ReadonlySet<unknown> = new Set([
  'insufficient_quota',
  'billing_hard_limit_reached',
  'billing_not_active',
  'credit_balance_too_low'
])

/** Whether a refusal means that the account is at its end; by the provider's own code, never by its prose. */
export function isExhausted(refusal: Json | undefined): boolean {
  const answer: Json | undefined = Array.isArray(refusal) ? refusal[0] : refusal
  if (!isJsonObject(answer)) return false
  const { code, type } = isJsonObject(answer.error) ? answer.error : answer
  return exhausted.has(code) || exhausted.has(type)
}
