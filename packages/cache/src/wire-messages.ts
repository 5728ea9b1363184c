import { isJsonObject, type Json, type JsonObject, type Usage } from '@millrace/core'
import { areArguments, count, objectsOf, says, usageFrom, type Verdict, verdict, type WireStream } from './wire-verdict.ts'

const stops: ReadonlySet<Json | undefined> = new Set(['end_turn', 'tool_use', 'stop_sequence'])

/** One answer of Anthropic's Messages API. */
export function judgeMessage({ type, content, stop_reason, model, usage }: JsonObject): Verdict | undefined {
  if (type !== 'message' || !stops.has(stop_reason)) return undefined
  const blocks = objectsOf(content)
  if (!blocks.some(hasContent) || !hasCalls(stop_reason, blocks)) return undefined
  if (!blocks.every((block) => block.type !== 'tool_use' || isJsonObject(block.input))) return undefined
  return verdict(model, usageOf(usage))
}

interface Block {
  readonly value: JsonObject
  says: boolean
  /** Of a tool's input, as JSON text. */
  input: string
  open: boolean
}

/** Who stops for a tool must call one. */
function hasCalls(stop: Json | undefined, blocks: readonly JsonObject[]): boolean {
  return stop !== 'tool_use' || blocks.some(({ type }) => type === 'tool_use')
}

/** A stream of the same: begun by `message_start`, every block closed and none behind the stop, a stop on the allow-list, `message_stop`. */
export function judgeMessageStream({ events }: WireStream): Verdict | undefined {
  const blocks = new Map<Json, Block>()
  let model: Json | undefined
  let stop: Json | undefined
  let isBegun = false
  let isCut = false
  let usage: JsonObject = {}
  for (const { type, index = 0, message, content_block: value, delta, usage: more } of events) {
    if (type === 'message_start' && isJsonObject(message)) {
      isBegun = true
      model = message.model
      usage = withMore(usage, message.usage)
    } else if (type === 'content_block_start' && isJsonObject(value)) {
      isCut ||= stop !== undefined
      blocks.set(index, { value, says: hasContent(value), input: '', open: true })
    } else if (type === 'content_block_delta' && isJsonObject(delta)) {
      const block = blocks.get(index)
      if (block === undefined) return undefined
      block.says ||= says(delta.text) || says(delta.citation)
      if (typeof delta.partial_json === 'string') block.input += delta.partial_json
    } else if (type === 'content_block_stop') {
      const block = blocks.get(index)
      if (block !== undefined) block.open = false
    } else if (type === 'message_delta') {
      if (isJsonObject(delta)) stop = delta.stop_reason ?? stop
      // What was cut or filtered stays so, whatever is said later.
      isCut ||= stop !== undefined && !stops.has(stop)
      usage = withMore(usage, more)
    }
  }
  const all = [...blocks.values()]
  const isOver = events.findIndex(({ type }) => type === 'message_stop') === events.length - 1
  if (!isBegun || !isOver || isCut || !stops.has(stop) || !all.some((block) => block.says)) return undefined
  if (
    !hasCalls(
      stop,
      all.map(({ value }) => value)
    )
  )
    return undefined
  // A tool without parameters comes without any input: its block began with `{}`.
  if (!all.every(({ open, input, value }) => !open && (input === '' ? isCallable(value) : areArguments(input)))) return undefined
  return verdict(model, usageOf(usage))
}

function isCallable({ type, input }: JsonObject): boolean {
  return type !== 'tool_use' || isJsonObject(input)
}

/** A block of a kind of its own (a tool call, a server's result) is content by being there; what it thought is none. */
function hasContent({ type, text }: JsonObject): boolean {
  return type === 'text' ? says(text) : type !== 'thinking' && type !== 'redacted_thinking'
}

const counted = ['input_tokens', 'cache_read_input_tokens', 'cache_creation_input_tokens', 'output_tokens']

/** Of what is counted alone: a stream of ever new names must not make it grow. */
function withMore(usage: JsonObject, more: Json | undefined): JsonObject {
  if (!isJsonObject(more)) return usage
  const told = counted.filter((name) => (more[name] ?? null) !== null)
  return { ...usage, ...Object.fromEntries(told.map((name) => [name, more[name] as Json])) }
}

/** Anthropic counts cached tokens beside the input, and reasoning inside the output without telling how much. */
function usageOf(usage: Json | undefined): Usage | undefined {
  if (!isJsonObject(usage) || typeof usage.output_tokens !== 'number') return undefined
  const cacheRead = count(usage.cache_read_input_tokens)
  const cacheWrite = count(usage.cache_creation_input_tokens)
  const input = count(usage.input_tokens) + cacheRead + cacheWrite
  return usageFrom({ input, cacheRead, cacheWrite, output: usage.output_tokens })
}
