import type { Adapter } from '@millrace/adapter'
import { createLimiter } from '@millrace/limits'
import { createStreams } from '@millrace/streaming'
import type { Transport } from '@millrace/transport'
import { createAdmission } from '../src/admission.ts'
import { localBatches } from '../src/batches.ts'
import { type Config, readConfig } from '../src/config.ts'
import type { Parts } from '../src/context.ts'
import { createFaults } from '../src/faults.ts'
import { createRecorder } from '../src/recorder.ts'
import { createStreamIds } from '../src/stream-ids.ts'

export interface TestParts {
  readonly adapter: Adapter
  readonly transport: Transport
  readonly upstream: { readonly apiKey: string; readonly baseURL: string }
  readonly config?: Partial<Config> | undefined
  readonly telemetry?: Parts['telemetry'] | undefined
  readonly cache?: Parts['cache']
}

/** The parts of a gateway around an adapter of the test's own; what it does not name is as the configuration has it. */
export function partsOf({ adapter, transport, upstream, config: more, telemetry, cache }: TestParts): Omit<Parts, 'isClosing'> {
  const env = { PORT: '0', OPENAI_API_KEY: upstream.apiKey, OPENAI_BASE_URL: upstream.baseURL, OPENAI_MODEL: 'scripted-large' }
  const config: Config = { ...readConfig(env), ...more }
  return {
    config,
    adapter,
    transport,
    cache,
    limiter: createLimiter(),
    streams: createStreams(),
    batches: localBatches({ adapter, itemMs: config.streamMs }),
    streamIds: createStreamIds([]),
    telemetry: telemetry ?? { prometheus: async () => ({ contentType: 'text/plain', body: '' }) },
    redis: undefined,
    doors: { openai: config.providers[0], anthropic: undefined },
    providers: config.providers,
    recorder: createRecorder(),
    faults: createFaults({}),
    admission: createAdmission({ maxRequests: config.maxRequests, maxRequestsPerClient: config.maxRequestsPerClient })
  }
}
