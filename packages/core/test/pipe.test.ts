import { describe, expect, expectTypeOf, it } from 'vitest'
import { type Layer, type Provider, pipe } from '../src/index.ts'

describe('pipe', () => {
  it('applies from left to right: the first layer is nearest to the value', () => {
    const around =
      (name: string): Layer<string> =>
      (inner) =>
        `${name}(${inner})`
    expect(pipe('x')).toBe('x')
    expect(pipe('x', around('f'), around('g'))).toBe('g(f(x))')
    expect(pipe('x', ...['a', 'b', 'c', 'd', 'e', 'f'].map(around))).toBe('f(e(d(c(b(a(x))))))')
  })

  it('keeps the types of functions that change it', () => {
    const text = pipe(
      '1',
      (value) => Number(value),
      (value) => [value],
      (value) => value.length > 0
    )
    expect(text).toBe(true)
    expectTypeOf(text).toEqualTypeOf<boolean>()
    const add = (value: number): number => value + 1
    const more = (values: readonly string[]): readonly string[] => [...values, 'more']
    const eight = pipe(
      '1',
      Number,
      add,
      add,
      String,
      (value) => [value],
      more,
      more,
      (value) => new Set(value)
    )
    expect(eight).toEqual(new Set(['3', 'more']))
    expectTypeOf(eight).toEqualTypeOf<Set<string>>()
    const layer: Layer<Provider> = (next) => next
    expectTypeOf(pipe((() => undefined) as unknown as Provider, layer, layer, layer, layer, layer)).toEqualTypeOf<Provider>()
    const wrong = (value: string): string => value
    // @ts-expect-error a function that does not take what the one before it gives
    expect(() => pipe('1', Number, wrong)).not.toThrow()
  })
})
