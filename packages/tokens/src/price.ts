import { checkOptions, inputTokens as inputOf, type Usage } from '@millrace/core'
import { batchRates, tableDate } from './price-added.ts'
import { type Cost, costOf } from './price-cost.ts'
import { isNoName, sellerOf } from './price-name.ts'
import { type Override, type Price, type PriceOverride, readOverrides } from './price-override.ts'
import { findListing, type Listing, splitSeller } from './price-table.ts'

export type { Cost, CostPart } from './price-cost.ts'
export type { Price, PriceOverride } from './price-override.ts'

export interface PricesOptions {
  /**
   * Your prices, by model (`gpt-4o`), by provider and model (`azure/gpt-4o`), or by a pattern with `*` (`ft:gpt-4.1:*`).
   * The very name wins over a pattern, a first pattern over a later one, and all of them over the table. Case is ignored,
   * and a provider's other names hold too: `bedrock/…` for `aws`.
   * @default {}
   */
  readonly overrides?: Readonly<Record<string, PriceOverride>> | undefined
  /** Who sells the models, where a call does not say. @default the model's maker */
  readonly provider?: string | undefined
}

/** Which price of a model. */
export interface PriceOptions {
  /**
   * Who sells it: `openai`, `azure`, `groq`. One that is not known has no prices.
   * @default the one of the table of prices, else the one in the name (`groq/…`, `mistralai/…` even where OpenRouter uses the
   * same name), else the model's maker
   */
  readonly provider?: string | undefined
  /** Whether it went through the provider's batch API; the cost is `null` where no rate is published for that. @default false */
  readonly batch?: boolean | undefined
  /** Prices change on a date, some by the time of day. @default now */
  readonly at?: Date | undefined
  /** What it wrote to the prompt cache was for longer than usual (Anthropic: 1 hour, OpenAI: 12), which is dearer. @default false */
  readonly longCacheWrites?: boolean | undefined
}

/** Prices and context windows by model, from a dated table and your own. Nothing to close. */
export interface Prices {
  /**
   * What a call cost; `null` if that is not known, never 0: an unknown model or provider, tokens for which there is no
   * rate, a usage that is no count. Usage that was not billed (a hit of the cache) costs 0; to see what it saved, ask
   * for `{ ...usage, billed: true }`. Searches, images and audio are not in a usage, nor is the price of a faster tier.
   */
  cost(usage: Usage, model: string, options?: PriceOptions): Cost | null
  /** Tokens that input and output may have together. `null` if not known. */
  contextWindow(model: string, provider?: string): number | null
  /**
   * The rates themselves, with your overrides, for a request of so many input tokens (long ones are dearer). `null` for an
   * unknown model; a rate that is missing is not known, which is why a `cost` can be `null`.
   */
  priceOf(model: string, options?: PriceOptions & { readonly inputTokens?: number | undefined }): Price | null
  /** The day on which the table was made, `2026-09-23`. */
  readonly updated: string
}

/** Names that are remembered: what is asked for may come from outside. */
const maxRemembered = 500

/**
 * Prices and context windows of some 1,700 models at 40 providers. The table comes with the package and is loaded by the
 * first question, in some 30 ms; nothing is ever fetched, so it is as old as `updated` says.
 *
 * @throws {TypeError} for a price that is none, with what to write instead
 *
 * @example
 * const prices = createPrices({ overrides: { 'gpt-4o': { inputPerMillion: 2 }, 'my-deployment': { sameAs: 'azure/gpt-4o' } } })
 * console.log(prices.contextWindow('my-deployment'), prices.updated)
 */
export function createPrices(options: PricesOptions = {}): Prices {
  checkOptions<PricesOptions>('createPrices', options, { overrides: 1, provider: 1 })
  const usual = options.provider
  if (usual !== undefined && (typeof usual !== 'string' || usual.trim() === '')) {
    throw new TypeError("provider must be the name of one: write provider: 'azure'")
  }
  const findOverride = readOverrides(options.overrides ?? {})
  const found = new Map<string, Found>()

  function find(model: string, provider = usual): Found {
    if (typeof model !== 'string') throw new TypeError("a price is for a model: write cost(usage, 'gpt-4.1')")
    if (isNoName(model) || (provider !== undefined && isNoName(provider))) return { override: undefined, listing: null }
    const key = `${provider ?? ''}\n${model}`
    const known = found.get(key)
    if (known !== undefined) return known
    const listing = findListing(model, provider)
    const override = findOverride(namesOf(model, provider, listing))
    const entry = { override, listing: override?.listing ?? listing }
    if (found.size >= maxRemembered) for (const oldest of found.keys()) if (found.delete(oldest)) break
    found.set(key, entry)
    return entry
  }

  function priceOf(model: string, how: PriceOptions & { readonly inputTokens?: number | undefined } = {}): Price | null {
    checkOptions<typeof how>('prices', how, { provider: 1, batch: 1, at: 1, longCacheWrites: 1, inputTokens: 1 })
    const { provider, batch = false, at = new Date(), inputTokens = 0 } = how
    if (!(at instanceof Date) || Number.isNaN(at.getTime()))
      throw new TypeError("at must be a valid date: write at: new Date('2026-11-01')")
    const { override, listing } = find(model, provider)
    if (override === undefined && listing === null) return null
    const price = merge(override?.price, listing, at, inputTokens)
    if (!batch) return price
    return price.batchFactor === undefined ? null : inBatch(price, price.batchFactor, cacheFactor(override, listing))
  }

  return {
    updated: tableDate,
    priceOf,
    contextWindow(model, provider) {
      const { override, listing } = find(model, provider)
      return override?.price.contextWindow ?? listing?.contextWindow ?? null
    },
    cost(usage, model, how) {
      checkUsage(usage)
      if (typeof how === 'string') throw new TypeError("the options of cost are an object: write { provider: 'azure' }")
      const price = priceOf(model, { ...how, inputTokens: inputOf(usage) })
      if (price === null) return null
      const { listing } = find(model, how?.provider)
      const whose = { provider: listing?.provider ?? how?.provider ?? usual, model: listing?.model ?? model }
      return costOf(usage, price, whose, how?.longCacheWrites ?? false)
    }
  }
}

interface Found {
  readonly override: Override | undefined
  readonly listing: Listing | null
}

/** Under which an override may stand, the most exact first. */
function namesOf(model: string, provider: string | undefined, listing: Listing | null): readonly string[] {
  const name = model.trim().toLowerCase()
  const split = splitSeller(name)
  const bare = split?.rest ?? name
  const seller = provider === undefined ? (split?.seller.id ?? listing?.provider) : sellerOf(provider)
  return [`${provider?.trim().toLowerCase()}/${name}`, `${seller}/${bare}`, name, bare]
}

/** A usage of a provider's own shape would cost nothing. */
function checkUsage(usage: Usage): void {
  const { input, output, billed } = (usage as Usage | null | undefined) ?? {}
  if (typeof input === 'object' && typeof output === 'object' && typeof billed === 'boolean') return
  throw new TypeError(
    'usage must be { input: { uncached, cacheRead, cacheWrite }, output: { text, reasoning }, estimated, billed }, as completion.usage is'
  )
}

function merge(own: Price | undefined, listing: Listing | null, at: Date, inputTokens: number): Price {
  const rates = listing?.rates(at, inputTokens)
  return {
    inputPerMillion: own?.inputPerMillion ?? rates?.input,
    outputPerMillion: own?.outputPerMillion ?? rates?.output,
    cacheReadPerMillion: own?.cacheReadPerMillion ?? rates?.cacheRead,
    cacheWritePerMillion: own?.cacheWritePerMillion ?? rates?.cacheWrite,
    longCacheWritePerMillion: own?.longCacheWritePerMillion ?? rates?.longCacheWrite,
    reasoningPerMillion: own?.reasoningPerMillion ?? rates?.reasoning ?? own?.outputPerMillion ?? rates?.output,
    perRequest: own?.perRequest ?? rates?.request,
    batchFactor: own?.batchFactor ?? batchRates.get(listing?.provider ?? '')?.tokens,
    contextWindow: own?.contextWindow ?? listing?.contextWindow ?? undefined
  }
}

/** Your factor is for all tokens; by the table those of the prompt cache may not get cheaper in a batch. */
function cacheFactor(override: Override | undefined, listing: Listing | null): number {
  return override?.price.batchFactor ?? batchRates.get(listing?.provider ?? '')?.cache ?? 1
}

function inBatch(price: Price, factor: number, cached: number): Price {
  return {
    ...price,
    inputPerMillion: times(price.inputPerMillion, factor),
    outputPerMillion: times(price.outputPerMillion, factor),
    reasoningPerMillion: times(price.reasoningPerMillion, factor),
    cacheReadPerMillion: times(price.cacheReadPerMillion, cached),
    cacheWritePerMillion: times(price.cacheWritePerMillion, cached),
    longCacheWritePerMillion: times(price.longCacheWritePerMillion, cached)
  }
}

function times(rate: number | undefined, factor: number): number | undefined {
  return rate === undefined ? undefined : rate * factor
}

/**
 * What a call cost, by the table alone; `null` if that is not known. The short way of `createPrices().cost`.
 *
 * @example
 * const usage = { input: { uncached: 1200, cacheRead: 0, cacheWrite: 0 }, output: { text: 300, reasoning: 0 } }
 * console.log(cost({ ...usage, estimated: false, billed: true }, 'gpt-4.1')?.total)
 */
export function cost(usage: Usage, model: string, options?: PriceOptions): Cost | null {
  return table().cost(usage, model, options)
}

/**
 * Tokens that input and output of a model may have together, by the table alone; `null` if that is not known.
 *
 * @example
 * console.log(contextWindow('gpt-4.1'))
 */
export function contextWindow(model: string, provider?: string): number | null {
  return table().contextWindow(model, provider)
}

function table(): Prices {
  shared ??= createPrices()
  return shared
}

// Module state, as in tokenizer.ts: it holds what is the same for all who ask, and remembers a bounded number of names.
let shared: Prices | undefined
