import type { AttemptEnd, AttemptStart, CallContent, CallEnd, CallStart } from '@millrace/core'
import {
  type Attributes,
  type Context,
  context,
  isSpanContextValid,
  propagation,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  type Tracer,
  trace
} from '@opentelemetry/api'
import { callerAttributes, endAttributes, errorAttributes, modelOf, requestAttributes, serverAttributes } from './attributes.ts'
import type { TelemetryCallOptions } from './call-options.ts'
import type { CapturedCall, ContentCapture } from './content.ts'
import { attribute } from './semconv.ts'

/** A call between its start and its end. */
export interface OpenCall {
  readonly owner: object
  readonly stream: boolean
  readonly model: string | undefined
  /** Of `Date.now` before `performance.now` at its start: one clock for all spans of a call, or a child would seem to outlive it. */
  readonly clockMs: number
  /** Absent for requests that belong to no watched call, such as those of an SDK through `transport.fetch`. */
  readonly span: Span | undefined
  readonly captured: CapturedCall | undefined
  /** How often the owner has started this call and not ended it: it may stand at two places of one list of layers. */
  depth: number
  attemptsMade: number
  origin: string | undefined
  /** Of the metric of its content, made with the second arrival. */
  contentLabels: Attributes | undefined
  readonly attempts: Map<number, Span>
}

/** The calls under way with their spans, at most `maxOpen`; one more, and the oldest is ended as `dropped`. */
export interface Calls {
  start(message: CallStart): void
  /** The call that this content belongs to. */
  content(message: CallContent): OpenCall | undefined
  /** Takes out the call that this message ends; its span is ended by `finish`. */
  take(message: CallEnd): OpenCall | undefined
  finish(call: OpenCall, message: CallEnd): void
  startAttempt(message: AttemptStart): void
  endAttempt(message: AttemptEnd): void
  /** The span of this attempt, by default the newest under way; or of the call. */
  span(callId: string, attempt?: number): Span | undefined
  readonly size: number
  readonly dropped: number
  close(): void
}

export interface CallsOptions {
  readonly tracer: Tracer
  readonly maxOpen: number
  /** Whether metrics are collected: then a call is kept even when nobody takes its span. */
  readonly isMetered: () => boolean
  readonly content: ContentCapture | undefined
}

/** Attempts of one call under way at the same time; retries and hedges stay far below. */
const maxOpenAttempts = 64

export function createCalls({ tracer, maxOpen, isMetered, content: capture }: CallsOptions): Calls {
  const open = new Map<string, OpenCall>()
  let dropped = 0
  // Nearly all requests go to one origin: the last one is not parsed again.
  let lastOrigin: string | undefined
  let lastServer: Attributes = {}

  function serverOf(origin: string): Attributes {
    if (origin !== lastOrigin) {
      lastServer = serverAttributes(origin)
      lastOrigin = origin
    }
    return lastServer
  }

  function add(callId: string, call: OpenCall): void {
    open.set(callId, call)
    if (open.size <= maxOpen) return
    for (const [oldest, forgotten] of open) {
      open.delete(oldest)
      dropped++
      return endSpans(forgotten, { [attribute.outcome]: 'dropped' })
    }
  }

  function endSpans(call: OpenCall, attributes: Attributes): void {
    // The loser of a hedge, or an attempt cut off with its call: nobody tells us of its end any more.
    const endTime = timeOf(call)
    for (const span of call.attempts.values()) span.end(endTime)
    call.attempts.clear()
    const { span } = call
    if (span?.isRecording() !== true) return
    span.setAttributes(attributes)
    if (call.origin !== undefined) span.setAttributes(serverOf(call.origin))
    if (call.attemptsMade > 0) span.setAttribute(attribute.attempts, call.attemptsMade)
    // Without a message: an error's text may quote the prompt.
    if (attribute.errorType in attributes) span.setStatus({ code: SpanStatusCode.ERROR })
    span.end(endTime)
  }

  /** Sampled, or to be handed on to the provider as not sampled. Without an SDK a span is neither. */
  const isTraced = (span: Span): boolean => span.isRecording() || isSpanContextValid(span.spanContext())

  return {
    start({ owner, callId, request, options, stream, startedAt }) {
      const known = open.get(callId)
      // An adapter and `telemetry.layer` may both watch one call: who opened the span ends it.
      if (known !== undefined) {
        if (known.owner === owner) known.depth++
        return
      }
      const model = modelOf(request)
      const told: TelemetryCallOptions | undefined = options?.telemetry
      const clockMs = Date.now() - performance.now()
      const asClient = { kind: SpanKind.CLIENT, startTime: clockMs + startedAt }
      const span = tracer.startSpan(model === undefined ? 'chat' : `chat ${model}`, asClient, parentOf(told))
      if (!isTraced(span) && !isMetered()) return
      const captured = span.isRecording() ? capture?.start(request) : undefined
      add(callId, {
        owner,
        stream,
        model,
        clockMs,
        span,
        captured,
        depth: 1,
        attemptsMade: 0,
        origin: undefined,
        contentLabels: undefined,
        attempts: new Map()
      })
      if (!span.isRecording()) return
      span.setAttributes(requestAttributes(request, stream))
      if (told?.attributes !== undefined) span.setAttributes(callerAttributes(told.attributes))
    },
    content({ callId, owner, chunks }) {
      const call = open.get(callId)
      if (call === undefined || call.owner !== owner) return undefined
      call.captured?.add(chunks)
      return call
    },
    take({ callId, owner }) {
      const call = open.get(callId)
      if (call === undefined || call.owner !== owner || --call.depth > 0) return undefined
      open.delete(callId)
      return call
    },
    finish(call, message) {
      if (call.span?.isRecording() !== true) return endSpans(call, {})
      endSpans(call, { ...endAttributes(message, call.stream), ...call.captured?.attributes(message.finish) })
    },

    startAttempt({ owner, callId, attempt, method, origin }) {
      let call = open.get(callId)
      if (call !== undefined && (call.attempts.has(attempt) || call.attempts.size >= maxOpenAttempts)) return
      // The parent is the call by its id: a generator has lost the ambient context by the time it asks for a socket.
      const parent = call?.span === undefined ? context.active() : trace.setSpan(context.active(), call.span)
      const startedAt = performance.now()
      const clockMs = call?.clockMs ?? Date.now() - startedAt
      const span = tracer.startSpan(method, { kind: SpanKind.CLIENT, startTime: clockMs + startedAt }, parent)
      if (!isTraced(span)) return
      if (call === undefined) {
        call = {
          owner,
          stream: false,
          model: undefined,
          clockMs,
          span: undefined,
          captured: undefined,
          depth: 1,
          attemptsMade: 0,
          origin,
          contentLabels: undefined,
          attempts: new Map()
        }
        add(callId, call)
      }
      call.attemptsMade++
      call.origin = origin
      call.attempts.set(attempt, span)
      if (!span.isRecording()) return
      span.setAttributes({ [attribute.httpMethod]: method, ...serverOf(origin) })
      if (attempt > 1) span.setAttribute(attribute.httpResendCount, attempt - 1)
    },

    endAttempt({ callId, attempt, status, error, aborted }) {
      const call = open.get(callId)
      const span = call?.attempts.get(attempt)
      if (call === undefined || span === undefined) return
      call.attempts.delete(attempt)
      if (call.span === undefined && call.attempts.size === 0) open.delete(callId)
      if (span.isRecording()) {
        const refused = status !== undefined && status >= 400
        if (status !== undefined) span.setAttribute(attribute.httpStatus, status)
        // Ended by us: by the caller, a deadline, or a faster hedge. Nothing is wrong with the provider.
        if (aborted === true) span.setAttribute(attribute.outcome, 'aborted')
        else if (error !== undefined) span.setAttributes(errorAttributes(error))
        else if (refused) span.setAttribute(attribute.errorType, String(status))
        if (aborted !== true && (error !== undefined || refused)) span.setStatus({ code: SpanStatusCode.ERROR })
      }
      span.end(timeOf(call))
    },

    span(callId, attempt) {
      const call = open.get(callId)
      if (call === undefined) return undefined
      const span = attempt === undefined ? Array.from(call.attempts.values()).at(-1) : call.attempts.get(attempt)
      return span ?? call.span
    },

    get size() {
      return open.size
    },
    get dropped() {
      return dropped
    },

    close() {
      const forgotten = Array.from(open.values())
      open.clear()
      for (const call of forgotten) endSpans(call, { [attribute.outcome]: 'dropped' })
    }
  }
}

function timeOf({ clockMs }: OpenCall): number {
  return clockMs + performance.now()
}

/** The trace of the request that is being served, where the caller told it; else what is active. */
function parentOf(told: TelemetryCallOptions | undefined): Context {
  const { parent } = told ?? {}
  if (typeof parent !== 'object' || parent === null) return context.active()
  return propagation.extract(ROOT_CONTEXT, parent, headerGetter)
}

type Carrier = NonNullable<TelemetryCallOptions['parent']>

const headerGetter = {
  keys: (headers: Carrier): string[] => (headers instanceof Headers ? Array.from(headers.keys()) : Object.keys(headers)),
  get(headers: Carrier, name: string): string | string[] | undefined {
    if (headers instanceof Headers) return headers.get(name) ?? undefined
    const value = headers[name]
    return typeof value === 'object' ? Array.from(value) : value
  }
}
