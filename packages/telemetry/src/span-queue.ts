import type { SpanProcessorLike } from './sampling.ts'

/** An exporter of an OpenTelemetry SDK; code 0 is success. */
export interface SpanExporterLike {
  export(spans: object[], done: (result: { readonly code: number; readonly error?: Error }) => void): void
  forceFlush?(): Promise<void>
  shutdown(): Promise<void>
}

export interface SpanQueueStats {
  /** Spans in the queue or on their way. */
  readonly queued: number
  readonly exported: number
  /** Spans the full queue refused, and those of failed exports. */
  readonly dropped: number
  /** Exports that failed. */
  readonly failed: number
}

export interface SpanQueue {
  /** The exporter, counted: what the batch processor is made with. */
  readonly exporter: SpanExporterLike
  /** The batch processor, guarded: it gets no more spans than its queue takes, and its shutdown never rejects. */
  guard<Started, Ended>(batch: SpanProcessorLike<Started, Ended>): SpanProcessorLike<Started, Ended>
  stats(): SpanQueueStats
  /** Gives up what is on its way: each export under way has failed. */
  abort(): void
}

/**
 * Knows of every span where it is, which a batch processor does not tell: it stands before the processor and behind it.
 *
 * @param onFull called for each span that is refused
 */
export function createSpanQueue(exporter: SpanExporterLike, maxQueued: number, onFull: () => void): SpanQueue {
  let waiting = 0
  let sending = 0
  let exported = 0
  let dropped = 0
  let failed = 0
  let closed = false
  const underWay = new Set<() => void>()

  const counted: SpanExporterLike = {
    export(spans, done) {
      const { length } = spans
      waiting -= length
      sending += length
      const settle = (result: { readonly code: number; readonly error?: Error }): void => {
        // The exporter may answer long after it was given up.
        if (!underWay.delete(giveUp)) return
        sending -= length
        if (result.code === 0) exported += length
        else {
          dropped += length
          failed++
        }
        done(result)
      }
      const giveUp = (): void => settle({ code: 1, error: new Error('the export did not end in time') })
      underWay.add(giveUp)
      try {
        exporter.export(spans, settle)
      } catch {
        // Counted as failed; the processor hears of it as of any other failure.
        settle({ code: 1, error: new Error('the exporter threw') })
      }
    },
    forceFlush: async () => exporter.forceFlush?.(),
    shutdown: () => exporter.shutdown()
  }

  return {
    exporter: counted,
    guard: (batch) => ({
      onStart: (span, context) => batch.onStart(span, context),
      onEnd(span) {
        if (closed || waiting >= maxQueued) {
          dropped++
          if (!closed) onFull()
          return
        }
        waiting++
        batch.onEnd(span)
      },
      forceFlush: () => batch.forceFlush(),
      async shutdown() {
        closed = true
        // Failed exports reject it; they are counted above, and whoever waits for the metrics' flush must not be torn away.
        await batch.shutdown().catch(() => {})
      }
    }),
    stats: () => ({ queued: waiting + sending, exported, dropped, failed }),
    abort() {
      closed = true
      for (const giveUp of underWay) giveUp()
    }
  }
}
