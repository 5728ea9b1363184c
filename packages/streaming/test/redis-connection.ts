import { createClient } from '@redis/client'

/** A connection for tests that does what `createRedisLog` asks of `command`: it gives up by itself, and never queues. */
export interface Connection extends AsyncDisposable {
  readonly command: (args: readonly string[]) => Promise<unknown>
  /** Lets the process end although the connection is open. */
  unref(): void
  close(): Promise<void>
}

export async function connect(url: string, commandTimeoutMs = 2000): Promise<Connection> {
  const client = createClient({ url, disableOfflineQueue: true, socket: { reconnectStrategy: 20 } })
  client.on('error', () => {}) // each command tells by itself
  await client.connect()

  async function command(args: readonly string[]): Promise<unknown> {
    const { promise: late, reject } = Promise.withResolvers<never>()
    const timer = setTimeout(() => reject(new Error('no answer')), commandTimeoutMs)
    try {
      return await Promise.race([client.sendCommand(args), late])
    } finally {
      clearTimeout(timer)
    }
  }
  async function close(): Promise<void> {
    if (client.isOpen) client.destroy()
  }
  return { command, unref: () => client.unref(), close, [Symbol.asyncDispose]: close }
}
