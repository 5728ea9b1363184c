import { type Chunk, type ErrorCode, isContent, isMillraceError, type JsonObject, MillraceError } from '@millrace/core'
import { type Answer, condense, isAnswer, isChunk, isJson } from './answer.ts'
import type { Run } from './flight.ts'
import { isOutage, refusals } from './outage.ts'
import { compact, deepFreeze, weigh } from './plain.ts'
import type { Door, Worth } from './question.ts'

/** What `withCache` hands out: chunks of an answer. */
export const chat: Door<Chunk> = {
  kind: 'chat',
  worth: worthOf,
  itemsOf: (value) => (value as Answer).chunks,
  weigh,
  freeze: deepFreeze,
  isLast: ({ type }) => type === 'finish',
  isContent,
  isFailure: () => false,
  isOutage,
  encode: (chunk) => (isJson(chunk) ? (chunk as unknown as JsonObject) : undefined),
  decode(json) {
    return isChunk(json) && isJson(json) ? deepFreeze<Chunk>(json) : undefined
  }
}

/** What the negative cache keeps of a refusal: all of it that holds no content. */
export interface Refusal {
  readonly code: ErrorCode
  readonly message: string
  readonly details: MillraceError['details']
  readonly context: MillraceError['context']
}

function worthOf(run: Run<Chunk> | undefined, error: unknown, pace: 'fast' | 'recorded'): Worth | undefined {
  if (run !== undefined) {
    const value = condense(run.items, pace === 'recorded' ? run.atMs : undefined)
    return isAnswer(value) && isJson(value) ? { value: compact(value) } : undefined
  }
  if (!isMillraceError(error) || !refusals.has((error.details as { status?: number }).status)) return undefined
  const { code, message, details, context } = error
  const value: Refusal = { code, message, details, context }
  return isJson(value) ? { value: compact(value), refusal: true } : undefined
}

/** The refusal again, as an error of its own. */
export function revive({ code, message, details, context }: Refusal): MillraceError {
  return new MillraceError(code, message, { details, context })
}
