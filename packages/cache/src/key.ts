import { createHmac, hash } from 'node:crypto'
import type { ChatRequest, Json } from '@millrace/core'
import { canonical } from './canonical.ts'

/** Part of every key: a change of what is keyed, or how, leaves old entries behind instead of misreading them. */
const keyVersion = 2

/** For each field of a type, whether it counts: one that is not classed does not compile. */
export type FieldClasses<T> = Readonly<Record<keyof T, 'keyed' | 'ignored'>>

/** Whether a request is streamed and how long it may take is no part of it: those stand in `CallOptions`. */
const requestFields: FieldClasses<ChatRequest> = {
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

const keyedOf = dropIgnored(requestFields)

/** What a key holds beside the request. */
export interface KeyOptions {
  /** Who answers: a base URL, or a name you give a list of providers. */
  readonly origin: string
  /** Who may share answers. */
  readonly scope: string
  /** A part of its own below the scope; absent is not `''`. */
  readonly tenant?: string | undefined
  /** Makes it an HMAC, so that nobody who sees keys can test a guessed prompt against them. @default none */
  readonly secret?: string | undefined
}

/**
 * The key of a request: 64 hex digits, from which no prompt can be read back. Equal for equal requests whatever their
 * property order; every field counts, those the contract does not know included. Whether it is streamed does not.
 *
 * @throws {TypeError} when the request is not plain JSON
 *
 * @example
 * const request: ChatRequest = { model: 'gpt-5.6', messages: [{ role: 'user', content: 'Hello' }] }
 * const key = keyOf(request, { origin: 'https://api.openai.com', scope: 'shop' })
 */
export function keyOf(request: ChatRequest, options: KeyOptions): string {
  return keyIn('chat', keyedOf(request) as unknown as Json, options.origin, options)
}

/** The key of a value that `cache.wrap` keeps; never equal to one of the other two kinds. */
export function wrapKeyOf(key: Json, options: Omit<KeyOptions, 'origin'>): string {
  return keyIn('wrap', key, null, options)
}

/** The key of an HTTP request: of what the fetch door says counts of it. Never equal to one of the other two kinds. */
export function httpKeyOf(material: Json, options: KeyOptions): string {
  return keyIn('http', material, options.origin, options)
}

/**
 * A scope made of a credential, which cannot be read back from it: calls with the same one share answers. 64 hex digits.
 * The empty credential, of a provider that asks for none, has a scope as well.
 *
 * @example
 * const scope = scopeOf('sk-live-1', 'a secret of our own')
 */
export function scopeOf(credential: string, secret: string): string {
  return digestOf(canonical(['credential', credential]), secret)
}

/**
 * The name of entries that can be invalidated together, as it stands in the store: 32 hex digits. Without a secret a
 * guessed name can be tested against it. No version goes in: one word reaches the entries of older and newer releases.
 *
 * @example
 * const group = groupOf('tag', 'prices', undefined)
 */
export function groupOf(kind: 'all' | 'scope' | 'tenant' | 'tag', name: string, secret: string | undefined): string {
  return digestOf(canonical(['group', kind, name]), secret).slice(0, 32)
}

/**
 * Gives a value without the fields that are classed as `ignored`: itself where it has none, else a copy.
 *
 * @example
 * dropIgnored({ model: 'keyed', stream: 'ignored' })({ model: 'm', stream: true }) // { model: 'm' }
 */
export function dropIgnored(classes: Readonly<Record<string, 'keyed' | 'ignored'>>): <T extends object>(value: T) => T {
  const ignored = Object.keys(classes).filter((name) => classes[name] === 'ignored')
  return (value) => {
    if (!ignored.some((name) => Object.hasOwn(value, name))) return value
    // fromEntries defines, so that an own `__proto__` stays a field like any other.
    return Object.fromEntries(Object.entries(value).filter(([name]) => !ignored.includes(name))) as typeof value
  }
}

function keyIn(kind: 'chat' | 'wrap' | 'http', asked: Json, origin: string | null, options: Omit<KeyOptions, 'origin'>): string {
  const { scope, tenant, secret } = options
  return digestOf(canonical([kind, keyVersion, origin, scope, tenant ?? null, asked]), secret)
}

/** The first word of a text says what it is for, so that no two purposes ever share a digest. */
function digestOf(text: string, secret: string | undefined): string {
  const digest = hash('sha256', text)
  // Over the digest: an HMAC of the long text would cost more than one pass of plain SHA-256.
  return secret === undefined ? digest : createHmac('sha256', secret).update(digest).digest('hex')
}
