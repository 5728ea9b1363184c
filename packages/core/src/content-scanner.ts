import { checkOptions } from './check-options.ts'
import { type EventMarks, readEvent } from './content-event.ts'
import { isPlainDelta } from './plain-delta.ts'
import { createSSEParser, type SSEOptions } from './sse.ts'

/** Watches the bytes of a stream of server-sent events go by, and knows what they have told so far. */
export interface ContentScanner {
  /**
   * Takes the next bytes, in any cut. True when content ended in them.
   *
   * @throws {MillraceError} `protocol` with `reason: 'too-large'` when an event outgrows `maxEventChars`
   */
  push(bytes: Uint8Array): boolean
  /**
   * The bytes have ended: an event without its blank line counts too, half an event does not.
   *
   * @throws {MillraceError} as `push` does
   */
  end(): boolean
  /**
   * What came first that decides anything. `end`: the provider said why it stopped before there was any content, a whole
   * answer that is empty. It stays `none` while there are heartbeats and bookkeeping only, and behind a bare `[DONE]`.
   */
  readonly first: 'none' | 'content' | 'error' | 'end'
  /**
   * Whether the answer has come to its end: by a finish reason for each choice that was begun, `response.completed`,
   * `message_stop` or `[DONE]`. Bookkeeping may follow, and another choice may begin and make it false again: nothing to
   * close a socket by. An API that is not known ends by `[DONE]` or not at all.
   */
  readonly ended: boolean
  /** The HTTP status that the first error event stands for, also behind content; `undefined` while there is none. */
  readonly errorStatus: number | undefined
}

/** The bound of what it holds. */
export type ContentScannerOptions = Pick<SSEOptions, 'maxEventChars'>

/**
 * Finds the first content, the end and the errors in the raw bytes of a stream, of any provider and without a look at the
 * request: OpenAI (chat, legacy completions, Responses) and what speaks like it, Anthropic, Google, Mistral, Cohere.
 * Heartbeats, empty deltas, roles, usage and announcements are no content. What is not recognised is: other APIs are
 * never held back. Memory is bounded by `maxEventChars`.
 *
 * @throws {TypeError} when `maxEventChars` is not above 0
 *
 * @example
 * const scanner = createContentScanner()
 * scanner.push(new TextEncoder().encode('data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'))
 * console.log(scanner.first, scanner.ended) // content false
 */
export function createContentScanner(options: ContentScannerOptions = {}): ContentScanner {
  checkOptions<ContentScannerOptions>('createContentScanner', options, { maxEventChars: 1 })
  let first: ContentScanner['first'] = 'none'
  let ended = false
  let errorStatus: number | undefined
  let hasContent = false
  let cut = false
  const unfinished = new Set<number>()

  const marks: EventMarks = {
    content(choice) {
      hasContent = true
      if (first === 'none') first = 'content'
      if (choice === undefined) return
      unfinished.add(choice)
      ended = false
    },
    finish(choice) {
      if (first === 'none') first = 'end'
      unfinished.delete(choice)
      ended = unfinished.size === 0
    },
    terminal() {
      ended = true
    },
    error(status) {
      if (first === 'none') first = 'error'
      errorStatus ??= status
    }
  }

  const parser = createSSEParser((event) => {
    // What was cut must be parsed to know that it is whole.
    if (!cut && event.event !== 'error' && isPlainDelta(event.data)) marks.content(0)
    else readEvent(event, cut, marks)
  }, options)

  return {
    push(bytes) {
      hasContent = false
      parser.push(bytes)
      return hasContent
    },
    end() {
      hasContent = false
      cut = true
      parser.end()
      return hasContent
    },
    get first() {
      return first
    },
    get ended() {
      return ended
    },
    get errorStatus() {
      return errorStatus
    }
  }
}
