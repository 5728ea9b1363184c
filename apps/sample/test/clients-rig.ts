import type { Config } from '../src/config.ts'
import { type Service, startService } from '../src/service.ts'

/** A whole configuration, with what the test says of it. */
function configOf(changes: Partial<Config> = {}): Config {
  return {
    host: '127.0.0.1',
    port: 0,
    operatorToken: undefined,
    tenants: [],
    providers: [],
    fallback: undefined,
    model: 'scripted-large',
    limits: [],
    budgets: [],
    prices: {},
    processes: 1,
    cache: { ttlMs: 300_000, staleWhileRevalidateMs: 0, staleIfErrorMs: 0, maxBytes: 64 * 2 ** 20, maxEntryBytes: 2 ** 20 },
    contextWindow: undefined,
    redisURL: undefined,
    origins: [],
    hosts: [],
    imageURLs: 'public',
    maxBodyBytes: 2 ** 20,
    maxMessages: 500,
    maxRequests: 1000,
    maxRequestsPerClient: 1000,
    streamMs: 900_000,
    stallMs: 60_000,
    graceMs: 2000,
    faults: false,
    ...changes
  }
}

/** A gateway in this process, before one server that speaks both APIs. `url` ends in `/v1`, as the scripted provider's does. */
export function startBefore(url: string, apiKey: string, changes: Partial<Config> = {}): Promise<Service> {
  const common = { apiKey, model: undefined, weight: undefined, allowInsecure: true }
  const providers: Config['providers'] = [
    { ...common, name: 'openai', api: 'openai', baseURL: url },
    { ...common, name: 'anthropic', api: 'anthropic', baseURL: url.replace(/\/v1$/, '') }
  ]
  return startService(configOf({ providers, ...changes }), {})
}
