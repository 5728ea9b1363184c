import type { ProviderConfig } from './config.ts'

/**
 * Where a path behind the version, such as `/responses`, stands at a provider. Base URLs are written as each API's own
 * client has them: Anthropic's without the version, though many write it.
 */
export function upstreamURL({ api, baseURL }: Pick<ProviderConfig, 'api' | 'baseURL'>, path: string): URL {
  const url = new URL(baseURL)
  const base = url.pathname.replace(/\/+$/, '')
  url.pathname = base + (api === 'anthropic' && !base.endsWith('/v1') ? '/v1' : '') + path
  return url
}

/** The provider's key, as its API wants it. */
export function credentialsOf({ api, apiKey }: Pick<ProviderConfig, 'api' | 'apiKey'>): Record<string, string> {
  return api === 'openai' ? { authorization: `Bearer ${apiKey}` } : { 'x-api-key': apiKey }
}

/** What Anthropic's API demands; callers may name another. */
export const anthropicVersion = '2023-06-01'
