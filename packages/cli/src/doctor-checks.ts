import { longTokens, shortTokens } from './doctor-answer.ts'
import type { CheckName, DoctorArguments } from './doctor-arguments.ts'
import { askers, judgeCache, measureCache } from './doctor-cache.ts'
import type { Gateway } from './doctor-gateway.ts'
import { TooSlow, Unanswered } from './doctor-link.ts'
import {
  bodyBytes,
  callsOfRound,
  garbageBytes,
  garbageOfRound,
  judgeMemory,
  lateRounds,
  leastRounds,
  measureMemory
} from './doctor-memory.ts'
import { judgeMetrics, measureMetrics } from './doctor-metrics.ts'
import { atOnce, judgePooling, measurePooling } from './doctor-pooling.ts'
import { judgeStreaming, measureStreaming, streamTries } from './doctor-streaming.ts'
import { judgeTokens, measureTokens } from './doctor-tokens.ts'
import { failed, plural, type Verdict } from './doctor-verdict.ts'

/** What is sent at most where nobody else calls, so that nobody pays unasked. */
export interface Plan {
  /** That reach the provider. */
  readonly calls: number
  /** That reach none: the cache answers them, or they are refused. */
  readonly free: number
  /** Of all bodies. */
  readonly bytes: number
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
    plan: () => planOf({ long: 3, free: 3 + askers - 1 }),
    run: async (gateway) => judgeCache(await measureCache(gateway))
  },
  {
    name: 'tokens',
    title: 'token optimisation takes effect',
    plan: ({ promptTokens }) => planOf({ short: 1, tokensIn: promptTokens, bytes: 7 * promptTokens }),
    run: async (gateway, { promptTokens }) => judgeTokens(await measureTokens(gateway, promptTokens))
  },
  {
    name: 'streaming',
    title: 'answers stream',
    plan: () => planOf({ long: streamTries + 1, free: streamTries }),
    run: async (gateway) => judgeStreaming(await measureStreaming(gateway))
  },
  {
    name: 'memory',
    title: 'memory does not leak',
    // Dashes are few tokens in most vocabularies, and one for four in the worst.
    plan: () =>
      planOf({
        short: 2 * leastRounds,
        long: 1 + leastRounds,
        free: leastRounds * callsOfRound + lateRounds * garbageOfRound,
        tokensIn: 8000,
        bytes: leastRounds * callsOfRound * bodyBytes + lateRounds * garbageOfRound * garbageBytes
      }),
    run: async (gateway, { budgetMs }) => judgeMemory(await measureMemory(gateway, budgetMs))
  },
  {
    name: 'metrics',
    title: 'metrics are tracked',
    plan: () => planOf({ long: 3, free: 1 }),
    run: async (gateway) => judgeMetrics(await measureMetrics(gateway))
  }
]

/** A check that gets no answer has failed; the next ones may not. */
export async function runCheck(check: Check, gateway: Gateway, asked: DoctorArguments): Promise<Verdict> {
  gateway.begin()
  const startedAt = performance.now()
  const before = gateway.sent()
  try {
    return await check.run(gateway, asked)
  } catch (error) {
    if (error instanceof TooSlow) {
      const { calls, free } = check.plan(asked)
      const took = `${((performance.now() - startedAt) / 1000).toFixed(0)} s`
      return failed(
        `not examined: ${gateway.sent() - before} of about ${plural(calls + free, 'call')} in ${took}`,
        'the gateway, or its provider, is too slow for this check',
        'run doctor nearer to the gateway, find what takes the time, give --budget SECONDS, or leave the check out with --only'
      )
    }
    if (!(error instanceof Unanswered)) throw error
    return failed('not examined', error.message, 'see the log of the gateway, mend that, and run doctor again')
  }
}

/** A question has some 50 tokens with its number. */
function planOf({
  short = 0,
  long = 0,
  free = 0,
  tokensIn = 0,
  bytes = 0
}: Partial<Record<'short' | 'long' | 'free' | 'tokensIn' | 'bytes', number>>): Plan {
  const calls = short + long
  return {
    calls,
    free,
    bytes: bytes + 500 * (calls + free),
    tokensIn: 50 * calls + tokensIn,
    tokensOut: shortTokens * short + longTokens * long
  }
}
