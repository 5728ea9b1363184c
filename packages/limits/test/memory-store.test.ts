import { heapAfterGc } from '@millrace/testkit'
import { describe, expect, it, vi } from 'vitest'
import { createMemoryStore } from '../src/memory-store.ts'
import { budgetAsk, budgetEnd, dayMs, grantedAt, rateAsk, rateEnd } from './asks.ts'
import { storeBehaviour } from './store-behaviour.ts'

function rig() {
  let time = 20_000 * dayMs
  return { store: createMemoryStore({ now: () => time }), pass: (ms: number) => void (time += ms) }
}

describe('createMemoryStore', () => {
  storeBehaviour(rig)

  it('refuses options it does not know', () => {
    expect(() => createMemoryStore({ clock: 1 } as never)).toThrow(/no option "clock"/)
  })

  it('goes by clocks of its own that a change of the date does not bend', () => {
    const real = Date.now
    const store = createMemoryStore()
    try {
      const budget = budgetAsk(1, 1, { windowMs: 3_600_000 })
      const ask = rateAsk({ requests: 1 })
      const at = grantedAt(store.take([budget, ask]))
      store.end([budgetEnd(budget, at, 1)])
      Date.now = () => real() - 2 * dayMs
      expect(store.take([budget])).toMatchObject({ granted: false })
      Date.now = () => real() + 2 * dayMs
      grantedAt(store.take([budget]))
      expect(store.take([ask])).toMatchObject({ granted: false })
    } finally {
      Date.now = real
    }
  })

  it('spends no budget twice when the date is set back a little at the edge of its window', () => {
    const real = Date.now
    let wall = 20_000 * dayMs + 1000
    Date.now = () => wall
    const mono = vi.spyOn(performance, 'now').mockImplementation(() => 0)
    try {
      const store = createMemoryStore()
      const budget = budgetAsk(10, 9)
      store.end([budgetEnd(budget, grantedAt(store.take([budget])), 9)])
      wall -= 2000
      expect(store.take([budget])).toMatchObject({ granted: false, waitMs: dayMs - 1000 })
      wall += 2000
      expect(store.take([budget])).toMatchObject({ granted: false, waitMs: dayMs - 1000 })
      wall += dayMs
      grantedAt(store.take([budget]))
    } finally {
      Date.now = real
      mono.mockRestore()
    }
  })

  it('forgets the limits unused for longest beyond 10,000, but none with calls or a pause', async () => {
    const { store, pass } = rig()
    const busy = rateAsk({ requests: 1 }, { key: 'busy' })
    const paused = rateAsk({ requests: 1 }, { key: 'paused' })
    const old = rateAsk({ requests: 1 }, { key: 'old' })
    const at = grantedAt(store.take([busy]))
    store.learn('paused', paused.terms, { even: true, pauseMs: dayMs })
    store.end([rateEnd(old, grantedAt(store.take([old])))])
    const before = await heapAfterGc()
    for (let count = 0; count < 200_000; count++) {
      const ask = rateAsk({ requests: 1, windowMs: dayMs }, { key: `tenant ${count}` })
      store.end([rateEnd(ask, grantedAt(store.take([ask])))])
      if (count % 100 === 0) pass(1)
    }
    expect((await heapAfterGc()) - before).toBeLessThan(12_000_000)
    expect(store.state('busy', busy.terms).running).toBe(1)
    expect(store.state('paused', paused.terms).pausedMs).toBeGreaterThan(0)
    expect(store.state('old', old.terms).requestsLeft).toBe(1)
    expect(store.state('tenant 199999', old.terms).requestsLeft).toBeLessThan(1)
    store.end([rateEnd(busy, at)])
  })

  it('holds as many limits as there are calls running', () => {
    const { store } = rig()
    const asks = Array.from({ length: 15_000 }, (_, count) => rateAsk({ concurrency: 1 }, { key: `tenant ${count}` }))
    for (const ask of asks) grantedAt(store.take([ask]))
    for (const ask of asks) expect(store.take([ask]).granted).toBe(false)
  })

  it('is not held by a date that was ahead for a moment', () => {
    const real = Date.now
    let [ahead, time] = [0, 0]
    const start = real()
    Date.now = () => start + time + ahead
    const mono = vi.spyOn(performance, 'now').mockImplementation(() => time)
    try {
      const store = createMemoryStore()
      const [short, long] = [budgetAsk(1, 1, { windowMs: 1000 }), budgetAsk(1, 1, { key: 'long' })]
      ahead = 365 * dayMs
      for (const ask of [short, long]) store.end([budgetEnd(ask, grantedAt(store.take([ask])), 1)])
      ahead = 0
      expect(store.take([short])).toMatchObject({ granted: false })
      time += 2500
      grantedAt(store.take([short]))
      expect(store.take([long])).toMatchObject({ granted: false })
      time += dayMs
      grantedAt(store.take([long]))
    } finally {
      Date.now = real
      mono.mockRestore()
    }
  })

  it('keeps nothing of a budget that was only asked for, or given back', () => {
    const { store } = rig()
    for (let count = 0; count < 150_000; count++) {
      expect(store.take([budgetAsk(1, 2, { key: `asked ${count}` })])).toMatchObject({ granted: false })
      const ask = budgetAsk(1, 0.7, { key: `given back ${count}` })
      store.end([budgetEnd(ask, grantedAt(store.take([ask])), 0)])
    }
    grantedAt(store.take([budgetAsk(1, 1, { key: 'new' })]))
  })

  it('keeps 100,000 budgets for their window and denies a new one beyond', () => {
    const { store, pass } = rig()
    const ask = (key: string) => budgetAsk(1, 1, { key })
    for (let count = 0; count < 100_000; count++) {
      store.end([budgetEnd(ask(`${count}`), grantedAt(store.take([ask(`${count}`)])), 1)])
    }
    pass(1000)
    expect(store.take([ask('one more')])).toMatchObject({ granted: false, why: 'budget', waitMs: dayMs - 1000 })
    expect(store.take([ask('0')])).toMatchObject({ granted: false, why: 'budget' })
    pass(dayMs)
    grantedAt(store.take([ask('one more')]))
    grantedAt(store.take([ask('0')]))
  })
})
