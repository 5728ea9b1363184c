export {
  type Chunk,
  createSSEParser,
  type EventReader,
  type EventShortcut,
  type Provider,
  parseSSE,
  pipe,
  type ServerSentEvent,
  type SSEOptions,
  type SSEParser
} from '@millrace/core'
export { abortable } from './abortable.ts'
export { type BufferedOptions, buffered } from './buffered.ts'
export { type CoalesceOptions, coalesce } from './coalesce.ts'
export type { EventFormat, EventWriter } from './event-format.ts'
export { type IdleTimeoutOptions, idleTimeout } from './idle-timeout.ts'
export { type CutOptions, limitTokens, type RunningCount } from './limit-tokens.ts'
export { map } from './map.ts'
export { createMemoryLog, type MemoryLog, type MemoryLogOptions, type MemoryLogStats } from './memory-log.ts'
export { onlyText } from './only-text.ts'
export { type OpenAIError, openaiError } from './openai-error.ts'
export { type OpenAIEventsOptions, type OpenAIUsage, openaiEvents, openaiFinishReason, openaiUsage } from './openai-events.ts'
export type { Operator } from './operate.ts'
export { type PaceOptions, pace } from './pace.ts'
export { createPartialJson, type PartialJson, type PartialJsonParser, partialJson } from './partial-json.ts'
export { plainEvents } from './plain-events.ts'
export { type SharedReader, type SharedReaders, type ShareOptions, share } from './share.ts'
export type { SSESource, SSEWriteOptions } from './sse-options.ts'
export { toSSEResponse } from './sse-response.ts'
export { type StopRule, type StopWhenOptions, stopWhen } from './stop-when.ts'
export {
  type ChunkSource,
  createStreams,
  type ResumeOptions,
  type StartedStream,
  type StartOptions,
  type StreamEvents,
  type Streams,
  type StreamsOptions,
  type StreamsStats
} from './streams.ts'
export {
  createToolCalls,
  type GrowingToolCall,
  onlyToolCalls,
  type ToolCalls,
  type ToolCallsOptions
} from './tool-calls.ts'
export { withOperators } from './with-operators.ts'
export { type SSEWriteEnd, writeSSE } from './write-sse.ts'
