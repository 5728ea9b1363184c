import type { Usage } from '@millrace/core'
import type { Price } from './price-override.ts'

export type CostPart = 'input' | 'cacheRead' | 'cacheWrite' | 'output' | 'reasoning' | 'request'

/**
 * What one call cost, in US dollars. Nothing is rounded: each part is a product of floating-point numbers, right to some
 * 15 digits. `total` is the sum of the parts in the order in which they stand here.
 */
export interface Cost extends Readonly<Record<CostPart, number>> {
  readonly total: number
  readonly currency: 'USD'
  /** True if the tokens were counted by us, or a rate had to be assumed. */
  readonly estimated: boolean
  /**
   * Parts with tokens but no published rate. The dearest one that could hold is taken: for tokens read from the prompt
   * cache the rate of other input, for tokens written to it two and a half times that, the most that any provider asks.
   */
  readonly assumed: readonly CostPart[]
  /** Whose price it is. */
  readonly provider: string | undefined
  /** The name under which the price was found. */
  readonly model: string
}

/** The most that any provider asks for writing to its prompt cache: OpenAI's 12 hours, Anthropic's hour is twice. */
const dearestWrite = 2.5

/** `null` where tokens have no rate, or a count is none. */
export function costOf(
  usage: Usage,
  price: Price,
  whose: { provider: string | undefined; model: string },
  longCacheWrites: boolean
): Cost | null {
  const { inputPerMillion, outputPerMillion, reasoningPerMillion } = price
  // Without it a free model could not be told from an unknown one.
  if (inputPerMillion === undefined) return null
  const { input, output } = usage
  if (![input.uncached, input.cacheRead, input.cacheWrite, output.text, output.reasoning].every(isCount)) return null
  if (outputPerMillion === undefined && output.text > 0) return null
  if (reasoningPerMillion === undefined && output.reasoning > 0) return null

  const assumed: CostPart[] = []
  const assume = (part: CostPart, tokens: number, rate: number | undefined, dearest: number): number => {
    if (rate === undefined && tokens > 0) assumed.push(part)
    return rate ?? dearest
  }
  const writeRate = longCacheWrites ? price.longCacheWritePerMillion : price.cacheWritePerMillion
  const readRate = assume('cacheRead', input.cacheRead, price.cacheReadPerMillion, inputPerMillion)
  const paidWriteRate = assume('cacheWrite', input.cacheWrite, writeRate, inputPerMillion * dearestWrite)
  const dollars = (tokens: number, rate: number): number => (usage.billed ? (tokens / 1_000_000) * rate : 0)
  const parts = {
    input: dollars(input.uncached, inputPerMillion),
    cacheRead: dollars(input.cacheRead, readRate),
    cacheWrite: dollars(input.cacheWrite, paidWriteRate),
    output: dollars(output.text, outputPerMillion ?? 0),
    reasoning: dollars(output.reasoning, reasoningPerMillion ?? 0),
    request: usage.billed ? (price.perRequest ?? 0) : 0
  }
  return {
    total: parts.input + parts.cacheRead + parts.cacheWrite + parts.output + parts.reasoning + parts.request,
    ...parts,
    currency: 'USD',
    estimated: usage.estimated || assumed.length > 0,
    assumed,
    ...whose
  }
}

function isCount(tokens: number): boolean {
  return Number.isFinite(tokens) && tokens >= 0
}
