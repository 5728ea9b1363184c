import { createRequire } from 'node:module'
import type * as genai from '@pydantic/genai-prices'
import { addedModels, addedWindows } from './price-added.ts'
import { fits, isNoName, resourceOf, sellerOf, spellings, splitPrefix } from './price-name.ts'

/** A model as one provider sells it. */
export interface Listing {
  /** Who sells it, in the table's name. */
  readonly provider: string
  /** The table's name of the model. */
  readonly model: string
  readonly contextWindow: number | null
  /** US dollars for a million tokens, for a request of so many input tokens at that time. Empty where nobody knows. */
  rates(at: Date, inputTokens: number): Rates
}

export interface Rates {
  readonly input: number | undefined
  readonly cacheRead: number | undefined
  readonly cacheWrite: number | undefined
  readonly longCacheWrite: number | undefined
  readonly output: number | undefined
  readonly reasoning: number | undefined
  /** US dollars for the request itself. */
  readonly request: number | undefined
}

/** Whose models are looked for, in this order, when nothing says who sells it. */
const makers = [
  'openai',
  'anthropic',
  'google',
  'mistral',
  'deepseek',
  'cohere',
  'x-ai',
  'moonshotai',
  'minimax',
  'zai',
  'zhipuai',
  'perplexity',
  'voyageai',
  'arcee'
] as const

const require = createRequire(import.meta.url)

/**
 * Finds a model in the table. Without a provider it is who stands in the name that sells it, and else the maker:
 * `mistralai/mistral-medium-3` is Mistral's own, though OpenRouter has that name too, at another price. A path that starts
 * with nobody we know is not looked up. The table is a package of 480 KB; it is loaded by the first call, synchronously, and
 * never fetches anything.
 */
export function findListing(name: string, provider?: string): Listing | null {
  if (isNoName(name)) return null
  const wanted = name.trim().toLowerCase()
  const split = splitSeller(wanted)
  const seller = provider === undefined ? split?.seller : sellerNamed(sellerOf(provider))
  if (seller !== undefined) return listed(seller, wanted) ?? listed(seller, split?.rest)
  if (provider !== undefined || wanted.includes('/')) return null
  for (const maker of makers) {
    const owner = sellerNamed(maker)
    const listing = owner && listed(owner, wanted)
    if (listing) return listing
  }
  return null
}

/** `groq/llama-3.1-8b-instant` into the seller and the rest, if we know the seller. A resource name stays whole. */
export function splitSeller(name: string): { seller: genai.Provider; rest: string } | undefined {
  const owner = resourceOf(name)?.seller
  const split = owner === undefined ? splitPrefix(name) : { prefix: owner, rest: name }
  const seller = split && sellerNamed(sellerOf(split.prefix))
  return seller && split && { seller, rest: split.rest }
}

function sellerNamed(id: string): genai.Provider | undefined {
  const { findProvider } = require('@pydantic/genai-prices') as typeof genai
  const found = findProvider({ providerId: id })
  // It guesses: whatever contains `openai` would be OpenAI.
  return found?.id === id ? found : undefined
}

/** Makers whose models cost the same wherever they are sold. The table takes more for that, whose prices differ. */
const sameElsewhere: ReadonlySet<string> = new Set(['openai', 'anthropic'])

function listed(seller: genai.Provider, name: string | undefined): Listing | null {
  if (name === undefined) return null
  const resource = resourceOf(name)
  const names = resource?.seller === seller.id ? [name, resource.rest] : [name]
  const others = seller.fallback_model_providers?.filter((id) => sameElsewhere.has(id)) ?? []
  for (const owner of [seller.id, ...others]) {
    const models = [...(addedModels.get(owner) ?? []), ...(sellerNamed(owner)?.models ?? [])]
    for (const spelling of names.flatMap(spellings)) {
      const model = models.find((one) => isNamed(one, spelling))
      if (model !== undefined) return listingOf(seller.id, owner, model)
    }
  }
  return null
}

function isNamed(model: genai.ModelInfo, name: string): boolean {
  // A fine-tune has a price of its own: some rules of base models take it in.
  return (!name.startsWith('ft:') || model.id.startsWith('ft:')) && (name === model.id.toLowerCase() || fits(model.match, name))
}

function listingOf(provider: string, owner: string, model: genai.ModelInfo): Listing {
  // Prices that the table copied from OpenRouter are not what this provider asks.
  const isHearsay = owner !== 'openrouter' && /open ?router/i.test(model.price_comments ?? '')
  return {
    provider,
    model: model.id,
    contextWindow: model.context_window ?? addedWindows.get(`${owner}/${model.id}`) ?? null,
    rates(at, inputTokens) {
      const prices = isHearsay ? {} : pricesAt(model.prices, at)
      const rate = (key: string): number | undefined => rateOf(prices[key], inputTokens)
      const perThousand = rate('requests_kcount')
      return {
        input: rate('input_mtok'),
        cacheRead: rate('cache_read_mtok'),
        cacheWrite: rate('cache_write_mtok'),
        longCacheWrite: rate('cache_write_1h_mtok'),
        output: rate('output_mtok'),
        reasoning: rate('output_reasoning_mtok'),
        request: perThousand && perThousand / 1000
      }
    }
  }
}

/** The last that holds; a first one holds always. */
function pricesAt(prices: genai.ModelInfo['prices'], at: Date): genai.ModelPrice {
  if (!Array.isArray(prices)) return prices
  return (prices.findLast(({ constraint }) => constraint === undefined || holds(constraint, at)) ?? prices[0])?.prices ?? {}
}

function holds(constraint: genai.StartDateConstraint | genai.TimeOfDateConstraint, at: Date): boolean {
  if (constraint.type === 'start_date') return at >= new Date(constraint.start_date)
  const day = 86_400_000
  const time = at.getTime() % day
  const start = Date.parse(`1970-01-01T${constraint.start_time}`)
  const end = Date.parse(`1970-01-01T${constraint.end_time}`)
  return end < start ? time >= start || time < end : time >= start && time < end
}

/** Above a tier's start its price holds for the whole request, not for what is above. */
function rateOf(price: genai.ModelPrice[string], inputTokens: number): number | undefined {
  if (typeof price !== 'object') return price
  const reached = price.tiers.filter(({ start }) => inputTokens > start).toSorted((one, other) => one.start - other.start)
  return reached.at(-1)?.price ?? price.base
}
