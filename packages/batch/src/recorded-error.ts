import { type ErrorCode, isJsonObject, isMillraceError, type Json, MillraceError } from '@millrace/core'

/** An error as a journal keeps it: enough to tell what happened, and to decide whether to run the item again. */
export function plainError(error: unknown): Json {
  if (isMillraceError(error)) return JSON.parse(JSON.stringify(error)) as Json
  if (!(error instanceof Error)) return { name: 'Error', message: `a thrown ${typeof error}: ${String(error)}` }
  const { name, message, code } = error as NodeJS.ErrnoException
  return { name, message, ...(typeof code === 'string' ? { code } : {}) }
}

/** The error of a line; one of ours is one of ours again. */
export function errorOf(plain: Json | undefined): Error {
  if (!isJsonObject(plain)) return new Error('the journal holds no error')
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
