import { MillraceError } from '@millrace/core'
import type { Wanted } from './rules.ts'

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

/** `by` is the ask that was denied. */
export function rateLimited(
  waitMs: number | undefined,
  bound: 'queueTimeout' | 'deadline',
  by: Wanted | undefined
): MillraceError<'rate-limited'> {
  const longest = bound === 'deadline' ? 'its deadline allows' : 'queueMs allows'
  const retryAfterMs = waitMs === undefined ? undefined : Math.ceil(waitMs)
  return new MillraceError('rate-limited', `${by?.label ?? 'a limit'} would make the call wait longer than ${longest}`, {
    details: retryAfterMs === undefined ? {} : { retryAfterMs }
  })
}

/** `left` as the store has told it. */
export function quotaExceeded(
  resetMs: number,
  by: Wanted | undefined,
  left: number | undefined
): MillraceError<'quota-exceeded'> {
  return new MillraceError('quota-exceeded', quotaText(by, left), { details: { resetMs: Math.ceil(resetMs) } })
}

function quotaText(by: Wanted | undefined, left: number | undefined): string {
  if (by?.kind !== 'budget') return 'what is left of a budget is less than the call may take'
  const { label = 'a budget', limit, amount, unit } = by
  const [rest, all, most] = [left ?? 0, limit, amount].map((value) => Math.round(value * 1e6) / 1e6)
  if (unit === 'usd') return `${label}: ${rest} of ${all} USD left, the call may take ${most}: give it a lower maxUsd`
  return `${label}: ${rest} of ${all} tokens left, the call may take ${most}: set maxOutputTokens, or a lower one`
}

export function unavailable(retryAfterMs: number): MillraceError<'unavailable'> {
  return new MillraceError('unavailable', `the store of the limits cannot be asked (whenStoreFails: 'deny')`, {
    details: { retryAfterMs: Math.ceil(retryAfterMs) }
  })
}
