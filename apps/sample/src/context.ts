import type { Adapter } from '@millrace/adapter'
import type { Cache } from '@millrace/cache'
import type { RedisStore } from '@millrace/cache/redis'
import type { Limiter } from '@millrace/limits'
import type { Streams } from '@millrace/streaming'
import type { NodeTelemetry } from '@millrace/telemetry/node'
import type { Transport } from '@millrace/transport'
import type { Admission } from './admission.ts'
import type { Batches } from './batches.ts'
import type { Config, ProviderConfig } from './config.ts'
import type { Faults } from './faults.ts'
import type { OpenRecord, Recorder } from './recorder.ts'
import type { StreamIds } from './stream-ids.ts'

/** Who calls. */
export interface Caller {
  /** Of a tenant's token; undefined for the operator, and for everybody where no token is asked for. */
  readonly tenant: string | undefined
  /** May see and change what concerns all: statistics, faults. */
  readonly isOperator: boolean
  /** What its requests are counted under: the tenant, or the remote address. */
  readonly countedAs: string
}

/** What the gateway knows of a request, for all its routes. */
export interface GatewayEnv {
  Variables: {
    readonly caller: Caller
    /** Also the `callId` of its call, and the response header `x-request-id`. */
    readonly requestId: string
    /** `performance.now()`. */
    readonly arrivedAt: number
    readonly record: OpenRecord
  }
}

/** The provider that a `fetch` door leads to. */
export interface Doors {
  readonly openai: ProviderConfig | undefined
  readonly anthropic: ProviderConfig | undefined
}

/** Everything routes are made of. */
export interface Parts {
  readonly config: Config
  readonly adapter: Adapter
  readonly transport: Transport
  /** Undefined where the configuration turns it off. */
  readonly cache: Cache | undefined
  readonly limiter: Limiter
  readonly streams: Streams
  readonly streamIds: StreamIds
  readonly telemetry: Pick<NodeTelemetry, 'prometheus'>
  /** Undefined without `REDIS_URL`. */
  readonly redis: RedisStore | undefined
  readonly doors: Doors
  /** Every provider, the embedded one too. */
  readonly providers: readonly ProviderConfig[]
  readonly recorder: Recorder
  readonly faults: Faults
  readonly batches: Batches
  /** Requests under way. */
  readonly admission: Admission
  /** From the beginning of the end on: nothing new begins, what runs may finish. */
  readonly isClosing: () => boolean
}
