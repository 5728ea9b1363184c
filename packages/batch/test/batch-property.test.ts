import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import { type BatchOptions, batch, type Outcome } from '@millrace/batch'
import { MillraceError } from '@millrace/core'
import fc from 'fast-check'
import { expect, test } from 'vitest'

const seed = 20_261_123

type Way = 'at once' | 'next turn' | 'later' | 'throws' | 'rejects' | 'limited once' | 'hangs'
const way: fc.Arbitrary<Way> = fc.constantFrom('at once', 'next turn', 'later', 'throws', 'rejects', 'limited once')

interface Case {
  readonly ways: readonly Way[]
  readonly concurrency: number
  readonly extra: number
  readonly order: 'completion' | 'input' | 'longest'
  readonly input: 'list' | 'stream' | 'slow stream' | 'failing stream'
  readonly reader: 'fast' | 'slow'
  readonly ending: 'end' | 'abort' | 'leave'
  readonly endAt: number
}

const anyCase: fc.Arbitrary<Case> = fc.record({
  ways: fc.array(way, { maxLength: 40 }),
  concurrency: fc.integer({ min: 1, max: 9 }),
  extra: fc.integer({ min: 0, max: 12 }),
  order: fc.constantFrom('completion', 'input', 'longest'),
  input: fc.constantFrom('list', 'stream', 'slow stream', 'failing stream'),
  reader: fc.constantFrom('fast', 'slow'),
  ending: fc.constantFrom('end', 'abort', 'leave'),
  endAt: fc.integer({ min: 0, max: 40 })
})

async function work(item: Way, attempt: number): Promise<string> {
  if (item === 'next turn') await turn()
  if (item === 'later') await sleep(1)
  if (item === 'rejects') throw new Error(item)
  if (item === 'limited once' && attempt === 1) throw new MillraceError('rate-limited', item, { details: { retryAfterMs: 1 } })
  return item
}

test(`whatever items, order, reader and ending, every item that was started or seen gets one outcome (seed ${seed})`, async () => {
  await fc.assert(
    fc.asyncProperty(anyCase, async ({ ways, concurrency, extra, order, input, reader, ending, endAt }) => {
      async function* stream(): AsyncGenerator<Way, undefined> {
        for (const item of ways) {
          if (input === 'slow stream') await turn()
          yield item
        }
        if (input === 'failing stream') throw new Error('the input broke')
      }
      const controller = new AbortController()
      let running = 0
      let most = 0
      const started = new Set<number>()
      const options: BatchOptions<Way> = {
        concurrency,
        maxBuffered: concurrency + extra,
        signal: controller.signal,
        ...(order === 'longest' ? { length: (item) => item.length, lookahead: 7 } : { order })
      }
      const outcomes = batch(
        input === 'list' ? ways : stream(),
        (item, { index, attempt }) => {
          started.add(index)
          if (item === 'throws') throw new Error(item)
          if (item === 'at once') return item
          most = Math.max(most, ++running)
          return work(item, attempt).finally(() => running--)
        },
        options
      )
      const taken: Outcome<string>[] = []
      let error: unknown
      try {
        for await (const outcome of outcomes) {
          taken.push(outcome)
          if (reader === 'slow') await turn()
          if (taken.length === endAt && ending === 'leave') break
          if (taken.length === endAt && ending === 'abort') controller.abort('stop')
        }
      } catch (thrown) {
        error = thrown
      }
      const indexes = taken.map(({ index }) => index)
      expect(new Set(indexes).size).toBe(indexes.length)
      expect(most).toBeLessThanOrEqual(concurrency)
      if (order === 'input') expect(indexes).toEqual([...indexes.keys()])
      const { pulled, fulfilled, rejected, ended } = outcomes.progress
      expect(ended).toBe(true)
      const left = ending === 'leave' && taken.length === endAt && endAt > 0
      if (left) return
      expect([...started].filter((index) => !indexes.includes(index))).toEqual([])
      expect(taken.length).toBe(pulled)
      expect(fulfilled + rejected).toBe(pulled)
      if (controller.signal.aborted) {
        if (error !== undefined) expect(['stop', new Error('the input broke')]).toContainEqual(error)
      } else {
        expect(pulled).toBe(ways.length)
        expect(error).toEqual(input === 'failing stream' ? new Error('the input broke') : undefined)
      }
      for (const outcome of taken) {
        const item = ways[outcome.index]
        const fails = item === 'throws' || item === 'rejects'
        if (outcome.status === 'fulfilled') expect(outcome.value).toBe(fails ? undefined : item)
        else if (outcome.reason !== 'stop') expect(outcome.reason).toEqual(new Error(item))
      }
    }),
    { seed, numRuns: 400 }
  )
}, 30_000)

const readersCase: fc.Arbitrary<Omit<Case, 'ending' | 'endAt' | 'reader'> & { readonly readers: number }> = fc.record({
  ways: fc.array(way, { maxLength: 40 }),
  concurrency: fc.integer({ min: 1, max: 9 }),
  extra: fc.integer({ min: 0, max: 12 }),
  order: fc.constantFrom('completion', 'input', 'longest'),
  input: fc.constantFrom('list', 'stream', 'slow stream', 'failing stream'),
  readers: fc.integer({ min: 2, max: 12 })
})

test(`several that are asked for at once get each outcome once, and one of them the error of the input (seed ${seed})`, async () => {
  await fc.assert(
    fc.asyncProperty(readersCase, async ({ ways, concurrency, extra, order, input, readers }) => {
      async function* stream(): AsyncGenerator<Way, undefined> {
        for (const item of ways) {
          if (input === 'slow stream') await turn()
          yield item
        }
        if (input === 'failing stream') throw new Error('the input broke')
      }
      const options: BatchOptions<Way> = {
        concurrency,
        maxBuffered: concurrency + extra,
        ...(order === 'longest' ? { length: (item) => item.length, lookahead: 7 } : { order })
      }
      const outcomes = batch(
        input === 'list' ? ways : stream(),
        (item, { attempt }) => (item === 'at once' ? item : work(item, attempt)),
        options
      )
      const indexes: number[] = []
      const errors: unknown[] = []
      for (let ended = false; !ended; ) {
        const asked = await Promise.allSettled(Array.from({ length: readers }, () => outcomes.next()))
        for (const result of asked) {
          if (result.status === 'rejected') errors.push(result.reason)
          else if (result.value.done === true) ended = true
          else indexes.push(result.value.value.index)
        }
      }
      expect(order === 'input' ? indexes : indexes.toSorted((a, b) => a - b)).toEqual([...ways.keys()])
      expect(errors).toEqual(input === 'failing stream' ? [new Error('the input broke')] : [])
    }),
    { seed, numRuns: 200 }
  )
}, 30_000)
