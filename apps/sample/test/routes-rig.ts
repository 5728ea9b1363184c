import type { AddressInfo } from 'node:net'
import { type ServerType, serve } from '@hono/node-server'
import { createAdapter } from '@millrace/adapter'
import { openai } from '@millrace/adapter/openai'
import { createCache } from '@millrace/cache'
import { createLimiter, type LimiterOptions } from '@millrace/limits'
import { openaiError } from '@millrace/streaming'
import { createTransport, type Transport, type TransportOptions } from '@millrace/transport'
import { Hono } from 'hono'
import { anthropicError } from '../src/anthropic-error.ts'
import type { Config, ProviderConfig } from '../src/config.ts'
import type { GatewayEnv, Parts } from '../src/context.ts'
import { maxEventBytes } from '../src/whole-events.ts'
import { partsOf } from './parts.ts'

export interface RoutesOptions {
  /** The address of the provider of each API, and of further ones; `false` for none. */
  readonly openai?: string | false
  readonly anthropic?: string | false
  readonly model?: ProviderConfig['model']
  readonly config?: Partial<Config>
  readonly limits?: LimiterOptions
  readonly transport?: TransportOptions
  /** @default 'on' */
  readonly cache?: 'on' | 'off'
  readonly isClosing?: () => boolean
}

export interface Routes extends AsyncDisposable {
  readonly url: string
  readonly parts: Parts
  readonly transport: Transport
  /** What requests told of themselves, by path. */
  readonly told: Map<string, Record<string, unknown>>
}

const key = 'upstream-key'

/** Routes of the gateway behind a real server, without its guards. `x-tenant` names the tenant. */
export async function startRoutes(routes: (parts: Parts) => Hono<GatewayEnv>, options: RoutesOptions = {}): Promise<Routes> {
  const limiter = createLimiter(options.limits)
  const transport = createTransport({
    limits: limiter.send,
    retry: { baseMs: 1 },
    maxEventChars: maxEventBytes,
    ...options.transport
  })
  const cache = options.cache === 'off' ? undefined : createCache({ scope: 'test' })
  const common = { apiKey: key, model: options.model, weight: undefined, allowInsecure: true }
  const providers: ProviderConfig[] = []
  if (typeof options.openai === 'string')
    providers.push({ ...common, name: 'own openai', api: 'openai', baseURL: options.openai })
  if (typeof options.anthropic === 'string') {
    providers.push({ ...common, name: 'own anthropic', api: 'anthropic', baseURL: options.anthropic })
  }
  const baseURL = options.openai || 'http://127.0.0.1:9/v1'
  const adapter = createAdapter({
    provider: openai({ apiKey: key, baseURL }),
    transport,
    limits: limiter,
    cache
  })
  const parts: Parts = {
    ...partsOf({ adapter, transport, upstream: { apiKey: key, baseURL }, config: options.config ?? {} }),
    cache,
    limiter,
    providers,
    doors: {
      openai: providers.find(({ api }) => api === 'openai'),
      anthropic: providers.find(({ api }) => api === 'anthropic')
    },
    isClosing: options.isClosing ?? (() => false)
  }
  const told: Routes['told'] = new Map()
  const app = new Hono<GatewayEnv>()
  let requests = 0
  app.use('*', async (context, next) => {
    const id = `req_${++requests}`
    const facts: Record<string, unknown> = {}
    told.set(context.req.path, facts)
    context.set('requestId', id)
    context.set('arrivedAt', performance.now())
    context.set('caller', { tenant: context.req.header('x-tenant'), isOperator: true, countedAs: 'test' })
    context.set('record', { tell: (more) => void Object.assign(facts, more), end() {} })
    await next()
    context.header('x-request-id', id)
  })
  app.route('/', routes(parts))
  app.onError((error, context) => {
    const { status, headers, body } = context.req.path.startsWith('/v1/messages') ? anthropicError(error) : openaiError(error)
    return context.json(body as object, status as 500, headers)
  })
  const server = await listen(app)
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`,
    parts,
    transport,
    told,
    async [Symbol.asyncDispose]() {
      if ('closeAllConnections' in server) server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
      for (const one of [adapter, cache, transport, limiter, parts.limiter]) await one?.[Symbol.asyncDispose]()
    }
  }
}

function listen(app: Hono<GatewayEnv>): Promise<ServerType> {
  return new Promise((resolve, reject) => {
    const server = serve({ fetch: app.fetch, hostname: '127.0.0.1', port: 0 }, () => resolve(server))
    server.once('error', reject)
  })
}
