export interface ImageSize {
  readonly width: number
  readonly height: number
}

/** Segments of a JPEG that are looked through for its size; more than a real one has before its picture begins. */
const maxSegments = 500

/**
 * The size of a picture in a `data:` URL in base64, from its first bytes: PNG, JPEG, GIF, WebP. The rest is not decoded: a
 * picture of 20 MB costs no more than a small one. Undefined where there is no such header.
 */
export function imageSize(url: string): ImageSize | undefined {
  const head = /^data:[^,]{0,200};base64,/i.exec(url.slice(0, 220))
  if (head === null) return undefined
  const start = head[0].length

  /** Some bytes from anywhere: four characters are three bytes. Fewer at the end of the picture. */
  function bytes(at: number, length: number): Buffer {
    const skipped = at % 3
    const from = start + ((at - skipped) / 3) * 4
    const text = url.slice(from, from + Math.ceil((skipped + length) / 3) * 4)
    return Buffer.from(text, 'base64').subarray(skipped, skipped + length)
  }

  const first = bytes(0, 30)
  if (first.length < 10) return undefined
  const kind = first.toString('latin1')
  if (kind.startsWith('\x89PNG\r\n\x1a\n'))
    return first.length < 24 ? undefined : size(first.readUInt32BE(16), first.readUInt32BE(20))
  if (kind.startsWith('GIF8')) return size(first.readUInt16LE(6), first.readUInt16LE(8))
  if (kind.startsWith('\xff\xd8')) return jpegSize(bytes)
  if (kind.startsWith('RIFF') && kind.startsWith('WEBP', 8) && first.length === 30) return webpSize(first, kind.slice(12, 16))
  return undefined
}

type Bytes = (at: number, length: number) => Buffer

/** The size stands in the start of a frame, behind any number of segments: thumbnails, profiles and the like. */
function jpegSize(bytes: Bytes): ImageSize | undefined {
  let at = 2
  for (let segment = 0; segment < maxSegments; segment++) {
    const header = bytes(at, 9)
    if (header.length < 9 || header[0] !== 0xff) return undefined
    const marker = header[1] as number
    if (marker === 0xff) {
      at++ // a filling byte
      continue
    }
    const isFrame = marker >= 0xc0 && marker <= 0xcf && marker !== 0xc4 && marker !== 0xc8 && marker !== 0xcc
    if (isFrame) return size(header.readUInt16BE(7), header.readUInt16BE(5))
    const length = header.readUInt16BE(2)
    if (length < 2) return undefined
    at += 2 + length
  }
  return undefined
}

function webpSize(first: Buffer, kind: string): ImageSize | undefined {
  if (kind === 'VP8 ') return size(first.readUInt16LE(26) & 0x3fff, first.readUInt16LE(28) & 0x3fff)
  if (kind === 'VP8X') return size(first.readUIntLE(24, 3) + 1, first.readUIntLE(27, 3) + 1)
  if (kind !== 'VP8L') return undefined
  const bits = first.readUInt32LE(21)
  return size((bits & 0x3fff) + 1, ((bits >>> 14) & 0x3fff) + 1)
}

function size(width: number, height: number): ImageSize | undefined {
  return width > 0 && height > 0 ? { width, height } : undefined
}
