import KeyvRedis, { createClient, type RedisClientOptions } from '@keyv/redis'
import { checkOptions, MillraceError } from '@millrace/core'
import type { Store } from './store.ts'

export interface RedisOptions {
  /** `redis://[user:password@]host[:port][/database]`, or `rediss://` for TLS. */
  readonly url: string
  /** How long one command may take. @default 250 */
  readonly commandTimeoutMs?: number | undefined
  /** How long one attempt to connect may take, login included. @default 2000 */
  readonly connectTimeoutMs?: number | undefined
  /** Put before the keys of the `Store` side, as `namespace::key`; `command` takes keys as they are. @default 'millrace' */
  readonly namespace?: string | undefined
}

/**
 * A Redis that never makes its user wait for it: it connects in the background, and while there is no connection every
 * call rejects at once. It is a Keyv storage adapter over `@keyv/redis`, for `createCache({ store })`.
 */
export interface RedisStore extends Store, AsyncDisposable {
  get(key: string): Promise<string | undefined>
  set(key: string, value: string, ttlMs?: number): Promise<boolean>
  delete(key: string): Promise<boolean>
  /** Deletes the keys of the namespace, by SCAN; for Keyv. `cache.clear()` does not need it. */
  clear(): Promise<void>
  /**
   * Any command, with its arguments as strings.
   *
   * @throws {MillraceError} `network` when there is no connection, `timeout` after `commandTimeoutMs` (the command may have
   * run all the same), `unavailable` when Redis refuses (`details.providerCode` is its word, such as `NOSCRIPT`), `closed`
   *
   * @example
   * const length = await redis.command(['XLEN', 'stream'])
   */
  command(args: readonly string[]): Promise<unknown>
  /** Whether there is a connection now. */
  readonly ready: boolean
  stats(): RedisStats
  /** Closes the connection, commands under way given their time. Safe to call twice. */
  close(): Promise<void>
}

export interface RedisStats {
  /** Connections made so far. */
  readonly connections: number
  /** Failed attempts to connect, and connections lost. */
  readonly connectionErrors: number
  /** Commands that failed or were refused. */
  readonly commandErrors: number
  /** Commands that took longer than their time. */
  readonly timeouts: number
}

type Client = ReturnType<typeof createClient>

/** A connection, or the attempt at one. */
interface Connection {
  readonly client: Client
  readonly adapter: KeyvRedis<string>
  /** Commands in a row that took too long. */
  timeouts: number
  /** There is a socket that can be destroyed. */
  wired: boolean
  /** Given up. */
  over: boolean
}

/** A connection with this many timeouts in a row is dropped: a frozen server never closes it, and keeps what it was sent. */
const maxTimeouts = 3
const maxQueuedCommands = 10_000
const firstPauseMs = 50
const maxPauseMs = 500

/**
 * Opens the door to a Redis. It returns at once; a Redis that is down, frozen or gone is tried again until `close`.
 *
 * Each attempt gets a client of its own: with one client for all, `@keyv/redis` would try to connect inside a call and
 * wait for it without limit.
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

  let current: Connection | undefined
  let retry: NodeJS.Timeout | undefined
  let closing: Promise<void> | undefined
  let failures = 0
  const running = new Set<Promise<unknown>>()
  const counts = { connections: 0, connectionErrors: 0, commandErrors: 0, timeouts: 0 }

  async function connect(): Promise<void> {
    // Named, because the literal would infer a type of client that the adapter does not take.
    const clientOptions: RedisClientOptions = {
      ...address.login,
      // Reconnecting is our own loop: a frozen server accepts the connection and then says nothing for ever.
      socket: { ...address.socket, connectTimeout: connectTimeoutMs, reconnectStrategy: false },
      disableOfflineQueue: true,
      commandsQueueMaxLength: maxQueuedCommands,
      disableClientInfo: true
    }
    const client = createClient(clientOptions)
    const adapter = new KeyvRedis<string>(client, { namespace, throwOnErrors: true })
    const connection: Connection = { client, adapter, timeouts: 0, wired: false, over: false }
    current = connection
    client.once('connect', () => {
      connection.wired = true
      if (connection.over) drop(connection)
    })
    // The adapter repeats the client's errors here, and those of its own commands; without a listener it would throw them.
    adapter.on('error', () => {
      if (!client.isReady) lost(connection)
    })
    try {
      await within(connectTimeoutMs, client.connect())
    } catch {
      return lost(connection) // counted there
    }
    if (connection.over) return
    failures = 0
    counts.connections++
  }

  /** The connection or the attempt is over: another one after a pause. */
  function lost(connection: Connection): void {
    if (current !== connection) return
    current = undefined
    counts.connectionErrors++
    drop(connection)
    if (closing !== undefined) return
    retry = setTimeout(connect, Math.min(firstPauseMs * 2 ** failures++, maxPauseMs))
    // Nobody's process stays alive to try a Redis that is not there.
    retry.unref()
  }

  async function run<T>(work: (connection: Connection) => Promise<T>): Promise<T> {
    if (closing !== undefined) throw new MillraceError('closed', 'this Redis store was closed', { details: {} })
    const connection = current
    if (connection?.client.isReady !== true) {
      throw new MillraceError('network', 'Redis is not connected', { details: { phase: 'connect' } })
    }
    const startedAt = performance.now()
    const command = within(commandTimeoutMs, work(connection))
    running.add(command)
    try {
      const result = await command
      connection.timeouts = 0
      return result
    } catch (error) {
      if (error !== late) {
        counts.commandErrors++
        throw refusal(error)
      }
      counts.timeouts++
      if (++connection.timeouts >= maxTimeouts) lost(connection)
      throw new MillraceError('timeout', `Redis did not answer within ${commandTimeoutMs} ms (commandTimeoutMs)`, {
        details: { clock: 'total', limitMs: commandTimeoutMs, elapsedMs: Math.round(performance.now() - startedAt) }
      })
    } finally {
      running.delete(command)
    }
  }

  async function end(): Promise<void> {
    clearTimeout(retry)
    const last = current
    // Not the client's own close: over a frozen server it waits for ever and cannot be cut short any more.
    await Promise.allSettled(running)
    current = undefined
    if (last !== undefined) drop(last)
  }

  void connect()

  const self: RedisStore = {
    get: (key) => run(({ adapter }) => adapter.get<string>(key)),
    async set(key, value, ttlMs) {
      await run(({ adapter }) => adapter.set(key, value, ttlMs))
      return true
    },
    delete: (key) => run(({ adapter }) => adapter.delete(key)),
    clear: () => run(({ adapter }) => adapter.clear()),
    command: (args) => run(({ client }) => client.sendCommand(args)),
    get ready() {
      return current?.client.isReady === true
    },
    stats: () => ({ ...counts }),
    close() {
      closing ??= end()
      return closing
    },
    [Symbol.asyncDispose]: () => self.close()
  }
  return self
}

/** In parts, so that no object of the client holds the URL with its password as one string to print. */
function addressOf(url: string): { login: object; socket: object } {
  const parsed = typeof url === 'string' ? URL.parse(url) : null
  if (parsed === null || (parsed.protocol !== 'redis:' && parsed.protocol !== 'rediss:')) {
    // Without the text: it may hold a password.
    throw new TypeError("url must be a Redis URL, such as 'redis://127.0.0.1:6379' or 'rediss://user:password@host:6380/0'")
  }
  const database = parsed.pathname.slice(1)
  if (!/^\d{0,4}$/.test(database)) throw new TypeError('the path of the Redis URL must be a database number, such as /0')
  return {
    login: {
      ...(parsed.username === '' ? {} : { username: decoded(parsed.username) }),
      ...(parsed.password === '' ? {} : { password: decoded(parsed.password) }),
      ...(database === '' ? {} : { database: Number(database) })
    },
    socket: {
      host: parsed.hostname.replace(/^\[|\]$/g, ''),
      port: parsed.port === '' ? 6379 : Number(parsed.port),
      ...(parsed.protocol === 'rediss:' ? { tls: true } : {})
    }
  }
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch {
    // Without the cause, which may quote it.
    throw new TypeError("user and password in the Redis URL must be percent-encoded, a '%' as '%25': use encodeURIComponent()")
  }
}

/** Redis' own words may repeat the arguments of a command; only their first, such as `WRONGTYPE`, gets into the message. */
function refusal(error: unknown): MillraceError {
  const word = error instanceof Error ? /^[A-Z]{2,32}(?= )/.exec(error.message)?.[0] : undefined
  if (word === undefined) {
    const errno = (error as { code?: unknown } | null)?.code
    const details = { phase: 'body' as const, ...(typeof errno === 'string' ? { errno } : {}) }
    return new MillraceError('network', 'the connection to Redis broke', { details, cause: error })
  }
  return new MillraceError('unavailable', `Redis refused the command: ${word}`, { details: { providerCode: word }, cause: error })
}

/** What `within` rejects with when the time is up. */
const late: unique symbol = Symbol('late')

async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  const { promise: over, reject } = Promise.withResolvers<never>()
  let check: NodeJS.Immediate | undefined
  // After a blocked event loop, timers run before the sockets are read: let an answer that is already there be seen first.
  const timer = setTimeout(() => {
    check = setImmediate(reject, late)
  }, ms)
  try {
    return await Promise.race([work, over])
  } finally {
    clearTimeout(timer)
    clearImmediate(check)
  }
}

/** Before there is a socket, destroying a client would leave the one that comes to nobody; so that one is dropped as it comes. */
function drop(connection: Connection): void {
  connection.over = true
  if (connection.wired && connection.client.isOpen) connection.client.destroy()
}

function positive(name: string, value: number): number {
  if (typeof value === 'number' && value > 0 && Number.isFinite(value)) return value
  throw new TypeError(`${name} must be a finite number above 0, not ${value}`)
}
