import { isMillraceError, MillraceError } from '@millrace/core'
import { late } from './time-limits.ts'

/**
 * What a failed command, or a failed attempt to connect, is told as. Redis' own words may repeat the arguments; only their
 * first, such as `WRONGTYPE`, gets into the message.
 */
export function redisError(error: unknown, option: 'commandTimeoutMs' | 'connectTimeoutMs', limitMs: number): MillraceError {
  if (isMillraceError(error)) return error
  if (error === late) {
    return new MillraceError('timeout', `Redis did not answer within ${limitMs} ms (${option})`, {
      details: { clock: option === 'connectTimeoutMs' ? 'connect' : 'total', limitMs, elapsedMs: limitMs }
    })
  }
  const word = firstWord(error)
  if (word !== undefined) {
    return new MillraceError('unavailable', `Redis refused the command: ${word}`, {
      details: { providerCode: word },
      cause: error
    })
  }
  const errno = (error as { code?: unknown } | null)?.code
  const details = { phase: 'body' as const, ...(typeof errno === 'string' ? { errno } : {}) }
  return new MillraceError('network', 'the connection to Redis broke', { details, cause: error })
}

/** The word a refusal of Redis begins with, such as `OOM`. */
export function firstWord(error: unknown): string | undefined {
  return error instanceof Error ? /^[A-Z]{2,32}(?= )/.exec(error.message)?.[0] : undefined
}
