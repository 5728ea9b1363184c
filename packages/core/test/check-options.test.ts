import { checkOptions } from '@millrace/core'
import { expect, it } from 'vitest'

interface Options {
  readonly ttlMs?: number
  readonly name?: string
}
const check = (options: unknown): void => checkOptions<Options>('createThing', options as Options, { ttlMs: 1, name: 1 })

it('takes any of the known options', () => {
  for (const options of [{}, { ttlMs: 5 }, { name: 'x', ttlMs: undefined }, Object.create(null)])
    expect(check(options)).toBeUndefined()
})

it('names an option nobody knows, and those there are', () => {
  expect(() => check({ ttl: 5 })).toThrow(new TypeError('createThing has no option "ttl"; it has ttlMs, name'))
  expect(() => check({ toString: 1 })).toThrow(TypeError)
  expect(() => check(JSON.parse('{"__proto__": 1}'))).toThrow(TypeError)
})

it('refuses what is no object of options', () => {
  for (const options of [null, undefined, 5, 'x', true, [], () => {}])
    expect(() => check(options)).toThrow(/createThing takes an object of options/)
})
