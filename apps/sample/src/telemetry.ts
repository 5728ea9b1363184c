import { type NodeTelemetry, startTelemetry } from '@millrace/telemetry/node'

/** Metrics are always there to be scraped; they are pushed as well where the environment asks for that. */
export function startExport(env: Readonly<Record<string, string | undefined>>): Promise<NodeTelemetry> {
  const hasCollector = Boolean(env.OTEL_EXPORTER_OTLP_ENDPOINT || env.OTEL_EXPORTER_OTLP_METRICS_ENDPOINT)
  const names = env.OTEL_METRICS_EXPORTER || (hasCollector ? 'otlp' : '')
  const asked = new Set(names.split(',').map((name) => name.trim()))
  const pushed = (['otlp', 'console'] as const).filter((name) => asked.has(name))
  return startTelemetry({ serviceName: env.OTEL_SERVICE_NAME || 'millrace-gateway', metrics: ['prometheus', ...pushed] })
}
