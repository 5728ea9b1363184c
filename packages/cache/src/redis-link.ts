import { randomUUID } from 'node:crypto'
import { createClient, type RedisClientOptions } from '@keyv/redis'
import type { MillraceError } from '@millrace/core'
import type { RedisAddress } from './redis-address.ts'
import { firstWord, redisError } from './redis-refusal.ts'
import { createTimeLimits } from './time-limits.ts'

export type RedisClient = ReturnType<typeof createClient>

/** One connection at a time, kept up in the background. */
export interface RedisLink {
  /** The client of a connection that is up and has answered; `undefined` while there is none. */
  readonly client: RedisClient | undefined
  /** Settled once the first attempt is over, whatever came of it; undefined from then on. */
  readonly starting: Promise<void> | undefined
  /** Why there is none, as far as the last attempt told. */
  readonly trouble: MillraceError | undefined
  /** Gives this client up for another one. */
  drop(client: RedisClient): void
  close(): void
  readonly connections: number
  readonly connectionErrors: number
}

/** A connection, or the attempt at one. */
interface Connection {
  readonly client: RedisClient
  /** There is a socket that can be destroyed. */
  wired: boolean
  /** It has answered. */
  ready: boolean
  /** Given up. */
  over: boolean
}

const maxQueuedCommands = 10_000
const firstPauseMs = 50
const maxPauseMs = 500

/**
 * Connects at once, and again after each loss, for ever, with pauses of 25 to 500 ms.
 *
 * Each attempt gets a client of its own, and only one that has answered counts: a frozen server still accepts connections,
 * a loading one answers with errors.
 */
export function keepConnected(address: RedisAddress, connectTimeoutMs: number): RedisLink {
  const limits = createTimeLimits(connectTimeoutMs)
  let current: Connection | undefined
  let retry: NodeJS.Timeout | undefined
  let trouble: MillraceError | undefined
  let failures = 0
  let connections = 0
  let connectionErrors = 0

  async function connect(): Promise<void> {
    // Named, because the literal would infer another type of client.
    const options: RedisClientOptions = {
      ...address.login,
      // Reconnecting is our own loop: a frozen server accepts the connection and then says nothing for ever.
      socket: { ...address.socket, connectTimeout: connectTimeoutMs, reconnectStrategy: false },
      disableOfflineQueue: true,
      commandsQueueMaxLength: maxQueuedCommands,
      disableClientInfo: true
    }
    const client = createClient(options)
    const connection: Connection = { client, wired: false, ready: false, over: false }
    current = connection
    client.once('connect', () => {
      connection.wired = true
      if (connection.over) destroy(connection)
    })
    // Any error, also one that leaves the socket open: a reply that nobody asked for shifts all that follow.
    client.on('error', (error: unknown) => lost(connection, error))
    try {
      await limits.within(greet(client))
    } catch (error) {
      return lost(connection, error)
    }
    if (connection.over) return
    connection.ready = true
    trouble = undefined
    failures = 0
    connections++
  }

  /** The connection or the attempt is over: another one after a pause. */
  function lost(connection: Connection, error: unknown): void {
    destroy(connection)
    if (current !== connection) return
    current = undefined
    connectionErrors++
    trouble = redisError(error, 'connectTimeoutMs', connectTimeoutMs)
    // Spread, so that many processes do not come back to a Redis at once.
    const pauseMs = Math.min(firstPauseMs * 2 ** failures++, maxPauseMs) * (0.5 + Math.random() / 2)
    // Nobody's process stays alive to try a Redis that is not there.
    retry = setTimeout(connect, pauseMs).unref()
  }

  let starting: Promise<void> | undefined = connect().finally(() => {
    starting = undefined
  })

  return {
    get starting() {
      return starting
    },
    get client() {
      return current?.ready === true && current.client.isReady ? current.client : undefined
    },
    get trouble() {
      return trouble
    },
    drop(client) {
      if (current?.client === client) lost(current, new Error('given up'))
    },
    close() {
      clearTimeout(retry)
      const last = current
      current = undefined
      if (last !== undefined) destroy(last)
    },
    get connections() {
      return connections
    },
    get connectionErrors() {
      return connectionErrors
    }
  }
}

/** Connects, logs in, and hears the server's own word. */
async function greet(client: RedisClient): Promise<void> {
  await client.connect()
  const word = randomUUID()
  try {
    const reply: unknown = await client.sendCommand(['PING', word])
    if (reply === word) return
  } catch (error) {
    // This user may not PING, but Redis has spoken.
    if (firstWord(error) === 'NOPERM') return
    throw error
  }
  throw new Error('PING was answered with something else')
}

/** Before there is a socket, destroying a client would leave the one that comes to nobody; so that one is dropped as it comes. */
function destroy(connection: Connection): void {
  connection.over = true
  connection.ready = false
  if (connection.wired && connection.client.isOpen) connection.client.destroy()
}
