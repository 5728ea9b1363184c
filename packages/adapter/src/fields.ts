import { type Json, MillraceError } from '@millrace/core'

/** A field that should be text; anything else is `''`. */
export function text(value: Json | undefined): string {
  return typeof value === 'string' ? value : ''
}

/** A field that should be a number of tokens; anything else is 0. */
export function count(value: Json | undefined): number {
  return typeof value === 'number' && Number.isFinite(value) && value > 0 ? Math.floor(value) : 0
}

/** A value of the provider as JSON text; how deep it is nested was its choice, not ours. @throws {MillraceError} `protocol` */
export function stringify(value: Json): string {
  try {
    return JSON.stringify(value)
  } catch {
    throw malformed('a value of the answer is nested too deeply')
  }
}

/** The error of an answer that is not what its API promises. */
export function malformed(message: string): MillraceError<'protocol'> {
  return new MillraceError('protocol', message, { details: { reason: 'malformed' } })
}

/** The error of a request that this API cannot carry. */
export function refuse(path: string, problem: string): MillraceError<'invalid-request'> {
  return new MillraceError('invalid-request', `${path} ${problem}`, { details: { path } })
}
