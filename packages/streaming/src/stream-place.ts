import { randomBytes } from 'node:crypto'
import { MillraceError } from '@millrace/core'

/** A stream, and how many of its events are known already. */
export interface Place {
  readonly id: string
  readonly offset: number
}

const idShape = /^[A-Za-z0-9_-]{22}$/
const placeShape = /^([A-Za-z0-9_-]{22})(?:\/(0|[1-9]\d{0,8}))?$/

/** 128 random bits. */
export function newStreamId(): string {
  return randomBytes(16).toString('base64url')
}

export function isStreamId(id: unknown): id is string {
  return typeof id === 'string' && idShape.test(id)
}

/** What the event behind which a client goes on has as its id; a bare id of a stream is its beginning. */
export function placeOf(lastEventId: unknown): Place | undefined {
  const [, id, offset = '0'] = (typeof lastEventId === 'string' ? placeShape.exec(lastEventId) : null) ?? []
  return id === undefined ? undefined : { id, offset: Number(offset) }
}

/** The one refusal for whatever is no place of a stream here: who guesses learns nothing of why. */
export function unknownStream(): MillraceError<'invalid-request'> {
  const text = 'there is no such stream, or it has expired: begin a new one'
  return new MillraceError('invalid-request', text, { details: { status: 404, path: 'lastEventId' } })
}

/** The events of a text, each by itself. */
export function splitEvents(text: string): readonly string[] {
  if (text === '') return nothing
  const end = text.indexOf('\n\n')
  if (end === text.length - 2) return [text]
  if (!text.endsWith('\n\n')) throw new TypeError('a format must write whole events, each with a blank line at its end')
  return text.split(/(?<=\n\n)/)
}

const nothing: readonly never[] = []
