import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { createBatchQueue, type Outcome } from '@millrace/batch/bullmq'
import { requireRedis } from '@millrace/testkit'
import { afterAll, describe, expect, test } from 'vitest'

const { server, skip } = await requireRedis()
const folder = await mkdtemp(join(tmpdir(), 'millrace-queue-'))
const children = new Set<ChildProcess>()
const program = fileURLToPath(new URL('./queue-worker-main.ts', import.meta.url))

afterAll(async () => {
  for (const child of children) child.kill('SIGKILL')
  await server?.stop()
  await rm(folder, { recursive: true, force: true })
})

interface Began {
  readonly pid: number
  readonly index: number
  readonly key: string
}

/** Workers in processes of their own, and the notes of what they began. */
function crew(more: object) {
  const options = { name: randomUUID(), connection: server?.url ?? '' }
  const file = join(folder, options.name)
  return {
    options,
    start() {
      const given = JSON.stringify({ ...options, file, ...more })
      const child = spawn(process.execPath, ['--conditions=@millrace/source', program, given], {
        stdio: ['ignore', 'pipe', 'inherit']
      })
      children.add(child)
      return child
    },
    async began(): Promise<Began[]> {
      const text = await readFile(file, 'utf8').catch(() => '')
      return text
        .trim()
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line) as Began)
    }
  }
}

const long = process.env['MILLRACE_LONG'] === '1'

describe.skipIf(skip !== undefined)('workers that die', { timeout: long ? 120_000 : 20_000 }, () => {
  test('every item comes exactly once when two of three are killed and one stands still past its lock', async () => {
    const count = long ? 3000 : 200
    const made = crew({ concurrency: 4, workMs: 40, lockMs: 500 })
    const [first, second, third] = [made.start(), made.start(), made.start()]
    await using queue = createBatchQueue<number, number>({ ...made.options, checkMs: 200 })
    const outcomes: Outcome<number>[] = []
    const items = Array.from({ length: count }, (_, index) => index)
    // Until all three are at work.
    while (new Set((await made.began()).map(({ pid }) => pid)).size < 3) for await (const _ of queue.run(items.slice(0, 24)));
    const before = (await made.began()).length
    for await (const outcome of queue.run(items, { window: 60 })) {
      outcomes.push(outcome)
      if (outcomes.length === 60) first.kill('SIGKILL')
      // Amid its work: an outcome comes when items have just ended.
      if (outcomes.length === 100) setTimeout(() => third.kill('SIGSTOP'), 20)
      if (outcomes.length === 150) {
        second.kill('SIGKILL')
        made.start()
      }
    }
    third.kill('SIGCONT')
    expect(outcomes.toSorted((a, b) => a.index - b.index)).toEqual(
      items.map((index) => ({ index, status: 'fulfilled', value: index * 2 }))
    )
    const began = (await made.began()).slice(before)
    const keys = new Map<number, Set<string>>()
    for (const { index, key } of began) keys.set(index, (keys.get(index) ?? new Set()).add(key))
    // The same key each time, and another for each item.
    expect([...keys.values()].every((of) => of.size === 1)).toBe(true)
    expect(new Set([...keys.values()].flatMap((of) => [...of])).size).toBe(count)
    const again = began.length - count
    // Three were stopped with 4 items each; each of them ran once more, somewhere else.
    expect(again).toBeGreaterThan(0)
    expect(again).toBeLessThanOrEqual(12)
    third.kill('SIGTERM')
    const [text] = await once(third.stdout as Readable, 'data')
    // What it had in hand when it was stopped, it ended after others had: nobody heard it.
    const { late, skipped } = JSON.parse(String(text)) as { late: number; skipped: number }
    expect(late + skipped).toBeGreaterThan(0)
    expect(late).toBeLessThanOrEqual(4)
  })

  test('an item that kills its workers is given up, and the others are not', async () => {
    const made = crew({ concurrency: 1, workMs: 300, lockMs: 500, maxStalls: 1 })
    let child = made.start()
    await using queue = createBatchQueue<number, number>({ ...made.options, checkMs: 100 })
    const outcomes = queue.run([0, 1], { order: 'input' })
    const first = outcomes.next()
    for (const times of [1, 2]) {
      await expect.poll(async () => (await made.began()).filter(({ index }) => index === 0).length, { timeout: 8000 }).toBe(times)
      child.kill('SIGKILL')
      child = made.start()
    }
    expect((await first).value).toMatchObject({ index: 0, status: 'rejected', reason: { code: 'unavailable', retryable: false } })
    expect((await outcomes.next()).value).toMatchObject({ index: 1, status: 'fulfilled', value: 2 })
  })

  test.each(long ? ['long'] : [])('a worker that is told to end puts back what does not end in time', async () => {
    const made = crew({ concurrency: 2, workMs: 100, lockMs: 30_000 })
    const child = made.start()
    await using queue = createBatchQueue<number, number>(made.options)
    const run = queue.run([0, 1, 2, 3, 4, 5])
    const first = run.next()
    await expect.poll(async () => (await made.began()).length, { timeout: 8000 }).toBeGreaterThan(0)
    child.kill('SIGTERM')
    const [code] = await once(child, 'exit')
    expect(code).toBe(0)
    made.start()
    const taken = [(await first).value]
    for await (const outcome of run) taken.push(outcome)
    expect(taken).toHaveLength(6)
  })
})
