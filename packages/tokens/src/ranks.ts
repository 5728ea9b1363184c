/** No token, where a rank was asked for. */
export const none = -1

const hashFactor = 0x01000193
const slotBits = 19
const rankBits = 18
const filterBits = 21
/** More than any vocabulary here has: the ranks fit 18 bits. */
export const maxTokens: number = 1 << rankBits

/** What follows a byte in a hash. The hash of any stretch of a text comes from the hashes of its two beginnings. */
export function hashed(hash: number, byte: number): number {
  return (Math.imul(hash, hashFactor) + byte + 1) | 0
}

/** Of the bytes between two places. */
export function hashOf(bytes: Uint8Array, from: number, end: number): number {
  let hash = 0
  for (let at = from; at < end; at++) hash = hashed(hash, bytes[at] as number)
  return hash
}

/** The powers of `hashFactor`, for `Ranks.find` on stretches. */
export function hashPowers(count: number): Int32Array {
  const powers = new Int32Array(count)
  powers[0] = 1
  for (let power = 1; power < count; power++) powers[power] = Math.imul(powers[power - 1] as number, hashFactor)
  return powers
}

/**
 * The tokens of a vocabulary by their bytes: one array of all bytes and an open hash table over it, about 6 MB for 200,000
 * tokens. A map of strings would take ten times that, and could not hold the tokens that end inside a character.
 */
export class Ranks {
  /** Tokens, and so the rank that comes after the last. */
  size = 0
  /** Bytes of the longest token. */
  longest = 0
  /** Where each token begins in `bytes`; the one behind it is where it ends. */
  readonly starts: Uint32Array = new Uint32Array(maxTokens + 1)
  readonly bytes: Uint8Array
  /** Of each token's bytes. */
  readonly hashes: Int32Array = new Int32Array(maxTokens)
  // Rank + 1 in the low 18 bits, and 14 bits of the hash: almost every slot that is another token's is told by them.
  readonly #slots: Uint32Array = new Uint32Array(1 << slotBits)
  // A Bloom filter of one bit a token, 256 KB: most of what is asked for in vain is turned away before the larger table.
  readonly #filter: Uint8Array = new Uint8Array(1 << (filterBits - 3))

  constructor(bytes: number) {
    this.bytes = new Uint8Array(bytes)
  }

  /** Adds the token whose bytes stand in `bytes` behind the last one's, up to `end`. */
  add(end: number): void {
    const { starts, bytes, size } = this
    const start = starts[size] as number
    const hash = hashOf(bytes, start, end)
    this.hashes[size] = hash
    const mixed = mix(hash)
    let slot = mixed >>> (32 - slotBits)
    while (this.#slots[slot] !== 0) slot = (slot + 1) & ((1 << slotBits) - 1)
    const bit = mixed >>> (32 - filterBits)
    this.#filter[bit >>> 3]! |= 1 << (bit & 7)
    this.#slots[slot] = (size + 1) | ((mixed ^ hash) << rankBits)
    this.size = size + 1
    starts[size + 1] = end
    this.longest = Math.max(this.longest, end - start)
  }

  /** Leaves out ranks that belong to no text. */
  skipTo(rank: number): void {
    const end = this.starts[this.size] as number
    this.starts.fill(end, this.size, rank + 1)
    this.size = rank
  }

  /** False when there is surely no token of this hash. */
  mayHave(hash: number): boolean {
    const bit = mix(hash) >>> (32 - filterBits)
    return ((this.#filter[bit >>> 3] as number) & (1 << (bit & 7))) !== 0
  }

  /** The rank of the token that is exactly these bytes, or `none`; `hash` is theirs. */
  find(text: Uint8Array, from: number, end: number, hash: number): number {
    const mixed = mix(hash)
    const mark = (mixed ^ hash) << rankBits
    const { starts, bytes } = this
    const slots = this.#slots
    const length = end - from
    for (let slot = mixed >>> (32 - slotBits); ; slot = (slot + 1) & ((1 << slotBits) - 1)) {
      const entry = slots[slot] as number
      if (entry === 0) return none
      if (((entry ^ mark) & -maxTokens) !== 0) continue
      const rank = (entry & (maxTokens - 1)) - 1
      const start = starts[rank] as number
      if ((starts[rank + 1] as number) - start !== length) continue
      let at = 0
      while (at < length && bytes[start + at] === text[from + at]) at++
      if (at === length) return rank
    }
  }
}

/** Spreads a hash, whose low bits are poor, over all 32: the high ones are good after it. */
export function mix(hash: number): number {
  return Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d)
}
