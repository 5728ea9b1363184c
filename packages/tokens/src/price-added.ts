import type { ConditionalPrice, ModelInfo, ModelPrice } from '@pydantic/genai-prices'

/**
 * The day on which the data of the installed `@pydantic/genai-prices` was published. The data itself carries no date, so
 * the dependency is pinned to one version and a test holds the two together.
 */
export const tableVersion = '0.1.8'
export const tableDate = '2026-09-23'

/** What we add or correct here was last looked at on this day. */
export const addedDate = '2026-11-23'

/** Dearer by factors above so many input tokens, for the whole request. */
function longAbove(start: number, base: ModelPrice, input: number, output: number): ModelPrice {
  const prices: ModelPrice = {}
  for (const [key, price] of Object.entries(base)) {
    if (typeof price !== 'number') continue
    const factor = key.startsWith('output') ? output : input
    prices[key] = { base: price, tiers: [{ start, price: price * factor }] }
  }
  return prices
}

function model(id: string, context_window: number, prices: ModelPrice | ConditionalPrice[], dated: string): ModelInfo {
  return { id, context_window, prices, match: { or: [{ equals: id }, { regex: `^${id.replaceAll('.', '\\.')}-${dated}$` }] } }
}

const openaiDate = '\\d{4}-\\d{2}-\\d{2}'
const anthropicDate = '\\d{8}'

function sonnet55(cacheRead: number): ModelPrice {
  return {
    input_mtok: 2,
    cache_read_mtok: cacheRead,
    cache_write_mtok: 2.5,
    cache_write_1h_mtok: 4,
    output_mtok: 10
  }
}

/** Models that came after the table, in its own shape. They go when the table knows them. */
export const addedModels: ReadonlyMap<string, readonly ModelInfo[]> = new Map([
  [
    'openai',
    [
      // https://developers.openai.com/api/docs/models/gpt-6.2-sol: longer than 272,000 is dearer, 12-hour writes cost 5.
      model(
        'gpt-6.2-sol',
        1_050_000,
        longAbove(
          272_000,
          { input_mtok: 2, cache_read_mtok: 0.1, cache_write_mtok: 2.5, cache_write_1h_mtok: 5, output_mtok: 10 },
          2,
          1.5
        ),
        openaiDate
      ),
      // https://developers.openai.com/api/docs/models/gpt-6.1-sol
      model(
        'gpt-6.1-sol',
        1_050_000,
        longAbove(272_000, { input_mtok: 2, cache_read_mtok: 0.1, cache_write_mtok: 2.5, output_mtok: 10 }, 2, 1.5),
        openaiDate
      )
    ]
  ],
  [
    'anthropic',
    [
      // https://platform.claude.com/docs/en/models/sonnet-5-5/overview: cache reads were halved on 2026-10-07.
      model(
        'claude-sonnet-5-5',
        1_000_000,
        [{ prices: sonnet55(0.2) }, { constraint: { type: 'start_date', start_date: '2026-10-07' }, prices: sonnet55(0.1) }],
        anthropicDate
      ),
      // https://platform.claude.com/docs/en/about-claude/pricing: dearer by five above 100,000 tokens of prompt.
      model(
        'claude-haiku-5-5',
        1_000_000,
        longAbove(
          100_000,
          { input_mtok: 0.1, cache_read_mtok: 0.01, cache_write_mtok: 0.125, cache_write_1h_mtok: 0.2, output_mtok: 0.5 },
          5,
          5
        ),
        anthropicDate
      )
    ]
  ],
  [
    'x-ai',
    [
      // https://docs.x.ai/developers/pricing: from 200,000 tokens on, inclusive.
      model('grok-4.7', 500_000, longAbove(199_999, { input_mtok: 2, cache_read_mtok: 0.5, output_mtok: 6 }, 2, 2), anthropicDate)
    ]
  ]
])

/** Context windows that the table leaves out, from the providers' pages of models. */
export const addedWindows: ReadonlyMap<string, number> = new Map([
  ['openai/gpt-4.5-preview', 128_000],
  ['openai/ft:gpt-4o', 128_000],
  ['openai/ft:gpt-4o-mini', 128_000],
  ['openai/ft:gpt-3.5-turbo-', 16_385],
  ['google/gemini-2.5-pro', 1_048_576],
  ['google/gemini-3-pro-preview', 1_048_576],
  ['google/gemini-3.1-pro-preview', 1_048_576],
  ['mistral/mistral-large', 128_000],
  ['mistral/mistral-medium-3-1', 128_000],
  ['mistral/mistral-medium-latest', 128_000],
  ['mistral/mistral-small-latest', 128_000],
  ['mistral/mistral-nemo', 128_000],
  ['mistral/pixtral-large', 128_000],
  ['mistral/pixtral-12b', 128_000],
  ['mistral/ministral-8b', 128_000],
  ['cohere/command-a', 256_000],
  ['cohere/command-r', 128_000],
  ['cohere/command-r-plus', 128_000],
  ['cohere/command-r7b', 128_000],
  ['groq/llama-3.1-8b-instant', 131_072],
  ['groq/llama-3.3-70b-versatile', 131_072],
  ['groq/meta-llama/llama-4-scout-17b-16e-instruct', 131_072]
])

/** What a batch costs, as a factor of the standard rates. */
export interface BatchRate {
  readonly tokens: number
  /** For tokens read from or written to the prompt cache: 1 where the two discounts do not add up, or nobody says so. */
  readonly cache: number
  readonly source: string
}

/** The table has no batch rates. A provider that is not here publishes none, or not one for all its models. */
export const batchRates: ReadonlyMap<string, BatchRate> = new Map([
  ['openai', { tokens: 0.5, cache: 0.5, source: 'https://developers.openai.com/api/docs/pricing' }],
  ['anthropic', { tokens: 0.5, cache: 0.5, source: 'https://platform.claude.com/docs/en/build-with-claude/batch-processing' }],
  ['google', { tokens: 0.5, cache: 1, source: 'https://ai.google.dev/gemini-api/docs/batch-api' }],
  ['azure', { tokens: 0.5, cache: 1, source: 'https://learn.microsoft.com/azure/ai-foundry/openai/how-to/batch' }],
  ['aws', { tokens: 0.5, cache: 1, source: 'https://aws.amazon.com/bedrock/pricing/' }],
  ['mistral', { tokens: 0.5, cache: 1, source: 'https://docs.mistral.ai/capabilities/batch' }],
  ['groq', { tokens: 0.5, cache: 1, source: 'https://console.groq.com/docs/batch' }],
  ['fireworks', { tokens: 0.5, cache: 1, source: 'https://fireworks.ai/blog/batch-api' }],
  ['voyageai', { tokens: 0.67, cache: 1, source: 'https://docs.voyageai.com/docs/pricing' }]
])
