import { errorStatus } from './error-status.ts'
import { isJsonObject, type Json, type JsonObject, parseJson } from './json.ts'
import type { ServerSentEvent } from './sse.ts'

/** Told what an event means; an event may mean several things, in this order. */
export interface EventMarks {
  error(status: number): void
  /** `choice` is the number of the answer it belongs to; left out where the event's kind is not known. */
  content(choice?: number): void
  /** The provider has said why this choice ends. */
  finish(choice: number): void
  /** Nothing follows; it does not say why. */
  terminal(): void
}

/**
 * Says what one event means, of whichever API it is. What is not recognised is content: another API must neither be held
 * back nor called silent. `cut`: the bytes ended here, so that broken JSON is half an event and not another API.
 */
export function readEvent({ event, data }: ServerSentEvent, cut: boolean, marks: EventMarks): void {
  const text = data.trim()
  if (text === '[DONE]') return marks.terminal()
  const body = parseJson(text)
  if (event === 'error') return marks.error(errorStatus(isJsonObject(body) ? (body.error ?? body) : body))
  if (text === '' || heartbeats.has(event)) return
  if (!isJsonObject(body)) {
    if (!cut || body !== undefined || !/^[[{"]/.test(text)) marks.content()
    return
  }
  if (typeof body.type === 'string' && readTyped(body.type, body, marks)) return
  if (isError(body)) return marks.error(errorStatus(body.error))
  if (Array.isArray(body.choices)) for (const choice of body.choices as readonly Json[]) readChoice(choice, marks)
  else if (Array.isArray(body.candidates) || isJsonObject(body.promptFeedback)) readGoogle(body, marks)
  else if (!isBookkeeping(body)) marks.content()
}

/** `keepalive` is sent by OpenAI's Responses API, though its reference does not name it. */
const heartbeats: ReadonlySet<string> = new Set(['ping', 'keepalive', 'heartbeat'])

/** Events that name their kind: OpenAI's Responses, Anthropic's Messages, Cohere's chat. False: this kind is not known. */
function readTyped(type: string, body: JsonObject, marks: EventMarks): boolean {
  if (type.startsWith('response.')) {
    readResponse(type, body, marks)
    return true
  }
  if (heartbeats.has(type)) return true
  const delta = isJsonObject(body.delta) ? body.delta : undefined
  switch (type) {
    case 'error':
      marks.error(errorStatus(body.error ?? body))
      return true
    case 'message_start':
    case 'content_block_stop':
    case 'content-end':
    case 'tool-call-end':
    case 'citation-end':
      return true
    case 'content_block_start':
      if (holds(body.content_block)) marks.content(0)
      return true
    case 'content_block_delta':
    case 'message-start':
    case 'content-start':
    case 'content-delta':
    case 'tool-plan-delta':
    case 'tool-call-start':
    case 'tool-call-delta':
    case 'citation-start':
      if (holds(body.delta)) marks.content(0)
      return true
    case 'message_delta':
      if (isText(delta?.stop_reason)) marks.finish(0)
      return true
    case 'message-end':
      readFinish(delta?.finish_reason, undefined, 0, marks)
      return true
    case 'message_stop':
      marks.terminal()
      return true
    default:
      return false
  }
}

function readResponse(type: string, body: JsonObject, marks: EventMarks): void {
  if (type === 'response.completed' || type === 'response.incomplete') return marks.finish(0)
  if (type === 'response.failed') {
    return marks.error(errorStatus(isJsonObject(body.response) ? body.response.error : undefined))
  }
  // An item is announced with its names; reasoning even with a first seal of what is still to come.
  const piece = type.endsWith('.delta') ? body.delta : body
  if (holds(piece, type.endsWith('.added') ? announcement : envelope)) marks.content(0)
}

/** OpenAI's chat completions and legacy completions, and the servers that nearly speak them. */
function readChoice(choice: Json, marks: EventMarks): void {
  if (!isJsonObject(choice)) return marks.content()
  const index = indexOf(choice)
  // Where both are there, `message` repeats what came before.
  const message = choice.delta ?? choice.message
  if (holds(message) || holds(choice.text) || (message === undefined && isForeign(choice))) marks.content(index)
  readFinish(choice.finish_reason, choice.error, index, marks)
}

/** Google's generateContent. A prompt it blocks has no candidates. */
function readGoogle({ candidates, promptFeedback }: JsonObject, marks: EventMarks): void {
  if (Array.isArray(candidates)) for (const candidate of candidates as readonly Json[]) readCandidate(candidate, marks)
  if (isJsonObject(promptFeedback) && isText(promptFeedback.blockReason)) marks.finish(0)
}

function readCandidate(candidate: Json, marks: EventMarks): void {
  if (!isJsonObject(candidate)) return marks.content()
  const index = indexOf(candidate)
  if (holds(candidate.content) || (candidate.content === undefined && isForeign(candidate))) marks.content(index)
  readFinish(candidate.finishReason, undefined, index, marks)
}

/** Mistral, OpenRouter and Cohere finish a broken answer with the reason `error`. */
function readFinish(reason: Json | undefined, error: Json | undefined, index: number, marks: EventMarks): void {
  if (!isText(reason)) return
  if (reason.toLowerCase() === 'error') marks.error(errorStatus(error))
  else marks.finish(index)
}

/** Choices are told apart up to 1024: the numbers are the server's, and they are kept. */
function indexOf({ index }: JsonObject): number {
  return typeof index === 'number' && Number.isInteger(index) && index > 0 && index < 1024 ? index : 0
}

/** JSON-RPC has errors of its own, which say nothing about the server's health. */
function isError({ error, choices, jsonrpc }: JsonObject): boolean {
  return jsonrpc === undefined && (isJsonObject(error) || (isText(error) && choices === undefined))
}

/** Usage, or nothing at all. */
function isBookkeeping(body: JsonObject): boolean {
  if (isJsonObject(body.usage) || isJsonObject(body.usageMetadata)) return !holds(body, bookkeeping)
  return Object.keys(body).length === 0
}

function isForeign(choice: JsonObject): boolean {
  return Object.keys(choice).some((key) => !choiceFacts.has(key))
}

/**
 * Whether there is text anywhere in a piece of an answer, names of tools and ids of calls included, but for fields that
 * only label it. Numbers and flags are never content: positions, token ids.
 */
function holds(value: Json | undefined, labels: ReadonlySet<string> = pieceLabels, depth = 0): boolean {
  if (typeof value === 'string') return value !== ''
  if (typeof value !== 'object' || value === null) return false
  if (depth === maxDepth) return true // how deep it goes was the server's choice; no answer's pieces do
  if (Array.isArray(value)) return (value as readonly Json[]).some((item) => holds(item, labels, depth + 1))
  const fields = value as JsonObject
  for (const key in fields) if (!labels.has(key) && holds(fields[key], labels, depth + 1)) return true
  return false
}

const maxDepth = 32

const pieceLabels: ReadonlySet<string> = new Set(['type', 'role', 'format'])
const envelope: ReadonlySet<string> = new Set([...pieceLabels, 'id', 'item_id', 'response', 'status', 'phase'])
const announcement: ReadonlySet<string> = new Set([...envelope, 'encrypted_content'])
const bookkeeping: ReadonlySet<string> = new Set([
  'id',
  'object',
  'model',
  'modelVersion',
  'provider',
  'responseId',
  'createTime',
  'service_tier',
  'system_fingerprint',
  'usage',
  'usageMetadata',
  'obfuscation'
])
const choiceFacts: ReadonlySet<string> = new Set([
  'index',
  'delta',
  'text',
  'logprobs',
  'finish_reason',
  'native_finish_reason',
  'stop_reason',
  'finishReason',
  'finishMessage',
  'safetyRatings',
  'avgLogprobs',
  'tokenCount',
  'seed',
  'error',
  'usage',
  'content_filter_results',
  'content_filter_offsets'
])

function isText(value: Json | undefined): value is string {
  return typeof value === 'string' && value !== ''
}
