import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { createClock } from '../src/clock.ts'

describe('the clock of lookups', () => {
  it('is the platform’s for reads that come one by one', async () => {
    const now = createClock()
    for (let round = 0; round < 5; round++) {
      const before = performance.now()
      const read = now()
      expect(read).toBeGreaterThanOrEqual(before)
      expect(read).toBeLessThanOrEqual(performance.now())
      await delay(3)
    }
  })

  it('reads once for a burst, and anew after it', async () => {
    const now = createClock()
    const reads = new Set<number>()
    for (let n = 0; n < 100_000; n++) reads.add(now())
    expect(reads.size).toBeLessThan(1000)
    const last = Math.max(...reads)
    await delay(20)
    const after = now()
    expect(after).toBeGreaterThanOrEqual(last + 15)
    expect(after).toBeLessThanOrEqual(performance.now())
  })

  it('never goes back, and is behind by no more than the burst lasted', async () => {
    const now = createClock()
    let last = 0
    let wrong = 0
    for (let round = 0; round < 20; round++) {
      const startedAt = performance.now()
      for (let n = 0; n < 5000; n++) {
        const read = now()
        if (read < last || read > performance.now()) wrong++
        last = read
      }
      await delay(2)
      expect(now()).toBeGreaterThanOrEqual(startedAt)
    }
    expect(wrong).toBe(0)
  })
})
