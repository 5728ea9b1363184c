import { createHmac, randomBytes } from 'node:crypto'
import { getConnInfo } from '@hono/node-server/conninfo'
import { MillraceError } from '@millrace/core'
import type { Context, MiddlewareHandler } from 'hono'
import { cors } from 'hono/cors'
import { isLoopback } from './address-guard.ts'
import type { Config } from './config.ts'
import type { Caller, GatewayEnv } from './context.ts'

/** What of the configuration says who may call. */
export type AccessConfig = Pick<Config, 'host' | 'operatorToken' | 'tenants' | 'origins' | 'hosts'>

/** A request, as far as access asks. */
export interface AccessRequest {
  /** By its name in lower case. */
  header(name: string): string | undefined
  readonly remoteAddress: string | undefined
}

/**
 * Tells who calls, by the token in `authorization` or `x-api-key`. Where no token is configured, everybody who reaches the
 * gateway is the operator.
 *
 * @throws {MillraceError} `invalid-request` with the status 401: the code `unauthorized` is a provider's refusal of ours
 *
 * @example
 * const callerOf = accessOf(readConfig(process.env))
 */
function accessOf({
  operatorToken,
  tenants
}: Pick<AccessConfig, 'operatorToken' | 'tenants'>): (request: AccessRequest) => Caller {
  // Keyed by a secret of this process: nobody can choose a token by its digest, so how long the look-up of one takes tells
  // nothing of the tokens there are, however many.
  const secret = randomBytes(32)
  const digest = (token: string): string => createHmac('sha256', secret).update(token).digest('base64')
  const tenantOf = new Map<string, string | undefined>()
  for (const { name, tokens } of tenants) for (const token of tokens) tenantOf.set(digest(token), name)
  if (operatorToken !== undefined) tenantOf.set(digest(operatorToken), undefined)

  return (request) => {
    const countedAs = `address ${request.remoteAddress ?? 'unknown'}`
    if (tenantOf.size === 0) return { tenant: undefined, isOperator: true, countedAs }
    const token = tokenOf(request)
    const key = token === undefined ? '' : digest(token)
    if (!tenantOf.has(key))
      throw refused(401, 'authorization', 'the token is missing or wrong: send it as "Authorization: Bearer …"')
    const tenant = tenantOf.get(key)
    return tenant === undefined
      ? { tenant, isOperator: true, countedAs }
      : { tenant, isOperator: false, countedAs: `tenant ${tenant}` }
  }
}

function tokenOf(request: AccessRequest): string | undefined {
  const authorization = request.header('authorization')
  // Clients that are told of both send their own kind in one and nothing of use in the other.
  const bearer = authorization === undefined ? undefined : /^bearer +(\S+)$/i.exec(authorization)?.[1]
  return bearer ?? request.header('x-api-key')
}

/**
 * Refuses what a browser was made to send: calls of pages from elsewhere, which would spend the owner's money, and on a
 * loopback address those under a foreign name, by which a page makes itself one of this machine (DNS rebinding), or none.
 *
 * @throws {MillraceError} `invalid-request` with the status 403
 */
function checkBrowser({ host, hosts, origins }: AccessConfig, request: AccessRequest): void {
  // HTTP/1.0 may leave it out: then only the token tells who is there, and on a loopback address there may be none.
  const called = request.header('host')
  if (isLoopback(host) && (called === undefined || !isOwnName(called, hosts))) {
    throw refused(403, 'host', 'the host is no name of this gateway: call it by localhost, or add the name to MILLRACE_HOSTS')
  }
  const origin = request.header('origin')
  if (origin === undefined) {
    // Images, frames and HEAD of another page come without an origin. What is no browser says nothing of a site.
    if (['same-origin', 'none', undefined].includes(request.header('sec-fetch-site'))) return
    throw refused(403, 'origin', 'a page from elsewhere may not call this gateway: add its origin to MILLRACE_ORIGINS')
  }
  if (origins.includes(origin)) return
  // Behind a proxy that ends TLS the scheme is not known here, and no page can stand at the same host and port but ours.
  const own = called === undefined ? undefined : URL.parse(`http://${called}`)?.host
  if (own !== undefined && URL.parse(origin)?.host === own && /^https?:/.test(origin)) return
  throw refused(403, 'origin', 'the origin may not call this gateway: add it to MILLRACE_ORIGINS, as in https://app.example.com')
}

function isOwnName(called: string, hosts: readonly string[]): boolean {
  const url = URL.parse(`http://${called}`)
  if (url === null) return false
  return isLoopback(url.hostname) || hosts.includes(called.toLowerCase()) || hosts.includes(url.hostname)
}

/**
 * Refuses what `checkBrowser` refuses, and answers browsers that ask whether a page of `origins` may call, which they do
 * without a token. Those pages get CORS headers, on refusals too; others none.
 *
 * @example
 * app.use(corsMiddleware(config))
 */
export function corsMiddleware(config: AccessConfig): MiddlewareHandler<GatewayEnv> {
  const origins: ReadonlySet<string> = new Set(config.origins)
  const share = cors({
    origin: (origin) => origin,
    allowMethods: ['GET', 'POST', 'PUT', 'DELETE'],
    exposeHeaders,
    maxAge: 600
  })
  return async (context, next) => {
    const request = requestOf(context)
    checkBrowser(config, request)
    return origins.has(request.header('origin') ?? '') ? share(context, next) : next()
  }
}

/**
 * Sets `caller` of each request, or refuses it with 401; behind `corsMiddleware`.
 *
 * @example
 * app.use('/v1/*', accessMiddleware(config))
 */
export function accessMiddleware(config: AccessConfig): MiddlewareHandler<GatewayEnv> {
  const callerOf = accessOf(config)
  return async (context, next) => {
    context.set('caller', callerOf(requestOf(context)))
    await next()
  }
}

const exposeHeaders = [
  'x-request-id',
  'x-millrace-cache',
  'x-millrace-attempts',
  'x-millrace-provider',
  'x-millrace-overhead-ms',
  'x-millrace-dropped-messages',
  'x-millrace-stream-id',
  'retry-after',
  'retry-after-ms'
]

function requestOf(context: Context<GatewayEnv>): AccessRequest {
  const { req, env } = context
  const bindings = env as { readonly incoming?: unknown; readonly server?: unknown } | undefined
  // Without a server, as in tests of routes, nobody is at the other end.
  const hasSocket = bindings?.incoming !== undefined || bindings?.server !== undefined
  const remoteAddress = hasSocket ? getConnInfo(context).remote.address : undefined
  return { header: (name) => req.header(name), remoteAddress }
}

/**
 * Refuses with 403 whoever is not the operator; behind `accessMiddleware`.
 *
 * @example
 * app.use('/v1/stats', requireOperator(config))
 */
export function requireOperator({ operatorToken }: Pick<AccessConfig, 'operatorToken'>): MiddlewareHandler<GatewayEnv> {
  const cure =
    operatorToken === undefined ? 'set MILLRACE_TOKEN where the gateway runs, and call with it' : 'call with MILLRACE_TOKEN'
  return async (context, next) => {
    if (!context.get('caller').isOperator) throw refused(403, 'authorization', `this is for the operator only: ${cure}`)
    await next()
  }
}

// With a path, for what a refusal of ours says of it is told to the caller.
function refused(status: 401 | 403, path: string, message: string): MillraceError<'invalid-request'> {
  return new MillraceError('invalid-request', message, { details: { status, path } })
}
