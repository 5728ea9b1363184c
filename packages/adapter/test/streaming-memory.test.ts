import { fork } from 'node:child_process'
import { once } from 'node:events'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Told } from './stream-reader-main.ts'
import { type StreamServer, startStreamServer } from './stream-server.ts'
import type { Seen } from './stream-server-main.ts'

let server: StreamServer
beforeAll(async () => {
  server = await startStreamServer()
})
afterAll(() => server[Symbol.asyncDispose]())

interface Reader {
  /** What it told, in order. */
  readonly told: readonly Told[]
  readonly code: number | null
}

/** Reads in a process of its own; what that says when it runs out of memory is not shown. */
async function readIn(how: string, url: string, flags: readonly string[], onTold = (): void => {}): Promise<Reader> {
  const child = fork(new URL('stream-reader-main.ts', import.meta.url), [how, url], {
    execArgv: ['--conditions=@millrace/source', ...flags],
    silent: how === 'keeping all'
  })
  const told: Told[] = []
  child.on('message', (message) => {
    told.push(message as Told)
    onTold()
  })
  const [code] = (await once(child, 'exit')) as [number | null]
  return { told, code }
}

const mib = 1024 * 1024

describe('a stream of 96 MiB of text, in a process that may hold 80 MiB', () => {
  const flags = ['--max-old-space-size=80']
  const path = `flood/${(96 * mib) / (64 * 1024)}`

  test.each(['plainly', 'through operators'])(
    'is read whole: %s',
    async (how) => {
      const { told, code } = await readIn(how, `${server.url}/${path}`, flags)
      expect(code).toBe(0)
      expect(told).toMatchObject([{ chars: 96 * mib, finish: 'stop' }])
    },
    120_000
  )

  test('cannot be kept', async () => {
    const { told, code } = await readIn('keeping all', `${server.url}/${path}`, flags)
    expect(told).toEqual([])
    expect(code).not.toBe(0)
  }, 120_000)
})

describe('a reader at ten chunks a second, of a provider that sends as fast as it can', () => {
  test.each(['slowly', 'slowly, through operators'])(
    'holds little, and its provider cannot send on: %s',
    async (how) => {
      const before = await server.seen()
      // Told a second after the start, when the kernel's buffers are full, and two seconds later: then only what is read
      // makes room.
      const asked: Promise<Seen>[] = []
      const { told, code } = await readIn(how, `${server.url}/flood`, ['--expose-gc'], () => asked.push(server.seen()))
      const [filled = 0, after = 0] = (await Promise.all(asked)).map(({ sent }) => sent - before.sent)
      expect(code).toBe(0)
      expect(told).toHaveLength(2)
      for (const { rssMiB, heapMiB } of told) {
        expect(rssMiB).toBeLessThan(32)
        expect(heapMiB).toBeLessThan(32)
      }
      expect(filled).toBeGreaterThan(0)
      expect(after).toBeLessThan(32 * mib)
      expect(after - filled).toBeLessThan(4 * mib)
    },
    60_000
  )
})
