import { readFileSync } from 'node:fs'
import { hostname } from 'node:os'
import type { AdapterStats } from '@millrace/adapter'
import type { LimitState } from '@millrace/limits'
import type { StreamsStats } from '@millrace/streaming'
import type { AdmissionStats } from './admission.ts'
import type { Parts } from './context.ts'
import type { FaultState } from './faults.ts'
import { histogramOf, readSamples } from './prometheus-text.ts'
import type { CallRecord } from './recorder.ts'

/** Counts by bucket, as `/metrics` has them. */
export interface HistogramSnapshot {
  /** Upper bounds in seconds; the last bucket has none. */
  readonly bounds: readonly number[]
  /** One more than there are bounds; not cumulative. */
  readonly counts: readonly number[]
  readonly sum: number
}

/** How a limit stands; null where there is no bound. */
export type LimitSnapshot = { readonly [K in keyof LimitState]: K extends 'running' | 'pausedMs' ? number : number | null }

/** What the page shows: one replica at one moment. */
export interface Snapshot {
  /** Milliseconds since 1970. */
  readonly at: number
  /** A short name for this process, for behind a balancer each answer may be another's. */
  readonly replica: string
  readonly uptimeMs: number
  readonly version: string
  /** What page and demo ask for. */
  readonly model: string
  readonly embedded: boolean
  readonly providers: readonly string[]
  readonly stats: AdapterStats
  /** By the limit's label. */
  readonly limits: Readonly<Record<string, LimitSnapshot>>
  readonly streams: StreamsStats
  readonly requests: AdmissionStats
  readonly redis: 'off' | 'up' | 'down'
  readonly memory: { readonly heapUsedBytes: number; readonly rssBytes: number }
  readonly histograms: {
    /** Calls through the adapter: time to first content of streams, whole duration, time in this process. */
    readonly firstText: HistogramSnapshot
    readonly duration: HistogramSnapshot
    readonly overhead: HistogramSnapshot
  }
  readonly faults: FaultState
  /** Newest first. */
  readonly calls: readonly CallRecord[]
}

/** Whether Redis can be asked at this moment. */
export function stateOf(redis: Parts['redis']): Snapshot['redis'] {
  if (redis === undefined) return 'off'
  return redis.ready ? 'up' : 'down'
}

/** A short name for this process. */
export function replicaName(): string {
  return `${hostname().slice(0, 20)}-${process.pid}`
}

/** Of the gateway, as its package has it. */
export function gatewayVersion(): string {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }
  return version
}

/**
 * Looks at everything the page shows. The histograms are those of `/metrics`: nothing is counted twice.
 *
 * @throws {MillraceError} `closed` behind the end of telemetry
 */
export async function takeSnapshot(parts: Parts, named: Pick<Snapshot, 'replica' | 'version'>): Promise<Snapshot> {
  const { config, adapter, limiter, streams, admission, redis, telemetry, recorder, faults, providers } = parts
  const [limits, metrics] = await Promise.all([limiter.limits(), telemetry.prometheus()])
  const samples = [...readSamples(metrics.body)]
  const { heapUsed, rss } = process.memoryUsage()
  return {
    at: Date.now(),
    ...named,
    uptimeMs: Math.round(process.uptime() * 1000),
    model: config.model,
    embedded: config.providers.length === 0,
    providers: providers.map(({ name }) => name),
    stats: adapter.stats(),
    limits: Object.fromEntries(Object.entries(limits).map(([label, state]) => [label, limitSnapshot(state)])),
    streams: streams.stats(),
    requests: admission.stats(),
    redis: stateOf(redis),
    memory: { heapUsedBytes: heapUsed, rssBytes: rss },
    histograms: {
      firstText: histogramOf(samples, 'gen_ai_client_operation_time_to_first_chunk'),
      duration: histogramOf(samples, 'gen_ai_client_operation_duration'),
      overhead: histogramOf(samples, 'millrace_call_overhead')
    },
    faults: faults.state(),
    calls: recorder.calls()
  }
}

function limitSnapshot({ running, requestsLeft, tokensLeft, ceiling, pausedMs }: LimitState): LimitSnapshot {
  return { running, requestsLeft: bounded(requestsLeft), tokensLeft: bounded(tokensLeft), ceiling: bounded(ceiling), pausedMs }
}

function bounded(value: number): number | null {
  return Number.isFinite(value) ? value : null
}
