import { beginWriting, type EventWriting } from './event-writing.ts'
import { checkWriting, headersOf, type SSEWriteOptions } from './sse-options.ts'
import type { SSESource } from './sse-source.ts'

/**
 * A stream as the web `Response` of a handler (Hono, Next.js, any `fetch` handler). The head waits for the first content, at
 * most `headWithinMs`; a stream that fails before it rejects, so that the failure can have a status of its own. After the
 * head a failure is one error event at the end, and told to `onError`. The source is read only when the client takes, and left at once when it
 * goes; give the `signal` of its request too, for one that goes before the head. A body that nobody reads or cancels, as
 * some servers leave that of an answer to HEAD, holds its source until `signal` or `maxDurationMs` end it.
 *
 * Bound: what one read of the source gave is held, and 64 Ki characters of it are written at a time.
 *
 * @throws {TypeError} when an option is wrong; what the source failed with before its first content; `signal.reason`
 *
 * @example
 * try {
 *   return await toSSEResponse(adapter.stream(request, { signal }), { format: openaiEvents(), signal, onError: console.error })
 * } catch (error) {
 *   const { status, headers, body } = openaiError(error)
 *   return Response.json(body, { status, headers })
 * }
 */
export async function toSSEResponse(source: SSESource, options: SSEWriteOptions = {}): Promise<Response> {
  checkWriting('toSSEResponse', source, options)
  const writing = beginWriting(source, options)
  try {
    const { notes } = await writing.head()
    return new Response(bodyOf(writing), { status: options.status ?? 200, headers: headersOf(options, notes) })
  } catch (error) {
    writing[Symbol.dispose]()
    throw error
  }
}

function bodyOf(writing: EventWriting): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder()
  let left = false
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const { text, last } = await writing.read()
        if (left) return
        if (text !== '') controller.enqueue(encoder.encode(text))
        if (!last) return
        writing[Symbol.dispose]()
        controller.close()
      },
      cancel() {
        left = true
        writing[Symbol.dispose]()
      }
    },
    // Nothing is read ahead of the client.
    { highWaterMark: 0 }
  )
}
