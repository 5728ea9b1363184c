import { setTimeout as delay, setImmediate as tick } from 'node:timers/promises'
import { isMillraceError } from '@millrace/core'
import { afterEach, describe, expect, it } from 'vitest'
import { type GuardedStore, guardStore } from '../src/store.ts'
import { missingRedis, redisRig, until } from './redis-rig.ts'
import { redisStates, setScene } from './redis-states.ts'

const skip = await missingRedis()
const rig = redisRig()
afterEach(() => rig.close())

const timeoutMs = 50
const calls = 200

/** `calls` lookups in a row, each with a write behind it, as misses make them: what they take, and what they find. */
async function traffic(guard: GuardedStore): Promise<{ takes: number[]; found: Set<string | undefined> }> {
  const takes: number[] = []
  const found = new Set<string | undefined>()
  for (let call = 0; call < calls; call++) {
    const at = performance.now()
    found.add(await guard.read('there'))
    guard.write(`new ${call}`, 'text', 60_000)
    if (call % 2 === 1) await guard.put(`word ${call}`, 'text', 60_000)
    takes.push(performance.now() - at)
    await tick()
  }
  return { takes, found }
}

describe.skipIf(skip)('a guarded store over a Redis', () => {
  for (const state of redisStates) {
    it(`${state.name} costs five calls at most one deadline each, and the others nothing`, { timeout: 30_000 }, async () => {
      const unhandled = rig.unhandled()
      const scene = await setScene(rig)
      await scene.admin.set('there', 'value')
      let end: (() => unknown) | undefined
      if (state.fromStart) end = await state.begin(scene)
      const redis = scene.open(state)
      const errors: unknown[] = []
      const guard = guardStore(redis, { timeoutMs, onError: (error) => errors.push(error) })
      if (!state.fromStart) {
        await until(() => redis.ready)
        // So that nothing is compiled in the calls that are timed.
        for (let warm = 0; warm < 50; warm++) await guard.read('there')
        expect(await guard.put('warm', 'x')).toBe(true)
        end = await state.begin(scene)
      }

      const bareAt = performance.now()
      await delay(timeoutMs)
      const bareMs = performance.now() - bareAt
      const { takes, found } = await traffic(guard)

      const reaches = state.reads === 'value' || state.writes === 'taken'
      const slow = takes.filter((ms) => ms > timeoutMs / 2)
      const timeouts = errors.filter((error) => isMillraceError(error, 'timeout'))
      expect(Math.max(...takes)).toBeLessThan(2 * bareMs + 150) // a lookup and a write that is waited for
      // Calls that Redis answers take what this machine gives them; the others are over at once.
      const answers = state.writes !== 'lost'
      if (!answers) expect(slow.length).toBeLessThanOrEqual(5)
      if (state.atOnce) expect(timeouts.length).toBeLessThanOrEqual(2) // a busy machine may hold up one or two
      expect(takes.toSorted((a, b) => a - b)[calls * 0.9]).toBeLessThan(answers ? bareMs : 1)
      // One that a busy machine held up is not found, and is among the timeouts.
      const isHeldUp = (value: unknown): boolean => value === undefined && timeouts.length > 0
      if (state.reads === 'value') expect([...found].filter((value) => !isHeldUp(value))).toEqual(['value'])
      if (state.reads === 'nothing') expect(found.has('value')).toBe(false)
      if (state.reads !== 'some') expect(guard.available).toBe(reaches)

      // What happened can be seen.
      if (state.writes === 'lost') expect(guard.skipped).toBeGreaterThan(calls / 2)
      expect(guard.writesRefused > 0).toBe(state.writes === 'refused')
      expect(guard.errors).toBe(errors.length)
      if (state.writes !== 'taken') expect(guard.errors).toBeGreaterThan(0)

      await end?.()
      const backAt = performance.now()
      await until(async () => (await guard.put('back', 'x')) && (await guard.read('back')) === 'x')
      expect(performance.now() - backAt).toBeLessThan(2000 + (bareMs - timeoutMs) * 10)
      await guard.drain()
      expect(unhandled).toEqual([])
      expect(JSON.stringify(errors)).not.toContain('canary')
    })
  }
})
