import { type ErrorCode, isJsonObject, isMillraceError, type Json, type JsonObject, MillraceError } from '@millrace/core'

/** Characters of a message: enough to tell what happened, and no page of what somebody sent. */
const maxText = 20_000

/**
 * An error as a journal or a queue keeps it: enough to tell what happened, and to decide whether to run the item again. It never
 * throws, whatever was thrown: a failure that cannot be kept would be paid for again.
 */
export function plainError(error: unknown): Json {
  try {
    if (isMillraceError(error)) return plainOurs(error)
    if (!(error instanceof Error)) return { name: 'Error', message: clipped(`a thrown ${typeof error}: ${String(error)}`) }
    const { name, message, code } = error as NodeJS.ErrnoException
    return { name: clipped(name), message: clipped(message), ...(typeof code === 'string' ? { code: clipped(code) } : {}) }
  } catch {
    // A getter that throws, a revoked proxy, an object without a text: that is all there is to tell.
    return { name: 'Error', message: `a thrown ${typeof error} that cannot be read` }
  }
}

function plainOurs(error: MillraceError): Json {
  try {
    const text = JSON.stringify(error)
    if (text.length <= maxText) return JSON.parse(text) as Json
    const plain = { ...(JSON.parse(text) as JsonObject), message: clipped(error.message) }
    if (JSON.stringify(plain).length <= 2 * maxText) return plain
    throw new RangeError('the details are too long to be kept')
  } catch {
    // Details that are no JSON, or very long, are left out, and code and message stay.
    const { name, message, code, retryable } = error
    return { name, message: clipped(message), code, retryable, details: {} }
  }
}

function clipped(text: unknown): string {
  return String(text).slice(0, maxText)
}

/** The error that was kept; one of ours is one of ours again. */
export function errorOf(plain: Json | undefined): Error {
  if (!isJsonObject(plain)) return new Error('no error was recorded')
  const { name, message, code, retryable, details, context } = plain
  const text = typeof message === 'string' ? message : ''
  if (name === 'MillraceError' && typeof code === 'string' && isJsonObject(details)) {
    return new MillraceError(code as ErrorCode, text, {
      details,
      retryable: retryable === true,
      context: isJsonObject(context) ? context : {}
    })
  }
  const error = new Error(text)
  if (typeof name === 'string') error.name = name
  return typeof code === 'string' ? Object.assign(error, { code }) : error
}
