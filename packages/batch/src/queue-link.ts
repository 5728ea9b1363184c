import { isMillraceError, linkAbort, MillraceError, onAbort, sleep } from '@millrace/core'
import { createNodeRedisClient, type IRedisClient } from 'bullmq'
import { createClient, type RedisClientOptions } from 'redis'
import type { RedisAddress } from './queue-address.ts'

export type RedisClient = ReturnType<typeof createClient>

/**
 * The connections of one producer or worker: BullMQ uses them, and they end when we say so.
 *
 * They are node-redis, which the cache brings already. BullMQ 6.7 is less careful with it than with ioredis; each of these was
 * seen with a real Redis, and none with ioredis but where it says so. What we do about it:
 * - A connection that breaks while a job is said to be done rejects the command instead of sending it again, and BullMQ turns the
 *   job into a failed one (33 of 300, cut every 15 ms): results are ours, in one script, and asked for until they are answered.
 * - `addBulk` fails for ever once Redis has restarted without its scripts: EVALSHA in MULTI has no way back. One `add` an item.
 * - After `close` the adapter has no 'error' listener, so that a later error ends the process: one stays on.
 * - `worker.close()` never ends while Redis is frozen, and commands hang (those hang with ioredis, too): silent connections are
 *   given up, and all are destroyed at the end.
 */
export interface RedisLink {
  /** What BullMQ takes for its `connection`; what it duplicates is ended with the rest. */
  readonly forBull: IRedisClient
  /** Another connection, for a command that waits. */
  open(): RedisClient
  /**
   * Sends a command that may run twice, and again until it is answered, at most `redisTimeoutMs` after the last answer to one
   * that was asked before it: behind others on a slow link it waits for longer.
   *
   * @throws {MillraceError} `network` then; `unavailable` when Redis refuses it; `unauthorized` when it refuses the login; `closed`
   */
  ask<T>(command: (client: RedisClient) => Promise<T>, client?: RedisClient): Promise<T>
  /** Calls `listener` each time the connection is there again. */
  onReady(listener: () => void): void
  /** Errors of connections so far. */
  readonly errors: number
  /** For errors that BullMQ tells of. */
  count(): void
  /** Ends all connections now, whatever is under way. */
  close(): void
}

/** A wait for new work or results, in seconds, after which Redis answers that there is none. */
export const blockSeconds = 1

/** Replies that say: not now. */
const passing = new Set(['LOADING', 'BUSY', 'MASTERDOWN', 'READONLY', 'TRYAGAIN', 'CLUSTERDOWN', 'UNBLOCKED'])
const loginRefused = new Set(['WRONGPASS', 'NOAUTH', 'NOPERM'])
const late = Symbol('late')

interface Connection {
  readonly client: RedisClient
  /** There is a socket that can be destroyed: before there is one, the socket to come would be left to nobody. */
  wired: boolean
}

export function createLink(address: RedisAddress, redisTimeoutMs: number): RedisLink {
  // A frozen Redis never closes its connections: one that has been silent for so long is given up for another.
  const silenceMs = Math.min(Math.max(redisTimeoutMs / 3, blockSeconds * 2_000), 5_000)
  const patienceMs = Math.max(silenceMs, redisTimeoutMs / 2)
  const answered = new WeakMap<RedisClient, { readonly turn: number; readonly at: number }>()
  const connections = new Set<Connection>()
  const adapters = new Set<IRedisClient>()
  const closed = linkAbort()
  let asked = 0
  let errors = 0
  let trouble: unknown

  const options: RedisClientOptions = {
    ...address.login,
    socket: {
      ...address.socket,
      connectTimeout: silenceMs,
      socketTimeout: silenceMs,
      // Spread, so that many processes do not come back to a Redis at once.
      reconnectStrategy: (retries) => !closed.signal.aborted && Math.min(50 * 2 ** retries, 500) * (0.5 + Math.random() / 2)
    },
    pingInterval: silenceMs / 3,
    commandsQueueMaxLength: 100_000,
    disableClientInfo: true
  }

  function keep(client: RedisClient): RedisClient {
    const connection: Connection = { client, wired: false }
    connections.add(connection)
    const destroy = client.destroy.bind(client)
    // BullMQ destroys its clients itself when it closes. While a connection is being made that would leave its socket to nobody,
    // and keep the process alive: the client ends in 'connect' instead. BullMQ waits for an 'end'.
    client.destroy = () => {
      if (connection.wired) destroy()
      else client.emit('end')
    }
    client.on('connect', () => {
      connection.wired = true
      if (closed.signal.aborted) end(connection)
    })
    client.on('reconnecting', () => {
      connection.wired = false
    })
    client.on('error', (error: unknown) => {
      errors++
      trouble = error
    })
    return client
  }

  const main = keep(createClient(options))
  const forBull = adapt(createNodeRedisClient(main))

  /** BullMQ takes its listeners off when it closes, and an 'error' that nobody hears would end the process. */
  function adapt(adapter: IRedisClient): IRedisClient {
    adapter.on('error', () => {
      // Counted at the client.
    })
    adapters.add(adapter)
    const { duplicate } = adapter
    adapter.duplicate = (...args) => {
      const copy = adapt(duplicate.apply(adapter, args))
      keep((copy as unknown as { raw: RedisClient }).raw)
      return copy
    }
    return adapter
  }

  async function ask<T>(command: (client: RedisClient) => Promise<T>, client: RedisClient = main): Promise<T> {
    const turn = ++asked
    const askedAt = performance.now()
    /** Answers come in the order of the commands: one to a later one says nothing of this one. */
    const quietMs = (): number => {
      const last = answered.get(client)
      return performance.now() - (last !== undefined && last.turn < turn ? Math.max(last.at, askedAt) : askedAt)
    }
    let refusedAt: number | undefined
    for (;;) {
      if (closed.signal.aborted) throw closed.signal.reason
      if (client.isReady) {
        try {
          const answer = await patiently(command(client), quietMs)
          answered.set(client, { turn, at: performance.now() })
          return answer
        } catch (error) {
          if (closed.signal.aborted) throw closed.signal.reason
          const word = wordOf(error)
          if (word !== undefined && !passing.has(word)) throw refused(word)
          if (word !== undefined) refusedAt ??= performance.now()
          if (error !== late) trouble = error
        }
      } else if (loginRefused.has(wordOf(trouble) ?? '')) throw refused(wordOf(trouble) as string)
      if (Math.max(quietMs(), performance.now() - (refusedAt ?? Infinity)) >= redisTimeoutMs) throw gone(trouble, redisTimeoutMs)
      await sleep(20, closed.signal)
    }
  }

  /**
   * Rejects when it has been quiet for half of `redisTimeoutMs`, and at once when all is closed: a destroyed client may forget what
   * it was asked. A silent connection is given up before that, which rejects what was asked on it.
   */
  async function patiently<T>(work: Promise<T>, quietMs: () => number): Promise<T> {
    const { promise, reject } = Promise.withResolvers<never>()
    const startedAt = performance.now()
    let timer: NodeJS.Timeout
    const wait = (): void => {
      const leftMs = patienceMs - Math.min(quietMs(), performance.now() - startedAt)
      if (leftMs > 0) timer = setTimeout(wait, leftMs)
      else reject(late)
    }
    timer = setTimeout(wait, patienceMs)
    const off = onAbort(closed.signal, reject)
    try {
      return await Promise.race([work, promise])
    } finally {
      clearTimeout(timer)
      off()
    }
  }

  return {
    forBull,
    open() {
      const client = keep(main.duplicate())
      client.connect().catch(() => {
        // It rejects only when all is closed; every other failure is an 'error' and is tried again.
      })
      return client
    },
    ask,
    onReady(listener) {
      main.on('ready', listener)
    },
    get errors() {
      return errors
    },
    count() {
      errors++
    },
    close() {
      closed.abort(new MillraceError('closed', 'the connection to Redis was closed', { details: {} }))
      // This also ends BullMQ's waits for a connection that never came.
      for (const adapter of adapters) adapter.disconnect()
      for (const connection of connections) end(connection)
    }
  }
}

function end({ client, wired }: Connection): void {
  if (wired && client.isOpen) client.destroy()
}

/** The word a refusal of Redis begins with, such as `OOM`; the rest may repeat the arguments. */
function wordOf(error: unknown): string | undefined {
  return error instanceof Error ? /^[A-Z]{2,32}(?= )/.exec(error.message)?.[0] : undefined
}

function refused(word: string): MillraceError {
  const code = loginRefused.has(word) ? 'unauthorized' : 'unavailable'
  return new MillraceError(code, `Redis refused the command: ${word}`, { details: { providerCode: word } })
}

function gone(trouble: unknown, ms: number): MillraceError {
  if (isMillraceError(trouble)) return trouble
  const errno = (trouble as { code?: unknown } | undefined)?.code
  const why = typeof errno === 'string' ? errno : (wordOf(trouble) ?? 'no answer')
  return new MillraceError('network', `Redis could not be reached for ${ms} ms (redisTimeoutMs): ${why}`, {
    details: { phase: 'connect', ...(typeof errno === 'string' ? { errno } : {}) },
    cause: trouble
  })
}
