import { hash, randomUUID } from 'node:crypto'
import {
  type ChatRequest,
  type Chunk,
  errorStatus,
  type FinishReason,
  isJsonObject,
  type Json,
  type JsonObject,
  parseJson,
  type ServerSentEvent,
  type Usage
} from '@millrace/core'
import type { AnswerReader } from './dialect.ts'
import { count, malformed, stringify, text } from './fields.ts'
import { providerError } from './http-error.ts'

type ErrorOrigin = Parameters<typeof providerError>[2]

/** Fields of a choice or a message that the contract has no name for, handed on as `extra` chunks. */
const choiceExtras = ['logprobs', 'content_filter_results']
const messageExtras = ['annotations', 'audio', 'function_call', 'images', 'reasoning_details']
/** Top-level fields that some servers repeat in every event; handed on once, as they first came. */
const answerExtras = ['citations', 'search_results', 'prompt_filter_results']

/**
 * Reads answers of OpenAI's chat completions API, and of the servers that nearly speak it: recordings of seventeen of
 * them have an empty first model, `choices: []`, null deltas, content as a list of parts, usage in four places, tool-call
 * indices left out, an id repeated as `''`, and no `[DONE]`.
 */
export function createOpenAIReader(origin: ErrorOrigin, request: ChatRequest): AnswerReader {
  return new OpenAIReader(origin, request)
}

/** A class, for it is the hot path: one object a call. What most answers do not have is made when it comes. */
class OpenAIReader implements AnswerReader {
  readonly #origin: ErrorOrigin
  readonly #request: ChatRequest
  #started = false
  #finish: FinishReason | undefined
  #usage: Usage | undefined
  #seenExtras: Set<string> | undefined
  #toolCalls: ReturnType<typeof createToolCallIndex> | undefined

  constructor(origin: ErrorOrigin, request: ChatRequest) {
    this.#origin = origin
    this.#request = request
  }

  get finish(): FinishReason | undefined {
    return this.#finish
  }

  get usage(): Usage | undefined {
    return this.#usage
  }

  event({ event, data }: ServerSentEvent, out: Chunk[]): boolean {
    if (data === '[DONE]') return true
    if (data === '') return false
    const body = parseJson(data)
    if (event === 'error') throw this.#errorEvent(body ?? data)
    if (!isJsonObject(body)) throw malformed(`an event is not a JSON object (${data.length} characters)`)
    this.#readBody(body, out, 'delta')
    return false
  }

  answer(body: JsonObject, out: Chunk[]): void {
    this.#readBody(body, out, 'message')
    if (this.#finish === undefined && !Array.isArray(body.choices)) throw malformed('the answer has no choices')
  }

  end(out: Chunk[]): boolean {
    if (this.#finish === undefined) return false
    if (!this.#started) this.#start(noFields, out)
    if (this.#usage !== undefined) out.push({ type: 'usage', usage: this.#usage })
    out.push({ type: 'finish', reason: this.#finish })
    return true
  }

  #start(body: JsonObject, out: Chunk[]): void {
    this.#started = true
    const { model, id } = body
    const start = {
      type: 'start',
      provider: this.#origin.name,
      model: typeof model === 'string' && model !== '' ? model : this.#request.model
    } as const
    out.push(typeof id === 'string' && id !== '' ? { ...start, id } : start)
  }

  #readBody(body: JsonObject, out: Chunk[], key: 'delta' | 'message'): void {
    if (body.error !== undefined && body.error !== null) throw providerError(errorStatus(body.error), body, this.#origin)
    const choices = Array.isArray(body.choices) ? (body.choices as readonly Json[]) : []
    const choice = choices.find(isFirstChoice)
    // Azure's first event has neither a model nor a choice: the start waits for one of them.
    if (!this.#started && (choice !== undefined || body.model !== '')) this.#start(body, out)
    if (this.#started) for (const name of answerExtras) this.#readAnswerExtra(body, name, out)
    const xGroq = isJsonObject(body.x_groq) ? body.x_groq.usage : undefined
    const told = body.usage ?? xGroq ?? (isJsonObject(choice) ? choice.usage : undefined)
    if (isJsonObject(told)) this.#usage = readUsage(told)
    if (isJsonObject(choice)) this.#readChoice(choice, out, key)
  }

  #readAnswerExtra(body: JsonObject, name: string, out: Chunk[]): void {
    const value = body[name]
    if (value === undefined || value === null) return
    const seen = (this.#seenExtras ??= new Set())
    if (seen.has(name)) return
    seen.add(name)
    out.push({ type: 'extra', name, value })
  }

  #readChoice(choice: JsonObject, out: Chunk[], key: 'delta' | 'message'): void {
    const message = choice[key] ?? choice.message ?? choice.delta
    if (isJsonObject(message)) this.#readMessage(message, out)
    for (const name of choiceExtras) pushExtra(choice, name, out)
    if (typeof choice.finish_reason === 'string' && choice.finish_reason !== '') this.#finish = finishOf(choice.finish_reason)
  }

  #readMessage(message: JsonObject, out: Chunk[]): void {
    const reasoning = text(message.reasoning_content) || text(message.reasoning)
    if (reasoning !== '') out.push({ type: 'reasoning', text: reasoning })
    const { content } = message
    if (typeof content === 'string') pushText(content, out)
    else if (Array.isArray(content)) for (const part of content as readonly Json[]) readPart(part, out)
    const refusal = text(message.refusal)
    if (refusal !== '') out.push({ type: 'refusal', text: refusal })
    if (Array.isArray(message.tool_calls)) this.#readToolCalls(message.tool_calls as readonly Json[], out)
    for (const name of messageExtras) pushExtra(message, name, out)
  }

  #readToolCalls(calls: readonly Json[], out: Chunk[]): void {
    const index = (this.#toolCalls ??= createToolCallIndex())
    for (const [position, call] of calls.entries()) if (isJsonObject(call)) out.push(index.read(call, position))
  }

  /** An event named `error`: with the usual object inside, as that object itself, or as bare text. */
  #errorEvent(body: Json): Error {
    const inner = isJsonObject(body) ? (body.error ?? body) : body
    return providerError(errorStatus(inner), body, this.#origin)
  }
}

const noFields: JsonObject = {}

/** Mistral's parts: text, and thinking that holds parts itself. */
function readPart(part: Json, out: Chunk[]): void {
  if (!isJsonObject(part)) return
  if (part.type === 'text') pushText(text(part.text), out)
  else if (part.type === 'thinking' && Array.isArray(part.thinking)) {
    const thought = (part.thinking as readonly Json[]).map((piece) => (isJsonObject(piece) ? text(piece.text) : '')).join('')
    if (thought !== '') out.push({ type: 'reasoning', text: thought })
  } else out.push({ type: 'extra', name: 'content', value: part })
}

function isFirstChoice(candidate: Json): boolean {
  return isJsonObject(candidate) && (candidate.index ?? 0) === 0
}

/** Ids that are longer (Gemini's thought signatures travel in some) are told apart by a digest. */
const maxKeyChars = 128

/**
 * Which call a piece belongs to. Usually `index` says so. Servers that leave it out send whole calls, or tell a new call by a
 * new id; without an id, by another name, or by the same one behind whole arguments.
 */
function createToolCallIndex(): { read(call: JsonObject, position: number): Chunk } {
  /** One for each call: a server that changes its id from piece to piece must not fill memory with them. */
  const byId = new Map<string, number>()
  const named = new Set<number>()
  const seen = new Set<number>()
  let last = -1
  let lastName = ''
  let lastArguments = new Wholeness()

  function free(): number {
    let index = seen.size
    while (seen.has(index)) index++
    return index
  }

  function indexOf(call: JsonObject, key: string, name: string, position: number): number {
    if (typeof call.index === 'number') return call.index
    if (last === -1) return position
    // The id may come behind the name.
    if (key !== '') return byId.get(key) ?? (name === '' && !named.has(last) ? last : free())
    return name !== '' && (name !== lastName || lastArguments.isWhole) ? free() : last
  }

  return {
    read(call, position) {
      const id = text(call.id)
      const key = id.length > maxKeyChars ? hash('sha256', id) : id
      const fn = isJsonObject(call.function) ? call.function : {}
      const name = text(fn.name)
      const index = indexOf(call, key, name, position)
      if (!Number.isSafeInteger(index) || index < 0 || index >= 1024) throw malformed('a tool call has an index out of bounds')
      const isFirst = !seen.has(index)
      seen.add(index)
      if (key !== '' && !named.has(index)) {
        named.add(index)
        byId.set(key, index)
      }
      const args = fn.arguments
      const piece = typeof args === 'string' ? args : args === undefined || args === null ? '' : stringify(args)
      if (index !== last) {
        lastName = ''
        lastArguments = new Wholeness()
      }
      if (name !== '') lastName = name
      if (typeof call.index !== 'number' && id === '') lastArguments.push(piece)
      last = index
      return {
        type: 'tool-call',
        index,
        // Some local servers give no id, but the tool's result must name one.
        ...(id === '' ? (isFirst ? { id: `call_${randomUUID()}` } : {}) : { id }),
        ...(name === '' ? {} : { name }),
        arguments: piece
      }
    }
  }
}

/** Whether a JSON object that comes in pieces has been closed. */
class Wholeness {
  #depth = 0
  #inString = false
  #escaped = false
  #begun = false

  get isWhole(): boolean {
    return this.#begun && this.#depth <= 0
  }

  push(piece: string): void {
    for (const character of piece) {
      if (this.#escaped) this.#escaped = false
      else if (this.#inString) {
        if (character === '\\') this.#escaped = true
        else if (character === '"') this.#inString = false
      } else if (character === '"') this.#inString = true
      else if (character === '{' || character === '[') {
        this.#begun = true
        this.#depth++
      } else if (character === '}' || character === ']') this.#depth--
    }
  }
}

/**
 * OpenAI's usage counts cached tokens inside the prompt and reasoning inside the completion. Seen otherwise: xAI adds
 * reasoning on top of the completion (its total shows it), and reports more cached tokens than the prompt has.
 */
function readUsage(usage: JsonObject): Usage {
  const input = isJsonObject(usage.prompt_tokens_details) ? usage.prompt_tokens_details : {}
  const output = isJsonObject(usage.completion_tokens_details) ? usage.completion_tokens_details : {}
  const prompt = count(usage.prompt_tokens)
  const completion = count(usage.completion_tokens)
  const cacheRead = Math.min(prompt, count(input.cached_tokens ?? usage.prompt_cache_hit_tokens ?? usage.cached_tokens))
  const cacheWrite = Math.min(prompt - cacheRead, count(input.cache_write_tokens))
  const reasoning = count(output.reasoning_tokens)
  const onTop = reasoning > 0 && count(usage.total_tokens) === prompt + completion + reasoning
  return {
    input: { uncached: prompt - cacheRead - cacheWrite, cacheRead, cacheWrite },
    output: onTop
      ? { text: completion, reasoning }
      : { text: Math.max(0, completion - reasoning), reasoning: Math.min(reasoning, completion) },
    estimated: false,
    billed: true
  }
}

function finishOf(reason: string): FinishReason {
  switch (reason) {
    case 'stop':
    case 'eos':
    case 'end_turn':
      return 'stop'
    case 'length':
    case 'max_tokens':
      return 'length'
    case 'tool_calls':
    case 'function_call':
      return 'tool-calls'
    case 'content_filter':
      return 'content-filter'
    default:
      return 'other'
  }
}

function pushText(piece: string, out: Chunk[]): void {
  if (piece !== '') out.push({ type: 'text', text: piece })
}

function pushExtra(from: JsonObject, name: string, out: Chunk[]): void {
  const value = from[name]
  if (value === undefined || value === null || isEmpty(value)) return
  out.push({ type: 'extra', name, value })
}

function isEmpty(value: Json): boolean {
  return typeof value === 'object' && value !== null && Object.keys(value).length === 0
}
