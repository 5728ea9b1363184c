import { randomBytes } from 'node:crypto'
import type { HttpBindings } from '@hono/node-server'
import { isMillraceError, MillraceError } from '@millrace/core'
import { openaiError } from '@millrace/streaming'
import { type Context, Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { accessMiddleware, corsMiddleware, requireOperator } from './access.ts'
import { anthropicError } from './anthropic-error.ts'
import { batchRoutes } from './batch-route.ts'
import { attemptsAt } from './call-facts.ts'
import { chatRoutes } from './chat.ts'
import type { GatewayEnv, Parts } from './context.ts'
import { faultRoutes } from './fault-routes.ts'
import { liveRoutes } from './live.ts'
import { modelRoutes } from './models.ts'
import { errorBody } from './openai-answer.ts'
import { pageRoutes } from './page.ts'
import { passRoutes } from './pass.ts'
import { looking } from './recorder.ts'
import { report } from './report-error.ts'
import { stateOf } from './snapshot.ts'
import { streamRoutes } from './stream-routes.ts'

/**
 * All routes, and what stands before them. `isLeaving` is true from the first word of the end on, when balancers are to look
 * elsewhere; calls are refused from `parts.isClosing` on, which is a little later.
 */
export function createApp(parts: Parts, isLeaving: () => boolean): Hono<GatewayEnv> {
  const { config, telemetry, recorder, admission, isClosing } = parts
  const app = new Hono<GatewayEnv>()

  app.get('/healthz', (context) => context.json({ status: 'ok' }))
  app.get('/readyz', (context) => {
    return context.json({ status: isLeaving() ? 'closing' : 'ready', redis: stateOf(parts.redis) }, isLeaving() ? 503 : 200)
  })
  app.route('/', pageRoutes())

  app.use('*', async (context, next) => {
    const id = `req_${randomBytes(12).toString('base64url')}`
    context.set('requestId', id)
    context.set('arrivedAt', performance.now())
    await next()
    context.header('x-request-id', id)
    // A connection that was kept alive would bring the next request to a door that is closed.
    if (isLeaving()) context.header('connection', 'close')
  })
  app.use('*', corsMiddleware(config))
  app.use('/v1/*', async (context, next) => {
    // Hono answers it as it would a GET, whose streams nobody would read to their end.
    if (context.req.method === 'HEAD') return context.body(null, 405, { allow: 'GET, POST, PUT, DELETE' })
    return next()
  })
  app.use('/v1/*', accessMiddleware(config))
  app.use('/metrics', accessMiddleware(config), requireOperator(config))
  for (const path of looking) app.use(path, requireOperator(config))
  app.use('/v1/*', async (context, next) => {
    // Behind the guard: strangers have no part in what the operator sees.
    const record = recorder.begin({
      id: context.get('requestId'),
      path: context.req.path,
      arrivedAt: context.get('arrivedAt')
    })
    context.set('record', record)
    const { outgoing } = context.env as HttpBindings
    outgoing.once('close', () => {
      const status = outgoing.statusCode
      record.end(status, !outgoing.writableFinished ? 'aborted' : status < 400 ? 'success' : 'error')
    })
    await next()
  })
  app.use('/v1/*', async (context, next) => {
    if (isClosing()) throw new MillraceError('closed', 'the gateway is closing', { details: {} })
    // A reader of a stream is a call, too.
    if (looking.has(context.req.path)) return next()
    const leave = admission.enter(context.get('caller').countedAs)
    const { outgoing } = context.env as HttpBindings
    outgoing.once('close', leave)
    await next()
  })
  const tooLarge = (context: Context): Response => {
    const message = `the body is larger than ${config.maxBodyBytes} bytes`
    // The rest of the body is not read: no other request can come on this connection.
    context.header('connection', 'close')
    return isAnthropic(context)
      ? context.json({ type: 'error', error: { type: 'request_too_large', message } }, 413)
      : context.json(errorBody(message, 'invalid_request_error', 'request_too_large'), 413)
  }
  const countBytes = bodyLimit({ maxSize: config.maxBodyBytes, onError: tooLarge })
  app.use('/v1/*', (context, next) => {
    // A batch is read line by line, and may be as long as it likes.
    if (context.req.path === '/v1/batch') return next()
    const length = context.req.header('content-length')
    // A body that says its length needs no stream around it to be counted: http reads no more than that.
    if (length === undefined) return context.req.header('transfer-encoding') === undefined ? next() : countBytes(context, next)
    return Number(length) > config.maxBodyBytes ? Promise.resolve(tooLarge(context)) : next()
  })

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
function failed(context: Context<GatewayEnv>, thrown: unknown): Response {
  const error = inWordsOfConfiguration(thrown)
  report(context, error)
  const { status, headers: told, body } = isAnthropic(context) ? anthropicError(error) : openaiError(error)
  const { attempt, provider } = isMillraceError(error) ? error.context : {}
  const headers = { ...told, ...attemptsAt(provider, attempt) }
  context.get('record')?.tell({ attempts: attempt, provider })
  // The word of OpenAI's own API for a token that is wrong; that of the gateway at its provider is a 502.
  if (status === 401 && !isAnthropic(context)) {
    return context.json(errorBody(body.error.message, 'invalid_request_error', 'invalid_api_key'), 401, headers)
  }
  return context.json(body, status as 500, headers)
}

/** The limiter speaks of options that a caller of the gateway does not have. */
function inWordsOfConfiguration(error: unknown): unknown {
  if (!isMillraceError(error, 'invalid-request') || error.details.path !== 'maxUsd') return error
  const text = 'model: a budget in USD holds this call, and its price is not known: add it under "prices" in gateway.json'
  return new MillraceError('invalid-request', text, { details: { path: 'model' }, context: error.context })
}

function isAnthropic({ req }: Context): boolean {
  // The list of models stands at the same path in both APIs, and only Anthropic's clients name a version.
  return req.path.startsWith('/v1/messages') || req.header('anthropic-version') !== undefined
}
