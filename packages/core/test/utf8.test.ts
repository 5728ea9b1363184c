import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createUtf8Decoder } from '../src/utf8.ts'

const seed = 61

function decodeIn(pieces: readonly Uint8Array[]): string {
  const decoder = createUtf8Decoder()
  return pieces.map((piece) => decoder.decode(piece)).join('') + decoder.end()
}

function cutAt(bytes: Uint8Array, places: readonly number[]): Uint8Array[] {
  const ends = [...new Set(places.map((place) => place % (bytes.length + 1)))].toSorted((a, b) => a - b)
  return [...ends, bytes.length].map((end, index) => bytes.slice(index === 0 ? 0 : ends[index - 1], end))
}

/** The Encoding standard's decoder, which keeps a byte order mark too. */
const standard = (bytes: Uint8Array): string => new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes)

describe('createUtf8Decoder', () => {
  test(`decodes any bytes in any cut as the Encoding standard does (seed ${seed})`, () => {
    // Bytes of every class: ASCII, continuations, leads of two, three and four, and what is never valid.
    const byte = fc.oneof(
      fc.integer({ min: 0, max: 255 }),
      fc.constantFrom(0x41, 0x80, 0x9f, 0xa0, 0xbf, 0xc0, 0xc2, 0xdf, 0xe0, 0xed, 0xef, 0xf0, 0xf4, 0xf5, 0xff)
    )
    fc.assert(
      fc.property(fc.array(byte, { maxLength: 40 }), fc.array(fc.nat(), { maxLength: 12 }), (bytes, places) => {
        const all = Uint8Array.from(bytes)
        expect(decodeIn(cutAt(all, places))).toBe(standard(all))
      }),
      { seed, numRuns: 5000 }
    )
  })

  test(`decodes valid text a byte at a time (seed ${seed})`, () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 30 }), (text) => {
        const bytes = new TextEncoder().encode(text)
        expect(decodeIn([...bytes].map((byte) => Uint8Array.of(byte)))).toBe(standard(bytes))
      }),
      { seed, numRuns: 1000 }
    )
  })

  test('gives a character with its last byte and no later', () => {
    const decoder = createUtf8Decoder()
    const [first, ...rest] = new TextEncoder().encode('🙂x')
    expect(decoder.decode(Uint8Array.of(first as number))).toBe('')
    expect(decoder.decode(Uint8Array.from(rest))).toBe('🙂x')
    expect(decoder.end()).toBe('')
  })

  test('keeps nothing of the bytes it was given: their memory may be used again', () => {
    const decoder = createUtf8Decoder()
    const bytes = new TextEncoder().encode('é')
    const lead = bytes.slice(0, 1)
    decoder.decode(lead)
    lead[0] = 0x41
    expect(decoder.decode(bytes.subarray(1))).toBe('é')
  })
})
