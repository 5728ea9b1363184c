import { createHmac, hash } from 'node:crypto'
import type { ChatRequest, Json } from '@millrace/core'
import { canonical } from './canonical.ts'

/** Part of every key: a change of what is keyed, or how, leaves old entries behind instead of misreading them. */
const keyVersion = 1

/** A new field of `ChatRequest` does not compile until it is classed here. Only `ignored` ones stay out of the key. */
const fields: Readonly<Record<keyof ChatRequest, 'keyed' | 'ignored'>> = {
  model: 'keyed',
  messages: 'keyed',
  tools: 'keyed',
  toolChoice: 'keyed',
  responseFormat: 'keyed',
  maxOutputTokens: 'keyed',
  temperature: 'keyed',
  topP: 'keyed',
  stop: 'keyed',
  seed: 'keyed',
  extra: 'keyed'
}
const ignored: ReadonlySet<string> = new Set(Object.entries(fields).flatMap(([name, kind]) => (kind === 'ignored' ? [name] : [])))

/** What a key holds beside the request. */
export interface KeyOptions {
  /** Who answers: a base URL, or a name you give a list of providers. */
  readonly origin: string
  /** Who may share answers. */
  readonly scope: string
  /** A part of its own below the scope; absent is not `''`. */
  readonly tenant?: string | undefined
  /** Makes it an HMAC, so that nobody who sees keys can test a guessed prompt against them. */
  readonly secret?: string | undefined
}

/**
 * The key of a request: 64 hex digits, from which no prompt can be read back. Equal for equal requests whatever their
 * property order; every field counts, those the contract does not know included. Whether it is streamed does not.
 *
 * @throws {TypeError} when the request is not plain JSON
 *
 * @example
 * const key = keyOf(request, { origin: 'https://api.openai.com', scope: 'shop' })
 */
export function keyOf(request: ChatRequest, { origin, scope, tenant, secret }: KeyOptions): string {
  // No prototype: a request parsed from JSON may have a field called `__proto__`, which must count like any other.
  const asked: Record<string, Json> = Object.create(null)
  for (const [name, value] of Object.entries(request)) {
    if (!ignored.has(name)) asked[name] = value
  }
  return digestOf(canonical(['chat', keyVersion, origin, scope, tenant ?? null, asked]), secret)
}

/** The key of a value that `cache.wrap` keeps; never equal to one of `keyOf`. */
export function wrapKeyOf(key: Json, { scope, tenant, secret }: Omit<KeyOptions, 'origin'>): string {
  return digestOf(canonical(['wrap', keyVersion, scope, tenant ?? null, key]), secret)
}

/** SHA-256 of a text in hex, or its HMAC. */
export function digestOf(text: string, secret: string | undefined): string {
  if (secret === undefined) return hash('sha256', text)
  return createHmac('sha256', secret).update(text).digest('hex')
}
