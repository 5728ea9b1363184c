import { longTokens, shortTokens } from './doctor-answer.ts'
import type { CheckName, DoctorArguments } from './doctor-arguments.ts'
import { askers, judgeCache, measureCache } from './doctor-cache.ts'
import type { Gateway } from './doctor-gateway.ts'
import { Unanswered } from './doctor-link.ts'
import { callsOfRound, judgeMemory, leastRounds, measureMemory } from './doctor-memory.ts'
import { judgeMetrics, measureMetrics } from './doctor-metrics.ts'
import { atOnce, judgePooling, measurePooling } from './doctor-pooling.ts'
import { judgeStreaming, measureStreaming, streamTries } from './doctor-streaming.ts'
import { judgeTokens, measureTokens } from './doctor-tokens.ts'
import { failed, type Verdict } from './doctor-verdict.ts'

/** What is sent at most where nobody else calls, so that nobody pays unasked. */
export interface Plan {
  /** That reach the provider. */
  readonly calls: number
  /** That the cache answers. */
  readonly hits: number
  readonly tokensIn: number
  readonly tokensOut: number
}

export interface Check {
  readonly name: CheckName
  /** What it shows when it passes. */
  readonly title: string
  plan(asked: DoctorArguments): Plan
  run(gateway: Gateway, asked: DoctorArguments): Promise<Verdict>
}

export const checks: readonly Check[] = [
  {
    name: 'pooling',
    title: 'connection pooling is active',
    plan: ({ calls }) => planOf({ short: 2 * atOnce + calls }),
    run: async (gateway, { calls }) => judgePooling(await measurePooling(gateway, calls))
  },
  {
    name: 'cache',
    title: 'the cache works',
    plan: () => planOf({ long: 3, hits: 3 + askers - 1 }),
    run: async (gateway) => judgeCache(await measureCache(gateway))
  },
  {
    name: 'tokens',
    title: 'token optimisation takes effect',
    plan: ({ promptTokens }) => planOf({ short: 1, tokensIn: promptTokens }),
    run: async (gateway, { promptTokens }) => judgeTokens(await measureTokens(gateway, promptTokens))
  },
  {
    name: 'streaming',
    title: 'answers stream',
    plan: () => planOf({ long: streamTries + 1 }),
    run: async (gateway) => judgeStreaming(await measureStreaming(gateway))
  },
  {
    name: 'memory',
    title: 'memory does not leak',
    // Dashes are few tokens in most vocabularies, and one for four in the worst.
    plan: () => planOf({ short: 2 * leastRounds, long: 1 + leastRounds, hits: leastRounds * callsOfRound, tokensIn: 8000 }),
    run: async (gateway) => judgeMemory(await measureMemory(gateway))
  },
  {
    name: 'metrics',
    title: 'metrics are tracked',
    plan: () => planOf({ long: 3, hits: 1 }),
    run: async (gateway) => judgeMetrics(await measureMetrics(gateway))
  }
]

/** A check that gets no answer has failed; the next ones may not. */
export async function runCheck(check: Check, gateway: Gateway, asked: DoctorArguments): Promise<Verdict> {
  try {
    return await check.run(gateway, asked)
  } catch (error) {
    if (!(error instanceof Unanswered)) throw error
    return failed('not examined', error.message, 'see the log of the gateway, mend that, and run doctor again')
  }
}

/** A question has some 50 tokens with its number. */
function planOf({
  short = 0,
  long = 0,
  hits = 0,
  tokensIn = 0
}: Partial<Record<'short' | 'long' | 'hits' | 'tokensIn', number>>): Plan {
  const calls = short + long
  return { calls, hits, tokensIn: 50 * calls + tokensIn, tokensOut: shortTokens * short + longTokens * long }
}
