import { type AttemptEnd, type CallContent, type CallEnd, type CallTally, inputTokens, outputTokens } from '@millrace/core'
import {
  type Attributes,
  type BatchObservableResult,
  type Counter,
  createNoopMeter,
  type Histogram,
  type Meter,
  type MeterProvider,
  metrics,
  type Observable
} from '@opentelemetry/api'
import { addressOf, cacheStateOf, clip, errorType, modelOf, providerOf } from './attributes.ts'
import { createCallLabels, type Labels } from './labels.ts'
import { attribute, metric, other, overheadBoundaries, scope, secondsBoundaries, tokenBoundaries } from './semconv.ts'
import type { Reading } from './sources.ts'

/** The metrics: histograms fed by the channels, and what the objects of the process count, read at collection. */
export interface Meters {
  /** Whether anybody collects: a `MeterProvider` was given or is registered. */
  isHeard(): boolean
  content(content: CallContent): void
  call(end: CallEnd): void
  attempt(end: AttemptEnd): void
  close(): void
}

export interface MetersOptions {
  readonly provider: MeterProvider | undefined
  readonly maxModels: number
  readonly addresses: Labels
  readonly read: () => Iterable<Reading>
}

interface Instruments {
  readonly duration: Histogram
  readonly firstChunk: Histogram
  readonly outputChunk: Histogram
  readonly tokens: Histogram
  readonly overhead: Histogram
  readonly limitsWait: Histogram
  readonly attempt: Histogram
  readonly costSpent: Counter
  readonly costSaved: Counter
  readonly tokensSaved: Counter
  readonly unmetered: Counter
  readonly unpriced: Counter
}

export function createMeters({ provider, maxModels, addresses, read }: MetersOptions): Meters {
  const names = createCallLabels(maxModels)
  /** Of the calls whose content arrives: most get more than one arrival. */
  const contentLabels = new WeakMap<CallTally, Attributes>()
  let heard: MeterProvider | undefined
  let instruments: Instruments | undefined
  let stopObserving = (): void => {}
  // Nearly all attempts go to one origin: the last one is not parsed again.
  let lastOrigin: string | undefined
  let lastAddress = ''

  // A meter taken before the SDK was started stays a no-op for ever (there is a ProxyTracer, but no proxy for meters), so
  // the global provider is looked up each time, and a new one gets instruments of its own.
  function current(): Instruments | undefined {
    const now = provider ?? metrics.getMeterProvider()
    if (now === heard) return instruments
    const meter = now.getMeter(scope)
    stopObserving()
    const isNoop = meter === createNoopMeter()
    instruments = isNoop ? undefined : createInstruments(meter)
    stopObserving = isNoop ? () => {} : observeReadings(meter, read)
    heard = now
    return instruments
  }

  return {
    isHeard: () => current() !== undefined,
    content({ call, request, stream, gapMs, start }) {
      if (gapMs === undefined || !stream) return
      let labels = contentLabels.get(call)
      if (labels === undefined) {
        const model = start?.model
        const named = { provider: clip(start?.provider ?? other), model: modelOf(request) ?? other, isAnswered: true }
        labels = names.withResponse(names.of(named), model === undefined ? undefined : clip(model))
        contentLabels.set(call, labels)
      }
      current()?.outputChunk.record(gapMs / 1000, labels)
    },
    call(end) {
      const to = current()
      if (to === undefined) return
      const { usage, notes, overheadMs, cost, saved, contents } = end
      const isAnswered = end.outcome === 'success' || contents > 0
      const named = { provider: providerOf(end), model: modelOf(end.request) ?? other, isAnswered }
      const plain = names.of(named)
      const answered = names.withResponse(plain, end.model === undefined ? undefined : clip(end.model))
      const cacheState = cacheStateOf(notes)
      const labels = cacheState === undefined ? answered : { ...answered, [attribute.cacheState]: cacheState }
      const failed = end.outcome === 'error' ? { [attribute.errorType]: errorType(end.error) } : {}
      to.duration.record(end.elapsedMs / 1000, { ...labels, [attribute.outcome]: end.outcome, ...failed })
      if (end.stream && end.firstContentMs !== undefined) to.firstChunk.record(end.firstContentMs / 1000, labels)
      if (overheadMs !== undefined) to.overhead.record(overheadMs / 1000, labels)
      const waitedMs = notes.limits?.waitedMs
      if (isCount(waitedMs)) to.limitsWait.record(waitedMs / 1000, plain)
      const fitted = notes.tokens?.saved
      if (isCount(fitted)) {
        to.tokensSaved.add(fitted, { ...plain, [attribute.savedBy]: 'fit', [attribute.tokenType]: 'input' })
      }
      if (cost === null) to.unpriced.add(1, plain)
      else if (cost !== undefined) to.costSpent.add(cost, plain)
      if (saved !== undefined) to.costSaved.add(saved, plain)
      if (usage === undefined) {
        if (contents > 0) to.unmetered.add(1, plain)
        return
      }
      const input = { [attribute.tokenType]: 'input' }
      const output = { [attribute.tokenType]: 'output' }
      // The conventions: billable tokens only.
      if (usage.billed) {
        const estimated = usage.estimated ? { ...labels, [attribute.usageEstimated]: true } : labels
        to.tokens.record(inputTokens(usage), { ...estimated, ...input })
        to.tokens.record(outputTokens(usage), { ...estimated, ...output })
      } else {
        const byCache = { ...plain, [attribute.savedBy]: 'cache' }
        to.tokensSaved.add(inputTokens(usage), { ...byCache, ...input })
        to.tokensSaved.add(outputTokens(usage), { ...byCache, ...output })
      }
    },
    attempt({ origin, status, error, elapsedMs, aborted }) {
      const to = current()
      if (to === undefined) return
      if (origin !== lastOrigin) {
        lastOrigin = origin
        lastAddress = addressOf(origin)
      }
      to.attempt.record(elapsedMs / 1000, {
        [attribute.serverAddress]: addresses.admit(lastAddress),
        ...(status === undefined ? {} : { [attribute.httpStatus]: status }),
        ...(aborted === true ? { [attribute.outcome]: 'aborted' } : {}),
        ...(error === undefined || aborted === true ? {} : { [attribute.errorType]: errorType(error) })
      })
    },
    close() {
      stopObserving()
      stopObserving = () => {}
    }
  }
}

function createInstruments(meter: Meter): Instruments {
  const seconds = (name: string, description: string, boundaries = secondsBoundaries): Histogram =>
    meter.createHistogram(name, { unit: 's', description, advice: { explicitBucketBoundaries: [...boundaries] } })
  return {
    duration: seconds(metric.duration, 'Time from the call to its last chunk'),
    firstChunk: seconds(metric.timeToFirstChunk, 'Time from the call to the first content of its stream'),
    outputChunk: seconds(metric.timePerOutputChunk, 'Time between two arrivals of content in a stream'),
    tokens: meter.createHistogram(metric.tokens, {
      unit: '{token}',
      description: 'Billed tokens of a call',
      advice: { explicitBucketBoundaries: [...tokenBoundaries] }
    }),
    overhead: seconds(metric.overhead, 'Time of a call spent in this process, not at the provider', overheadBoundaries),
    limitsWait: seconds(metric.limitsWait, 'Time that calls waited for a limit'),
    attempt: seconds(metric.attemptDuration, 'Time from an HTTP request to its first content, or its failure'),
    costSpent: meter.createCounter(metric.costSpent, { unit: 'USD', description: 'What billed tokens cost' }),
    costSaved: meter.createCounter(metric.costSaved, { unit: 'USD', description: 'What the tokens of cached answers are worth' }),
    tokensSaved: meter.createCounter(metric.tokensSaved, {
      unit: '{token}',
      description: 'Tokens that were not sent or not billed'
    }),
    unmetered: meter.createCounter(metric.callsUnmetered, {
      unit: '{call}',
      description: 'Calls that brought content and no usage'
    }),
    unpriced: meter.createCounter(metric.callsUnpriced, { unit: '{call}', description: 'Calls whose tokens have no known price' })
  }
}

/** Notes may be anybody's: one Infinity, and a sum is lost. */
function isCount(value: unknown): value is number {
  return typeof value === 'number' && value > 0 && value < Number.POSITIVE_INFINITY
}

/** Unit, kind and meaning of everything that is read at collection. */
const observed: Readonly<Record<string, readonly [kind: Reading['kind'], unit: string, description: string]>> = {
  [metric.callsRunning]: ['level', '{call}', 'Calls under way'],
  [metric.retries]: ['count', '{request}', 'Requests sent again behind a failure or a refusal'],
  [metric.retriesDenied]: ['count', '{request}', 'Failures not tried again, for too many had been'],
  [metric.resent]: ['count', '{request}', 'Requests repeated at once, for the server had not seen them'],
  [metric.hedges]: ['count', '{request}', 'Second requests sent beside slow ones'],
  [metric.hedgesWon]: ['count', '{request}', 'Second requests that answered first'],
  [metric.poolSockets]: ['level', '{socket}', 'Open sockets'],
  [metric.poolQueued]: ['level', '{request}', 'Requests waiting for a socket'],
  [metric.poolOpened]: ['count', '{socket}', 'Sockets opened'],
  [metric.poolReused]: ['count', '{request}', 'Requests that found an open socket'],
  [metric.poolRequests]: ['count', '{request}', 'Requests'],
  [metric.breakerState]: ['level', '{breaker}', 'Origins of an address whose breaker is in this state'],
  [metric.breakerOpened]: ['count', '{opening}', 'How often a breaker opened'],
  [metric.breakerRejected]: ['count', '{request}', 'Requests that an open breaker refused'],
  [metric.cacheLookups]: ['count', '{lookup}', 'Questions to the cache, by its answer'],
  [metric.cacheEntries]: ['level', '{entry}', 'Answers in memory'],
  [metric.cacheSize]: ['level', 'By', 'Memory that the answers take'],
  [metric.cacheEvictions]: ['count', '{entry}', 'Answers that left memory for lack of room'],
  [metric.cacheStored]: ['count', '{entry}', 'Answers that were kept'],
  [metric.cacheRefreshes]: ['count', '{call}', 'Calls in the background for answers past their lifetime'],
  [metric.cacheRefreshErrors]: ['count', '{call}', 'Calls in the background that brought no answer'],
  [metric.cacheStoreErrors]: ['count', '{operation}', 'Operations of the store that failed or took too long'],
  [metric.cacheStoreSkipped]: ['count', '{operation}', 'Operations of the store not tried, for it had failed'],
  [metric.cacheTokensSaved]: ['count', '{token}', 'Tokens of answers served without a call, by all doors of the cache'],
  [metric.cacheCostSaved]: ['count', '{cost}', "What those answers had cost, by the cache's own price"],
  [metric.limitsRunning]: ['level', '{call}', 'Permits not ended yet'],
  [metric.limitsQueued]: ['level', '{call}', 'Calls that wait for a limit'],
  [metric.limitsGranted]: ['count', '{call}', 'Permits given'],
  [metric.limitsRefused]: ['count', '{call}', 'Calls that a limit or a budget of ours turned away, by the reason'],
  [metric.limitsProviderRefusals]: ['count', '{refusal}', 'How often providers refused for rate or overload, or were silent'],
  [metric.limitsDegraded]: ['level', '{limiter}', 'Limiters whose store cannot be asked'],
  [metric.limitsDegradedCalls]: ['count', '{call}', 'Permits given without the store'],
  [metric.limitsStoreErrors]: ['count', '{failure}', 'Failures of the store of the limits'],
  [metric.fallbackMovedOn]: ['count', '{call}', 'Calls answered by another provider than the first asked'],
  [metric.fallbackExhausted]: ['count', '{call}', 'Calls that failed at every provider'],
  [metric.fallbackFailed]: ['count', '{failure}', 'Failures of a provider that moved a call on'],
  [metric.fallbackPassedOver]: ['count', '{call}', 'Calls that asked another, for this provider was cooling down'],
  [metric.fallbackCooling]: ['level', '{model}', 'Models of a provider that are cooling down'],
  [metric.telemetryDropped]: ['count', '{call}', 'Calls whose spans were given up'],
  [metric.telemetryFailures]: ['count', '{failure}', 'Exceptions of the SDK, of its hooks and of an observed object']
}

/** Returns what takes the callback off. */
function observeReadings(meter: Meter, read: () => Iterable<Reading>): () => void {
  const instruments = new Map<string, Observable>()
  for (const [name, [kind, unit, description]] of Object.entries(observed)) {
    const create = kind === 'count' ? 'createObservableCounter' : 'createObservableUpDownCounter'
    instruments.set(name, meter[create](name, { unit, description }))
  }
  const observables = Array.from(instruments.values())
  const observe = (result: BatchObservableResult): void => {
    for (const { metric: name, value, labels } of read()) {
      const instrument = instruments.get(name)
      if (instrument !== undefined) result.observe(instrument, value, labels)
    }
  }
  meter.addBatchObservableCallback(observe, observables)
  return () => meter.removeBatchObservableCallback(observe, observables)
}
