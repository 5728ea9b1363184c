export {
  type Adapter,
  type AdapterOptions,
  type AdapterStats,
  type CompleteOptions,
  createAdapter,
  type TokenOptions
} from './adapter.ts'
export type { AnswerStream } from './answer-stream.ts'
export type { BatchOptions, BatchResult } from './batch.ts'
export type { Candidate } from './candidates.ts'
export type { WireProvider } from './dialect.ts'
export type { FallbackProviderStats, FallbackStats } from './fallback.ts'
export type { FallbackOptions } from './fallback-options.ts'
export type { CallStats } from './stats.ts'
