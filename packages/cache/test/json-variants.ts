import { isDeepStrictEqual } from 'node:util'
import type { Json } from '@millrace/core'
import fc from 'fast-check'

/** Texts that look like the canonical form, or that a careless one mixes up. */
const trickyTexts = [
  '', 's', 's1:', 's1:a', 'n1;', 'z', 't', '{', '}', '[', ']', '[]', '{}', ':', ';', 'e""', '"', '\\', '\\ud800', 'null', '1', '1.0', 'true',
  '\0', '\ud800', '\udc00', '\udbff', '\ud83d\ude00', '\ufffd', 'é', 'e\u0301', '日本', 'role', 'content', 'user', '__proto__', 'constructor',
  'toString'
] // biome-ignore format: one list

export const texts: fc.Arbitrary<string> = fc.oneof(
  fc.constantFrom(...trickyTexts),
  fc.string({ maxLength: 8, unit: fc.constantFrom('a', 'b', '1', ':', ';', '[', '{', 's', '\ud800', '\udc00', 'é', '日') })
)

/** JSON values, message-like ones among them, whose keys may be `__proto__`. */
export const jsons: fc.Arbitrary<Json> = fc.letrec<{ value: Json }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 4, depthSize: 'small', withCrossShrink: true },
    fc.oneof(
      texts,
      fc.integer({ min: -3, max: 3 }),
      fc.double({ noNaN: true, noDefaultInfinity: true }),
      fc.boolean(),
      fc.constant(null)
    ),
    fc.array(tie('value'), { maxLength: 4 }),
    fc.array(fc.tuple(texts, tie('value')), { maxLength: 4 }).map((entries) => Object.fromEntries(entries)),
    fc.record({ role: tie('value'), content: tie('value') }, { noNullPrototype: true })
  )
})).value

/**
 * Whether two values are one to JSON, judged without the code under test. Not by their JSON texts: V8 reads an escaped
 * property name as another one now and then (nodejs/node#63785), which this very comparison found.
 */
export function equalJson(one: Json, other: Json): boolean {
  return isDeepStrictEqual(withoutMinusZero(one), withoutMinusZero(other))
}

function withoutMinusZero(value: Json): Json {
  if (value === 0) return 0
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(withoutMinusZero)
  return Object.fromEntries(Object.entries(value).map(([key, child]) => [key, withoutMinusZero(child as Json)]))
}

/** The same value with the properties of every object in another order. */
export function shuffled(value: Json, random: () => number): Json {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map((item) => shuffled(item, random))
  const entries = Object.entries(value).map(([key, child]) => [key, shuffled(child as Json, random), random()] as const)
  return Object.fromEntries(entries.toSorted((a, b) => a[2] - b[2]).map(([key, child]) => [key, child]))
}

/** The value with one thing changed, for every place in it and every change that a careless key could miss. */
export function* variantsOf(value: Json): Generator<Json> {
  yield* wholeVariants(value)
  if (Array.isArray(value)) yield* arrayVariants(value)
  else if (typeof value === 'object' && value !== null) yield* objectVariants(Object.entries(value) as [string, Json][])
}

function* wholeVariants(value: Json): Generator<Json> {
  yield [value]
  yield { a: value }
  if (value !== null) yield null
  if (typeof value === 'string') {
    yield* [
      `${value} `,
      `${value}\0`,
      value.slice(1),
      JSON.stringify(value),
      `${value}\ud800`,
      `${value}\udc00`,
      `s${value.length}:${value}`
    ]
    yield value.toUpperCase()
    yield value.normalize('NFD')
    if (value !== '' && Number.isFinite(Number(value))) yield Number(value)
  } else if (typeof value === 'number') {
    yield* [value + 1, -value, value / 3, value * (1 - Number.EPSILON), String(value), value !== 0]
  } else if (typeof value === 'boolean') {
    yield* [!value, String(value), Number(value)]
  } else if (value === null) {
    yield* ['null', '', 0, false, {}, []]
  }
}

function* arrayVariants(items: readonly Json[]): Generator<Json> {
  yield [...items, null]
  yield Object.fromEntries(items.entries())
  for (const [index, item] of items.entries()) {
    yield items.toSpliced(index, 1)
    yield items.toSpliced(index, 0, item)
    for (const variant of variantsOf(item)) yield items.with(index, variant)
    const next = items[index + 1]
    if (next === undefined) continue
    yield items.toSpliced(index, 2, next, item)
    yield items.toSpliced(index, 2, [item, next])
    if (Array.isArray(item)) yield items.toSpliced(index, 2, [...item, next])
    for (const [left, right] of shifted(item, next)) yield items.toSpliced(index, 2, left, right)
    if (typeof item === 'string' && typeof next === 'string') yield items.toSpliced(index, 2, item + next)
  }
}

function* objectVariants(entries: readonly (readonly [string, Json])[]): Generator<Json> {
  yield entries.map(([key, child]) => [key, child])
  yield Object.fromEntries([...entries, ['another', null]])
  for (const [index, [key, child]] of entries.entries()) {
    const put = (...changed: (readonly [string, Json])[]): Json => Object.fromEntries(entries.toSpliced(index, 1, ...changed))
    yield put()
    yield put([`${key}x`, child])
    yield put([key.slice(1), child])
    yield put([key, { [key]: child }])
    for (const variant of variantsOf(child)) yield put([key, variant])
    if (typeof child === 'string') {
      yield put([child, key])
      for (const [left, right] of shifted(key, child)) yield put([left as string, right])
    }
    const next = entries[index + 1]
    if (next === undefined) continue
    yield Object.fromEntries(entries.toSpliced(index, 2, [key, next[1]], [next[0], child]))
    for (const [left, right] of shifted(child, next[1]))
      yield Object.fromEntries(entries.toSpliced(index, 2, [key, left], [next[0], right]))
  }
}

/** Two neighbouring strings with their border moved by one. */
function shifted(left: Json, right: Json): [Json, Json][] {
  if (typeof left !== 'string' || typeof right !== 'string') return []
  return [
    [left + right.slice(0, 1), right.slice(1)],
    [left.slice(0, -1), left.slice(-1) + right]
  ]
}
