import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createStreamIds } from '../src/stream-ids.ts'

const seed = 9

test(`an id belongs to its tenant alone, at every replica with the same tokens (seed ${seed})`, () => {
  const here = createStreamIds(['token-a', 'token-b'])
  const elsewhere = createStreamIds(['token-a', 'token-b'])
  const stranger = createStreamIds(['token-a'])
  const tenant = fc.option(fc.string(), { nil: undefined })
  fc.assert(
    fc.property(tenant, tenant, (mine, other) => {
      const id = here.make(mine)
      expect(id).toMatch(/^[A-Za-z0-9_-]{22}$/)
      expect(elsewhere.belongs(id, mine)).toBe(true)
      expect(elsewhere.belongs(`${id}/17`, mine)).toBe(true)
      expect(here.belongs(id, other)).toBe(mine === other)
      expect(stranger.belongs(id, mine)).toBe(false)
    }),
    { seed }
  )
})

test.each(['', 'short', '!'.repeat(22), 'a'.repeat(22), '../../etc/passwd'])('%j is the id of nobody', (id) => {
  expect(createStreamIds([]).belongs(id, undefined)).toBe(false)
})

test('no two ids are the same', () => {
  const { make } = createStreamIds([])
  expect(new Set(Array.from({ length: 10_000 }, () => make('a'))).size).toBe(10_000)
})
