import { createHash } from 'node:crypto'
import {
  annotate,
  CallTally,
  isJsonObject,
  type JsonObject,
  MillraceError,
  parseJson,
  redactCredentials,
  type Send
} from '@millrace/core'
import { createFetch } from '@millrace/transport'
import { type Context, Hono } from 'hono'
import { factsOf } from './call-facts.ts'
import type { ProviderConfig } from './config.ts'
import type { GatewayEnv, Parts } from './context.ts'
import { checkURLs, createNameLookup } from './image-urls.ts'
import { checkShape } from './json-shape.ts'
import { report } from './report-error.ts'
import { anthropicVersion, credentialsOf, upstreamURL } from './upstream.ts'
import { type EventDialect, wholeEvents } from './whole-events.ts'

/**
 * What of a request goes up. Credentials are ours, traces are telemetry's, and what a client says about itself is no
 * business of the provider's.
 */
const sentUp = ['accept', 'anthropic-version', 'anthropic-beta', 'openai-beta'] as const

/**
 * What of a response comes back: what clients act on. Not the rate limits: they are the account's, which callers share.
 * `request-id` is Anthropic's; OpenAI's is called as ours is, and gives way to it.
 */
const passedOn = [
  'age',
  'content-type',
  'openai-processing-ms',
  'openai-version',
  'request-id',
  'retry-after',
  'retry-after-ms',
  'x-should-retry'
] as const

interface Passed {
  /** Behind the version, such as `/responses`. */
  readonly path: string
  /** As it came. It is another only where the configuration gives the model another name. */
  readonly body: string | Uint8Array<ArrayBuffer>
  /** The body as its route has read and checked it. @default it is read and checked here */
  readonly asked?: JsonObject | undefined
}

/** Sends a request to the provider of its API and gives back what that answers, both byte by byte. */
export type Pass = (context: Context<GatewayEnv>, asked: Passed) => Promise<Response>

/** What one call carries from the outer `fetch` to the wire. */
interface PassInit extends RequestInit {
  readonly tally: PassTally
  readonly callId: string
  readonly tenant: string | undefined
  readonly provider: string
}

class PassTally extends CallTally {
  attempts = 0
}

/**
 * The `fetch` door: cache, limiter and transport around what the contract has no words for.
 *
 * Refusals come back as the provider wrote them, without keys; one of the gateway's own key is told as the gateway's
 * failure. Of a stream that breaks behind its head see `wholeEvents`.
 */
export function createPass(parts: Parts): Pass {
  const { config, doors, isClosing } = parts
  const fetch = createDoor(parts)
  const lookup = createNameLookup()

  /** What the body says, where it may go up. */
  async function read(body: Passed['body'], dialect: EventDialect): Promise<JsonObject> {
    const json = typeof body === 'string' ? body : textOf(body)
    checkShape(json)
    const asked = parseJson(json)
    if (!isJsonObject(asked)) throw wrong('the body is not a JSON object')
    checkLength(asked, dialect, config.maxMessages)
    await checkURLs(asked, config.imageURLs, lookup)
    return asked
  }

  return async (context, { path, body, asked: given }) => {
    if (isClosing()) throw new MillraceError('closed', 'the gateway is closing', { details: {} })
    const dialect = dialectOf(path)
    const api = dialect === 'messages' ? 'anthropic' : 'openai'
    const door = doors[api]
    if (door === undefined) throw noDoor(api)
    const asked = given ?? (await read(body, dialect))
    const model = modelOf(asked, door)
    context.get('record').tell({ model, provider: door.name, stream: asked.stream === true })

    const { signal } = context.req.raw
    const tally = new PassTally()
    const init: PassInit = {
      method: 'POST',
      headers: { ...headersOf(context, door), 'x-millrace-total-ms': String(config.streamMs) },
      body: model === asked.model || model === undefined ? body : JSON.stringify({ ...asked, model }),
      signal,
      tally,
      callId: context.get('requestId'),
      tenant: context.get('caller').tenant,
      provider: door.name
    }
    const known = annotated(door.name)
    const url = upstreamURL(door, path)
    const beta = context.req.query('beta')
    if (beta !== undefined) url.searchParams.set('beta', beta)
    const response = await fetch(url.href, init)
      .catch(known)
      .finally(() => {
        if (tally.otherMs >= minWaitMs) context.get('record').tell({ waitedMs: tally.otherMs })
      })
    const { status } = response
    if (status >= 300 && status < 400) {
      // Its address would lead the client, and what it says names, past the gateway.
      await response.body?.cancel()
      throw new MillraceError('protocol', `the provider answered with a redirect (${status})`, {
        details: { reason: 'unexpected', status },
        context: { provider: door.name }
      })
    }
    if (status === 401 || status === 403) {
      // It is the gateway's key that was refused, and providers repeat it in what they say.
      await response.body?.cancel()
      throw new MillraceError('unauthorized', 'the provider does not accept the credentials of the gateway', {
        details: {},
        context: { provider: door.name }
      })
    }

    const isStream = response.headers.get('content-type')?.toLowerCase().startsWith('text/event-stream') === true
    const state = response.headers.get('x-millrace-cache')
    const notes = { retry: { attempts: tally.attempts }, ...(state !== null && { cache: { state } }) }
    if (isStream) context.get('record').tell({ firstTextMs: performance.now() - context.get('arrivedAt') })
    const headers = { ...headersBack(response, door.apiKey), ...factsOf(context, { notes, provider: door.name, tally }) }
    if (dialect === 'messages') headers['request-id'] ??= context.get('requestId')

    const withoutKeys = (text: string): string => clean(text, door.apiKey)
    if (status >= 400) return new Response(withoutKeys(await response.text().catch(known)), { status, headers })
    if (isStream && response.body !== null) {
      const onError = (error: unknown): void => report(context, error)
      return new Response(wholeEvents(response.body, { dialect, signal, clean: withoutKeys, onError }), { status, headers })
    }
    // Whole, for it may tell an error, also by its end; the transport holds it to 16 MiB.
    const bytes = Buffer.from(await response.arrayBuffer().catch(known))
    const answer = tellsError(bytes) ? withoutKeys(bytes.toString()) : bytes
    // To some statuses there is no body.
    return new Response(answer.length === 0 ? null : answer, { status, headers })
  }
}

/** Responses, embeddings and Anthropic's Messages, fields and shapes untouched. */
export function passRoutes(parts: Parts): Hono<GatewayEnv> {
  const pass = createPass(parts)
  const app = new Hono<GatewayEnv>()
  for (const path of ['/responses', '/embeddings', '/messages', '/messages/count_tokens']) {
    app.post(`/v1${path}`, async (context) => pass(context, { path, body: new Uint8Array(await context.req.arrayBuffer()) }))
  }
  return app
}

/** One for all calls of a process: equal requests share one call, and all count against the same limits. */
function createDoor({ transport, limiter, cache }: Parts): typeof globalThis.fetch {
  const told: Send = async (request) => {
    const { tally } = request
    const sentAt = performance.now()
    try {
      const response = await transport.send(request)
      if (tally instanceof PassTally) tally.attempts = response.attempts
      return response
    } finally {
      tally?.waitedForProvider(performance.now() - sentAt)
    }
  }
  const wire = createFetch(told, {
    options: (_url, init) => {
      const { callId, tally } = init as PassInit
      return { callId, tally }
    }
  })
  const limited = limiter.fetch(wire, {
    cost: (_url, init) => {
      const { provider, tenant } = init as PassInit
      return { provider, tenant }
    }
  })
  /** What is not the provider's time here is the wait for a limit. */
  const counted: typeof globalThis.fetch = async (input, init) => {
    const { tally } = init as PassInit
    const [startedAt, before] = [performance.now(), tally.providerMs ?? 0]
    try {
      return await limited(input, init)
    } finally {
      tally.waited(Math.max(0, performance.now() - startedAt - ((tally.providerMs ?? 0) - before)))
    }
  }
  if (cache === undefined) return counted
  return cache.fetch(counted, {
    options: (_url, init) => {
      const { callId, tenant } = init as PassInit
      return { callId, tenant }
    }
  })
}

function dialectOf(path: string): EventDialect {
  if (path.startsWith('/messages')) return 'messages'
  return path === '/responses' ? 'responses' : 'chat'
}

/** Strictly: bytes that are no UTF-8 would go up as they are, and be judged as something else. */
function textOf(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw wrong('the body is not UTF-8')
  }
}

/** Of an embedding's inputs there may be more: they are no conversation. */
function checkLength(body: JsonObject, dialect: EventDialect, maxMessages: number): void {
  const name = dialect === 'responses' ? 'input' : 'messages'
  const list = body[name]
  if (!Array.isArray(list) || list.length <= maxMessages) return
  throw wrong(`${name}: there are ${list.length}, and this gateway takes ${maxMessages}`, name)
}

/** As the provider calls it. */
function modelOf({ model }: JsonObject, { model: known }: ProviderConfig): string | undefined {
  if (typeof model !== 'string') return undefined
  if (typeof known === 'string') return known
  return known !== undefined && Object.hasOwn(known, model) ? known[model] : model
}

function headersOf(context: Context<GatewayEnv>, door: ProviderConfig): Record<string, string> {
  const headers: Record<string, string> = { 'content-type': 'application/json' }
  for (const name of sentUp) {
    const value = context.req.header(name)
    if (value !== undefined) headers[name] = value
  }
  const key = context.req.header('idempotency-key')
  if (key !== undefined) headers['idempotency-key'] = keyOf(context.get('caller').tenant, key)
  return { ...(door.api === 'anthropic' && { 'anthropic-version': anthropicVersion }), ...headers, ...credentialsOf(door) }
}

/** All tenants call with one key of the provider's: with the same idempotency key one would get another's answer. */
function keyOf(tenant: string | undefined, key: string): string {
  return tenant === undefined
    ? key
    : createHash('sha256')
        .update(JSON.stringify([tenant, key]))
        .digest('base64url')
}

function headersBack({ headers }: Response, apiKey: string): Record<string, string> {
  const back: Record<string, string> = {}
  for (const name of passedOn) {
    const value = headers.get(name)
    if (value !== null) back[name] = clean(value, apiKey)
  }
  return back
}

/** A fetch fails as the standard has it; what happened is the cause. */
function annotated(provider: string): (error: unknown) => never {
  return (error) => {
    throw annotate(error instanceof TypeError ? (error.cause ?? error) : error, { context: { provider } })
  }
}

/** Without keys: providers may repeat what they were sent. The transport holds no more than 64 KiB of a refusal. */
function clean(text: string, apiKey: string): string {
  let known = text
  // What is cut may end in the midst of the key. Less than four letters would be found in words.
  for (let length = apiKey.length; length >= 4; length--) {
    const part = apiKey.slice(0, length)
    if (length === apiKey.length) known = known.replaceAll(part, '[redacted]')
    else if (known.endsWith(part)) known = `${known.slice(0, -length)}[redacted]`
  }
  return redactCredentials(known)
}

/** Whether it is JSON with an error in it. The official API's say `"error": null` where there is none. */
function tellsError(bytes: Buffer): boolean {
  if (!errorField.test(bytes.toString('latin1'))) return false
  const body = parseJson(bytes.toString())
  return isJsonObject(body) && body.error !== undefined && body.error !== null
}

const errorField = /"error"\s*:\s*(?!null\b)\S/

/** Shorter waits are no wait for a limit, but what the layers take themselves. */
const minWaitMs = 5

function noDoor(api: 'openai' | 'anthropic'): MillraceError<'invalid-request'> {
  return new MillraceError(
    'invalid-request',
    `no provider of this gateway speaks this API: add one with "api": "${api}" to its configuration`,
    {
      details: { status: 404, path: 'api' }
    }
  )
}

function wrong(message: string, path?: string): MillraceError<'invalid-request'> {
  return new MillraceError('invalid-request', message, { details: path === undefined ? {} : { path } })
}
