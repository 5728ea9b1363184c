/** Bytes in any cut to text, as the Encoding standard has it: what is invalid becomes U+FFFD. A byte order mark is kept. */
export interface Utf8Decoder {
  decode(bytes: Uint8Array): string
  /** The bytes have ended: what is still held back becomes U+FFFD. */
  end(): string
}

/**
 * By hand, for a `TextDecoder` that takes pieces builds an ICU converter, which costs a short stream more than its parsing.
 */
export function createUtf8Decoder(): Utf8Decoder {
  let held: Buffer | undefined
  return {
    decode(bytes) {
      const own = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      const all = held === undefined ? own : Buffer.concat([held, own])
      const end = wholeEnd(all)
      held = end === all.length ? undefined : Buffer.from(all.subarray(end))
      return all.toString('utf8', 0, end)
    },
    end() {
      const text = held?.toString('utf8') ?? ''
      held = undefined
      return text
    }
  }
}

/** Where a character begins whose end has not come yet, which the last three bytes can hold; or the end. */
function wholeEnd(bytes: Uint8Array): number {
  const end = bytes.length
  for (let at = end - 1; at >= 0 && at >= end - 3; at--) {
    const byte = bytes[at] as number
    if (byte < 0x80) return end
    if (byte < 0xc0) continue // the lead stands further left
    const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2
    return at + length > end ? at : end
  }
  return end
}
