/**
 * Applies functions from left to right: `pipe(x, f, g)` is `g(f(x))`, so the first layer stands nearest to `x`.
 *
 * @example
 * const provider = pipe(base, withCache(cache), withTokenBudget(budget))
 */
export function pipe<A>(value: A): A
export function pipe<A, B>(value: A, f: (value: A) => B): B
export function pipe<A, B, C>(value: A, f: (value: A) => B, g: (value: B) => C): C
export function pipe<A, B, C, D>(value: A, f: (value: A) => B, g: (value: B) => C, h: (value: C) => D): D
export function pipe<A>(value: A, ...layers: readonly ((value: A) => A)[]): A
export function pipe(value: unknown, ...layers: readonly ((value: never) => unknown)[]): unknown {
  let result = value
  for (const layer of layers) result = (layer as (value: unknown) => unknown)(result)
  return result
}
