import { describe, expect, it } from 'vitest'
import { createDigestSet } from '../src/digest-set.ts'
import { type Line, readLines } from '../src/lines.ts'

async function linesOf(...pieces: (string | Uint8Array)[]): Promise<Line[]> {
  async function* bytes(): AsyncGenerator<Uint8Array> {
    for (const piece of pieces) yield Buffer.from(piece)
  }
  const lines: Line[] = []
  for await (const line of readLines(bytes())) lines.push(line)
  return lines
}

describe('readLines', () => {
  it('passes over a byte order mark, CRLF and blank lines, and counts them', async () => {
    expect(await linesOf('\ufeffone\r\n\r\n  \n', 'two\n', '\nthree')).toEqual([
      { number: 1, text: 'one' },
      { number: 4, text: 'two' },
      { number: 6, text: 'three' }
    ])
  })

  it('gives the same lines wherever the bytes are cut', async () => {
    const whole = Buffer.from('\ufeff{"a":"ä"}\r\n\n{"b":"\u{1f600}\u2028"}\n"c"')
    const expected = await linesOf(whole)
    expect(expected.map(({ number }) => number)).toEqual([1, 3, 4])
    for (let at = 0; at <= whole.length; at++) {
      expect(await linesOf(whole.subarray(0, at), whole.subarray(at))).toEqual(expected)
    }
    expect(await linesOf(...Array.from(whole, (byte) => Uint8Array.of(byte)))).toEqual(expected)
  })

  it('tells a line that is no UTF-8, and goes on', async () => {
    const bytes = Buffer.concat([Buffer.from('a\n'), Buffer.from([0xff, 0xfe, 0x0a]), Buffer.from('b\n')])
    expect(await linesOf(bytes)).toEqual([
      { number: 1, text: 'a' },
      { number: 2, problem: 'is not UTF-8' },
      { number: 3, text: 'b' }
    ])
  })

  it('tells a line of more than 32 MiB without keeping it, and takes one of 32', async () => {
    const piece = Buffer.alloc(1024 * 1024, 'x')
    const long = Array.from({ length: 33 }, () => piece)
    const [first, second] = await linesOf(...long, '\nb\n')
    expect(first).toEqual({ number: 1, problem: 'is longer than 32 MiB' })
    expect(second).toEqual({ number: 2, text: 'b' })
    const [fits] = await linesOf(...long.slice(1))
    expect(fits?.problem).toBeUndefined()
    expect(fits).toHaveProperty('text.length', 32 * 1024 * 1024)
  })
})

describe('createDigestSet', () => {
  it('knows each of 200,000 texts again and no other, in 32 bytes each at most', () => {
    const before = process.memoryUsage().arrayBuffers
    const seen = createDigestSet()
    for (let n = 0; n < 200_000; n++) if (!seen.add(`item-${n}`)) expect.unreachable(`item-${n} is new`)
    for (let n = 0; n < 200_000; n++) if (seen.add(`item-${n}`)) expect.unreachable(`item-${n} was there`)
    expect(seen.add('another')).toBe(true)
    expect([seen.add('\ud800'), seen.add('\ud801')], 'halves of pairs').toEqual([true, true])
    // The table before the last doubling may not be collected yet.
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(200_000 * 32 * 2.5)
  })
})
