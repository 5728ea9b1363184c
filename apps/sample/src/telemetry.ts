import { type NodeTelemetry, startTelemetry } from '@millrace/telemetry/node'

/** Metrics are always there to be scraped; they are pushed as well where the environment asks for that. */
export function startExport(env: Readonly<Record<string, string | undefined>>): Promise<NodeTelemetry> {
  const hasCollector = Boolean(env.OTEL_EXPORTER_OTLP_ENDPOINT || env.OTEL_EXPORTER_OTLP_METRICS_ENDPOINT)
  const asked = (env.OTEL_METRICS_EXPORTER || (hasCollector ? 'otlp' : '')).split(',').map((name) => name.trim())
  const pushed = (['otlp', 'console'] as const).filter((name) => asked.includes(name))
  return startTelemetry({ serviceName: env.OTEL_SERVICE_NAME || 'millrace-gateway', metrics: ['prometheus', ...pushed] })
}
