import { type AttemptEnd, type CacheLookup, type CallEnd, inputTokens, isMillraceError, outputTokens } from '@millrace/core'
import { type Attributes, type Counter, type Histogram, type Meter, type MeterProvider, metrics } from '@opentelemetry/api'
import { addressOf, cacheStateOf, clip, errorType, providerOf } from './attributes.ts'
import type { OpenCall } from './calls.ts'
import { createLabels } from './labels.ts'
import { observePools, type PoolStats } from './pool.ts'
import { attribute, metric, other, secondsBoundaries, tokenBoundaries } from './semconv.ts'

/** The metrics: histograms and counters fed by the channels, gauges read from `pools` at collection. */
export interface Meters {
  call(call: OpenCall, end: CallEnd): void
  attempt(end: AttemptEnd): void
  lookup(lookup: CacheLookup): void
  close(): void
}

interface Instruments {
  readonly duration: Histogram
  readonly firstChunk: Histogram
  readonly tokens: Histogram
  readonly attempts: Counter
  readonly lookups: Counter
}

/** No pool needs more addresses than this to be understood; the rest is added up under `_OTHER`. */
const maxAddresses = 100

export function createMeters(
  provider: MeterProvider | undefined,
  scope: string,
  maxModels: number,
  pools: () => Iterable<PoolStats>
): Meters {
  const models = createLabels(maxModels)
  const providers = createLabels(maxModels)
  const addresses = createLabels(maxAddresses)
  let heard: MeterProvider | undefined
  let instruments: Instruments
  let stopObserving = (): void => {}
  // Nearly all attempts go to one origin: the last one is not parsed again.
  let lastOrigin: string | undefined
  let lastAddress = ''

  // A meter taken before the SDK was started stays a no-op for ever (there is a ProxyTracer, but no proxy for meters), so
  // the global provider is looked up each time, and a new one gets instruments of its own.
  function current(): Instruments {
    const now = provider ?? metrics.getMeterProvider()
    if (now === heard) return instruments
    const meter = now.getMeter(scope)
    instruments = createInstruments(meter)
    stopObserving()
    stopObserving = observePools(meter, addresses, pools)
    heard = now
    return instruments
  }
  current()

  function callLabels(call: OpenCall, end: CallEnd): Attributes {
    // A gateway's callers name models freely: a name that was refused gets no series of its own.
    const refused = isMillraceError(end.error, 'invalid-request')
    const model = call.model ?? other
    const cacheState = cacheStateOf(end.notes)
    return {
      [attribute.operation]: 'chat',
      [attribute.provider]: providers.admit(providerOf(end)),
      [attribute.requestModel]: refused ? models.known(model) : models.admit(model),
      ...(end.model === undefined ? {} : { [attribute.responseModel]: models.admit(clip(end.model)) }),
      ...(cacheState === undefined ? {} : { [attribute.cacheState]: cacheState })
    }
  }

  return {
    call(call, end) {
      const { duration, firstChunk, tokens } = current()
      const labels = callLabels(call, end)
      const failed = end.outcome === 'error' ? { [attribute.errorType]: errorType(end.error) } : {}
      duration.record(end.elapsedMs / 1000, { ...labels, [attribute.outcome]: end.outcome, ...failed })
      if (call.stream && end.firstContentMs !== undefined) firstChunk.record(end.firstContentMs / 1000, labels)
      // The conventions: billable tokens only.
      if (end.usage?.billed !== true) return
      const estimated = end.usage.estimated ? { [attribute.usageEstimated]: true } : {}
      tokens.record(inputTokens(end.usage), { ...labels, ...estimated, [attribute.tokenType]: 'input' })
      tokens.record(outputTokens(end.usage), { ...labels, ...estimated, [attribute.tokenType]: 'output' })
    },
    attempt({ origin, status, error }) {
      if (origin !== lastOrigin) {
        lastOrigin = origin
        lastAddress = addressOf(origin)
      }
      current().attempts.add(1, {
        [attribute.serverAddress]: addresses.admit(lastAddress),
        ...(status === undefined ? {} : { [attribute.httpStatus]: status }),
        ...(error === undefined ? {} : { [attribute.errorType]: errorType(error) })
      })
    },
    lookup({ state }) {
      current().lookups.add(1, { [attribute.cacheState]: state })
    },
    close() {
      stopObserving()
      stopObserving = () => {}
    }
  }
}

function createInstruments(meter: Meter): Instruments {
  return {
    duration: meter.createHistogram(metric.duration, {
      unit: 's',
      description: 'Time from the call to its last chunk',
      advice: { explicitBucketBoundaries: [...secondsBoundaries] }
    }),
    firstChunk: meter.createHistogram(metric.timeToFirstChunk, {
      unit: 's',
      description: 'Time from the call to the first content of its stream',
      advice: { explicitBucketBoundaries: [...secondsBoundaries] }
    }),
    tokens: meter.createHistogram(metric.tokens, {
      unit: '{token}',
      description: 'Billed tokens of a call',
      advice: { explicitBucketBoundaries: [...tokenBoundaries] }
    }),
    attempts: meter.createCounter(metric.attempts, {
      unit: '{request}',
      description: 'HTTP requests that reached a head, or failed'
    }),
    lookups: meter.createCounter(metric.cacheLookups, { unit: '{lookup}', description: 'Questions to the cache, by its answer' })
  }
}
