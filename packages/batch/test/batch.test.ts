import { execFile } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { batch, type Outcome, type Progress } from '@millrace/batch'
import { MillraceError } from '@millrace/core'
import { heapAfterGc } from '@millrace/testkit'
import { describe, expect, test } from 'vitest'

async function all<O>(outcomes: AsyncIterable<Outcome<O>>): Promise<{ outcomes: Outcome<O>[]; error: unknown }> {
  const taken: Outcome<O>[] = []
  try {
    for await (const outcome of outcomes) taken.push(outcome)
    return { outcomes: taken, error: undefined }
  } catch (error) {
    return { outcomes: taken, error }
  }
}

function* count(to = Number.POSITIVE_INFINITY): Generator<number, undefined> {
  for (let at = 0; at < to; at++) yield at
}

function limited(retryAfterMs: number): MillraceError {
  return new MillraceError('rate-limited', 'later', { details: { retryAfterMs } })
}

describe('what it takes', () => {
  test.each([0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY])('a concurrency of %s is a TypeError', (concurrency) => {
    expect(() => batch([1], () => 1, { concurrency })).toThrow(TypeError)
  })
  test('items that cannot be iterated, a string among them, are a TypeError', () => {
    for (const items of ['abc', null, undefined, 7, {}]) expect(() => batch(items as never, () => 1)).toThrow(TypeError)
  })
  test('other wrong options are a TypeError that says what to write', () => {
    const wrong: [object, string][] = [
      [{ maxBuffered: 3 }, 'maxBuffered must be at least concurrency'],
      [{ order: 'random' }, "'completion' or 'input'"],
      [{ itemTimeoutMs: 0 }, 'itemTimeoutMs'],
      [{ maxPauses: -1 }, 'maxPauses'],
      [{ lookahead: 0 }, 'lookahead'],
      [{ order: 'input', length: () => 1 }, 'leave out one'],
      [{ concurency: 1 }, 'no option "concurency"']
    ]
    for (const [options, text] of wrong) expect(() => batch([], () => 1, options as never)).toThrow(text)
    expect(() => batch([], 'work' as never)).toThrow('function')
  })
})

describe('outcomes', () => {
  test('one failure, thrown at once or later, touches no other item', async () => {
    const { outcomes, error } = await all(
      batch(count(100), (item) => {
        if (item === 3) throw new Error('at once')
        return item === 4 ? Promise.reject(new Error('later')) : Promise.resolve(item * 2)
      })
    )
    expect(error).toBeUndefined()
    expect(outcomes.toSorted((a, b) => a.index - b.index)).toEqual(
      Array.from({ length: 100 }, (_, index) =>
        index === 3 || index === 4
          ? { index, status: 'rejected', reason: new Error(index === 3 ? 'at once' : 'later') }
          : { index, status: 'fulfilled', value: index * 2 }
      )
    )
  })
  test('they come as they are known, or in the order of the items', async () => {
    const work = async (item: number): Promise<number> => {
      await sleep(item)
      return item
    }
    const items = [90, 10, 50]
    const values = async (order: 'completion' | 'input'): Promise<unknown[]> =>
      (await all(batch(items, work, { order }))).outcomes.map((outcome) => outcome.status === 'fulfilled' && outcome.value)
    expect(await values('completion')).toEqual([10, 50, 90])
    expect(await values('input')).toEqual([90, 10, 50])
  })
  test('never more than concurrency run, and always that many where there are items', async () => {
    let running = 0
    let most = 0
    const seen: number[] = []
    await all(
      batch(
        count(40),
        async () => {
          most = Math.max(most, ++running)
          await sleep(2)
          seen.push(running--)
        },
        { concurrency: 7 }
      )
    )
    expect(most).toBe(7)
    expect(seen.slice(0, 30).every((at) => at >= 6)).toBe(true)
  })
  test('a batch without items ends, and so does one that is asked again after its end', async () => {
    const empty = batch([], () => 1)
    expect(await empty.next()).toEqual({ done: true, value: undefined })
    expect(await empty.next()).toEqual({ done: true, value: undefined })
    expect(empty.progress).toMatchObject({ pulled: 0, ended: true })
  })
  test('several asked for at once come in order and end together', async () => {
    const outcomes = batch([1, 2], async (item) => item, { order: 'input' })
    const results = await Promise.all([outcomes.next(), outcomes.next(), outcomes.next(), outcomes.next()])
    expect(results.map((result) => result.value?.index)).toEqual([0, 1, undefined, undefined])
  })
})

describe('bounds', () => {
  test('a million items of an async generator leave the heap flat', async () => {
    async function* million(): AsyncGenerator<{ at: number }, undefined> {
      for (let at = 0; at < 1_000_000; at++) yield { at }
    }
    const before = await heapAfterGc()
    let most = 0
    let sum = 0
    for await (const outcome of batch(million(), async ({ at }) => at)) {
      if (outcome.status === 'fulfilled') sum += outcome.value
      if (outcome.index % 250_000 === 249_999) most = Math.max(most, (await heapAfterGc()) - before)
    }
    expect(sum).toBe(499_999_500_000)
    expect(most).toBeLessThan(2_000_000)
  })
  test('nothing is pulled before the first outcome is asked for, and little beyond what is taken', async () => {
    let pulled = 0
    let returned = 0
    const endless: AsyncIterable<number> = {
      [Symbol.asyncIterator]: () => ({
        next: async () => ({ done: false, value: pulled++ }),
        async return() {
          returned++
          return { done: true, value: undefined }
        }
      })
    }
    const outcomes = batch(endless, async (item) => item, { concurrency: 4, maxBuffered: 9 })
    await sleep(5)
    expect(pulled).toBe(0)
    await outcomes.next()
    await sleep(20)
    expect(pulled).toBe(10)
    await outcomes.return()
    expect([pulled, returned]).toEqual([10, 1])
  })
  test('in input order pulling stops at maxBuffered while the first is slow', async () => {
    const head = Promise.withResolvers<number>()
    const outcomes = batch(count(), (item) => (item === 0 ? head.promise : item % 2 === 0 ? item : Promise.resolve(item)), {
      concurrency: 3,
      order: 'input',
      maxBuffered: 50
    })
    const first = outcomes.next()
    await sleep(20)
    expect(outcomes.progress).toMatchObject({ pulled: 50, running: 1, fulfilled: 49 })
    head.resolve(0)
    expect((await first).value).toEqual({ index: 0, status: 'fulfilled', value: 0 })
    for (let index = 1; index < 200; index++) expect((await outcomes.next()).value?.index).toBe(index)
    await outcomes.return()
  })
  test.each([
    ['input', 16, 1000],
    ['input', 200, 2000],
    ['completion', 16, 160]
  ] as const)(
    'in %s order with %i at a time %i items are buffered at the most where nothing is said',
    async (order, concurrency, most) => {
      const never = new Promise<number>(() => {})
      const outcomes = batch(count(), (item) => (item === 0 ? never : Promise.resolve(item)), { order, concurrency })
      const first = outcomes.next()
      await sleep(50)
      // In order of completion one has been taken.
      expect(outcomes.progress.pulled).toBe(order === 'input' ? most : most + 1)
      await outcomes.return()
      await first
    }
  )
  test('work that settles at once does not run ahead of its reader', async () => {
    let ran = 0
    const outcomes = batch(count(), () => ran++)
    await outcomes.next()
    await outcomes.next()
    expect(ran).toBeLessThan(5)
    await outcomes.return()
  })
  test('a slow input holds up nothing that runs', async () => {
    const never = Promise.withResolvers<IteratorResult<number>>()
    let pulled = 0
    const items = {
      [Symbol.asyncIterator]: () => ({ next: () => (pulled++ < 3 ? Promise.resolve({ value: pulled }) : never.promise) })
    }
    const outcomes = batch(items as AsyncIterable<number>, async (item) => item)
    for (let at = 0; at < 3; at++) expect((await outcomes.next()).value?.status).toBe('fulfilled')
    await outcomes.return()
  })
})

describe('an input that fails', () => {
  test('what runs is finished and yielded, then the loop throws its error', async () => {
    async function* failing(): AsyncGenerator<number, undefined> {
      yield 1
      yield 2
      throw new Error('the input broke')
    }
    const { outcomes, error } = await all(
      batch(failing(), async (item) => {
        await sleep(20)
        return item
      })
    )
    expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled'])
    expect(error).toEqual(new Error('the input broke'))
  })
  test('so it is for one that fails at its first step, or has no iterator', async () => {
    const broken = {
      [Symbol.iterator]: (): Iterator<number> => {
        throw new Error('no iterator')
      }
    }
    expect(await all(batch(broken, () => 1))).toEqual({ outcomes: [], error: new Error('no iterator') })
  })
})

describe('abort and leaving', () => {
  test('an abort yields all that was pulled as rejected, at once, then throws the reason', async () => {
    const controller = new AbortController()
    const reason = new Error('enough')
    const signals: AbortSignal[] = []
    let returned = 0
    function* items(): Generator<number, undefined> {
      try {
        yield* count()
      } finally {
        returned++
      }
    }
    const outcomes = batch(
      items(),
      (item, { signal }) => {
        signals.push(signal)
        return item < 2 ? Promise.resolve(item) : new Promise<number>(() => {}) // which ignores its signal
      },
      { concurrency: 5, signal: controller.signal }
    )
    setTimeout(() => controller.abort(reason), 20)
    const result = await all(outcomes)
    expect(result.error).toBe(reason)
    expect(result.outcomes).toHaveLength(7)
    expect(result.outcomes.slice(2)).toEqual([2, 3, 4, 5, 6].map((index) => ({ index, status: 'rejected', reason })))
    expect(signals.slice(2).every((signal) => signal.aborted && signal.reason === reason)).toBe(true)
    expect(signals.slice(0, 2).some((signal) => signal.aborted)).toBe(false)
    expect(returned).toBe(1)
    expect(outcomes.progress).toMatchObject({ pulled: 7, running: 0, fulfilled: 2, rejected: 5, ended: true })
  })
  test('a signal that is aborted already pulls nothing', async () => {
    let pulled = 0
    const items = { [Symbol.iterator]: () => ({ next: () => ({ done: false as const, value: pulled++ }) }) }
    const { outcomes, error } = await all(batch(items, () => 1, { signal: AbortSignal.abort('no') }))
    expect([outcomes, error, pulled]).toEqual([[], 'no', 0])
  })
  test('a signal read after the abort is aborted, and an abort while the input is silent ends the batch', async () => {
    const controller = new AbortController()
    const read = Promise.withResolvers<boolean>()
    async function* items(): AsyncGenerator<number, undefined> {
      yield 1
      await new Promise(() => {})
    }
    const outcomes = batch(
      items(),
      async (_, context) => {
        await sleep(30)
        read.resolve(context.signal.aborted)
      },
      { signal: controller.signal }
    )
    setTimeout(() => controller.abort('stop'), 10)
    expect(await all(outcomes)).toEqual({ outcomes: [{ index: 0, status: 'rejected', reason: 'stop' }], error: 'stop' })
    expect(await read.promise).toBe(true)
  })
  test('leaving the loop aborts what runs, ends the input and waits for nothing', async () => {
    const signals: AbortSignal[] = []
    let returned = 0
    async function* items(): AsyncGenerator<number, undefined> {
      try {
        yield* count()
      } finally {
        returned++
      }
    }
    const outcomes = batch(items(), (item, { signal }) => {
      signals.push(signal)
      return item === 0 ? sleep(20, item) : new Promise<number>(() => {})
    })
    for await (const outcome of outcomes) {
      expect(outcome.index).toBe(0)
      break
    }
    expect(signals.slice(1).every(({ reason }) => (reason as MillraceError).code === 'closed')).toBe(true)
    await sleep(1)
    expect(returned).toBe(1)
    expect(outcomes.progress).toMatchObject({ running: 0, ended: true })
    expect(await outcomes.next()).toEqual({ done: true, value: undefined })
  })
  test('leaving does not wait for an input that is silent, and lets go of who waits', async () => {
    const silent: AsyncIterable<number> = { [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}) }) }
    const outcomes = batch(silent, () => 1)
    const waiting = outcomes.next()
    await outcomes[Symbol.asyncDispose]()
    expect(await waiting).toEqual({ done: true, value: undefined })
  })

  test('a batch that nobody reads on keeps no process alive', async () => {
    const main = fileURLToPath(new URL('abandoned-main.ts', import.meta.url))
    const ended = await promisify(execFile)(process.execPath, ['--conditions=@millrace/source', main], { timeout: 20_000 })
    expect(ended.stdout).toBe('0 0\n')
  })
})

describe('time limits', () => {
  test('an item over its time is a timeout, even if its work ignores it, and its place is free again', async () => {
    const signals: AbortSignal[] = []
    const { outcomes } = await all(
      batch(
        count(30),
        (item, { signal }) => {
          if (item % 3 !== 0) return sleep(1, item)
          signals.push(signal)
          return new Promise<number>(() => {})
        },
        { concurrency: 2, itemTimeoutMs: 30 }
      )
    )
    const late = outcomes.filter(({ status }) => status === 'rejected')
    expect(late.map(({ index }) => index).toSorted((a, b) => a - b)).toEqual([0, 3, 6, 9, 12, 15, 18, 21, 24, 27])
    for (const outcome of late) {
      expect(outcome).toMatchObject({ reason: { code: 'timeout', details: { clock: 'total', limitMs: 30 } } })
    }
    expect(signals.every((signal) => (signal.reason as MillraceError).code === 'timeout')).toBe(true)
    expect(outcomes).toHaveLength(30)
  })
})

describe('pauses', () => {
  test('a hundred refusals at a time are one pause, and every item is tried again', async () => {
    const starts: { at: number; attempt: number }[] = []
    const begun = performance.now()
    const outcomes = batch(
      count(200),
      async (item, { attempt }) => {
        starts.push({ at: performance.now() - begun, attempt })
        await sleep(1)
        if (item < 100 && attempt === 1) throw limited(200)
        return item
      },
      { concurrency: 100 }
    )
    const result = await all(outcomes)
    expect(result.outcomes.every(({ status }) => status === 'fulfilled')).toBe(true)
    const after = starts.filter(({ at }) => at > 150)
    expect(starts.length - after.length).toBe(100)
    expect(after.slice(0, 100).every(({ attempt }) => attempt === 2)).toBe(true)
    // Spread: the restarts are not one burst.
    expect((after[60]?.at ?? 0) - (after[0]?.at ?? 0)).toBeGreaterThan(8)
    const { pausedMs, retried } = outcomes.progress
    expect(retried).toBe(100)
    expect(pausedMs).toBeGreaterThan(190)
    expect(pausedMs).toBeLessThan(400)
  })
  test('an item is tried again maxPauses times, then rejected; without a hint at once', async () => {
    const attempts: number[] = []
    const { outcomes } = await all(
      batch(
        ['again', 'no hint'],
        (item, { attempt }) => {
          if (item === 'no hint') throw new MillraceError('overloaded', 'busy', { details: {} })
          attempts.push(attempt)
          throw limited(1)
        },
        { maxPauses: 3 }
      )
    )
    expect(attempts).toEqual([1, 2, 3, 4])
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
  })
  test('the rule can be yours; one that throws is counted and the item keeps its error', async () => {
    const outcomes = batch(
      [1, 2],
      (item, { attempt }) => {
        if (attempt === 1) throw new Error(`busy ${item}`)
        return item
      },
      {
        pause(error) {
          if ((error as Error).message === 'busy 2') throw new Error('a fault of the rule')
          return 5
        }
      }
    )
    expect((await all(outcomes)).outcomes).toEqual([
      { index: 0, status: 'fulfilled', value: 1 },
      { index: 1, status: 'rejected', reason: new Error('busy 2') }
    ])
    expect(outcomes.progress.failedHooks).toBe(1)
  })
  test('an abort ends a pause', async () => {
    const controller = new AbortController()
    setTimeout(() => controller.abort('stop'), 20)
    const begun = performance.now()
    const { outcomes, error } = await all(
      batch(
        count(50),
        () => {
          throw limited(60_000)
        },
        { concurrency: 4, signal: controller.signal }
      )
    )
    expect(performance.now() - begun).toBeLessThan(5000)
    expect([error, outcomes]).toEqual(['stop', [{ index: 0, status: 'rejected', reason: 'stop' }]])
  })
})

describe('length', () => {
  test('of those read ahead the longest starts first, also where the input is read in turns', async () => {
    const lengths = [3, 9, 1, 7, 9, 2, 8]
    const starts = async (items: Iterable<number> | AsyncIterable<number>): Promise<number[]> => {
      const started: number[] = []
      const work = (item: number): Promise<number> => sleep(1, started.push(item))
      await all(batch(items, work, { concurrency: 1, length: (item) => item, lookahead: 4 }))
      return started
    }
    async function* turns(): AsyncGenerator<number, undefined> {
      yield* lengths
    }
    expect(await starts(lengths)).toEqual([9, 9, 7, 8, 3, 2, 1])
    expect(await starts(turns())).toEqual([9, 9, 7, 8, 3, 2, 1])
  })
  test('an endless input is read ahead no further than lookahead, while all places are taken too', async () => {
    async function* endless(): AsyncGenerator<number, undefined> {
      yield* count()
    }
    const outcomes = batch(endless(), () => new Promise<number>(() => {}), {
      concurrency: 2,
      length: (item) => item,
      lookahead: 20
    })
    void outcomes.next()
    await sleep(30)
    // One more has come and waits outside.
    expect(outcomes.progress.running).toBe(2)
    await outcomes.return()
  })
  test('what was read ahead is rejected on an abort', async () => {
    const controller = new AbortController()
    setTimeout(() => controller.abort('stop'), 20)
    const work = (): Promise<number> => new Promise(() => {})
    const { outcomes } = await all(batch(count(50), work, { length: () => Number.NaN, signal: controller.signal }))
    expect(new Set(outcomes.map(({ index }) => index)).size).toBe(50)
  })
})

describe('progress', () => {
  test('is told at most every 100 ms and at the end; a listener that throws is counted', async () => {
    const told: { at: number; progress: Progress }[] = []
    const outcomes = batch(count(60), () => sleep(10), {
      concurrency: 2,
      onProgress(progress) {
        told.push({ at: performance.now(), progress })
        if (told.length === 1) throw new Error('a fault of the listener')
      }
    })
    await all(outcomes)
    expect(told.length).toBeGreaterThanOrEqual(3)
    for (let at = 1; at < told.length - 1; at++) expect((told[at]?.at ?? 0) - (told[at - 1]?.at ?? 0)).toBeGreaterThan(95)
    expect(told.at(-1)?.progress).toMatchObject({ pulled: 60, fulfilled: 60, running: 0, failedHooks: 1, ended: true })
    expect(told.filter(({ progress }) => progress.ended)).toHaveLength(1)
    expect(outcomes.progress.perSecond).toBeGreaterThan(10)
  })
})
