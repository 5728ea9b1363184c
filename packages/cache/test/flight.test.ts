import { getEventListeners } from 'node:events'
import { setImmediate as tick } from 'node:timers/promises'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { createFlight, type Flight, type FlightOptions, type Run, type Source } from '../src/flight.ts'

afterEach(() => vi.useRealTimers())

/** A flight over words that the test hands in: a dot is the last one, and `null` is no item. */
interface Rig {
  readonly flight: Flight<string>
  /** Gives the upstream's next batch. */
  give(...words: (string | null)[]): Promise<void>
  /** The upstream ends by itself, or with an error. */
  end(error?: unknown): Promise<void>
  readonly starts: () => number
  readonly signal: () => AbortSignal | undefined
  readonly returns: () => number
  readonly ends: { run: Run<string> | undefined; error: unknown }[]
}

function rig(options: Partial<FlightOptions<string>> = {}): Rig {
  let pending = Promise.withResolvers<readonly string[] | undefined>()
  let starts = 0
  let returns = 0
  let signal: AbortSignal | undefined
  const ends: Rig['ends'] = []
  const source: Source<string> = {
    nextBatch: () => pending.promise,
    async return() {
      returns++
    }
  }
  async function settle(how: (asked: typeof pending) => void): Promise<void> {
    const asked = pending
    pending = Promise.withResolvers()
    how(asked)
    for (let turn = 0; turn < 3; turn++) await tick()
  }
  const flight = createFlight<string>({
    start(upstream) {
      starts++
      signal = upstream
      return source
    },
    door: { weigh: (word) => word.length, freeze() {}, isLast: (word) => word === '.' },
    maxBytes: 1000,
    now: () => 0,
    onFinish() {},
    onEnd: (run, error) => ends.push({ run, error }),
    ...options
  })
  return {
    flight,
    give: (...words) => settle(({ resolve }) => resolve(words as string[])),
    end: (error) => settle(({ resolve, reject }) => (error === undefined ? resolve(undefined) : reject(error))),
    starts: () => starts,
    signal: () => signal,
    returns: () => returns,
    ends
  }
}

async function read({ flight }: Rig, signal?: AbortSignal): Promise<string> {
  let text = ''
  for await (const word of flight.join({ signal }).items) text += word
  return text
}

describe('createFlight', () => {
  it('starts one upstream call at the first read, gives a late asker the beginning, and tells the end before they hear it', async () => {
    const flown = rig()
    const order: string[] = []
    const early = read(flown).then((text) => order.push(`early ${text} ${flown.ends.length}`))
    await flown.give('a', 'b')
    const late = read(flown).then((text) => order.push(`late ${text} ${flown.ends.length}`))
    await flown.give('c', '.')
    expect(flown.flight.joinable).toBe(true)
    await flown.end()
    await Promise.all([early, late])
    expect(order).toEqual(['early abc. 1', 'late abc. 1'])
    expect(flown.starts()).toBe(1)
    expect(flown.ends).toEqual([{ run: { items: ['a', 'b', 'c', '.'], atMs: [0, 0, 0, 0] }, error: undefined }])
    expect(flown.flight.joinable).toBe(false)
    expect(flown.signal()?.aborted).toBe(false)
  })

  it('takes nobody on board whose limit it refuses, so that the last of the others ends it', async () => {
    const flown = rig()
    for (const totalMs of [-1, Number.NaN]) {
      const refused = new AbortController()
      expect(() => flown.flight.join({ signal: refused.signal, timeouts: { totalMs } })).toThrow(TypeError)
    }
    const controller = new AbortController()
    const { items, pays } = flown.flight.join({ signal: controller.signal })
    const reading = items.next()
    await tick()
    expect(pays()).toBe(true)
    controller.abort('enough')
    await expect(reading).rejects.toBe('enough')
    expect(flown.signal()?.aborted).toBe(true)
    expect(flown.returns()).toBe(1)
    expect(flown.ends).toMatchObject([{ run: undefined }])
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
  })

  it('aborts and returns an upstream that gives what is no item, and fails whoever reads', async () => {
    const flown = rig()
    const readers = [read(flown), read(flown)].map((reader) => reader.catch((error: unknown) => error))
    await flown.give('a')
    await flown.give(null)
    for (const reader of readers) expect(await reader).toBeInstanceOf(TypeError)
    expect(flown.ends).toMatchObject([{ run: undefined, error: expect.any(TypeError) }])
    expect(flown.signal()?.aborted).toBe(true)
    expect(flown.returns()).toBe(1)
  })

  it('waits a second for the end of an upstream that has said its last word, then keeps what came, and aborts it unless somebody reads on', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const stayed = rig()
    const whole = read(stayed)
    const left = rig()
    const { items } = left.flight.join({})
    void items.next()
    await Promise.all([stayed.give('a', '.'), left.give('a', '.')])
    await items.return?.() // as most readers do behind the last word
    vi.advanceTimersByTime(999)
    for (const { ends, signal } of [stayed, left]) {
      expect(ends).toEqual([])
      expect(signal()?.aborted).toBe(false)
    }
    vi.advanceTimersByTime(1)
    for (const { ends, flight } of [stayed, left]) {
      expect(ends).toMatchObject([{ run: { items: ['a', '.'] }, error: undefined }])
      expect(flight.joinable).toBe(false)
    }
    expect([left.signal()?.aborted, left.returns()]).toEqual([true, 1])
    // Who still reads gets what still comes, to the true end.
    expect(stayed.signal()?.aborted).toBe(false)
    await stayed.give('!')
    await stayed.end()
    expect(await whole).toBe('a.!')
    expect(stayed.ends).toHaveLength(1)
    expect(vi.getTimerCount()).toBe(0)
  })

  it('leaves an upstream alone that ends within the second', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const flown = rig()
    const whole = read(flown)
    await flown.give('a', '.')
    vi.advanceTimersByTime(900)
    await flown.give('usage')
    await flown.end()
    vi.advanceTimersByTime(5000)
    expect(await whole).toBe('a.usage')
    expect(flown.signal()?.aborted).toBe(false)
    expect(flown.ends).toMatchObject([{ run: { items: ['a', '.', 'usage'] } }])
    expect(vi.getTimerCount()).toBe(0)
  })

  it('goes on for heirs elsewhere when its last asker leaves, as long as there are any', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    let wanted = true
    const flown = rig({ hasHeirs: async () => wanted })
    const { items } = flown.flight.join({})
    void items.next()
    await flown.give('a')
    await items.return?.()
    await flown.give('b')
    expect(flown.signal()?.aborted).toBe(false)
    wanted = false
    vi.advanceTimersByTime(1000)
    await tick()
    expect(flown.signal()?.aborted).toBe(true)
    expect(flown.ends).toMatchObject([{ run: undefined, error: { name: 'AbortError' } }])
    expect(vi.getTimerCount()).toBe(0)
  })

  it('hands over a batch that is larger than what it holds, in order and whole, and keeps nothing of it', async () => {
    const flown = rig()
    const text = read(flown)
    const words = ['start', 'x'.repeat(2500), 'y', 'z'.repeat(600), '.']
    await flown.give(...words)
    await flown.end()
    expect(await text).toBe(words.join(''))
    expect(flown.ends).toEqual([{ run: undefined, error: undefined }])
  })
})
