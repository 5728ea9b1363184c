// The names of the OpenTelemetry GenAI semantic conventions, as in open-telemetry/semantic-conventions 1.42.0 (commit
// 5e2270d of model/gen-ai/deprecated): all "development", and moved to open-telemetry/semantic-conventions-genai, where they
// go on changing. Copied, not imported: a name that moves then changes in this file only. Ours begin with `millrace.`.

/** The name of our tracer and meter. */
export const scope = '@millrace/telemetry'

export const attribute = {
  operation: 'gen_ai.operation.name',
  provider: 'gen_ai.provider.name',
  requestModel: 'gen_ai.request.model',
  requestStream: 'gen_ai.request.stream',
  requestMaxTokens: 'gen_ai.request.max_tokens',
  requestTemperature: 'gen_ai.request.temperature',
  requestTopP: 'gen_ai.request.top_p',
  requestSeed: 'gen_ai.request.seed',
  outputType: 'gen_ai.output.type',
  responseId: 'gen_ai.response.id',
  responseModel: 'gen_ai.response.model',
  finishReasons: 'gen_ai.response.finish_reasons',
  timeToFirstChunk: 'gen_ai.response.time_to_first_chunk',
  inputTokens: 'gen_ai.usage.input_tokens',
  outputTokens: 'gen_ai.usage.output_tokens',
  cacheReadTokens: 'gen_ai.usage.cache_read.input_tokens',
  cacheCreationTokens: 'gen_ai.usage.cache_creation.input_tokens',
  reasoningTokens: 'gen_ai.usage.reasoning.output_tokens',
  tokenType: 'gen_ai.token.type',
  inputMessages: 'gen_ai.input.messages',
  outputMessages: 'gen_ai.output.messages',
  systemInstructions: 'gen_ai.system_instructions',
  toolDefinitions: 'gen_ai.tool.definitions',
  errorType: 'error.type',
  serverAddress: 'server.address',
  serverPort: 'server.port',
  httpMethod: 'http.request.method',
  httpStatus: 'http.response.status_code',
  httpResendCount: 'http.request.resend_count',

  outcome: 'millrace.outcome',
  clock: 'millrace.timeout.clock',
  contents: 'millrace.contents',
  attempts: 'millrace.attempts',
  hedge: 'millrace.hedge',
  overheadSeconds: 'millrace.overhead_s',
  costUsd: 'millrace.cost_usd',
  costSavedUsd: 'millrace.cost_saved_usd',
  cacheState: 'millrace.cache.state',
  cacheAgeMs: 'millrace.cache.age_ms',
  fallbackTried: 'millrace.fallback.tried',
  limitsWaitedMs: 'millrace.limits.waited_ms',
  tokensDropped: 'millrace.tokens.dropped',
  tokensSaved: 'millrace.tokens.saved',
  tokensCompressed: 'millrace.tokens.compressed',
  savedBy: 'millrace.saved.by',
  usageEstimated: 'millrace.usage.estimated',
  usageBilled: 'millrace.usage.billed',
  savedInputTokens: 'millrace.usage.saved_input_tokens',
  savedOutputTokens: 'millrace.usage.saved_output_tokens',
  poolState: 'millrace.pool.state',
  breakerState: 'millrace.breaker.state',
  limitsReason: 'millrace.limits.reason',
  spanFate: 'millrace.telemetry.fate'
} as const

export const metric = {
  duration: 'gen_ai.client.operation.duration',
  timeToFirstChunk: 'gen_ai.client.operation.time_to_first_chunk',
  timePerOutputChunk: 'gen_ai.client.operation.time_per_output_chunk',
  tokens: 'gen_ai.client.token.usage',

  overhead: 'millrace.call.overhead',
  limitsWait: 'millrace.limits.wait',
  costSpent: 'millrace.cost.spent',
  costSaved: 'millrace.cost.saved',
  tokensSaved: 'millrace.tokens.saved',
  callsRunning: 'millrace.calls.running',
  callsUnmetered: 'millrace.calls.unmetered',
  callsUnpriced: 'millrace.calls.unpriced',

  attemptDuration: 'millrace.attempt.duration',
  retries: 'millrace.transport.retries',
  retriesDenied: 'millrace.transport.retries_denied',
  resent: 'millrace.transport.resent',
  hedges: 'millrace.transport.hedges',
  hedgesWon: 'millrace.transport.hedges_won',
  poolSockets: 'millrace.pool.sockets',
  poolQueued: 'millrace.pool.queued',
  poolOpened: 'millrace.pool.opened',
  poolReused: 'millrace.pool.reused',
  poolRequests: 'millrace.pool.requests',
  breakerState: 'millrace.breaker.state',
  breakerOpened: 'millrace.breaker.opened',
  breakerRejected: 'millrace.breaker.rejected',

  cacheLookups: 'millrace.cache.lookups',
  cacheEntries: 'millrace.cache.entries',
  cacheSize: 'millrace.cache.size',
  cacheEvictions: 'millrace.cache.evictions',
  cacheStored: 'millrace.cache.stored',
  cacheRefreshes: 'millrace.cache.refreshes',
  cacheRefreshErrors: 'millrace.cache.refresh_errors',
  cacheStoreErrors: 'millrace.cache.store_errors',
  cacheStoreSkipped: 'millrace.cache.store_skipped',
  cacheTokensSaved: 'millrace.cache.tokens_saved',
  cacheCostSaved: 'millrace.cache.cost_saved',

  limitsRunning: 'millrace.limits.running',
  limitsQueued: 'millrace.limits.queued',
  limitsGranted: 'millrace.limits.granted',
  limitsRefused: 'millrace.limits.refused',
  limitsProviderRefusals: 'millrace.limits.provider_refusals',
  limitsDegraded: 'millrace.limits.degraded',
  limitsDegradedCalls: 'millrace.limits.degraded_calls',
  limitsStoreErrors: 'millrace.limits.store_errors',

  fallbackMovedOn: 'millrace.fallback.moved_on',
  fallbackExhausted: 'millrace.fallback.exhausted',
  fallbackFailed: 'millrace.fallback.failed',
  fallbackPassedOver: 'millrace.fallback.passed_over',
  fallbackCooling: 'millrace.fallback.cooling',

  telemetryDropped: 'millrace.telemetry.dropped',
  telemetrySpans: 'millrace.telemetry.spans',
  telemetryExportFailures: 'millrace.telemetry.export_failures',
  telemetryFailures: 'millrace.telemetry.failures'
} as const

/** Upper bounds of the histograms of time. */
export const secondsBoundaries: readonly number[] = [
  0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92
]

/** Upper bounds of the histogram of our own time, which is a thousandth of a provider's. */
export const overheadBoundaries: readonly number[] = [
  0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1
]

/** Upper bounds of the histogram of tokens. */
export const tokenBoundaries: readonly number[] = [
  1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864
]

/** What the conventions write where a value is not in the list of known ones. */
export const other = '_OTHER'
