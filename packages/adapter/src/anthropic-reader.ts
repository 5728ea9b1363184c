import {
  type ChatRequest,
  type Chunk,
  errorStatus,
  type FinishReason,
  isJsonObject,
  type Json,
  type JsonObject,
  MillraceError,
  parseJson,
  type Usage
} from '@millrace/core'
import type { AnswerReader } from './dialect.ts'
import { count, malformed, stringify, text } from './fields.ts'
import { providerError } from './http-error.ts'

/** A content block that is being streamed. */
interface Block {
  readonly type: string
  /** Of a block that is handed on whole. */
  readonly value: JsonObject | undefined
  /** The tool call's number and its input in the block itself; blocks of other kinds have none. */
  readonly call: { readonly index: number; readonly input: Json } | undefined
  /** Input of a tool of the server's own, as JSON text so far. */
  input: string
  hasInput: boolean
  readonly chars: number
}

/** Characters of blocks that are not closed yet; how many there are and how large is the server's choice. */
const maxOpenChars = 4 * 1024 * 1024

/**
 * Reads answers of Anthropic's Messages API. Text, thinking and tool calls become chunks; the server's own blocks (search
 * results, code execution, redacted thinking) are handed on whole, as `extra` chunks named `content_block`.
 */
export function createAnthropicReader(origin: { name: string; secrets: readonly string[] }, request: ChatRequest): AnswerReader {
  let started = false
  let calls = 0
  let finish: FinishReason | undefined
  let usage: JsonObject | undefined
  let openChars = 0
  const blocks = new Map<number, Block>()

  function start(message: JsonObject, out: Chunk[]): void {
    if (started) return
    started = true
    const model = text(message.model)
    const id = text(message.id)
    out.push({ type: 'start', provider: origin.name, model: model === '' ? request.model : model, ...(id === '' ? {} : { id }) })
    if (isJsonObject(message.usage)) usage = countsOf(message.usage)
  }

  /** `chars`: what the block takes as it came. */
  function openBlock(index: number, value: JsonObject, chars: number, out: Chunk[]): void {
    const type = text(value.type)
    const isPassing = type === 'text' || type === 'thinking'
    const call = type === 'tool_use' ? { index: calls++, input: value.input ?? {} } : undefined
    closeBlock(index, out) // a server that never says so
    hold(isPassing ? 0 : chars)
    blocks.set(index, {
      type,
      value: isPassing || call !== undefined ? undefined : value,
      call,
      input: '',
      hasInput: false,
      chars: isPassing ? 0 : chars
    })
    if (blocks.size > 1024 || calls > 1024) throw malformed('the answer has too many content blocks')
    if (type === 'text') pushText(value.text, out)
    else if (type === 'thinking') pushReasoning(value, out)
    else if (call !== undefined) {
      out.push({ type: 'tool-call', index: call.index, id: text(value.id), name: text(value.name), arguments: '' })
    }
  }

  function hold(chars: number): void {
    openChars += chars
    if (openChars <= maxOpenChars) return
    throw new MillraceError('protocol', `the answer has more than ${maxOpenChars} characters in open content blocks`, {
      details: { reason: 'too-large' }
    })
  }

  function addToBlock(index: number, delta: JsonObject, out: Chunk[]): void {
    const block = blocks.get(index)
    switch (delta.type) {
      case 'text_delta':
        return pushText(delta.text, out)
      case 'thinking_delta':
      case 'signature_delta':
        return pushReasoning(delta, out)
      case 'input_json_delta': {
        const piece = text(delta.partial_json)
        if (block === undefined || piece === '') return
        block.hasInput = true
        if (block.call !== undefined) out.push({ type: 'tool-call', index: block.call.index, arguments: piece })
        else if (block.value !== undefined) {
          hold(piece.length)
          block.input += piece
        }
        return
      }
      case 'citations_delta':
        if (delta.citation !== undefined) out.push({ type: 'extra', name: 'citation', value: delta.citation })
    }
  }

  function closeBlock(index: number, out: Chunk[]): void {
    const block = blocks.get(index)
    if (block === undefined) return
    blocks.delete(index)
    openChars -= block.chars + block.input.length
    const { call, value } = block
    if (call !== undefined) {
      // Without a delta the input stands in the block itself; a tool without input has `{}` there.
      if (!block.hasInput) out.push({ type: 'tool-call', index: call.index, arguments: stringify(call.input) })
    } else if (value !== undefined) {
      const input = block.input === '' ? undefined : parseJson(block.input)
      out.push({ type: 'extra', name: 'content_block', value: input === undefined ? value : { ...value, input } })
    }
  }

  function readStop(from: JsonObject): void {
    if (typeof from.stop_reason === 'string') finish = finishOf(from.stop_reason)
  }

  return {
    get finish() {
      return finish
    },
    get usage() {
      return usage && readUsage(usage)
    },
    event({ data }, out) {
      if (data === '') return false
      const body = parseJson(data)
      if (!isJsonObject(body)) throw malformed(`an event is not a JSON object (${data.length} characters)`)
      const index = typeof body.index === 'number' ? body.index : 0
      switch (body.type) {
        case 'message_start':
          if (isJsonObject(body.message)) start(body.message, out)
          return false
        case 'content_block_start':
          start({}, out)
          if (isJsonObject(body.content_block)) openBlock(index, body.content_block, data.length, out)
          return false
        case 'content_block_delta':
          if (isJsonObject(body.delta)) addToBlock(index, body.delta, out)
          return false
        case 'content_block_stop':
          closeBlock(index, out)
          return false
        case 'message_delta':
          if (isJsonObject(body.delta)) readStop(body.delta)
          // Counts in a delta are cumulative; those it leaves out stand in the start.
          if (isJsonObject(body.usage)) usage = { ...usage, ...countsOf(body.usage) }
          return false
        case 'message_stop':
          return true
        case 'error':
          throw providerError(errorStatus(body.error), body, origin)
        default:
          return false // ping, and whatever is added later: the API asks clients to pass over unknown events
      }
    },
    answer(body, out) {
      if (body.type === 'error' || isJsonObject(body.error)) throw providerError(errorStatus(body.error), body, origin)
      if (!Array.isArray(body.content)) throw malformed('the answer has no content')
      start(body, out)
      for (const [index, block] of (body.content as readonly Json[]).entries()) {
        if (!isJsonObject(block)) continue
        openBlock(index, block, 0, out)
        if (Array.isArray(block.citations)) {
          for (const citation of block.citations as readonly Json[])
            out.push({ type: 'extra', name: 'citation', value: citation })
        }
        closeBlock(index, out)
      }
      readStop(body)
    },
    end(out) {
      if (finish === undefined) return false
      start({}, out)
      for (const index of blocks.keys()) closeBlock(index, out)
      if (usage !== undefined) out.push({ type: 'usage', usage: readUsage(usage) })
      out.push({ type: 'finish', reason: finish })
      return true
    }
  }
}

/** Anthropic counts what its prompt cache read and wrote beside the input, and thinking inside the output. */
function readUsage(usage: JsonObject): Usage {
  const output = count(usage.output_tokens)
  const details = isJsonObject(usage.output_tokens_details) ? usage.output_tokens_details : {}
  const reasoning = Math.min(output, count(details.thinking_tokens))
  return {
    input: {
      uncached: count(usage.input_tokens),
      cacheRead: count(usage.cache_read_input_tokens),
      cacheWrite: count(usage.cache_creation_input_tokens)
    },
    output: { text: output - reasoning, reasoning },
    estimated: false,
    billed: true
  }
}

function finishOf(reason: string): FinishReason {
  switch (reason) {
    case 'end_turn':
    case 'stop_sequence':
      return 'stop'
    case 'max_tokens':
    case 'model_context_window_exceeded':
      return 'length'
    case 'tool_use':
      return 'tool-calls'
    case 'refusal':
      return 'content-filter'
    default:
      return 'other'
  }
}

function pushText(value: Json | undefined, out: Chunk[]): void {
  const piece = text(value)
  if (piece !== '') out.push({ type: 'text', text: piece })
}

function pushReasoning(from: JsonObject, out: Chunk[]): void {
  const thought = text(from.thinking)
  const signature = text(from.signature)
  if (thought === '' && signature === '') return
  out.push({ type: 'reasoning', text: thought, ...(signature === '' ? {} : { signature }) })
}

/** What is read of a usage. Events without end may bring other fields without end. */
const countFields = [
  'input_tokens',
  'cache_read_input_tokens',
  'cache_creation_input_tokens',
  'output_tokens',
  'output_tokens_details'
]

function countsOf(usage: JsonObject): JsonObject {
  return Object.fromEntries(countFields.flatMap((name) => (usage[name] == null ? [] : [[name, usage[name] as Json]])))
}
