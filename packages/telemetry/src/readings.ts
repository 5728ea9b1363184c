import { addressOf, clip } from './attributes.ts'
import type { Labels } from './labels.ts'
import { attribute, metric } from './semconv.ts'
import type { Reading } from './sources.ts'

// The shapes of `stats()` that are read: only what is needed, for the packages they come from are not imported.

interface AdapterCounts {
  readonly running: number
  readonly limits?: LimiterCounts | undefined
  readonly fallback?: FallbackCounts | undefined
}

interface LimiterCounts {
  readonly running: number
  readonly queued: number
  readonly granted: number
  readonly refused: Readonly<Record<string, number>>
  readonly refusals: number
  readonly degraded: boolean
  readonly degradedCalls: number
  readonly storeErrors: number
}

interface FallbackCounts {
  readonly movedOn: number
  readonly exhausted: number
  readonly providers: readonly {
    readonly name: string
    readonly failed: number
    readonly passedOver: number
    readonly cooling: number
  }[]
}

interface OriginCounts {
  readonly opened: number
  readonly open: number
  readonly busy: number
  readonly queued: number
  readonly reused: number
  readonly requests: number
  readonly breaker: string
  readonly breakerOpened: number
  readonly breakerRejected: number
}

interface TransportCounts {
  readonly origins: Readonly<Record<string, OriginCounts>>
  readonly retries: number
  readonly retriesDenied: number
  readonly resent: number
  readonly hedges: number
  readonly hedgesWon: number
}

interface CacheCounts {
  readonly hits: number
  readonly stale: number
  readonly joined: number
  readonly misses: number
  readonly bypassed: number
  readonly stored: number
  readonly refreshes: number
  readonly refreshErrors: number
  readonly storeErrors: number
  readonly storeSkipped: number
  readonly evictions: number
  readonly entries: number
  readonly bytes: number
  readonly tokensSaved: number
  readonly moneySaved: number | null
}

/** What an object of this process tells of itself, if it has `stats()` with such a number; whoever publishes may be anything. */
function statsOf<S extends object>(owner: object, field: keyof S): S | undefined {
  if (!('stats' in owner) || typeof owner.stats !== 'function') return undefined
  const stats: unknown = owner.stats()
  return typeof stats === 'object' && stats !== null && field in stats ? (stats as S) : undefined
}

const none = Object.freeze({})
const count = (name: string, value: number, labels: Reading['labels'] = none, part?: string): Reading => ({
  metric: name,
  kind: 'count',
  value,
  labels,
  part
})
const level = (name: string, value: number, labels: Reading['labels'] = none): Reading => ({
  metric: name,
  kind: 'level',
  value,
  labels
})

export function readAdapter(owner: object, providers: Labels): readonly Reading[] {
  const stats = statsOf<AdapterCounts>(owner, 'running')
  if (stats === undefined) return []
  const { limits, fallback } = stats
  return [
    level(metric.callsRunning, stats.running),
    ...(limits === undefined ? [] : readLimits(limits)),
    ...(fallback === undefined ? [] : readFallback(fallback, providers))
  ]
}

/** A limiter is read through its adapter. One that several adapters share is so counted once for each. */
function readLimits(stats: LimiterCounts): readonly Reading[] {
  return [
    level(metric.limitsRunning, stats.running),
    level(metric.limitsQueued, stats.queued),
    count(metric.limitsGranted, stats.granted),
    ...Object.entries(stats.refused).map(([reason, value]) =>
      count(metric.limitsRefused, value, { [attribute.limitsReason]: wordsOf(reason) })
    ),
    count(metric.limitsProviderRefusals, stats.refusals),
    level(metric.limitsDegraded, stats.degraded ? 1 : 0),
    count(metric.limitsDegradedCalls, stats.degradedCalls),
    count(metric.limitsStoreErrors, stats.storeErrors)
  ]
}

/** Names of providers beyond what `providers` admits share `_OTHER`. */
function readFallback(stats: FallbackCounts, providers: Labels): readonly Reading[] {
  const readings = [count(metric.fallbackMovedOn, stats.movedOn), count(metric.fallbackExhausted, stats.exhausted)]
  for (const [at, { name, failed, passedOver, cooling }] of stats.providers.entries()) {
    const labels = { [attribute.provider]: providers.admit(clip(name)) }
    readings.push(
      count(metric.fallbackFailed, failed, labels, String(at)),
      count(metric.fallbackPassedOver, passedOver, labels, String(at)),
      level(metric.fallbackCooling, cooling, labels)
    )
  }
  return readings
}

/** `queueFull` is `queue-full`, as the codes of errors are written. */
function wordsOf(field: string): string {
  return field.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
}

const breakerStates = ['closed', 'open', 'half-open']

/** Addresses beyond what `addresses` admits share `_OTHER`. */
export function readTransport(owner: object, addresses: Labels): readonly Reading[] {
  const stats = statsOf<TransportCounts>(owner, 'origins')
  if (stats === undefined) return []
  const readings = [
    count(metric.retries, stats.retries),
    count(metric.retriesDenied, stats.retriesDenied),
    count(metric.resent, stats.resent),
    count(metric.hedges, stats.hedges),
    count(metric.hedgesWon, stats.hedgesWon)
  ]
  for (const [name, origin] of Object.entries(stats.origins)) {
    const labels = { [attribute.serverAddress]: addresses.admit(addressOf(name)) }
    // An HTTP/2 socket carries many requests: no more sockets are busy than are open.
    const busy = Math.min(origin.open, origin.busy)
    readings.push(
      level(metric.poolSockets, busy, { ...labels, [attribute.poolState]: 'busy' }),
      level(metric.poolSockets, origin.open - busy, { ...labels, [attribute.poolState]: 'idle' }),
      level(metric.poolQueued, origin.queued, labels),
      count(metric.poolOpened, origin.opened, labels, name),
      count(metric.poolReused, origin.reused, labels, name),
      count(metric.poolRequests, origin.requests, labels, name),
      count(metric.breakerOpened, origin.breakerOpened, labels, name),
      count(metric.breakerRejected, origin.breakerRejected, labels, name)
    )
    for (const state of breakerStates) {
      const is = origin.breaker === state ? 1 : 0
      readings.push(level(metric.breakerState, is, { ...labels, [attribute.breakerState]: state }))
    }
  }
  return readings
}

export function readCache(owner: object): readonly Reading[] {
  const stats = statsOf<CacheCounts>(owner, 'hits')
  if (stats === undefined) return []
  const lookups = (state: string, value: number): Reading => count(metric.cacheLookups, value, { [attribute.cacheState]: state })
  return [
    lookups('hit', stats.hits),
    lookups('stale', stats.stale),
    lookups('joined', stats.joined),
    lookups('miss', stats.misses),
    lookups('bypass', stats.bypassed),
    level(metric.cacheEntries, stats.entries),
    level(metric.cacheSize, stats.bytes),
    count(metric.cacheEvictions, stats.evictions),
    count(metric.cacheStored, stats.stored),
    count(metric.cacheRefreshes, stats.refreshes),
    count(metric.cacheRefreshErrors, stats.refreshErrors),
    count(metric.cacheStoreErrors, stats.storeErrors),
    count(metric.cacheStoreSkipped, stats.storeSkipped),
    count(metric.cacheTokensSaved, stats.tokensSaved),
    ...(stats.moneySaved === null ? [] : [count(metric.cacheCostSaved, stats.moneySaved)])
  ]
}
