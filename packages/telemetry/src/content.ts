import type { ChatRequest, Chunk, FinishReason } from '@millrace/core'
import type { Attributes } from '@opentelemetry/api'

export interface ContentOptions {
  readonly maxChars?: number | undefined
  readonly redact?: ((text: string, where: 'system' | 'input' | 'output' | 'tool') => string | undefined) | undefined
}
export interface CapturedCall {
  add(chunks: readonly Chunk[]): void
  attributes(finish?: FinishReason): Attributes
}
export interface ContentCapture {
  start(request: ChatRequest): CapturedCall
}
export function createContentCapture(_options: ContentOptions, _onFailure: () => void): ContentCapture {
  return { start: () => ({ add() {}, attributes: () => ({}) }) }
}
export function asksForContent(_env: NodeJS.ProcessEnv): boolean {
  return false
}
