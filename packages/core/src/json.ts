/** Any value JSON can carry. `undefined` inside an object means "absent", as `JSON.stringify` has it. */
export type Json = string | number | boolean | null | readonly Json[] | JsonObject

/** A plain JSON object. */
export interface JsonObject {
  readonly [key: string]: Json | undefined
}

/** Whether `value` is an object with string keys, and neither null nor an array. */
export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/**
 * `JSON.parse` that answers `undefined` instead of throwing; for text that somebody else wrote. It keeps `__proto__` keys
 * and any depth: walk the result with a stack of your own, or check it.
 *
 * @example
 * const body = parseJson(text)
 */
export function parseJson(text: string): Json | undefined {
  try {
    return JSON.parse(text) as Json
  } catch {
    return undefined // told by the result, so nothing is lost
  }
}
