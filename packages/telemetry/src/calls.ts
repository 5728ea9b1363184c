import type { AttemptEnd, AttemptStart, CallEnd, CallStart } from '@millrace/core'
import { type Attributes, context, type Span, SpanKind, SpanStatusCode, type Tracer, trace } from '@opentelemetry/api'
import { endAttributes, errorAttributes, modelOf, requestAttributes, serverAttributes } from './attributes.ts'
import { attribute } from './semconv.ts'

/** A call between its start and its end. */
export interface OpenCall {
  readonly owner: object
  readonly stream: boolean
  readonly model: string | undefined
  /** Absent for requests that belong to no watched call, such as those of an SDK through `transport.fetch`. */
  readonly span: Span | undefined
  /** How often the owner has started this call and not ended it: it may stand at two places of one list of layers. */
  depth: number
  attemptsMade: number
  origin: string | undefined
  readonly attempts: Map<number, Span>
}

/** The spans of the calls under way, at most `maxOpen`; one more, and the oldest is ended as `dropped`. */
export interface Calls {
  start(message: CallStart): void
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

/** Attempts of one call under way at the same time; retries and hedges stay far below. */
const maxOpenAttempts = 64

export function createCalls(tracer: Tracer, maxOpen: number): Calls {
  const open = new Map<string, OpenCall>()
  let dropped = 0

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
    for (const span of call.attempts.values()) span.end()
    call.attempts.clear()
    const { span } = call
    if (span?.isRecording() !== true) return
    span.setAttributes(attributes)
    if (call.origin !== undefined) span.setAttributes(serverAttributes(call.origin))
    if (call.attemptsMade > 0) span.setAttribute(attribute.attempts, call.attemptsMade)
    // Without a message: an error's text may quote the prompt.
    if (attribute.errorType in attributes) span.setStatus({ code: SpanStatusCode.ERROR })
    span.end()
  }

  return {
    start({ owner, callId, request, stream }) {
      const known = open.get(callId)
      // An adapter and `telemetry.layer` may both watch one call: who opened the span ends it.
      if (known !== undefined) {
        if (known.owner === owner) known.depth++
        return
      }
      const model = modelOf(request)
      const span = tracer.startSpan(model === undefined ? 'chat' : `chat ${model}`, { kind: SpanKind.CLIENT })
      add(callId, { owner, stream, model, span, depth: 1, attemptsMade: 0, origin: undefined, attempts: new Map() })
      if (span.isRecording()) span.setAttributes(requestAttributes(request, stream))
    },

    take({ callId, owner }) {
      const call = open.get(callId)
      if (call === undefined || call.owner !== owner || --call.depth > 0) return undefined
      open.delete(callId)
      return call
    },
    finish(call, message) {
      endSpans(call, call.span?.isRecording() === true ? endAttributes(message, call.stream) : {})
    },

    startAttempt({ owner, callId, attempt, method, origin }) {
      let call = open.get(callId)
      if (call === undefined) {
        call = {
          owner,
          stream: false,
          model: undefined,
          span: undefined,
          depth: 1,
          attemptsMade: 0,
          origin,
          attempts: new Map()
        }
        add(callId, call)
      }
      if (call.attempts.has(attempt) || call.attempts.size >= maxOpenAttempts) return
      call.attemptsMade++
      call.origin = origin
      // The parent is the call by its id: a generator has lost the ambient context by the time it asks for a socket.
      const parent = call.span === undefined ? context.active() : trace.setSpan(context.active(), call.span)
      const span = tracer.startSpan(method, { kind: SpanKind.CLIENT }, parent)
      call.attempts.set(attempt, span)
      if (!span.isRecording()) return
      span.setAttributes({ [attribute.httpMethod]: method, ...serverAttributes(origin) })
      if (attempt > 1) span.setAttribute(attribute.httpResendCount, attempt - 1)
    },

    endAttempt({ callId, attempt, status, error }) {
      const call = open.get(callId)
      const span = call?.attempts.get(attempt)
      if (call === undefined || span === undefined) return
      call.attempts.delete(attempt)
      if (call.span === undefined && call.attempts.size === 0) open.delete(callId)
      if (span.isRecording()) {
        const refused = status !== undefined && status >= 400
        if (status !== undefined) span.setAttribute(attribute.httpStatus, status)
        if (error !== undefined) span.setAttributes(errorAttributes(error))
        else if (refused) span.setAttribute(attribute.errorType, String(status))
        if (error !== undefined || refused) span.setStatus({ code: SpanStatusCode.ERROR })
      }
      span.end()
    },

    span(callId, attempt) {
      const call = open.get(callId)
      if (call === undefined) return undefined
      const span = attempt === undefined ? [...call.attempts.values()].at(-1) : call.attempts.get(attempt)
      return span ?? call.span
    },

    get size() {
      return open.size
    },
    get dropped() {
      return dropped
    },

    close() {
      const forgotten = [...open.values()]
      open.clear()
      for (const call of forgotten) endSpans(call, { [attribute.outcome]: 'dropped' })
    }
  }
}
