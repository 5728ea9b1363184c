import type { IncomingHttpHeaders } from 'node:http'

/** A request of any API, as much of it as an answer depends on. */
export interface ScriptedRequest {
  /** `openai` stands for chat completions, `anthropic` for messages. */
  readonly api: 'openai' | 'openai-responses' | 'openai-embeddings' | 'anthropic' | 'anthropic-count-tokens'
  readonly model: string
  readonly stream: boolean
  /** The text of the last user message. */
  readonly prompt: string
  /** All text of the conversation, one message a line. */
  readonly conversation: string
  /** Whether the last message is the user's, not the result of a tool. */
  readonly userSpokeLast: boolean
  readonly tools: readonly ScriptedTool[]
  /** `auto`, `none`, `required`, or the name of the tool that must be called. */
  readonly toolChoice: string
  /** 0 where the API answers without text. */
  readonly maxTokens: number
  /** OpenAI's `stream_options.include_usage`. */
  readonly includeUsage: boolean
  /** What the provider would charge for: counting tokens costs none. */
  readonly tokensIn: number
  readonly headers: IncomingHttpHeaders
  /** The body as it came. */
  readonly body: JsonObject
}

export interface ScriptedTool {
  readonly name: string
  /** JSON Schema of its arguments. */
  readonly parameters: unknown
}

export interface ScriptedToolCall {
  readonly name: string
  readonly arguments: Readonly<Record<string, unknown>>
}

export type JsonObject = Readonly<Record<string, unknown>>

/** The answer to one request, cut into tokens already. */
export interface Answer {
  readonly number: number
  readonly request: ScriptedRequest
  readonly text: readonly string[]
  readonly toolCalls: readonly { readonly id: string; readonly name: string; readonly arguments: readonly string[] }[]
  readonly finish: 'stop' | 'length' | 'tool-calls'
  readonly tokensOut: number
}

/** A piece of a stream's body; before one that is a token the server waits for its pace. */
export interface Frame {
  readonly bytes: string
  readonly token: boolean
}

/** How full one of the server's buckets is. */
export interface BucketState {
  readonly limit: number
  readonly remaining: number
  /** Until the request would be accepted; 0 when it is now. */
  readonly waitMs: number
  /** Until the bucket is full. */
  readonly resetMs: number
}

/** What an answer's headers tell of the server's limits; what is not there is not told. */
export interface RateState {
  readonly requests?: BucketState | undefined
  readonly tokens?: BucketState | undefined
  /** Until the request would be accepted; 0 when it is now. */
  readonly waitMs: number
}

/** One provider's API: how a request is read and an answer is written. */
export interface Dialect {
  /** @throws {Refusal} for what the real API refuses */
  read(body: JsonObject, headers: IncomingHttpHeaders): ScriptedRequest
  keyOf(headers: IncomingHttpHeaders): string | undefined
  refusal(refusal: Refusal): JsonObject
  headers(number: number, rate: RateState | undefined): Record<string, string>
  plain(answer: Answer): JsonObject
  frames(answer: Answer): Iterable<Frame>
}

/** A request the API answers with a status of 400 or more. */
export class Refusal extends Error {
  readonly status: number
  readonly param: string | null
  readonly code: string | null

  constructor(status: number, message: string, param: string | null = null, code: string | null = null) {
    super(message)
    this.name = 'Refusal'
    this.status = status
    this.param = param
    this.code = code
  }
}

/** An event with its type as its name, as Anthropic and the Responses send them. */
export function namedFrame(data: JsonObject & { readonly type: string }): Frame {
  return { bytes: `event: ${data.type}\ndata: ${JSON.stringify(data)}\n\n`, token: false }
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export function readBearer(headers: IncomingHttpHeaders): string | undefined {
  return /^Bearer (.+)$/.exec(headers.authorization ?? '')?.[1]
}

/** What every part that is not text costs, whatever its size. */
const charsOfOtherPart = 340

/** The text of a message's content in either API, and its length with the parts that are not text. */
export function readContent(content: unknown, path: string): { text: string; chars: number } {
  if (content === undefined || content === null) return { text: '', chars: 0 }
  if (typeof content === 'string') return { text: content, chars: content.length }
  if (!Array.isArray(content)) throw new Refusal(400, `${path} must be a string or an array of parts`, path, 'invalid_type')
  let text = ''
  let chars = 0
  for (const part of content) {
    if (!isObject(part) || typeof part.type !== 'string') {
      throw new Refusal(400, `each part of ${path} must be an object with a type`, path, 'invalid_type')
    }
    if (typeof part.text === 'string') {
      text += part.text
      chars += part.text.length
    } else if (part.type === 'tool_result') chars += readContent(part.content, path).chars
    else chars += charsOfOtherPart
  }
  return { text, chars }
}

/** Reads a whole number of at least 1, or `Infinity` when it is absent. */
export function readLimit(value: unknown, param: string): number {
  if (value === undefined || value === null) return Number.POSITIVE_INFINITY
  if (typeof value === 'number' && Number.isInteger(value) && value >= 1) return value
  throw new Refusal(400, `${param} must be a whole number of at least 1`, param, 'invalid_value')
}

/** About four characters a token, and four tokens of frame around each message. */
export function countTokensIn(chars: number, messages: number): number {
  return Math.ceil(chars / 4) + 4 * messages
}

/** How long a refused request should wait, in both units. */
export function retryHeaders(waitMs: number): Record<string, string> {
  return waitMs > 0 ? { 'retry-after-ms': String(waitMs), 'retry-after': String(Math.ceil(waitMs / 1000)) } : {}
}
