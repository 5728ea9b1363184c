import { setTimeout as delay } from 'node:timers/promises'
import { heapAfterGc, probeLeaks } from '@millrace/testkit'
import { describe, expect, it } from 'vitest'
import { createMemoryLog, type MemoryLogOptions } from '../src/memory-log.ts'
import { gather } from './source.ts'

describe('createMemoryLog', () => {
  it('refuses wrong options with the cure', () => {
    const wrong: [unknown, RegExp][] = [
      [{ maxBytes: 0 }, /maxBytes must be a whole number from 1 to/],
      [{ maxLogs: 1.5 }, /maxLogs/],
      [{ maxKeptBytes: -1 }, /maxKeptBytes/],
      [{ keepMs: Number.POSITIVE_INFINITY }, /keepMs must be a whole number from 1 to 2147483647, not Infinity/],
      [{ ttlMs: 0 }, /ttlMs/],
      [{ ttl: 1 }, /no option "ttl"; it has maxBytes/]
    ]
    for (const [options, message] of wrong) {
      expect(() => createMemoryLog(options as MemoryLogOptions)).toThrow(TypeError)
      expect(() => createMemoryLog(options as MemoryLogOptions)).toThrow(message)
    }
  })

  it('lets the older half of a long log go: those who keep up go on, the others are told', async () => {
    await using log = createMemoryLog({ maxBytes: 100 })
    const writer = log.write('id')
    const live = log.follow('id')[Symbol.asyncIterator]()
    const late = log.follow('id')[Symbol.asyncIterator]()
    writer.append(['first'])
    expect((await live.next()).value).toEqual(['first'])
    for (let number = 0; number < 30; number++) {
      const next = live.next()
      writer.append([`${number}`.padEnd(10)])
      expect((await next).value).toEqual([`${number}`.padEnd(10)])
    }
    expect(writer.broken).toBe(true)
    await expect(late.next()).rejects.toMatchObject({ code: 'protocol', details: { reason: 'too-large' } })
    await writer.end()
    expect((await gather(log.follow('id', { offset: 29 }))).flat()).toEqual(['28'.padEnd(10), '29'.padEnd(10)])
  })

  it('keeps ended logs for keepMs, for the bytes there are, and no more than maxLogs', async () => {
    await using log = createMemoryLog({ keepMs: 100, maxLogs: 3, maxKeptBytes: 25 })
    async function put(id: string, item = 'ten bytes!'): Promise<void> {
      const writer = log.write(id)
      writer.append([item])
      await writer.end()
    }
    for (const id of ['a', 'b', 'c']) await put(id)
    expect(log.stats()).toMatchObject({ open: 0, kept: 2, keptBytes: 20, evicted: 1 })
    expect(await log.tell('a', '')).toBeUndefined()
    await put('d', '')
    await put('e', '')
    expect(log.stats()).toMatchObject({ kept: 3, evicted: 2 }) // c, d, e
    expect(await log.tell('b', '')).toBeUndefined()
    await delay(250)
    expect(log.stats()).toMatchObject({ kept: 0, keptBytes: 0 })
    expect(await log.tell('e', '')).toBeUndefined()
  })

  it('never lets an open log go: one too many fails for its readers, not for its writer', async () => {
    await using log = createMemoryLog({ maxLogs: 2 })
    const [one, two, three] = [log.write('1'), log.write('2'), log.write('3')]
    for (const writer of [one, two, three]) writer?.append(['x'])
    expect(three?.broken).toBe(true)
    expect(log.stats()).toMatchObject({ open: 2, dropped: 1 })
    await expect(gather(log.follow('3'))).rejects.toMatchObject({ code: 'queue-full', details: { limit: 2 } })
    await two?.end()
    const four = log.write('4')
    four.append(['y'])
    await Promise.all([one?.end(), three?.end(), four.end()])
    expect((await gather(log.follow('4'))).flat()).toEqual(['y'])
    expect((await gather(log.follow('1'))).flat()).toEqual(['x'])
  })

  it('finds an ended log to let go although many are open', async () => {
    await using log = createMemoryLog({ maxLogs: 40_000 })
    for (let number = 0; number < 20_000; number++) log.write(`open ${number}`)
    for (let number = 0; number < 20_000; number++) await log.write(`ended ${number}`).end()
    const startedAt = performance.now()
    for (let number = 0; number < 5000; number++) await log.write(`new ${number}`).end()
    expect(performance.now() - startedAt).toBeLessThan(1500) // it was 50 s
    expect(log.stats()).toMatchObject({ open: 20_000, kept: 20_000, evicted: 5000 })
  })

  it('lets those who read an ended log read it to the end, whatever becomes of it', async () => {
    const log = createMemoryLog({ keepMs: 20 })
    const writer = log.write('id')
    writer.append(['a'])
    const reader = log.follow('id')[Symbol.asyncIterator]()
    expect((await reader.next()).value).toEqual(['a'])
    writer.append(['b'])
    await writer.end()
    await delay(60)
    await log.close()
    expect((await reader.next()).value).toEqual(['b'])
    expect((await reader.next()).done).toBe(true)
  })

  it('forgets a log that nobody waits for any more', async () => {
    const probe = probeLeaks()
    const log = createMemoryLog()
    for (let number = 0; number < 3000; number++) {
      const reader = log.follow(`never ${number}`)[Symbol.asyncIterator]()
      const pending = reader.next()
      await reader.return?.()
      expect((await pending).done).toBe(true)
    }
    expect(await gather(log.follow('id', { signal: AbortSignal.abort('gone') })).catch((error: unknown) => error)).toBe('gone')
    const writer = log.write('id') // there is room
    expect(writer.broken).toBe(false)
    await log.close()
    await probe.check()
  })

  it('leaves nothing behind: 5,000 logs written, followed, left and expired', async () => {
    const log = createMemoryLog({ keepMs: 1 })
    async function rounds(count: number): Promise<void> {
      for (let number = 0; number < count; number++) {
        const writer = log.write(`${number}`)
        const reader = log.follow(`${number}`)[Symbol.asyncIterator]()
        writer.append(['a'.repeat(1000)])
        await reader.next()
        if (number % 2 === 0) await reader.return?.()
        await writer.end()
        if (number % 100 === 0) await delay(3)
      }
      await delay(20)
    }
    await rounds(1000)
    const before = await heapAfterGc()
    await rounds(5000)
    expect((await heapAfterGc()) - before).toBeLessThan(300_000)
    expect(log.stats()).toMatchObject({ open: 0, kept: 0, keptBytes: 0 })
    await log.close()
  })
})
