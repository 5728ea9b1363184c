// `export *` so that other packages can add their key to CallOptions by declaration merging: TypeScript merges an
// augmentation of '@millrace/core' into re-exported names only through a star.
export * from './call.ts'
export {
  type AttemptEnd,
  type AttemptStart,
  type CacheLookup,
  type CallContent,
  type CallEnd,
  type CallStart,
  type ChannelMessage,
  channels
} from './channels.ts'
export { checkJson } from './check-json.ts'
export { checkOptions } from './check-options.ts'
export { type BesideMessages, checkBeside, checkMessage, checkRequest } from './check-request.ts'
export {
  type Chunk,
  type ExtraChunk,
  type Facts,
  type FinishChunk,
  type FinishReason,
  inputTokens,
  isContent,
  isFromCache,
  type NoteChunk,
  type NoteSource,
  outputTokens,
  type ReasoningChunk,
  type StartChunk,
  type TextChunk,
  type ToolCallChunk,
  type Usage,
  type UsageChunk
} from './chunk.ts'
export { ChunkBatches, type ChunkIterator, hasEnded, nextBatch } from './chunk-iterator.ts'
export { type CollectOptions, chunksOf, collect, incomplete } from './collect.ts'
export {
  type Assembly,
  type AssemblyOptions,
  assemble,
  type Completion,
  messageOf,
  type Reasoning,
  type UsageEstimate
} from './completion.ts'
export { type ContentScanner, type ContentScannerOptions, createContentScanner } from './content-scanner.ts'
export { redactCredentials } from './credentials.ts'
export {
  type ContentClock,
  type ContentLimits,
  type Deadline,
  startContentClock,
  startDeadline,
  timeoutError
} from './deadline.ts'
export {
  annotate,
  type ErrorCode,
  type ErrorContext,
  type ErrorDetails,
  isMillraceError,
  MillraceError,
  type MillraceErrorInit
} from './error.ts'
export { errorStatus } from './error-status.ts'
export { isJsonObject, type Json, type JsonObject, parseJson } from './json.ts'
export { createLog, type FollowOptions, type LogOptions, type LogReader, type StreamLog } from './log.ts'
export { type EventReader, parseSSE } from './parse-sse.ts'
export { pipe } from './pipe.ts'
export type {
  AssistantMessage,
  AudioPart,
  ChatRequest,
  Extra,
  FilePart,
  ImagePart,
  Message,
  OtherPart,
  Part,
  PromptMessage,
  ReasoningPart,
  ResponseFormat,
  Role,
  TextPart,
  Tool,
  ToolCall,
  ToolChoice,
  ToolMessage
} from './request.ts'
export type {
  SharedFollowOptions,
  SharedLog,
  SharedLogState,
  SharedLogWriter,
  SharedWriteOptions
} from './shared-log.ts'
export { abortable, clampTimer, type LinkedAbort, linkAbort, onAbort, sleep } from './signal.ts'
export { createSSEParser, type EventShortcut, type ServerSentEvent, type SSEOptions, type SSEParser } from './sse.ts'
export { CallTally } from './tally.ts'
export { type CallListener, type PriceOf, type WatchOptions, watch } from './watch.ts'
export type { HttpBody, HttpRequest, HttpResponse, Send, WirePhase } from './wire.ts'
