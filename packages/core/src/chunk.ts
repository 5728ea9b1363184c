import { isJsonObject, type Json } from './json.ts'

/**
 * The unit a provider yields. A legal stream is one `start`, any number of `note`s before the first content, content in
 * any order, at most one `usage`, and one `finish` at the very end. Only `start` and `finish` are certain.
 */
export type Chunk = StartChunk | NoteChunk | TextChunk | ReasoningChunk | ToolCallChunk | ExtraChunk | UsageChunk | FinishChunk

/** Who answers. `model` is the name the provider gives itself, which may be more exact than the one asked for. */
export interface StartChunk {
  readonly type: 'start'
  readonly provider: string
  readonly model: string
  /** The provider's id of the completion. */
  readonly id?: string | undefined
}

/** What a layer did, told once before the first content. */
export interface NoteChunk {
  readonly type: 'note'
  readonly from: NoteSource
  readonly facts: Facts
}

export type NoteSource = 'cache' | 'retry' | 'hedge' | 'fallback' | 'limits' | 'tokens' | 'provider'
export type Facts = Readonly<Record<string, Json>>

/** A piece of the answer, or of the model's refusal to give one. */
export interface TextChunk {
  readonly type: 'text' | 'refusal'
  readonly text: string
}

/** A piece of visible reasoning. The chunk with the `signature` (its text may be empty) closes the block. */
export interface ReasoningChunk {
  readonly type: 'reasoning'
  readonly text: string
  readonly signature?: string | undefined
}

/** A piece of the tool call number `index`: `id` and `name` come with its first piece, `arguments` is JSON text to append. */
export interface ToolCallChunk {
  readonly type: 'tool-call'
  readonly index: number
  readonly id?: string | undefined
  readonly name?: string | undefined
  readonly arguments: string
}

/** What the contract has no name for: logprobs, annotations, audio, a provider's own content blocks. */
export interface ExtraChunk {
  readonly type: 'extra'
  readonly name: string
  readonly value: Json
}

export interface UsageChunk {
  readonly type: 'usage'
  readonly usage: Usage
}

export interface FinishChunk {
  readonly type: 'finish'
  readonly reason: FinishReason
}

/** `cut`: we ended the stream on purpose (a token limit, a stop rule of ours), not the provider. */
export type FinishReason = 'stop' | 'length' | 'tool-calls' | 'content-filter' | 'cut' | 'other'

/**
 * Tokens in one shape for every provider: the parts add up. OpenAI reports cached tokens inside the input and reasoning
 * inside the output, Anthropic reports cached tokens beside the input; both are told apart here.
 */
export interface Usage {
  readonly input: { readonly uncached: number; readonly cacheRead: number; readonly cacheWrite: number }
  readonly output: { readonly text: number; readonly reasoning: number }
  /** True when we counted, because the provider did not say. */
  readonly estimated: boolean
  /** False on a hit, a stale or a joined answer: limits, budgets and money ignore it. */
  readonly billed: boolean
}

/** All input tokens: uncached, read from and written to the provider's prompt cache. */
export function inputTokens(usage: Usage): number {
  return usage.input.uncached + usage.input.cacheRead + usage.input.cacheWrite
}

/** All output tokens: visible text (tool calls included) and reasoning. */
export function outputTokens(usage: Usage): number {
  return usage.output.text + usage.output.reasoning
}

/** Whether the cache gave the answer, or another call's was shared: by what its note says. Such an answer is not billed. */
export function isFromCache(facts: Facts | undefined): boolean {
  return facts?.state === 'hit' || facts?.state === 'stale' || facts?.state === 'joined'
}

/**
 * Whether a reader of the answer learns something from this chunk; retry, hedging and fallback stop at the first such
 * chunk. Empty pieces are silence, however many come: `{ content: [] }` as much as an empty text.
 */
export function isContent(chunk: Chunk): boolean {
  switch (chunk.type) {
    case 'text':
    case 'refusal':
      return chunk.text !== ''
    case 'reasoning':
      return chunk.text !== '' || Boolean(chunk.signature)
    case 'tool-call':
      return chunk.arguments !== '' || Boolean(chunk.id) || Boolean(chunk.name)
    case 'extra':
      return !isHollow(chunk.value)
    default:
      return false
  }
}

/** Blank, or an object of nothing but blank fields. It looks no deeper: it runs for each chunk. */
function isHollow(value: Json): boolean {
  if (!isJsonObject(value)) return isBlank(value)
  for (const key in value) if (!isBlank(value[key])) return false
  return true
}

function isBlank(value: Json | undefined): boolean {
  return value === undefined || value === null || value === '' || (Array.isArray(value) && value.length === 0)
}
