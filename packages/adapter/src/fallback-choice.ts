import { type ConnectedCandidate, modelOf } from './candidates.ts'
import type { Cooling, Failing } from './cooling.ts'
import type { FallbackRules } from './fallback-options.ts'

/** One of the providers that may answer, and what is known of it. */
export interface Rival extends ConnectedCandidate {
  /** Its place in the list. */
  readonly index: number
  readonly cooling: Cooling
  readonly counts: { asked: number; answered: number; failed: number; passedOver: number }
}

export interface CoolingRival {
  readonly rival: Rival
  readonly failing: Failing
}

/** Who is to be asked. */
export interface Choice {
  readonly rival: Rival
  /** Who would have been asked, but is cooling down. */
  readonly passedOver: readonly CoolingRival[]
  /** Whether another is left that is not cooling down. */
  readonly hasOther: boolean
}

/** Chooses for a request's model among those that were not tried; at least one must be left. */
export type Choose = (asked: string, tried: readonly Rival[]) => Choice

/** Those that are cooling down come last, the one that is free soonest first. */
export function chooseBy({ balance, random }: FallbackRules, rivals: readonly Rival[]): Choose {
  return (asked, tried) => {
    const free: Rival[] = []
    const cooling: CoolingRival[] = []
    for (const rival of rivals) {
      if (tried.includes(rival)) continue
      const failing = rival.cooling.size === 0 ? undefined : rival.cooling.of(modelOf(rival, asked))
      if (failing === undefined) free.push(rival)
      else cooling.push({ rival, failing })
    }
    const rival = (balance === 'weighted' ? drawn(free, random) : free[0]) ?? soonest(cooling)
    // In a list with an order, those behind the chosen one are not passed over.
    const isPassedOver = (other: Rival): boolean => other !== rival && (balance === 'weighted' || other.index < rival.index)
    return { rival, passedOver: cooling.filter((other) => isPassedOver(other.rival)), hasOther: free.length > 1 }
  }
}

function soonest(cooling: readonly CoolingRival[]): Rival {
  return cooling.reduce((best, other) => (other.failing.until < best.failing.until ? other : best)).rival
}

/** Each is drawn as often as its weight is of all. A hook that throws or gives no number from 0 to 1 costs the balance only. */
function drawn(free: readonly Rival[], random: () => number): Rival | undefined {
  let left = fraction(random) * free.reduce((sum, { weight = 1 }) => sum + weight, 0)
  for (const rival of free) {
    left -= rival.weight ?? 1
    if (left < 0) return rival
  }
  return free.at(-1)
}

function fraction(random: () => number): number {
  try {
    const given: unknown = random()
    return typeof given === 'number' && given >= 0 && given <= 1 ? given : 0
  } catch {
    return 0
  }
}
