/** Starts the OpenTelemetry SDK when the environment says where to export to; its import alone takes 200 ms. */
export async function startExport(env: Readonly<Record<string, string | undefined>>): Promise<AsyncDisposable> {
  const wanted = [
    'OTEL_EXPORTER_OTLP_ENDPOINT',
    'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT',
    'OTEL_TRACES_EXPORTER',
    'OTEL_METRICS_EXPORTER'
  ]
  if (!wanted.some((name) => env[name])) return { async [Symbol.asyncDispose]() {} }
  // A collector that is gone is tried for ten seconds by default, and the exit would wait as long.
  process.env.OTEL_EXPORTER_OTLP_TIMEOUT ??= '2000'
  process.env.OTEL_SERVICE_NAME ??= 'millrace-gateway'
  const { NodeSDK } = await import('@opentelemetry/sdk-node')
  const sdk = new NodeSDK()
  sdk.start()
  return {
    async [Symbol.asyncDispose]() {
      // A collector that is gone must not hold the exit up.
      const impatient = Promise.withResolvers<void>()
      const timer = setTimeout(impatient.resolve, 2000)
      await Promise.race([sdk.shutdown(), impatient.promise]).catch(reportLoss)
      clearTimeout(timer)
    }
  }
}

function reportLoss(error: unknown): void {
  console.error(`telemetry: the last spans could not be exported (${error instanceof Error ? error.name : 'unknown error'})`)
}
