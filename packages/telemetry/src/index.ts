export type { OriginStats, PoolStats } from './pool.ts'
export {
  createTelemetry,
  type Telemetry,
  type TelemetryOptions,
  type TelemetrySource,
  type TelemetryStats
} from './telemetry.ts'
