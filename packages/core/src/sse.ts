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
}

export interface SSEParser {
  /**
   * Whatever this or `onEvent` throws, the rest of `bytes` is lost: the parser is of no more use.
   *
   * @throws {MillraceError} `protocol` with `reason: 'too-large'` when an event outgrows `maxEventChars`
   */
  push(bytes: Uint8Array): void
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
const byteOrderMark = 0xfeff

/**
 * A push parser: bytes in any cut, events out, synchronously, so that many events of one read cost no promise. Each
 * character is looked at once, and a line is joined once, however small the pieces it came in.
 *
 * @example
 * const parser = createSSEParser((event) => console.log(event.data))
 * for await (const batch of response.body) for (const bytes of batch) parser.push(bytes)
 * parser.end()
 */
export function createSSEParser(onEvent: (event: ServerSentEvent) => void, options: SSEOptions = {}): SSEParser {
  checkOptions<SSEOptions>('createSSEParser', options, { maxEventChars: 1 })
  const { maxEventChars = 1_048_576 } = options
  if (!(maxEventChars > 0)) throw new TypeError(`maxEventChars must be a number above 0, not ${maxEventChars}`)
  // The decoder holds back a split character and replaces invalid bytes as the standard asks. The one leading BOM is
  // dropped here: Node's decoder drops a second one too when the first comes in several pieces.
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  let atStart = true
  let pieces: string[] = [] // of the line that has not ended yet
  let pieceChars = 0
  let afterCarriageReturn = false
  let data: string | undefined
  let event = ''
  let id = ''
  let retryMs: number | undefined

  function push(text: string): void {
    if (text === '') return
    let start = 0
    if (atStart) {
      atStart = false
      if (text.charCodeAt(0) === byteOrderMark) start = 1
    }
    if (afterCarriageReturn) {
      afterCarriageReturn = false
      if (text.charCodeAt(0) === lineFeed) start = 1
    }
    let cr = text.indexOf('\r', start)
    let lf = text.indexOf('\n', start)
    while (cr !== -1 || lf !== -1) {
      const byCarriageReturn = cr !== -1 && (lf === -1 || cr < lf)
      const end = byCarriageReturn ? cr : lf
      endLine(text.slice(start, end))
      start = end + 1
      if (byCarriageReturn) {
        if (start === text.length) afterCarriageReturn = true
        else if (text.charCodeAt(start) === lineFeed) start++
        cr = text.indexOf('\r', start)
      }
      if (lf !== -1 && lf < start) lf = text.indexOf('\n', start)
    }
    if (start === text.length) return
    pieces.push(start === 0 ? text : text.slice(start))
    pieceChars += text.length - start
    checkSize(pieceChars + (data?.length ?? 0))
  }

  function endLine(tail: string): void {
    if (pieces.length === 0) return takeLine(tail)
    pieces.push(tail)
    const line = pieces.join('')
    pieces = []
    pieceChars = 0
    takeLine(line)
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
    push(bytes) {
      push(decoder.decode(bytes, { stream: true }))
    },
    end() {
      push(decoder.decode())
      if (pieces.length > 0) endLine('')
      dispatch()
    },
    get retryMs() {
      return retryMs
    }
  }
}

/**
 * The events of a body, one by one. For the tightest loop use `createSSEParser`: this form costs one promise an event.
 *
 * @throws {MillraceError} `protocol` with `reason: 'too-large'`; whatever `body` throws
 *
 * @example
 * for await (const { data } of parseSSE(response.body)) console.log(data)
 */
export async function* parseSSE(
  body: AsyncIterable<Uint8Array | readonly Uint8Array[]>,
  options: SSEOptions = {}
): AsyncGenerator<ServerSentEvent, void, undefined> {
  let events: ServerSentEvent[] = []
  const parser = createSSEParser((event) => events.push(event), options)
  for await (const batch of body) {
    try {
      if (batch instanceof Uint8Array) parser.push(batch)
      else for (const bytes of batch) parser.push(bytes)
    } catch (error) {
      yield* events // what came before the fault is not lost
      throw error
    }
    if (events.length === 0) continue
    const ready = events
    events = []
    yield* ready
  }
  parser.end()
  yield* events
}
