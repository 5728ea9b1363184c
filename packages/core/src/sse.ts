import { isAscii } from 'node:buffer'
import { checkOptions } from './check-options.ts'
import { MillraceError } from './error.ts'

/** One server-sent event, as the WHATWG HTML standard section 9.2 dispatches it. */
export interface ServerSentEvent {
  /** `message` unless the server named it. */
  readonly event: string
  /** Lines of `data` joined by line feeds. */
  readonly data: string
  /** The last `id` seen so far; `''` before the first. */
  readonly id: string
}

export interface SSEOptions {
  /** Longest event in UTF-16 code units, its incomplete line included. @default 1048576 */
  readonly maxEventChars?: number | undefined
  /** Takes events whose text it knows before they are parsed. @default every event is parsed */
  readonly shortcut?: EventShortcut | undefined
}

/**
 * Most events of a stream are the same text but for a few words in its middle: who knows that text need not have it parsed
 * again.
 */
export interface EventShortcut {
  /**
   * An event begins at `start`, or all it has had are comments and an id. Gives where the one it took ends, its blank line
   * included; -1 when it took none. `text` is what was read, a character for each of the `bytes`: UTF-8 has not been
   * decoded. The bytes are only lent.
   */
  take(text: string, start: number, bytes: Buffer): number
  /** What has just been dispatched stands from `start` to `end`. Not told of events that came in pieces. */
  learn(text: string, start: number, end: number): void
}

export interface SSEParser {
  /**
   * Whatever this or `onEvent` throws, the rest of `bytes` is lost: the parser is of no more use.
   *
   * @throws {MillraceError} `protocol` with `reason: 'too-large'` when an event outgrows `maxEventChars`
   */
  push(bytes: Uint8Array): void
  /** All pieces of one read: they are decoded together, for that costs more than the parsing where they are small. */
  pushAll(pieces: readonly Uint8Array[]): void
  /**
   * The bytes have ended. A browser drops an event that has no blank line behind it; providers are seen to leave it out,
   * so here it is dispatched. After a cut it may be half an event.
   *
   * @throws {MillraceError} as `push` does
   */
  end(): void
  /** Reconnection time the server asked for, in milliseconds. */
  readonly retryMs: number | undefined
}

const lineFeed = 10
/** The one at the very start is dropped; a later one is text. */
const byteOrderMark = '\u00ef\u00bb\u00bf'

/**
 * A push parser: bytes in any cut, events out, synchronously, so that many events of one read cost no promise. Each
 * character is looked at once, and a line is joined once, however small the pieces it came in.
 *
 * @example
 * const parser = createSSEParser((event) => console.log(event.data))
 * for await (const batch of response.body) parser.pushAll(batch)
 * parser.end()
 */
export function createSSEParser(onEvent: (event: ServerSentEvent) => void, options: SSEOptions = {}): SSEParser {
  checkOptions<SSEOptions>('createSSEParser', options, { maxEventChars: 1, shortcut: 1 })
  const { maxEventChars = 1_048_576, shortcut } = options
  if (!(maxEventChars > 0)) throw new TypeError(`maxEventChars must be a number above 0, not ${maxEventChars}`)
  // Lines are found in the bytes as they are, for no byte of a longer character looks like a line's end; only what is used of
  // them is decoded. So a character may be cut anywhere, and most of the bytes of most events are never decoded at all.
  let atStart = true
  let pieces: string[] = [] // of the line that has not ended yet, a character for each byte
  let pieceChars = 0
  let afterCarriageReturn = false
  let data: string | undefined
  let event = ''
  let id = ''
  let retryMs: number | undefined
  // Small pieces are put together here, again and again: buffers for each batch were seen to double a process's memory.
  let scratch: Uint8Array = nothing

  function push(bytes: Uint8Array): void {
    if (bytes.byteLength === 0) return
    const own = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    const isPlain = isAscii(own)
    if (!atStart || isPlain) read(own, isPlain)
    else begin(own)
  }

  function pushScratch(size: number): 0 {
    push(scratch.subarray(0, size))
    return 0
  }

  function grow(size: number): void {
    const larger = new Uint8Array(Math.min(maxScratchBytes, Math.max(size * 2, firstScratchBytes)))
    larger.set(scratch)
    scratch = larger
  }

  /** As long as the bytes can still be a byte order mark, they wait for the rest of it. */
  function begin(bytes: Buffer): void {
    const text = pieces.join('') + bytes.toString('latin1')
    const isOpen = text.length < byteOrderMark.length && byteOrderMark.startsWith(text)
    pieces = isOpen ? [text] : []
    if (!isOpen) read(Buffer.from(text.startsWith(byteOrderMark) ? text.slice(byteOrderMark.length) : text, 'latin1'), false)
  }

  /** `isPlain`: all of it is ASCII. */
  function read(bytes: Buffer, isPlain: boolean): void {
    const text = bytes.toString('latin1')
    atStart = false
    if (text === '') return
    let start = 0
    if (afterCarriageReturn) {
      afterCarriageReturn = false
      if (text.charCodeAt(0) === lineFeed) start = 1
    }
    let cr = text.indexOf('\r', start)
    let lf = text.indexOf('\n', start)
    let eventStart = -1
    while (cr !== -1 || lf !== -1) {
      if (shortcut !== undefined && data === undefined && event === '' && pieces.length === 0) {
        const taken = shortcut.take(text, start, bytes)
        if (taken === -1) eventStart = start
        else {
          if (taken - start > maxEventChars) checkSize(decodedLength(text.slice(start, taken)))
          start = taken
          if (lf < start) lf = text.indexOf('\n', start)
          if (cr !== -1 && cr < start) cr = text.indexOf('\r', start)
          continue
        }
      }
      const byCarriageReturn = cr !== -1 && (lf === -1 || cr < lf)
      const end = byCarriageReturn ? cr : lf
      const isBlank = end === start && pieces.length === 0 && data !== undefined
      endLine(text.slice(start, end), isPlain)
      start = end + 1
      if (byCarriageReturn) {
        if (start === text.length) afterCarriageReturn = true
        else if (text.charCodeAt(start) === lineFeed) start++
        cr = text.indexOf('\r', start)
      }
      if (lf !== -1 && lf < start) lf = text.indexOf('\n', start)
      if (isBlank && eventStart !== -1 && !afterCarriageReturn) shortcut?.learn(text, eventStart, start)
    }
    if (start === text.length) return
    const piece = start === 0 ? text : text.slice(start)
    pieces.push(piece)
    pieceChars += isPlain ? piece.length : decodedLength(piece)
    checkSize(pieceChars + (data?.length ?? 0))
  }

  function endLine(tail: string, isPlain: boolean): void {
    if (pieces.length === 0) return takeLine(isPlain ? tail : decode(tail))
    pieces.push(tail)
    const line = pieces.join('')
    pieces = []
    pieceChars = 0
    takeLine(decode(line))
  }

  function takeLine(line: string): void {
    if (line === '') return dispatch()
    if (line.startsWith('data:')) return takeData(line.slice(line.charCodeAt(5) === 32 ? 6 : 5))
    const colon = line.indexOf(':')
    if (colon === 0) return // a comment: the heartbeat of most servers
    const field = colon === -1 ? line : line.slice(0, colon)
    const value = colon === -1 ? '' : line.slice(line.charCodeAt(colon + 1) === 32 ? colon + 2 : colon + 1)
    if (field === 'data') takeData(value)
    else if (field === 'event') event = value
    else if (field === 'id' && !value.includes('\0')) id = value
    else if (field === 'retry' && /^[0-9]{1,15}$/.test(value)) retryMs = Number(value)
  }

  function takeData(value: string): void {
    data = data === undefined ? value : `${data}\n${value}`
    checkSize(data.length)
  }

  function checkSize(chars: number): void {
    if (chars <= maxEventChars) return
    throw new MillraceError('protocol', `a server-sent event is longer than ${maxEventChars} characters (maxEventChars)`, {
      details: { reason: 'too-large' }
    })
  }

  function dispatch(): void {
    const message = data
    const name = event
    data = undefined
    event = ''
    if (message !== undefined) onEvent({ event: name === '' ? 'message' : name, data: message, id })
  }

  return {
    push,
    pushAll(all) {
      let size = 0
      for (const piece of all) {
        if (size > 0 && size + piece.byteLength > maxScratchBytes) size = pushScratch(size)
        if (piece.byteLength >= smallBytes || all.length === 1) {
          if (size > 0) size = pushScratch(size)
          push(piece)
        } else {
          if (size + piece.byteLength > scratch.byteLength) grow(size + piece.byteLength)
          scratch.set(piece, size)
          size += piece.byteLength
        }
      }
      if (size > 0) pushScratch(size)
    },
    end() {
      if (pieces.length > 0) endLine('', false)
      dispatch()
    },
    get retryMs() {
      return retryMs
    }
  }
}

/** Below this, a piece is cheaper joined with its neighbours than decoded by itself. */
const smallBytes = 1024
const firstScratchBytes = 4096
/** A whole read of a socket. */
const maxScratchBytes = 65_536
const nothing = new Uint8Array(0)

/** Bytes, a character each, as UTF-8; what is invalid becomes U+FFFD, as the Encoding standard has it. */
function decode(bytes: string): string {
  return Buffer.from(bytes, 'latin1').toString('utf8')
}

/** How long they are as UTF-16: every character has one byte that continues none, and those of four bytes are pairs. */
function decodedLength(bytes: string): number {
  let length = 0
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes.charCodeAt(at)
    if (byte < 0x80 || byte >= 0xc0) length += byte >= 0xf0 ? 2 : 1
  }
  return length
}
