import type { ServerResponse } from 'node:http'
import type { Http2ServerResponse } from 'node:http2'
import { beginWriting } from './event-writing.ts'
import { checkWriting, headersOf, type SSESource, type SSEWriteOptions } from './sse-options.ts'

/**
 * How it ended: all is written, down to the system's socket (`done`); it broke, and the client was told if it still took
 * anything (`failed`); the client has gone (`left`).
 */
export type SSEWriteEnd = 'done' | 'failed' | 'left'

/**
 * Writes a stream to a response of Node's `http`, `https` or `http2` (its compatibility API), and ends it. As
 * `toSSEResponse`: the head waits for the first content at most `headWithinMs`, and a failure before it rejects with the
 * response untouched. A head that is out already stays as it is. The source is read only when the socket takes more, and
 * left at once when the client goes. `maxDurationMs` also cuts off a client that takes nothing.
 *
 * @throws {TypeError} when an option is wrong, and when somebody else answers this response; what the source failed with
 * before its first content; `signal.reason`
 *
 * @example
 * createServer((_, response) => writeSSE((signal) => adapter.stream(request, { signal }), response).catch(answer))
 */
export async function writeSSE(
  source: SSESource,
  response: ServerResponse | Http2ServerResponse,
  options: SSEWriteOptions = {}
): Promise<SSEWriteEnd> {
  checkWriting('writeSSE', source, options)
  if (response.writableEnded) throw answered()
  const given = response.headersSent
  if (given && (options.status ?? options.headers) !== undefined) {
    throw new TypeError('the head of this response is out already: leave out status and headers, or leave the head to writeSSE')
  }
  if (isGone(response)) return 'left'

  // What both kinds have, of one type.
  const plain = response as ServerResponse
  let gone = false
  let resume: (() => void) | undefined
  const wake = (): void => resume?.()
  const leave = (): void => {
    gone = true
    writing[Symbol.dispose]()
    wake()
  }
  /** Waits for `drain`, `finish` or the end of the connection. */
  const taken = async (): Promise<void> => {
    const { promise, resolve } = Promise.withResolvers<void>()
    resume = resolve
    await promise
    resume = undefined
  }
  const writing = beginWriting(source, options, () => {
    if (resume !== undefined) response.destroy()
  })
  response.on('close', leave).on('error', leave).on('drain', wake).on('finish', wake)
  try {
    if (!given) {
      const { notes, ready } = await writing.head()
      if (gone) return leftOf(response)
      if (response.headersSent) throw answered()
      plain.writeHead(options.status ?? 200, headersOf(options, notes))
      // Otherwise the head goes out with the first events, in one packet.
      if (!ready) plain.flushHeaders()
    }
    for (;;) {
      const { text, last } = await writing.read()
      if (gone) return writing.failure === undefined ? leftOf(response) : 'failed'
      if (response.writableEnded) throw answered()
      if (last) {
        if (text !== '') write(response, text)
        response.end()
        await taken()
        if (writing.failure !== undefined) return 'failed'
        return isWhole(response) ? 'done' : 'left'
      }
      if (!write(response, text)) await taken()
    }
  } finally {
    writing[Symbol.dispose]()
    response.off('close', leave).off('error', leave).off('drain', wake).off('finish', wake)
  }
}

/**
 * To `http2` as bytes: Node 24 was seen to send memory of others in place of strings that are written together with an empty
 * one. `http` sends a string together with the frame around it.
 */
function write(response: ServerResponse | Http2ServerResponse, text: string): boolean {
  return 'stream' in response ? response.write(Buffer.from(text)) : response.write(text)
}

/** Whether all that was written has gone out. A stream of `http2` calls itself finished after an abort too. */
function isWhole(response: ServerResponse | Http2ServerResponse): boolean {
  return 'stream' in response ? response.stream.rstCode === 0 && !response.stream.aborted : response.writableFinished
}

/** The connection is closed, and not by us. */
function leftOf(response: ServerResponse | Http2ServerResponse): 'left' {
  if (isWhole(response)) throw answered()
  return 'left'
}

/** Nobody will tell of a connection that is gone already. */
function isGone(response: ServerResponse | Http2ServerResponse): boolean {
  return 'stream' in response ? response.stream.destroyed : response.destroyed
}

function answered(): TypeError {
  return new TypeError('somebody else has answered this response: give writeSSE one that is its own')
}
