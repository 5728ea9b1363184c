import { randomUUID } from 'node:crypto'
import { checkOptions, MillraceError } from '@millrace/core'
import { addressOf } from './redis-address.ts'
import { keepConnected, type RedisClient } from './redis-link.ts'
import { redisError } from './redis-refusal.ts'
import type { Store } from './store.ts'
import { createTimeLimits, late } from './time-limits.ts'

export interface RedisOptions {
  /** `redis://[user:password@]host[:port][/database]`, or `rediss://` for TLS. */
  readonly url: string
  /** How long one command may take. @default 250 */
  readonly commandTimeoutMs?: number | undefined
  /** How long one attempt to connect may take, login and first answer included. @default 2000 */
  readonly connectTimeoutMs?: number | undefined
  /** Put before the keys of the `Store` side, as `namespace::key`; `command` takes keys as they are. @default 'millrace' */
  readonly namespace?: string | undefined
}

/**
 * A Redis that never makes its user wait for it: it connects in the background, and while there is no connection every
 * call rejects at once; only the very first ones wait for the first attempt. It fits `createCache({ store })`, and is a storage adapter for `new Keyv({ store })`. What
 * `KeyvRedis` with the same namespace has written it reads, and the other way round.
 *
 *
 * All methods reject with a `MillraceError`: `network` when there is no connection (the message says why), `timeout` after
 * `commandTimeoutMs` (the command may have run all the same), `unavailable` when Redis refuses (`details.providerCode` is
 * its word, such as `OOM`), `protocol` when a reply cannot be the one to its command (the connection is dropped),
 * `queue-full` when 10,000 commands are under way, `closed`.
 */
export interface RedisStore extends Store, AsyncDisposable {
  readonly prefix: string
  /** A key that holds no string is absent. */
  get(key: string): Promise<string | undefined>
  getMany(keys: readonly string[]): Promise<(string | undefined)[]>
  /** `ttlMs` is rounded up; without it, the value stays until Redis evicts it. */
  set(key: string, value: string, ttlMs?: number): Promise<boolean>
  /** True when there was one. */
  delete(key: string): Promise<boolean>
  /** Deletes the keys of the namespace, found by SCAN through all keys of the server; for Keyv. */
  clear(): Promise<void>
  /**
   * Any command but those that wait, subscribe or switch the connection over.
   *
   * @throws {TypeError} when an argument is not a string
   *
   * @example
   * const length = await redis.command(['XLEN', 'stream'])
   */
  command(args: readonly string[]): Promise<unknown>
  /**
   * To be told that a value came which was not asked for: the connection has to say a word of ours back, or is dropped. An
   * entry that somebody wrote to a wrong place costs one PING, replies that are shifted against their commands end here.
   */
  distrust(): void
  /** Whether there is a connection now. */
  readonly ready: boolean
  stats(): RedisStats
  /** Closes the connection, commands under way given their time. Safe to call twice. */
  close(): Promise<void>
}

export interface RedisStats {
  /** Connections made so far. */
  readonly connections: number
  /** Failed attempts to connect, and connections lost or dropped. */
  readonly connectionErrors: number
  /** Commands that failed or were refused. */
  readonly commandErrors: number
  /** Commands that took longer than their time. */
  readonly timeouts: number
}

/** A connection with this many timeouts in a row is dropped: a frozen server never closes it, and keeps what it was sent. */
const maxTimeouts = 3
const maxCommands = 10_000
const scanCount = 1000

/**
 * Opens the door to a Redis. It returns at once; a Redis that is down, frozen or gone is tried again until `close`.
 *
 * @throws {TypeError} when the URL is none of Redis
 *
 * @example
 * await using redis = createRedis({ url: 'redis://127.0.0.1:6379' })
 * await using cache = createCache({ store: redis, scope: 'shop' })
 */
export function createRedis(options: RedisOptions): RedisStore {
  checkOptions<RedisOptions>('createRedis', options, { url: 1, commandTimeoutMs: 1, connectTimeoutMs: 1, namespace: 1 })
  const address = addressOf(options.url)
  const commandTimeoutMs = positive('commandTimeoutMs', options.commandTimeoutMs ?? 250)
  const connectTimeoutMs = positive('connectTimeoutMs', options.connectTimeoutMs ?? 2000)
  const { namespace = 'millrace' } = options
  if (typeof namespace !== 'string' || namespace === '') throw new TypeError('namespace must be a non-empty string')

  const limits = createTimeLimits(commandTimeoutMs)
  const link = keepConnected(address, connectTimeoutMs)
  let closing: Promise<void> | undefined
  let doubted = false
  let timeoutsInRow = 0
  let commandErrors = 0
  let timeouts = 0
  // Counted, not kept in a set: what a promise of it has brought would live until the next big garbage collection.
  let underWay = 0
  let idle: (() => void) | undefined

  const prefix = `${namespace}::`
  const place = (key: string): string => prefix + key

  /** @throws {MillraceError} `closed`, or `network` */
  function check(): void {
    if (closing !== undefined) throw new MillraceError('closed', 'this Redis store was closed', { details: {} })
    connected()
  }

  /** @throws {MillraceError} `network` that says why there is no connection */
  function connected(): RedisClient {
    if (link.client !== undefined) return link.client
    const { trouble } = link
    const errno = trouble?.code === 'network' ? (trouble as MillraceError<'network'>).details.errno : undefined
    throw new MillraceError('network', `Redis is not connected${trouble === undefined ? '' : `: ${errno ?? trouble.message}`}`, {
      details: { phase: 'connect', errno },
      cause: trouble
    })
  }

  async function ask(args: readonly string[], fits?: (reply: unknown) => boolean): Promise<unknown> {
    // The first calls of a process wait for its first connection, as long as for an answer: else they would never share.
    if (link.starting !== undefined && closing === undefined) await limits.within(link.starting).catch(ignored)
    check()
    return run(args, fits)
  }

  /** By MGET, for which a key that holds another type is as good as absent; to GET it would be an error. */
  async function readMany(keys: readonly string[]): Promise<(string | undefined)[]> {
    if (keys.length === 0) return []
    const values = await ask(['MGET', ...keys.map(place)], (reply) => isReply(reply, keys.length))
    return (values as (string | null)[]).map((value) => value ?? undefined)
  }

  async function run(args: readonly string[], fits?: (reply: unknown) => boolean): Promise<unknown> {
    const client = connected()
    if (underWay >= maxCommands) {
      throw new MillraceError('queue-full', `${maxCommands} commands are under way already`, { details: { limit: maxCommands } })
    }
    underWay++
    try {
      const reply: unknown = await limits.within(client.sendCommand(args as string[]))
      timeoutsInRow = 0
      if (fits?.(reply) === false) {
        link.drop(client)
        throw new MillraceError('protocol', `Redis answered ${args[0]} with something else`, {
          details: { reason: 'unexpected' }
        })
      }
      return reply
    } catch (error) {
      if (error === late) timedOut(client)
      else commandErrors++
      throw redisError(error, 'commandTimeoutMs', commandTimeoutMs)
    } finally {
      if (--underWay === 0) idle?.()
    }
  }

  function timedOut(client: RedisClient): void {
    timeouts++
    // Commands of a connection that is gone say nothing about the one that is there.
    if (client !== link.client || ++timeoutsInRow < maxTimeouts) return
    timeoutsInRow = 0
    link.drop(client)
  }

  async function clear(): Promise<void> {
    const pattern = `${namespace.replace(/[*?[\]\\]/g, '\\$&')}::*`
    let cursor = '0'
    do {
      const reply = await ask(['SCAN', cursor, 'MATCH', pattern, 'COUNT', `${scanCount}`], isScan)
      const [next, keys] = reply as [string, string[]]
      if (keys.length > 0) await ask(['UNLINK', ...keys])
      cursor = next
    } while (cursor !== '0')
  }

  async function end(): Promise<void> {
    // Not the client's own close: over a frozen server it waits for ever and cannot be cut short any more.
    if (underWay > 0) {
      await new Promise<void>((resolve) => {
        idle = resolve
      })
    }
    link.close()
  }

  const self: RedisStore = {
    prefix,
    get: async (key) => (await readMany([key]))[0],
    getMany: readMany,
    async set(key, value, ttlMs) {
      await ask(ttlMs === undefined ? ['SET', place(key), value] : ['SET', place(key), value, 'PX', lifetime(ttlMs)], isOK)
      return true
    },
    async delete(key) {
      return (await ask(['UNLINK', place(key)], isNumber)) !== 0
    },
    clear,
    async command(args) {
      if (!Array.isArray(args) || !args.every((arg) => typeof arg === 'string')) {
        throw new TypeError("command takes an array of strings, such as ['XLEN', 'stream']")
      }
      return ask(args)
    },
    distrust() {
      if (doubted || link.client === undefined) return
      doubted = true
      const word = randomUUID()
      // A failure is counted in `run`, and a wrong reply has had its effect there.
      ask(['PING', word], (reply) => reply === word)
        .catch(() => {})
        .finally(() => {
          doubted = false
        })
    },
    get ready() {
      return link.client !== undefined
    },
    stats: () => ({ connections: link.connections, connectionErrors: link.connectionErrors, commandErrors, timeouts }),
    close() {
      closing ??= end()
      return closing
    },
    [Symbol.asyncDispose]: () => self.close()
  }
  return self
}

/** Late or not: whether there is a connection is looked at next. */
const ignored = (): void => {}

const isOK = (reply: unknown): boolean => reply === 'OK'
function isReply(reply: unknown, length: number): boolean {
  return Array.isArray(reply) && reply.length === length && reply.every((value) => value === null || typeof value === 'string')
}

const isNumber = (reply: unknown): boolean => typeof reply === 'number'
const isScan = (reply: unknown): boolean => Array.isArray(reply) && typeof reply[0] === 'string' && Array.isArray(reply[1])

/** In whole milliseconds; what has none left is kept for one: Redis refuses 0, and without a lifetime it would stay for ever. */
function lifetime(ttlMs: number): string {
  return `${ttlMs >= 1 ? Math.min(Math.ceil(ttlMs), Number.MAX_SAFE_INTEGER) : 1}`
}

function positive(name: string, value: number): number {
  if (typeof value === 'number' && value > 0 && Number.isFinite(value)) return value
  throw new TypeError(`${name} must be a finite number above 0, not ${value}`)
}
