import { getEventListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createLog, type FollowOptions, isMillraceError, type StreamLog } from '../src/index.ts'

const reason = new Error('enough')

async function read<T>(log: StreamLog<T>, offset = 0, options?: FollowOptions): Promise<T[]> {
  const items: T[] = []
  for await (const item of log.follow(offset, options)) items.push(item)
  return items
}

describe('createLog', () => {
  it('gives a late reader what was and then what comes', async () => {
    const log = createLog<number>()
    log.append(0)
    log.append(1)
    const early = read(log)
    const late = read(log, 1)
    const ahead = read(log, 3)
    await delay(1)
    for (const item of [2, 3, 4]) log.append(item)
    await delay(1)
    log.end()
    expect(await early).toEqual([0, 1, 2, 3, 4])
    expect(await late).toEqual([1, 2, 3, 4])
    expect(await ahead).toEqual([3, 4])
    expect(await read(log, 9)).toEqual([])
    expect([log.length, log.whole, log.state, log.items]).toEqual([5, true, 'ended', [0, 1, 2, 3, 4]])
  })

  it('gives the failure behind the last item, to every reader, and to a late one too', async () => {
    const log = createLog<number>()
    const early = log.follow(0)
    const first = early.next()
    log.append(7)
    log.fail(reason)
    log.end()
    log.fail(new Error('later'))
    expect(await first).toEqual({ done: false, value: 7 })
    await expect(early.next()).rejects.toBe(reason)
    expect(await early.next()).toEqual({ done: true, value: undefined })
    await expect(read(log)).rejects.toBe(reason)
    expect(log.state).toBe('failed')
  })

  it('takes nothing once it has ended', () => {
    const log = createLog<number>()
    log.end()
    expect(() => log.append(1)).toThrow('the log has ended')
  })

  it('lets the older half go past its bound; a reader that needed it gets too-large', async () => {
    const log = createLog<number>({ maxSize: 10 })
    const slow = log.follow(0)
    for (let item = 0; item < 25; item++) log.append(item)
    expect(log.items.length).toBeLessThanOrEqual(10)
    expect(log.items.at(-1)).toBe(24)
    expect([log.length, log.whole]).toEqual([25, false])
    await expect(slow.next()).rejects.toSatisfy(tooLarge)
    expect((await slow.next()).done).toBe(true)
    log.end()
    expect(await read(log, 25 - log.items.length)).toEqual(log.items)
  })

  it('keeps the newest item for a reader that keeps up, however large it is', async () => {
    const log = createLog<string>({ maxSize: 10, sizeOf: (item) => item.length })
    const reading = read(log)
    for (const item of ['aaaaa', 'bbbbbb', 'c'.repeat(100), 'd']) {
      log.append(item)
      await delay(1)
    }
    log.end()
    expect((await reading).map((item) => item.length)).toEqual([5, 6, 100, 1])
  })

  it('holds never more than its bound, the newest item aside, in any order of sizes (seed 4)', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(30), { maxLength: 60 }), fc.integer({ min: 1, max: 40 }), (sizes, maxSize) => {
        const log = createLog<number>({ maxSize, sizeOf: (size) => size })
        for (const [index, size] of sizes.entries()) {
          log.append(size)
          const held = log.items.reduce((sum, item) => sum + item, 0)
          expect(held <= maxSize || log.items.length === 1).toBe(true)
          expect(log.length).toBe(index + 1)
          expect(log.items).toEqual(sizes.slice(log.length - log.items.length, index + 1))
        }
      }),
      { seed: 4 }
    )
  })

  it('gives every reader exactly its items in order, whoever reads, leaves or aborts when (seed 5)', async () => {
    const step = fc.oneof(
      fc.record({ kind: fc.constant('append' as const) }),
      fc.record({ kind: fc.constant('turn' as const) }),
      fc.record({ kind: fc.constant('join' as const), offset: fc.nat(12), take: fc.oneof(fc.nat(8), fc.constant(1000)) }),
      fc.record({ kind: fc.constant('abort' as const), who: fc.nat(5) })
    )
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), fc.boolean(), async (steps, fails) => {
        const log = createLog<number>()
        let length = 0
        const readers: {
          offset: number
          take: number
          got: number[]
          source: AbortController
          over: Promise<unknown>
          left: number
        }[] = []
        for (const one of steps) {
          if (one.kind === 'append') log.append(length++)
          else if (one.kind === 'turn') await delay(0)
          else if (one.kind === 'abort') readers[one.who]?.source.abort(reason)
          else {
            const { offset, take } = one
            const reader = {
              offset,
              take,
              got: [] as number[],
              source: new AbortController(),
              over: Promise.resolve<unknown>(0),
              left: 0
            }
            readers.push(reader)
            reader.over = (async () => {
              const options = { signal: reader.source.signal, onLeave: () => reader.left++ }
              for await (const item of log.follow(offset, options)) {
                reader.got.push(item)
                if (reader.got.length >= take) break
              }
            })().catch((error: unknown) => error)
          }
        }
        const failure = new Error('failed')
        if (fails) log.fail(failure)
        else log.end()
        for (const { offset, take, got, source, over } of readers) {
          const outcome = await over
          const all = Array.from({ length: Math.max(0, length - offset) }, (_item, index) => offset + index)
          expect(got).toEqual(all.slice(0, got.length))
          if (outcome === reason) expect(source.signal.aborted).toBe(true)
          else if (outcome === failure) expect(got).toEqual(all)
          else expect(got).toEqual(all.slice(0, Math.max(1, take)))
          expect(getEventListeners(source.signal, 'abort')).toHaveLength(0)
        }
        expect(readers.map(({ left }) => left)).toEqual(readers.map(() => 1))
      }),
      { seed: 5, numRuns: 200 }
    )
  })

  it('ends a pending read at return, and wakes no other reader for it', async () => {
    const log = createLog<number>()
    let left = 0
    let pulls = 0
    const leaver = log.follow(0, { onLeave: () => left++ })
    const stayer = log.follow(0, { pull: () => pulls++ })
    const ends = [leaver.next(), leaver.next()]
    const stays = stayer.next()
    expect(await leaver.return?.()).toEqual({ done: true, value: undefined })
    expect(await Promise.all(ends)).toEqual([
      { done: true, value: undefined },
      { done: true, value: undefined }
    ])
    await leaver.return?.()
    expect([left, pulls]).toEqual([1, 1])
    log.append(1)
    expect(await stays).toEqual({ done: false, value: 1 })
  })

  it('answers reads in the order they were asked', async () => {
    const log = createLog<number>()
    const reader = log.follow(0)
    const asked = [reader.next(), reader.next(), reader.next()]
    for (const item of [0, 1]) log.append(item)
    await delay(1)
    log.end()
    expect((await Promise.all(asked)).map(({ value }) => value)).toEqual([0, 1, undefined])
  })

  it('rejects a pending read with the reason of an abort, and prefers the abort to what is ready', async () => {
    const log = createLog<number>()
    const source = new AbortController()
    const pending = log.follow(0, { signal: source.signal }).next()
    source.abort(reason)
    await expect(pending).rejects.toBe(reason)
    log.append(1)
    await expect(log.follow(0, { signal: source.signal }).next()).rejects.toBe(reason)
  })

  it('pulls its source on demand: once a read that finds nothing, and no faster', async () => {
    const log = createLog<number>()
    let made = 0
    const pull = (): void => {
      if (made === 3) log.end()
      else log.append(made++)
    }
    const reader = log.follow(0, { pull })
    expect(await reader.next()).toEqual({ done: false, value: 0 })
    await delay(5)
    expect(made).toBe(1)
    expect(await read(log, 0, { pull })).toEqual([0, 1, 2])
  })

  it('passes on what the source throws when it is pulled, and leaves', async () => {
    const log = createLog<number>()
    let left = 0
    const pull = (): void => {
      throw reason
    }
    await expect(read(log, 0, { pull, onLeave: () => left++ })).rejects.toBe(reason)
    expect(left).toBe(1)
  })

  it('says what to write instead of a wrong bound or offset', () => {
    for (const maxSize of [0, -1, Number.NaN]) expect(() => createLog({ maxSize })).toThrow('maxSize must be a number above 0')
    for (const offset of [-1, 0.5, Number.NaN]) expect(() => createLog().follow(offset)).toThrow('offset must be a whole number')
  })

  it('keeps nothing of 100 000 readers that waited and gave up', async () => {
    const log = createLog<number>()
    const waitAndLeave = async (): Promise<void> => {
      const source = new AbortController()
      const reading = log.follow(0, { signal: source.signal }).next()
      source.abort(reason)
      await reading.catch(() => {})
    }
    for (let run = 0; run < 2000; run++) await waitAndLeave()
    gc?.()
    const before = process.memoryUsage().heapUsed
    for (let run = 0; run < 100_000; run++) await waitAndLeave()
    gc?.()
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(4 * 1024 * 1024)
  })

  it('appends in time linear in the items, with its bound exceeded all along', () => {
    const fill = (count: number): number => {
      const log = createLog<number>({ maxSize: 1000 })
      const startedAt = performance.now()
      for (let item = 0; item < count; item++) log.append(item)
      return performance.now() - startedAt
    }
    fill(100_000)
    expect(fill(1_000_000)).toBeLessThan(fill(100_000) * 40 + 200)
  })
})

const tooLarge = (error: unknown): boolean => isMillraceError(error, 'protocol') && error.details.reason === 'too-large'
