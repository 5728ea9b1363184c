import type { JsonObject } from '@millrace/core'

/** What every provider over HTTP can be told. */
export interface ProviderOptions {
  /** Sent with each request; never logged, never part of a cache key. */
  readonly apiKey: string | undefined
  /** What the provider is called in chunks, errors and telemetry. @default the API family's name */
  readonly name?: string | undefined
  /** Further headers, such as an organisation or a beta; names in lower case. They win over ours. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  /** True: the key may go over plain http to a host that is not this machine, such as a model server in your cluster. @default false */
  readonly allowInsecure?: boolean | undefined
}

/** @throws {TypeError} that says what to write instead; it never quotes the key */
export function checkProviderOptions(
  options: ProviderOptions,
  { baseURL, keyName }: { readonly baseURL: string; readonly keyName: string }
): { readonly base: URL; readonly apiKey: string; readonly secrets: readonly string[] } {
  const { apiKey, name, headers = {}, allowInsecure = false } = options
  if (name !== undefined && (typeof name !== 'string' || name === '')) throw new TypeError('name must be a non-empty string')
  if (typeof apiKey !== 'string' || apiKey === '') {
    throw new TypeError(
      `apiKey is missing: pass { apiKey: process.env.${keyName} } and set ${keyName}; any text will do for a server that asks for none`
    )
  }
  if (!isHeaderValue(apiKey)) throw new TypeError('apiKey holds a line break or a control character: trim what you read it from')
  const base = URL.parse(baseURL)
  if (base === null || !/^https?:$/.test(base.protocol)) {
    throw new TypeError(
      'baseURL must be an absolute http or https address that ends before the endpoint, such as https://api.openai.com/v1'
    )
  }
  if (base.username !== '' || base.password !== '')
    throw new TypeError('baseURL must not hold a user name or password: pass headers instead')
  if (base.protocol === 'http:' && !isLoopback(base.hostname) && !allowInsecure) {
    throw new TypeError('baseURL would send the key unencrypted: use https, or say allowInsecure: true if you trust the network')
  }
  for (const [header, value] of Object.entries(headers)) {
    if (!/^[a-z0-9!#$%&'*+.^_`|~-]+$/.test(header))
      throw new TypeError(`headers: ${JSON.stringify(header)} must be a header name in lower case`)
    if (['host', 'content-length', 'transfer-encoding', 'connection'].includes(header)) {
      throw new TypeError(`headers: ${header} belongs to the connection and cannot be set`)
    }
    if (typeof value !== 'string' || !isHeaderValue(value))
      throw new TypeError(`headers: the value of ${header} must be text without line breaks`)
  }
  // What a header says may be as secret as the key, and a provider may echo either.
  const secrets = [apiKey, ...Object.values(headers).filter((value) => value.length >= 8)]
  return { base, apiKey, secrets }
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '[::1]' || /^127(\.\d+){3}$/.test(host)
}

function isHeaderValue(value: string): boolean {
  return !/[^\t\x20-\x7e\x80-\xff]/.test(value)
}

/** The base URL's own query (Azure's api-version) stays behind the path. */
export function endpoint(base: URL, path: string): string {
  const url = new URL(base)
  url.pathname = `${base.pathname.replace(/\/+$/, '')}/${path}`
  return url.href
}

/** What the cache must know of a provider beside its address: who pays, and what changes every answer. */
export interface ProviderIdentity {
  readonly credential: string
  readonly variant: string
}

const credentialHeaders: ReadonlySet<string> = new Set([
  'authorization',
  'x-api-key',
  'api-key',
  'x-goog-api-key',
  'openai-organization',
  'openai-project',
  'cookie'
])

/** Headers that are not known to be credentials may ask for other answers, as a beta does: they make a variant. */
export function identityOf(headers: Readonly<Record<string, string>>, settings: JsonObject): ProviderIdentity {
  const sorted = Object.entries(headers).toSorted(([a], [b]) => (a < b ? -1 : 1))
  const isCredential = ([name]: readonly [string, string]): boolean => credentialHeaders.has(name)
  return {
    credential: JSON.stringify(sorted.filter(isCredential)),
    variant: JSON.stringify([settings, sorted.filter((entry) => !isCredential(entry))])
  }
}
