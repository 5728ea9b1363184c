import type { ServerResponse } from 'node:http'
import type { Http2ServerResponse } from 'node:http2'
import { beginWriting } from './event-writing.ts'
import { checkWriting, headersOf, type SSEWriteOptions } from './sse-options.ts'
import type { SSESource } from './sse-source.ts'

/**
 * How it ended: all is written, down to the system's socket (`done`); it broke, and the client was told if it still took
 * anything (`failed`); the client has gone (`left`).
 */
export type SSEWriteEnd = 'done' | 'failed' | 'left'

type AnyResponse = ServerResponse | Http2ServerResponse

/** A stream that was stopped from outside has so long to get what is written to the client, its error event too. */
const lastWordsMs = 1000

/**
 * Writes a stream to a response of Node's `http`, `https` or `http2` (its compatibility API), and ends it. As
 * `toSSEResponse`: the head waits for the first content at most `headWithinMs`, and a failure before it rejects with the
 * response untouched, so catch it: a rejection that nobody handles ends the process. What breaks later is an error event and
 * told to `onError`; the promise resolves. A head that is out already stays as it is, and an answer to HEAD ends behind it.
 *
 * The source is read only when the socket takes more, and left at once when the client goes. A client that takes nothing is
 * cut off a second after `maxDurationMs`, or after `signal` has aborted.
 *
 * @throws {TypeError} when an option is wrong, and when somebody else answers this response; what the source failed with
 * before its first content; `signal.reason`
 *
 * @example
 * createServer(async (_, response) => {
 *   try {
 *     await writeSSE((signal) => adapter.stream(request, { signal }), response, { format: openaiEvents(), onError: console.error })
 *   } catch (error) {
 *     const { status, headers, body } = openaiError(error)
 *     response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
 *   }
 * })
 */
export async function writeSSE(
  source: SSESource,
  response: ServerResponse | Http2ServerResponse,
  options: SSEWriteOptions = {}
): Promise<SSEWriteEnd> {
  checkWriting('writeSSE', source, options)
  checkResponse(response)
  if (response.writableEnded) throw answered()
  const given = response.headersSent
  if (given && (options.status ?? options.headers) !== undefined) {
    throw new TypeError('the head of this response is out already: leave out status and headers, or leave the head to writeSSE')
  }
  if (isGone(response)) return 'left'

  // What both kinds have, of one type.
  const plain = response as ServerResponse
  const stream = 'stream' in response ? response.stream : undefined
  let gone = false
  let cut = false
  let late: NodeJS.Timeout | undefined
  let resume: (() => void) | undefined
  const wake = (): void => resume?.()
  const leave = (): void => {
    gone = true
    writing[Symbol.dispose]()
    wake()
  }
  // A stream of http2 that was reset while its window is used up would never close.
  const reset = (): void => {
    leave()
    stream?.destroy()
  }
  const cutOff = (): void => {
    cut = true
    response.destroy()
  }
  /** Waits for `drain`, `finish` or the end of the connection. */
  const taken = async (): Promise<void> => {
    const { promise, resolve } = Promise.withResolvers<void>()
    resume = resolve
    await promise
    resume = undefined
  }
  const writing = beginWriting(source, options, () => {
    late ??= setTimeout(cutOff, lastWordsMs).unref()
  })
  response.on('close', leave).on('error', leave).on('drain', wake).on('finish', wake)
  stream?.on('aborted', reset)
  try {
    if (!given) {
      const { notes, ready } = await writing.head()
      if (gone) return leftOf(response)
      if (response.headersSent) throw answered()
      plain.writeHead(options.status ?? 200, headersOf(options, notes))
      // Otherwise the head goes out with the first events, in one packet.
      if (!ready) plain.flushHeaders()
    }
    if (response.req.method === 'HEAD') writing[Symbol.dispose]()
    for (;;) {
      const { text, last } = await writing.read()
      if (gone) return writing.failure === undefined ? leftOf(response) : 'failed'
      if (response.writableEnded) throw answered()
      if (last) {
        if (text !== '') write(response, text)
        response.end()
        await taken()
        if (cut || writing.failure !== undefined) return 'failed'
        return isWhole(response) ? 'done' : 'left'
      }
      if (!write(response, text)) await taken()
    }
  } finally {
    clearTimeout(late)
    writing[Symbol.dispose]()
    response.off('close', leave).off('error', leave).off('drain', wake).off('finish', wake)
    stream?.off('aborted', reset)
  }
}

/**
 * To `http2` as bytes: Node 24 was seen to send memory of others in place of strings that are written together with an empty
 * one. `http` sends a string together with the frame around it.
 */
function write(response: AnyResponse, text: string): boolean {
  return 'stream' in response ? response.write(Buffer.from(text)) : response.write(text)
}

/** Whether all that was written has gone out. A stream of `http2` calls itself finished after an abort too. */
function isWhole(response: AnyResponse): boolean {
  return 'stream' in response ? response.stream.rstCode === 0 && !response.stream.aborted : response.writableFinished
}

/** The connection is closed, and not by us. */
function leftOf(response: AnyResponse): 'left' {
  if (isWhole(response)) throw answered()
  return 'left'
}

/** Nobody will tell of a connection that is gone already. */
function isGone(response: AnyResponse): boolean {
  if (!('stream' in response)) return response.destroyed
  const { destroyed, aborted, closed } = response.stream
  return destroyed || aborted || closed
}

function checkResponse(response: AnyResponse): void {
  if (typeof response?.writeHead === 'function') return
  throw new TypeError(
    'writeSSE writes to a response of node:http or node:http2: writeSSE(source, response); a web handler takes toSSEResponse(source)'
  )
}

function answered(): TypeError {
  return new TypeError('somebody else has answered this response: give writeSSE one that is its own')
}
