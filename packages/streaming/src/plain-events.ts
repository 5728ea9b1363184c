import { checkChunk } from './chunk-check.ts'
import type { EventFormat } from './event-format.ts'
import { tellError } from './told-error.ts'

/**
 * Each chunk as one event of JSON, just as the contract has it; the last one of a whole answer is its `finish`. A stream
 * that broke ends with an event named `error`: `{ code, message, retryable, retryAfterMs? }`. The `code` is that of
 * `MillraceError`, or `internal`; the message is a fixed sentence for the code. Notes are left out: they tell of the
 * service, not of the answer.
 *
 * @example
 * return toSSEResponse(adapter.stream(request), { format: plainEvents() })
 */
export function plainEvents(): EventFormat {
  return plain
}

// One writer serves all streams: it keeps nothing.
const plain: EventFormat = {
  begin: () => ({
    write(chunk) {
      checkChunk(chunk)
      return chunk.type === 'note' ? '' : `data: ${JSON.stringify(chunk)}\n\n`
    },
    end: () => '',
    fail: (error) => `event: error\ndata: ${JSON.stringify(tellError(error))}\n\n`
  })
}
