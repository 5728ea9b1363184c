import { checkOptions, type JsonObject } from '@millrace/core'
import { createAnthropicReader } from './anthropic-reader.ts'
import { writeAnthropicRequest } from './anthropic-request.ts'
import type { Dialect, WireProvider } from './dialect.ts'
import { httpProvider } from './http-provider.ts'
import { checkProviderOptions, endpoint, identityOf, type ProviderOptions } from './provider-options.ts'

export type { WireProvider } from './dialect.ts'
export type { ProviderOptions } from './provider-options.ts'

export interface AnthropicOptions extends ProviderOptions {
  /** @default 'https://api.anthropic.com' */
  readonly baseURL?: string | undefined
  /** The API demands a bound of generated tokens; this one is sent where the request has none. @default 4096 */
  readonly maxOutputTokens?: number | undefined
  /** Sent as `anthropic-version`. @default '2023-06-01' */
  readonly version?: string | undefined
}

/**
 * Anthropic's Messages API.
 *
 * System and developer messages become the top-level system prompt, wherever they stand. Reasoning parts are sent back
 * only with their signature: the API refuses others. `seed`, and fields of `extra` that only OpenAI knows, are refused.
 *
 * @throws {TypeError} for a missing key or a base URL that is none
 *
 * @example
 * const adapter = createAdapter({ provider: anthropic({ apiKey: process.env.ANTHROPIC_API_KEY }) })
 */
export function anthropic(options: AnthropicOptions): WireProvider {
  checkOptions<AnthropicOptions>('anthropic', options, {
    apiKey: 1,
    baseURL: 1,
    name: 1,
    headers: 1,
    allowInsecure: 1,
    maxOutputTokens: 1,
    version: 1
  })
  const { name = 'anthropic', baseURL = 'https://api.anthropic.com', maxOutputTokens = 4096, version = '2023-06-01' } = options
  const { base, apiKey, secrets } = checkProviderOptions(options, { baseURL, keyName: 'ANTHROPIC_API_KEY' })
  if (!Number.isSafeInteger(maxOutputTokens) || maxOutputTokens < 1) {
    throw new TypeError('maxOutputTokens must be a whole number of at least 1')
  }
  const dialect: Dialect = {
    name,
    url: endpoint(base, base.pathname.endsWith('/v1') ? 'messages' : 'v1/messages'),
    headers: { 'x-api-key': apiKey, 'anthropic-version': version, ...options.headers },
    secrets,
    body: (request, { stream }): JsonObject => writeAnthropicRequest(request, { stream, maxOutputTokens }),
    reader: (request) => createAnthropicReader({ name, secrets }, request)
  }
  return {
    name,
    // Without its query, where some put a key.
    origin: base.origin + base.pathname,
    identity: () => identityOf(dialect.headers, { maxOutputTokens, query: base.search }),
    connect: (send) => httpProvider(dialect, send)
  }
}
