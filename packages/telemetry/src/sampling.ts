import { checkOptions, clampTimer } from '@millrace/core'
import {
  type Context,
  type HrTime,
  type SpanContext,
  type SpanStatus,
  SpanStatusCode,
  TraceFlags,
  trace
} from '@opentelemetry/api'

/** Which calls are kept: those that failed or were slow always, of the others a share. */
export interface SamplingOptions {
  /** Share of the traces that are kept though nothing was wrong with them, 0 to 1. @default 1 */
  readonly ratio?: number | undefined
  /** A call that took at least this long is kept, in milliseconds. @default 10000 */
  readonly slowMs?: number | undefined
}

export interface TailSamplingOptions extends SamplingOptions {
  /** Spans that wait for the end of their call; beyond, the oldest call is decided early. @default 10000 */
  readonly maxSpans?: number | undefined
}

/** What is read of a span that ended: every OpenTelemetry SDK's has it. */
export interface EndedSpan {
  readonly status: SpanStatus
  readonly duration: HrTime
}

/** A span processor of an OpenTelemetry SDK, of any version. */
export interface SpanProcessorLike<Started, Ended> {
  onStart(span: Started, parentContext: Context): void
  onEnding?(span: Started): void
  onEnd(span: Ended): void
  forceFlush(): Promise<void>
  shutdown(): Promise<void>
}

export interface TailSamplingStats {
  /** Spans that ended. */
  readonly ended: number
  /** Spans that wait for the end of their call. */
  readonly held: number
  /** Spans let go of: nothing was wrong with their call, and the ratio did not ask for it. */
  readonly sampledOut: number
}

export interface TailSampling<Started, Ended> extends SpanProcessorLike<Started, Ended> {
  stats(): TailSamplingStats
}

/** The spans of one call: its local root (no parent, or one elsewhere) and all below it in this process. */
interface Tree<Ended> {
  readonly root: object
  readonly since: number
  verdict: 'open' | 'keep' | 'drop'
  held: Ended[]
}

/**
 * Decides after the end of a call whether its spans are worth keeping, and passes those on to `next`. It keeps the calls with
 * an error anywhere in them, those of at least `slowMs`, those whose caller in another process was sampled, and `ratio` of
 * the rest, chosen by trace id as every OpenTelemetry SDK chooses. Spans are held for at most twice `slowMs`.
 *
 * The SDK must record everything (its AlwaysOn sampler), so `traceparent` says `sampled` to whom you call.
 *
 * @throws {TypeError} a wrong option
 *
 * @example
 * new NodeSDK({ sampler: new AlwaysOnSampler(), spanProcessors: [createTailSampling(batch, { ratio: 0.1 })] })
 */
export function createTailSampling<Started extends object, Ended extends EndedSpan>(
  next: SpanProcessorLike<Started, Ended>,
  options: TailSamplingOptions = {}
): TailSampling<Started, Ended> {
  checkOptions<TailSamplingOptions>('createTailSampling', options, { ratio: 1, slowMs: 1, maxSpans: 1 })
  const { ratio = 1, slowMs = 10_000, maxSpans = 10_000 } = options
  checkSampling({ ratio, slowMs })
  if (!Number.isSafeInteger(maxSpans) || maxSpans < 1) throw new TypeError('maxSpans must be a whole number of at least 1')

  // Keyed by the span itself: a tree is remembered as long as somebody can still end a span of it or start one below it.
  const trees = new WeakMap<object, Tree<Ended>>()
  /** Trees that hold spans, the oldest first. */
  const holding = new Set<Tree<Ended>>()
  let ended = 0
  let held = 0
  let sampledOut = 0
  let timer: NodeJS.Timeout | undefined

  function treeOf(span: Started, context: Context): Tree<Ended> {
    const parent = trace.getSpan(context)
    const above = parent === undefined ? undefined : trees.get(parent)
    if (above !== undefined) return above
    const caller = parent?.spanContext()
    const kept = (caller !== undefined && isSampled(caller)) || inRatio(traceIdOf(span), ratio)
    return { root: span, since: performance.now(), verdict: kept ? 'keep' : 'open', held: [] }
  }

  function hold(tree: Tree<Ended>, span: Ended): void {
    tree.held.push(span)
    holding.add(tree)
    held++
    timer ??= setTimeout(keepSlow, clampTimer(slowMs)).unref()
    for (const oldest of holding) {
      if (held <= maxSpans) return
      decideEarly(oldest)
    }
  }

  /** A root under way for `slowMs` is slow whenever it ends. */
  function decideEarly(tree: Tree<Ended>): void {
    release(tree, performance.now() - tree.since >= slowMs ? 'keep' : 'drop')
  }

  function release(tree: Tree<Ended>, verdict: 'keep' | 'drop'): void {
    tree.verdict = verdict
    if (!holding.delete(tree)) return
    const spans = tree.held
    tree.held = []
    held -= spans.length
    if (verdict === 'drop') sampledOut += spans.length
    else for (const span of spans) next.onEnd(span)
  }

  /** So no tree waits for a root that never ends. */
  function keepSlow(): void {
    const now = performance.now()
    for (const tree of holding) if (now - tree.since >= slowMs) release(tree, 'keep')
    timer = holding.size > 0 ? setTimeout(keepSlow, clampTimer(slowMs)).unref() : undefined
  }

  return {
    onStart(span, context) {
      if (ratio < 1) trees.set(span, treeOf(span, context))
      next.onStart(span, context)
    },
    onEnding(span) {
      next.onEnding?.(span)
    },
    onEnd(span) {
      ended++
      const tree = trees.get(span)
      if (tree === undefined) return next.onEnd(span)
      const isRoot = tree.root === (span as object)
      // A failure is kept even where its call was already let go of: a child that failed after its root ended well.
      if (span.status.code === SpanStatusCode.ERROR || (isRoot && milliseconds(span.duration) >= slowMs)) release(tree, 'keep')
      else if (isRoot && tree.verdict === 'open') release(tree, 'drop')
      if (tree.verdict === 'keep') next.onEnd(span)
      else if (tree.verdict === 'drop') sampledOut++
      else hold(tree, span)
    },
    forceFlush: () => next.forceFlush(),
    async shutdown() {
      clearTimeout(timer)
      for (const tree of holding) decideEarly(tree)
      await next.shutdown()
    },
    stats: () => ({ ended, held, sampledOut })
  }
}

/** @throws {TypeError} */
export function checkSampling({ ratio, slowMs }: { readonly ratio: number; readonly slowMs: number }): void {
  if (!(ratio >= 0 && ratio <= 1)) throw new TypeError('ratio must be a number from 0 to 1: 0.1 keeps a tenth')
  if (!(slowMs >= 0)) throw new TypeError('slowMs must be a number of milliseconds of at least 0')
}

/** As `TraceIdRatioBased` of the JavaScript SDK decides: the four words of the id, folded into one, lie below the ratio. */
function inRatio(traceId: string, ratio: number): boolean {
  if (ratio === 1) return true
  let folded = 0
  for (let at = 0; at < 32; at += 8) folded ^= Number.parseInt(traceId.slice(at, at + 8), 16)
  return folded >>> 0 < Math.floor(ratio * 0xffff_ffff)
}

function traceIdOf(span: object): string {
  return (span as { spanContext(): SpanContext }).spanContext().traceId
}

const isSampled = (context: SpanContext): boolean => (context.traceFlags & TraceFlags.SAMPLED) !== 0

const milliseconds = ([seconds, nanoseconds]: HrTime): number => seconds * 1e3 + nanoseconds / 1e6
