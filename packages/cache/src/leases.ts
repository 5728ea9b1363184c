import { randomBytes } from 'node:crypto'
import type { GuardedStore } from './store.ts'

/**
 * Who of many processes makes a call. Whoever takes a free lease leads, until it is released or `leaseMs` have gone by
 * without a sign of life; its token is a new one each time, and what it writes under the lease is refused once somebody
 * else has taken over (fencing: the same command that writes looks at the token). Exactly: at most one leader per lease
 * under one primary. A failover of Redis that loses the lease may make two.
 */
export interface Leases {
  /** Undefined when the store does not say: then each process is on its own. */
  take(key: string, options: TakeOptions): Promise<Lease | undefined>
  /** Whether the process that had this token still makes its call. A store that does not say is believed to hold it. */
  holds(key: string, token: string): Promise<boolean>
  /** Says that somebody in this process follows the leader, good for some seconds. Never rejects. */
  watch(key: string): Promise<void>
}

export interface TakeOptions {
  /** Somebody in another process waits for what we lead. */
  readonly onFollowed: () => void
  /** The token of a leader whose call is outdated, or `whoever`: it is deposed. Those who follow it may go on to. */
  readonly instead?: string | undefined
}

/** No token: any leader is deposed. */
export const whoever = '*'

/** A lease that was taken, by us or by another process. */
export interface Lease {
  readonly token: string
  /** Absent when another process leads. */
  readonly led?: LedLease | undefined
}

export interface LedLease {
  /** Whether anybody in another process follows. Never rejects. */
  isWatched(): Promise<boolean>
  /** Writes an entry and releases, in one step; does nothing when another process has taken over. Never rejects. */
  commit(entryKey: string, text: string, ttlMs: number): Promise<void>
  /** Never rejects. Safe to call twice. */
  release(): Promise<void>
}

export interface LeasesOptions {
  readonly store: GuardedStore
  readonly namespace: string
  readonly prefix: string
  readonly leaseMs: number
}

/** A lease that would never run out is none of ours. */
const takeScript = `
local held = redis.call('GET', KEYS[1])
if held and redis.call('PTTL', KEYS[1]) > 0 then
  if ARGV[3] ~= held and ARGV[3] ~= '*' then return {0, held} end
  redis.call('SET', ARGV[4] .. held, 1, 'PX', ARGV[1])
end
local token = redis.call('INCR', KEYS[2]) .. '-' .. ARGV[2]
redis.call('SET', KEYS[1], token, 'PX', ARGV[1])
return {1, token}`

/** Of each lease: 0 it is lost (but its leader lives), 1 it is held, 2 it is held and somebody else follows. */
const renewScript = `
local states = {}
for at = 1, #ARGV - 2 do
  if redis.call('GET', KEYS[2 * at - 1]) ~= ARGV[at + 2] then
    redis.call('SET', ARGV[2] .. ARGV[at + 2], 1, 'PX', ARGV[1])
    states[at] = 0
  else
    redis.call('PEXPIRE', KEYS[2 * at - 1], ARGV[1])
    states[at] = 1 + redis.call('EXISTS', KEYS[2 * at])
  end
end
return states`

const commitScript = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[1])
return 1`

const releaseScript = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`

/** Leases renewed with one command. */
const maxRenewed = 200

interface Running {
  readonly key: string
  readonly token: string
  readonly onFollowed: () => void
  watched: boolean
}

export function createLeases({ store, namespace, prefix, leaseMs }: LeasesOptions): Leases {
  const running = new Set<Running>()
  let timer: NodeJS.Timeout | undefined

  const leaseKey = (key: string): string => `${prefix}${namespace}:l:${key}`
  const watchKey = (key: string): string => `${prefix}${namespace}:w:${key}`
  const fenceKey = `${prefix}${namespace}:fence`
  /** Before the token of a leader that was deposed and lives. */
  const beat = `${prefix}${namespace}:b:`

  async function command(...args: string[]): Promise<unknown> {
    return (await store.command?.(args))?.reply
  }

  async function renew(leases: readonly Running[]): Promise<void> {
    const keys = leases.flatMap(({ key }) => [leaseKey(key), watchKey(key)])
    const tokens = leases.map(({ token }) => token)
    const states = await command('EVAL', renewScript, `${keys.length}`, ...keys, `${leaseMs}`, beat, ...tokens)
    if (!Array.isArray(states)) return // the store is away: the lease runs on there, or out
    leases.forEach((lease, at) => {
      // Lost: what it writes will be refused. Its own askers are served all the same, and those who follow it already.
      lease.watched = states[at] === 2
      if (lease.watched) lease.onFollowed()
    })
  }

  function arm(): void {
    if (timer !== undefined || running.size === 0) return
    timer = setTimeout(async () => {
      const all = [...running]
      for (let at = 0; at < all.length; at += maxRenewed) await renew(all.slice(at, at + maxRenewed))
      timer = undefined
      arm()
    }, leaseMs / 3)
    // The call that is led keeps the process alive, not the sign of its life.
    timer.unref()
  }

  function lead(key: string, token: string, onFollowed: () => void): LedLease {
    const lease: Running = { key, token, onFollowed, watched: false }
    running.add(lease)
    arm()
    let over: Promise<unknown> | undefined
    function end(...args: string[]): Promise<void> {
      running.delete(lease)
      over ??= command(...args)
      return over.then(() => {})
    }
    return {
      async isWatched() {
        await renew([lease])
        return lease.watched
      },
      commit: (entryKey, text, ttlMs) =>
        end('EVAL', commitScript, '2', leaseKey(key), prefix + entryKey, token, text, `${ttlMs}`),
      release: () => end('EVAL', releaseScript, '1', leaseKey(key), token)
    }
  }

  return {
    async take(key, { onFollowed, instead = '' }) {
      const random = randomBytes(8).toString('hex')
      const reply = await command('EVAL', takeScript, '2', leaseKey(key), fenceKey, `${leaseMs}`, random, instead, beat)
      if (!Array.isArray(reply) || typeof reply[1] !== 'string') return undefined
      const token = reply[1]
      return reply[0] === 1 ? { token, led: lead(key, token, onFollowed) } : { token }
    },
    async holds(key, token) {
      const done = await store.command?.(['MGET', leaseKey(key), beat + token])
      if (done === undefined || !Array.isArray(done.reply)) return true
      return done.reply[0] === token || done.reply[1] !== null
    },
    async watch(key) {
      await command('SET', watchKey(key), '1', 'PX', `${leaseMs}`)
    }
  }
}
