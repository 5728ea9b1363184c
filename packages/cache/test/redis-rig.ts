import { setTimeout as delay } from 'node:timers/promises'
import { type RedisServer, requireRedis, startRedis } from '@millrace/testkit'
import { createRedis, type RedisOptions, type RedisStore } from '../src/redis.ts'

/** Why the tests that need a Redis are skipped, if they are. */
export async function missingRedis(): Promise<boolean> {
  const found = await requireRedis()
  await found.server?.stop()
  return found.skip !== undefined
}

/** Servers and doors of a test, closed in the reverse order. */
export interface RedisRig {
  server(options?: Parameters<typeof startRedis>[0]): Promise<RedisServer>
  door(url: string, options?: Partial<RedisOptions>): RedisStore
  /** A door that is open. */
  opened(url: string, options?: Partial<RedisOptions>): Promise<RedisStore>
  owns<T extends { close(): Promise<unknown> }>(it: T): T
  /** Errors that nobody caught, from now on. */
  unhandled(): readonly unknown[]
  close(): Promise<void>
}

export function redisRig(): RedisRig {
  const owned: { close(): Promise<unknown> }[] = []
  const rig: RedisRig = {
    async server(options) {
      const started = await startRedis(options)
      if (started === undefined) throw new Error('Redis did not start a second time')
      owned.push({ close: () => started.stop() })
      return started
    },
    door: (url, options = {}) => rig.owns(createRedis({ url, ...options })),
    async opened(url, options) {
      const redis = rig.door(url, options)
      await until(() => redis.ready)
      return redis
    },
    owns(it) {
      owned.push(it)
      return it
    },
    unhandled() {
      const errors: unknown[] = []
      const note = (error: unknown): void => void errors.push(error)
      process.on('unhandledRejection', note).on('uncaughtException', note)
      rig.owns({ close: async () => void process.off('unhandledRejection', note).off('uncaughtException', note) })
      return errors
    },
    async close() {
      for (const each of owned.splice(0).toReversed()) await each.close()
    }
  }
  return rig
}

export async function until(condition: () => boolean | Promise<boolean>, withinMs = 10_000): Promise<void> {
  const end = performance.now() + withinMs
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`not within ${withinMs} ms: ${condition.toString()}`)
    await delay(5)
  }
}
