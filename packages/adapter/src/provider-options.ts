/** What every provider over HTTP can be told. */
export interface ProviderOptions {
  /** Sent with each request; never logged, never part of a cache key. */
  readonly apiKey: string | undefined
  /** What the provider is called in chunks, errors and telemetry. @default the API family's name */
  readonly name?: string | undefined
  /** Further headers, such as an organisation or a beta; names in lower case. They win over ours. */
  readonly headers?: Readonly<Record<string, string>> | undefined
}

/** @throws {TypeError} that says what to write instead; it never quotes the key */
export function checkProviderOptions(options: ProviderOptions & { baseURL: string; keyName: string }): {
  base: URL
  apiKey: string
} {
  const { apiKey, baseURL, keyName, headers = {} } = options
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
  for (const [name, value] of Object.entries(headers)) {
    if (!/^[a-z0-9!#$%&'*+.^_`|~-]+$/.test(name))
      throw new TypeError(`headers: ${JSON.stringify(name)} must be a header name in lower case`)
    if (['host', 'content-length', 'transfer-encoding', 'connection'].includes(name)) {
      throw new TypeError(`headers: ${name} belongs to the connection and cannot be set`)
    }
    if (typeof value !== 'string' || !isHeaderValue(value))
      throw new TypeError(`headers: the value of ${name} must be text without line breaks`)
  }
  return { base, apiKey }
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
