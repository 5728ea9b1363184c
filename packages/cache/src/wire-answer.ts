import {
  createContentScanner,
  createSSEParser,
  isJsonObject,
  type Json,
  type JsonObject,
  parseJson,
  type Usage
} from '@millrace/core'
import { isUsage } from './answer.ts'
import { refusals } from './outage.ts'
import { judgeChat, judgeChatStream } from './wire-chat.ts'
import { judgeGoogle } from './wire-google.ts'
import { judgeMessage, judgeMessageStream } from './wire-messages.ts'
import { judgeResponse, judgeResponseStream } from './wire-responses.ts'
import { judgeEmbeddings, judgeGoogleEmbeddings, judgeRerank } from './wire-vectors.ts'
import { isSet, type Verdict, type WireStream } from './wire-verdict.ts'

/** The kinds of answers we can tell whole ones of; `other`: by what they look like. */
export type Api =
  | 'chat'
  | 'completions'
  | 'responses'
  | 'messages'
  | 'embeddings'
  | 'rerank'
  | 'google'
  | 'google-embeddings'
  | 'other'

/** What is kept of an HTTP answer. */
export interface HttpAnswer {
  readonly status: number
  /** Of `keptHeaders` alone. */
  readonly headers: readonly (readonly [name: string, value: string])[]
  readonly body: string
  /** Where in `body` each piece ended, in UTF-16 code units, and when it came; for replay at the recorded pace. */
  readonly cuts?: readonly number[]
  readonly atMs?: readonly number[]
  readonly model?: string
  readonly usage?: Usage
}

/**
 * Headers of an answer that are true for whoever gets it later. The others tell of one call (ids, dates, cookies, rate
 * limits, times) or of one customer (`openai-organization`).
 */
const keptHeaders: ReadonlySet<string> = new Set(['content-type', 'content-language', 'openai-version'])

export function headersToKeep(headers: Iterable<readonly [string, string]>): (readonly [string, string])[] {
  return [...headers].filter(([name]) => keptHeaders.has(name))
}

export function isHttpAnswer(value: unknown): value is HttpAnswer {
  if (!isJsonObject(value)) return false
  const { status, headers, body, cuts, atMs, model, usage } = value
  if (typeof body !== 'string' || (status !== 200 && !refusals.has(status))) return false
  if (!Array.isArray(headers) || !headers.every(isKeptHeader)) return false
  if (!isOptionalText(model) || (usage !== undefined && !isUsage(usage))) return false
  if (cuts === undefined && atMs === undefined) return true
  return isRising(cuts) && isRising(atMs) && cuts.length === atMs.length && (cuts.at(-1) ?? 0) <= body.length
}

function isKeptHeader(pair: Json): boolean {
  if (!Array.isArray(pair) || pair.length !== 2) return false
  const [name, value] = pair as readonly Json[]
  return typeof name === 'string' && keptHeaders.has(name) && typeof value === 'string' && /^[\x20-\x7e]*$/.test(value)
}

function isOptionalText(value: Json | undefined): boolean {
  return value === undefined || typeof value === 'string'
}

function isCount(value: Json | undefined): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0
}

function isRising(value: Json | undefined): value is readonly number[] {
  if (!Array.isArray(value)) return false
  return (value as readonly Json[]).every((number, at) => isCount(number) && number >= (at === 0 ? 0 : (value[at - 1] as number)))
}

export interface WireAnswer {
  readonly api: Api
  /** The body of the request. */
  readonly request: JsonObject
  readonly contentType: string | undefined
  readonly bytes: Uint8Array
}

/**
 * Whether the body of a 200 is a whole, valid answer, and what it says of itself: a finish reason on the allow-list for
 * every choice, some content, tool arguments that parse, the terminal event of a stream, a vector for each input. Not what
 * was cut, filtered, paused, or broken off by an error inside the stream.
 */
export function judge({ api, request, contentType = '', bytes }: WireAnswer): Verdict | undefined {
  if (isEventStream(contentType)) {
    const stream = readStream(bytes)
    return stream === undefined ? undefined : judgeStream(api, stream, bytes)
  }
  if (!/^application\/([\w.-]+\+)?json\b/i.test(contentType)) return undefined
  const body = parseJson(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString())
  // Google streams a JSON array where it is not asked for events.
  if (Array.isArray(body) && api === 'google') return body.every(isJsonObject) ? judgeGoogle(body) : undefined
  if (!isJsonObject(body) || isSet(body.error)) return undefined
  return judgeBody(api === 'other' ? apiOfBody(body) : api, body, request)
}

export function isEventStream(contentType: string | undefined): boolean {
  return /^text\/event-stream\b/i.test(contentType ?? '')
}

function judgeBody(api: Api, body: JsonObject, request: JsonObject): Verdict | undefined {
  switch (api) {
    case 'chat':
    case 'completions':
      return judgeChat(body)
    case 'messages':
      return judgeMessage(body)
    case 'responses':
      return judgeResponse(body)
    case 'google':
      return judgeGoogle([body])
    case 'embeddings':
      return judgeEmbeddings(body, request)
    case 'google-embeddings':
      return judgeGoogleEmbeddings(body, request)
    case 'rerank':
      return judgeRerank(body, request)
    case 'other':
      return {}
  }
}

function judgeStream(api: Api, stream: WireStream, bytes: Uint8Array): Verdict | undefined {
  switch (api === 'other' ? apiOfEvent(stream.events[0]) : api) {
    case 'chat':
    case 'completions':
      return judgeChatStream(stream)
    case 'messages':
      return judgeMessageStream(stream)
    case 'responses':
      return judgeResponseStream(stream)
    case 'google':
      return judgeGoogle(stream.events)
    case 'other':
      return hasEnded(bytes) ? {} : undefined
    default:
      return undefined // these do not stream
  }
}

function apiOfBody(body: JsonObject): Api {
  if (body.object === 'response') return 'responses'
  return apiOfEvent(body)
}

function apiOfEvent(event: JsonObject | undefined): Api {
  if (event === undefined) return 'other'
  const { type, choices, candidates } = event
  if (typeof type === 'string' && type.startsWith('response.')) return 'responses'
  if (type === 'message' || type === 'message_start') return 'messages'
  return Array.isArray(choices) ? 'chat' : Array.isArray(candidates) ? 'google' : 'other'
}

function hasEnded(bytes: Uint8Array): boolean {
  const scanner = createContentScanner({ maxEventChars: bytes.length + 1 })
  scanner.push(bytes)
  scanner.end()
  return scanner.ended && scanner.errorStatus === undefined
}

/** All events, or nothing when one of them is an error or no JSON object, or something follows `[DONE]`. */
function readStream(bytes: Uint8Array): WireStream | undefined {
  const events: JsonObject[] = []
  let done = false
  let isBroken = false
  const parser = createSSEParser(
    ({ event, data }) => {
      const text = data.trim()
      if (text === '') return
      if (text === '[DONE]') {
        done = true
        return
      }
      const body = parseJson(text)
      if (done || event === 'error' || !isJsonObject(body) || isError(body)) isBroken = true
      else if (!heartbeats.has(body.type)) events.push(body)
    },
    { maxEventChars: bytes.length + 1 }
  )
  parser.push(bytes)
  parser.end()
  return isBroken ? undefined : { events, done }
}

const heartbeats: ReadonlySet<Json | undefined> = new Set(['ping', 'keepalive', 'heartbeat'])

function isError({ type, error }: JsonObject): boolean {
  return type === 'error' || isSet(error)
}
