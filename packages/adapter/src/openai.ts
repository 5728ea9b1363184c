import { checkOptions, type JsonObject } from '@millrace/core'
import type { Dialect, WireProvider } from './dialect.ts'
import { httpProvider } from './http-provider.ts'
import { createOpenAIReader } from './openai-reader.ts'
import { writeOpenAIRequest } from './openai-request.ts'
import { checkProviderOptions, endpoint, identityOf, type ProviderOptions } from './provider-options.ts'

export type { WireProvider } from './dialect.ts'
export type { ProviderOptions } from './provider-options.ts'

export interface OpenAIOptions extends ProviderOptions {
  /** Any server that speaks OpenAI's chat completions API. @default 'https://api.openai.com/v1' */
  readonly baseURL?: string | undefined
  /**
   * What the server calls the bound of generated tokens. OpenAI's reasoning models know only the first, many compatible
   * servers only the second.
   * @default 'max_completion_tokens' at OpenAI and Azure, else 'max_tokens'
   */
  readonly maxTokensField?: 'max_completion_tokens' | 'max_tokens' | undefined
}

/**
 * OpenAI's chat completions API, and the many servers that speak it.
 *
 * Reasoning parts of earlier answers are not sent: the API has no field for them. One choice a request; for `n > 1` use
 * the `fetch` door.
 *
 * @throws {TypeError} for a missing key or a base URL that is none
 *
 * @example
 * const adapter = createAdapter({ provider: openai({ apiKey: process.env.OPENAI_API_KEY }) })
 */
export function openai(options: OpenAIOptions): WireProvider {
  checkOptions<OpenAIOptions>('openai', options, {
    apiKey: 1,
    baseURL: 1,
    name: 1,
    headers: 1,
    allowInsecure: 1,
    maxTokensField: 1
  })
  const { name = 'openai', baseURL = 'https://api.openai.com/v1' } = options
  const { base, apiKey, secrets } = checkProviderOptions(options, { baseURL, keyName: 'OPENAI_API_KEY' })
  const ofOpenAI = /(^|\.)openai\.(com|azure\.com)$/.test(base.hostname)
  const { maxTokensField = ofOpenAI ? 'max_completion_tokens' : 'max_tokens' } = options
  if (maxTokensField !== 'max_completion_tokens' && maxTokensField !== 'max_tokens') {
    throw new TypeError("maxTokensField must be 'max_completion_tokens' or 'max_tokens'")
  }
  const dialect: Dialect = {
    name,
    url: endpoint(base, 'chat/completions'),
    headers: { authorization: `Bearer ${apiKey}`, ...options.headers },
    secrets,
    body: (request, { stream }): JsonObject => writeOpenAIRequest(request, { stream, maxTokensField }),
    reader: (request) => createOpenAIReader({ name, secrets }, request)
  }
  return {
    name,
    // Without its query, where some put a key.
    origin: base.origin + base.pathname,
    identity: () => identityOf(dialect.headers, { maxTokensField, query: base.search }),
    connect: (send) => httpProvider(dialect, send)
  }
}
