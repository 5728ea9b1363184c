import { randomUUID, timingSafeEqual } from 'node:crypto'
import { type AddressInfo, Server as NetServer } from 'node:net'
import { type ServerType, serve } from '@hono/node-server'
import type { Adapter } from '@millrace/adapter'
import {
  annotate,
  type CallOptions,
  checkRequest,
  isJsonObject,
  isMillraceError,
  type JsonObject,
  MillraceError,
  parseJson,
  redactCredentials
} from '@millrace/core'
import { openaiError, openaiEvents, toSSEResponse } from '@millrace/streaming'
import { createFetch, type Transport } from '@millrace/transport'
import { type Context, Hono, type MiddlewareHandler } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { errorBody, writeCompletion } from './openai-answer.ts'
import { readRequest } from './openai-request.ts'
import { page } from './page.ts'

/** What a client needs to know of a response that is passed on; the rest is between the gateway and the provider. */
const passedOn = ['content-type', 'retry-after', 'retry-after-ms', 'x-should-retry', 'x-request-id']

/** Larger bodies are refused: a chat request of text is far below, and images travel as addresses. */
const maxBodyBytes = 4 * 1024 * 1024

export interface GatewayOptions {
  readonly adapter: Adapter
  /** The adapter's transport, for what is passed on untouched. */
  readonly transport: Transport
  readonly upstream: { readonly apiKey: string; readonly baseURL: string }
  readonly host: string
  readonly port: number
  readonly token?: string | undefined
  readonly model: string
  /** What `GET /metrics` answers. @default none: there is no such path */
  readonly prometheus?: (() => Promise<{ readonly contentType: string; readonly body: string }>) | undefined
  /** How long an answer that is passed on untouched may take as a whole, in milliseconds. @default 300000 */
  readonly passTotalMs?: number | undefined
  /** How long an answer may be streamed as a whole, its reader's own time included, in milliseconds. @default 900000 */
  readonly streamTotalMs?: number | undefined
}

export interface Gateway extends AsyncDisposable {
  readonly url: string
  /**
   * Stops accepting, lets running answers finish for `graceMs`, those passed on untouched included, then ends them.
   * `graceMs` defaults to 10000.
   */
  close(options?: { readonly graceMs?: number }): Promise<void>
}

/** @throws what `listen` reports, such as `EADDRINUSE` */
export async function startGateway(options: GatewayOptions): Promise<Gateway> {
  let closing: Promise<void> | undefined
  let running = 0
  const server = await listen(
    createApp(options, () => closing !== undefined),
    options
  )
  server.on('request', (_request: unknown, response: NodeJS.EventEmitter) => {
    running++
    response.once('close', () => running--)
  })
  const { port } = server.address() as AddressInfo
  const url = `http://${options.host.includes(':') ? `[${options.host}]` : options.host}:${port}`

  async function close(graceMs: number): Promise<void> {
    // Not by http's own `close`: it takes an answer that is written for one that is read, and cuts it off.
    const closed = new Promise((resolve) => NetServer.prototype.close.call(server, resolve))
    const startedAt = performance.now()
    // Idle connections go when the last answer is out; at the end of the grace go also those whose reader does not take it.
    const sweep = setInterval(() => {
      if (running > 0 && performance.now() - startedAt <= graceMs) return
      if ('closeAllConnections' in server) server.closeAllConnections()
    }, 50)
    await options.adapter.close({ graceMs })
    await closed
    clearInterval(sweep)
    // Nothing is left to close but a timer of http's.
    server.close()
  }

  const gateway: Gateway = {
    url,
    close({ graceMs = 10_000 } = {}) {
      closing ??= close(graceMs)
      return closing
    },
    [Symbol.asyncDispose]: () => gateway.close()
  }
  return gateway
}

function listen(app: Hono, { host, port }: GatewayOptions): Promise<ServerType> {
  return new Promise((resolve, reject) => {
    const server = serve({ fetch: app.fetch, hostname: host, port }, () => {
      server.off('error', reject)
      resolve(server)
    })
    server.once('error', reject)
  })
}

function createApp(options: GatewayOptions, isClosing: () => boolean): Hono {
  const { adapter, transport, upstream, token, model, prometheus, passTotalMs = 300_000, streamTotalMs = 900_000 } = options
  const passing = createFetch(transport.send, { options: () => ({ timeouts: { totalMs: passTotalMs } }) })
  const app = new Hono()

  app.get('/healthz', (context) => context.json({ status: 'ok' }))
  app.get('/', (context) => context.html(page(model, token !== undefined)))
  const guard: MiddlewareHandler = async (context, next) => {
    if (token === undefined || isToken(context.req.header('authorization'), token)) return next()
    return context.json(errorBody('the bearer token is missing or wrong', 'invalid_request_error', 'invalid_api_key'), 401)
  }
  app.use('/v1/*', guard)
  app.use('/v1/*', bodyLimit({ maxSize: maxBodyBytes, onError: (context) => context.json(tooLarge, 413) }))

  app.get('/v1/stats', (context) => context.json(adapter.stats()))
  // Models, money and addresses are not for everybody, so the token is asked for here too.
  if (prometheus !== undefined) {
    app.get('/metrics', guard, async (context) => {
      const { contentType, body } = await prometheus()
      return context.body(body, 200, { 'content-type': contentType })
    })
  }
  app.get('/v1/models', (context) => pass(context, 'models'))
  app.get('/v1/models/:id', (context) => pass(context, `models/${encodeURIComponent(context.req.param('id'))}`))
  app.post('/v1/chat/completions', async (context) => {
    const text = await context.req.text()
    const body = parseJson(text)
    if (!isJsonObject(body))
      return context.json(errorBody('the body is not a JSON object', 'invalid_request_error', 'invalid_json'), 400)
    const request = readRequest(body)
    if (request === undefined) return pass(context, 'chat/completions', text)
    try {
      checkRequest(request)
      return body.stream === true ? await stream(context, body, request) : await complete(context, request)
    } catch (error) {
      return failed(context, error)
    }
  })
  app.notFound((context) =>
    context.json(
      errorBody(`there is no ${context.req.method} ${context.req.path} here`, 'invalid_request_error', 'unknown_url'),
      404
    )
  )
  app.onError((error, context) => failed(context, error))

  async function complete(context: Context, request: Parameters<Adapter['complete']>[0]): Promise<Response> {
    const completion = await adapter.complete(request, callOf(context))
    return context.json(writeCompletion(completion, newId(), now()), 200, factsOf(completion.notes))
  }

  /** The head waits for the first content, so that a failure before it still gets its status, and the notes their headers. */
  function stream(context: Context, body: JsonObject, request: Parameters<Adapter['stream']>[0]): Promise<Response> {
    const call = callOf(context)
    return toSSEResponse(adapter.stream(request, call), {
      format: openaiEvents({ includeUsage: isJsonObject(body.stream_options) && body.stream_options.include_usage === true }),
      maxDurationMs: streamTotalMs,
      headers: factsOf,
      signal: call.signal,
      onError: (error) => report(context, error)
    })
  }

  /** The `fetch` door: what the contract has no words for goes to the provider and back byte by byte, refusals without keys. */
  async function pass({ req }: Context, path: string, body?: string): Promise<Response> {
    if (isClosing()) throw new MillraceError('closed', 'the gateway is closing', { details: {} })
    const response = await passing(`${upstream.baseURL.replace(/\/+$/, '')}/${path}`, {
      method: body === undefined ? 'GET' : 'POST',
      headers: { authorization: `Bearer ${upstream.apiKey}`, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body }),
      signal: req.raw.signal
    }).catch(throwCause)
    if (response.status === 401 || response.status === 403) {
      // It is the gateway's key that was refused, and providers repeat it in what they say.
      await response.body?.cancel()
      throw new MillraceError('unauthorized', 'the provider does not accept the credentials of the gateway', {
        details: { status: response.status }
      })
    }
    const headers = passedOn.flatMap((name) => {
      const value = response.headers.get(name)
      return value === null ? [] : [[name, value] as [string, string]]
    })
    if (response.status < 400) return new Response(response.body, { status: response.status, headers })
    return new Response(clean(await response.text().catch(throwCause)), { status: response.status, headers })
  }

  /** Without keys: providers may repeat what they were sent. The transport holds no more than 64 KiB of a refusal. */
  function clean(text: string): string {
    const { apiKey } = upstream
    let known = text
    // What is cut may end in the midst of the key. Less than four letters would be found in words.
    for (let length = apiKey.length; length >= 4; length--) {
      const part = apiKey.slice(0, length)
      if (length === apiKey.length) known = known.replaceAll(part, '[redacted]')
      else if (known.endsWith(part)) known = `${known.slice(0, -length)}[redacted]`
    }
    return redactCredentials(known)
  }

  return app
}

/** A fetch fails as the standard has it; what happened is the cause. */
function throwCause(error: unknown): never {
  const cause = error instanceof TypeError ? (error.cause ?? error) : error
  throw annotate(cause, { context: { provider: 'upstream' } })
}

/** The call ends with its caller, and is part of its caller's trace: who comes so far has the token, or is on this machine. */
function callOf({ req }: Context): CallOptions & { readonly signal: AbortSignal } {
  const { signal, headers } = req.raw
  return { signal, telemetry: { parent: headers } }
}

/** What nobody foresaw: outward only that it happened, here where. Ours are the caller's to read. */
function report({ req }: Context, error: unknown): void {
  if (!isMillraceError(error) && !req.raw.signal.aborted) console.error('millrace: a request failed', error)
}

function failed(context: Context, error: unknown): Response {
  report(context, error)
  const { status, headers, body } = openaiError(error)
  return context.json(body, status as 500, headers)
}

/** What the layers did, as response headers. */
function factsOf(notes: {
  cache?: { state?: unknown }
  retry?: { attempts?: unknown }
  tokens?: { dropped?: unknown }
}): Record<string, string> {
  return {
    ...(notes.cache === undefined ? {} : { 'x-millrace-cache': String(notes.cache.state) }),
    ...(notes.retry === undefined ? {} : { 'x-millrace-attempts': String(notes.retry.attempts) }),
    ...(notes.tokens === undefined ? {} : { 'x-millrace-dropped-messages': String(notes.tokens.dropped) })
  }
}

/** Compared in constant time, so that the answer's delay tells nothing of the token. */
function isToken(header: string | undefined, token: string): boolean {
  const given = Buffer.from((header ?? '').replace(/^bearer +/i, ''))
  const expected = Buffer.from(token)
  return given.length === expected.length && timingSafeEqual(given, expected)
}

const tooLarge = errorBody(`the body is larger than ${maxBodyBytes} bytes`, 'invalid_request_error', 'request_too_large')
const newId = (): string => `chatcmpl-${randomUUID()}`
const now = (): number => Math.floor(Date.now() / 1000)
