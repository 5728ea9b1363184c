import type { BatchArguments } from './batch-arguments.ts'
import type { FormatName } from './batch-line.ts'
import { Exit } from './exit.ts'
import type { Host } from './host.ts'

/** Where requests go, and as whom. */
export interface Endpoint {
  readonly base: URL
  /** Of each request, the key among them. */
  readonly headers: Readonly<Record<string, string>>
  /** What must not be in any file or message: the key, unless it is a word that is no secret. */
  readonly secret: string | undefined
}

const providers = {
  openai: { baseURL: 'https://api.openai.com', keyName: 'OPENAI_API_KEY' },
  anthropic: { baseURL: 'https://api.anthropic.com', keyName: 'ANTHROPIC_API_KEY' }
} as const satisfies Record<FormatName, object>

type Asked = Pick<BatchArguments, 'baseURL' | 'apiKeyEnv' | 'allowInsecure' | 'headers'>

/** @throws {Exit} 2 for a base URL that is none, and for a key that is missing; it never quotes the key */
export function readEndpoint(asked: Asked, format: FormatName, env: Host['env']): Endpoint {
  const provider = providers[format]
  const base = URL.parse(asked.baseURL ?? provider.baseURL)
  if (base === null || !/^https?:$/.test(base.protocol))
    throw new Exit(2, '--base-url must be an http or https address, such as https://api.openai.com')
  if (base.username !== '' || base.password !== '') throw new Exit(2, '--base-url must hold no user name or password')
  if (base.protocol === 'http:' && !isLoopback(base.hostname) && !asked.allowInsecure) {
    throw new Exit(
      2,
      '--base-url would send the key and all prompts unencrypted: use https, or --allow-insecure if you trust the network'
    )
  }
  const keyName = asked.apiKeyEnv ?? provider.keyName
  const key = env[keyName]?.trim() ?? ''
  // A server of your own may ask for none.
  if (key === '' && (asked.baseURL === undefined || asked.apiKeyEnv !== undefined)) {
    throw new Exit(
      2,
      `no API key: set ${keyName} in the environment${asked.apiKeyEnv === undefined ? ', or name another variable with --api-key-env' : ''}`
    )
  }
  if (/[^\x21-\x7e]/.test(key)) throw new Exit(2, `${keyName} holds a space or a control character: it is no API key`)
  return { base, headers: { ...keyHeaders(format, key), ...asked.headers }, secret: key.length >= 16 ? key : undefined }
}

function keyHeaders(format: FormatName, key: string): Record<string, string> {
  if (format === 'anthropic') return { 'anthropic-version': '2023-06-01', ...(key !== '' && { 'x-api-key': key }) }
  return key === '' ? {} : { authorization: `Bearer ${key}` }
}

/** The address of a request. A base that ends in `/v1`, as SDKs have it, takes it from the path; its query stays behind. */
export function urlOf(base: URL, path: string): string {
  const url = new URL(base)
  const folder = base.pathname.replace(/\/+$/, '')
  url.pathname = folder.endsWith('/v1') && path.startsWith('/v1/') ? folder + path.slice(3) : folder + path
  return url.href
}

/** Whether a URL's host is this machine by its very name. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '[::1]' || /^127(?:\.\d+){3}$/.test(host)
}
