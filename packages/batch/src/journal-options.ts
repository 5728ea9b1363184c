import { hash } from 'node:crypto'
import { isJsonObject, type Json, type JsonObject } from '@millrace/core'

/**
 * A digest for each field of the options, so that a later run can say which of them differ and the file tells nobody what
 * they are: `salt` keeps equal options of two journals apart.
 */
export function digestOptions(options: Json, salt: string): JsonObject {
  if (!isJsonObject(options)) return { '': digest(options, salt) }
  const digests: [string, string][] = []
  for (const [name, value] of Object.entries(options)) if (value !== undefined) digests.push([name, digest(value, salt)])
  return Object.fromEntries(digests)
}

/** The names of the fields that are not the same. */
export function differing(before: JsonObject, now: JsonObject): string[] {
  return [...new Set([...Object.keys(before), ...Object.keys(now)])].filter((name) => before[name] !== now[name]).toSorted()
}

function digest(value: Json, salt: string): string {
  return hash('sha256', `${salt} ${canonical(value)}`, 'base64url').slice(0, 22)
}

/** JSON text with the keys in order, whatever order they were written in. */
function canonical(value: Json): string {
  return JSON.stringify(value, (_, inner: unknown) =>
    isJsonObject(inner) ? Object.fromEntries(Object.entries(inner).toSorted(([a], [b]) => (a < b ? -1 : 1))) : inner
  )
}
