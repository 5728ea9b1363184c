import { type Chunk, MillraceError } from '@millrace/core'
import { notAChunk } from './chunk-check.ts'
import type { EventFormat, EventWriter } from './event-format.ts'

/** What goes out of one stream: chunks as their format writes them, ready texts as they are. */
export interface EventTexts {
  /** @throws what the format throws; `TypeError` for what is no whole events */
  write(item: Chunk | string): string
  /** @throws {MillraceError} `protocol` for chunks that have not come to their finish. Ready texts bring their own end. */
  checkEnd(): void
  end(): string
  fail(error: unknown): string
}

export function beginTexts(format: EventFormat): EventTexts {
  let writer: EventWriter | undefined
  let sawReady = false
  let sawFinish = false
  const self: EventTexts = {
    write(item) {
      if (typeof item === 'string') {
        sawReady = true
        return checkReady(item)
      }
      if (typeof item !== 'object' || item === null) throw notAChunk()
      writer ??= format.begin()
      const text = checkWritten(writer.write(item))
      if (item.type === 'finish') sawFinish = true
      return text
    },
    checkEnd() {
      if (!sawFinish && (writer !== undefined || !sawReady)) throw unfinished()
    },
    end() {
      self.checkEnd()
      return writer === undefined ? '' : checkWritten(writer.end())
    },
    fail: (error) => checkWritten((writer ?? format.begin()).fail(error))
  }
  return self
}

function checkWritten(text: string): string {
  if (text === '' || (typeof text === 'string' && text.endsWith('\n\n'))) return text
  throw new TypeError("a format must give whole events as text, with a blank line at their end, or ''")
}

function checkReady(text: string): string {
  if (text === '' || text.endsWith('\n\n')) return text
  throw new TypeError(
    'a text in place of a chunk must be whole events, with a blank line at its end: give ready events, or chunks with a format'
  )
}

function unfinished(): MillraceError<'protocol'> {
  return new MillraceError('protocol', 'the stream of chunks ended without a finish', { details: { reason: 'incomplete' } })
}
