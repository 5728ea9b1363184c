import type { HeldPermit, LimiterParts } from './limiter.ts'
import type { Subject } from './permit.ts'

/** What `CallOptions.permit` holds: the permit of one limiter, and that of the limiter around it. */
export class CallPermit {
  readonly parts: LimiterParts
  readonly held: HeldPermit
  readonly outer: object | undefined
  /** Requests made with it: the first is paid for, the others, retries and hedges, are not. */
  sent = 0
  /** Whom the requests are for: what they tell is learned of that. */
  subject: Subject

  constructor(parts: LimiterParts, held: HeldPermit, outer: object | undefined) {
    this.parts = parts
    this.held = held
    this.subject = held.subject
    this.outer = outer
  }
}

/** The permit that this limiter gave, of those a call has: its layer's, or one that the caller asked for and handed down. */
export function permitOf(permit: object | undefined, parts: LimiterParts): CallPermit | undefined {
  let at = permit
  for (; at instanceof CallPermit; at = at.outer) {
    if (at.parts === parts) return parts.own(at.held) === undefined ? undefined : at
  }
  const held = parts.own(at)
  return held && (held.onWire ??= new CallPermit(parts, held, undefined))
}
