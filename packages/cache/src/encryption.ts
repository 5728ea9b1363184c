import { createCipheriv, createDecipheriv, createSecretKey, type KeyObject, randomBytes } from 'node:crypto'
import { format, type Packing, pack, packingOf, unpack } from './packing.ts'
import type { Sealing, SealingOptions } from './sealer.ts'

/** Keys for AES-256-GCM. A new one is added and made current; an old one stays until its last entry has expired. */
export interface Encryption {
  /** The name of the key that new entries are written with. */
  readonly current: string
  /** 32 bytes each, in base64 where it is text. The names stand in the entries: 1 to 32 of `A-Z a-z 0-9 _ . -` */
  readonly keys: Readonly<Record<string, string | Uint8Array>>
}

const nonceBytes = 12
const tagBytes = 16

/**
 * `format`, `e` and packing, the key's name, a space; then in base64 nonce, encrypted text and tag. The tag binds all that
 * stands before it, and the place. Nonces are random: a key is good for some 2^32 entries.
 *
 * @throws {TypeError} for a wrong key, or a `current` that is none of the keys
 */
export function encrypting({ current, keys: given }: Encryption, { packs, maxChars }: SealingOptions): Sealing {
  const keys = keysOf(given)
  const newest = keys.get(current)
  if (newest === undefined) {
    throw new TypeError(`encryption.current must be one of the names in encryption.keys: ${[...keys.keys()].join(', ')}`)
  }
  const headOf = (packing: Packing, name: string): string => `${format} e${packing}${name} `
  return {
    seal(place, text) {
      const plain = Buffer.from(text)
      const packed = packs ? pack(text, maxChars) : undefined
      const isSmaller = packed !== undefined && packed.length < plain.length
      const head = headOf(isSmaller ? 'z' : 't', current)
      return head + encrypt(newest, isSmaller ? packed : plain, Buffer.from(head + place)).toString('base64')
    },
    open(place, sealed) {
      const packing = packingOf(sealed)
      const name = sealed.slice(format.length + 3, sealed.indexOf(' ', format.length + 1))
      const key = keys.get(name)
      if (packing === undefined || key === undefined) return undefined
      const head = headOf(packing, name)
      const body = sealed.slice(head.length)
      const bytes = Buffer.from(body, 'base64')
      // Base64 has many texts for the same bytes; ours is the one.
      if (!sealed.startsWith(head) || bytes.toString('base64') !== body) return undefined
      const plain = decrypt(key, bytes, Buffer.from(head + place))
      return packing === 't' ? plain.toString() : unpack(plain, maxChars)
    }
  }
}

function encrypt(key: KeyObject, plain: Buffer, bound: Buffer): Buffer {
  const nonce = randomBytes(nonceBytes)
  const cipher = createCipheriv('aes-256-gcm', key, nonce, { authTagLength: tagBytes }).setAAD(bound)
  return Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()])
}

/** @throws when the bytes are too few, or the tag is not theirs */
function decrypt(key: KeyObject, bytes: Buffer, bound: Buffer): Buffer {
  const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, nonceBytes), { authTagLength: tagBytes })
  decipher.setAAD(bound).setAuthTag(bytes.subarray(nonceBytes).subarray(-tagBytes))
  return Buffer.concat([decipher.update(bytes.subarray(nonceBytes, -tagBytes)), decipher.final()])
}

function keysOf(given: Encryption['keys']): Map<string, KeyObject> {
  const names = typeof given === 'object' && given !== null ? Object.keys(given) : []
  if (names.length === 0) {
    throw new TypeError(
      "encryption.keys must name at least one key. Write encryption: { keys: { '2026': key }, current: '2026' }"
    )
  }
  const keys = new Map<string, KeyObject>()
  for (const name of names) {
    if (!/^[\w.-]{1,32}$/.test(name)) {
      throw new TypeError(
        `a name in encryption.keys must be 1 to 32 of the characters A-Z a-z 0-9 _ . -, not ${JSON.stringify(name)}`
      )
    }
    keys.set(name, keyOf(name, given[name]))
  }
  return keys
}

/** The key itself stands in no error. */
function keyOf(name: string, key: unknown): KeyObject {
  const bytes = typeof key === 'string' && /^[\w+/-]{43}=?$/.test(key) ? Buffer.from(key, 'base64') : key
  if (bytes instanceof Uint8Array && bytes.length === 32) return createSecretKey(bytes)
  throw new TypeError(
    `encryption.keys['${name}'] must be 32 bytes, as a Uint8Array or in base64. Make one with: openssl rand -base64 32`
  )
}
