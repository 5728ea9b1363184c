import { type ContentScanner, createContentScanner, isMillraceError, MillraceError } from '@millrace/core'
import { openaiError } from '@millrace/streaming'
import { anthropicError } from './anthropic-error.ts'

/** In whose words a broken stream is told. */
export type EventDialect = 'chat' | 'responses' | 'messages'

export interface WholeEventsOptions {
  readonly dialect: EventDialect
  /** Of the client: who has left is told nothing. */
  readonly signal: AbortSignal
  /** Told why the stream broke. */
  readonly onError: (error: unknown) => void
}

/** An event that is longer goes out in pieces; where it breaks, its client gets half of it. */
const maxHeldBytes = 1024 * 1024

/**
 * The bytes of a stream of events as they come, whole events at a time. A stream that breaks, or ends before its answer
 * does, gets an error event of its API instead of half an event, and ends cleanly: clients take a connection that was cut
 * for one to be tried again, and an end for the end. Nothing is read ahead, and leaving it leaves `body`.
 */
export function wholeEvents(body: ReadableStream<Uint8Array>, options: WholeEventsOptions): ReadableStream<Uint8Array> {
  const { dialect, signal, onError } = options
  const reader = body.getReader()
  const held = new HeldBytes()
  let scanner: ContentScanner | undefined = createContentScanner()
  let last: Uint8Array | undefined

  function scan(tell: (scanner: ContentScanner) => void): void {
    try {
      if (scanner !== undefined) tell(scanner)
    } catch (error) {
      // An event too long for a scanner is none too long for its client: from here on only the bytes tell.
      if (!isMillraceError(error, 'protocol')) throw error
      scanner = undefined
    }
  }

  /** Whether the client has all it was promised, be it an error. */
  function hasEnded(): boolean {
    return scanner === undefined || scanner.ended || scanner.errorStatus !== undefined
  }

  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        function close(error: unknown): void {
          if (!hasEnded()) {
            onError(error)
            if (held.isOpen) controller.enqueue(encoder.encode('\n\n'))
            controller.enqueue(errorEvent(error, dialect, last))
          }
          controller.close()
        }
        try {
          for (;;) {
            const { done, value } = await reader.read()
            if (done) break
            scan((one) => one.push(value))
            const whole = held.push(value)
            if (whole.length === 0) continue
            last = whole.at(-1)
            for (const piece of whole) controller.enqueue(piece)
            return
          }
        } catch (error) {
          if (signal.aborted) throw error
          return close(error)
        }
        scan((one) => one.end())
        if (hasEnded()) for (const piece of held.take()) controller.enqueue(piece)
        close(incomplete())
      },
      cancel: (reason) => reader.cancel(reason)
    },
    { highWaterMark: 0 }
  )
}

/** What has come of an event whose blank line has not. */
class HeldBytes {
  #pieces: Uint8Array[] = []
  #bytes = 0
  #tail: Uint8Array = nothing
  /** Whether half an event has gone out. */
  isOpen = false

  /** What may go out, `bytes` included. */
  push(bytes: Uint8Array): readonly Uint8Array[] {
    const seam =
      this.#tail.byteLength === 0
        ? Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
        : Buffer.concat([this.#tail, bytes])
    const end = afterBlankLine(seam) - this.#tail.byteLength
    if (end <= 0) {
      this.#hold(bytes, seam)
      if (this.#bytes <= maxHeldBytes) return []
      this.isOpen = true
      return this.#letGo()
    }
    const whole = [...this.#letGo(), bytes.subarray(0, end)]
    this.isOpen = false
    this.#tail = nothing
    if (end < bytes.byteLength) this.#hold(bytes.subarray(end), Buffer.from(bytes.subarray(end)))
    return whole
  }

  take(): readonly Uint8Array[] {
    this.#tail = nothing
    return this.#letGo()
  }

  #hold(bytes: Uint8Array, seam: Uint8Array): void {
    this.#pieces.push(bytes)
    this.#bytes += bytes.byteLength
    this.#tail = seam.slice(-2)
  }

  #letGo(): readonly Uint8Array[] {
    const pieces = this.#pieces
    this.#pieces = []
    this.#bytes = 0
    return pieces
  }
}

/** Where the last blank line ends, in any of the three ways to end a line; at most 0 where there is none. */
function afterBlankLine(bytes: Buffer): number {
  return Math.max(
    ...blankLines.map((line) => {
      const at = bytes.lastIndexOf(line)
      return at === -1 ? 0 : at + line.length
    })
  )
}

const blankLines = ['\n\n', '\n\r\n', '\r\r'] as const

/** Each API's clients know theirs, and throw. */
function errorEvent(error: unknown, dialect: EventDialect, last: Uint8Array | undefined): Uint8Array {
  if (dialect === 'messages') return encoder.encode(`event: error\ndata: ${JSON.stringify(anthropicError(error).body)}\n\n`)
  const { body } = openaiError(error)
  if (dialect === 'chat') return encoder.encode(`data: ${JSON.stringify(body)}\n\n`)
  const { code, message, param } = body.error
  // The official client throws at `error`; the others are what the API's schema promises.
  const event = { type: 'error', sequence_number: sequenceAfter(last), code, message, param, error: body.error }
  return encoder.encode(`event: error\ndata: ${JSON.stringify(event)}\n\n`)
}

/** Events of the Responses API are numbered. */
function sequenceAfter(last: Uint8Array | undefined): number {
  const numbers = Buffer.from(last ?? nothing)
    .toString('latin1')
    .matchAll(/"sequence_number"\s*:\s*(\d{1,15})/g)
  return Math.max(-1, ...Array.from(numbers, ([, number]) => Number(number))) + 1
}

function incomplete(): MillraceError<'protocol'> {
  return new MillraceError('protocol', 'the stream ended before its answer did', {
    details: { reason: 'incomplete' },
    context: { provider: 'upstream' }
  })
}

const nothing = new Uint8Array(0)
const encoder = new TextEncoder()
