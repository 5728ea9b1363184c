import type { Chunk } from '@millrace/core'

/**
 * How chunks are written as server-sent events: `openaiEvents()`, `plainEvents()`, or one of your own.
 *
 * @example
 * const texts: EventFormat = {
 *   begin: () => ({
 *     write: (chunk) => (chunk.type === 'text' ? `data: ${JSON.stringify(chunk.text)}\n\n` : ''),
 *     end: () => 'event: end\ndata: {}\n\n',
 *     fail: () => 'event: error\ndata: {}\n\n'
 *   })
 * }
 */
export interface EventFormat {
  /** Makes the writer of one stream, which may keep what it must know of earlier chunks. */
  begin(): EventWriter
}

/** @throws {TypeError} with the cure */
export function checkFormat(format: EventFormat): void {
  if (typeof format?.begin !== 'function') throw new TypeError('format must be a format of events, such as openaiEvents()')
}

/** Writes one stream. Each text is whole events: it ends with a blank line, or is `''`. */
export interface EventWriter {
  /** The events of one chunk; `''` where it has none. What it throws ends the stream as one that broke. */
  write(chunk: Chunk): string
  /** The stream has ended well. Nothing is written behind it. */
  end(): string
  /** The stream broke: one typed error event, without content and secrets. Nothing is written behind it. */
  fail(error: unknown): string
}
