import { newQuestion } from './doctor-answer.ts'
import type { Gateway } from './doctor-gateway.ts'
import type { Metrics } from './doctor-prometheus.ts'
import { failed, passed, plural, type Verdict } from './doctor-verdict.ts'

const rounds = 3

/** One count of `/metrics`: how much it should have risen by what doctor did, and has. */
export interface Tracked {
  readonly name: string
  readonly expected: number
  /** Where a sum is not known beforehand: above `expected`, and at most this. */
  readonly most?: number | undefined
  /** Undefined where `/metrics` has no such name. */
  readonly risen: number | undefined
}

const duration = 'gen_ai_client_operation_duration_count'
const durationSum = 'gen_ai_client_operation_duration_sum'
const lookups = 'millrace_cache_lookups_total'
const tokens = 'gen_ai_client_token_usage_sum'

/** Rounds of a miss, a hit, a stream and one that is left: until one has risen by exactly that, for others may call too. */
export async function measureMetrics(gateway: Gateway): Promise<readonly (readonly Tracked[])[]> {
  const seen: (readonly Tracked[])[] = []
  while (seen.length < rounds) {
    const round = await measureRound(gateway)
    seen.push(round)
    if (round.every(isRight) || isShort(round)) break
  }
  return seen
}

async function measureRound(gateway: Gateway): Promise<readonly Tracked[]> {
  await gateway.settled(({ running }) => running === 0)
  const before = await gateway.metrics()
  const startedAt = performance.now()
  const question = newQuestion('Name a mountain.')
  const miss = await gateway.ask(question)
  await gateway.ask(question)
  const stream = await gateway.stream(newQuestion('Name a lake.'))
  const seconds = (performance.now() - startedAt) / 1000
  const expect: readonly (readonly [
    name: string,
    metric: string,
    labels: Readonly<Record<string, string>>,
    expected: number,
    most?: number
  ])[] = [
    ['calls', duration, { millrace_outcome: 'success' }, 3],
    ['seconds', durationSum, { millrace_outcome: 'success' }, 0, 3 * seconds],
    ['time to first text', 'gen_ai_client_operation_time_to_first_chunk_count', {}, 1],
    ['own time', 'millrace_call_overhead_count', {}, 3],
    ['hits', lookups, { millrace_cache_state: 'hit' }, 1],
    ['misses', lookups, { millrace_cache_state: 'miss' }, 2],
    ['tokens in', tokens, { gen_ai_token_type: 'input' }, miss.promptTokens + stream.promptTokens],
    ['tokens out', tokens, { gen_ai_token_type: 'output' }, miss.completionTokens + stream.completionTokens],
    ['requests', 'millrace_pool_requests_total', {}, 2]
  ]
  const read = (after: Metrics): readonly Tracked[] =>
    expect.map(([name, metric, labels, expected, most]) => {
      const now = after.sum(metric, labels)
      return { name, expected, most, risen: now === undefined ? undefined : now - (before.sum(metric, labels) ?? 0) }
    })
  const counted = read(await gateway.settledMetrics((after) => !isShort(read(after))))

  const started = await gateway.metrics()
  const ended = { millrace_outcome: 'aborted' }
  const risen = (now: Metrics): number => (now.sum(duration, ended) ?? 0) - (started.sum(duration, ended) ?? 0)
  const left = await gateway.leave(newQuestion('Tell the story of a forest in five sentences.'))
  // An answer that was over at once was not left.
  if (!left) return counted
  const after = await gateway.settledMetrics((now) => risen(now) >= 1)
  return [...counted, { name: 'calls left', expected: 1, risen: risen(after) }]
}

function isShort(round: readonly Tracked[]): boolean {
  return round.some(isLow)
}

function isLow({ risen, expected, most }: Tracked): boolean {
  return risen === undefined || risen < expected || (most !== undefined && risen <= expected)
}

function isRight({ risen, expected, most }: Tracked): boolean {
  return most === undefined ? risen === expected : risen !== undefined && risen > expected && risen <= most
}

/**
 * Too little is wrong at once. Too much is others' work, unless it is the same surplus in every round: then each of our
 * calls counts more than once.
 */
export function judgeMetrics(seen: readonly (readonly Tracked[])[]): Verdict {
  const last = seen.at(-1) ?? []
  const told = last.map(({ name, risen }) => `${name} +${shown(risen ?? 0)}`).join(', ')
  const off = (by: (one: Tracked) => boolean): string =>
    last
      .filter(by)
      .map(({ name, expected, most, risen }) => {
        if (risen === undefined) return `${name} is missing`
        const of = most === undefined ? expected : `more than ${expected} and at most ${shown(most)}`
        return `${name} rose by ${shown(risen)} of ${of}`
      })
      .join(', ')
  if (isShort(last)) {
    return failed(
      `/metrics: ${told}`,
      off(isLow),
      'see that /metrics is the gateway’s own and not cached on the way, that telemetry is on, and that no balancer stands between'
    )
  }
  const surplus = seen.map((round) =>
    JSON.stringify(
      round.map(({ risen = 0, expected, most }) =>
        most !== undefined ? 0 : risen - expected > 0 ? (risen - expected) / expected : 0
      )
    )
  )
  if (last.every(isRight)) return passed(`/metrics rose by exactly what was done: ${told}`)
  if (last.every((one) => one.most !== undefined || isRight(one))) {
    return failed(
      `/metrics: ${told}`,
      off((one) => !isRight(one)),
      'see that times are recorded in seconds, and each once'
    )
  }
  if (seen.length >= rounds && new Set(surplus).size === 1) {
    return failed(
      `/metrics: ${told}`,
      `in each of ${plural(seen.length, 'round')} ${off((one) => one.most === undefined && !isRight(one))}`,
      'see that no two telemetries listen in the gateway’s process, and that nobody else calls at exactly this pace'
    )
  }
  return passed(`/metrics rose by at least what was done (others call too): ${told}`)
}

function shown(value: number): string {
  return Number.isInteger(value) ? String(value) : value.toPrecision(3)
}
