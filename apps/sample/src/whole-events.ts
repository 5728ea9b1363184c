import { createContentScanner, MillraceError } from '@millrace/core'
import { openaiError } from '@millrace/streaming'
import { anthropicError } from './anthropic-error.ts'

/** In whose words a broken stream is told. */
export type EventDialect = 'chat' | 'responses' | 'messages'

export interface WholeEventsOptions {
  readonly dialect: EventDialect
  /** Of the client: who has left is told nothing. */
  readonly signal: AbortSignal
  /** Takes secrets out of events that tell an error; the others go out as they came. */
  readonly clean: (text: string) => string
  /** Told why the stream broke. */
  readonly onError: (error: unknown) => void
}

/** As long as the transport lets an event be: images come in one. */
export const maxEventBytes: number = 16 * 1024 * 1024

/**
 * The bytes of a stream of events as they come, whole events at a time. A stream that breaks, or ends before its answer
 * does, gets an error event of its API instead of half an event, and ends cleanly: clients take a connection that was cut
 * for one to be tried again, and an end for the end. Nothing is read ahead, and leaving it leaves `body`.
 */
export function wholeEvents(body: ReadableStream<Uint8Array>, options: WholeEventsOptions): ReadableStream<Uint8Array> {
  const { dialect, signal, clean, onError } = options
  const reader = body.getReader()
  const held = new HeldBytes()
  const scanner = createContentScanner({ maxEventChars: maxEventBytes })
  let last: Uint8Array | undefined

  /** Errors are looked for one by one only behind the first. */
  function cleaned(pieces: readonly Uint8Array[]): readonly Uint8Array[] {
    return scanner.errorStatus === undefined ? pieces : [cleanErrors(Buffer.concat(pieces), clean)]
  }

  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        function close(error: unknown): void {
          // Whether the client has all it was promised, be it an error.
          if (!scanner.ended && scanner.errorStatus === undefined) {
            onError(error)
            controller.enqueue(errorEvent(error, dialect, last))
          }
          controller.close()
        }
        try {
          for (;;) {
            const { done, value } = await reader.read()
            if (done) break
            scanner.push(value)
            const whole = held.push(value)
            if (whole.length === 0) continue
            last = whole.at(-1)
            for (const piece of cleaned(whole)) controller.enqueue(piece)
            return
          }
          scanner.end()
        } catch (error) {
          if (signal.aborted) throw error
          close(error)
          // Where an event has no end, the body has none either.
          return reader.cancel(error).catch(() => {}) // it is its own error that it fails with, told already
        }
        if (scanner.ended || scanner.errorStatus !== undefined) {
          const rest = held.take()
          for (const piece of cleaned(rest)) controller.enqueue(piece)
          // A client drops an event that has no blank line behind it.
          if (rest.length > 0) controller.enqueue(blankLine)
        }
        close(incomplete())
      },
      cancel: (reason) => reader.cancel(reason)
    },
    { highWaterMark: 0 }
  )
}

const blankLine: Uint8Array = Buffer.from('\n\n')

/** What has come of an event whose blank line has not. */
class HeldBytes {
  #pieces: Uint8Array[] = []
  #bytes = 0
  #tail: Uint8Array = nothing

  /**
   * What may go out, `bytes` included.
   *
   * @throws {MillraceError} `protocol` with `reason: 'too-large'` for an event, comments before it included, of more than 16 MiB
   */
  push(bytes: Uint8Array): readonly Uint8Array[] {
    const seam =
      this.#tail.byteLength === 0
        ? Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
        : Buffer.concat([this.#tail, bytes])
    const end = afterBlankLine(seam) - this.#tail.byteLength
    if (end <= 0) {
      this.#hold(bytes, seam)
      if (this.#bytes > maxEventBytes) throw tooLarge()
      return []
    }
    const whole = [...this.take(), bytes.subarray(0, end)]
    if (end < bytes.byteLength) this.#hold(bytes.subarray(end), Buffer.from(bytes.subarray(end)))
    return whole
  }

  take(): readonly Uint8Array[] {
    const pieces = this.#pieces
    this.#pieces = []
    this.#bytes = 0
    this.#tail = nothing
    return pieces
  }

  #hold(bytes: Uint8Array, seam: Uint8Array): void {
    this.#pieces.push(bytes)
    this.#bytes += bytes.byteLength
    this.#tail = seam.slice(-2)
  }
}

/** Each event that tells an error without its secrets, the others as they are. */
function cleanErrors(bytes: Buffer, clean: (text: string) => string): Uint8Array {
  const events = bytes.toString('latin1').match(anEvent) ?? []
  return Buffer.concat(
    events.map((text) => {
      const event = Buffer.from(text, 'latin1')
      const scanner = createContentScanner({ maxEventChars: maxEventBytes })
      scanner.push(event)
      scanner.end()
      return scanner.errorStatus === undefined ? event : Buffer.from(clean(event.toString()))
    })
  )
}

/** To its blank line, or to the end. */
const anEvent = /[^]+?(?:\n\r?\n|\r\r|$)/g

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

function tooLarge(): MillraceError<'protocol'> {
  return new MillraceError('protocol', `an event of the stream is longer than ${maxEventBytes} bytes`, {
    details: { reason: 'too-large' },
    context: { provider: 'upstream' }
  })
}

const nothing = new Uint8Array(0)
const encoder = new TextEncoder()
