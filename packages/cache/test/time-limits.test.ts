import { setTimeout as delay, setImmediate as tick } from 'node:timers/promises'
import { MessageChannel } from 'node:worker_threads'
import { probeLeaks } from '@millrace/testkit'
import { describe, expect, it } from 'vitest'
import { createTimeLimits, late } from '../src/time-limits.ts'
import { until } from './redis-rig.ts'

const never = (): Promise<never> => new Promise(() => {})
const outcome = (work: Promise<unknown>): Promise<unknown> => work.catch((error: unknown) => error)

/** Keeps the event loop from turning. */
function block(ms: number): void {
  const end = performance.now() + ms
  while (performance.now() < end);
}

describe('time limits', () => {
  it('settle as the work does', async () => {
    const { within } = createTimeLimits(1000)
    const error = new Error('no')
    expect(await within(Promise.resolve(1))).toBe(1)
    expect(await outcome(within(Promise.reject(error)))).toBe(error)
  })

  it('end each wait after its own time, in the order they began', async () => {
    const { within } = createTimeLimits(60)
    const ends: [number, number][] = []
    const waits: Promise<unknown>[] = []
    for (let index = 0; index < 5; index++) {
      const at = performance.now()
      waits.push(outcome(within(never())).then((error) => void (error === late && ends.push([index, performance.now() - at]))))
      await delay(15)
    }
    const quick = within(delay(5, 'quick'))
    expect(await quick).toBe('quick')
    await Promise.all(waits)
    expect(ends.map(([index]) => index)).toEqual([0, 1, 2, 3, 4])
    expect(Math.min(...ends.map(([, ms]) => ms))).toBeGreaterThanOrEqual(60)
    expect(Math.max(...ends.map(([, ms]) => ms))).toBeLessThan(60 + 100)
  })

  it('end a wait that begins while an older timer is still armed, in its own time', async () => {
    const { within } = createTimeLimits(60)
    await within(Promise.resolve())
    await delay(40)
    const at = performance.now()
    expect(await outcome(within(never()))).toBe(late)
    expect(performance.now() - at).toBeGreaterThanOrEqual(60)
  })

  it('let an answer win that came while the event loop was blocked', async () => {
    const { within } = createTimeLimits(20)
    const { port1, port2 } = new MessageChannel()
    const answer = within(
      new Promise((resolve) => {
        port1.on('message', () => setImmediate(resolve, 'there'))
      })
    )
    await tick()
    port2.postMessage('')
    block(50)
    expect(await answer).toBe('there')
    port1.close()
  })

  it('go on after a block: who is still waiting is late a little later', async () => {
    const { within } = createTimeLimits(20)
    const at = performance.now()
    const wait = outcome(within(never()))
    block(60)
    const blockedMs = performance.now() - at
    expect(await wait).toBe(late)
    expect(performance.now() - at).toBeLessThan(blockedMs + 100)
    expect(await outcome(within(never()))).toBe(late)
  })

  it('keep the process alive while somebody waits, and no longer', async () => {
    const leaks = probeLeaks()
    const { within } = createTimeLimits(60_000)
    const { promise, resolve } = Promise.withResolvers<void>()
    const wait = within(promise)
    const timers = (): number => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length
    expect(timers()).toBeGreaterThan(0)
    resolve()
    await wait
    await leaks.check()
    const again = within(delay(30))
    expect(timers()).toBeGreaterThan(0)
    await again
    await leaks.check()
  })

  it('keep nothing of waits that are over', async () => {
    const { within } = createTimeLimits(10_000)
    let gone = 0
    const registry = new FinalizationRegistry(() => gone++)
    const held = within(never())
    for (let index = 0; index < 1000; index++) {
      const value = { index }
      registry.register(value, undefined)
      await within(Promise.resolve(value))
    }
    await until(async () => {
      globalThis.gc?.()
      await delay(5)
      return gone > 950
    })
    void held
  })
})
