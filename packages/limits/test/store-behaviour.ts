import { expect, it } from 'vitest'
import type { LimitStore, News } from '../src/store.ts'
import { budgetAsk, budgetEnd, dayMs, grantedAt, rateAsk, rateEnd } from './asks.ts'

/** A store whose time the test tells. */
export interface Rig {
  readonly store: LimitStore
  pass(ms: number): void
}

/** What every store does. Each test has a store of its own, which begins at a multiple of a day. */
export function storeBehaviour(start: () => Rig | Promise<Rig>): void {
  it('grants so many requests at once as the window holds, and refills them evenly', async () => {
    const { store, pass } = await start()
    const ask = rateAsk({ requests: 6, windowMs: 60_000 })
    for (let count = 0; count < 6; count++) grantedAt(await store.take([ask]))
    expect(await store.take([ask])).toEqual({ granted: false, index: 0, why: 'requests', waitMs: 10_000 })
    pass(9_999)
    expect(await store.take([ask])).toMatchObject({ granted: false, waitMs: expect.closeTo(1, 6) })
    pass(1)
    grantedAt(await store.take([ask]))
    expect(await store.take([ask])).toMatchObject({ granted: false })
    pass(3_600_000)
    expect(await store.state('k', ask.terms)).toMatchObject({ requestsLeft: 6 })
  })

  it('takes all of the asks or none, and tells the one with the longest wait', async () => {
    const { store } = await start()
    const [open, places, slow, slower] = [
      rateAsk({ requests: 5 }, { key: 'open' }),
      rateAsk({ concurrency: 1 }, { key: 'places' }),
      rateAsk({ requests: 1, windowMs: 60_000 }, { key: 'slow' }),
      rateAsk({ requests: 1, windowMs: 90_000 }, { key: 'slower' })
    ]
    grantedAt(await store.take([places, slow, slower]))
    expect(await store.take([open, places])).toEqual({ granted: false, index: 1, why: 'concurrency', waitMs: undefined })
    expect(await store.take([open, slow, slower, places])).toEqual({ granted: false, index: 2, why: 'requests', waitMs: 90_000 })
    expect(await store.state('open', open.terms)).toMatchObject({ running: 0, requestsLeft: 5 })
  })

  it('gives back by a release exactly what was taken, of every ask', async () => {
    const { store } = await start()
    const asks = [rateAsk({ concurrency: 3, requests: 10, tokens: 1000 }, { tokens: 300 }), budgetAsk(1, 1)] as const
    const before = await store.state('k', asks[0].terms)
    for (let count = 0; count < 20; count++) {
      const at = grantedAt(await store.take(asks))
      expect(await store.state('k', asks[0].terms)).toMatchObject({ running: 1, requestsLeft: 9, tokensLeft: 700 })
      await store.end([rateEnd(asks[0], at, { usedTokens: 0, usedRequests: 0, outcome: 'none' }), budgetEnd(asks[1], at, 0)])
      expect(await store.state('k', asks[0].terms)).toEqual(before)
    }
  })

  it('settles with less and with more than was taken, down into debt', async () => {
    const { store, pass } = await start()
    const ask = rateAsk({ tokens: 1000, windowMs: 10_000 }, { tokens: 400 })
    await store.end([rateEnd(ask, grantedAt(await store.take([ask])), { usedTokens: 100 })])
    expect(await store.state('k', ask.terms)).toMatchObject({ tokensLeft: 900 })
    await store.end([rateEnd(ask, grantedAt(await store.take([ask])), { usedTokens: 1900 })])
    expect(await store.take([ask])).toMatchObject({ granted: false, why: 'tokens', waitMs: 14_000 })
    expect(await store.take([rateAsk(ask.terms, { place: false })])).toMatchObject({ granted: true })
    pass(14_000)
    grantedAt(await store.take([ask]))
  })

  it('lets a call through that asks for more tokens than a window holds once the window is full, and waits for the debt', async () => {
    const { store } = await start()
    const ask = rateAsk({ tokens: 1000, windowMs: 10_000 }, { tokens: 3000 })
    grantedAt(await store.take([ask]))
    expect(await store.take([ask])).toMatchObject({ granted: false, waitMs: 30_000 })
  })

  it('lowers its ceiling once for the calls of one refusal, and raises it by calls that began after', async () => {
    const { store, pass } = await start()
    const ask = rateAsk({ concurrency: 100 })
    const taken: number[] = []
    for (let count = 0; count < 20; count++) taken.push(grantedAt(await store.take([ask])))
    pass(100)
    for (const at of taken.slice(0, 10)) await store.end([rateEnd(ask, at, { outcome: 'refused' })])
    expect(await store.state('k', ask.terms)).toMatchObject({ ceiling: 18, running: 10 })
    for (const at of taken.slice(10)) await store.end([rateEnd(ask, at)])
    expect(await store.state('k', ask.terms)).toMatchObject({ ceiling: 18, running: 0 })
  })

  it('raises its ceiling by one a call up to nine tenths of the last, and then by one a round', async () => {
    const { store, pass } = await start()
    const ask = rateAsk({ concurrency: 100 })
    async function round(calls: number, refused = 0): Promise<number> {
      const taken: number[] = []
      for (let count = 0; count < calls; count++) taken.push(grantedAt(await store.take([ask])))
      pass(10)
      for (const [index, at] of taken.entries()) {
        await store.end([rateEnd(ask, at, { outcome: index < refused ? 'refused' : 'ok' })])
      }
      pass(10)
      return (await store.state('k', ask.terms)).ceiling
    }
    expect(await round(20, 20)).toBe(18) // was 100
    expect(await round(18)).toBe(25) // by those alone that leave half of it behind
    expect(await round(25)).toBe(34)
    expect(await round(34, 1)).toBeCloseTo(0.9 * 34, 9)
    const raised = await round(30)
    expect(raised).toBeGreaterThan(31)
    expect(raised).toBeLessThan(32)
  })

  it('begins at the limit of its own where a call is refused that was alone', async () => {
    const { store, pass } = await start()
    const ask = rateAsk({ concurrency: 200 })
    await store.end([rateEnd(ask, grantedAt(await store.take([ask])), { outcome: 'refused' })])
    expect((await store.state('k', ask.terms)).ceiling).toBe(180)
    pass(1)
    for (let count = 0; count < 180; count++) grantedAt(await store.take([ask]))
    expect(await store.take([ask])).toMatchObject({ granted: false, why: 'concurrency' })
  })

  it('lifts a ceiling by time that was not refused for a minute', async () => {
    const { store, pass } = await start()
    const ask = rateAsk()
    await store.end([rateEnd(ask, grantedAt(await store.take([ask])), { outcome: 'refused' })])
    expect((await store.state('k', ask.terms)).ceiling).toBe(1)
    pass(60_000)
    expect((await store.state('k', ask.terms)).ceiling).toBe(1)
    pass(60_000)
    expect((await store.state('k', ask.terms)).ceiling).toBe(4)
    for (let count = 0; count < 4; count++) grantedAt(await store.take([ask]))
    expect(await store.take([ask])).toMatchObject({ granted: false, why: 'concurrency' })
    pass(480_000)
    expect((await store.state('k', ask.terms)).ceiling).toBe(100)
  })

  it('keeps its ceiling at one at least, and knows what was asked before the last refusal even there', async () => {
    const { store, pass } = await start()
    const ask = rateAsk()
    const attempt = rateAsk({}, { place: false })
    const at = grantedAt(await store.take([ask]))
    let early = 0
    for (let count = 0; count < 5; count++) {
      early = grantedAt(await store.take([attempt]))
      pass(1)
      await store.end([rateEnd(attempt, grantedAt(await store.take([attempt])), { outcome: 'refused' })])
    }
    expect(await store.take([ask])).toMatchObject({ granted: false, why: 'concurrency' })
    await store.end([rateEnd(ask, at)])
    await store.end([rateEnd(attempt, early, { outcome: 'refused' })])
    await store.end([rateEnd(ask, grantedAt(await store.take([ask])))])
    grantedAt(await store.take([ask]))
    grantedAt(await store.take([ask]))
    expect(await store.take([ask])).toMatchObject({ granted: false, why: 'concurrency' })
  })

  it('does not move with what a provider says where it is not adaptive', async () => {
    const { store } = await start()
    const ask = rateAsk({ requests: 10, concurrency: 10, adaptive: false })
    await store.learn('k', ask.terms, { even: true, requests: { limit: 1, remaining: 0 }, pauseMs: 1000 })
    await store.end([rateEnd(ask, grantedAt(await store.take([ask])), { outcome: 'refused' })])
    expect(await store.state('k', ask.terms)).toMatchObject({ requestsLeft: 9, ceiling: 10, pausedMs: 0 })
  })

  it('learns a limit, what remains of it less what runs here, and how long its window is', async () => {
    const { store, pass } = await start()
    const ask = rateAsk()
    const at = grantedAt(await store.take([ask]))
    grantedAt(await store.take([ask]))
    // OpenAI: 40 of 60 left, full in 20 s: one a second.
    await store.learn('k', ask.terms, { even: true, requests: { limit: 60, remaining: 40, resetMs: 20_000 } })
    expect(await store.state('k', ask.terms)).toMatchObject({ requestsLeft: 40 })
    pass(5000)
    expect(await store.state('k', ask.terms)).toMatchObject({ requestsLeft: expect.closeTo(45, 6) })
    await store.learn('k', ask.terms, { even: true, requests: { remaining: 10 } })
    expect(await store.state('k', ask.terms)).toMatchObject({ requestsLeft: 10 })
    await store.learn('k', ask.terms, { even: true, requests: { remaining: 14 } })
    expect(await store.state('k', ask.terms)).toMatchObject({ requestsLeft: 12 })
    await store.end([rateEnd(ask, at)])
  })

  it('never allows more than its own limit, whatever a provider tells', async () => {
    for (const even of [true, false]) {
      for (const told of [10_000, 61, 60, 59]) {
        const { store, pass } = await start()
        const ask = rateAsk({ requests: 60, tokens: 60_000 }, { tokens: 10 })
        let granted = 0
        for (let time = 0; time < 30_000; time += 10) {
          const verdict = await store.take([ask])
          if (verdict.granted) {
            granted++
            const counter = { limit: told, remaining: told - 1, resetMs: even ? 60_000 / told : 500 }
            await store.learn('k', ask.terms, { even, requests: counter, tokens: { limit: 1e9, remaining: 9e8, resetMs: 6000 } })
            await store.end([rateEnd(ask, verdict.at, { usedTokens: 10 })])
          }
          pass(10)
          if (granted > 95) break
        }
        expect(granted, `told ${told}, even ${even}`).toBeLessThanOrEqual(90)
        expect(granted, `told ${told}, even ${even}`).toBeGreaterThan(80)
      }
    }
  })

  it('holds to what a provider tells where that is less than its own limit', async () => {
    const { store, pass } = await start()
    const ask = rateAsk({ requests: 600 })
    await store.learn('k', ask.terms, { even: true, requests: { limit: 60, remaining: 30, resetMs: 30_000 } })
    expect(await store.state('k', ask.terms)).toMatchObject({ requestsLeft: 30 })
    pass(10_000)
    expect(await store.state('k', ask.terms)).toMatchObject({ requestsLeft: expect.closeTo(40, 6) })
    await store.learn('k', ask.terms, { even: true, requests: { remaining: 55 } })
    expect(await store.state('k', ask.terms)).toMatchObject({ requestsLeft: 55 })
    await store.learn('k', ask.terms, { even: true, requests: { limit: 1000, remaining: 0 } })
    expect(await store.take([ask])).toMatchObject({ granted: false, why: 'requests' })
  })

  it('takes what remains of a limit it was not told for what remains of its own', async () => {
    const { store } = await start()
    const ask = rateAsk({ requests: 600 })
    await store.learn('k', ask.terms, { even: false, requests: { remaining: 0, resetMs: 30_000 } })
    expect(await store.take([ask])).toMatchObject({ granted: false, why: 'requests', waitMs: 30_000 })
  })

  it('forgets what it was told when answers have not said so again for ten minutes', async () => {
    const { store, pass } = await start()
    const ask = rateAsk({ requests: 600 })
    const answer = async (): Promise<void> => store.end([rateEnd(ask, grantedAt(await store.take([ask])))])
    await store.learn('k', ask.terms, { even: true, requests: { limit: 1 } })
    for (let minute = 0; minute < 9; minute++) {
      await answer()
      expect(await store.take([ask])).toMatchObject({ granted: false })
      pass(60_000)
    }
    await store.learn('k', ask.terms, { even: true, requests: { limit: 1, remaining: 1 } })
    for (let minute = 0; minute < 9; minute++) {
      await answer()
      pass(60_000)
    }
    expect(await store.state('k', ask.terms)).toMatchObject({ requestsLeft: 1 })
    pass(3_000_000) // no answers, no doubt
    expect(await store.state('k', ask.terms)).toMatchObject({ requestsLeft: 1 })
    await answer()
    expect((await store.state('k', ask.terms)).requestsLeft).toBeGreaterThan(598)
  })

  it('is not stopped by a told limit that is smaller than one call', async () => {
    const { store, pass } = await start()
    const ask = rateAsk({ requests: 500, tokens: 200_000 }, { tokens: 100_000 })
    await store.learn('k', ask.terms, { even: true, tokens: { limit: 30, remaining: 30 } })
    const at = grantedAt(await store.take([ask]))
    // As much debt as the window holds, and that to be filled.
    expect(await store.take([ask])).toMatchObject({ granted: false, why: 'tokens', waitMs: expect.closeTo(120_000, 6) })
    await store.end([rateEnd(ask, at, { outcome: 'none' })])
    pass(120_000)
    grantedAt(await store.take([ask]))
  })

  it('lets one call at a time find out whether a provider still holds to what it told, once that is old', async () => {
    const { store, pass } = await start()
    const ask = rateAsk({ requests: 500 })
    // One a day, and believed for two.
    await store.learn('k', ask.terms, { even: true, requests: { limit: 1, remaining: 0, resetMs: dayMs } })
    pass(2 * dayMs - 1000)
    const at = grantedAt(await store.take([ask]))
    expect(await store.take([ask])).toMatchObject({ granted: false, why: 'requests', waitMs: 1000 })
    await store.end([rateEnd(ask, at, { outcome: 'none' })])
    pass(1000)
    const probe = grantedAt(await store.take([ask]))
    expect(await store.take([ask])).toMatchObject({ granted: false, why: 'requests' })
    grantedAt(await store.take([rateAsk(ask.terms, { place: false })]))
    await store.end([rateEnd(ask, probe)])
    for (let count = 0; count < 2; count++) grantedAt(await store.take([ask]))
  })

  it('goes by a window that little use tells only when it is told twice', async () => {
    const { store, pass } = await start()
    const ask = rateAsk({ requests: 600 })
    const odd: News = { even: true, requests: { limit: 500, remaining: 499, resetMs: 170_000 } }
    await store.learn('k', ask.terms, odd)
    await store.learn('k', ask.terms, { even: true, requests: { limit: 500, remaining: 0 } })
    pass(60_000)
    expect(await store.state('k', ask.terms)).toMatchObject({ requestsLeft: expect.closeTo(500, 6) })
    await store.learn('k', ask.terms, odd)
    await store.learn('k', ask.terms, odd)
    await store.learn('k', ask.terms, { even: true, requests: { limit: 500, remaining: 0 } })
    pass(60_000)
    expect((await store.state('k', ask.terms)).requestsLeft).toBeLessThan(1)
  })

  it('goes into debt by no more than a window, however much is said to be used', async () => {
    const { store } = await start()
    const ask = rateAsk({ tokens: 1000, windowMs: 10_000 }, { tokens: 400 })
    await store.end([rateEnd(ask, grantedAt(await store.take([ask])), { usedTokens: 1e15 })])
    expect(await store.take([ask])).toMatchObject({ granted: false, why: 'tokens', waitMs: 14_000 })
  })

  it('fills a counter that is not even at once when its window ends, and not before', async () => {
    const { store, pass } = await start()
    const ask = rateAsk({ tokens: 500 }, { tokens: 100 })
    await store.learn('k', ask.terms, { even: false, tokens: { limit: 200, remaining: 0, resetMs: 30_000 } })
    expect(await store.take([ask])).toMatchObject({ granted: false, why: 'tokens', waitMs: 30_000 })
    pass(29_000)
    expect(await store.take([ask])).toMatchObject({ granted: false, waitMs: 1000 })
    pass(1000)
    expect(await store.state('k', ask.terms)).toMatchObject({ tokensLeft: 200 })
  })

  it('pauses for so long as it is told and begins from nothing', async () => {
    const { store, pass } = await start()
    const ask = rateAsk({ requests: 60, windowMs: 60_000 })
    await store.learn('k', ask.terms, { even: true, pauseMs: 5000 })
    expect(await store.take([ask])).toMatchObject({ granted: false, waitMs: 6000 })
    expect(await store.state('k', ask.terms)).toMatchObject({ pausedMs: 5000, requestsLeft: 0 })
    pass(6000)
    grantedAt(await store.take([ask]))
    expect(await store.take([ask])).toMatchObject({ granted: false, why: 'requests', waitMs: 1000 })
  })

  it('is not moved by garbage that a provider tells', async () => {
    const { store } = await start()
    const ask = rateAsk({ requests: 10, tokens: 100 }, { tokens: 1 })
    const before = await store.state('k', ask.terms)
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -5, undefined]) {
      const counter = { limit: value, remaining: value, resetMs: value }
      const news: News = { even: true, requests: counter, tokens: counter, pauseMs: value }
      await store.learn('k', ask.terms, news)
      await store.learn('k', ask.terms, { ...news, even: false })
      expect(await store.state('k', ask.terms)).toEqual(before)
    }
    await store.learn('k', ask.terms, { even: false, requests: { limit: 0, resetMs: 1e15 } })
    expect(await store.state('k', ask.terms)).toEqual(before)
  })

  it('holds a budget with 100 takes at once, and knows what is spent from what is reserved', async () => {
    const { store } = await start()
    const ask = budgetAsk(1, 0.1)
    const verdicts = await Promise.all(Array.from({ length: 100 }, async () => store.take([ask])))
    const granted = verdicts.filter((verdict) => verdict.granted)
    expect(granted.length).toBe(10)
    const denied = { granted: false, index: 0, why: 'budget', waitMs: undefined, left: expect.closeTo(0, 9) }
    expect(verdicts.find((verdict) => !verdict.granted)).toEqual(denied)
    for (const { at } of granted) await store.end([budgetEnd(ask, at, 0.09)])
    const last = grantedAt(await store.take([ask]))
    expect(await store.take([ask])).toMatchObject({ granted: false, why: 'budget', waitMs: undefined })
    await store.end([budgetEnd(ask, last, 0.1)])
    expect(await store.take([ask])).toMatchObject({ granted: false, why: 'budget', waitMs: dayMs, left: expect.closeTo(0, 9) })
  })

  it('begins a budget anew with its window, and leaves the calls of the old one to the old one', async () => {
    const { store, pass } = await start()
    const ask = budgetAsk(100, 60, { windowMs: 3_600_000 })
    pass(3_599_000)
    const at = grantedAt(await store.take([ask]))
    expect(await store.take([ask])).toMatchObject({ granted: false, waitMs: undefined })
    pass(1000)
    const next = grantedAt(await store.take([ask]))
    await store.end([budgetEnd(ask, at, 100)])
    expect(await store.take([budgetAsk(100, 40, { windowMs: 3_600_000 })])).toMatchObject({ granted: true })
    await store.end([budgetEnd(ask, next, 80)])
    expect(await store.take([budgetAsk(100, 21, { windowMs: 3_600_000 })])).toMatchObject({ granted: false, waitMs: 3_600_000 })
  })

  it('keeps keys apart whatever is in them', async () => {
    const { store } = await start()
    const keys = [
      '',
      '|',
      '0|',
      'a|b',
      'a',
      '{x}',
      '}{',
      '\0',
      '\n',
      ' r 1',
      '%s',
      '\ud800',
      '\ud801',
      '\ufffd',
      '__proto__',
      'é',
      'e\u0301'
    ]
    keys.push('x'.repeat(100_000), `${'x'.repeat(99_999)}y`)
    for (const key of keys) {
      const ask = rateAsk({ concurrency: 1 }, { key })
      const budget = budgetAsk(1, 1, { key })
      const at = grantedAt(await store.take([ask, budget]))
      expect(await store.take([ask])).toMatchObject({ granted: false })
      await store.end([rateEnd(ask, at), budgetEnd(budget, at, 0)])
      grantedAt(await store.take([ask, budget]))
    }
  })

  it('never has fewer than no places, whatever is ended twice', async () => {
    const { store } = await start()
    const ask = rateAsk({ concurrency: 2 })
    const at = grantedAt(await store.take([ask]))
    for (let count = 0; count < 3; count++) await store.end([rateEnd(ask, at)])
    expect(await store.state('k', ask.terms)).toMatchObject({ running: 0 })
    grantedAt(await store.take([ask]))
    grantedAt(await store.take([ask]))
    expect(await store.take([ask])).toMatchObject({ granted: false })
  })
}
