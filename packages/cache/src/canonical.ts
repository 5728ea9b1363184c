import type { Json, Role } from '@millrace/core'

/** Core lets 200 levels stand below an `extra`, and six stand above it, the key's own included. A cycle ends here too. */
const maxDepth = 210

/** An insertion sort beats `toSorted()` for the few keys an object mostly has, but takes their number squared. */
const fewKeys = 12

/** Ready made: a text put together is copied piece by piece once more. */
const roleEnds: ReadonlyMap<string, string> = new Map(
  (['system', 'developer', 'user', 'assistant', 'tool'] satisfies Role[]).map((role) => [role, roleEnd(role)])
)

/**
 * One text for equal JSON values, and different texts for different ones: property order does not matter, `1` is not
 * `"1"`, absent is not null (but `undefined` is absent), and -0 is 0. Strings stand behind their length, objects and
 * arrays between brackets, so that no text is the beginning of another. It is made for hashing: read it back with nothing.
 *
 * Text with a lone surrogate in it is escaped, because hashing encodes it as UTF-8, where all of them would become U+FFFD.
 *
 * @throws {TypeError} for what JSON cannot carry: NaN, `undefined` in arrays, functions, Dates, Maps, instances of classes,
 * cycles, more than 210 levels; its text holds nothing of the value
 *
 * @example
 * canonical({ b: 1, a: 2 }) === canonical({ a: 2, b: 1 }) // true
 */
export function canonical(json: Json): string {
  const text = write('', json, 0)
  // Once over the whole: type and length stand between any two strings, so no half pair of one meets a half of the next.
  return text.isWellFormed() ? text : `e${JSON.stringify(text)}`
}

// It appends to the text so far: one rope is flattened once, which the hash of it does anyway.
function write(text: string, value: unknown, depth: number): string {
  switch (typeof value) {
    case 'string':
      // The short head first: a template over all three would make a rope of each of its pieces.
      return text + `s${value.length}:` + value
    case 'number':
      if (!Number.isFinite(value)) throw notJson(String(value))
      return text + `n${value};`
    case 'boolean':
      return text + (value ? 't' : 'f')
    case 'object':
      break
    default:
      throw notJson(typeof value)
  }
  if (value === null) return text + 'z'
  if (depth >= maxDepth) throw new TypeError(`a key must be at most ${maxDepth} levels deep and have no cycle`)
  return Array.isArray(value) ? writeArray(text, value, depth + 1) : writeObject(text, value, depth + 1)
}

function writeArray(text: string, items: readonly unknown[], depth: number): string {
  text += '['
  for (let index = 0; index < items.length; index++) text = write(text, items[index], depth)
  return text + ']'
}

function writeObject(text: string, object: object, depth: number): string {
  if (!isPlain(object)) throw notJson('an instance of a class')
  const keys = Object.keys(object)
  const fields = object as Readonly<Record<string, unknown>>
  if (keys.length === 2 && isMessage(keys)) {
    // What most of a request is. The same text as below, in one step: it saves an eighth of a whole key.
    const { role, content } = fields
    if (typeof role === 'string' && typeof content === 'string') {
      return text + `{s7:contents${content.length}:` + content + (roleEnds.get(role) ?? roleEnd(role))
    }
  }
  text += '{'
  for (const key of sorted(keys)) {
    const field = fields[key]
    if (field !== undefined) text = write(text + `s${key.length}:${key}`, field, depth)
  }
  return text + '}'
}

function isMessage(keys: readonly string[]): boolean {
  return (keys[0] === 'role' && keys[1] === 'content') || (keys[0] === 'content' && keys[1] === 'role')
}

function roleEnd(role: string): string {
  return `s4:roles${role.length}:${role}}`
}

/** By UTF-16 code units; a short list in place. */
function sorted(keys: string[]): readonly string[] {
  if (keys.length > fewKeys) return keys.toSorted()
  for (let end = 1; end < keys.length; end++) {
    const key = keys[end] as string
    let at = end
    for (; at > 0 && (keys[at - 1] as string) > key; at--) keys[at] = keys[at - 1] as string
    keys[at] = key
  }
  return keys
}

/** A literal, a `JSON.parse` result or a null-prototype object, of any realm: test runners and `vm` bring their own `Object`. */
function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null || Object.getPrototypeOf(prototype) === null
}

function notJson(what: string): TypeError {
  return new TypeError(`a key must be plain JSON, not ${what}`)
}
