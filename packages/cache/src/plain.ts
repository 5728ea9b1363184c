/** Freezes a value of plain JSON, all levels of it. */
export function deepFreeze<T>(root: T): T {
  if (!isObject(root)) return root
  const work: object[] = [root]
  let seen: Set<object> | undefined
  let visits = 0
  for (let object = work.pop(); object !== undefined; object = work.pop()) {
    if (++visits > maxUnseen) {
      seen ??= new Set()
      if (seen.has(object)) continue
      seen.add(object)
    }
    Object.freeze(object)
    if (Array.isArray(object)) {
      for (const child of object) if (isObject(child)) work.push(child)
    } else {
      for (const name in object) {
        const child = (object as Fields)[name]
        if (isObject(child)) work.push(child)
      }
    }
  }
  return root
}

/**
 * How many bytes a value of plain JSON takes in memory, rather too many than too few: two a character (V8 takes one for Latin
 * text), and what objects, arrays and numbers were measured to take once frozen (a frozen array boxes its fractions). The
 * names of a program's own objects cost nothing, V8 keeps them once; a name it has not met takes a new shape as well.
 */
export function weigh(root: unknown): number {
  if (!isObject(root)) return weighLeaf(root)
  const work: object[] = [root]
  let bytes = 0
  let names: Set<string> | undefined
  let seen: Set<object> | undefined
  let visits = 0
  for (let object = work.pop(); object !== undefined; object = work.pop()) {
    if (++visits > maxUnseen) {
      seen ??= new Set()
      if (seen.has(object)) continue
      seen.add(object)
    }
    if (Array.isArray(object)) {
      bytes += 48 + 8 * object.length
      for (const child of object) {
        if (isObject(child)) work.push(child)
        else bytes += weighLeaf(child)
      }
      continue
    }
    let fields = 0
    let isNewShape = false
    for (const name in object) {
      fields++
      if (!commonNames.has(name) && names?.has(name) !== true) {
        names ??= new Set()
        names.add(name)
        isNewShape = true
        bytes += 80 + weighText(name)
      }
      const child = (object as Fields)[name]
      if (isObject(child)) work.push(child)
      else bytes += typeof child === 'number' ? 16 : weighLeaf(child)
    }
    bytes += 24 + 8 * Math.max(fields, 4) + (isNewShape ? 150 : 0)
  }
  return bytes
}

/**
 * A frozen copy of plain JSON that takes no more than `weigh` says. Its strings are its own: a piece cut out of a text keeps
 * the whole text alive, and a text put together from pieces keeps the pieces. Recursive: only for what `isJson` has walked.
 */
export function compact<T>(value: T): T {
  if (typeof value === 'string') return ownText(value) as T
  if (!isObject(value)) return value
  if (Array.isArray(value)) return Object.freeze(value.map(compact)) as T
  const fields = Object.entries(value)
  // The name `1000` alone would get room for a thousand more; `JSON.parse` knows better.
  if (fields.length > maxFields || fields.some(([name]) => name < ':')) return deepFreeze(JSON.parse(JSON.stringify(value)) as T)
  const copy: Record<string, unknown> = {}
  for (const [name, child] of fields) if (child !== undefined) copy[name] = compact(child)
  return Object.freeze(copy) as T
}

/** V8 makes one flat text of two before it cuts, and cuts by reference: what is kept is a text of the same length. */
function ownText(text: string): string {
  return text.length < 13 ? text : ` ${text}`.slice(1)
}

/** A copy of plain JSON. Recursive: only for what `canonical` has walked. */
export function copyOf<T>(value: T): T {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(copyOf) as T
  return Object.fromEntries(Object.entries(value).map(([name, child]) => [name, copyOf(child)])) as T
}

type Fields = Readonly<Record<string, unknown>>

/**
 * The value may be somebody else's, with cycles and shared parts. To remember every object costs more than to look at it, so
 * only those beyond this many are remembered; most answers have fewer.
 */
const maxUnseen = 1000

/** Objects that grow name by name beyond it take half as much again. */
const maxFields = 16

/** The names in chat answers and in HTTP answers: in every entry the same. */
const commonNames: ReadonlySet<string> = new Set(
  (
    'type provider model id text signature index name arguments value usage reason chunks atMs status headers body cuts ' +
    'by input output uncached cacheRead cacheWrite reasoning estimated billed'
  ).split(' ')
)

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}

/** Beside the eight bytes of the place where it stands. */
function weighLeaf(value: unknown): number {
  if (typeof value === 'string') return weighText(value)
  // Whole numbers of 32 bits (but not -0), true, false and null lie in the place itself.
  return typeof value === 'number' && !Object.is(value, value | 0) ? 16 : 0
}

function weighText(text: string): number {
  return 16 + ((2 * text.length + 7) & ~7)
}

/**
 * Whether JSON text would have an escape in a name: V8 was seen to read such a name as another (nodejs/node#63785), so what
 * has one does not go through `JSON.parse`.
 */
export function hasEscapedNames(value: unknown): boolean {
  if (!isObject(value)) return false
  if (Array.isArray(value)) return value.some(hasEscapedNames)
  return Object.entries(value).some(([name, child]) => escaped.test(name) || !name.isWellFormed() || hasEscapedNames(child))
}

// oxlint-disable-next-line no-control-regex -- they are what JSON escapes
const escaped = /["\\\u0000-\u001f]/
