import { isJsonObject, type Json, type JsonObject, parseJson, type Usage } from '@millrace/core'

/** What a whole and valid answer says of itself. Every judge gives this, or `undefined` for an answer that must not be kept. */
export interface Verdict {
  /** Who answered, by its own name. */
  readonly model?: string | undefined
  readonly usage?: Usage | undefined
}

/** The events of a stream, parsed. */
export interface WireStream {
  readonly events: readonly JsonObject[]
  /** Whether it ended with `[DONE]`. */
  readonly done: boolean
}

/** The objects of a list; what is no list has none. */
export function objectsOf(value: Json | undefined): readonly JsonObject[] {
  return Array.isArray(value) ? (value as readonly Json[]).filter(isJsonObject) : []
}

/** Whether a field holds any of an answer: neither absent nor hollow. */
export function says(value: Json | undefined): boolean {
  if (Array.isArray(value)) return value.length > 0
  if (isJsonObject(value)) return Object.keys(value).length > 0
  return typeof value === 'string' && value !== ''
}

export function isSet(value: Json | undefined): value is string | number | true | readonly Json[] | JsonObject {
  return value !== undefined && value !== null && value !== false
}

/** Whether a tool can be called with this: some servers hand over the object instead of its text. */
export function areArguments(value: Json | undefined): boolean {
  return isJsonObject(value) || (typeof value === 'string' && parseJson(value) !== undefined)
}

export function verdict(model: Json | undefined, usage: Usage | undefined): Verdict {
  return { ...(typeof model === 'string' && model !== '' ? { model } : {}), ...(usage === undefined ? {} : { usage }) }
}

interface Counts {
  /** All of the input, what was read from a prompt cache or written to it included. */
  readonly input: Json | undefined
  readonly cacheRead?: Json | undefined
  readonly cacheWrite?: Json | undefined
  readonly output: Json | undefined
  /** Inside the output, but where the total shows that it came on top. */
  readonly reasoning?: Json | undefined
  readonly total?: Json | undefined
}

/** Usage whose parts add up, from counts that contain each other. Some servers report more cached tokens than the prompt has. */
export function usageFrom(counts: Counts): Usage {
  const input = count(counts.input)
  const cacheRead = Math.min(input, count(counts.cacheRead))
  const cacheWrite = Math.min(input - cacheRead, count(counts.cacheWrite))
  const output = count(counts.output)
  const reasoning = count(counts.reasoning)
  const isOnTop = reasoning > 0 && count(counts.total) === input + output + reasoning
  return {
    input: { uncached: input - cacheRead - cacheWrite, cacheRead, cacheWrite },
    output: isOnTop
      ? { text: output, reasoning }
      : { text: Math.max(0, output - reasoning), reasoning: Math.min(reasoning, output) },
    estimated: false,
    billed: true
  }
}

/** Nought for what is no count. */
export function count(value: Json | undefined): number {
  return typeof value === 'number' && Number.isFinite(value) && value > 0 ? value : 0
}

/** OpenAI's usage, under the names of chat completions or those of Responses; embeddings tell the total only. */
export function openaiUsage(value: Json | undefined): Usage | undefined {
  if (!isJsonObject(value)) return undefined
  const input = value.prompt_tokens_details ?? value.input_tokens_details
  const output = value.completion_tokens_details ?? value.output_tokens_details
  return usageFrom({
    input: value.prompt_tokens ?? value.input_tokens ?? value.total_tokens,
    cacheRead: isJsonObject(input) ? input.cached_tokens : 0,
    cacheWrite: isJsonObject(input) ? input.cache_write_tokens : 0,
    output: value.completion_tokens ?? value.output_tokens,
    reasoning: isJsonObject(output) ? output.reasoning_tokens : 0,
    total: value.total_tokens
  })
}
