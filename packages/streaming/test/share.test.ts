import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { type Chunk, isMillraceError } from '@millrace/core'
import { heapAfterGc } from '@millrace/testkit'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type SharedReader, type ShareOptions, share } from '../src/share.ts'
import { batched } from './batched.ts'
import { fed, finish, from, gather, start, text } from './source.ts'

const answer = [start, text('a'), text('b'), finish]

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise(setImmediate)
}

/** Counts up to `end`, and tells how far it has come. */
function counting(end = Number.POSITIVE_INFINITY): AsyncIterable<number> & { readonly given: number; readonly closed: boolean } {
  let given = 0
  let closed = false
  return {
    get given() {
      return given
    },
    get closed() {
      return closed
    },
    async *[Symbol.asyncIterator]() {
      try {
        while (given < end) yield given++
      } finally {
        closed = true
      }
    }
  }
}

describe('each reader', () => {
  test('gets everything in order', async () => {
    for (const source of [from(answer), batched(answer), batched(answer.slice(0, 1), answer.slice(1))]) {
      const got = await Promise.all(share(source, 3).map(gather))
      expect(got).toEqual([answer, answer, answer])
    }
  })

  test('gets everything in order however each reads, and none is ahead of the slowest by more than maxItems', async () => {
    const seed = 0x5a4e
    console.log(`seed ${seed}`)
    const turn = fc.record({ reader: fc.nat(2), way: fc.constantFrom('next', 'batch', 'leave') })
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 7 }),
        fc.integer({ min: 0, max: 40 }),
        fc.array(turn, { minLength: 1, maxLength: 80 }),
        async (maxItems, length, script) => {
          const source = counting(length)
          const readers = share(source, 3, { maxItems })
          const got: number[][] = [[], [], []]
          const active = new Set([0, 1, 2])
          const busy = new Set<number>()
          const reads: Promise<unknown>[] = []
          const check = (): void => {
            const slowest = Math.min(...[...active].map((index) => got[index]?.length ?? 0))
            if (active.size > 0) expect(source.given - slowest).toBeLessThanOrEqual(maxItems)
          }
          const read = async (index: number, way: 'next' | 'batch'): Promise<void> => {
            busy.add(index)
            const reader = readers[index] as SharedReader<number>
            if (way === 'batch') {
              const batch = await reader.nextBatch()
              got[index]?.push(...(batch ?? []))
              if (batch === undefined) active.delete(index)
            } else {
              const { done, value } = await reader.next()
              if (done === true) active.delete(index)
              else got[index]?.push(value)
            }
            busy.delete(index)
          }
          for (const { reader: index, way } of script) {
            if (!active.has(index)) continue
            if (way === 'leave') {
              if (active.size === 1) continue
              active.delete(index)
              await readers[index]?.return?.()
            } else if (!busy.has(index)) reads.push(read(index, way))
            await turns(1)
            check()
          }
          // Those that are left read to the end.
          while (active.size > 0) {
            for (const index of active) if (!busy.has(index)) reads.push(read(index, 'next'))
            await turns(1)
            check()
          }
          await Promise.all(reads)
          const whole = Array.from({ length }, (_, number) => number)
          for (const items of got) expect(items).toEqual(whole.slice(0, items.length))
          expect(Math.max(...got.map((items) => items.length))).toBe(length)
        }
      ),
      { seed, numRuns: 300 }
    )
  })

  test('can be iterated once: a second loop goes on where the first ended', async () => {
    const [reader] = share(from(answer), 1)
    await reader.next()
    expect(await gather(reader)).toEqual(answer.slice(1))
    expect(await gather(reader)).toEqual([])
  })

  test('gets an error behind what it has', async () => {
    const source = fed()
    source.give(text('a'))
    source.give(text('b'))
    const boom = new Error('boom')
    source.fail(boom)
    const [fast, slow] = share(source, 2)
    const got: Chunk[] = []
    const reading = async (reader: AsyncIterable<Chunk>): Promise<void> => {
      for await (const chunk of reader) got.push(chunk)
    }
    await expect(reading(fast)).rejects.toBe(boom)
    await expect(reading(slow)).rejects.toBe(boom)
    expect(got).toEqual([text('a'), text('b'), text('a'), text('b')])
    expect((await slow.next()).done).toBe(true)
    expect(source.returned).toBe(0)
  })
})

describe('the source', () => {
  test('is read as a reader asks, not before', async () => {
    const source = counting()
    const [one, two] = share(source, 2)
    await turns(3)
    expect(source.given).toBe(0)
    await one.next()
    await turns(3)
    expect(source.given).toBe(1)
    await two.next()
    await turns(3)
    expect(source.given).toBe(1)
    await Promise.all([one.return?.(), two.return?.()])
  })

  test('is not read on while one reader is behind by maxItems, even if it never begins', async () => {
    const source = counting()
    const [fast, never] = share(source, 2, { maxItems: 4 })
    for (let count = 0; count < 4; count++) await fast.next()
    let fifth: unknown
    const pending = fast.next().then((result) => {
      fifth = result.value
    })
    await turns(10)
    expect(fifth).toBeUndefined()
    expect(source.given).toBe(4)
    expect((await never.next()).value).toBe(0)
    await pending
    expect(fifth).toBe(4)
    await never.return?.()
    for (let count = 5; count < 50; count++) expect((await fast.next()).value).toBe(count)
    await fast.return?.()
    expect(source.closed).toBe(true)
  })

  test('is not read on while one reader is behind by maxSize', async () => {
    const source = batched(...Array.from({ length: 20 }, () => ['0123456789']))
    const [fast, slow] = share(source, 2, { maxSize: 35 })
    for (let count = 0; count < 4; count++) await fast.next()
    const pending = fast.next()
    await turns(5)
    expect(source.reads).toBe(4)
    await slow.next() // three are left: 30 characters
    await pending
    expect(source.reads).toBe(5)
    await Promise.all([fast.return?.(), slow.return?.()])
  })

  test('is returned when the last reader leaves, and not before', async () => {
    for (const busy of [false, true]) {
      const source = fed()
      source.give(start)
      const [one, two, three] = share(source, 3)
      await one.next()
      const pending = busy ? two.next().then(() => two.next()) : undefined
      await turns(2)
      await one.return?.()
      await three.return?.()
      await three.return?.()
      expect(source.returned).toBe(0)
      await two.return?.()
      expect(source.returned).toBe(1)
      if (pending !== undefined) expect((await pending).done).toBe(true)
      await two.return?.()
      expect(source.returned).toBe(1)
      expect((await one.next()).done).toBe(true)
    }
  })

  test('goes on for the others when a reader leaves during its read', async () => {
    const source = fed()
    const [one, two] = share(source, 2)
    const first = one.next()
    const second = two.next()
    await one.return?.()
    expect((await first).done).toBe(true)
    source.give(text('a'))
    expect((await second).value).toEqual(text('a'))
    expect(source.returned).toBe(0)
    await two.return?.()
  })

  test('fails all readers when it cannot be begun', async () => {
    const boom = new Error('boom')
    const source: AsyncIterable<Chunk> = {
      [Symbol.asyncIterator]() {
        throw boom
      }
    }
    const [one, two] = share(source, 2)
    await expect(one.next()).rejects.toBe(boom)
    await expect(two.next()).rejects.toBe(boom)
  })
})

describe("with whenFull: 'fail'", () => {
  test('a reader for whom there is no room gets what it has and queue-full, and the others go on', async () => {
    const source = counting(100)
    const [fast, slow, other] = share(source, 3, { maxItems: 4, whenFull: 'fail' })
    const [all, others] = await Promise.all([gather(fast), gather(other)])
    expect(all).toHaveLength(100)
    expect(others).toHaveLength(100)
    const got: number[] = []
    const reading = async (): Promise<void> => {
      for await (const item of slow) got.push(item)
    }
    await expect(reading()).rejects.toSatisfy((error) => isMillraceError(error, 'queue-full') && error.details.limit === 4)
    expect(got).toEqual([0, 1, 2, 3])
  })

  test('one that was cut off no longer counts: the last of the others returns the source', async () => {
    const source = counting()
    const [fast, slow] = share(source, 2, { maxItems: 4, whenFull: 'fail' })
    for (let count = 0; count < 10; count++) await fast.next()
    expect(source.closed).toBe(false)
    await fast.return?.()
    expect(source.closed).toBe(true)
    await slow.return?.()
    expect((await slow.next()).done).toBe(true)
  })
})

describe('memory', () => {
  test('holds each item until the slowest has it, and no longer', async () => {
    const before = await heapAfterGc()
    async function* heavy(): AsyncGenerator<{ readonly weight: readonly number[] }> {
      for (;;) yield { weight: Array.from({ length: 12_500 }, (_, index) => index) } // 100 KB
    }
    const [one, two] = share(heavy(), 2, { maxItems: 1000 })
    const grown = async (): Promise<number> => ((await heapAfterGc()) - before) / 2 ** 20
    for (let count = 0; count < 200; count++) await one.next()
    expect(await grown()).toBeGreaterThan(15) // of the 20 MB that two has not had
    for (let count = 0; count < 200; count++) await two.next()
    expect(await grown()).toBeLessThan(4)
    for (let count = 0; count < 200; count++) await one.next()
    await two.return?.()
    expect(await grown()).toBeLessThan(4) // what was held for one that has left
    await one.return?.()
  })

  test.each([
    ['three readers through share', 'share'],
    ['one reader through buffered, idleTimeout and abortable', 'operators']
  ])('96 MiB over HTTP run to %s in a heap of 80 MB', { timeout: 120_000 }, async (_name, way) => {
    const served = createHash('sha256')
    let sent = 0
    function* events(): Generator<string> {
      while (sent < 96 * 2 ** 20) {
        const data = `${sent} ${'a word or two 😀 '.repeat(60)}`
        served.update(data)
        sent += Buffer.byteLength(data)
        yield `data: ${data}\n\n`
      }
    }
    const server = createServer((_request, response) => void Readable.from(events(), { highWaterMark: 64 }).pipe(response))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    try {
      const program = fileURLToPath(new URL('./share-main.ts', import.meta.url))
      const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
      const child = spawn(process.execPath, ['--max-old-space-size=80', '--conditions=@millrace/source', program, url, way], {
        stdio: ['ignore', 'pipe', 'pipe']
      })
      let output = ''
      let errors = ''
      child.stdout.setEncoding('utf8').on('data', (piece: string) => void (output += piece))
      child.stderr.setEncoding('utf8').on('data', (piece: string) => void (errors = (errors + piece).slice(-2000)))
      const [code] = (await once(child, 'close')) as [number | null]
      expect(errors).toBe('')
      expect(code).toBe(0)
      expect(sent).toBeGreaterThanOrEqual(96 * 2 ** 20)
      const digest = served.digest('hex')
      expect(JSON.parse(output)).toEqual(Array.from({ length: way === 'share' ? 3 : 1 }, () => digest))
    } finally {
      server.closeAllConnections()
      server.close()
    }
  })
})

test('refuses wrong arguments at once', () => {
  expect(() => share(undefined as never, 2)).toThrow(/share takes an async iterable, not undefined/)
  expect(() => share([] as never, 2)).toThrow(/share takes an async iterable, not an array/)
  for (const wrong of [0, -1, 1.5, Number.NaN, '2'])
    expect(() => share(from(answer), wrong as number)).toThrow(/number of readers/)
  expect(() => share(from(answer), 2, { maxItems: 0 })).toThrow(/maxItems/)
  expect(() => share(from(answer), 2, { maxChars: 5 } as ShareOptions<Chunk>)).toThrow(/no option "maxChars"/)
})
