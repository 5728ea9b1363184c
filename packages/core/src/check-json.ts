import { MillraceError } from './error.ts'

/** Deeper nesting is refused: what cannot be walked safely cannot be serialised safely by all who come after. */
const maxDepth = 200

/** Where a value stands: a key within its parent. The text of a path is built only for an error. */
export interface Place {
  readonly key: string | number
  readonly parent?: Place | undefined
}

/**
 * Refuses what JSON would bend or cannot carry: cycles, `__proto__` keys, NaN, functions, instances of classes, holes in
 * arrays, and nesting deeper than 200. A property that is `undefined` counts as absent; an object may appear twice.
 *
 * @throws {MillraceError} `invalid-request` with the path of the value
 *
 * @example
 * checkJson({ logit_bias: { '50256': -100 } }, 'extra')
 */
export function checkJson(root: unknown, rootPath: string): void {
  checkJsonAt(root, { key: rootPath })
}

export function checkJsonAt(root: unknown, place: Place): void {
  walk(root, place, new Set())
}

// Recursive, for it never goes deeper than `maxDepth`.
function walk(value: unknown, place: Place, around: Set<object>): void {
  if (typeof value === 'string' || typeof value === 'boolean' || value === null) return
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) throw invalid(place, 'must be a finite number')
    return
  }
  if (typeof value !== 'object') throw invalid(place, `must be a JSON value, not ${typeof value}`)
  if (around.has(value)) throw invalid(place, 'refers back to an object around it (a cycle)')
  if (around.size >= maxDepth) throw invalid(place, `is nested deeper than ${maxDepth}`)
  around.add(value)
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index++) walk(value[index], { key: index, parent: place }, around)
  } else {
    if (!isPlain(value)) throw invalid(place, 'must be plain JSON, not an instance of a class')
    for (const [key, child] of Object.entries(value)) {
      if (key === '__proto__') throw forbiddenKey(place)
      if (child !== undefined) walk(child, { key, parent: place }, around)
    }
  }
  around.delete(value)
}

/** A literal, a `JSON.parse` result or a null-prototype object, of any realm: test runners and `vm` bring their own `Object`. */
export function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

export function forbiddenKey(parent: Place): MillraceError<'invalid-request'> {
  return invalid({ key: '__proto__', parent }, 'is a key that pollutes prototypes; remove it')
}

export function invalid(place: Place, problem: string): MillraceError<'invalid-request'> {
  const path = pathOf(place)
  return new MillraceError('invalid-request', path === '' ? problem : `${path} ${problem}`, { details: { path } })
}

const identifier = /^[A-Za-z_$][\w$]*$/

/** Keys are the caller's: quoted where they are no plain name, so that no line break gets into a log, and clipped. */
function pathOf(place: Place): string {
  const keys: (string | number)[] = []
  let at: Place | undefined = place
  for (; at.parent !== undefined; at = at.parent) keys.push(at.key)
  let path = String(at.key)
  for (const key of keys.toReversed()) {
    if (typeof key === 'number') path += `[${key}]`
    else if (!identifier.test(key)) path += `[${JSON.stringify(key)}]`
    else path += path === '' ? key : `.${key}`
  }
  return path.length > 200 ? `${path.slice(0, 200)}…` : path
}
