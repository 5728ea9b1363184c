import type { Json, JsonObject } from './json.ts'

/** Fields of the provider that the contract has no name for; sent as they are, beside our own. */
export type Extra = Readonly<Record<string, Json>>

/**
 * What is asked of a model: the fields that most providers share, under one name each.
 *
 * @example
 * const request: ChatRequest = { model: 'gpt-5.6', messages: [{ role: 'user', content: 'Hello' }] }
 */
export interface ChatRequest {
  readonly model: string
  readonly messages: readonly Message[]
  readonly tools?: readonly Tool[] | undefined
  readonly toolChoice?: ToolChoice | undefined
  readonly responseFormat?: ResponseFormat | undefined
  /** Upper bound of generated tokens, reasoning included where the provider counts it so. */
  readonly maxOutputTokens?: number | undefined
  readonly temperature?: number | undefined
  /** Nucleus sampling, 0 to 1. */
  readonly topP?: number | undefined
  readonly stop?: readonly string[] | undefined
  readonly seed?: number | undefined
  /** Every other field of the provider, sent untouched. */
  readonly extra?: Extra | undefined
}

export type Role = 'system' | 'developer' | 'user' | 'assistant' | 'tool'

export type Message = PromptMessage | AssistantMessage | ToolMessage

interface MessageBase {
  /** Fields of the provider for this message (for Anthropic `cache_control`, say), sent untouched. */
  readonly extra?: Extra | undefined
}

export interface PromptMessage extends MessageBase {
  readonly role: 'system' | 'developer' | 'user'
  readonly content: string | readonly Part[]
  readonly name?: string | undefined
}

/** An earlier answer of the model. `messageOf(completion)` gives one to append to the conversation. */
export interface AssistantMessage extends MessageBase {
  readonly role: 'assistant'
  /** Empty (`''`) when the model only called tools. */
  readonly content: string | readonly Part[]
  readonly name?: string | undefined
  readonly toolCalls?: readonly ToolCall[] | undefined
}

/** What a tool answered. */
export interface ToolMessage extends MessageBase {
  readonly role: 'tool'
  readonly content: string | readonly Part[]
  readonly toolCallId: string
}

export interface ToolCall {
  readonly id: string
  readonly name: string
  /** The arguments as the model wrote them: JSON text, not yet parsed. */
  readonly arguments: string
}

export type Part = TextPart | ImagePart | AudioPart | FilePart | ReasoningPart | OtherPart

interface PartBase {
  readonly extra?: Extra | undefined
}

export interface TextPart extends PartBase {
  readonly type: 'text'
  readonly text: string
}

/** `url` is an https address or a `data:` URL with base64 content. */
export interface ImagePart extends PartBase {
  readonly type: 'image'
  readonly url: string
  readonly detail?: 'low' | 'high' | 'auto' | undefined
}

export interface AudioPart extends PartBase {
  readonly type: 'audio'
  /** Base64. */
  readonly data: string
  /** `wav`, `mp3` and so on. */
  readonly format: string
}

/** A document: by the provider's file id, or as a `data:` URL. One of the two. */
export interface FilePart extends PartBase {
  readonly type: 'file'
  readonly fileId?: string | undefined
  readonly url?: string | undefined
  readonly filename?: string | undefined
}

/** Earlier reasoning handed back to the model. Providers that sign it refuse it without its signature. */
export interface ReasoningPart extends PartBase {
  readonly type: 'reasoning'
  readonly text: string
  readonly signature?: string | undefined
}

/** A part the contract has no name for: `value` goes to the provider as it is. */
export interface OtherPart {
  readonly type: 'other'
  readonly value: JsonObject
}

export interface Tool {
  readonly name: string
  readonly description?: string | undefined
  /** JSON Schema of the arguments. */
  readonly parameters?: JsonObject | undefined
  /** Ask the provider to hold the model to the schema. */
  readonly strict?: boolean | undefined
  readonly extra?: Extra | undefined
}

export type ToolChoice = 'auto' | 'none' | 'required' | { readonly name: string }

export type ResponseFormat =
  | { readonly type: 'text' }
  | { readonly type: 'json' }
  | {
      readonly type: 'json-schema'
      readonly name: string
      readonly schema: JsonObject
      readonly description?: string | undefined
      readonly strict?: boolean | undefined
    }
