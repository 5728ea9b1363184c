import { createClient } from '@redis/client'

/** A connection for tests that never queues while Redis is away; a silent Redis it waits for without end. */
export interface Connection extends AsyncDisposable {
  readonly command: (args: readonly string[]) => Promise<unknown>
  close(): Promise<void>
}

export async function connect(url: string): Promise<Connection> {
  const client = createClient({ url, disableOfflineQueue: true, socket: { reconnectStrategy: 20 } })
  client.on('error', () => {}) // each command tells by itself
  await client.connect()
  async function close(): Promise<void> {
    if (client.isOpen) client.destroy()
  }
  return { command: (args) => client.sendCommand(args), close, [Symbol.asyncDispose]: close }
}
