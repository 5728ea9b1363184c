import type { Json } from '@millrace/core'

/** As deep as core lets a request be. A cycle ends here too. */
const maxDepth = 200

/**
 * One text for equal JSON values, and different texts for different ones: property order does not matter, `1` is not
 * `"1"`, absent is not null. Every value starts with its type, and strings, arrays and objects with their length, so no
 * text is the beginning of another. It is made for hashing: read it back with nothing.
 *
 * A lone surrogate is escaped, because hashing encodes text as UTF-8, where all of them would become U+FFFD.
 *
 * @throws {TypeError} for what JSON cannot carry: NaN, functions, Dates, Maps, holes in arrays, cycles, more than 200 levels
 *
 * @example
 * canonical({ b: 1, a: 2 }) === canonical({ a: 2, b: 1 }) // true
 */
export function canonical(json: Json): string {
  return write(json, 0)
}

function write(value: unknown, depth: number): string {
  switch (typeof value) {
    case 'string':
      return writeString(value)
    case 'number':
      if (!Number.isFinite(value)) throw notJson(String(value))
      return `n${value};`
    case 'boolean':
      return value ? 't' : 'f'
    case 'object':
      break
    default:
      throw notJson(typeof value)
  }
  if (value === null) return 'z'
  if (depth >= maxDepth) throw new TypeError(`a key must be at most ${maxDepth} levels deep and have no cycle`)
  return Array.isArray(value) ? writeArray(value, depth + 1) : writeObject(value, depth + 1)
}

function writeString(value: string): string {
  if (value.isWellFormed()) return `s${value.length}:${value}`
  const escaped = JSON.stringify(value)
  return `e${escaped.length}:${escaped}`
}

function writeArray(items: readonly unknown[], depth: number): string {
  let text = `a${items.length}:`
  for (let index = 0; index < items.length; index++) text += write(items[index], depth)
  return text
}

function writeObject(object: object, depth: number): string {
  const prototype: unknown = Object.getPrototypeOf(object)
  if (prototype !== Object.prototype && prototype !== null) throw notJson('an instance of a class')
  const fields = object as Readonly<Record<string, unknown>>
  let count = 0
  let text = ''
  for (const key of Object.keys(object).toSorted()) {
    const field = fields[key]
    if (field === undefined) continue
    count++
    text += writeString(key) + write(field, depth)
  }
  return `o${count}:${text}`
}

function notJson(what: string): TypeError {
  return new TypeError(`a key must be plain JSON, not ${what}`)
}
