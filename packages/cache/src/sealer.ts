import { createHmac, createSecretKey, timingSafeEqual } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { type Encryption, encrypting } from './encryption.ts'
import { format, type Packing, pack, packingOf, unpack } from './packing.ts'

export type { Encryption } from './encryption.ts'

/** Makes a text safe to lie in a store that others can write to, and bound to the place where it lies. */
export interface Sealer {
  seal(place: string, text: string): string
  /**
   * `undefined` for the least doubt: sealed for another place, changed, cut off, in another mode, under an unknown key, or too
   * large. Never throws.
   */
  open(place: string, sealed: unknown): string | undefined
}

export interface SealerOptions {
  /** Texts are signed with a key made of it. */
  readonly secret?: string | undefined
  /** Takes the place of signing: what it opens was written by a holder of the key, and for this place. */
  readonly encryption?: Encryption | undefined
  readonly compression: 'none' | 'zstd'
  /** Of a sealed text, and of what is in it. */
  readonly maxChars: number
}

/** One way to seal. `open` may throw for what it cannot read. */
export interface Sealing {
  seal(place: string, text: string): string
  open(place: string, sealed: string): string | undefined
}

export interface SealingOptions {
  readonly packs: boolean
  readonly maxChars: number
}

/**
 * Without a secret a seal is the place itself and a checksum, which is for damage and mix-ups, not against malice; with one it
 * is an HMAC-SHA256; with keys the text is encrypted (AES-256-GCM). A sealer opens what its own mode wrote, and nothing else.
 *
 * @throws {TypeError} for a wrong key, or a `current` that is none of the keys
 */
export function createSealer({ secret, encryption, compression, maxChars }: SealerOptions): Sealer {
  const options: SealingOptions = { packs: compression === 'zstd', maxChars }
  const sealing =
    encryption === undefined
      ? stamping(secret === undefined ? checksum : signature(secret), options)
      : encrypting(encryption, options)
  return {
    seal: sealing.seal,
    open(place, sealed) {
      if (typeof sealed !== 'string' || sealed.length > maxChars) return undefined
      try {
        const text = sealing.open(place, sealed)
        return text === undefined || text.length > maxChars ? undefined : text
      } catch {
        return undefined // neither decrypted nor unpacked: who asked counts it
      }
    }
  }
}

/** What stands before the body, `format` and packing included. The same place and body give the same stamp again. */
interface Stamp {
  lengthAt(place: string): number
  of(place: string, packing: Packing, body: string): string
  isOn(sealed: string, stamp: string): boolean
}

function stamping(stamp: Stamp, { packs, maxChars }: SealingOptions): Sealing {
  return {
    seal(place, text) {
      const body = packs ? pack(text, maxChars)?.toString('base64') : undefined
      if (body !== undefined && body.length < Buffer.byteLength(text)) return stamp.of(place, 'z', body) + body
      return stamp.of(place, 't', text) + text
    },
    open(place, sealed) {
      const packing = packingOf(sealed)
      if (packing === undefined) return undefined
      const body = sealed.slice(stamp.lengthAt(place))
      // A lone surrogate is encoded, and so checked, as the replacement character.
      if (!stamp.isOn(sealed, stamp.of(place, packing, body)) || !body.isWellFormed()) return undefined
      return packing === 't' ? body : unpack(Buffer.from(body, 'base64'), maxChars)
    }
  }
}

const checksum: Stamp = {
  lengthAt: (place) => format.length + 13 + place.length,
  of(place, packing, body) {
    const sum = crc32(body, packing === 't' ? 0 : 1)
    return `${format} p${packing}${sum.toString(16).padStart(8, '0')} ${place}\n`
  },
  isOn: (sealed, stamp) => sealed.startsWith(stamp)
}

function signature(secret: string): Stamp {
  const key = createSecretKey(createHmac('sha256', secret).update('millrace seal').digest())
  return {
    lengthAt: () => format.length + 68,
    of(place, packing, body) {
      const head = `${format} s${packing}`
      const mac = createHmac('sha256', key).update(`${head} ${place.length} ${place} `).update(body).digest('hex')
      return `${head}${mac} `
    },
    isOn(sealed, stamp) {
      const given = Buffer.from(sealed.slice(0, stamp.length))
      return given.length === stamp.length && timingSafeEqual(given, Buffer.from(stamp))
    }
  }
}
