import { isMillraceError } from '@millrace/core'
import { expect, test } from 'vitest'
import { createFaults, type ProviderFault } from '../src/faults.ts'

test('without anything to break there is nothing to switch, and that is said', async () => {
  const faults = createFaults({})
  expect(faults.state()).toEqual({ provider: 'none', redis: 'none', available: { provider: [], redis: [] } })
  const refused: unknown = await faults.set({ provider: 'slow' }).catch((error: unknown) => error)
  expect(isMillraceError(refused, 'invalid-request')).toBe(true)
  expect(String(refused)).toContain('there are no faults to switch here')
})

test('what is told to the provider is what the state says; what is no fault changes nothing', async () => {
  const told: ProviderFault[] = []
  const faults = createFaults({ provider: { setFault: async (name) => void told.push(name) } })
  await faults.set({ provider: 'slow' })
  expect([told, faults.state().provider]).toEqual([['slow'], 'slow'])
  for (const wrong of ['', 'SLOW', 1, null, {}, 'frozen']) {
    await expect(faults.set({ provider: wrong })).rejects.toThrow('it is one of none, slow, rate-limit, reset')
  }
  await expect(faults.set({ provider: 'none', redis: 'frozen' })).rejects.toThrow('redis')
  expect([told, faults.state().provider]).toEqual([['slow'], 'slow'])
  await faults.set({})
  await faults.set({ provider: 'none' })
  expect([told, faults.state().provider]).toEqual([['slow', 'none'], 'none'])
})
