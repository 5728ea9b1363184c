import {
  type AttemptEnd,
  type AttemptStart,
  type CacheLookup,
  type CallEnd,
  type CallStart,
  channels,
  checkOptions,
  type Layer,
  MillraceError,
  type Provider,
  watch
} from '@millrace/core'
import { type MeterProvider, propagation, ROOT_CONTEXT, type TracerProvider, trace } from '@opentelemetry/api'
import { createCalls } from './calls.ts'
import { createMeters } from './meters.ts'
import type { PoolStats } from './pool.ts'

export interface TelemetryOptions {
  /** Where spans go. @default the global one, also when it is registered later */
  readonly tracerProvider?: TracerProvider | undefined
  /** Where metrics go. @default the global one, also when it is registered later */
  readonly meterProvider?: MeterProvider | undefined
  /** Calls under way whose spans are kept; beyond, the oldest is ended as `dropped` and counted. @default 10000 */
  readonly maxOpenCalls?: number | undefined
  /** Model names (and provider names) that get metric series of their own; others share `_OTHER`. @default 100 */
  readonly maxModels?: number | undefined
}

export interface TelemetryStats {
  /** Calls under way. */
  readonly open: number
  /** Calls that outlived `maxOpenCalls` others: somebody takes streams and neither finishes nor leaves them. */
  readonly dropped: number
  /** Exceptions of the SDK, of its hooks or of an observed source. They never reach a call. */
  readonly failures: number
}

/** Something that counts by itself; it is asked when metrics are collected. */
export interface TelemetrySource {
  /** For a transport: `() => transport.stats()`. */
  readonly pool?: (() => PoolStats) | undefined
}

export interface Telemetry extends AsyncDisposable {
  /** Makes the calls of a bare provider heard. An adapter needs none: it tells of its calls by itself. */
  readonly layer: Layer<Provider>
  /**
   * `traceparent` (or what the global propagator writes) of this attempt's span, by default the newest under way; of the
   * call's where there is none. Empty without a propagator or for an unknown call. Baggage stays at home: it may name your
   * customer.
   */
  traceHeaders(callId: string, attempt?: number): Record<string, string>
  /**
   * Reports the counts of `source` until the returned function is called.
   *
   * @throws {MillraceError} `closed`
   */
  observe(source: TelemetrySource): () => void
  stats(): TelemetryStats
  /** Stops listening and ends the spans of calls under way. It does not shut the SDK down. Safe to call twice. */
  close(): Promise<void>
}

/** The name of our tracer and meter. */
const scope = '@millrace/telemetry'

/**
 * Listens to every Millrace object of this process and tells OpenTelemetry: a span for each call and each attempt, and the
 * metrics of the GenAI conventions. Prompts, answers, headers, tenants and error texts are never looked at.
 *
 * @throws {TypeError} a wrong option
 *
 * @example
 * await using telemetry = createTelemetry()
 * const provider = pipe(base, telemetry.layer)
 */
export function createTelemetry(options: TelemetryOptions = {}): Telemetry {
  checkOptions<TelemetryOptions>('createTelemetry', options, {
    tracerProvider: 1,
    meterProvider: 1,
    maxOpenCalls: 1,
    maxModels: 1
  })
  const { tracerProvider, meterProvider } = options
  const maxOpenCalls = count('maxOpenCalls', options.maxOpenCalls ?? 10_000)
  const maxModels = count('maxModels', options.maxModels ?? 100)
  if (tracerProvider !== undefined && typeof tracerProvider.getTracer !== 'function') {
    throw new TypeError('tracerProvider must be a TracerProvider, such as new TracerProvider() of @opentelemetry/sdk-trace')
  }
  if (meterProvider !== undefined && typeof meterProvider.getMeter !== 'function') {
    throw new TypeError('meterProvider must be a MeterProvider, such as new MeterProvider() of @opentelemetry/sdk-metrics')
  }

  let failures = 0
  let closed = false
  const sources = new Set<TelemetrySource>()
  const calls = createCalls((tracerProvider ?? trace).getTracer(scope), maxOpenCalls)
  const meters = createMeters(meterProvider, scope, maxModels, readPools)

  function* readPools(): Generator<PoolStats, void, undefined> {
    for (const { pool } of sources) {
      const stats = pool === undefined ? undefined : guarded(pool)()
      if (stats !== undefined) yield stats
    }
  }

  /** An exception in a channel's listener would end the process, so none gets out; `stats().failures` counts them. */
  function guarded<A extends unknown[], R>(listen: (...parts: A) => R): (...parts: A) => R | undefined {
    return (...parts) => {
      try {
        return listen(...parts)
      } catch {
        failures++
        return undefined
      }
    }
  }

  const onCallStart = guarded((message: CallStart) => calls.start(message))
  const onCallEnd = guarded((message: CallEnd) => {
    const call = calls.take(message)
    if (call === undefined) return
    try {
      meters.call(call, message)
    } finally {
      calls.finish(call, message)
    }
  })
  const onAttemptStart = guarded((message: AttemptStart) => calls.startAttempt(message))
  const onAttemptEnd = guarded((message: AttemptEnd) => {
    try {
      meters.attempt(message)
    } finally {
      calls.endAttempt(message)
    }
  })
  const onCacheLookup = guarded((message: CacheLookup) => meters.lookup(message))

  channels.callStart.subscribe(onCallStart)
  channels.callEnd.subscribe(onCallEnd)
  channels.attemptStart.subscribe(onAttemptStart)
  channels.attemptEnd.subscribe(onAttemptEnd)
  channels.cacheLookup.subscribe(onCacheLookup)

  const inject = guarded((callId: string, attempt: number | undefined) => {
    const headers: Record<string, string> = {}
    const span = calls.span(callId, attempt)
    if (span !== undefined) propagation.inject(trace.setSpan(ROOT_CONTEXT, span), headers)
    return headers
  })

  async function close(): Promise<void> {
    if (closed) return
    closed = true
    channels.callStart.unsubscribe(onCallStart)
    channels.callEnd.unsubscribe(onCallEnd)
    channels.attemptStart.unsubscribe(onAttemptStart)
    channels.attemptEnd.unsubscribe(onAttemptEnd)
    channels.cacheLookup.unsubscribe(onCacheLookup)
    sources.clear()
    guarded(meters.close)()
    guarded(calls.close)()
  }

  const telemetry: Telemetry = {
    layer: (next) => watched(next),
    traceHeaders: (callId, attempt) => inject(callId, attempt) ?? {},
    observe(source) {
      if (closed) throw new MillraceError('closed', 'this telemetry is closed: it observes nothing any more', { details: {} })
      if (source.pool !== undefined && typeof source.pool !== 'function') {
        throw new TypeError('observe takes { pool: () => transport.stats() }: a function, not its result')
      }
      // A copy, so that observing one source twice takes two calls to undo.
      const observed = { ...source }
      sources.add(observed)
      return () => void sources.delete(observed)
    },
    stats: () => ({ open: calls.size, dropped: calls.dropped, failures }),
    close,
    [Symbol.asyncDispose]: close
  }
  const watched = watch(telemetry)
  return telemetry
}

function count(name: string, value: number): number {
  if (Number.isSafeInteger(value) && value >= 1) return value
  throw new TypeError(`${name} must be a whole number of at least 1`)
}
