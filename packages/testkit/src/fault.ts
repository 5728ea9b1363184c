/**
 * What a provider does to its callers for a while. `slow`: the head and the first token after 4 s, then 5 tokens a second.
 * `rate-limit`: each request gets a 429 that says to come back in a second. `reset`: the first of two answers gets its
 * connection reset before the head, the second after its third token, a plain one in the middle of its body.
 */
export type ScriptedFault = (typeof faultNames)[number]

const faultNames = ['none', 'slow', 'rate-limit', 'reset'] as const

/** What becomes of one answer, settled when it begins. */
export interface AnswerFault {
  readonly pace?: { readonly firstTokenMs: number; readonly tokensPerSecond: number } | undefined
  readonly reset?: 'before-head' | 'after-third-token' | undefined
}

/** The fault that is on, and each answer's share of it. */
export interface FaultSwitch {
  readonly name: ScriptedFault
  /** @throws {TypeError} for a name that is none of a fault */
  set(name: unknown): void
  next(): AnswerFault
}

export function createFaultSwitch(): FaultSwitch {
  let name: ScriptedFault = 'none'
  let resets = 0
  return {
    get name() {
      return name
    },
    set(wanted) {
      name = checkFault(wanted)
      resets = 0
    },
    next() {
      if (name === 'slow') return { pace: { firstTokenMs: 4000, tokensPerSecond: 5 } }
      if (name === 'reset') return { reset: resets++ % 2 === 0 ? 'before-head' : 'after-third-token' }
      return {}
    }
  }
}

/** @throws {TypeError} that names the faults there are */
export function checkFault(name: unknown): ScriptedFault {
  const known = faultNames.find((fault) => fault === name)
  if (known === undefined) throw new TypeError(`fault must be one of ${faultNames.join(', ')}`)
  return known
}
