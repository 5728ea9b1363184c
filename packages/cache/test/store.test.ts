import { setTimeout as delay, setImmediate as tick } from 'node:timers/promises'
import { isMillraceError, MillraceError } from '@millrace/core'
import { probeLeaks } from '@millrace/testkit'
import { Keyv } from 'keyv'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { type GuardedStore, type GuardOptions, guardStore, type Store } from '../src/store.ts'
import { until } from './redis-rig.ts'

const guards: GuardedStore[] = []
afterEach(async () => {
  for (const guard of guards.splice(0)) await guard.drain()
})

function guarded(store: Store, options: Partial<GuardOptions> = {}): GuardedStore {
  const guard = guardStore(store, { timeoutMs: 40, ...options })
  guards.push(guard)
  return guard
}

const never = (): Promise<never> => new Promise(() => {})
const rejects = (): Promise<never> => Promise.reject(new Error('down'))
const throws = (): never => {
  throw new Error('down')
}
const refuses = (word: string) => (): Promise<never> =>
  Promise.reject(new MillraceError('unavailable', 'refused', { details: { providerCode: word } }))

describe.each([
  ['a Map', () => new Map<string, string>()],
  ['a Keyv', () => new Keyv()],
  ['a Keyv over a Map, without prefix', () => new Keyv({ store: new Map(), useKeyPrefix: false })]
] as [string, () => Store][])('a guard around %s', (_, make) => {
  it('reads what was written, one or many, and what was removed is gone', async () => {
    const guard = guarded(make())
    expect(await guard.read('a')).toBeUndefined()
    guard.write('a', 'text', 60_000)
    await guard.drain()
    expect(await guard.put('b', 'other')).toBe(true)
    expect(await guard.read('a')).toBe('text')
    expect(await guard.readMany(['a', 'none', 'b'])).toEqual(['text', undefined, 'other'])
    expect(await guard.readMany([])).toEqual([])
    expect(await guard.remove('a')).toBe(true)
    expect(await guard.remove('a')).toBe(true)
    expect(await guard.read('a')).toBeUndefined()
    expect(guard).toMatchObject({ errors: 0, skipped: 0, writesRefused: 0, available: true })
    expect(guard.command).toBeUndefined()
    guard.distrust()
  })

  it('gives the empty text for what nobody of us wrote', async () => {
    const store = make()
    for (const [key, value] of Object.entries({ n: 1, o: {}, l: [], t: true })) await store.set(key, value as never)
    const guard = guarded(store)
    for (const key of ['n', 'o', 'l', 't']) expect(await guard.read(key)).toBe('')
    expect(await guard.readMany(['n', 'o'])).toEqual(['', ''])
    expect(guard.errors).toBe(0)
  })
})

describe('a store that fails', () => {
  for (const [name, fail] of [
    ['hangs', never],
    ['rejects', rejects],
    ['throws', throws],
    ['is loading', refuses('LOADING')]
  ] as const) {
    it(`that ${name} is left alone after three failures, in all its methods`, async () => {
      const get = vi.fn<() => unknown>(fail)
      const set = vi.fn<() => unknown>(fail)
      const errors: unknown[] = []
      const guard = guarded({ get, set, delete: fail, getMany: fail, command: fail }, { onError: (error) => errors.push(error) })
      for (let call = 0; call < 3; call++) {
        expect(guard.available).toBe(true)
        expect(await guard.read('k')).toBeUndefined()
      }
      expect(guard.available).toBe(false)
      expect(await guard.readMany(['k'])).toBeUndefined()
      expect(await guard.put('k', 'v')).toBe(false)
      expect(await guard.remove('k')).toBe(false)
      expect(await guard.command?.(['PING'])).toBeUndefined()
      guard.write('k', 'v', 1000)
      expect([get.mock.calls.length, set.mock.calls.length]).toEqual([3, 0])
      expect(guard).toMatchObject({ errors: 3, skipped: 5, writesRefused: 0 })
      expect(errors).toHaveLength(3)
      expect(errors.every((error) => isMillraceError(error, 'timeout'))).toBe(name === 'hangs')
    })
  }

  it('costs five calls of 200 in a row one deadline each, and the others nothing', async () => {
    const guard = guarded({ get: never, set: never, delete: never }, { timeoutMs: 50 })
    const bareAt = performance.now()
    await delay(50)
    const bareMs = performance.now() - bareAt
    const takes: number[] = []
    for (let call = 0; call < 200; call++) {
      const at = performance.now()
      expect(await guard.read(`k${call}`)).toBeUndefined()
      takes.push(performance.now() - at)
      await tick()
    }
    expect(Math.max(...takes)).toBeLessThan(bareMs + 100)
    expect(takes.filter((ms) => ms > 25).length).toBeLessThanOrEqual(5)
    expect(takes.toSorted((a, b) => a - b)[180]).toBeLessThan(1)
  })

  it('is used again within half a second of its return, without a call that asks for it', async () => {
    let down = true
    const map = new Map<string, unknown>([['k', 'v']])
    const gate = (): void => {
      if (down) throw new Error('down')
    }
    const guard = guarded({
      get: (key) => (gate(), map.get(key)),
      set: (key, value) => (gate(), map.set(key, value)),
      delete: (key) => (gate(), map.delete(key))
    })
    for (let call = 0; call < 5; call++) await guard.read('k')
    await delay(300)
    expect(guard.available).toBe(false)
    down = false
    const at = performance.now()
    await until(() => guard.available)
    expect(performance.now() - at).toBeLessThan(1500)
    expect(await guard.read('k')).toBe('v')
    await until(async () => guard.put('k', 'w'))
    expect([...map.keys()]).toEqual(['k']) // the questions leave nothing there
  })

  it('goes on being read while only its writes hang', async () => {
    const set = vi.fn<() => unknown>(never)
    const guard = guarded({ get: () => 'v', set, delete: never })
    for (let call = 0; call < 10; call++) {
      expect(await guard.read('k')).toBe('v')
      expect(await guard.put('k', 'w')).toBe(false)
    }
    expect(set).toHaveBeenCalledTimes(3)
    expect(guard.available).toBe(true)
  })

  it('that refuses writes in time is asked on, and each refusal is counted', async () => {
    const guard = guarded({ get: () => 'v', set: refuses('OOM'), delete: refuses('READONLY') })
    for (let call = 0; call < 10; call++) expect(await guard.put('k', 'w')).toBe(false)
    expect(await guard.remove('k')).toBe(false)
    guard.write('k', 'w', 1000)
    await guard.drain()
    expect(await guard.read('k')).toBe('v')
    expect(guard).toMatchObject({ errors: 12, writesRefused: 12, skipped: 0, available: true })
  })

  it('that answers false to a write has refused it', async () => {
    const errors: unknown[] = []
    const guard = guarded(
      { get: () => undefined, set: async () => false, delete: () => false },
      { onError: (error) => errors.push(error) }
    )
    expect(await guard.put('k', 'v')).toBe(false)
    expect(await guard.remove('k')).toBe(true) // false is Keyv's word for a key that was not there
    expect(guard).toMatchObject({ errors: 1, writesRefused: 1 })
    expect(isMillraceError(errors[0], 'unavailable')).toBe(true)
  })

  it('may have a listener that throws: it is counted too', async () => {
    const guard = guarded(
      { get: rejects, set: rejects, delete: rejects },
      {
        onError: () => {
          throw new Error('listener')
        }
      }
    )
    expect(await guard.read('k')).toBeUndefined()
    expect(guard.errors).toBe(2)
  })

  it('that holds what its Keyv cannot parse fails for that value alone', async () => {
    const map = new Map<string, unknown>()
    const keyv = new Keyv({ store: map, throwOnErrors: true, useKeyPrefix: false })
    await keyv.set('good', 'text')
    for (const key of ['a', 'b', 'c', 'd']) map.set(key, '{"value":')
    const guard = guarded(keyv)
    for (const key of ['a', 'b', 'c', 'd']) expect(await guard.read(key)).toBe('')
    expect(guard.available).toBe(true)
    const many = guarded({
      get: (key) => keyv.get(key),
      set: throws,
      delete: throws,
      getMany: (keys) => Promise.all(keys.map((key) => keyv.get(key)))
    })
    expect(await many.readMany(['a', 'good', 'none'])).toEqual(['', 'text', undefined])
    expect(guard.errors).toBe(4)
  })

  it('that answers getMany with something else is asked for each key by itself', async () => {
    for (const answer of [['v'], 'v', { 0: 'v', length: 2 }, ['v', 'v', 'v']]) {
      const guard = guarded({ get: () => 'v', set: () => true, delete: () => true, getMany: () => answer })
      expect(await guard.readMany(['a', 'b'])).toEqual(['v', 'v'])
      expect(guard.errors).toBe(1)
    }
  })

  it('is neither told of a late answer nor brought down by it', async () => {
    let answer: (error: Error) => void = () => {}
    const guard = guarded({
      get: () => new Promise((_, reject) => (answer = reject)),
      set: throws,
      delete: throws
    })
    expect(await guard.read('k')).toBeUndefined()
    answer(new Error('late'))
    await tick()
    expect(guard.errors).toBe(1)
  })
})

describe('writes under way', () => {
  it('are bounded in number, and the others skipped', async () => {
    const set = vi.fn<() => unknown>(never)
    const guard = guarded({ get: () => 'v', set, delete: () => true })
    for (let call = 0; call < 200; call++) guard.write(`k${call}`, 'text', 1000)
    expect(set).toHaveBeenCalledTimes(64)
    expect(guard.skipped).toBe(136)
    await Promise.all([guard.drain(), guard.drain()])
    expect(guard.errors).toBe(64)
  })

  it('are bounded in characters, and take their room back', async () => {
    const set = vi.fn<() => unknown>(() => delay(1))
    const guard = guarded({ get: () => 'v', set, delete: () => true }, { timeoutMs: 5000 })
    const text = 'x'.repeat(10 * 1024 * 1024)
    for (let call = 0; call < 5; call++) guard.write('k', text, 1000)
    expect(set).toHaveBeenCalledTimes(3)
    await until(() => {
      guard.write('k', text, 1000)
      return set.mock.calls.length > 3
    })
    await guard.drain()
  })

  it('get whole milliseconds', async () => {
    const set = vi.fn<() => unknown>(() => true)
    const guard = guarded({ get: () => 'v', set, delete: () => true })
    guard.write('k', 'v', 1.2)
    await guard.put('k', 'v', 0.1)
    await guard.put('k', 'v')
    expect(set.mock.calls).toEqual([
      ['k', 'v', 2],
      ['k', 'v', 1],
      ['k', 'v']
    ])
  })
})

it('A guard leaves nothing behind, over a store that hangs or answers', async () => {
  const leaks = probeLeaks()
  for (const get of [never, () => 'v', async () => 'v']) {
    const guard = guardStore({ get, set: get, delete: get }, { timeoutMs: 20 })
    for (let call = 0; call < 5; call++) await guard.read('k')
    guard.write('k', 'v', 1000)
    await guard.drain()
    expect(guard.errors).toBe(get === never ? 3 : 0)
  }
  await leaks.check()
})
