import { clampTimer } from '@millrace/core'
import type { SpanProcessorLike } from './sampling.ts'

export interface ExportResult {
  /** 0 is success. */
  readonly code: number
  readonly error?: Error
  /** Spans of a successful export that the collector refused. */
  readonly rejected?: number
}

/** An exporter of an OpenTelemetry SDK; one that answers without a result has failed. */
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
/** How long nothing is tried after a failed export. */
const recoveryMs = 500

/** A batch on its way. */
interface Batch {
  /** How many spans were taken out of the queue before its own. */
  readonly from: number
  readonly size: number
  giveUp(): void
}

/**
 * Hands spans to exporters in batches, one to each exporter at a time. Each export is begun in a turn of its own and never
 * inside the end of a span, so that no call pays for it. After a failed one the next waits until no other is under way, on
 * a timer that keeps no process alive; at shutdown batch follows batch until nothing waits. Of the SDK's batch processor it
 * differs in that a failed batch touches no other, and that it knows of every span where it is.
 */
export function createSpanQueue(exporters: readonly SpanExporterLike[], options: SpanQueueOptions): SpanQueue {
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
  /** Spans that left the queue. */
  let taken = 0
  /** As many of those taken in wait for no batch to fill. */
  let due = 0
  /** As many of those taken in wait for no collector to recover. */
  let urgent = 0
  /** The one used last is used next: its connection is open. */
  const idle = exporters.toReversed()
  const underWay = new Set<Batch>()
  let hasFailed = false
  let exported = 0
  let dropped = 0
  let failed = 0
  let closed: Promise<void> | undefined
  let timer: NodeJS.Timeout | undefined
  let turn: NodeJS.Immediate | undefined
  /** Told of each batch that is done with. */
  let progress = Promise.withResolvers<void>()

  function schedule(): void {
    if (turn !== undefined || waiting.length === 0 || idle.length === 0) return
    if (urgent > taken) begin()
    else if (hasFailed) {
      if (underWay.size === 0) timer ??= setTimeout(begin, Math.min(scheduledDelayMillis, recoveryMs)).unref()
    } else if (due > taken || waiting.length >= maxExportBatchSize || waitingChars >= maxBatchChars) begin()
    else timer ??= setTimeout(beginAll, clampTimer(scheduledDelayMillis)).unref()
  }

  function beginAll(): void {
    timer = undefined
    due = taken + waiting.length
    schedule()
  }

  function begin(): void {
    clearTimeout(timer)
    timer = undefined
    turn = setImmediate(beginNext)
  }

  function beginNext(): void {
    turn = undefined
    if (waiting.length === 0) return // all were given up meanwhile
    const exporter = idle.pop()
    if (exporter !== undefined) void exportBatch(exporter)
    schedule()
  }

  async function exportBatch(exporter: SpanExporterLike): Promise<void> {
    const from = taken
    const spans = take()
    const { promise, resolve } = Promise.withResolvers<ExportResult | undefined>()
    const batch = { from, size: spans.length, giveUp: () => resolve(undefined) }
    underWay.add(batch)
    const deadline = setTimeout(batch.giveUp, clampTimer(exportTimeoutMillis)).unref()
    // What throws is counted as a failed export.
    resourceOf(spans)
      .then(() => run(() => exporter.export(spans, resolve)))
      .catch(batch.giveUp)
    const { code, rejected = 0 } = (await promise) ?? { code: 1 }
    clearTimeout(deadline)
    underWay.delete(batch)
    idle.push(exporter)
    hasFailed = code !== 0
    if (hasFailed) {
      failed++
      clearTimeout(timer)
      timer = undefined
    }
    const lost = hasFailed ? spans.length : Math.min(countOf(rejected), spans.length)
    dropped += lost
    exported += spans.length - lost
    settle()
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
    taken += count
    return waiting.splice(0, count).map(({ span }) => span)
  }

  function settle(): void {
    progress.resolve()
    progress = Promise.withResolvers()
  }

  /** Until all spans that have ended by now are done with. */
  async function flush(): Promise<void> {
    const target = taken + waiting.length
    urgent = target
    schedule()
    const isDone = (): boolean => taken >= target && [...underWay].every(({ from }) => from >= target)
    while (!isDone()) await progress.promise
  }

  async function shutDown(): Promise<void> {
    await flush()
    // An exporter that cannot be closed is no failure of closing; its exports were counted.
    await Promise.allSettled(exporters.map(async (exporter) => exporter.shutdown()))
  }

  function queued(): number {
    let count = waiting.length
    for (const { size } of underWay) count += size
    return count
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
    stats: () => ({ queued: queued(), exported, dropped, failed }),
    abort() {
      closed ??= Promise.resolve()
      clearTimeout(timer)
      dropped += waiting.length
      taken += waiting.length
      waiting.length = 0
      waitingChars = 0
      for (const { giveUp } of underWay) giveUp()
      settle()
    }
  }
}

/** What a collector says it rejected may be anything. */
const countOf = (rejected: number): number => (Number.isSafeInteger(rejected) && rejected > 0 ? rejected : 0)

/** Waits for what a detector still asks of the machine; all spans of a provider have the same resource. */
async function resourceOf(spans: readonly object[]): Promise<void> {
  const { resource } = spans[0] as {
    readonly resource?: { readonly asyncAttributesPending?: boolean; waitForAsyncAttributes?(): Promise<void> }
  }
  if (resource?.asyncAttributesPending === true) await resource.waitForAsyncAttributes?.()
}

/** Characters of the texts of a span: nearly all there is of a long one, and quickly added up. */
export function sizeOf(span: object): number {
  const {
    name = '',
    status,
    attributes,
    events = [],
    links = []
  } = span as {
    readonly name?: string
    readonly status?: { readonly message?: string }
    readonly attributes?: object
    readonly events?: readonly { readonly name?: string; readonly attributes?: object }[]
    readonly links?: readonly { readonly attributes?: object }[]
  }
  let size = name.length + (status?.message?.length ?? 0) + charsOf(attributes)
  for (const event of events) size += (event.name?.length ?? 0) + charsOf(event.attributes)
  for (const link of links) size += charsOf(link.attributes)
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
