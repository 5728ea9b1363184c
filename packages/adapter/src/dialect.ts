import type { ChatRequest, Chunk, FinishReason, JsonObject, Provider, Send, ServerSentEvent, Usage } from '@millrace/core'
import type { ProviderIdentity } from './provider-options.ts'

/** A provider that has everything but its wire; the adapter connects it to its own transport. */
export interface WireProvider {
  /** What it is called in chunks, errors and telemetry: `openai`, `anthropic`, or a name of yours. */
  readonly name: string
  /** Where it sends to, for the cache's key: the base URL without its query. */
  readonly origin: string
  /** For the cache's key: only digests of it get there. A method, so that no log shows it. */
  identity(): ProviderIdentity
  /** Gives the provider over a transport's `send`. */
  connect(send: Send): Provider
}

/** What one API family says about itself: how a request is written and how an answer is read. */
export interface Dialect {
  readonly name: string
  readonly url: string
  /** Credentials included; they are also what is removed from error texts. */
  readonly headers: Readonly<Record<string, string>>
  readonly secrets: readonly string[]
  body(request: ChatRequest, options: { readonly stream: boolean }): JsonObject
  reader(request: ChatRequest): AnswerReader
}

/** Reads one answer. Each method adds what it found to `out`; contract errors of the provider are thrown. */
export interface AnswerReader {
  /** An event of a stream. True: this was the last one. */
  event(event: ServerSentEvent, out: Chunk[]): boolean
  /** A whole answer as one JSON body. */
  answer(body: JsonObject, out: Chunk[]): void
  /** The stream has ended: adds usage and finish, if the provider told why it stopped. */
  end(out: Chunk[]): boolean
  /** What the provider has told of its tokens so far; Anthropic tells the input at the start. */
  readonly usage: Usage | undefined
  /** The provider has said why it stopped; what follows is only bookkeeping. */
  readonly finish: FinishReason | undefined
}
