import { setTimeout as delay } from 'node:timers/promises'
import { probeLeaks } from '@millrace/testkit'
import { describe, expect, it } from 'vitest'
import { type Breaker, createBreaker } from '../src/store-breaker.ts'
import { until } from './redis-rig.ts'

function scripted(): { breaker: Breaker; probes: number[]; back: () => void } {
  let there = false
  const probes: number[] = []
  const breaker = createBreaker(async () => {
    probes.push(performance.now())
    if (there) breaker.succeeded()
    else breaker.failed()
  })
  return {
    breaker,
    probes,
    back: () => {
      there = true
    }
  }
}

describe('a breaker', () => {
  it('opens after three failures in a row, and a success in between starts the count anew', () => {
    const { breaker } = scripted()
    breaker.failed()
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    breaker.failed()
    expect(breaker.open).toBe(false)
    breaker.failed()
    expect(breaker.open).toBe(true)
    breaker.stop()
  })

  it('asks in the background, less and less often, and closes with the first answer', async () => {
    const { breaker, probes, back } = scripted()
    const at = performance.now()
    for (let failure = 0; failure < 10; failure++) breaker.failed()
    expect(probes).toEqual([])
    await until(() => probes.length === 3)
    const rests = probes.map((time, index) => time - (probes[index - 1] ?? at))
    for (const [index, rest] of [100, 200, 400].entries()) expect(rests[index]).toBeGreaterThanOrEqual(rest - 2)
    back()
    await until(() => !breaker.open)
    expect(probes.length).toBe(4)
    await delay(500)
    expect(probes.length).toBe(4)
    for (let failure = 0; failure < 3; failure++) breaker.failed()
    await until(() => !breaker.open, 1000)
  })

  it('asks no more once it is stopped, and never keeps the process alive', async () => {
    const leaks = probeLeaks()
    const { breaker, probes } = scripted()
    for (let failure = 0; failure < 3; failure++) breaker.failed()
    await leaks.check()
    breaker.stop()
    const asked = probes.length
    for (let failure = 0; failure < 3; failure++) breaker.failed()
    await delay(500)
    expect(probes.length).toBe(asked)
    expect(breaker.open).toBe(true)
  })
})
