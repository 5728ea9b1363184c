import { clampTimer } from '@millrace/core'
import type { SpanProcessorLike } from './sampling.ts'

export interface ExportResult {
  /** 0 is success. */
  readonly code: number
  readonly error?: Error
  /** Spans of a successful export that the collector refused. */
  readonly rejected?: number
}

/** An exporter of an OpenTelemetry SDK. */
export interface SpanExporterLike {
  export(spans: object[], done: (result: ExportResult) => void): void
  shutdown(): Promise<void>
}

export interface SpanQueueOptions {
  /** Spans that wait; further ones are dropped. */
  readonly maxQueueSize: number
  readonly maxExportBatchSize: number
  /** How long a span waits for a batch to fill. */
  readonly scheduledDelayMillis: number
  /** An export that is not answered by then has failed. */
  readonly exportTimeoutMillis: number
  /** Called for each span that is dropped because the queue is full. */
  readonly onFull: () => void
  /** Runs an export in the context that is right for it. @default the one of nobody in particular */
  readonly run?: ((start: () => void) => void) | undefined
}

export interface SpanQueueStats {
  /** Spans in the queue or on their way. */
  readonly queued: number
  readonly exported: number
  /** Spans the full or closed queue refused, those of failed exports, and those the collector rejected. */
  readonly dropped: number
  /** Exports that failed. */
  readonly failed: number
}

export interface SpanQueue extends SpanProcessorLike<object, object> {
  stats(): SpanQueueStats
  /** Gives up what waits and what is on its way. */
  abort(): void
}

interface Waiting {
  readonly span: object
  /** Characters. */
  readonly size: number
}

/** Characters of one batch: serialising them must not hold the event loop up. A span alone may have more. */
const maxBatchChars = 256 * 1024
/** Characters of all that waits. */
const maxQueuedChars = 32 * 1024 * 1024

/**
 * Hands spans to an exporter in batches: one export at a time, each begun in a turn of its own and never inside the end of a
 * span, so that no call pays for it. At shutdown batch follows batch until nothing waits. Of the SDK's batch processor it
 * differs in that a failed batch touches no other, and that it knows of every span where it is.
 */
export function createSpanQueue(exporter: SpanExporterLike, options: SpanQueueOptions): SpanQueue {
  const {
    maxQueueSize,
    maxExportBatchSize,
    scheduledDelayMillis,
    exportTimeoutMillis,
    onFull,
    run = (start) => start()
  } = options
  const waiting: Waiting[] = []
  let waitingChars = 0
  let sending = 0
  let exported = 0
  let dropped = 0
  let failed = 0
  /** Spans that were taken in, and are done with. */
  let settled = 0
  let closed: Promise<void> | undefined
  let timer: NodeJS.Timeout | undefined
  let underWay: Promise<void> | undefined
  let giveUp = (): void => {}

  function schedule(): void {
    if (waiting.length >= maxExportBatchSize || waitingChars >= maxBatchChars) void next()
    else if (waiting.length > 0) timer ??= setTimeout(flush, clampTimer(scheduledDelayMillis)).unref()
  }

  /** Exports the next batch; while one is under way, that is the one. */
  function next(): Promise<void> {
    clearTimeout(timer)
    timer = undefined
    underWay ??= exportBatch()
    return underWay
  }

  async function exportBatch(): Promise<void> {
    await new Promise<void>((resolve) => setImmediate(resolve))
    const spans = take()
    if (spans.length > 0) {
      sending = spans.length
      const { code, rejected = 0 } = await answered(spans)
      if (code !== 0) failed++
      const lost = code === 0 ? Math.min(rejected, sending) : sending
      dropped += lost
      exported += sending - lost
      settled += sending
      sending = 0
    }
    underWay = undefined
    schedule()
  }

  function take(): object[] {
    let count = 0
    let chars = 0
    for (const { size } of waiting) {
      if (count === maxExportBatchSize || (count > 0 && chars + size > maxBatchChars)) break
      count++
      chars += size
    }
    waitingChars -= chars
    return waiting.splice(0, count).map(({ span }) => span)
  }

  async function answered(spans: object[]): Promise<ExportResult> {
    const { promise, resolve } = Promise.withResolvers<ExportResult>()
    giveUp = () => resolve({ code: 1 })
    const deadline = setTimeout(giveUp, clampTimer(exportTimeoutMillis)).unref()
    // What throws is counted as a failed export.
    resourceOf(spans)
      .then(() => run(() => exporter.export(spans, resolve)))
      .catch(giveUp)
    try {
      return await promise
    } finally {
      clearTimeout(deadline)
    }
  }

  /** Until all spans that have ended by now are done with. */
  async function flush(): Promise<void> {
    const target = settled + sending + waiting.length
    const isDone = (): boolean => settled >= target
    while (!isDone()) await next()
  }

  async function shutDown(): Promise<void> {
    await flush()
    // A collector that is gone is no failure of closing; its exports were counted.
    await exporter.shutdown().catch(() => {})
  }

  return {
    onStart() {},
    onEnd(span) {
      const size = sizeOf(span)
      if (closed !== undefined || waiting.length >= maxQueueSize || waitingChars + size > maxQueuedChars) {
        dropped++
        if (closed === undefined) onFull()
        return
      }
      waiting.push({ span, size })
      waitingChars += size
      schedule()
    },
    forceFlush: flush,
    shutdown() {
      closed ??= shutDown()
      return closed
    },
    stats: () => ({ queued: waiting.length + sending, exported, dropped, failed }),
    abort() {
      closed ??= Promise.resolve()
      clearTimeout(timer)
      dropped += waiting.length
      settled += waiting.length
      waiting.length = 0
      waitingChars = 0
      giveUp()
    }
  }
}

/** Waits for what a detector still asks of the machine; all spans of a provider have the same resource. */
async function resourceOf(spans: readonly object[]): Promise<void> {
  const { resource } = spans[0] as {
    readonly resource?: { readonly asyncAttributesPending?: boolean; waitForAsyncAttributes?(): Promise<void> }
  }
  if (resource?.asyncAttributesPending === true) await resource.waitForAsyncAttributes?.()
}

/** Characters of the texts of a span: nearly all there is of a long one, and quickly added up. */
function sizeOf(span: object): number {
  const { attributes, events = [] } = span as {
    readonly attributes?: object
    readonly events?: readonly { attributes?: object }[]
  }
  let size = charsOf(attributes)
  for (const event of events) size += charsOf(event.attributes)
  return size
}

function charsOf(attributes: object = {}): number {
  let chars = 0
  for (const value of Object.values(attributes) as unknown[]) {
    if (typeof value === 'string') chars += value.length
    else if (Array.isArray(value)) for (const item of value) chars += typeof item === 'string' ? item.length : 0
  }
  return chars
}
