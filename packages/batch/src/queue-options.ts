import { checkOptions } from '@millrace/core'
import { addressOf, type RedisAddress } from './queue-address.ts'

/** What producers and workers must have in common to meet. */
export interface QueueOptions {
  /** Of the queue; any text without `:` and braces. */
  readonly name: string
  /** `redis://[user:password@]host[:port][/database]`, or `rediss://` for TLS. */
  readonly connection: string
  /** Put before the keys of the queue in Redis. @default 'millrace' */
  readonly prefix?: string | undefined
  /** How long Redis may be away before a call fails with `network`. At least 1000. @default 30_000 */
  readonly redisTimeoutMs?: number | undefined
}

export interface BatchQueueOptions extends QueueOptions {
  /**
   * How long items and results outlive a producer that says nothing any more; then workers drop what waits. At least twice
   * `redisTimeoutMs`. @default 600_000
   */
  readonly resultTtlMs?: number | undefined
  /** Of one item as JSON; a larger one is rejected. @default 1_048_576 */
  readonly maxItemBytes?: number | undefined
  /** How often what is under way is looked up, in case Redis has lost some of it. @default 10_000 */
  readonly checkMs?: number | undefined
}

export interface Where {
  readonly name: string
  readonly prefix: string
  readonly address: RedisAddress
  readonly redisTimeoutMs: number
}

export function whereOf({ name, connection, prefix = 'millrace', redisTimeoutMs = 30_000 }: QueueOptions): Where {
  for (const [option, value] of [
    ['name', name],
    ['prefix', prefix]
  ] as const) {
    if (typeof value === 'string' && /^[^:{}]+$/.test(value)) continue
    throw new TypeError(`${option} must be a non-empty string without ':', '{' and '}'`)
  }
  return { name, prefix, address: addressOf(connection), redisTimeoutMs: wholeNumber('redisTimeoutMs', redisTimeoutMs, 1000) }
}

export interface BatchQueueSettings extends Where {
  readonly resultTtlMs: number
  readonly maxItemBytes: number
  readonly checkMs: number
}

export function queueSettings(options: BatchQueueOptions): BatchQueueSettings {
  checkOptions<BatchQueueOptions>('createBatchQueue', options, {
    name: 1,
    connection: 1,
    prefix: 1,
    redisTimeoutMs: 1,
    resultTtlMs: 1,
    maxItemBytes: 1,
    checkMs: 1
  })
  const where = whereOf(options)
  const { resultTtlMs = Math.max(600_000, where.redisTimeoutMs * 2), maxItemBytes = 1_048_576, checkMs = 10_000 } = options
  return {
    ...where,
    // Else results could expire while their producer is still waiting for Redis to come back.
    resultTtlMs: wholeNumber('resultTtlMs', resultTtlMs, where.redisTimeoutMs * 2),
    maxItemBytes: wholeNumber('maxItemBytes', maxItemBytes, 1),
    checkMs: wholeNumber('checkMs', checkMs, 100)
  }
}

/** @throws {TypeError} that says what the option must be */
export function wholeNumber(option: string, value: number, low: number): number {
  if (Number.isSafeInteger(value) && value >= low) return value
  throw new TypeError(`${option} must be a whole number of at least ${low}, not ${String(value)}`)
}
