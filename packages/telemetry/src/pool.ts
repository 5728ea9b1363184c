import type { Attributes, BatchObservableCallback, Meter, Observable } from '@opentelemetry/api'
import { addressOf } from './attributes.ts'
import type { Labels } from './labels.ts'
import { attribute, metric } from './semconv.ts'

/** What a pool counts; the shape of `transport.stats()`. */
export interface PoolStats {
  /** By origin: scheme, host and port. */
  readonly origins: Readonly<Record<string, OriginStats>>
}

export interface OriginStats {
  /** Sockets opened so far. */
  readonly opened: number
  /** Sockets open now. */
  readonly open: number
  /** Requests on a socket now. */
  readonly busy: number
  /** Requests waiting for a socket now. */
  readonly queued: number
  /** Requests so far that found an open socket. */
  readonly reused: number
  /** Requests so far. */
  readonly requests: number
}

/**
 * Makes the pool's instruments and reads `pools` each time metrics are collected. Returns what takes the callback off.
 * Origins beyond what `addresses` admits are added up under `_OTHER`.
 */
export function observePools(meter: Meter, addresses: Labels, pools: () => Iterable<PoolStats>): () => void {
  const sockets = meter.createObservableUpDownCounter(metric.poolSockets, { unit: '{socket}', description: 'Open sockets' })
  const queued = meter.createObservableUpDownCounter(metric.poolQueued, {
    unit: '{request}',
    description: 'Requests waiting for a socket'
  })
  const opened = meter.createObservableCounter(metric.poolOpened, { unit: '{socket}', description: 'Sockets opened' })
  const reused = meter.createObservableCounter(metric.poolReused, {
    unit: '{request}',
    description: 'Requests that found an open socket'
  })
  const requests = meter.createObservableCounter(metric.poolRequests, { unit: '{request}', description: 'Requests' })
  const observables: Observable[] = [sockets, queued, opened, reused, requests]

  const seen = new Map<string, Attributes>()
  const read: BatchObservableCallback = (result) => {
    const sums = sumByAddress(pools(), addresses)
    for (const address of sums.keys()) {
      if (!seen.has(address)) seen.set(address, { [attribute.serverAddress]: address })
    }
    // The SDK repeats the last value of a series it hears nothing of, so an address that is gone is told to be empty; its
    // counters may stay as they are.
    for (const [address, labels] of seen) {
      const stats = sums.get(address)
      const { open = 0, busy = 0 } = stats ?? {}
      // An HTTP/2 socket carries many requests: no more sockets are busy than are open.
      result.observe(sockets, Math.min(open, busy), { ...labels, [attribute.poolState]: 'busy' })
      result.observe(sockets, Math.max(0, open - busy), { ...labels, [attribute.poolState]: 'idle' })
      result.observe(queued, stats?.queued ?? 0, labels)
      if (stats === undefined) continue
      result.observe(opened, stats.opened, labels)
      result.observe(reused, stats.reused, labels)
      result.observe(requests, stats.requests, labels)
    }
  }
  meter.addBatchObservableCallback(read, observables)
  return () => meter.removeBatchObservableCallback(read, observables)
}

type Sum = { -readonly [K in keyof OriginStats]: number }

/** Two observations with equal labels would overwrite each other, so equal addresses are added up first. */
function sumByAddress(pools: Iterable<PoolStats>, addresses: Labels): Map<string, Sum> {
  const sums = new Map<string, Sum>()
  for (const { origins } of pools) {
    for (const [origin, from] of Object.entries(origins)) {
      const address = addresses.admit(addressOf(origin))
      let sum = sums.get(address)
      if (sum === undefined) sums.set(address, (sum = { opened: 0, open: 0, busy: 0, queued: 0, reused: 0, requests: 0 }))
      for (const key of Object.keys(sum) as (keyof Sum)[]) sum[key] += from[key]
    }
  }
  return sums
}
