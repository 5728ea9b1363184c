// One stream of one reader, looked at on the way: `streaming-probe-main.ts long|paused <subject> <origin>`, with --expose-gc.
import { subscribe } from 'node:diagnostics_channel'
import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { openReader } from './streaming-readers.ts'
import type { Last } from './streaming-server-main.ts'
import { longChars, longWords } from './streaming-traffic.ts'

export interface Long {
  readonly seconds: number
  /** Resident set in MB, before the stream and at its highest. */
  readonly restMB: number
  readonly peakMB: number
  /** Live heap in MB behind the first 100,000 words and just before the end; empty of who looks at no words. */
  readonly heapMB: readonly number[]
}

export interface Paused {
  /** What the provider had got rid of when the reader had paused for two seconds, in MB; and what this process had read of it. */
  readonly takenMB: number
  readonly readMB: number
}

const [what, subject = '', origin = ''] = process.argv.slice(2)

/** Heap and buffers that something still holds on to, in MB. */
async function live(): Promise<number> {
  // Finalizers run between the collections, and what they let go of is found by the next one.
  for (let pass = 0; pass < 4; pass++) {
    globalThis.gc?.()
    await sleep(20)
  }
  const { heapUsed, external } = process.memoryUsage()
  return (heapUsed + external) / 1e6
}

/** The reader waits while it is looked at: behind 100,000 words, and just before the end, when the stream still stands. */
async function long(): Promise<Long> {
  const read = await openReader(subject, `${origin}/long`)
  const lookAt = [(longChars * 100_000) / longWords, longChars * 0.99]
  const restMB = process.memoryUsage.rss() / 1e6
  const startedAt = performance.now()
  let chars = 0
  let lookedMs = 0
  const heapMB: number[] = []
  async function look(): Promise<void> {
    const lookedAt = performance.now()
    heapMB.push(await live())
    lookedMs += performance.now() - lookedAt
  }
  const bytes = await read((text) => {
    chars += text.length
    if (chars < (lookAt[0] ?? Number.POSITIVE_INFINITY)) return undefined
    lookAt.shift()
    return look()
  })
  if (bytes === undefined && chars !== longChars) throw new Error(`${subject}: a wrong text`)
  const seconds = (performance.now() - startedAt - lookedMs) / 1000
  return { seconds, restMB, peakMB: process.resourceUsage().maxRSS / 1e3, heapMB }
}

async function paused(): Promise<Paused> {
  let socket: Socket | undefined
  // Of the bundled undici too: each client here stands on one of the two.
  subscribe('undici:client:connected', (message) => {
    socket ??= (message as { readonly socket: Socket }).socket
  })
  const read = await openReader(subject, `${origin}/flood`)
  const { promise, resolve } = Promise.withResolvers<Paused>()
  async function pause(): Promise<void> {
    await sleep(2000)
    const { taken } = (await (await fetch(`${origin}/last`)).json()) as Last
    resolve({ takenMB: taken / 1e6, readMB: (socket?.bytesRead ?? Number.NaN) / 1e6 })
    return new Promise(() => {}) // the reader never goes on; the process ends
  }
  await Promise.race([promise, read(pause)])
  return promise
}

process.send?.(what === 'long' ? await long() : await paused())
process.once('disconnect', () => process.exit())
