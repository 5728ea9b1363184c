import { isJsonObject, type Json, type JsonObject, type Usage } from '@millrace/core'
import { isUsage } from './answer.ts'
import { isCredential } from './fetch-key.ts'
import { textOf } from './fetch-request.ts'
import type { Run } from './flight.ts'
import { isOutageStatus, refusals } from './outage.ts'
import { compact, deepFreeze } from './plain.ts'
import type { Worth } from './question.ts'
import { type HttpAnswer, headersToKeep } from './wire-answer.ts'
import { saysNothing } from './wire-end.ts'

/**
 * What an HTTP answer is shared in: its head, its bytes, and behind its last event or at its end, where it is whole, what it
 * says of itself. Bytes are text of one character a byte: nobody who gets them can change those of others.
 */
export type HttpItem = HttpHead | string | HttpTail

export interface HttpHead {
  readonly kind: 'head'
  readonly status: number
  /** Without those that belong to one customer. */
  readonly headers: readonly (readonly [name: string, value: string])[]
  /** A digest of the credential that the call was sent with: another one may be answered otherwise. */
  readonly by: string
}

export interface HttpTail {
  readonly kind: 'tail'
  readonly model?: string | undefined
  readonly usage?: Usage | undefined
}

export function headOf({ status, headers }: Response, by: string): HttpHead {
  return { kind: 'head', status, headers: [...headers].filter(([name]) => !isCredential(name)), by }
}

export function isHead(item: HttpItem | undefined): item is HttpHead {
  return typeof item === 'object' && item.kind === 'head'
}

export function isTail(item: HttpItem | undefined): item is HttpTail {
  return typeof item === 'object' && item.kind === 'tail'
}

/** About what an item takes in memory. */
export function weighItem(item: HttpItem): number {
  if (typeof item === 'string') return item.length + 48
  return isHead(item) ? item.headers.reduce((sum, [name, value]) => sum + name.length + value.length + 100, 300) : 300
}

/** An answer from before is better than these. */
export function isFailure(item: HttpItem): boolean {
  return isHead(item) && isOutageStatus(item.status)
}

/** What is kept of a run: a whole answer, or a refusal. With `pace: 'recorded'` the times of a stream's pieces too. */
export function worthOf({ items, atMs }: Run<HttpItem>, pace: 'fast' | 'recorded'): Worth | undefined {
  const head = items[0]
  if (!isHead(head)) return undefined
  const { status } = head
  const headers = headersToKeep(head.headers)
  if (refusals.has(status)) {
    const body = textOf(bytesOf(items.filter(isPiece).join('')))
    return body === undefined ? undefined : { value: compact<HttpAnswer>({ status, headers, body }), refusal: true }
  }
  const tailAt = items.findIndex(isTail)
  const tail = items[tailAt]
  if (status !== 200 || !isTail(tail) || !saysNothing(items.slice(tailAt).filter(isPiece).join(''))) return undefined
  const { kind: _, ...told } = tail
  const pieces = items.filter(isPiece)
  const isPaced = pace === 'recorded' && headers.some(([, value]) => value.startsWith('text/event-stream'))
  const cameAtMs = atMs.filter((_ms, at) => isPiece(items[at] as HttpItem))
  const text = isPaced ? cutText(pieces, cameAtMs) : plainText(pieces)
  return text === undefined ? undefined : { value: compact({ status, headers, ...text, ...told }) }
}

function isPiece(item: HttpItem): item is string {
  return typeof item === 'string'
}

function plainText(pieces: readonly string[]): Pick<HttpAnswer, 'body'> | undefined {
  const body = textOf(bytesOf(pieces.join('')))
  return body === undefined ? undefined : { body }
}

/** A character whose bytes were torn apart comes with the piece that completes it. */
function cutText(pieces: readonly string[], cameAtMs: readonly number[]): Pick<HttpAnswer, 'body' | 'cuts' | 'atMs'> | undefined {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  const cuts: number[] = []
  const atMs: number[] = []
  let body = ''
  try {
    pieces.forEach((piece, index) => {
      body += decoder.decode(bytesOf(piece), { stream: true })
      cuts.push(body.length)
      atMs.push(Math.round(cameAtMs[index] ?? 0))
    })
    body += decoder.decode()
    return { body, cuts, atMs }
  } catch {
    return undefined // no text: told by the result
  }
}

/** What a stored answer came in. */
export function itemsOf(value: unknown): readonly HttpItem[] {
  const { status, headers, body, model, usage } = value as HttpAnswer
  return [{ kind: 'head', status, headers, by: '' }, Buffer.from(body).toString('latin1'), { kind: 'tail', model, usage }]
}

export function pieceOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1')
}

/** In memory of its own: that of small Buffers is shared. */
export function bytesOf(piece: string): Uint8Array<ArrayBuffer> {
  const bytes = Buffer.allocUnsafeSlow(piece.length)
  bytes.write(piece, 'latin1')
  return new Uint8Array(bytes.buffer)
}

/**
 * Pieces as the text they are, which takes the fewest bytes; as base64 where they are none, such as one half of a torn
 * character. Undefined for the head of anything but an answer: what a provider says of a failure may quote the prompt.
 */
export function encodeItem(item: HttpItem): Json | undefined {
  if (isHead(item)) return item.status === 200 ? (item as unknown as Json) : undefined
  if (isTail(item)) return item as unknown as Json
  const bytes = bytesOf(item)
  return textOf(bytes) ?? { base64: Buffer.from(bytes.buffer).toString('base64') }
}

/** What another process says that came, or undefined for what cannot have come. */
export function decodeItem(json: Json): HttpItem | undefined {
  if (typeof json === 'string') return json.isWellFormed() ? Buffer.from(json).toString('latin1') : undefined
  if (!isJsonObject(json)) return undefined
  if (typeof json.base64 === 'string') return Buffer.from(json.base64, 'base64').toString('latin1')
  return deepFreeze(json.kind === 'head' ? decodeHead(json) : json.kind === 'tail' ? decodeTail(json) : undefined)
}

function decodeHead({ status, headers, by }: JsonObject): HttpHead | undefined {
  if (typeof status !== 'number' || !Number.isInteger(status) || status < 200 || status > 599) return undefined
  if (typeof by !== 'string' || !Array.isArray(headers) || !headers.every(isHeader)) return undefined
  return { kind: 'head', status, headers, by }
}

function decodeTail({ model, usage }: JsonObject): HttpTail | undefined {
  if (model !== undefined && typeof model !== 'string') return undefined
  if (usage !== undefined && !isUsage(usage)) return undefined
  return { kind: 'tail', model, usage: usage as unknown as Usage | undefined }
}

function isHeader(pair: Json): boolean {
  if (!Array.isArray(pair) || pair.length !== 2) return false
  const [name, value] = pair as readonly Json[]
  return (
    typeof name === 'string' &&
    /^[!#$%&'*+.^_`|~\w-]+$/.test(name) &&
    typeof value === 'string' &&
    /^[\t\x20-\x7e\x80-\xff]*$/.test(value)
  )
}
