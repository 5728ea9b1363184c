import { setTimeout as delay, setImmediate as tick } from 'node:timers/promises'
import { isMillraceError } from '@millrace/core'
import type { RedisServer } from '@millrace/testkit'
import { afterEach, describe, expect, it } from 'vitest'
import type { RedisStore } from '../src/redis.ts'
import { type GuardedStore, guardStore } from '../src/store.ts'
import { type RedisProxy, startRedisProxy } from './redis-proxy.ts'
import { missingRedis, redisRig, until } from './redis-rig.ts'

const skip = await missingRedis()
const rig = redisRig()
afterEach(() => rig.close())

const timeoutMs = 50
const calls = 200

interface Scene {
  readonly server: RedisServer
  readonly proxy: RedisProxy
  /** Another connection, for orders to the server. */
  order(...args: string[]): Promise<unknown>
}

interface State {
  readonly name: string
  /** What the door is made with. */
  readonly password?: string
  /** Brings the state about; gives back what ends it. */
  begin(scene: Scene): Promise<(() => unknown) | undefined>
  /** It is so before the door is opened. */
  readonly fromStart?: true
  /** No call may wait at all: the failure comes at once. */
  readonly atOnce?: true
  /** Of a key that was there before. */
  readonly reads: 'value' | 'some' | 'nothing'
  readonly writes: 'taken' | 'refused' | 'lost'
}

const gone = { reads: 'nothing', writes: 'lost' } as const

const states: readonly State[] = [
  {
    name: 'absent at start',
    fromStart: true,
    atOnce: true,
    ...gone,
    async begin({ server }) {
      await server.kill()
      return () => rig.server({ port: server.port })
    }
  },
  {
    name: 'killed',
    atOnce: true,
    ...gone,
    async begin({ server }) {
      await server.kill()
      return () => rig.server({ port: server.port })
    }
  },
  {
    name: 'frozen by SIGSTOP',
    ...gone,
    async begin({ server }) {
      server.pause()
      return () => server.resume()
    }
  },
  {
    name: 'frozen by SIGSTOP before the door is opened',
    fromStart: true,
    atOnce: true,
    ...gone,
    async begin({ server }) {
      server.pause()
      return () => server.resume()
    }
  },
  {
    name: 'under CLIENT PAUSE',
    ...gone,
    async begin({ order }) {
      await order('CLIENT', 'PAUSE', '1500', 'ALL')
      return () => delay(1500)
    }
  },
  {
    name: 'under CLIENT PAUSE WRITE',
    // A write that waits holds up the reads behind it on its connection, until that is dropped.
    reads: 'some',
    writes: 'lost',
    async begin({ order }) {
      await order('CLIENT', 'PAUSE', '60000', 'WRITE')
      return () => order('CLIENT', 'UNPAUSE')
    }
  },
  {
    name: 'in DEBUG SLEEP',
    ...gone,
    async begin({ order }) {
      const slept = order('DEBUG', 'SLEEP', '1.5')
      await delay(20)
      return () => slept
    }
  },
  {
    name: 'out of memory',
    atOnce: true,
    reads: 'value',
    writes: 'refused',
    async begin({ order }) {
      await order('CONFIG', 'SET', 'maxmemory-policy', 'noeviction', 'maxmemory', '1')
      return () => order('CONFIG', 'SET', 'maxmemory', '0')
    }
  },
  {
    name: 'a read-only replica of a dead host',
    atOnce: true,
    reads: 'value',
    writes: 'refused',
    async begin({ order }) {
      await order('REPLICAOF', '127.0.0.1', '1')
      return () => order('REPLICAOF', 'NO', 'ONE')
    }
  },
  {
    name: 'a replica that serves no stale data',
    atOnce: true,
    reads: 'nothing',
    writes: 'refused',
    async begin({ order }) {
      await order('CONFIG', 'SET', 'replica-serve-stale-data', 'no')
      await order('REPLICAOF', '127.0.0.1', '1')
      return () => order('REPLICAOF', 'NO', 'ONE')
    }
  },
  {
    name: 'of another password',
    password: 'canary',
    fromStart: true,
    atOnce: true,
    ...gone,
    async begin({ order }) {
      await order('CONFIG', 'SET', 'requirepass', 'right')
      return () => order('CONFIG', 'SET', 'requirepass', 'canary')
    }
  },
  {
    name: 'locked in the middle',
    atOnce: true,
    ...gone,
    async begin({ order }) {
      await order('CONFIG', 'SET', 'requirepass', 'right')
      await order('CLIENT', 'KILL', 'TYPE', 'normal')
      return () => order('CONFIG', 'SET', 'requirepass', '')
    }
  },
  {
    name: 'with a list where the value was',
    atOnce: true,
    reads: 'nothing',
    writes: 'taken',
    async begin({ order }) {
      await order('DEL', 'millrace::there')
      await order('LPUSH', 'millrace::there', 'x')
      return undefined
    }
  },
  {
    name: 'without a place for one more client',
    atOnce: true,
    ...gone,
    async begin({ order }) {
      await order('CONFIG', 'SET', 'maxclients', '1')
      await order('CLIENT', 'KILL', 'TYPE', 'normal')
      return () => order('CONFIG', 'SET', 'maxclients', '10000')
    }
  },
  {
    name: 'loading its data',
    ...gone,
    async begin({ order }) {
      await order('DEBUG', 'POPULATE', '2000')
      await order('CONFIG', 'SET', 'key-load-delay', '1000', 'loading-process-events-interval-bytes', '1024')
      const reloaded = order('DEBUG', 'RELOAD')
      await delay(100)
      return () => reloaded
    }
  },
  {
    name: 'behind a line that breaks in the middle of a reply',
    atOnce: true,
    ...gone,
    async begin({ proxy }) {
      proxy.mischief = 'cut'
      return () => {
        proxy.mischief = 'none'
      }
    }
  },
  {
    name: 'behind a line that says what no Redis says',
    atOnce: true,
    ...gone,
    async begin({ proxy }) {
      proxy.mischief = 'garbage'
      return () => {
        proxy.mischief = 'none'
      }
    }
  },
  {
    name: 'behind a line of 200 ms',
    ...gone,
    async begin({ proxy }) {
      proxy.mischief = 'delay'
      return () => {
        proxy.mischief = 'none'
      }
    }
  }
]

/** `calls` lookups in a row, each with a write behind it, as misses make them: what they take, and what they find. */
async function traffic(guard: GuardedStore): Promise<{ takes: number[]; found: Set<string | undefined> }> {
  const takes: number[] = []
  const found = new Set<string | undefined>()
  for (let call = 0; call < calls; call++) {
    const at = performance.now()
    found.add(await guard.read('there'))
    guard.write(`new ${call}`, 'text', 60_000)
    if (call % 2 === 1) await guard.put(`word ${call}`, 'text', 60_000)
    takes.push(performance.now() - at)
    await tick()
  }
  return { takes, found }
}

describe.skipIf(skip)('a guarded store over a Redis', () => {
  for (const state of states) {
    it(`${state.name} costs five calls at most one deadline each, and the others nothing`, { timeout: 30_000 }, async () => {
      const unhandled: unknown[] = []
      const note = (error: unknown): void => void unhandled.push(error)
      process.on('unhandledRejection', note).on('uncaughtException', note)
      rig.owns({
        close: async () => void process.off('unhandledRejection', note).off('uncaughtException', note)
      })

      const server = await rig.server({ args: ['--enable-debug-command', 'yes'] })
      const proxy = rig.owns(await startRedisProxy(server.port))
      const admin = await rig.opened(server.url, { commandTimeoutMs: 10_000 })
      await admin.set('there', 'value')
      const scene: Scene = { server, proxy, order: (...args) => admin.command(args) }
      const open = (): RedisStore => {
        const url = state.password === undefined ? proxy.url : proxy.url.replace('//', `//:${state.password}@`)
        return rig.door(url)
      }
      let end: (() => unknown) | undefined
      if (state.fromStart) end = await state.begin(scene)
      const redis = open()
      const errors: unknown[] = []
      const guard = guardStore(redis, { timeoutMs, onError: (error) => errors.push(error) })
      if (!state.fromStart) {
        await until(() => redis.ready)
        // So that nothing is compiled in the calls that are timed.
        for (let warm = 0; warm < 50; warm++) await guard.read('there')
        expect(await guard.put('warm', 'x')).toBe(true)
        end = await state.begin(scene)
      }

      const bareAt = performance.now()
      await delay(timeoutMs)
      const bareMs = performance.now() - bareAt
      const { takes, found } = await traffic(guard)

      const reaches = state.reads === 'value' || state.writes === 'taken'
      const slow = takes.filter((ms) => ms > timeoutMs / 2)
      const timeouts = errors.filter((error) => isMillraceError(error, 'timeout'))
      expect(Math.max(...takes)).toBeLessThan(2 * bareMs + 150) // a lookup and a write that is waited for
      // Calls that reach Redis take what this machine gives them; the others are over at once.
      if (!reaches) expect(slow.length).toBeLessThanOrEqual(5)
      if (state.atOnce) expect(timeouts.length).toBeLessThanOrEqual(2) // a busy machine may hold up one or two
      expect(takes.toSorted((a, b) => a - b)[calls * 0.9]).toBeLessThan(reaches ? bareMs : 1)
      if (state.reads === 'value') expect([...found]).toEqual(['value'])
      if (state.reads === 'nothing') expect(found.has('value')).toBe(false)
      if (state.reads !== 'some') expect(guard.available).toBe(reaches)

      // What happened can be seen.
      if (state.writes === 'lost') expect(guard.skipped).toBeGreaterThan(calls / 2)
      expect(guard.writesRefused > 0).toBe(state.writes === 'refused')
      expect(guard.errors).toBe(errors.length)
      if (state.writes !== 'taken') expect(guard.errors).toBeGreaterThan(0)

      await end?.()
      const backAt = performance.now()
      await until(async () => (await guard.put('back', 'x')) && (await guard.read('back')) === 'x')
      expect(performance.now() - backAt).toBeLessThan(2000 + (bareMs - timeoutMs) * 10)
      await guard.drain()
      expect(unhandled).toEqual([])
      expect(JSON.stringify(errors)).not.toContain('canary')
    })
  }
})
