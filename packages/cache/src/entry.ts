import { isJsonObject, type JsonObject, parseJson } from '@millrace/core'
import { isAnswer } from './answer.ts'
import type { Sealer } from './sealer.ts'
import { isHttpAnswer } from './wire-answer.ts'

/** Which values an entry may hold: the chunks of a whole answer, any JSON, or an HTTP answer. */
export type Kind = 'chat' | 'wrap' | 'http'

/** An entry as it lies in the store. */
export interface Entry {
  /** Plain JSON. */
  readonly value: unknown
  /** Wall clock, Unix milliseconds: the only clock that machines share. */
  readonly storedAt: number
  /** Fresh for so long. */
  readonly ttlMs: number
  /** Gone after so long: `ttlMs` and the longest time it may be served stale. */
  readonly keepMs: number
  /** From each group to the generation it was written under. */
  readonly stamps: Readonly<Record<string, string>>
}

/** A clock of another machine may be ahead of ours by this much; an entry from further in the future is not believed. */
const maxSkewMs = 60_000
/** As deep as core lets JSON be. */
const maxDepth = 200

/** The text of an entry, to lie under `key` and nowhere else. */
export function writeEntry(sealer: Sealer, kind: Kind, key: string, entry: Entry): string {
  const { storedAt, ttlMs, keepMs, stamps, value } = entry
  return sealer.seal(placeOf(kind, key), JSON.stringify({ storedAt, ttlMs, keepMs, stamps, value }))
}

/** The entry in the text, or `undefined` when there is the least doubt about it. Never throws. The value is not frozen. */
export function readEntry(sealer: Sealer, kind: Kind, key: string, text: unknown): Entry | undefined {
  const body = sealer.open(placeOf(kind, key), text)
  const entry = body === undefined ? undefined : parseJson(body)
  if (!isJsonObject(entry)) return undefined
  const { storedAt, ttlMs, keepMs, stamps, value } = entry
  if (!isTime(storedAt) || !isTime(ttlMs) || !isTime(keepMs) || !areStamps(stamps)) return undefined
  if (storedAt > Date.now() + maxSkewMs || value === undefined || !isSafe(value, maxDepth)) return undefined
  if (kind === 'chat' && !isAnswer(value)) return undefined
  if (kind === 'http' && !isHttpAnswer(value)) return undefined
  return { value, storedAt, ttlMs, keepMs, stamps }
}

const placeOf = (kind: Kind, key: string): string => `${kind} ${key}`

function isTime(value: unknown): value is number {
  return typeof value === 'number' && value >= 0 && value < Number.POSITIVE_INFINITY
}

function areStamps(value: unknown): value is JsonObject & Readonly<Record<string, string>> {
  return isJsonObject(value) && Object.values(value).every((word) => typeof word === 'string' && /^[0-9a-f]{16}$/.test(word))
}

/**
 * Whether what came out of `JSON.parse` is neither too deep to be walked, nor a trap (`__proto__`), nor a number that JSON
 * cannot carry (`1e999`). `isJson` asks the same of any value, for three times as long.
 */
function isSafe(value: unknown, levels: number): boolean {
  if (typeof value === 'number') return Number.isFinite(value)
  if (typeof value !== 'object' || value === null) return true
  if (levels === 0) return false
  if (Array.isArray(value)) {
    for (const child of value) if (!isSafe(child, levels - 1)) return false
    return true
  }
  for (const name in value) {
    if (name === '__proto__' || !isSafe((value as Readonly<Record<string, unknown>>)[name], levels - 1)) return false
  }
  return true
}
