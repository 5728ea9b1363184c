/**
 * Applies functions from left to right: `pipe(x, f, g)` is `g(f(x))`, so the first layer stands nearest to `x`.
 * Up to eight of them may each change the type; more keep it.
 *
 * @example
 * const provider = pipe(base, withCache(cache), withTokenBudget(budget))
 */
export function pipe<A>(value: A): A
export function pipe<A, B>(value: A, f: (value: A) => B): B
export function pipe<A, B, C>(value: A, f: (value: A) => B, g: (value: B) => C): C
export function pipe<A, B, C, D>(value: A, f: (value: A) => B, g: (value: B) => C, h: (value: C) => D): D
export function pipe<A, B, C, D, E>(value: A, f: (value: A) => B, g: (value: B) => C, h: (value: C) => D, i: (value: D) => E): E
export function pipe<A, B, C, D, E, F>(
  value: A,
  f: (value: A) => B,
  g: (value: B) => C,
  h: (value: C) => D,
  i: (value: D) => E,
  j: (value: E) => F
): F
export function pipe<A, B, C, D, E, F, G>(
  value: A,
  f: (value: A) => B,
  g: (value: B) => C,
  h: (value: C) => D,
  i: (value: D) => E,
  j: (value: E) => F,
  k: (value: F) => G
): G
export function pipe<A, B, C, D, E, F, G, H>(
  value: A,
  f: (value: A) => B,
  g: (value: B) => C,
  h: (value: C) => D,
  i: (value: D) => E,
  j: (value: E) => F,
  k: (value: F) => G,
  l: (value: G) => H
): H
export function pipe<A, B, C, D, E, F, G, H, I>(
  value: A,
  f: (value: A) => B,
  g: (value: B) => C,
  h: (value: C) => D,
  i: (value: D) => E,
  j: (value: E) => F,
  k: (value: F) => G,
  l: (value: G) => H,
  m: (value: H) => I
): I
export function pipe<A>(value: A, ...layers: readonly ((value: A) => A)[]): A
export function pipe(value: unknown, ...layers: readonly ((value: never) => unknown)[]): unknown {
  let result = value
  for (const layer of layers) result = (layer as (value: unknown) => unknown)(result)
  return result
}
