import { checkOptions } from '@millrace/core'
import { createRedisStore, type RedisLimits } from './redis-store.ts'

export type { RedisLimits, RedisLimitsStats } from './redis-store.ts'
export type {
  Ask,
  BudgetAsk,
  BudgetEnd,
  Counter,
  Denial,
  End,
  LimitState,
  LimitStore,
  News,
  RateAsk,
  RateEnd,
  Terms,
  Verdict
} from './store.ts'

export interface RedisLimitsOptions {
  /**
   * Sends one command to Redis, its arguments as strings, and answers as RESP 2 does: the `command` of `createRedis()`, or
   * one of a client's own, such as `(args) => client.sendCommand(args)`.
   */
  readonly command: (args: readonly string[]) => Promise<unknown>
  /**
   * Put before all keys as `{namespace}:`, braces included: in a cluster, all of them lie in one slot. @default 'millrace'
   */
  readonly namespace?: string | undefined
  /** How long what a process holds outlives it. @default 10000 */
  readonly leaseMs?: number | undefined
  /** How long one step may take. @default 500 */
  readonly commandTimeoutMs?: number | undefined
}

/** A timer cannot be set for longer. */
const maxMs = 2_147_483_647

/**
 * Keeps limits and budgets in Redis (7.0 or later) or Valkey, for all processes with the same namespace: each step is one
 * script that nothing comes between, by the clock of Redis, one command on the wire.
 *
 * - Its steps never hang: they reject with a `MillraceError`, `timeout` after `commandTimeoutMs`, `unavailable` when Redis
 *   refuses, `network` otherwise, `closed`. What a step that failed may have taken all the same is given back as soon as
 *   Redis answers, and an end that failed is sent again.
 * - The places of a process that died come back after `leaseMs`; what it had reserved of a budget counts as spent, for it may
 *   be. So do those of one that stood still for so long, whose calls then run beside the limit.
 * - A Redis that comes back empty starts with full limits and unspent budgets, and knows nothing of the calls that run.
 * - A key nobody uses expires: a limit after an hour or so at rest, a budget an hour after its window.
 *
 * @throws {TypeError} when an option is wrong
 *
 * @example
 * await using redis = createRedis({ url: 'redis://127.0.0.1:6379' })
 * const limiter = createLimiter({
 *   limits: [{ requestsPerMinute: 500 }],
 *   store: createRedisLimits({ command: redis.command })
 * })
 */
export function createRedisLimits(options: RedisLimitsOptions): RedisLimits {
  if (typeof options === 'object' && options !== null && 'url' in options) {
    throw new TypeError('createRedisLimits takes no url: write createRedisLimits({ command: createRedis({ url }).command })')
  }
  checkOptions<RedisLimitsOptions>('createRedisLimits', options, { command: 1, namespace: 1, leaseMs: 1, commandTimeoutMs: 1 })
  const { command, namespace = 'millrace', leaseMs = 10_000, commandTimeoutMs = 500 } = options
  if (typeof command !== 'function') {
    throw new TypeError('command must be a function that sends one command, such as createRedis({ url }).command')
  }
  if (typeof namespace !== 'string' || namespace === '' || /[{}]/.test(namespace)) {
    throw new TypeError('namespace must be a non-empty string without { and }')
  }
  checkMs('leaseMs', leaseMs, 100)
  checkMs('commandTimeoutMs', commandTimeoutMs, 1)
  return createRedisStore({ command, namespace, leaseMs, commandTimeoutMs })
}

function checkMs(name: string, value: number, least: number): void {
  if (Number.isSafeInteger(value) && value >= least && value <= maxMs) return
  throw new TypeError(`${name} must be a whole number from ${least} to ${maxMs}, not ${value}`)
}
