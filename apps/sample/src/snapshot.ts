import type { AdapterStats } from '@millrace/adapter'
import type { LimitState } from '@millrace/limits'
import type { StreamsStats } from '@millrace/streaming'
import type { FaultState } from './faults.ts'
import type { CallRecord } from './recorder.ts'

/** Counts by bucket, as `/metrics` has them. */
export interface HistogramSnapshot {
  /** Upper bounds in seconds; the last bucket has none. */
  readonly bounds: readonly number[]
  /** One more than there are bounds; not cumulative. */
  readonly counts: readonly number[]
  readonly sum: number
}

/** What the page shows: one replica at one moment. Numbers that are not finite are null, as JSON has it. */
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
  readonly limits: Readonly<Record<string, LimitState>>
  readonly streams: StreamsStats
  readonly requests: { readonly running: number; readonly refused: number; readonly total: number }
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
