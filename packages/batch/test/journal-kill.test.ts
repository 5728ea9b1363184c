import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { seededRandom } from '@millrace/testkit'
import { afterAll, beforeAll, expect, test } from 'vitest'

const isLong = process.env.MILLRACE_LONG === '1'
const seed = 20_261_123
const main = fileURLToPath(new URL('journal-main.ts', import.meta.url))

let folder = ''
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'journal-kill-'))
})
afterAll(() => rm(folder, { recursive: true }))

interface Counting {
  readonly url: string
  /** The keys each item was sent with, one for each time. */
  readonly sent: Map<number, string[]>
  total: number
  /** Called after each request. */
  onRequest: () => void
  readonly server: Server
}

/** Answers after 0 to 8 ms; every 20th item fails, every 100th hangs for ever. */
async function startCounting(): Promise<Counting> {
  const random = seededRandom(seed)
  const server = createServer((request, response) => {
    const item = Number(request.headers.item)
    counting.total++
    const keys = counting.sent.get(item) ?? []
    counting.sent.set(item, [...keys, String(request.headers['idempotency-key'])])
    counting.onRequest()
    if (item % 100 === 50) return
    setTimeout(() => {
      response.statusCode = item % 20 === 7 ? 400 : 200
      response.end()
    }, random() * 8)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const counting: Counting = { url, server, sent: new Map(), total: 0, onRequest: () => {} }
  return counting
}

function expectedStatus(item: number): string {
  return item % 100 === 50 || item % 20 === 7 ? 'rejected' : 'fulfilled'
}

function start(options: object, shell?: string): { child: ChildProcess; output: () => string[] } {
  const args = ['--conditions=@millrace/source', main, JSON.stringify(options)]
  const child =
    shell === undefined
      ? spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
      : spawn('bash', ['-c', `${shell} && exec "$0" "$@"`, process.execPath, ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  child.stdout?.setEncoding('utf8').on('data', (piece: string) => {
    text += piece
  })
  return { child, output: () => text.split('\n').slice(0, -1) }
}

async function recordedItems(path: string): Promise<number> {
  return (await readFile(path, 'utf8')).split('\n').length - 2
}

test.each(['input', 'completion'] as const)(
  'killed again and again, a batch in %s order loses nothing, doubles nothing and pays twice only for what was in flight',
  async (order) => {
    const count = isLong ? 10_000 : 400
    const kills = isLong ? 20 : 2
    const random = seededRandom(seed)
    const path = join(folder, `${order}.journal`)
    const counting = await startCounting()
    const options = { path, url: counting.url, count, order }
    let inFlight = 0
    let most = 0
    for (let kill = 0; kill < kills; kill++) {
      const { child, output } = start(options)
      // After so many requests more, at whatever it is doing then.
      const at = counting.total + 1 + Math.floor((random() * 1.4 * count) / kills)
      const reached = Promise.withResolvers<void>()
      counting.onRequest = () => counting.total >= at && reached.resolve()
      const closed = once(child, 'close')
      await Promise.race([reached.promise, closed])
      child.kill('SIGKILL')
      await closed
      // Sent, and not on disk: only these may be sent again.
      const open = counting.sent.size - (await recordedItems(path))
      inFlight += open
      most = Math.max(most, open)
      expect(output().filter((line) => line.startsWith('error'))).toEqual([])
    }
    counting.onRequest = () => {}
    const { child, output } = start(options)
    await once(child, 'close')
    counting.server.closeAllConnections()
    counting.server.close()

    const lines = output()
    expect(lines.pop()).toBe('end')
    const outcomes = lines.map((line) => line.split(' '))
    const indexes = outcomes.map(([index]) => Number(index))
    expect(order === 'input' ? indexes : indexes.toSorted((a, b) => a - b)).toEqual([...Array(count).keys()])
    expect(outcomes.filter(([index, status]) => status !== expectedStatus(Number(index)))).toEqual([])
    expect(counting.sent.size).toBe(count)
    for (const keys of counting.sent.values()) expect(new Set(keys).size).toBe(1)
    expect(new Set([...counting.sent.values()].map(([key]) => key)).size).toBe(count)
    expect(counting.total).toBeLessThanOrEqual(count + inFlight)
    console.log(
      `${order} (seed ${seed}): ${count} items, ${kills} kills, ${counting.total} sends, ${inFlight} in flight at kills, at most ${most}`
    )
  },
  isLong ? 300_000 : 30_000
)

test.skipIf(process.platform === 'win32')(
  'a disk that is full stops the batch; what is not recorded is not yielded as done',
  async () => {
    const path = join(folder, 'full.journal')
    const counting = await startCounting()
    const options = { path, url: counting.url, count: 1000, order: 'completion' }
    const { child, output } = start(options, 'ulimit -f 16')
    await once(child, 'close')
    const lines = output()
    expect(lines.pop()).toMatch(/^error .*could not be written: EFBIG/)
    const yielded = lines.filter((line) => line.includes('fulfilled')).length
    expect(yielded).toBeGreaterThan(10)
    expect(counting.total).toBeLessThan(500)

    const before = counting.total
    const second = start(options)
    await once(second.child, 'close')
    counting.server.closeAllConnections()
    counting.server.close()
    expect(second.output()).toHaveLength(1001)
    const replayed = second.output().filter((line) => line.endsWith('fulfilled true')).length
    expect(replayed).toBeGreaterThanOrEqual(yielded)
    expect(counting.total - before).toBeLessThan(1000)
  },
  30_000
)
