/** Freezes a value of plain JSON, all levels of it. */
export function deepFreeze<T>(root: T): T {
  walk(root, Object.freeze)
  return root
}

/**
 * About how many bytes a value of plain JSON takes in memory, rather too many than too few: two a character (V8 takes one
 * for Latin text), and room for the header of each object, string and field.
 */
export function weigh(root: unknown): number {
  let bytes = 0
  walk(root, (value) => {
    if (typeof value === 'string') bytes += 24 + 2 * value.length
    else if (typeof value !== 'object' || value === null) bytes += 16
    else if (Array.isArray(value)) bytes += 64 + 8 * value.length
    else for (const name in value) bytes += 32 + 2 * name.length
  })
  return bytes
}

/** Visits every value once. Iterative, and safe in a cycle: the shape of the value may be somebody else's. */
function walk(root: unknown, visit: (value: unknown) => void): void {
  visit(root)
  if (typeof root !== 'object' || root === null) return
  const work: object[] = [root]
  let seen: Set<object> | undefined // most chunks are flat and need none
  for (let object = work.pop(); object !== undefined; object = work.pop()) {
    for (const child of Object.values(object) as unknown[]) {
      if (typeof child === 'object' && child !== null) {
        seen ??= new Set([root])
        if (seen.has(child)) continue
        seen.add(child)
        work.push(child)
      }
      visit(child)
    }
  }
}

/** A copy of plain JSON. Recursive: only for what `canonical` has walked. */
export function copyOf<T>(value: T): T {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(copyOf) as T
  return Object.fromEntries(Object.entries(value).map(([name, child]) => [name, copyOf(child)])) as T
}
