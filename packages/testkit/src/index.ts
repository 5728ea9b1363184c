export type { ScriptedReply } from './answer.ts'
export { type StartedBrowser, startBrowser } from './browser.ts'
export { createCertificate, type TestCertificate } from './certificate.ts'
export { type Program, requirePackagedFile, requireProgram, type WantedProgram } from './debian-package.ts'
export type { ScriptedRequest, ScriptedTool, ScriptedToolCall } from './dialect.ts'
export type { ScriptedFault } from './fault.ts'
export {
  ConnectionGone,
  chunk,
  type FaultConnection,
  type FaultServer,
  namedSse,
  responseHead,
  sse,
  startFaultServer
} from './fault-server.ts'
export type { FaultRequest } from './http-request.ts'
export { heapAfterGc, type LeakProbe, probeLeaks } from './leaks.ts'
export type { OtlpBehaviour } from './otlp-behaviour.ts'
export type { OtlpAttributes, OtlpMetric, OtlpPoint, OtlpScope, OtlpSpan } from './otlp-data.ts'
export { type OtlpRequest, type OtlpSink, type OtlpSinkOptions, startOtlpSink } from './otlp-sink.ts'
export {
  type PrometheusOptions,
  type PrometheusRule,
  type PrometheusSample,
  type PrometheusServer,
  type PrometheusTarget,
  requirePrometheus
} from './prometheus.ts'
export { type Random, seededRandom } from './random.ts'
export {
  loadRecordings,
  type RecordedRequest,
  type RecordedUsage,
  type Recording,
  type ServedRecording,
  serveRecording
} from './recordings.ts'
export { type RedisOptions, type RedisServer, requireRedis, startRedis } from './redis.ts'
export { type ScriptedOptions, type ScriptedProvider, type ScriptedStats, startScriptedProvider } from './scripted.ts'
export { type SpawnedProvider, spawnScriptedProvider } from './spawn.ts'
export type { RateLimit } from './token-bucket.ts'
