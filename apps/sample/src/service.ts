import { type Adapter, createAdapter } from '@millrace/adapter'
import { openai } from '@millrace/adapter/openai'
import { spawnScriptedProvider } from '@millrace/testkit'
import { createTransport } from '@millrace/transport'
import { type Config, embeddedKey, type Upstream } from './config.ts'
import { type Gateway, startGateway } from './gateway.ts'
import { createPrice } from './price.ts'
import { startExport } from './telemetry.ts'

export interface Service extends AsyncDisposable {
  readonly url: string
  /** The provider's address without its key: whoever logs a service shows no secret. */
  readonly upstream: Pick<Upstream, 'baseURL'>
  readonly adapter: Adapter
  close(options?: { readonly graceMs?: number }): Promise<void>
}

/** Everything the gateway is made of, from the provider to the port, and its end in the right order. */
export async function startService(config: Config, env: Readonly<Record<string, string | undefined>>): Promise<Service> {
  const opened: AsyncDisposable[] = []
  try {
    // First, so that nothing is missed, and closed last, so that the last spans still leave.
    const telemetry = await startExport(env)
    opened.push(telemetry)
    const upstream = config.upstream ?? (await embed(opened))
    const transport = createTransport({ traceHeaders: telemetry.traceHeaders })
    opened.push(transport)
    const adapter = createAdapter({
      provider: openai(upstream),
      transport,
      cache: { ttlMs: config.cacheTtlMs },
      tokens: config.contextWindow === undefined ? undefined : { contextWindow: config.contextWindow },
      price: createPrice(config.model)
    })
    opened.push(adapter)
    const { host, port, token, model } = config
    const { prometheus } = telemetry
    const gateway: Gateway = await startGateway({ adapter, transport, upstream, host, port, token, model, prometheus })
    let closing: Promise<void> | undefined
    async function close(graceMs: number | undefined): Promise<void> {
      await gateway.close(graceMs === undefined ? {} : { graceMs })
      await closeAll(opened)
    }
    const service: Service = {
      url: gateway.url,
      upstream: { baseURL: upstream.baseURL },
      adapter,
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

/** The embedded provider: a real server in its own process, at a human pace, that refuses what is above its rate limit. */
async function embed(opened: AsyncDisposable[]): Promise<Upstream> {
  const provider = await spawnScriptedProvider({
    tokensPerSecond: 120,
    firstTokenMs: 200,
    rateLimit: { requests: 20, perMs: 1000 }
  })
  opened.push(provider)
  return { apiKey: embeddedKey, baseURL: provider.url }
}

async function closeAll(opened: AsyncDisposable[]): Promise<void> {
  for (const resource of opened.splice(0).toReversed()) await resource[Symbol.asyncDispose]()
}
