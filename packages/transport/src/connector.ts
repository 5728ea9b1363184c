import { isIPv6, type Socket } from 'node:net'
import { createSecureContext, getCACertificates } from 'node:tls'
import { MillraceError, type WirePhase } from '@millrace/core'
import { buildConnector } from 'undici'
import { checkCertificates } from './certificates.ts'
import { createLookup } from './lookup.ts'
import { checkProxy, openTunnel, type Proxy, parseProxy, proxyInEnvironment } from './proxy.ts'
import { wireError } from './wire-error.ts'

/** Where a socket leads. */
export interface ConnectTarget {
  readonly protocol: 'http:' | 'https:'
  /** An IPv6 address without its brackets. */
  readonly hostname: string
  readonly port: number
}

export interface ConnectorOptions {
  /** Offers HTTP/2 before HTTP/1.1 to an https origin. */
  readonly http2: boolean
  /** PEM text of certificates to trust beside those of Node. */
  readonly ca?: string | readonly string[] | undefined
  /**
   * The URL of an http or https proxy, with `user:password@` where it asks for them; false for none. In NO_PROXY,
   * `example.com` exempts that host alone and `.example.com` all below it; ranges of addresses mean nothing there.
   *
   * @default HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY of the environment, in either case
   */
  readonly proxy?: string | false | undefined
}

/** A connection on its way; destroying it ends it whatever it waits for, and calls back with this error. */
export interface Connecting {
  destroy(error: Error): void
}

/** How sockets come to be. It has no clock: its callers have, and destroy what takes too long. */
export interface Connector {
  /**
   * Calls back once, never before it has returned: with a socket that is ready to be written to, or with an error. An error
   * of its own is a `MillraceError` that names the phase; nothing of the request has been sent then.
   */
  connect(target: ConnectTarget, callback: (error: Error | null, socket: Socket | null) => void): Connecting
  /**
   * What a request must bear that a proxy forwards, written in the absolute form; undefined where it goes straight or
   * through a tunnel. Only plain http is ever forwarded.
   */
  forward(target: ConnectTarget): { readonly headers: Readonly<Record<string, string>> } | undefined
}

/** How an origin is reached; undefined where the environment names a proxy that cannot be used. */
type Route = 'direct' | ForwardingProxy | undefined

interface ForwardingProxy extends Proxy {
  readonly headers: Readonly<Record<string, string>>
}

/** Origins whose route is remembered; the oldest is read anew. */
const maxRoutes = 1000

/**
 * Opens sockets straight or through a proxy. Certificates are always verified, whatever the environment says.
 *
 * @throws {TypeError} for a proxy that is no http or https URL, or a `ca` that is no PEM text
 *
 * @example
 * const connector = createConnector({ http2: false, proxy: false })
 * connector.connect({ protocol: 'https:', hostname: 'api.example.com', port: 443 }, (error, socket) => socket?.end())
 */
export function createConnector(options: ConnectorOptions): Connector {
  const { http2, proxy } = options
  const fixed = proxy === undefined ? undefined : proxy === false ? 'direct' : forwarding(checkProxy(proxy))
  const shared = {
    timeout: 0,
    lookup: createLookup(),
    // Said out loud, for NODE_TLS_REJECT_UNAUTHORIZED would turn it off for the whole process.
    rejectUnauthorized: true,
    ...trust(options.ca)
  }
  const toOrigin = buildConnector({ ...shared, allowH2: http2, preferH2: http2 }) as Build
  const toProxy = buildConnector({ ...shared, allowH2: false }) as Build
  const routes = new Map<string, Route>()

  /** Read from the environment once, so that an origin's sockets and requests agree. */
  function routeTo(target: ConnectTarget): Route {
    if (fixed !== undefined) return fixed
    const origin = `${target.protocol}${target.hostname}:${target.port}`
    if (routes.has(origin)) return routes.get(origin)
    const url = proxyInEnvironment(target)
    const route = url === undefined ? 'direct' : forwarding(parseProxy(url))
    for (const oldest of routes.keys()) if (routes.size >= maxRoutes) routes.delete(oldest)
    routes.set(origin, route)
    return route
  }

  return {
    connect(target, callback) {
      const route = routeTo(target)
      const attempt = createAttempt(callback)
      if (route === undefined) attempt.fail(unusableProxy())
      else if (route === 'direct') attempt.open(toOrigin, target, 'server', attempt.done)
      else if (target.protocol === 'http:') attempt.open(toProxy, route.target, 'proxy', attempt.done)
      else {
        attempt.open(toProxy, route.target, 'proxy', (socket) => {
          openTunnel(socket, target, route, (error) => {
            if (error === null) attempt.open(toOrigin, target, 'server', attempt.done, socket)
            else attempt.fail(error)
          })
        })
      }
      return attempt
    },
    forward(target) {
      if (target.protocol === 'https:') return undefined
      const route = routeTo(target)
      return route === undefined || route === 'direct' ? undefined : { headers: route.headers }
    }
  }
}

/** undici's connector returns the socket it connects, which its types do not tell. */
type Build = (...parameters: Parameters<buildConnector.connector>) => Socket

interface Attempt extends Connecting {
  /** Opens the next socket, through the one it stands on if there is one. */
  open(build: Build, target: ConnectTarget, peer: 'server' | 'proxy', next: (socket: Socket) => void, through?: Socket): void
  done(socket: Socket): void
  fail(error: Error): void
}

/** One callback and the sockets that lead to it: where it fails, none of them is left. */
function createAttempt(callback: (error: Error | null, socket: Socket | null) => void): Attempt {
  const sockets: Socket[] = []
  let over = false

  function fail(error: Error): void {
    if (over) return
    over = true
    for (const socket of sockets) socket.destroy()
    // Later, for a caller that destroys what it has just begun does not expect to be called back within that.
    process.nextTick(callback, error, null)
  }

  return {
    open(build, target, peer, next, through) {
      if (over) return
      let phase: WirePhase = through === undefined ? 'connect' : 'tls'
      try {
        const { protocol, hostname, port } = target
        const host = isIPv6(hostname) ? `[${hostname}]` : hostname
        const to = { protocol, hostname, host, port: String(port), ...(through && { httpSocket: through }) }
        const socket = build(to, (error, _socket) => {
          socket.off('close', lost)
          if (error !== null) fail(wireError(error, phase, {}, peer))
          else if (!over) next(socket)
        })
        const lost = (): void => fail(wireError(undefined, phase, {}, peer))
        sockets.push(socket.once('close', lost))
        // A TLS socket tells when TCP stands; what fails from here on is the handshake.
        if (protocol === 'https:') socket.once('connect', () => (phase = 'tls'))
      } catch (error) {
        fail(wireError(error, phase, {}, peer))
      }
    },
    done(socket) {
      over = true
      callback(null, socket)
    },
    fail,
    destroy: fail
  }
}

function forwarding(proxy: Proxy | undefined): ForwardingProxy | undefined {
  if (proxy === undefined) return undefined
  const { authorization } = proxy
  return { ...proxy, headers: authorization === undefined ? {} : { 'proxy-authorization': authorization } }
}

function unusableProxy(): MillraceError {
  return new MillraceError(
    'network',
    'the proxy in the environment (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY) cannot be used: only http and https proxies are supported, as in http://host:3128; name the host in NO_PROXY to go straight',
    { details: { phase: 'connect' }, retryable: false }
  )
}

/** Node's own authorities and these: its `ca` alone would replace them. One context for all, for it holds them parsed. */
function trust(ca: string | readonly string[] | undefined): { secureContext?: ReturnType<typeof createSecureContext> } {
  if (ca === undefined) return {}
  return { secureContext: createSecureContext({ ca: [...getCACertificates('default'), ...checkCertificates(ca)] }) }
}
