import type { PriceOf } from '@millrace/core'
import { createPrices } from '@millrace/tokens'
import type { ProviderConfig } from './config.ts'

/** In USD for a million tokens. */
export interface PriceConfig {
  readonly inputPerMillion: number
  readonly outputPerMillion: number
}

/** An example, so that the embedded provider's calls show as money too. */
const embedded: PriceConfig = { inputPerMillion: 2, outputPerMillion: 8 }

/**
 * What a call cost: by the prices of the configuration, else by the table of `@millrace/tokens`, where the address of a
 * provider says who sells, for its name is whatever the configuration calls it; at an address nobody knows, such as a proxy
 * of one's own, the name says it, or nobody does, and there is no price. The table is loaded here: it takes 30 ms,
 * which no call should wait.
 */
export function createPrice(
  model: string,
  {
    providers = [],
    prices: own = {}
  }: { providers?: readonly ProviderConfig[]; prices?: Readonly<Record<string, PriceConfig>> } = {}
): PriceOf {
  const prices = createPrices({ overrides: { ...own, 'scripted-*': embedded } })
  prices.priceOf(model)
  const sellers = new Map(providers.map(({ name, baseURL }) => [name, sellerAt(new URL(baseURL).hostname) ?? name]))
  return (usage, named, provider) => prices.cost(usage, named, { provider: sellers.get(provider) ?? provider })?.total
}

function sellerAt(host: string): string | undefined {
  return sellers.find(([end]) => host === end || host.endsWith(`.${end}`))?.[1]
}

const sellers: readonly (readonly [end: string, seller: string])[] = [
  ['api.openai.com', 'openai'],
  ['openai.azure.com', 'azure'],
  ['services.ai.azure.com', 'azure'],
  ['api.anthropic.com', 'anthropic'],
  ['api.groq.com', 'groq'],
  ['openrouter.ai', 'openrouter'],
  ['api.mistral.ai', 'mistral'],
  ['api.deepseek.com', 'deepseek'],
  ['cognitiveservices.azure.com', 'azure'],
  ['generativelanguage.googleapis.com', 'google'],
  ['api.together.xyz', 'together'],
  ['api.together.ai', 'together'],
  ['api.fireworks.ai', 'fireworks'],
  ['api.x.ai', 'x-ai']
]
