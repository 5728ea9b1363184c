// The states a process can be in: nobody listens, telemetry without an SDK, an SDK without a collector, an SDK with one.
import { start } from './programs.ts'

/** A port of loopback where nobody listens. */
const nobody = 'http://127.0.0.1:9'

/** Puts this process in a state; gives what throws once a span was lost that should not be. */
export async function observe(subject: string, state: string): Promise<() => void> {
  if (state === 'none' || state === 'none again') return () => {}
  if (state === 'no SDK') {
    const { createTelemetry } = await import('@millrace/telemetry')
    createTelemetry()
    return () => {}
  }
  if (state !== 'dead collector' && state !== 'full export') throw new TypeError(`${state} is no state`)
  process.env.OTEL_EXPORTER_OTLP_ENDPOINT = state === 'full export' ? await sink() : nobody
  process.env.OTEL_METRIC_EXPORT_INTERVAL = '1000'
  if (subject.startsWith('AI SDK')) {
    await aiTelemetry()
    return () => {}
  }
  const { startTelemetry } = await import('@millrace/telemetry/node')
  const { stats } = await startTelemetry({ metrics: ['otlp', 'prometheus'], onError: () => {} })
  let calls = 0
  return () => {
    if (state === 'full export' && ++calls % 500 === 0 && stats().spans.dropped > 0) throw new Error('spans were dropped')
  }
}

/** Where spans and metrics go; ends with this process. */
async function sink(): Promise<string> {
  const { hello } = await start('telemetry-sink-main.ts', [])
  return `http://127.0.0.1:${String(hello)}`
}

async function aiTelemetry(): Promise<void> {
  const { NodeSDK } = await import('@opentelemetry/sdk-node')
  const { registerTelemetry } = await import('ai')
  const { OpenTelemetry } = await import('@ai-sdk/otel')
  new NodeSDK({ logRecordProcessors: [] }).start()
  registerTelemetry(new OpenTelemetry())
}
