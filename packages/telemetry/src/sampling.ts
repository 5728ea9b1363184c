import { checkOptions, clampTimer } from '@millrace/core'
import {
  type Context,
  type HrTime,
  type Span,
  type SpanContext,
  type SpanStatus,
  SpanStatusCode,
  TraceFlags,
  trace
} from '@opentelemetry/api'
import { sizeOf } from './span-queue.ts'
import { inRatio } from './trace-ratio.ts'

/** Which calls are kept: those that failed or were slow always, of the others a share. */
export interface SamplingOptions {
  /** Share of the traces that are kept though nothing was wrong with them, 0 to 1. @default 1 */
  readonly ratio?: number | undefined
  /** A call that took at least this long is kept, in milliseconds. @default 10000 */
  readonly slowMs?: number | undefined
}

export interface TailSamplingOptions extends SamplingOptions {
  /** Spans that wait for the end of their call; beyond, or beyond 16 MiB of text, those of the oldest call are let go of. @default 10000 */
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

/** A span of this process, with those below it that have ended. */
interface Node<Ended> {
  readonly key: string
  readonly since: number
  /** By the ratio or by a caller in another process: all below it is kept. */
  readonly chosen: boolean
  /** The span around it. */
  parent: Node<Ended> | undefined
  ended: boolean
  /** Something was wrong with it or below it. */
  kept: boolean
  /** How many may still start right below it, once it is kept, and be kept with it. */
  spare: number
  held: Ended[]
  /** Characters of what is held. */
  chars: number
}

/**
 * So that the later attempts of a slow call are kept with it, and yet a span as old as the process does not keep all the
 * calls below it.
 */
const maxLater = 100

/** Characters of all that is held; beyond, it is as with `maxSpans`. */
const maxHeldChars = 16 * 1024 * 1024

/**
 * Decides after the end of a call whether its spans are worth keeping, and passes those on to `next`. It keeps the calls with
 * an error anywhere in them, those of at least `slowMs`, those whose caller in another process was sampled, and `ratio` of
 * the rest, chosen by trace id as every OpenTelemetry SDK chooses. Spans are held for at most twice `slowMs`.
 *
 * A call is decided with the request around it. It is decided for itself if it outlives a request that was let go of, if it
 * starts after its end, or if a hundred more have started right below it since it was known to be kept.
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

  // Keyed by the span itself: a node is remembered as long as somebody can still end its span or start one below it.
  const nodes = new WeakMap<object, Node<Ended>>()
  /** By their ids: a parent may be given as a mere span context. The newest `maxSpans`. */
  const underWay = new Map<string, Node<Ended>>()
  /** Nodes that hold spans, the oldest first. */
  const holding = new Set<Node<Ended>>()
  let ended = 0
  let held = 0
  let heldChars = 0
  let sampledOut = 0
  let closed = false
  let timer: NodeJS.Timeout | undefined

  const isOverdue = ({ since }: Node<Ended>): boolean => performance.now() - since >= slowMs

  function begin(span: Started, context: Context): void {
    const own = (span as unknown as Span).spanContext()
    const caller = trace.getSpan(context)
    const from = caller?.spanContext()
    const above = caller && from && (nodes.get(caller) ?? underWay.get(keyOf(from)))
    const node: Node<Ended> = {
      key: keyOf(own),
      since: performance.now(),
      chosen: above === undefined ? isSampledElsewhere(from) || inRatio(own.traceId, ratio) : above.chosen,
      parent: above === undefined || above.chosen ? undefined : placeBelow(above),
      ended: false,
      kept: false,
      spare: 0,
      held: [],
      chars: 0
    }
    nodes.set(span, node)
    underWay.set(node.key, node)
    if (underWay.size <= maxSpans) return
    for (const oldest of underWay.keys()) {
      underWay.delete(oldest)
      return
    }
  }

  /** With whom a span is decided that starts below this one; undefined if for itself. */
  function placeBelow(above: Node<Ended>): Node<Ended> | undefined {
    const around = above.ended ? parentOf(above) : above
    if (around === undefined) return undefined
    parentOf(around) // by now it may have outlived a call that was kept
    if (isOverdue(around)) keep(around)
    if (!around.kept) return around
    if (around.spare === 0) return undefined
    around.spare--
    return around
  }

  /** The nearest span around it that is under way. Those that have ended are cut out, so that no chain of them can grow. */
  function parentOf(node: Node<Ended>): Node<Ended> | undefined {
    while (node.parent?.ended === true) {
      const { kept, spare, parent } = node.parent
      // It began inside a call that was kept, and has outlived it.
      if (kept) keepOne(node, spare)
      node.parent = parent
    }
    return node.parent
  }

  function isKept(node: Node<Ended>): boolean {
    for (let at: Node<Ended> | undefined = node; at !== undefined; ) {
      const around = parentOf(at)
      if (at.kept) return true
      at = around
    }
    return false
  }

  /** With all around it that is under way. */
  function keep(node: Node<Ended>): void {
    for (let at: Node<Ended> | undefined = node; at !== undefined; at = parentOf(at)) keepOne(at, maxLater)
  }

  function keepOne(node: Node<Ended>, spare: number): void {
    if (node.kept) return
    node.kept = true
    node.spare = spare
    passHeld(node)
  }

  function end(node: Node<Ended>, span: Ended): void {
    node.ended = true
    underWay.delete(node.key)
    const isWrong = span.status.code === SpanStatusCode.ERROR || milliseconds(span.duration) >= slowMs
    const around = parentOf(node)
    if (isWrong || isKept(node)) {
      // Before what it held: the queue may have no room for all of them.
      ended++
      next.onEnd(span)
      if (isWrong) keep(node)
      passHeld(node)
    } else if (around === undefined || closed) {
      dropHeld(node)
      ended++
      sampledOut++
    } else {
      hold(around, node, span)
    }
  }

  function hold(around: Node<Ended>, node: Node<Ended>, span: Ended): void {
    const size = sizeOf(span)
    around.chars += node.chars + size
    heldChars += node.chars + size
    for (const one of takeHeld(node)) around.held.push(one)
    around.held.push(span)
    holding.add(around)
    ended++
    held++
    timer ??= setTimeout(keepOverdue, clampTimer(slowMs)).unref()
    for (const oldest of holding) {
      if (held <= maxSpans && heldChars <= maxHeldChars) return
      letGo(oldest)
    }
  }

  function takeHeld(node: Node<Ended>): readonly Ended[] {
    holding.delete(node)
    const spans = node.held
    heldChars -= node.chars
    node.held = []
    node.chars = 0
    return spans
  }

  function passHeld(node: Node<Ended>): void {
    for (const span of takeHeld(node)) {
      held--
      next.onEnd(span)
    }
  }

  function dropHeld(node: Node<Ended>): void {
    const { length } = takeHeld(node)
    held -= length
    sampledOut += length
  }

  /** A span under way for `slowMs` is slow whenever it ends; one below a span that is kept is kept with it. */
  function letGo(node: Node<Ended>): void {
    if (isOverdue(node)) keep(node)
    else if (isKept(node)) passHeld(node)
    else dropHeld(node)
  }

  /** So nothing waits for a span that never ends. */
  function keepOverdue(): void {
    for (const node of holding) if (isOverdue(node)) keep(node)
    timer = holding.size > 0 ? setTimeout(keepOverdue, clampTimer(slowMs)).unref() : undefined
  }

  return {
    onStart(span, context) {
      if (ratio < 1) begin(span, context)
      next.onStart(span, context)
    },
    onEnding(span) {
      next.onEnding?.(span)
    },
    onEnd(span) {
      const node = nodes.get(span)
      if (node !== undefined && !node.chosen) return end(node, span)
      if (node !== undefined) underWay.delete(node.key)
      ended++
      next.onEnd(span)
    },
    forceFlush: () => next.forceFlush(),
    async shutdown() {
      // What ends from now on is decided at once: nobody would let go of it any more.
      closed = true
      clearTimeout(timer)
      for (const node of holding) letGo(node)
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

const keyOf = ({ traceId, spanId }: SpanContext): string => traceId + spanId

/** Whether the caller stands in another process, which says that it is sampled. */
function isSampledElsewhere(caller: SpanContext | undefined): boolean {
  return caller?.isRemote === true && (caller.traceFlags & TraceFlags.SAMPLED) !== 0
}

const milliseconds = ([seconds, nanoseconds]: HrTime): number => seconds * 1e3 + nanoseconds / 1e6
