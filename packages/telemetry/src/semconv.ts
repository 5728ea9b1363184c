// The names of the OpenTelemetry GenAI semantic conventions, as in open-telemetry/semantic-conventions 1.42.0 (commit
// 5e2270d of model/gen-ai/deprecated): all "development", and moved to open-telemetry/semantic-conventions-genai, where they
// go on changing. Copied, not imported: a name that moves then changes in this file only. Ours begin with `millrace.`.

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
  cacheState: 'millrace.cache.state',
  cacheAgeMs: 'millrace.cache.age_ms',
  fallbackTried: 'millrace.fallback.tried',
  limitsWaitedMs: 'millrace.limits.waited_ms',
  tokensDropped: 'millrace.tokens.dropped',
  tokensSaved: 'millrace.tokens.saved',
  usageEstimated: 'millrace.usage.estimated',
  usageBilled: 'millrace.usage.billed',
  poolState: 'millrace.pool.state'
} as const

export const metric = {
  duration: 'gen_ai.client.operation.duration',
  timeToFirstChunk: 'gen_ai.client.operation.time_to_first_chunk',
  tokens: 'gen_ai.client.token.usage',

  cacheLookups: 'millrace.cache.lookups',
  attempts: 'millrace.attempts',
  poolSockets: 'millrace.pool.sockets',
  poolQueued: 'millrace.pool.queued',
  poolOpened: 'millrace.pool.opened',
  poolReused: 'millrace.pool.reused',
  poolRequests: 'millrace.pool.requests'
} as const

/** Upper bounds of the histograms of time. */
export const secondsBoundaries: readonly number[] = [
  0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92
]

/** Upper bounds of the histogram of tokens. */
export const tokenBoundaries: readonly number[] = [
  1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864
]

/** What the conventions write where a value is not in the list of known ones. */
export const other = '_OTHER'
