import type { AttemptEnd, AttemptStart, CallContent, CallEnd, CallStart, CallTally } from '@millrace/core'
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
import type { CapturedCall, ContentCapture } from './content.ts'
import { attribute } from './semconv.ts'

/** Requests that are told under one `callId`. */
interface Attempts {
  made: number
  origin: string | undefined
  readonly open: Map<number, Span>
  /** Of `Date.now` before `performance.now` at its start: one clock for all spans of a call, or a child would seem to outlive it. */
  readonly clockMs: number
}

/** A call between its start and its end. */
interface OpenCall extends Attempts {
  readonly callId: string
  readonly span: Span
  readonly captured: CapturedCall | undefined
}

/** The spans of the calls under way, at most `maxOpen`; one more, and the oldest is ended as `dropped`. */
export interface Calls {
  start(message: CallStart): void
  content(message: CallContent): void
  end(message: CallEnd): void
  startAttempt(message: AttemptStart): void
  endAttempt(message: AttemptEnd): void
  /** The span of this attempt, by default the newest under way; or of the call, the newest of its name. */
  span(callId: string, attempt?: number): Span | undefined
  readonly size: number
  readonly dropped: number
  close(): void
}

export interface CallsOptions {
  readonly tracer: Tracer
  readonly maxOpen: number
  readonly content: ContentCapture | undefined
  /** Told of what was left out, and of exceptions that were caught here. */
  readonly onFailure: () => void
}

/** Attempts of one call under way at the same time; retries and hedges stay far below. */
const maxOpenAttempts = 64

export function createCalls({ tracer, maxOpen, content: capture, onFailure }: CallsOptions): Calls {
  const open = new Map<CallTally, OpenCall>()
  /** Two calls may have one `callId`: who knows no more than that means the newest. */
  const newest = new Map<string, OpenCall>()
  /** Requests that belong to no call that is known, such as those of an SDK through `transport.fetch`. */
  const loose = new Map<string, Attempts>()
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

  /** An SDK whose processor throws at one span must not keep the others from ending. */
  function endSpan(span: Span, endTime: number): void {
    try {
      span.end(endTime)
    } catch {
      onFailure()
    }
  }

  function endCall(call: OpenCall, tell: () => Attributes): void {
    const { callId, span, origin } = call
    if (newest.get(callId) === call) newest.delete(callId)
    endAttempts(call)
    try {
      if (!span.isRecording()) return
      const attributes = tell()
      span.setAttributes(attributes)
      if (origin !== undefined) span.setAttributes(serverOf(origin))
      if (call.made > 0) span.setAttribute(attribute.attempts, call.made)
      // Without a message: an error's text may quote the prompt.
      if (attribute.errorType in attributes) span.setStatus({ code: SpanStatusCode.ERROR })
    } finally {
      endSpan(span, timeOf(call))
    }
  }

  /** The loser of a hedge, or an attempt cut off with its call: nobody tells us of its end any more. */
  function endAttempts(attempts: Attempts): void {
    for (const span of attempts.open.values()) endSpan(span, timeOf(attempts))
    attempts.open.clear()
  }

  function callOf(callId: string, tally: CallTally | undefined): OpenCall | undefined {
    return tally === undefined ? newest.get(callId) : open.get(tally.root)
  }

  function parentOf(told: unknown): Context {
    const active = context.active()
    if (told === undefined) return active
    try {
      const { parent } = told as { parent?: unknown }
      if (parent === undefined) return active
      if (typeof parent !== 'object' || parent === null) throw new TypeError('no headers')
      const extracted = propagation.extract(ROOT_CONTEXT, parent, headerGetter)
      // Headers without a trace: who is active here is the parent, as where none were told.
      return trace.getSpanContext(extracted) === undefined ? active : extracted
    } catch {
      onFailure() // what cannot be used is left out
      return active
    }
  }

  return {
    start({ callId, call, request, options, stream, startedAt }) {
      const model = modelOf(request)
      const told: unknown = options.telemetry
      const clockMs = Date.now() - performance.now()
      const span = tracer.startSpan(
        model === undefined ? 'chat' : `chat ${model}`,
        { kind: SpanKind.CLIENT, startTime: clockMs + startedAt },
        parentOf(told)
      )
      if (!isTraced(span)) return
      const captured = span.isRecording() ? capture?.start(request) : undefined
      const started: OpenCall = { callId, span, captured, made: 0, origin: undefined, open: new Map(), clockMs }
      open.set(call, started)
      newest.set(callId, started)
      for (const [oldest, forgotten] of open) {
        if (open.size <= maxOpen) break
        open.delete(oldest)
        dropped++
        endCall(forgotten, dropping)
      }
      if (!span.isRecording()) return
      if (told !== undefined) span.setAttributes(attributesOf(told, onFailure))
      span.setAttributes(requestAttributes(request, stream))
    },
    content({ call, chunks }) {
      open.get(call)?.captured?.add(chunks)
    },
    end(message) {
      const call = open.get(message.call)
      if (call === undefined) return
      open.delete(message.call)
      endCall(call, () => ({ ...endAttributes(message), ...call.captured?.attributes(message.finish) }))
    },

    startAttempt({ callId, call: tally, attempt, method, origin }) {
      const call = callOf(callId, tally)
      let attempts = call ?? loose.get(callId)
      if (attempts !== undefined && (attempts.open.has(attempt) || attempts.open.size >= maxOpenAttempts)) return
      // The parent is the call by its id: a generator has lost the ambient context by the time it asks for a socket.
      const parent = call === undefined ? context.active() : trace.setSpan(context.active(), call.span)
      const startedAt = performance.now()
      const clockMs = attempts?.clockMs ?? Date.now() - startedAt
      const span = tracer.startSpan(method, { kind: SpanKind.CLIENT, startTime: clockMs + startedAt }, parent)
      if (!isTraced(span)) return
      if (attempts === undefined) {
        attempts = { made: 0, origin, open: new Map(), clockMs }
        loose.set(callId, attempts)
        for (const [oldest, forgotten] of loose) {
          if (loose.size <= maxOpen) break
          loose.delete(oldest)
          dropped++
          endAttempts(forgotten)
        }
      }
      attempts.made++
      attempts.origin = origin
      attempts.open.set(attempt, span)
      if (!span.isRecording()) return
      span.setAttributes({ [attribute.httpMethod]: method, ...serverOf(origin) })
      if (attempt > 1) span.setAttribute(attribute.httpResendCount, attempt - 1)
    },

    endAttempt({ callId, call: tally, attempt, status, error, aborted }) {
      // One that began before its call was known is still among the loose ones.
      const attempts = [callOf(callId, tally), loose.get(callId)].find((some) => some?.open.has(attempt))
      const span = attempts?.open.get(attempt)
      if (attempts === undefined || span === undefined) return
      attempts.open.delete(attempt)
      if (attempts.open.size === 0 && loose.get(callId) === attempts) loose.delete(callId)
      try {
        if (!span.isRecording()) return
        const refused = status !== undefined && status >= 400
        if (status !== undefined) span.setAttribute(attribute.httpStatus, status)
        // Ended by us: by the caller, or a faster hedge. Nothing is wrong with the provider.
        if (aborted === true) span.setAttribute(attribute.outcome, 'aborted')
        else if (error !== undefined) span.setAttributes(errorAttributes(error))
        else if (refused) span.setAttribute(attribute.errorType, String(status))
        if (aborted !== true && (error !== undefined || refused)) span.setStatus({ code: SpanStatusCode.ERROR })
      } finally {
        endSpan(span, timeOf(attempts))
      }
    },

    span(callId, attempt) {
      for (const attempts of [newest.get(callId), loose.get(callId)]) {
        const span = attempt === undefined ? Array.from(attempts?.open.values() ?? []).at(-1) : attempts?.open.get(attempt)
        if (span !== undefined) return span
      }
      return newest.get(callId)?.span
    },

    get size() {
      return open.size + loose.size
    },
    get dropped() {
      return dropped
    },

    close() {
      const calls = Array.from(open.values())
      const attempts = Array.from(loose.values())
      open.clear()
      loose.clear()
      for (const call of calls) endCall(call, dropping)
      for (const some of attempts) endAttempts(some)
    }
  }
}

const dropping = (): Attributes => ({ [attribute.outcome]: 'dropped' })

/** Sampled, or to be handed on to the provider as not sampled. Without an SDK a span is neither. */
function isTraced(span: Span): boolean {
  return span.isRecording() || isSpanContextValid(span.spanContext())
}

function timeOf({ clockMs }: Attempts): number {
  return clockMs + performance.now()
}

function attributesOf(told: unknown, onFailure: () => void): Attributes {
  if (typeof told === 'object' && told !== null) {
    return callerAttributes((told as { attributes?: unknown }).attributes, onFailure)
  }
  onFailure()
  return {}
}

/** `Headers` of any make, or a plain record in any case, as frameworks have it. */
const headerGetter = {
  keys: (headers: object): string[] => Object.keys(headers),
  get(headers: object, name: string): string | undefined {
    const { get } = headers as { get?: unknown }
    const value: unknown =
      typeof get === 'function'
        ? get.call(headers, name)
        : Object.entries(headers).find(([key]) => key.toLowerCase() === name.toLowerCase())?.[1]
    const first: unknown = Array.isArray(value) ? value[0] : value
    return typeof first === 'string' ? first : undefined
  }
}
