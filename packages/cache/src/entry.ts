import { parseJson } from '@millrace/core'
import { isAnswer } from './answer.ts'
import type { Sealer } from './sealer.ts'
import { isHttpAnswer } from './wire-answer.ts'

/** Which values an entry may hold: the chunks of a whole answer, any JSON, or an HTTP answer. */
export type Kind = 'chat' | 'wrap' | 'http'

/** An entry as it lies in the store. Times in whole milliseconds. */
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

/** As deep as core lets JSON be. */
const maxDepth = 200

/** The text of an entry, to lie under `key` and nowhere else: a line of its own for what is not the value, which costs less to read. */
export function writeEntry(sealer: Sealer, kind: Kind, key: string, entry: Entry): string {
  const { storedAt, ttlMs, keepMs, stamps, value } = entry
  const words = Object.entries(stamps).map(([group, word]) => `${group}=${word}`)
  const times = [storedAt, ttlMs, keepMs].map(Math.ceil)
  return sealer.seal(placeOf(kind, key), `${times.join(' ')} ${words.join(',')}\n${JSON.stringify(value)}`)
}

const headPattern = /^(\d{1,15}) (\d{1,15}) (\d{1,15}) ([0-9a-f]{32}=[0-9a-f]{16}(?:,[0-9a-f]{32}=[0-9a-f]{16})*)$/

/** The entry in the text, or `undefined` when there is the least doubt about it. Never throws. The value is not frozen. */
export function readEntry(sealer: Sealer, kind: Kind, key: string, text: unknown): Entry | undefined {
  const body = sealer.open(placeOf(kind, key), text)
  if (body === undefined) return undefined
  const end = body.indexOf('\n')
  const head = headPattern.exec(body.slice(0, end))
  if (head === null) return undefined
  const [, storedAt, ttlMs, keepMs, words = ''] = head
  const value = parseJson(body.slice(end + 1))
  if (value === undefined || !isSafe(value, maxDepth)) return undefined
  if (kind === 'chat' && !isAnswer(value)) return undefined
  if (kind === 'http' && !isHttpAnswer(value)) return undefined
  const stamps: Record<string, string> = {}
  for (let at = 0; at < words.length; at += 50) stamps[words.slice(at, at + 32)] = words.slice(at + 33, at + 49)
  return { value, storedAt: Number(storedAt), ttlMs: Number(ttlMs), keepMs: Number(keepMs), stamps }
}

const placeOf = (kind: Kind, key: string): string => `${kind} ${key}`

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
