import { type ChatRequest, type Chunk, checkOptions, type FinishReason } from '@millrace/core'
import type { Attributes } from '@opentelemetry/api'
import { inputAttributes } from './content-input.ts'
import { createOutput } from './content-output.ts'
import { createTextReader, type Redact } from './content-text.ts'
import { attribute } from './semconv.ts'

export interface ContentOptions {
  /**
   * Characters of each of the four attributes, which are JSON texts. Beyond, texts are cut (`…[12345 characters more]`), and
   * what came first is left out before what came last. At least 256. @default 8192
   */
  readonly maxChars?: number | undefined
  /**
   * Called once with each text, id, name and address before it is recorded, when what looks like a credential has been taken
   * out: gives what may be recorded, or undefined to leave it out. When it throws, or gives a promise, the text is left out and
   * counted. It runs while the call waits.
   *
   * Arguments of a tool call are one text of JSON, in which only quotes and backslashes are escaped. Other texts come as they
   * are: within JSON that a tool gave back, a line break is `\n`, so a pattern that begins with `\b` does not find what follows.
   *
   * Of a text longer than `maxChars` it sees `maxChars + 1024` characters, and what it gives for the last 1024 is not recorded.
   *
   * @default texts are recorded without what looks like a credential, see `redactCredentials` of core
   */
  readonly redact?: Redact | undefined
}

/** Turns requests and answers into the attributes that hold their content. */
export interface ContentCapture {
  /** Reads the request at once and keeps nothing of it. */
  start(request: ChatRequest): CapturedCall
}

/** A call whose content is recorded. Nothing here throws: what cannot be recorded is left out and counted. */
export interface CapturedCall {
  /** Holds about `maxChars` of each kind of text; what comes after is only counted. */
  add(chunks: readonly Chunk[]): void
  /** To be called once, at the end. Without `finish` the answer's `finish_reason` is `error`. */
  attributes(finish?: FinishReason): Attributes
}

/** Less has no room for a message and for what is said of those left out. */
const leastChars = 256

/**
 * Prompts, answers and tools as the JSON texts that the GenAI conventions describe. Never recorded, whatever the options:
 * bytes of images, audio and files, the query and the password of an address, schemas of tools, signatures, `extra`.
 *
 * @throws {TypeError} a wrong option
 *
 * @example
 * const capture = createContentCapture({ redact: (text) => text.replace(/\d{9,}/g, '[number]') }, () => {})
 * const call = capture.start({ model: 'gpt-5.6', messages: [{ role: 'user', content: 'Hello' }] })
 * call.add([{ type: 'text', text: 'Hi' }])
 * console.log(call.attributes('stop'))
 */
export function createContentCapture(options: ContentOptions, onFailure: () => void): ContentCapture {
  if (typeof options === 'boolean') {
    throw new TypeError('content takes an object of options, not boolean: `{}` for the defaults, or leave it out to record none')
  }
  checkOptions<ContentOptions>('content', options, { maxChars: 1, redact: 1 })
  const { maxChars = 8192, redact } = options
  if (!Number.isSafeInteger(maxChars) || maxChars < leastChars) {
    throw new TypeError(`maxChars must be a whole number of at least ${leastChars}`)
  }
  if (redact !== undefined && typeof redact !== 'function') {
    throw new TypeError('redact must be a function that gives what may be recorded: (text, where) => string | undefined')
  }
  const reader = createTextReader(maxChars, redact, onFailure)

  return {
    start(request) {
      const input = inputAttributes(request, maxChars, reader, onFailure)
      const output = createOutput(maxChars, reader, onFailure)
      return {
        add(chunks) {
          for (const chunk of chunks) {
            try {
              output.add(chunk)
            } catch {
              onFailure() // no chunk of the contract; the next ones may be
            }
          }
        },
        attributes(finish) {
          const json = output.json(finish)
          return json === undefined ? input : { ...input, [attribute.outputMessages]: json }
        }
      }
    }
  }
}

/**
 * What the conventions' variable may say, and whether that asks for content on spans; `event_only` asks for it on events, which we
 * have none of.
 */
export const contentAnswers: ReadonlyMap<string, boolean> = new Map([
  ['true', true],
  ['false', false],
  ['1', true],
  ['0', false],
  ['span_only', true],
  ['event_only', false],
  ['span_and_event', true],
  ['no_content', false]
])

/**
 * Whether `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` asks for content on spans: `true`, `1`, `span_only` or
 * `span_and_event`, in any case. Anything else, an unknown value too, is a no.
 *
 * @example
 * const content = asksForContent(process.env) ? {} : undefined
 */
export function asksForContent(env: Readonly<Record<string, string | undefined>>): boolean {
  return contentAnswers.get(env.OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT?.trim().toLowerCase() ?? '') === true
}
