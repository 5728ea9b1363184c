import { MillraceError } from '@millrace/core'

export function closedError(): MillraceError<'closed'> {
  return new MillraceError('closed', 'the limiter was closed', { details: {} })
}

export function queueFull(limit: number): MillraceError<'queue-full'> {
  return new MillraceError('queue-full', `${limit} calls wait already (maxQueue)`, { details: { limit } })
}

export function queueTimeout(limitMs: number, elapsedMs: number): MillraceError<'timeout'> {
  return new MillraceError(
    'timeout',
    `the limits let the call not in within ${Math.round(limitMs)} ms (queueMs, or its deadline)`,
    {
      details: { clock: 'queue', limitMs: Math.round(limitMs), elapsedMs: Math.round(elapsedMs) }
    }
  )
}

export function rateLimited(waitMs: number | undefined, bound: 'queueTimeout' | 'deadline'): MillraceError<'rate-limited'> {
  const longest = bound === 'deadline' ? 'its deadline allows' : 'queueMs allows'
  const retryAfterMs = waitMs === undefined ? undefined : Math.ceil(waitMs)
  return new MillraceError('rate-limited', `the limits would make the call wait longer than ${longest}`, {
    details: retryAfterMs === undefined ? {} : { retryAfterMs }
  })
}

export function quotaExceeded(resetMs: number): MillraceError<'quota-exceeded'> {
  return new MillraceError('quota-exceeded', 'what is left of a budget is less than the call may take', {
    details: { resetMs: Math.ceil(resetMs) }
  })
}

export function unavailable(retryAfterMs: number): MillraceError<'unavailable'> {
  return new MillraceError('unavailable', `the store of the limits cannot be asked (whenStoreFails: 'deny')`, {
    details: { retryAfterMs: Math.ceil(retryAfterMs) }
  })
}
