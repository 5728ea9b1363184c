import { setTimeout as pause } from 'node:timers/promises'
import { clampTimer, onAbort } from '@millrace/core'
import type { Load } from './node-sdk.ts'
import type { Settings, Signal } from './settings.ts'
import type { ExportResult, SpanExporterLike } from './span-queue.ts'

/** What carries the bytes of an exporter of the SDK. */
interface Transport {
  send(data: Uint8Array, timeoutMs: number): Promise<Answer>
  shutdown(): void
  readonly _parameters?: { readonly url?: string }
  readonly _utils?: { readonly agent?: { destroy?(): void } } | null
}

interface Answer {
  readonly status: 'success' | 'failure' | 'retryable'
  readonly error?: unknown
  /** In our own words. */
  readonly reason?: string
  /** What `Retry-After` asked for; 0 and less is none. */
  readonly retryInMillis?: number | undefined
}

/** What is taken out of an exporter of the SDK, and put in. */
interface Exporter {
  export(items: object[], done: (result: ExportResult) => void): void
  readonly _delegate?: {
    readonly _transport?: { readonly _transport?: Transport }
    readonly _responseHandler?: object
  }
}

/** As many as the SDK makes. */
const maxAttempts = 6

/** A batch has 256 KiB of text at most: one at a time would be slow to a collector that is far away. */
const exportsAtATime = 4

interface OtlpOptions {
  readonly protocol: Settings['protocol']
  /** How long an export may take at most, with all its attempts; OTEL_EXPORTER_OTLP_TIMEOUT may allow it less. */
  readonly limitMs: Readonly<Record<Signal, number>>
  /** Aborted when the last exports are made: a failed one is not tried again. */
  readonly closing: AbortSignal
  /** Aborted when nobody waits any longer. */
  readonly aborted: AbortSignal
  /** Told of every export that failed, in words without a header, a body, a path or a credential. */
  readonly report: (text: string) => void
}

export interface Otlp {
  /** As many as exports of spans may be under way: each has a connection of its own, so that giving one up breaks off no other. */
  traces(): readonly SpanExporterLike[]
  metrics(): object
}

/** An error whose message is told. */
class ExportFailure extends Error {
  override readonly name = 'ExportFailure'
}

/** The OTLP exporters of the SDK, which read their address, headers, certificates and timeout from the environment. */
export function createOtlp(load: Load, { protocol, limitMs, closing, aborted, report }: OtlpOptions): Otlp {
  function watched<Kind extends object>(signal: Signal, made: Kind): Kind {
    const exporter = made as Kind & Exporter
    const { _delegate: delegate = {} } = exporter
    // The retries of the SDK sleep on timers that nobody can clear: for up to 5 s after its shutdown the process would live
    // on. So its transport is taken out of them. An SDK whose parts have other names keeps its own retries.
    const { _transport: theirs = {}, _responseHandler: handler } = delegate
    const { _transport: transport } = theirs
    if (transport !== undefined) Object.assign(delegate, { _transport: retrying(transport, signal) })
    let rejected = 0
    // It is called just before the export is said to have succeeded.
    const handleResponse = (response: unknown): void => void (rejected = rejectedOf(response))
    if (handler !== undefined) Object.assign(delegate, { _responseHandler: { handleResponse } })
    const send = exporter.export.bind(exporter)
    exporter.export = (items, done) => {
      rejected = 0
      send(items, (result) => {
        if (result.code !== 0) report(failureOf(signal, result))
        else if (rejected > 0) report(`the collector rejected a part of the ${signal}`)
        done({ ...result, rejected })
      })
    }
    return exporter
  }

  function retrying(transport: Transport, signal: Signal): Transport {
    const { _parameters: parameters } = transport
    const { host, isDoubled } = addressOf(parameters?.url)

    /** Breaks off what is under way, whatever state it is in: the agent serves nothing else. */
    function hangUp(): void {
      // Made with the first request.
      const { _utils: made } = transport
      made?.agent?.destroy?.()
    }

    /** The SDK's own limit is of silence, and begins once connected: an answer that drips never reaches it. */
    async function attempt(data: Uint8Array, timeoutMs: number): Promise<Answer> {
      const { promise: givenUp, resolve } = Promise.withResolvers<Answer>()
      const giveUp = (reason: string): void => {
        resolve({ status: 'failure', reason })
        hangUp()
      }
      const timer = setTimeout(giveUp, timeoutMs, 'timed out').unref()
      const stop = onAbort(aborted, () => giveUp('no answer before close'))
      try {
        return await (aborted.aborted ? givenUp : Promise.race([givenUp, transport.send(data, timeoutMs)]))
      } catch (error) {
        return { status: 'failure', error }
      } finally {
        clearTimeout(timer)
        stop()
      }
    }

    return {
      async send(data, timeoutMs) {
        const deadline = performance.now() + clampTimer(Math.min(timeoutMs, limitMs[signal]))
        for (let attempts = 1; ; attempts++) {
          const answer = await attempt(data, Math.max(1, deadline - performance.now()))
          if (answer.status === 'success') return answer
          const { retryInMillis: asked = 0 } = answer
          const waitMs = asked > 0 ? asked : 1000 * 1.5 ** (attempts - 1) * (0.8 + Math.random() * 0.4)
          const last = closing.aborted || attempts === maxAttempts || performance.now() + waitMs >= deadline
          if (answer.status === 'failure' || last) {
            const reason = reasonOf(answer)
            const hint = reason === 'HTTP 404' && isDoubled ? `; the endpoint is the base address, without /v1/${signal}` : ''
            // Not the exporter's own error: it carries what the collector answered, and the SDK may log it.
            return {
              status: 'failure',
              error: new ExportFailure(`${signal} could not be exported to ${host} (${reason}${hint})`)
            }
          }
          // Closing ends the pause; the last attempt follows.
          await pause(waitMs, undefined, { signal: closing, ref: false }).catch(() => {})
        }
      },
      shutdown() {
        transport.shutdown()
        hangUp()
      }
    }
  }

  return {
    traces() {
      const { OTLPTraceExporter } = load(`@opentelemetry/exporter-trace-otlp-${protocol('traces')}`)
      return Array.from({ length: exportsAtATime }, () => watched('traces', new OTLPTraceExporter()))
    },
    metrics() {
      const { OTLPMetricExporter } = load(`@opentelemetry/exporter-metrics-otlp-${protocol('metrics')}`)
      return watched('metrics', new OTLPMetricExporter())
    }
  }
}

/** Host and port, and whether the path of a signal is in it twice. */
function addressOf(url = ''): { readonly host: string; readonly isDoubled: boolean } {
  const parsed = URL.parse(url)
  if (parsed === null) return { host: 'the collector', isDoubled: false }
  const { protocol, hostname, port, pathname } = parsed
  if (hostname === '') return { host: 'the collector', isDoubled: false }
  const host = `${hostname}:${port || (protocol === 'https:' ? 443 : 80)}`
  return { host, isDoubled: /\/v1\/(traces|metrics|logs)\/v1\//.test(pathname) }
}

function rejectedOf(response: unknown): number {
  const { partialSuccess } = (response ?? {}) as { readonly partialSuccess?: Readonly<Record<string, unknown>> | null }
  // 64 bits: JSON has them as a text.
  const count = Number(partialSuccess?.rejectedSpans ?? partialSuccess?.rejectedDataPoints)
  return Number.isSafeInteger(count) ? count : 0
}

function failureOf(signal: Signal, { error }: ExportResult): string {
  return error instanceof ExportFailure
    ? error.message
    : `${signal} could not be exported (${reasonOf({ status: 'failure', error })})`
}

/** A code or a status; the message may hold a URL with its credentials, or what the collector answered. */
function reasonOf({ status, error, reason }: Answer): string {
  if (reason !== undefined) return reason
  const { code, message } = (error ?? {}) as { readonly code?: unknown; readonly message?: unknown }
  if (typeof code === 'number') return `HTTP ${code}`
  if (typeof code === 'string' && /^[A-Z][A-Z0-9_]{1,40}$/.test(code)) return code
  if (message === 'Request timed out') return 'timed out'
  if (message === 'Concurrent export limit reached') return 'too many exports under way'
  return status === 'retryable' ? 'HTTP 429, 502, 503 or 504' : 'error'
}
