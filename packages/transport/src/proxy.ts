// oxlint-disable-next-line typescript/triple-slash-reference -- whoever compiles this source needs the declaration too
/// <reference path="./proxy-from-env.d.ts" />
import { isIPv6, type Socket } from 'node:net'
import { MillraceError } from '@millrace/core'
import { getProxyForUrl } from 'proxy-from-env'
import type { ConnectTarget } from './connector.ts'
import { wireError } from './wire-error.ts'

export interface Proxy {
  readonly target: ConnectTarget
  /** What it is told, in `proxy-authorization` and nowhere else. */
  readonly authorization: string | undefined
}

/** Host and port as they stand in a URL. */
function authorityOf({ hostname, port }: ConnectTarget): string {
  return `${isIPv6(hostname) ? `[${hostname}]` : hostname}:${port}`
}

/** Undefined for what is not the URL of an http or https proxy. */
export function parseProxy(text: string): Proxy | undefined {
  const url = URL.parse(text)
  if (url === null || url.hostname === '' || (url.protocol !== 'http:' && url.protocol !== 'https:')) return undefined
  const { protocol, hostname, port } = url
  const user = decode(url.username)
  const password = decode(url.password)
  if (user === undefined || password === undefined) return undefined
  return {
    target: {
      protocol,
      hostname: hostname.replace(/^\[|\]$/g, ''),
      port: port === '' ? (protocol === 'https:' ? 443 : 80) : Number(port)
    },
    authorization: user === '' && password === '' ? undefined : `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`
  }
}

/** @throws {TypeError} for what is not the URL of an http or https proxy; it is not quoted, for it may hold a password */
export function checkProxy(url: string): Proxy {
  const proxy = typeof url === 'string' ? parseProxy(url) : undefined
  if (proxy !== undefined) return proxy
  throw new TypeError(
    "proxy must be the URL of an http or https proxy, such as 'http://host:3128' or 'http://user:password@host:3128' (percent-encoded), or false for none; others, such as SOCKS, are not supported"
  )
}

function decode(part: string): string | undefined {
  try {
    return decodeURIComponent(part)
  } catch {
    return undefined // a lone percent sign: the caller is told that this is no proxy URL
  }
}

/** The URL of the proxy that the environment names for this origin; undefined for none. */
export function proxyInEnvironment(target: ConnectTarget): string | undefined {
  const found = getProxyForUrl(`${target.protocol}//${authorityOf(target)}`)
  if (found === '') return undefined
  if (!found.startsWith('https://')) return found
  // Where the variable names no scheme, the library takes the origin's. A proxy is spoken to in plain HTTP then, as curl does.
  const bare = found.slice('https://'.length)
  const isBare = ['https_proxy', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY'].some((name) => process.env[name] === bare)
  return isBare ? `http://${bare}` : found
}

/** An answer to CONNECT is a status line and a few headers. */
const maxHeadBytes = 16_384

/**
 * Asks the proxy at the other end of `socket` for a tunnel. Calls back once, never before it has returned; the socket is
 * then ready to be spoken through, with all bytes behind the proxy's answer unread. It has no clock: who waits destroys the
 * socket, which calls back too.
 */
export function openTunnel(
  socket: Socket,
  target: ConnectTarget,
  { authorization }: Proxy,
  callback: (error: MillraceError | null) => void
): void {
  let head: Buffer = Buffer.alloc(0)
  let received = 0

  function end(error: MillraceError | null): void {
    socket.off('readable', read).off('error', fail).off('end', cut).off('close', cut)
    if (error === null && head.length > 0) socket.unshift(head)
    callback(error)
  }
  const fail = (error: Error): void => end(wireError(error, 'connect', {}, 'proxy'))
  const cut = (): void => end(proxyError('the proxy closed the connection before it answered', { retryable: true }))

  // By `read` and not by 'data': a socket that flows would lose what the TLS behind it has to see.
  function read(): void {
    for (;;) {
      const piece = socket.read() as Buffer | null
      if (piece === null) return
      head = Buffer.concat([head, piece])
      received += piece.length
      for (;;) {
        if (!isHttp(head)) return end(malformed())
        const length = head.indexOf('\r\n\r\n')
        if (length === -1 ? received > maxHeadBytes : length > maxHeadBytes) return end(tooLarge())
        if (length === -1) break
        const status = /^HTTP\/1\.[01] ([1-9]\d\d)(?: |$)/.exec(head.toString('latin1', 0, head.indexOf('\r\n')))?.[1]
        if (status === undefined) return end(malformed())
        head = head.subarray(length + 4)
        if (status.startsWith('2')) return end(null)
        if (!status.startsWith('1')) return end(refusal(Number(status)))
      }
    }
  }

  socket.on('readable', read).on('error', fail).on('end', cut).on('close', cut)
  const authority = authorityOf(target)
  const credentials = authorization === undefined ? '' : `proxy-authorization: ${authorization}\r\n`
  socket.write(`CONNECT ${authority} HTTP/1.1\r\nhost: ${authority}\r\n${credentials}\r\n`)
}

/** As far as it can be told: what is not HTTP may have no end either. */
function isHttp(head: Buffer): boolean {
  return 'HTTP/1.'.startsWith(head.toString('latin1', 0, 7))
}

function refusal(status: number): MillraceError {
  if (status === 407) {
    return proxyError(
      'the proxy asks for credentials, or does not accept those it was given (407): write them into its URL, as in http://user:password@host:port, with special characters percent-encoded',
      { retryable: false }
    )
  }
  return proxyError(`the proxy refused the tunnel with status ${status}`, {
    retryable: status >= 500 || status === 408 || status === 429
  })
}

function proxyError(message: string, { retryable }: { readonly retryable: boolean }): MillraceError {
  return new MillraceError('network', message, { details: { phase: 'connect' }, retryable })
}

function malformed(): MillraceError {
  return new MillraceError('protocol', 'what the proxy answered is not HTTP: check the port and scheme of its URL', {
    details: { reason: 'malformed' }
  })
}

function tooLarge(): MillraceError {
  return new MillraceError('protocol', `the proxy's answer has more than ${maxHeadBytes} bytes of headers`, {
    details: { reason: 'too-large' }
  })
}
