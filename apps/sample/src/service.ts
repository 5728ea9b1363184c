import { type Adapter, createAdapter } from '@millrace/adapter'
import { anthropic } from '@millrace/adapter/anthropic'
import { openai } from '@millrace/adapter/openai'
import { createCache } from '@millrace/cache'
import { createLimiter } from '@millrace/limits'
import { createStreams } from '@millrace/streaming'
import { type SpawnedProvider, spawnScriptedProvider } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import { createAdmission } from './admission.ts'
import { openBackends } from './backends.ts'
import { localBatches, queuedBatches } from './batches.ts'
import { type Config, embeddedKey, type ProviderConfig } from './config.ts'
import type { Doors } from './context.ts'
import { createFaults } from './faults.ts'
import { type Gateway, startGateway } from './gateway.ts'
import { createPrice } from './price.ts'
import { startProcessMetrics } from './process-metrics.ts'
import { createRecorder } from './recorder.ts'
import { createStreamIds } from './stream-ids.ts'
import { startExport } from './telemetry.ts'
import { maxEventBytes } from './whole-events.ts'

export interface Service extends AsyncDisposable {
  readonly url: string
  /** The providers' addresses without their keys: whoever logs a service shows no secret. */
  readonly upstreams: readonly { readonly name: string; readonly baseURL: string }[]
  readonly adapter: Adapter
  /** Whether Redis is there, for the line at the start. */
  readonly redis: 'reached' | 'not reached yet' | 'off'
  close(options?: { readonly graceMs?: number }): Promise<void>
}

/** Everything the gateway is made of, from the provider to the port, and its end in the right order. */
export async function startService(config: Config, env: Readonly<Record<string, string | undefined>>): Promise<Service> {
  const opened: AsyncDisposable[] = []
  function open<T extends AsyncDisposable>(resource: T): T {
    opened.push(resource)
    return resource
  }
  try {
    // First, so that nothing is missed, and closed last, so that the last spans still leave.
    const telemetry = open(await startExport(env))
    const embedded = config.providers.length === 0 ? open(await embed()) : undefined
    const providers = embedded === undefined ? config.providers : embeddedProviders(embedded)
    const backends = config.redisURL === undefined ? undefined : await openBackends(config.redisURL, config.faults, opened)
    const price = createPrice(config.model, { providers, prices: config.prices })
    const limiter = open(
      createLimiter({
        // Without numbers it learns them from what the provider tells.
        limits: config.limits.length === 0 && config.budgets.length === 0 ? [{}] : config.limits,
        budgets: config.budgets,
        price,
        ...(backends && { store: backends.limits, processes: config.processes })
      })
    )
    // Each request under way may be a stream that holds a connection: with fewer of them those that came in would wait for others to end.
    const transport = open(
      createTransport({
        maxConnections: config.maxRequests,
        // What is passed on may bring an image in one event; the adapter reads none beyond 1 Mi.
        maxEventChars: maxEventBytes,
        limits: limiter.send,
        traceHeaders: telemetry.traceHeaders
      })
    )
    const cache =
      config.cache &&
      open(createCache({ ...config.cache, ...(backends && { store: backends.redis, log: backends.cacheLog }), scope }))
    const adapter = open(
      createAdapter({
        provider: candidatesOf(embedded === undefined ? providers : providers.slice(0, 1)),
        fallback: config.fallback,
        transport,
        limits: limiter,
        cache,
        tokens: config.contextWindow === undefined ? undefined : { contextWindow: config.contextWindow },
        price
      })
    )
    const streams = open(
      createStreams({
        log: backends?.streamLog,
        maxStreams: config.maxRequests,
        maxBytes: 2 * mebibyte,
        maxAheadBytes: mebibyte / 4
      })
    )
    const itemMs = config.streamMs
    const { maxBodyBytes } = config
    const batches = open(
      backends === undefined
        ? localBatches({ adapter, itemMs })
        : await queuedBatches({ adapter, itemMs, maxBodyBytes, url: backends.url })
    )
    const recorder = createRecorder()
    const admission = createAdmission({ maxRequests: config.maxRequests, maxRequestsPerClient: config.maxRequestsPerClient })
    opened.push({ [Symbol.asyncDispose]: async () => recorder[Symbol.dispose]() })
    open(startProcessMetrics({ admission, redis: backends?.redis }))
    const gateway: Gateway = await startGateway({
      config,
      adapter,
      transport,
      cache,
      limiter,
      streams,
      batches,
      streamIds: createStreamIds(secretsOf(config)),
      telemetry,
      redis: backends?.redis,
      doors: doorsOf(providers),
      providers,
      recorder,
      admission,
      faults: createFaults(config.faults ? { provider: embedded, redis: backends?.proxy } : {})
    })
    let closing: Promise<void> | undefined
    async function close(graceMs: number | undefined): Promise<void> {
      await gateway.close(graceMs === undefined ? {} : { graceMs })
      await closeAll(opened)
    }
    const service: Service = {
      url: gateway.url,
      upstreams: providers.map(({ name, baseURL }) => ({ name, baseURL: shown(baseURL) })),
      adapter,
      redis: backends === undefined ? 'off' : backends.redis.ready ? 'reached' : 'not reached yet',
      close({ graceMs } = {}) {
        closing ??= close(graceMs)
        return closing
      },
      [Symbol.asyncDispose]: () => service.close()
    }
    return service
  } catch (error) {
    await closeAll(opened)
    throw error
  }
}

const mebibyte = 1024 * 1024

/** Answers are shared by those whose tenant is the same: it is part of the key. */
const scope = 'millrace-gateway'

function candidatesOf(providers: readonly ProviderConfig[]): Parameters<typeof createAdapter>[0]['provider'] {
  const all = providers.map(({ name, api, baseURL, apiKey, model, weight, allowInsecure }) => ({
    provider: (api === 'openai' ? openai : anthropic)({ name, baseURL, apiKey, allowInsecure }),
    name,
    model,
    weight
  }))
  const [only, ...others] = all
  // A list is for falling back: one provider needs none, unless it calls the model by another name.
  return only !== undefined && others.length === 0 && only.model === undefined ? only.provider : all
}

/** Without its query, where some put a key. */
function shown(baseURL: string): string {
  const { origin, pathname } = new URL(baseURL)
  return origin + pathname
}

function doorsOf(providers: readonly ProviderConfig[]): Doors {
  return {
    openai: providers.find(({ api }) => api === 'openai'),
    anthropic: providers.find(({ api }) => api === 'anthropic')
  }
}

/** What replicas have in common, and nobody else knows. */
function secretsOf({ operatorToken, tenants }: Config): readonly string[] {
  return [operatorToken ?? '', ...tenants.flatMap(({ tokens }) => tokens)].toSorted()
}

/** The embedded provider: a real server in its own process, at a human pace, that refuses what is above its rate limit. */
function embed(): Promise<SpawnedProvider> {
  return spawnScriptedProvider({ tokensPerSecond: 120, firstTokenMs: 200, rateLimit: { requests: 20, perMs: 1000 } })
}

/** It speaks both languages; the adapter uses the first. */
function embeddedProviders({ url }: SpawnedProvider): readonly ProviderConfig[] {
  const common = { apiKey: embeddedKey, model: undefined, weight: undefined, allowInsecure: false }
  return [
    { ...common, name: 'embedded', api: 'openai', baseURL: url },
    { ...common, name: 'embedded-messages', api: 'anthropic', baseURL: url }
  ]
}

async function closeAll(opened: AsyncDisposable[]): Promise<void> {
  for (const resource of opened.splice(0).toReversed()) await resource[Symbol.asyncDispose]()
}
