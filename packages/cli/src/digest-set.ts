import { hash } from 'node:crypto'

/** Which texts were seen, by 64 bits of their digest. */
export interface DigestSet {
  /** False when the text was there before. */
  add(text: string): boolean
}

/**
 * A set of texts in 16 to 32 bytes each, whatever their length. Of a million texts two count as equal by accident once in
 * thirty million files.
 *
 * @example
 * const seen = createDigestSet()
 * if (!seen.add(id)) throw new Error('twice')
 */
export function createDigestSet(): DigestSet {
  let size = 0
  let table = new Uint32Array(2 * 1024)

  /** Open addressing: the digest's own place or the next free one; (0, 0) is free. */
  function put(into: Uint32Array, low: number, high: number): boolean {
    const mask = into.length / 2 - 1
    for (let at = low & mask; ; at = (at + 1) & mask) {
      const [foundLow, foundHigh] = [into[2 * at], into[2 * at + 1]]
      if (foundLow === low && foundHigh === high) return false
      if (foundLow !== 0 || foundHigh !== 0) continue
      into[2 * at] = low
      into[2 * at + 1] = high
      return true
    }
  }

  function grow(): void {
    const larger = new Uint32Array(table.length * 2)
    for (let at = 0; at < table.length; at += 2) {
      const [low = 0, high = 0] = [table[at], table[at + 1]]
      if (low !== 0 || high !== 0) put(larger, low, high)
    }
    table = larger
  }

  return {
    add(text) {
      // As JSON, for two halves of surrogate pairs are the same in UTF-8.
      const digest = hash('sha1', JSON.stringify(text), 'buffer')
      // 0 stands for a free place.
      const added = put(table, digest.readUInt32LE(0) || 1, digest.readUInt32LE(4))
      if (added && ++size * 4 > table.length) grow()
      return added
    }
  }
}
