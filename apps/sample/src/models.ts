import { isJsonObject, type Json, type JsonObject, MillraceError, parseJson } from '@millrace/core'
import { type Context, Hono } from 'hono'
import { anthropicError } from './anthropic-error.ts'
import type { ProviderConfig } from './config.ts'
import type { GatewayEnv, Parts } from './context.ts'
import { report } from './report-error.ts'
import { anthropicVersion, credentialsOf, upstreamURL } from './upstream.ts'

/** A model as its provider lists it, under the name it is asked for by. */
interface Listed {
  readonly id: string
  readonly api: ProviderConfig['api']
  readonly entry: JsonObject
}

const keptMs = 60_000
/** A list that lacks a provider's is asked for again sooner. */
const partlyKeptMs = 5000
const askMs = 5000
const maxListBytes = 4 * 1024 * 1024

/**
 * The models of all providers as one list, in OpenAI's shape, or in Anthropic's for requests with `anthropic-version`. The
 * first provider that has a name gives its entry. A provider that is down is missing; where all are, the first one's
 * failure is the answer.
 */
export function modelRoutes(parts: Parts): Hono<GatewayEnv> {
  const models = createModels(parts)
  const app = new Hono<GatewayEnv>()

  app.get('/v1/models', (context) =>
    inShape(context, async (isAnthropic) => {
      const listed = await models()
      if (!isAnthropic) return { object: 'list', data: listed.map(asOpenAI) }
      return {
        data: listed.map(asAnthropic),
        has_more: false,
        first_id: listed[0]?.id ?? null,
        last_id: listed.at(-1)?.id ?? null
      }
    })
  )
  // Names have slashes in them: meta-llama/Llama-3.
  app.get('/v1/models/:id{.+}', (context) =>
    inShape(context, async (isAnthropic) => {
      const id = context.req.param('id')
      const model = (await models()).find((one) => one.id === id)
      if (model !== undefined) return isAnthropic ? asAnthropic(model) : asOpenAI(model)
      throw new MillraceError('invalid-request', 'no provider of this gateway has this model', {
        details: { status: 404, path: 'model' }
      })
    })
  )
  return app
}

async function inShape(context: Context<GatewayEnv>, answer: (isAnthropic: boolean) => Promise<object>): Promise<Response> {
  const isAnthropic = context.req.header('anthropic-version') !== undefined
  try {
    return context.json(await answer(isAnthropic))
  } catch (error) {
    if (!isAnthropic) throw error
    report(context, error)
    const { status, headers, body } = anthropicError(error)
    return context.json(body, status as 500, headers)
  }
}

/** All who ask meanwhile wait for one asking, which ends by itself and is nobody's to cancel. */
function createModels({ providers, transport, limiter }: Parts): () => Promise<readonly Listed[]> {
  let kept: { readonly until: number; readonly listed: readonly Listed[] } | undefined
  let asking: Promise<readonly Listed[]> | undefined

  async function ask(provider: ProviderConfig): Promise<readonly Listed[]> {
    const url = upstreamURL(provider, '/models')
    if (provider.api === 'anthropic') url.searchParams.set('limit', '1000')
    const headers = { ...credentialsOf(provider), ...(provider.api === 'anthropic' && { 'anthropic-version': anthropicVersion }) }
    // A list costs nothing; it must not be refused for want of a price or of tokens.
    const cost = { provider: provider.name, tokens: 0, maxTokens: 0, maxUsd: 0 }
    const text = await limiter.run(
      cost,
      async (permit) => {
        const response = await transport.send({ method: 'GET', url: url.href, headers, timeouts: { totalMs: askMs }, permit })
        const { status } = response
        if (status === 200) return response.body.text(maxListBytes)
        response.body.cancel()
        const code = status === 401 || status === 403 ? 'unauthorized' : 'unavailable'
        throw new MillraceError(code, `the list of models was refused with ${status}`, {
          details: { status },
          context: { provider: provider.name }
        })
      },
      { queueMs: askMs }
    )
    const body = parseJson(text)
    const data: Json | undefined = isJsonObject(body) ? body.data : undefined
    if (!Array.isArray(data)) {
      throw new MillraceError('protocol', 'the list of models is none', {
        details: { reason: 'malformed' },
        context: { provider: provider.name }
      })
    }
    const own = (data as readonly Json[]).flatMap((entry) =>
      isJsonObject(entry) && typeof entry.id === 'string' ? [{ id: entry.id, api: provider.api, entry }] : []
    )
    return [...own, ...renamed(provider, own)]
  }

  async function askAll(): Promise<readonly Listed[]> {
    const answers = await Promise.allSettled(providers.map(ask))
    const lists = answers.flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value] : []))
    const failed = answers.find((answer) => answer.status === 'rejected')
    if (lists.length === 0 && failed !== undefined) throw failed.reason
    const byId = new Map<string, Listed>()
    for (const one of lists.flat()) if (!byId.has(one.id)) byId.set(one.id, one)
    const listed = [...byId.values()]
    kept = { until: performance.now() + (failed === undefined ? keptMs : partlyKeptMs), listed }
    return listed
  }

  return () => {
    if (kept !== undefined && performance.now() < kept.until) return Promise.resolve(kept.listed)
    asking ??= askAll().finally(() => (asking = undefined))
    return asking
  }
}

/** Names that the configuration gives to models of the provider's. */
function renamed({ api, model }: ProviderConfig, own: readonly Listed[]): readonly Listed[] {
  if (typeof model !== 'object') return []
  return Object.entries(model).map(([id, known]) => ({ id, api, entry: own.find((one) => one.id === known)?.entry ?? {} }))
}

function asOpenAI({ id, api, entry }: Listed): object {
  if (api === 'openai') return { object: 'model', created: 0, owned_by: 'provider', ...entry, id }
  const at = typeof entry.created_at === 'string' ? Date.parse(entry.created_at) : Number.NaN
  return { id, object: 'model', created: Number.isNaN(at) ? 0 : Math.floor(at / 1000), owned_by: 'anthropic' }
}

function asAnthropic({ id, api, entry }: Listed): object {
  if (api === 'anthropic') return { type: 'model', display_name: id, created_at: neverTold, ...entry, id }
  const { created } = entry
  // What dates can hold.
  const isTime = typeof created === 'number' && Math.abs(created) <= 8.64e12
  return { type: 'model', id, display_name: id, created_at: isTime ? new Date(created * 1000).toISOString() : neverTold }
}

/** As the API has it for a date that is not known. */
const neverTold = '1970-01-01T00:00:00Z'
