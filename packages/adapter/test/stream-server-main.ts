// A provider in a process of its own, so that what it notices does not wait for the reader's turn. The path says how it
// streams; each message from the parent is a question, answered with a `Seen`.
import { chunk, type FaultConnection, responseHead, sse, startFaultServer } from '@millrace/testkit'

/** What the provider has seen so far. */
export interface Seen {
  /** Bytes of streams that its socket has taken. */
  readonly sent: number
  /** Connections that were opened, and that are open. */
  readonly connections: number
  readonly open: number
  /** When connections were closed, in milliseconds of `process.hrtime()`, which is the same clock in all processes. */
  readonly closedAt: readonly number[]
}

/** The origins of a server that speaks, and of one that accepts connections and never says anything. */
export interface Hello {
  readonly url: string
  readonly muteUrl: string
}

const event = (delta: object, finish: string | null = null): string =>
  chunk(sse([{ id: 'c', object: 'chat.completion.chunk', model: 'm', choices: [{ index: 0, delta, finish_reason: finish }] }]))

const head = responseHead(200, { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' })
const first = event({ role: 'assistant', content: '' })
const words = ['The ', 'quick ', 'brown ', 'fox '].map((content) => event({ content })).join('')
const end = event({}, 'stop') + chunk(sse(['[DONE]'])) + chunk('')
/** 64 KiB of text in pieces of 256 characters. */
const much = event({ content: 'the water of the mill race turns the wheel '.repeat(6).slice(0, 256) }).repeat(256)

let sent = 0
const closedAt: number[] = []

function watch({ closed }: FaultConnection): void {
  void closed.then(() => closedAt.push(Number(process.hrtime.bigint()) / 1e6))
}

async function answer(connection: FaultConnection, path: string): Promise<void> {
  const [, what, size] = path.split('/')
  const write = async (bytes: string): Promise<void> => {
    await connection.write(bytes)
    sent += bytes.length
  }
  if (what === 'no-head') return
  await write(head + first)
  if (what === 'no-content') return
  if (what === 'no-more') return write(words)
  if (what === 'no-done') return write(words + event({}, 'stop'))
  if (what === 'paced') {
    for (;;) {
      await write(words)
      await connection.pause(5)
    }
  }
  // `flood`: so many times 64 KiB, or without end.
  for (let left = size === 'v1' ? Number.POSITIVE_INFINITY : Number(size); left > 0; left--) await write(much)
  await write(end)
}

const server = await startFaultServer(async (connection) => {
  watch(connection)
  for (;;) await answer(connection, (await connection.request()).path)
})
const mute = await startFaultServer(async (connection) => {
  watch(connection)
  await connection.closed
})

process.on('message', () => {
  const connections = server.connections + mute.connections
  process.send?.({ sent, connections, open: server.open + mute.open, closedAt } satisfies Seen)
})
process.once('disconnect', () => process.exit())
process.send?.({ url: server.url, muteUrl: mute.url } satisfies Hello)
