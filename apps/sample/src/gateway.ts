import { randomBytes } from 'node:crypto'
import { type IncomingMessage, Server, type ServerResponse } from 'node:http'
import { type AddressInfo, Server as NetServer, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { type HttpBindings, serve } from '@hono/node-server'
import { MillraceError } from '@millrace/core'
import { openaiError } from '@millrace/streaming'
import { type Context, Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { accessMiddleware, corsMiddleware, requireOperator } from './access.ts'
import { batchRoutes } from './batch-route.ts'
import { chatRoutes } from './chat.ts'
import type { GatewayEnv, Parts } from './context.ts'
import { faultRoutes } from './fault-routes.ts'
import { liveRoutes } from './live.ts'
import { modelRoutes } from './models.ts'
import { errorBody } from './openai-answer.ts'
import { pageRoutes } from './page.ts'
import { anthropicError, passRoutes } from './pass.ts'
import { report } from './report-error.ts'
import { streamRoutes } from './stream-routes.ts'

export interface Gateway extends AsyncDisposable {
  readonly url: string
  /**
   * Stops accepting, lets running answers finish for `graceMs`, those passed on untouched included, then ends each stream
   * with an error event. `graceMs` defaults to that of the configuration.
   */
  close(options?: { readonly graceMs?: number }): Promise<void>
}

/** Who was let in a moment before may still be about to ask: calls are taken for the first, and by new connections up to the second. */
const lateMs = { least: 100, most: 1000 }
/** How long the last words of streams that were ended may take to get out. */
const lastWordsMs = 1000

/** @throws what `listen` reports, such as `EADDRINUSE` */
export async function startGateway(given: Omit<Parts, 'isClosing'>): Promise<Gateway> {
  const { config, adapter, streams, batches, transport } = given
  let closing: Promise<void> | undefined
  let refusing = false
  const parts: Parts = { ...given, isClosing: () => refusing }
  const server = await listen(
    createApp(parts, () => closing !== undefined),
    config
  )
  /** Connections whose first request is not there yet. */
  const silent = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    silent.add(socket)
    socket.once('close', () => silent.delete(socket))
  })
  const open = new Set<ServerResponse>()
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    // A call begins when its body is there.
    const heard = (): boolean => silent.delete(request.socket)
    if (request.headers['content-length'] === undefined && request.headers['transfer-encoding'] === undefined) heard()
    else request.once('end', heard)
    open.add(response)
    response.once('close', () => open.delete(response))
    cutStalled(response, config.stallMs)
  })
  const { port } = server.address() as AddressInfo
  const url = `http://${config.host.includes(':') ? `[${config.host}]` : config.host}:${port}`

  async function close(graceMs: number): Promise<void> {
    // Not by http's own `close`: it takes an answer that is written for one that is read, and cuts it off.
    const closed = new Promise((resolve) => NetServer.prototype.close.call(server, resolve))
    const endsAt = performance.now() + graceMs
    const lateAt = performance.now() + Math.min(lateMs.most, graceMs)
    await delay(Math.min(lateMs.least, graceMs))
    while (silent.size > 0 && performance.now() < lateAt) await delay(10)
    refusing = true
    // Idle connections go when the last answer is out; with the last words also those whose reader does not take them.
    const sweep = setInterval(() => {
      if (open.size === 0 || performance.now() > endsAt + lastWordsMs) server.closeAllConnections()
    }, 50)
    await Promise.all([adapter.close({ graceMs }), streams.close({ graceMs }), batches.close({ graceMs })])
    // What is passed on untouched is no call of the adapter.
    while (open.size > 0 && performance.now() < endsAt) await delay(20)
    await transport.close({ graceMs: 0 })
    await closed
    clearInterval(sweep)
    // Nothing is left to close but a timer of http's.
    server.close()
  }

  const gateway: Gateway = {
    url,
    close({ graceMs = config.graceMs } = {}) {
      closing ??= close(graceMs)
      return closing
    },
    [Symbol.asyncDispose]: () => gateway.close()
  }
  return gateway
}

function listen(app: Hono<GatewayEnv>, { host, port, streamMs }: Parts['config']): Promise<Server> {
  return new Promise((resolve, reject) => {
    // A batch is taken as it is answered, and may take its time.
    const serverOptions = { requestTimeout: streamMs }
    const server = serve({ fetch: app.fetch, hostname: host, port, serverOptions }, () => {
      server.off('error', reject)
      resolve(server as Server)
    })
    server.once('error', reject)
  })
}

/** A client that takes nothing holds its answer in memory: it is cut off when it has not taken a byte for so long. */
function cutStalled(response: ServerResponse, stallMs: number): void {
  response.setTimeout(stallMs, () => {
    // Silence of the provider's, or of the client's between two requests, is no stall.
    if (response.writableLength > 0 || (response.socket?.writableLength ?? 0) > 0) response.destroy()
    else response.setTimeout(stallMs)
  })
}

function createApp(parts: Parts, isLeaving: () => boolean): Hono<GatewayEnv> {
  const { config, telemetry, recorder, admission, isClosing } = parts
  const app = new Hono<GatewayEnv>()

  app.get('/healthz', (context) => context.json({ status: 'ok' }))
  app.get('/readyz', (context) => {
    const redis = parts.redis === undefined ? 'off' : parts.redis.ready ? 'up' : 'down'
    return context.json({ status: isLeaving() ? 'closing' : 'ready', redis }, isLeaving() ? 503 : 200)
  })
  app.route('/', pageRoutes())

  app.use('*', async (context, next) => {
    const id = `req_${randomBytes(12).toString('base64url')}`
    context.set('requestId', id)
    context.set('arrivedAt', performance.now())
    const record = recorder.begin({ id, path: context.req.path, arrivedAt: context.get('arrivedAt') })
    context.set('record', record)
    const { outgoing } = context.env as HttpBindings
    outgoing.once('close', () => {
      const status = outgoing.statusCode
      record.end(status, !outgoing.writableFinished ? 'aborted' : status < 400 ? 'success' : 'error')
    })
    await next()
    context.header('x-request-id', id)
    // A connection that was kept alive would bring the next request to a door that is closed.
    if (isLeaving()) context.header('connection', 'close')
  })
  app.use('*', corsMiddleware(config))
  app.use('/v1/*', accessMiddleware(config))
  app.use('/metrics', accessMiddleware(config), requireOperator(config))
  app.use('/v1/stats', requireOperator(config))
  app.use('/v1/live', requireOperator(config))
  app.use('/v1/faults', requireOperator(config))
  app.use('/v1/*', async (context, next) => {
    if (isClosing()) throw new MillraceError('closed', 'the gateway is closing', { details: {} })
    // Watching is no call.
    if (context.req.method !== 'POST') return next()
    const leave = admission.enter(context.get('caller').countedAs)
    const { outgoing } = context.env as HttpBindings
    outgoing.once('close', leave)
    await next()
  })
  const limit = bodyLimit({
    maxSize: config.maxBodyBytes,
    onError: (context) => {
      const message = `the body is larger than ${config.maxBodyBytes} bytes`
      // The rest of the body is not read: no other request can come on this connection.
      context.header('connection', 'close')
      return isAnthropic(context)
        ? context.json({ type: 'error', error: { type: 'request_too_large', message } }, 413)
        : context.json(errorBody(message, 'invalid_request_error', 'request_too_large'), 413)
    }
  })
  // A batch is read line by line, and may be as long as it likes.
  app.use('/v1/*', (context, next) => (context.req.path === '/v1/batch' ? next() : limit(context, next)))

  for (const routes of [chatRoutes, streamRoutes, passRoutes, modelRoutes, batchRoutes, liveRoutes, faultRoutes]) {
    app.route('/', routes(parts))
  }
  app.get('/metrics', async (context) => {
    const { contentType, body } = await telemetry.prometheus()
    return context.body(body, 200, { 'content-type': contentType })
  })
  app.notFound((context) =>
    context.json(
      errorBody(`there is no ${context.req.method} ${context.req.path} here`, 'invalid_request_error', 'unknown_url'),
      404
    )
  )
  app.onError((error, context) => failed(context, error))
  return app
}

/** In the words of the API that was called. */
function failed(context: Context<GatewayEnv>, error: unknown): Response {
  report(context, error)
  const { status, headers, body } = isAnthropic(context) ? anthropicError(error) : openaiError(error)
  // The word of OpenAI's own API for a token that is wrong; that of the gateway at its provider is a 502.
  if (status === 401 && !isAnthropic(context)) {
    return context.json(errorBody(body.error.message, 'invalid_request_error', 'invalid_api_key'), 401, headers)
  }
  return context.json(body, status as 500, headers)
}

function isAnthropic({ req }: Context): boolean {
  // The list of models stands at the same path in both APIs, and only Anthropic's clients name a version.
  return req.path.startsWith('/v1/messages') || req.header('anthropic-version') !== undefined
}
