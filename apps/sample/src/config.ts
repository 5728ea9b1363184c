/** Everything the gateway can be told, by environment variables only. */
export interface Config {
  readonly host: string
  readonly port: number
  /** Callers must send it as a bearer token. Required when `host` is not a loopback address. */
  readonly token: string | undefined
  /** The provider behind the gateway; `undefined` starts the embedded one. */
  readonly upstream: Upstream | undefined
  /** The model used by the page, the demo and callers that name none of the provider's. */
  readonly model: string
  /** Tokens the model can hold; longer conversations lose their oldest turns. `undefined`: sent as they are. */
  readonly contextWindow: number | undefined
  readonly cacheTtlMs: number
}

/** What the embedded provider is called with; it asks for no key. */
export const embeddedKey = 'embedded'

export interface Upstream {
  readonly apiKey: string
  readonly baseURL: string
}

/** What is wrong with the configuration, in one line that names the key and the cure. */
export class ConfigError extends Error {}

/** @throws {ConfigError} */
export function readConfig(env: Readonly<Record<string, string | undefined>>): Config {
  const host = env.HOST || '127.0.0.1'
  const token = env.MILLRACE_TOKEN || undefined
  if (!isLoopback(host) && token === undefined) {
    throw new ConfigError(
      `HOST=${host} is open to others: set MILLRACE_TOKEN to a secret that callers must send, or leave HOST out`
    )
  }
  const upstream = readUpstream(env)
  return {
    host,
    port: wholeNumber(env, 'PORT', 8787, 0, 65_535),
    token,
    upstream,
    model: env.OPENAI_MODEL || (upstream === undefined ? 'scripted-large' : 'gpt-4.1-mini'),
    contextWindow: env.MILLRACE_CONTEXT_WINDOW ? wholeNumber(env, 'MILLRACE_CONTEXT_WINDOW', 0, 256, 100_000_000) : undefined,
    cacheTtlMs: wholeNumber(env, 'MILLRACE_CACHE_TTL_MS', 300_000, 1, 86_400_000)
  }
}

function readUpstream(env: Readonly<Record<string, string | undefined>>): Upstream | undefined {
  const apiKey = env.OPENAI_API_KEY
  const baseURL = env.OPENAI_BASE_URL || 'https://api.openai.com/v1'
  if (!apiKey) {
    if (!env.OPENAI_BASE_URL) return undefined
    throw new ConfigError(
      'OPENAI_BASE_URL is set, but OPENAI_API_KEY is not: set it (any text will do for a server that asks for none)'
    )
  }
  const url = URL.parse(baseURL)
  if (url === null || !/^https?:$/.test(url.protocol)) {
    throw new ConfigError('OPENAI_BASE_URL must be an absolute http or https address, such as https://api.openai.com/v1')
  }
  if (url.protocol === 'http:' && !isLoopback(url.hostname)) {
    throw new ConfigError('OPENAI_BASE_URL would send the key unencrypted: use https, or http only to this machine')
  }
  return { apiKey, baseURL }
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(host)
}

function wholeNumber(
  env: Readonly<Record<string, string | undefined>>,
  key: string,
  fallback: number,
  low: number,
  high: number
): number {
  const text = env[key]
  if (text === undefined || text === '') return fallback
  const value = Number(text)
  if (Number.isSafeInteger(value) && value >= low && value <= high) return value
  throw new ConfigError(`${key} must be a whole number from ${low} to ${high}`)
}
