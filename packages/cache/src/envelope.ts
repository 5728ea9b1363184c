import { timingSafeEqual } from 'node:crypto'
import { isJsonObject, parseJson } from '@millrace/core'
import { isAnswer, isJson } from './answer.ts'
import { digestOf } from './key.ts'

/** Which values an entry may hold: chunks of a whole answer, or any JSON. */
export type Kind = 'chat' | 'wrap'

/** An entry as it lies in the store. */
export interface Enclosed {
  readonly value: unknown
  /** Wall clock, Unix milliseconds: the only clock that machines share. */
  readonly storedAt: number
  readonly ttlMs: number
}

const format = 'millrace1'
const sealLength = 64

/**
 * The text of an entry: format and version, a seal, and JSON. The seal is the digest of the key and the JSON together (an
 * HMAC where there is a secret), so an entry that was changed, cut off, or comes back for another key is not believed.
 */
export function enclose(kind: Kind, key: string, entry: Enclosed, secret: string | undefined): string {
  const body = JSON.stringify({ kind, ...entry })
  return `${format} ${sealOf(key, body, secret)} ${body}`
}

/** The entry in the text, or `undefined` when there is the least doubt about it. Never throws. */
export function open(
  kind: Kind,
  key: string,
  text: unknown,
  { maxChars, secret }: { readonly maxChars: number; readonly secret: string | undefined }
): Enclosed | undefined {
  if (typeof text !== 'string' || text.length > maxChars || !text.startsWith(`${format} `)) return undefined
  const sealEnd = format.length + 1 + sealLength
  if (text[sealEnd] !== ' ') return undefined
  const body = text.slice(sealEnd + 1)
  const seal = Buffer.from(text.slice(format.length + 1, sealEnd))
  const expected = Buffer.from(sealOf(key, body, secret))
  if (seal.length !== expected.length || !timingSafeEqual(seal, expected)) return undefined
  const entry = parseJson(body)
  if (!isJsonObject(entry) || entry.kind !== kind || !isJson(entry)) return undefined
  const { value, storedAt, ttlMs } = entry
  if (typeof storedAt !== 'number' || typeof ttlMs !== 'number' || value === undefined) return undefined
  if (kind === 'chat' && !isAnswer(value)) return undefined
  return { value, storedAt, ttlMs }
}

function sealOf(key: string, body: string, secret: string | undefined): string {
  return digestOf(`${key}\n${body}`, secret)
}
