// One suite for all shared logs: in memory, and on Redis.
import { getEventListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { isMillraceError, type SharedLog } from '@millrace/core'
import { requireRedis } from '@millrace/testkit'
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { createMemoryLog } from '../src/memory-log.ts'
import { createRedisLog } from '../src/redis.ts'
import { failureOf, readAll, until } from './log-reading.ts'
import { type Connection, connect } from './redis-connection.ts'

const seed = 20_261_123
const { server, skip } = await requireRedis()
let connection: Connection
const opened: (() => unknown)[] = []
let ids = 0
const newId = (): string => `shared ${++ids}`

beforeAll(async () => {
  if (server !== undefined) connection = await connect(server.url)
})
afterEach(async () => {
  for (const close of opened.splice(0).toReversed()) await close()
})
afterAll(async () => {
  await connection?.close()
  await server?.stop()
})

interface Limits {
  readonly ttlMs?: number
  readonly keepMs?: number
}
type Made = SharedLog & { close(): Promise<void> }

const backends: { name: string; missing: string | undefined; make: (limits?: Limits) => Made }[] = [
  { name: 'createMemoryLog', missing: undefined, make: (limits) => createMemoryLog(limits) },
  { name: 'createRedisLog', missing: skip, make: (limits) => createRedisLog({ command: connection.command, ...limits }) }
]

describe.each(backends)('the shared log of $name', ({ missing, make }) => {
  function open(limits?: Limits): Made {
    const log = make(limits)
    opened.push(() => log.close())
    return log
  }

  it.skipIf(missing !== undefined)(`gives any items in order, from every position (seed ${seed})`, async () => {
    const log = open()
    const item = fc.oneof(fc.string({ unit: 'binary' }), fc.constantFrom('\ud83d', '\ude00', '\u0000', '"', '', '[]', 'end 3'))
    await fc.assert(
      fc.asyncProperty(fc.array(fc.array(item, { maxLength: 5 }), { maxLength: 8 }), fc.boolean(), async (batches, wait) => {
        const id = newId()
        const items = batches.flat()
        const live = readAll(log, id)
        const writer = log.write(id)
        for (const batch of batches) {
          writer.append(batch)
          if (wait) await delay(0)
        }
        await writer.end()
        expect(writer.broken).toBe(false)
        expect(await live).toEqual(items)
        for (let offset = 0; offset <= items.length + 1; offset++) {
          expect(await readAll(log, id, { offset })).toEqual(items.slice(offset))
        }
        expect(await log.tell(id, 'anybody?')).toEqual({ open: false, broken: false, length: items.length })
      }),
      { seed, numRuns: 25 }
    )
  })

  it.skipIf(missing !== undefined)('waits for a log that is not there, and for an offset ahead of it', async () => {
    const log = open()
    const id = newId()
    const reader = log.follow(id, { offset: 3 })[Symbol.asyncIterator]()
    const first = reader.next()
    await delay(50)
    const writer = log.write(id)
    writer.append(['0', '1'])
    await delay(50)
    writer.append(['2', '3', '4'])
    expect((await first).value).toEqual(['3', '4'])
    void writer.end()
    expect((await reader.next()).done).toBe(true)
    expect((await reader.next()).done).toBe(true)
  })

  it.skipIf(missing !== undefined)('gives up on a log that never comes, after ttlMs and not before', async () => {
    const log = open({ ttlMs: 600 })
    const startedAt = performance.now()
    const error = await failureOf(readAll(log, newId()))
    expect(performance.now() - startedAt).toBeGreaterThan(590)
    expect(isMillraceError(error, 'network')).toBe(true)
    expect((error as Error).message).toMatch(/no such log/)
  })

  it.skipIf(missing !== undefined)('tells at once what is known of a log: nothing, open, ended, expired', async () => {
    const log = open()
    const [listening, silent, short] = [newId(), newId(), newId()]
    expect(await log.tell(listening, 'hello')).toBeUndefined()
    const writer = log.write(listening, { onWord: () => {} })
    await until(async () => (await log.tell(listening, '')) !== undefined) // announced without an item
    expect(await log.tell(listening, '')).toEqual({ open: true, broken: false, length: 0 })
    writer.append(['a', 'b'])
    await until(async () => (await log.tell(listening, ''))?.length === 2)
    await writer.end()
    expect(await log.tell(listening, '')).toEqual({ open: false, broken: false, length: 2 })
    const other = log.write(silent)
    other.append(['a'])
    await until(async () => (await log.tell(silent, 'nobody listens'))?.length === 1)
    await other.end()
    const brief = log.write(short, { keepMs: 50 })
    brief.append(['a'])
    await brief.end()
    await until(async () => (await log.tell(short, '')) === undefined)
    expect(await log.tell(silent, '')).toEqual({ open: false, broken: false, length: 1 })
  })

  it.skipIf(missing !== undefined)('passes words on to the one writer they are for, soon, until its end', async () => {
    const log = open()
    const heard: string[] = []
    const [id, other] = [newId(), newId()]
    const writer = log.write(id, { onWord: (word) => heard.push(`one ${word}`) })
    const second = log.write(other, { onWord: (word) => heard.push(`two ${word}`) })
    await until(async () => (await log.tell(id, '')) !== undefined && (await log.tell(other, '')) !== undefined)
    const startedAt = performance.now()
    await log.tell(id, 'cancel')
    await until(() => heard.length === 1)
    expect(performance.now() - startedAt).toBeLessThan(2000)
    writer.append(['x'])
    await log.tell(other, 'read 7')
    await log.tell(id, 'read 1')
    await until(() => heard.length === 3)
    expect(heard.toSorted()).toEqual(['one cancel', 'one read 1', 'two read 7'])
    await writer.end()
    await second.end()
    expect(await log.tell(id, 'cancel')).toEqual({ open: false, broken: false, length: 1 })
    await delay(300)
    expect(heard).toHaveLength(3)
  })

  it.skipIf(missing !== undefined)('ends its readers by their signal and leaves no listener', async () => {
    const log = open()
    const id = newId()
    const writer = log.write(id)
    writer.append(['0'])
    const [controller, reason] = [new AbortController(), new Error('enough')]
    const { signal } = controller
    const reader = log.follow(id, { signal })[Symbol.asyncIterator]()
    expect((await reader.next()).value).toEqual(['0'])
    const pending = failureOf(reader.next())
    const leaving = log.follow(id, { signal, offset: 1 })[Symbol.asyncIterator]()
    const left = leaving.next()
    await leaving.return?.()
    expect((await left).done).toBe(true)
    controller.abort(reason)
    expect(await pending).toBe(reason)
    expect(await failureOf(readAll(log, id, { signal: AbortSignal.abort(reason) }))).toBe(reason)
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
    await writer.end()
  })

  it.skipIf(missing !== undefined)('ends with network when the writer is said to be gone', async () => {
    const log = open()
    const id = newId()
    log.write(id).append(['0'])
    let asked = 0
    const isAlive = async (): Promise<boolean> => {
      if (++asked === 1) throw new Error('it did not say')
      return asked < 3
    }
    const reader = log.follow(id, { isAlive })[Symbol.asyncIterator]()
    expect((await reader.next()).value).toEqual(['0'])
    const error = await failureOf(reader.next())
    expect(isMillraceError(error, 'network')).toBe(true)
    expect((error as Error).message).toMatch(/writer of the log is gone/)
  })

  it.skipIf(missing !== undefined)('lets a second writer of an id do no harm to the first', async () => {
    const log = open()
    const id = newId()
    const first = log.write(id)
    first.append(['a', 'b'])
    await until(async () => (await log.tell(id, ''))?.length === 2)
    const second = log.write(id)
    second.append(['x'])
    await second.end()
    expect(second.broken).toBe(true)
    first.append(['c'])
    await first.end()
    expect(await readAll(log, id)).toEqual(['a', 'b', 'c'])
  })

  it.skipIf(missing !== undefined)('answers reads that are not waited for in their order', async () => {
    const log = open()
    const id = newId()
    const writer = log.write(id)
    const reader = log.follow(id)[Symbol.asyncIterator]()
    const took: string[] = []
    const take = async (name: string): Promise<void> => {
      const { value } = await reader.next()
      took.push(`${name} ${String(value)}`)
    }
    const waiting = [take('first').then(() => take('fourth')), take('second'), take('third')]
    for (let item = 1; item <= 4; item++) {
      writer.append([`${item}`])
      await until(() => took.length === item)
    }
    await Promise.all(waiting)
    expect(took).toEqual(['first 1', 'second 2', 'third 3', 'fourth 4'])
    await writer.end()
    expect(await log.tell(id, '')).toEqual({ open: false, broken: false, length: 4 })
    await reader.return?.()
  })

  it.skipIf(missing !== undefined)('refuses wrong arguments, and everything after close', async () => {
    const log = open()
    for (const id of ['', undefined as never]) {
      expect(() => log.write(id)).toThrow(/id of a log/)
      expect(() => log.follow(id)).toThrow(/id of a log/)
      await expect(log.tell(id, 'x')).rejects.toThrow(/id of a log/)
    }
    for (const keepMs of [0, 1.5, Number.POSITIVE_INFINITY]) expect(() => log.write(newId(), { keepMs })).toThrow(/keepMs/)
    for (const offset of [-1, 0.5, Number.NaN]) expect(() => log.follow('id', { offset })).toThrow(/offset/)
    const id = newId()
    const writer = log.write(id)
    writer.append(['0'])
    const reader = log.follow(id)[Symbol.asyncIterator]()
    await reader.next()
    const waiting = failureOf(reader.next())
    await log.close()
    await log.close()
    expect(await waiting).toMatchObject({ code: 'closed' })
    expect(await failureOf(readAll(log, id))).toMatchObject({ code: 'closed' })
    expect(await failureOf(log.tell(id, ''))).toMatchObject({ code: 'closed' })
    const late = log.write(newId())
    late.append(['1'])
    await late.end()
    await writer.end()
    expect(late.broken).toBe(true)
    expect(writer.broken).toBe(true)
  })
})
