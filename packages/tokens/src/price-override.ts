import { checkOptions } from '@millrace/core'
import { withSeller } from './price-name.ts'
import { findListing, type Listing } from './price-table.ts'

/** What one model costs at one provider: US dollars for a million tokens. What is left out is not known. */
export interface Price {
  readonly inputPerMillion?: number | undefined
  readonly outputPerMillion?: number | undefined
  /** Input read from the provider's prompt cache. */
  readonly cacheReadPerMillion?: number | undefined
  /** Input written to it, for the provider's usual time (Anthropic: 5 minutes, OpenAI: 30). */
  readonly cacheWritePerMillion?: number | undefined
  /** Input written to it for longer (Anthropic: 1 hour, OpenAI: 12). */
  readonly longCacheWritePerMillion?: number | undefined
  /** @default what output costs */
  readonly reasoningPerMillion?: number | undefined
  /** US dollars for the request itself, whatever its size. */
  readonly perRequest?: number | undefined
  /** What a batch costs, as a factor of the rates per token: 0.5 is half. */
  readonly batchFactor?: number | undefined
  /** Tokens that input and output may have together. */
  readonly contextWindow?: number | undefined
}

/** Your price of a model. What it leaves out is as the table has it, if the table has the model. */
export interface PriceOverride extends Price {
  /** The model of the table that this is, for names of your own: an Azure deployment, a gateway's alias. */
  readonly sameAs?: string | undefined
}

export interface Override {
  readonly price: Price
  /** In place of what the name itself would find. */
  readonly listing: Listing | undefined
}

/** Finds what is said of the first of these names that something is said of: by the very name first, then by a pattern. */
export type FindOverride = (names: readonly string[]) => Override | undefined

const keys: Readonly<Record<keyof PriceOverride, 1>> = {
  inputPerMillion: 1,
  outputPerMillion: 1,
  cacheReadPerMillion: 1,
  cacheWritePerMillion: 1,
  longCacheWritePerMillion: 1,
  reasoningPerMillion: 1,
  perRequest: 1,
  batchFactor: 1,
  contextWindow: 1,
  sameAs: 1
}

/** @throws {TypeError} that says what to write, for a price that is none */
export function readOverrides(overrides: Readonly<Record<string, PriceOverride>>): FindOverride {
  if (typeof overrides !== 'object' || overrides === null || Array.isArray(overrides)) {
    throw new TypeError("overrides is an object by model: write { 'gpt-4o': { inputPerMillion: 2 } }")
  }
  const byName = new Map<string, Override>()
  const bySeller = new Map<string, Override>()
  const byPattern: { pieces: readonly string[]; override: Override }[] = []
  for (const [key, given] of Object.entries(overrides)) {
    const override = readOverride(key, given)
    const name = key.trim().toLowerCase()
    // `bedrock/x` is what we call `aws/x`; as it is written it counts more.
    if (name.includes('*')) for (const one of [name, withSeller(name)]) byPattern.push({ pieces: one.split('*'), override })
    else {
      byName.set(name, override)
      bySeller.set(withSeller(name), override)
    }
  }
  return (names) => {
    const named = names.map((name) => byName.get(name) ?? bySeller.get(name)).find((override) => override !== undefined)
    return named ?? byPattern.find(({ pieces }) => names.some((name) => isLike(name, pieces)))?.override
  }
}

function readOverride(key: string, given: PriceOverride): Override {
  const where = `overrides[${JSON.stringify(key)}]`
  checkOptions<PriceOverride>(where, given, keys)
  const { sameAs, ...price } = given
  for (const [name, value] of Object.entries(price)) {
    const isWindow = name === 'contextWindow'
    if (value !== undefined && !(isWindow ? Number.isSafeInteger(value) && value > 0 : Number.isFinite(value) && value >= 0)) {
      const least = isWindow ? 'a whole number above 0' : 'zero or more'
      throw new TypeError(`${where}.${name} must be ${unitOf(name)}, ${least}: write ${name}: ${exampleOf(name)}`)
    }
  }
  if (sameAs === undefined) return { price, listing: undefined }
  const listing = typeof sameAs === 'string' ? findListing(sameAs) : null
  if (listing === null) {
    throw new TypeError(`${where}.sameAs must be a model of the table: write sameAs: 'azure/gpt-4o', or give its rates`)
  }
  return { price, listing }
}

function unitOf(name: string): string {
  if (name === 'contextWindow') return 'tokens'
  if (name === 'batchFactor') return 'a factor of the standard rates'
  return name === 'perRequest' ? 'US dollars for one request' : 'US dollars for a million tokens'
}

function exampleOf(name: string): string {
  if (name === 'contextWindow') return '128_000'
  return name === 'batchFactor' ? '0.5' : '2.5'
}

/** In one pass, whatever the pattern: `a*b*` is `['a', 'b', '']`. */
function isLike(name: string, pieces: readonly string[]): boolean {
  const first = pieces[0] ?? ''
  const last = pieces.at(-1) ?? ''
  if (name.length < first.length + last.length || !name.startsWith(first) || !name.endsWith(last)) return false
  let at = first.length
  for (const piece of pieces.slice(1, -1)) {
    const found = name.indexOf(piece, at)
    if (found < 0) return false
    at = found + piece.length
  }
  return at <= name.length - last.length
}
