import type { PriceOf } from '@millrace/core'
import { createPrices } from '@millrace/tokens'

/** An example, in USD for a million tokens, so that the embedded provider's calls show as money too. */
const embedded = { inputPerMillion: 2, outputPerMillion: 8 }

/** What a call cost, by the table of `@millrace/tokens`. The table is loaded here: it takes 30 ms, which no call should wait. */
export function createPrice(model: string): PriceOf {
  const prices = createPrices({ overrides: { 'scripted-*': embedded } })
  prices.priceOf(model)
  return (usage, named, provider) => prices.cost(usage, named, { provider })?.total
}
