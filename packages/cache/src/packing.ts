import { constants as buffers } from 'node:buffer'
import { constants as zlib, zstdCompressSync, zstdDecompressSync } from 'node:zlib'

/** The first word of every sealed text. Behind it come a space, a letter for the mode, and the packing. */
export const format = 'millrace2'

/** How a text stands in a sealed one: as it is, or compressed. Each seal protects this letter too. */
export type Packing = 't' | 'z'

/** Smaller texts are not worth the 24 microseconds. */
const minPackedChars = 4096
/** Our own windows are 2 MiB; a frame that asks for more is somebody else's. */
const maxWindowLog = 23

export function packingOf(sealed: string): Packing | undefined {
  const letter = sealed[format.length + 2]
  return letter === 't' || letter === 'z' ? letter : undefined
}

/** `undefined`: too small to be worth it, or so large that it would not be unpacked. */
export function pack(text: string, maxChars: number): Buffer | undefined {
  return text.length < minPackedChars || text.length > maxChars ? undefined : zstdCompressSync(text)
}

/** @throws for what is no zstd, or too large: no more is unpacked than `maxChars` can take */
export function unpack(bytes: Buffer, maxChars: number): string {
  return zstdDecompressSync(bytes, {
    maxOutputLength: Math.min(3 * Math.ceil(maxChars), buffers.MAX_LENGTH),
    params: { [zlib.ZSTD_d_windowLogMax]: maxWindowLog }
  }).toString()
}
