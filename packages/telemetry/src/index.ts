export type { TelemetryCallOptions } from './call-options.ts'
export type { ContentOptions } from './content.ts'
export type { ContentPlace, Redact } from './content-text.ts'
export { createTelemetry, type Telemetry, type TelemetryOptions, type TelemetryStats } from './telemetry.ts'
