import { setTimeout as pause } from 'node:timers/promises'
import { abortable } from '@millrace/core'
import type { Load } from './node-sdk.ts'
import type { Settings, Signal } from './settings.ts'
import type { SpanExporterLike } from './span-queue.ts'

/** What carries the bytes of an exporter of the SDK. */
interface Transport {
  send(data: Uint8Array, timeoutMs: number): Promise<Answer>
  shutdown(): void
}

interface Answer {
  readonly status: 'success' | 'failure' | 'retryable'
  readonly error?: unknown
  /** What `Retry-After` asked for. */
  readonly retryInMillis?: number | undefined
}

/** As many as the SDK makes. */
const maxAttempts = 6

interface OtlpOptions {
  readonly protocol: Settings['protocol']
  /** Aborted when the last exports are made: a failed one is not tried again. */
  readonly closing: AbortSignal
  /** Aborted when nobody waits any longer. */
  readonly aborted: AbortSignal
  /** Told of every export that failed, in words without a header, a body or a URL. */
  readonly onFailure: (text: string) => void
}

export interface Otlp {
  traces(): SpanExporterLike
  metrics(): object
}

/** The OTLP exporters of the SDK, which read their address, headers, certificates and timeout from the environment. */
export function createOtlp(load: Load, { protocol, closing, aborted, onFailure }: OtlpOptions): Otlp {
  function patient<Exporter extends object>(signal: Signal, exporter: Exporter): Exporter {
    // The retries of the SDK sleep on timers that nobody can clear: for up to 5 s after its shutdown the process would live
    // on. So its transport is taken out of them. An SDK whose parts have other names keeps its own retries.
    const { _delegate: delegate = {} } = exporter as { _delegate?: { _transport?: { _transport?: Transport } } }
    const { _transport: theirs = {} } = delegate
    const { _transport: transport } = theirs
    if (transport !== undefined) Object.assign(delegate, { _transport: retrying(transport, signal) })
    return exporter
  }

  function retrying(transport: Transport, signal: Signal): Transport {
    let underWay = 0

    function shutdown(): void {
      transport.shutdown()
      const { _utils: made } = transport as { _utils?: { readonly agent?: { destroy?(): void } } | null }
      made?.agent?.destroy?.()
    }

    async function attempt(data: Uint8Array, timeoutMs: number): Promise<Answer> {
      try {
        aborted.throwIfAborted()
        return await abortable(transport.send(data, timeoutMs), aborted)
      } catch (error) {
        return { status: 'failure', error }
      }
    }

    async function deliver(data: Uint8Array, timeoutMs: number): Promise<Answer> {
      const deadline = performance.now() + timeoutMs
      for (let attempts = 1; ; attempts++) {
        const answer = await attempt(data, Math.max(1, deadline - performance.now()))
        if (answer.status === 'success') return answer
        const waitMs = Math.max(0, answer.retryInMillis ?? 1000 * 1.5 ** (attempts - 1) * (0.8 + Math.random() * 0.4))
        const last = closing.aborted || attempts === maxAttempts || performance.now() + waitMs >= deadline
        if (answer.status === 'failure' || last) {
          const reason = `${signal} could not be exported (${reasonOf(answer)})`
          if (!aborted.aborted) onFailure(reason)
          // Not the exporter's own error: it carries what the collector answered, and the SDK may log it.
          return { status: 'failure', error: new Error(reason) }
        }
        // Closing ends the pause; the last attempt follows.
        await pause(waitMs, undefined, { signal: closing, ref: false }).catch(() => {})
      }
    }

    aborted.addEventListener('abort', () => {
      if (underWay > 0) onFailure(`${signal} could not be exported (no answer before close)`)
      shutdown()
    })
    return {
      async send(data, timeoutMs) {
        underWay++
        try {
          return await deliver(data, timeoutMs)
        } finally {
          underWay--
        }
      },
      shutdown
    }
  }

  return {
    traces() {
      const { OTLPTraceExporter } = load(`@opentelemetry/exporter-trace-otlp-${protocol('traces')}`)
      return patient('traces', new OTLPTraceExporter())
    },
    metrics() {
      const { OTLPMetricExporter } = load(`@opentelemetry/exporter-metrics-otlp-${protocol('metrics')}`)
      return patient('metrics', new OTLPMetricExporter())
    }
  }
}

/** A code or a status; the message may hold a URL with its credentials, or what the collector answered. */
function reasonOf({ status, error }: Answer): string {
  const { code, message } = (error ?? {}) as { readonly code?: unknown; readonly message?: unknown }
  if (typeof code === 'number') return `HTTP ${code}`
  if (typeof code === 'string' && /^[A-Z][A-Z0-9_]{1,40}$/.test(code)) return code
  if (message === 'Request timed out') return 'timed out'
  return status === 'retryable' ? 'HTTP 429, 502, 503 or 504' : 'error'
}
