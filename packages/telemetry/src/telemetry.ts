import { channel } from 'node:diagnostics_channel'
import {
  type AttemptEnd,
  type AttemptStart,
  type CacheLookup,
  type CallContent,
  type CallEnd,
  type CallStart,
  channels,
  checkOptions,
  type Layer,
  type Provider,
  watch
} from '@millrace/core'
import { type MeterProvider, propagation, ROOT_CONTEXT, type TracerProvider, trace } from '@opentelemetry/api'
import { createCalls } from './calls.ts'
import { asksForContent, type ContentOptions, createContentCapture } from './content.ts'
import { createLabels } from './labels.ts'
import { createMeters } from './meters.ts'
import { readAdapter, readCache, readTransport } from './readings.ts'
import { metric, scope } from './semconv.ts'
import { createSources, type Reading } from './sources.ts'

export interface TelemetryOptions {
  /** Where spans go. @default the global one, also when it is registered later */
  readonly tracerProvider?: TracerProvider | undefined
  /** Where metrics go. @default the global one, also when it is registered later */
  readonly meterProvider?: MeterProvider | undefined
  /** Calls under way whose spans are kept; beyond, the oldest is ended as `dropped` and counted. @default 10000 */
  readonly maxOpenCalls?: number | undefined
  /**
   * Pairs of provider and model that get metric series of their own; further ones share `_OTHER`, and so do names beyond half
   * as many that nobody answered to. @default 100
   */
  readonly maxModels?: number | undefined
  /**
   * Whether prompts and answers are put on the spans, and how much of them: `{}` does with the defaults of `ContentOptions`.
   * @default false, or `{}` if OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT asks for it
   */
  readonly content?: ContentOptions | false | undefined
}

export interface TelemetryStats {
  /** Calls under way. */
  readonly open: number
  /** Calls that outlived `maxOpenCalls` others: somebody takes streams and neither finishes nor leaves them. */
  readonly dropped: number
  /** Exceptions of the SDK, of its hooks or of an observed source. They never reach a call. */
  readonly failures: number
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
  stats(): TelemetryStats
  /** Stops listening and ends the spans of calls under way. It does not shut the SDK down. Safe to call twice. */
  close(): Promise<void>
}

/** Whoever listens on the global providers subscribes here, and is so seen. */
const onGlobals = channel('millrace:telemetry:global')

/** No pool needs more addresses than this to be understood; the rest is added up under `_OTHER`. */
const maxAddresses = 100

/**
 * Listens to every Millrace object of this process and tells OpenTelemetry: a span for each call and each attempt, the
 * metrics of the GenAI conventions, and what adapters, transports and caches count in their `stats()`. Unless `content` says
 * otherwise, prompts, answers, headers, tenants and error texts are never looked at.
 *
 * @throws {TypeError} a wrong option, or a telemetry on the global providers that runs in this process already
 *
 * @example
 * await using telemetry = createTelemetry()
 * const transport = createTransport({ traceHeaders: telemetry.traceHeaders })
 */
export function createTelemetry(options: TelemetryOptions = {}): Telemetry {
  checkOptions<TelemetryOptions>('createTelemetry', options, telemetryOptionNames)
  const { tracerProvider, meterProvider } = options
  const maxOpen = count('maxOpenCalls', options.maxOpenCalls ?? 10_000)
  const maxModels = count('maxModels', options.maxModels ?? 100)
  if (tracerProvider !== undefined && typeof tracerProvider.getTracer !== 'function') {
    throw new TypeError('tracerProvider must be a TracerProvider, such as new TracerProvider() of @opentelemetry/sdk-trace')
  }
  if (meterProvider !== undefined && typeof meterProvider.getMeter !== 'function') {
    throw new TypeError('meterProvider must be a MeterProvider, such as new MeterProvider() of @opentelemetry/sdk-metrics')
  }

  let failures = 0
  let closed = false
  const fail = (): void => void failures++
  const ignore = (): void => {}
  const content = options.content ?? (asksForContent(process.env) ? {} : false)
  const capture = content === false ? undefined : createContentCapture(content, fail)
  const addresses = createLabels(maxAddresses)
  const providers = createLabels(maxAddresses)
  // Read guarded: an object whose `stats()` throws is counted, and the others are still read.
  const adapters = createSources((owner) => guarded(readAdapter)(owner, providers) ?? [])
  const transports = createSources((owner) => guarded(readTransport)(owner, addresses) ?? [])
  const caches = createSources((owner) => guarded(readCache)(owner) ?? [])
  const meters = createMeters({ provider: meterProvider, maxModels, addresses, read })
  const calls = createCalls({
    tracer: (tracerProvider ?? trace).getTracer(scope),
    maxOpen,
    content: capture,
    onFailure: fail
  })

  function* read(): Generator<Reading, void, undefined> {
    for (const sources of [adapters, transports, caches]) yield* sources.read()
    yield { metric: metric.telemetryDropped, kind: 'count', value: calls.dropped, labels: {} }
    yield { metric: metric.telemetryFailures, kind: 'count', value: failures, labels: {} }
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

  // A call that is part of another is told by that one; its owner may be an adapter all the same.
  const onCallStart = guarded((message: CallStart) => {
    if (message.owner !== telemetry && meters.isHeard()) adapters.hear(message.owner)
    if (!message.call.isPart) calls.start(message)
  })
  const onCallContent = guarded((message: CallContent) => {
    if (message.call.isPart) return
    calls.content(message)
    meters.content(message)
  })
  const onCallEnd = guarded((message: CallEnd) => {
    if (message.call.isPart) return
    try {
      meters.call(message)
    } finally {
      calls.end(message)
    }
  })
  const onAttemptStart = guarded((message: AttemptStart) => {
    if (meters.isHeard()) transports.hear(message.owner)
    calls.startAttempt(message)
  })
  const onAttemptEnd = guarded((message: AttemptEnd) => {
    try {
      meters.attempt(message)
    } finally {
      calls.endAttempt(message)
    }
  })
  const onCacheLookup = guarded(({ owner }: CacheLookup) => {
    if (meters.isHeard()) caches.hear(owner)
  })

  // Asked of the process, not of this module: there may be two copies of it.
  const isGlobal = tracerProvider === undefined || meterProvider === undefined
  if (isGlobal && onGlobals.hasSubscribers) {
    throw new TypeError(
      'a telemetry listens in this process already, and both would count each call: use that one, close it first, or give this one a tracerProvider and a meterProvider of its own'
    )
  }
  if (isGlobal) onGlobals.subscribe(ignore)
  channels.callStart.subscribe(onCallStart)
  channels.callContent.subscribe(onCallContent)
  channels.callEnd.subscribe(onCallEnd)
  channels.attemptStart.subscribe(onAttemptStart)
  channels.attemptEnd.subscribe(onAttemptEnd)
  channels.cacheLookup.subscribe(onCacheLookup)
  // Where somebody collects already, the series of what is read are there before the first call.
  guarded(meters.isHeard)()

  const inject = guarded((callId: string, attempt: number | undefined) => {
    const span = calls.span(callId, attempt)
    if (span === undefined) return undefined
    const headers: Record<string, string> = {}
    propagation.inject(trace.setSpan(ROOT_CONTEXT, span), headers)
    return headers
  })

  async function close(): Promise<void> {
    if (closed) return
    closed = true
    if (isGlobal) onGlobals.unsubscribe(ignore)
    channels.callStart.unsubscribe(onCallStart)
    channels.callContent.unsubscribe(onCallContent)
    channels.callEnd.unsubscribe(onCallEnd)
    channels.attemptStart.unsubscribe(onAttemptStart)
    channels.attemptEnd.unsubscribe(onAttemptEnd)
    channels.cacheLookup.unsubscribe(onCacheLookup)
    guarded(meters.close)()
    guarded(calls.close)()
    for (const sources of [adapters, transports, caches]) sources.close()
  }

  const telemetry: Telemetry = {
    layer: (next) => watched(next),
    traceHeaders: (callId, attempt) => inject(callId, attempt) ?? {},
    stats: () => ({ open: calls.size, dropped: calls.dropped, failures }),
    close,
    [Symbol.asyncDispose]: close
  }
  const watched = watch(telemetry)
  return telemetry
}

/** For `checkOptions`, here and where options of ours are passed on. */
export const telemetryOptionNames: Readonly<Record<keyof TelemetryOptions, 1>> = {
  tracerProvider: 1,
  meterProvider: 1,
  maxOpenCalls: 1,
  maxModels: 1,
  content: 1
}

function count(name: string, value: number): number {
  if (Number.isSafeInteger(value) && value >= 1) return value
  throw new TypeError(`${name} must be a whole number of at least 1`)
}
