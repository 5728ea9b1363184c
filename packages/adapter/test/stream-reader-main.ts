// A reader in a process of its own: `stream-reader-main.ts <how> <url>`. It tells the parent a `Told`.
import { setTimeout as delay } from 'node:timers/promises'
import { coalesce, limitTokens } from '@millrace/streaming'
import { adapterAt, request } from './stream-server.ts'

export interface Told {
  readonly chars: number
  readonly finish: string | undefined
  /** Resident and live memory, in MiB, more than before the stream. */
  readonly rssMiB: number
  readonly heapMiB: number
}

const [how = '', url = ''] = process.argv.slice(2)
const characters = (): { push(text: string): number } => {
  let count = 0
  return { push: (text) => (count += text.length) }
}
const operators = how.endsWith('through operators') ? [coalesce({ minChars: 4000 }), limitTokens(1e9, characters)] : []
const adapter = adapterAt(url, { operators })
const toMiB = 1 / (1024 * 1024)

let chars = 0
let finish: string | undefined
const kept: unknown[] = []
let before = process.memoryUsage()

function tell(): void {
  const { rss, heapUsed, external } = process.memoryUsage()
  process.send?.({
    chars,
    finish,
    rssMiB: (rss - before.rss) * toMiB,
    heapMiB: (heapUsed + external - before.heapUsed - before.external) * toMiB
  } satisfies Told)
}

async function readAll(): Promise<void> {
  for await (const chunk of adapter.stream(request)) {
    if (chunk.type === 'text') chars += chunk.text.length
    if (chunk.type === 'finish') finish = chunk.reason
    if (how === 'keeping all') kept.push(chunk)
  }
}

/** Ten chunks a second for three seconds, once another stream has loaded everything. */
async function readSlowly(): Promise<void> {
  await using other = adapterAt(url.replace('flood', 'no-more'), { operators })
  for await (const { type } of other.stream(request)) if (type === 'text') break
  globalThis.gc?.()
  before = process.memoryUsage()
  let chunks = 0
  for await (const chunk of adapter.stream(request)) {
    if (chunk.type !== 'text') continue
    chars += chunk.text.length
    await delay(100)
    if (++chunks === 10) tell()
    if (chunks === 30) break
  }
  tell()
}

/** Reads a little, and lets go of the stream without a word. */
async function forget(): Promise<void> {
  const iterator = adapter.stream(request)[Symbol.asyncIterator]()
  for (let index = 0; index < 3; index++) await iterator.next()
}

if (how.startsWith('slowly')) await readSlowly()
else if (how.startsWith('forgetting')) {
  await forget()
  tell()
  // As in a process that goes on with other work.
  while (process.connected) {
    globalThis.gc?.()
    await delay(10)
  }
} else {
  await readAll()
  tell()
}
if (process.connected) process.disconnect()
await adapter.close({ graceMs: 0 })
