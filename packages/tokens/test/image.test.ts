import type { ImagePart, Message } from '@millrace/core'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { imageSize } from '../src/image-size.ts'
import { uncountedParts } from '../src/message.ts'
import { ruleOf } from '../src/model.ts'
import { since } from './cpu.ts'

const seed = 20_261_123
const dataUrl = (bytes: Uint8Array, type = 'png'): string => `data:image/${type};base64,${Buffer.from(bytes).toString('base64')}`

function png(width: number, height: number): Buffer {
  const bytes = Buffer.alloc(33)
  bytes.write('\x89PNG\r\n\x1a\n\0\0\0\rIHDR', 'latin1')
  bytes.writeUInt32BE(width, 16)
  bytes.writeUInt32BE(height, 20)
  return bytes
}
function gif(width: number, height: number): Buffer {
  const bytes = Buffer.from('GIF89a\0\0\0\0\xf7\0\0', 'latin1')
  bytes.writeUInt16LE(width, 6)
  bytes.writeUInt16LE(height, 8)
  return bytes
}
/** With a segment of so many bytes before the frame, as a camera writes a thumbnail. */
function jpeg(width: number, height: number, before: number): Buffer {
  const segment = Buffer.alloc(before + 4, 0xff)
  segment.writeUInt16BE(0xffe1, 0)
  segment.writeUInt16BE(before + 2, 2)
  const frame = Buffer.from([0xff, 0xff, 0xc2, 0, 17, 8, 0, 0, 0, 0, 3])
  frame.writeUInt16BE(height, 6)
  frame.writeUInt16BE(width, 8)
  return Buffer.concat([Buffer.from([0xff, 0xd8]), segment, frame])
}
function webp(kind: 'VP8 ' | 'VP8L' | 'VP8X', width: number, height: number): Buffer {
  const bytes = Buffer.alloc(40)
  bytes.write(`RIFF\0\0\0\0WEBP${kind}`, 'latin1')
  if (kind === 'VP8 ') {
    bytes.writeUInt16LE(width, 26)
    bytes.writeUInt16LE(height, 28)
  } else if (kind === 'VP8X') {
    bytes.writeUIntLE(width - 1, 24, 3)
    bytes.writeUIntLE(height - 1, 27, 3)
  } else {
    bytes[20] = 0x2f
    bytes.writeUInt32LE(((height - 1) << 14) | (width - 1), 21)
  }
  return bytes
}

test.each([
  ['PNG', png(1920, 1080)],
  ['GIF', gif(1920, 1080)],
  ['JPEG', jpeg(1920, 1080, 0)],
  ['JPEG behind 60 KB of metadata', jpeg(1920, 1080, 60_001)],
  ['lossy WebP', webp('VP8 ', 1920, 1080)],
  ['lossless WebP', webp('VP8L', 1920, 1080)],
  ['extended WebP', webp('VP8X', 1920, 1080)]
])('reads the size of a %s from its header', (_, bytes) => {
  expect(imageSize(dataUrl(bytes))).toEqual({ width: 1920, height: 1080 })
})

test('knows no size of what is elsewhere, cut short, empty or of another kind', () => {
  const others = ['https://example.com/a.png', 'data:image/png,abc', 'data:image/png;base64,', dataUrl(Buffer.from('<svg/>')), '']
  for (const url of others) expect(imageSize(url), url).toBeUndefined()
  for (const bytes of [png(5, 5).subarray(0, 20), jpeg(5, 5, 9).subarray(0, 14), webp('VP8X', 5, 5).subarray(0, 25), png(0, 5)]) {
    expect(imageSize(dataUrl(bytes))).toBeUndefined()
  }
})

test('decodes the header alone: a picture of 20 MB takes no longer than one of 2 KB', () => {
  const timeOf = (url: string): number => {
    const startedAt = process.cpuUsage()
    for (let n = 0; n < 200; n++) imageSize(url)
    return since(startedAt)
  }
  const small = dataUrl(Buffer.concat([jpeg(640, 480, 900), Buffer.alloc(2000)]))
  const large = dataUrl(Buffer.concat([jpeg(640, 480, 900), Buffer.alloc(20_000_000)]))
  timeOf(small)
  timeOf(large) // puts the text together, which is not what is measured
  expect(timeOf(large)).toBeLessThan(timeOf(small) * 20 + 20)
})

test(`no header crashes or holds it up, whatever it claims (seed ${seed})`, () => {
  const starts = [
    png(7, 7),
    gif(7, 7),
    jpeg(7, 7, 4),
    webp('VP8 ', 7, 7),
    webp('VP8L', 7, 7),
    webp('VP8X', 7, 7),
    Buffer.from([0xff, 0xd8])
  ]
  const picture = fc.tuple(fc.constantFrom(...starts), fc.nat(40), fc.uint8Array({ maxLength: 4000 }))
  fc.assert(
    fc.property(picture, ([start, kept, rest]) => {
      const url = dataUrl(Buffer.concat([start.subarray(0, kept), rest]))
      const size = imageSize(url)
      if (size !== undefined) expect(Math.min(size.width, size.height)).toBeGreaterThan(0)
      for (const model of ['gpt-4o', 'gpt-5-mini', 'claude-opus-5-5', 'gemini-2.5-flash']) {
        const tokens = ruleOf(model).image?.({ type: 'image', url })
        if (tokens !== undefined)
          expect(tokens).toSatisfy((value: number) => Number.isSafeInteger(value) && value > 0 && value < 100_000)
      }
    }),
    { seed, numRuns: 500 }
  )
  const segments = Buffer.concat([Buffer.from([0xff, 0xd8]), Buffer.alloc(1_000_000, Buffer.from([0xff, 0xe0, 0, 2]))])
  expect(imageSize(dataUrl(segments))).toBeUndefined()
})

const cost = (model: string, width: number, height: number, detail?: ImagePart['detail']): number | undefined =>
  ruleOf(model).image?.({ type: 'image', url: dataUrl(png(width, height)), detail })

// The examples of OpenAI's and Google's documentation, and what was measured on the API (800 x 400, gpt-5-mini).
test.each([
  ['gpt-4o', 1024, 1024, 'high', 765],
  ['gpt-4o', 2048, 4096, 'high', 1105],
  ['gpt-4o', 4096, 8192, 'low', 85],
  ['gpt-4-vision-preview', 800, 400, undefined, 425],
  ['gpt-4.1', 1024, 1024, 'auto', 765],
  ['gpt-4o-mini', 512, 512, 'high', 8500],
  ['o3', 1024, 1024, 'high', 675],
  ['gpt-5', 1024, 1024, 'high', 630],
  ['gpt-4.1-mini', 1024, 1024, 'high', 1659],
  ['gpt-4.1-nano', 1800, 2400, 'high', 3572],
  ['o4-mini', 1800, 2400, 'low', 2498],
  ['gpt-5-mini', 256, 256, 'high', 77],
  ['gpt-5-mini', 768, 1024, 'high', 922],
  ['gpt-5-mini', 2048, 768, 'high', 1844],
  ['gpt-5-nano', 1600, 1600, 'high', 2282],
  ['claude-sonnet-4-6', 1092, 1092, undefined, 1521],
  ['claude-sonnet-4-6', 8000, 8000, undefined, 1568],
  ['claude-opus-5-5', 2576, 1456, undefined, 4784],
  ['gemini-2.5-flash', 384, 384, undefined, 258],
  ['gemini-2.5-flash', 960, 540, undefined, 1548],
  ['gemini-3-pro-preview', 20, 20, undefined, 1120]
] as const)('%s counts %d x %d in detail %s as %d tokens', (model, width, height, detail, tokens) => {
  expect(cost(model, width, height, detail)).toBe(tokens)
})

test('an image is known where its price needs no size or its size can be read, and uncounted everywhere else', () => {
  const of = (...parts: readonly ImagePart[]): Message[] => [{ role: 'tool', toolCallId: 'a', content: parts }]
  const away: ImagePart = { type: 'image', url: 'https://example.com/a.png' }
  const here: ImagePart = { type: 'image', url: dataUrl(png(64, 64)) }
  expect(uncountedParts(of(here, away))).toBe(2)
  expect(uncountedParts(of(here, away), 'gpt-4o')).toBe(1)
  expect(uncountedParts(of(here, { ...away, detail: 'low' }), 'gpt-4o')).toBe(0)
  expect(uncountedParts(of(here, { ...away, detail: 'low' }), 'gpt-5-mini')).toBe(1)
  expect(uncountedParts(of(here, away), 'gemini-3.5-flash')).toBe(0)
  expect(uncountedParts(of(here, away), 'qwen3-max')).toBe(2)
})
