import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { requireRedis } from '@millrace/testkit'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { createMemoryStore } from '../src/memory-store.ts'
import { createRedisLimits } from '../src/redis.ts'
import type { Terms } from '../src/store.ts'
import { rateAsk, rateEnd } from './asks.ts'
import type { Taken, Task } from './limit-processes-main.ts'
import { connect } from './redis-connection.ts'

const seed = 20_261_123
const { server, skip } = await requireRedis()
const children: ChildProcess[] = []
/** Without Infinity, which JSON cannot carry to the processes. */
const wide: Terms = { concurrency: 1e9, requests: 1e9, tokens: 1e9, windowMs: 60_000, adaptive: false }

afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL')
})
afterAll(() => server?.stop())

/** Starts a process that waits for a first message to begin. */
async function start(task: Task): Promise<ChildProcess> {
  const child = fork(fileURLToPath(new URL('./limit-processes-main.ts', import.meta.url)), [JSON.stringify(task)], {
    execArgv: ['--conditions=@millrace/source'],
    stdio: 'inherit'
  })
  children.push(child)
  expect(await message(child)).toBe('ready')
  return child
}

/** @throws {Error} when it ends without one */
async function message(child: ChildProcess): Promise<unknown> {
  const gone = once(child, 'exit').then(() => {
    throw new Error('the process ended without a word')
  })
  const [word] = (await Promise.race([once(child, 'message'), gone])) as unknown[]
  gone.catch(() => {}) // it ends some time
  return word
}

/** How many of the same takes a store in one process grants, given at the same times. */
function grantedInMemory(all: readonly Taken[], terms: Terms): number {
  let time = 0
  let granted = 0
  const store = createMemoryStore({ now: () => time })
  const ends: { atMs: number; end: () => void }[] = []
  for (const { atMs, tokens, holdMs } of all.toSorted((one, other) => one.atMs - other.atMs)) {
    ends.sort((one, other) => one.atMs - other.atMs)
    while (ends[0] !== undefined && ends[0].atMs <= atMs) {
      time = ends[0].atMs
      ends.shift()?.end()
    }
    time = atMs
    const ask = rateAsk(terms, { tokens })
    const verdict = store.take([ask])
    if (!verdict.granted) continue
    granted++
    ends.push({ atMs: atMs + holdMs, end: () => store.end([rateEnd(ask, verdict.at, { usedTokens: tokens * 0.8 })]) })
  }
  return granted
}

async function compare(forMs: number, everyMs: number, terms: Terms): Promise<{ taken: number; redis: number; memory: number }> {
  if (server === undefined) throw new Error('no Redis')
  const tasks = [0, 200, -200, 100].map((skewMs, index): Task => {
    const place = { url: server.url, namespace: `rush ${forMs}`, terms, skewMs, leaseMs: 10_000 }
    return { does: 'rush', ...place, seed: seed + index, forMs, everyMs }
  })
  const running = await Promise.all(tasks.map(start))
  const reports = running.map(message)
  for (const child of running) child.send('begin')
  const all = (await Promise.all(reports)).flatMap((taken) => taken as Taken[])
  return { taken: all.length, redis: all.filter(({ granted }) => granted).length, memory: grantedInMemory(all, terms) }
}

describe.skipIf(skip !== undefined)('limits of four processes', () => {
  it(`grant as many as one process would, with clocks 400 ms apart (seed ${seed})`, async () => {
    const terms = { ...wide, requests: 800, tokens: 7000, windowMs: 2000 }
    const { taken, redis, memory } = await compare(2000, 3, terms)
    expect(taken).toBeGreaterThan(memory * 1.1)
    expect(Math.abs(redis / memory - 1), `${redis} of ${taken}, in memory ${memory}`).toBeLessThan(0.01)
  })

  it.each(process.env['MILLRACE_LONG'] === '1' ? [60] : [])(
    `do so to 1 % over a minute (seed ${seed})`,
    async () => {
      const terms = { ...wide, requests: 9000, tokens: 84_000, windowMs: 60_000 }
      const { taken, redis, memory } = await compare(60_000, 6, terms)
      console.log(
        `60 s, four processes: ${taken} takes, ${redis} granted, ${memory} in memory (${((redis / memory - 1) * 100).toFixed(3)} %)`
      )
      expect(taken).toBeGreaterThan(memory * 1.1)
      expect(Math.abs(redis / memory - 1)).toBeLessThan(0.01)
    },
    90_000
  )

  it('have the places of one that is killed back after its lease', async () => {
    if (server === undefined) return
    const terms = { ...wide, concurrency: 10 }
    const place = { url: server.url, namespace: 'killed', terms, skewMs: 0, leaseMs: 500 }
    const child = await start({ does: 'hold', ...place, places: 10 })
    child.send('begin')
    expect(await message(child)).toBe('holding')
    await using connection = await connect(server.url)
    await using store = createRedisLimits({ command: connection.command, namespace: 'killed' })
    await delay(700)
    expect(await store.take([rateAsk(terms)])).toMatchObject({ granted: false, why: 'concurrency' })
    child.kill('SIGKILL')
    await once(child, 'exit')
    const killedAt = performance.now()
    expect(await store.take([rateAsk(terms)])).toMatchObject({ granted: false })
    while ((await store.state('k', terms)).running > 0) await delay(5)
    const backAfterMs = performance.now() - killedAt
    expect(backAfterMs).toBeGreaterThan(200)
    expect(backAfterMs).toBeLessThan(3000)
    const verdicts = await Promise.all(Array.from({ length: 11 }, () => store.take([rateAsk(terms)])))
    expect(verdicts.filter(({ granted }) => granted).length).toBe(10)
  })
})
