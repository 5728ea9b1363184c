import { setTimeout as sleep } from 'node:timers/promises'
import { type Batch, type BatchOptions, batch, type Outcome } from '@millrace/batch'
import { isMillraceError, MillraceError } from '@millrace/core'
import { describe, expect, test, vi } from 'vitest'

interface Told {
  readonly outcomes: string[]
  readonly error: unknown
}

/** All of a batch, each outcome in short; a batch that hangs ends as the error 'hangs'. */
async function told(outcomes: AsyncIterable<Outcome<unknown>>): Promise<Told> {
  const lines: string[] = []
  const read = async (): Promise<unknown> => {
    try {
      for await (const outcome of outcomes) {
        const { index, status } = outcome
        lines.push(`${index} ${status === 'fulfilled' ? String(outcome.value) : message(outcome.reason)}`)
      }
      return undefined
    } catch (error) {
      return message(error)
    }
  }
  return { error: await Promise.race([read(), sleep(5000, 'hangs', { ref: false })]), outcomes: lines.toSorted() }
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

const never = (): Promise<never> => new Promise(() => {})

function* endedAt(at: number, end: () => void, onReturn?: () => void): Generator<number, undefined> {
  try {
    for (let item = 0; item < 10; item++) {
      if (item === at) end()
      yield item
    }
  } finally {
    onReturn?.()
  }
}

async function* inTurns<T>(items: Iterable<T>): AsyncGenerator<T, undefined> {
  yield* items
}

describe('an abort from within', () => {
  const aborts: [string, string[], (controller: AbortController) => Batch<unknown>][] = [
    [
      'the rule of pauses',
      ['0 stop'],
      ({ abort, signal }) =>
        batch([1, 2], () => Promise.reject(new Error('x')), { signal, concurrency: 1, pause: () => (abort(), 10) })
    ],
    ['the input', ['0 stop', '1 stop', '2 stop'], ({ abort, signal }) => batch(endedAt(2, abort), never, { signal })],
    [
      'the input, read ahead',
      ['0 stop', '1 stop', '2 stop'],
      ({ abort, signal }) => batch(endedAt(2, abort), never, { signal, length: (item) => item })
    ],
    [
      'the input, read ahead behind one that has started',
      ['0 stop', '1 stop', '2 stop'],
      ({ abort, signal }) => batch(endedAt(2, abort), never, { signal, length: () => 1, lookahead: 2 })
    ],
    [
      'length',
      ['0 stop', '1 stop'],
      ({ abort, signal }) => batch([1, 2, 3], never, { signal, length: (item) => (item === 2 ? (abort(), 1) : 1) })
    ],
    [
      'length, of items that come in turns',
      ['0 stop', '1 stop'],
      ({ abort, signal }) => batch(inTurns([1, 2, 3]), never, { signal, length: (item) => (item === 2 ? (abort(), 1) : 1) })
    ],
    [
      'work',
      ['0 0', '1 stop'],
      ({ abort, signal }) => batch([0, 1, 2], (item) => (item === 1 ? (abort(), never()) : item), { signal })
    ]
  ]
  test.each(aborts)('%s ends the batch with everything that was pulled', async (_, expected, start) => {
    const controller = new AbortController()
    const abort = (): void => controller.abort('stop')
    expect(await told(start({ abort, signal: controller.signal } as AbortController))).toEqual({
      outcomes: expected,
      error: 'stop'
    })
  })
  test('the input lets it be ended once its step is done', async () => {
    const controller = new AbortController()
    let returned = 0
    await told(
      batch(
        endedAt(
          2,
          () => controller.abort('stop'),
          () => returned++
        ),
        never,
        { signal: controller.signal }
      )
    )
    expect(returned).toBe(1)
  })
})

test('leaving from within the input, length or work ends the batch', async () => {
  const ways: ((leave: () => void) => Batch<unknown>)[] = [
    (leave) => batch(endedAt(0, leave), never),
    (leave) => batch(endedAt(1, leave), never),
    (leave) => batch(inTurns(endedAt(1, leave)), never),
    (leave) => batch([1, 2], never, { length: () => (leave(), 1) }),
    (leave) => batch(inTurns([1, 2]), never, { length: () => (leave(), 1) }),
    (leave) => batch([1, 2], () => (leave(), 1)),
    (leave) => batch([1, 2], () => (leave(), never())),
    (leave) => batch({ [Symbol.iterator]: () => (leave(), [1][Symbol.iterator]()) }, never)
  ]
  for (const [at, start] of ways.entries()) {
    let ran: Promise<unknown> | undefined
    const outcomes = start(() => {
      ran ??= outcomes.return()
    })
    expect([at, (await told(outcomes)).error]).toEqual([at, undefined])
    await ran
    expect(outcomes.progress.ended).toBe(true)
  }
})

test('an outcome that is asked for from within work comes', async () => {
  for (const order of ['completion', 'input'] as const) {
    const inner: Promise<IteratorResult<Outcome<number>>>[] = []
    const outcomes: Batch<number> = batch(
      [1, 2, 3, 4],
      (item) => {
        if (item % 2 === 0) inner.push(outcomes.next())
        return item
      },
      { order }
    )
    const outer = await told(outcomes)
    const results = await Promise.race([Promise.all(inner), sleep(5000, [], { ref: false })])
    expect(results).toHaveLength(2)
    expect(outer.outcomes.length + results.filter(({ done }) => done !== true).length).toBe(4)
  }
})

test('a value that cannot be looked at is an outcome of that item only', async () => {
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  const hostile = new Proxy(
    {},
    {
      has() {
        throw new Error('no then')
      }
    }
  )
  const work = (item: unknown): unknown => (item === 'later' ? sleep(1, item) : item)
  const { outcomes, error } = await told(batch([1, hostile, 'later', proxy, 2], work, { concurrency: 1 }))
  expect(error).toBeUndefined()
  expect(outcomes).toEqual(['0 1', '1 no then', '2 later', expect.stringContaining('3 Cannot perform'), '4 2'])
})

test('an input that breaks the rules of iterators fails, and one that is asynchronous may answer at once', async () => {
  const steps: [() => unknown, string][] = [
    [() => undefined, 'next() of the items gave undefined'],
    [() => 5, 'next() of the items gave 5'],
    [
      () => ({
        get done() {
          throw new Error('no done')
        }
      }),
      'no done'
    ],
    [
      () => ({
        done: false,
        get value() {
          throw new Error('no value')
        }
      }),
      'no value'
    ]
  ]
  for (const [step, text] of steps) {
    for (const next of [step, async () => step()]) {
      const items = { [Symbol.asyncIterator]: () => ({ next }) } as AsyncIterable<number>
      expect(await told(batch(items, (item) => item))).toEqual({ outcomes: [], error: expect.stringContaining(text) })
    }
    const items = { [Symbol.iterator]: () => ({ next: step }) } as Iterable<number>
    expect(await told(batch(items, (item) => item))).toEqual({ outcomes: [], error: expect.stringContaining(text) })
  }
  const plain = (): unknown => {
    const list = [7, 8][Symbol.iterator]()
    return { [Symbol.asyncIterator]: () => ({ next: () => list.next() }) }
  }
  expect(await told(batch(plain() as AsyncIterable<number>, (item) => item))).toEqual({
    outcomes: ['0 7', '1 8'],
    error: undefined
  })
})

test('a hook that gives nothing to reckon with decides nothing', async () => {
  const said = [Number.NaN, 10n, '7', undefined, Symbol('x'), Number.POSITIVE_INFINITY] as never[]
  const options: BatchOptions<number> = {
    length: (item) => said[item] as never,
    pause: (error) => said[Number(message(error))] as never
  }
  const work = (item: number): never => {
    throw new Error(String(item))
  }
  const outcomes = batch(said.keys(), work, options)
  expect((await told(outcomes)).outcomes).toEqual(['0 0', '1 1', '2 2', '3 3', '4 4', '5 5'])
})

describe('what says nothing about the item', () => {
  test('a closed error of work starts nothing more, lets what runs finish, and is what the loop throws', async () => {
    const started: number[] = []
    const signals: AbortSignal[] = []
    const outcomes = batch(
      [0, 1, 2, 3, 4, 5],
      async (item, { signal }) => {
        started.push(item)
        signals.push(signal)
        if (item === 1) throw new MillraceError('closed', 'the adapter was closed', { details: {} })
        await sleep(20)
        return item
      },
      { concurrency: 3 }
    )
    expect(await told(outcomes)).toEqual({
      outcomes: ['0 0', '1 the adapter was closed', '2 2'],
      error: 'the adapter was closed'
    })
    expect(started).toEqual([0, 1, 2])
    expect(signals.some(({ aborted }) => aborted)).toBe(false)
  })
  test('an abort still drops what runs on behind it, and your own rule of pauses goes before it', async () => {
    const controller = new AbortController()
    const closed = new MillraceError('closed', 'closed', { details: {} })
    const work = (item: number): Promise<number> => (item === 0 ? Promise.reject(closed) : never())
    setTimeout(() => controller.abort('stop'), 20)
    const { outcomes, error } = await told(batch([0, 1], work, { signal: controller.signal }))
    expect([outcomes, error]).toEqual([['0 closed', '1 stop'], 'closed'])
    const pause = (thrown: unknown): number | undefined => (isMillraceError(thrown, 'closed') ? 1 : undefined)
    const again = batch([0], (_, { attempt }) => (attempt < 3 ? Promise.reject(closed) : attempt), { pause })
    expect(await told(again)).toEqual({ outcomes: ['0 3'], error: undefined })
  })
  test('a full queue is waited for, 100 ms and then twice as long, and is none of the pauses of the item', async () => {
    const full = new MillraceError('queue-full', 'full', { details: { limit: 1 } })
    const starts: number[] = []
    const work = (_: number, { attempt }: { attempt: number }): number => {
      starts.push(performance.now())
      if (attempt <= 2) throw full
      if (attempt === 3) throw new MillraceError('rate-limited', 'later', { details: { retryAfterMs: 1 } })
      return attempt
    }
    expect(await told(batch([0], work, { maxPauses: 1, concurrency: 1 }))).toEqual({ outcomes: ['0 4'], error: undefined })
    const gaps = starts.slice(1).map((at, index) => at - (starts[index] ?? 0))
    expect(gaps[0]).toBeGreaterThanOrEqual(95)
    expect(gaps[1]).toBeGreaterThanOrEqual(195)
    const none = batch([0], () => Promise.reject(full), { maxPauses: 0 })
    expect(await told(none)).toEqual({ outcomes: ['0 full'], error: undefined })
  })
})

describe('a full queue', () => {
  const full = new MillraceError('queue-full', 'full', { details: { limit: 1 } })

  test('holds back its own item only', async () => {
    let ran = 0
    const outcomes = batch(
      Array.from({ length: 100 }, (_, at) => at),
      async (item, { signal }) => {
        if (item === 3) throw full
        ran++
        await sleep(1, undefined, { signal })
      },
      { concurrency: 2, maxPauses: 1, itemTimeoutMs: 2000 }
    )
    for (let taken = 0; taken < 99; taken++) await outcomes.next()
    expect(ran).toBe(99)
    expect(outcomes.progress).toMatchObject({ fulfilled: 99, running: 1, pausedMs: 0 })
    await outcomes.return()
  })
  test('that empties and fills again costs little time, and every item gets through', async () => {
    let places = 6
    const outcomes = batch(
      Array.from({ length: 500 }, (_, at) => at),
      async (item) => {
        if (places === 0) throw full
        places--
        await sleep(2)
        places++
        return item
      },
      { concurrency: 100 }
    )
    const begun = performance.now()
    const { error, outcomes: lines } = await told(outcomes)
    expect([error, new Set(lines.map((line) => line.split(' ')[1])).size]).toEqual([undefined, 500])
    expect(performance.now() - begun).toBeLessThan(3000)
  })
  test('that stays so rejects the item after 60 s, which its time limit does not shorten', async () => {
    vi.useFakeTimers()
    try {
      let attempts = 0
      const outcomes = batch([0], () => (attempts++, Promise.reject(full)), { itemTimeoutMs: 500 })
      const next = outcomes.next()
      let settled = false
      void next.then(() => (settled = true))
      await vi.advanceTimersByTimeAsync(59_000)
      expect(settled).toBe(false)
      await vi.advanceTimersByTimeAsync(1500)
      expect(await next).toEqual({ done: false, value: { index: 0, status: 'rejected', reason: full } })
      expect(attempts).toBeLessThan(30)
      expect(outcomes.progress.retried).toBe(attempts - 1)
      await outcomes.return()
    } finally {
      vi.useRealTimers()
    }
  })
  test('ends with the batch, whoever ends that', async () => {
    const controller = new AbortController()
    setTimeout(() => controller.abort(new Error('stop')), 50)
    const aborted = batch([0], () => Promise.reject(full), { signal: controller.signal })
    expect(await told(aborted)).toEqual({ outcomes: ['0 stop'], error: 'stop' })
  })
})

test.each([undefined, () => 1])('an item that aborts the batch in its own pull, behind a pause, is yielded', async (length) => {
  const controller = new AbortController()
  let attempts = 0
  let pulls = 0
  function* input(): Generator<number, undefined> {
    for (;;) {
      if (pulls++ === 1) controller.abort(new Error('stop'))
      yield pulls
    }
  }
  const work = async (item: number): Promise<number> => {
    if (attempts++ === 0) throw new MillraceError('rate-limited', 'later', { details: { retryAfterMs: 20 } })
    return item
  }
  const options = { concurrency: 1, signal: controller.signal, lookahead: 1, length } as const
  const { outcomes, error } = await told(batch(input(), work, options))
  expect([outcomes.length, error]).toEqual([pulls, 'stop'])
})

test('wrong arguments are told with what they are', () => {
  const wrong: [() => unknown, string][] = [
    [() => batch(Promise.resolve([]) as never, () => 1), 'not a Promise: await it first'],
    [() => batch({} as never, () => 1), 'not an object'],
    [() => batch([], () => 1, { concurrency: '20' as never }), 'not the string "20"'],
    [() => batch([], () => 1, { itemTimeoutMs: '20' as never }), 'not the string "20"'],
    [() => batch([], () => 1, { journal: 'x.journal' as never }), 'journal must come from await openJournal(path)'],
    [() => batch([], () => 1, { journal: Promise.resolve() as never }), 'it is a Promise'],
    [() => batch([], () => 1, { pause: 5 as never }), 'pause must be a function, not 5'],
    [() => batch([], () => 1, { length: 'x' as never }), 'length must be a function'],
    [() => batch([], () => 1, { onProgress: null as never }), 'onProgress must be a function, not null']
  ]
  for (const [start, text] of wrong) expect(start).toThrow(text)
  expect(() => batch([], () => 1, { concurrency: Number.MAX_SAFE_INTEGER })).not.toThrow()
})
