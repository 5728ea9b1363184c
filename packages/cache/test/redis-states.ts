import { setTimeout as delay } from 'node:timers/promises'
import type { RedisServer } from '@millrace/testkit'
import type { RedisStore } from '../src/redis.ts'
import { type RedisProxy, startRedisProxy } from './redis-proxy.ts'
import type { RedisRig } from './redis-rig.ts'

export interface Scene {
  readonly server: RedisServer
  readonly proxy: RedisProxy
  /** Another connection, past the proxy and patient. */
  readonly admin: RedisStore
  order(...args: string[]): Promise<unknown>
  /** Starts a server, empty, where the one that was killed was. */
  restart(): Promise<unknown>
  /** A door of the kind that is tested, through the proxy. */
  open(state: RedisState): RedisStore
}

export interface RedisState {
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

/** What a Redis can come to, and what is left of it then. */
export const redisStates: readonly RedisState[] = [
  {
    name: 'absent at start',
    fromStart: true,
    atOnce: true,
    ...gone,
    async begin({ server, restart }) {
      await server.kill()
      return restart
    }
  },
  {
    name: 'killed',
    atOnce: true,
    ...gone,
    async begin({ server, restart }) {
      await server.kill()
      return restart
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
    name: 'with lists where the values were',
    atOnce: true,
    reads: 'nothing',
    writes: 'taken',
    async begin({ order }) {
      for (const key of (await order('KEYS', 'millrace::*')) as string[]) {
        await order('DEL', key)
        await order('LPUSH', key, 'x')
      }
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

/** A Redis, and what a state is brought about with. */
export async function setScene(rig: RedisRig): Promise<Scene> {
  const server = await rig.server({ args: ['--enable-debug-command', 'yes'] })
  const proxy = rig.owns(await startRedisProxy(server.port))
  const admin = await rig.opened(server.url, { commandTimeoutMs: 10_000 })
  return {
    server,
    proxy,
    admin,
    order: (...args) => admin.command(args),
    restart: () => rig.server({ port: server.port }),
    open: ({ password }) => rig.door(password === undefined ? proxy.url : proxy.url.replace('//', `//:${password}@`))
  }
}
