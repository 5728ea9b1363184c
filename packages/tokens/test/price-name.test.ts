import { describe, expect, test } from 'vitest'
import { fits, sellerOf } from '../src/price-name.ts'
import { findListing } from '../src/price-table.ts'
import { since } from './cpu.ts'

const found = (name: string, provider?: string): string | undefined => {
  const listing = findListing(name, provider)
  return listing === null ? undefined : `${listing.provider} ${listing.model}`
}

describe('a model is found by', () => {
  test.each([
    ['its name', 'gpt-4o', 'openai gpt-4o'],
    ['any case, and spaces around it', ' GPT-4o ', 'openai gpt-4o'],
    ['a dated name', 'gpt-4.1-mini-2025-04-14', 'openai gpt-4.1-mini'],
    ['a date in one piece', 'gpt-4.1-mini-20250414', 'openai gpt-4.1-mini'],
    ['a dated name of Anthropic', 'claude-opus-4-1-20250805', 'anthropic claude-opus-4-1'],
    ['its newest alias', 'claude-3-5-sonnet-latest', 'anthropic claude-3-5-sonnet'],
    ['a preview of a day', 'gemini-2.5-pro-preview-06-05', 'google gemini-2.5-pro'],
    ['a numbered version', 'gemini-2.0-flash-001', 'google gemini-2.0-flash'],
    ['a provider before a slash', 'openai/gpt-4o', 'openai gpt-4o'],
    ['a provider before a colon', 'openai:gpt-4o', 'openai gpt-4o'],
    ['a provider by another name', 'vertex_ai/gemini-2.5-flash', 'google gemini-2.5-flash'],
    ['two prefixes', 'openrouter/openai/gpt-4o', 'openrouter openai/gpt-4o'],
    ['a name in which a maker is a prefix', 'groq/openai/gpt-oss-20b', 'groq openai/gpt-oss-20b'],
    ['the spelling of Azure', 'azure/gpt-35-turbo', 'azure gpt-3.5-turbo'],
    ['the spelling of Azure, with a version', 'gpt-35-turbo-0125', 'openai gpt-3.5-turbo'],
    ['an id of Bedrock', 'anthropic.claude-3-haiku-20240307-v1:0', 'aws regional.anthropic.claude-3-haiku-20240307-v1:0'],
    ['one with a region', 'us.anthropic.claude-opus-4-5-20251101-v1:0', 'aws regional.anthropic.claude-opus-4-5-v1:0'],
    ['one for everywhere', 'global.anthropic.claude-opus-4-5-20251101-v1:0', 'aws global.anthropic.claude-opus-4-5-v1:0'],
    [
      'an ARN of Bedrock',
      'arn:aws:bedrock:us-east-1:123456789012:inference-profile/eu.amazon.nova-pro-v1:0',
      'aws amazon.nova-pro-v1:0'
    ],
    ['an id of Vertex', 'vertex_ai/claude-opus-5@20260701', 'google claude-opus-5'],
    ['a resource of Google', 'publishers/google/models/gemini-2.5-flash', 'google gemini-2.5-flash'],
    ['a resource of Vertex', 'projects/p/locations/l/publishers/anthropic/models/claude-opus-5', 'google claude-opus-5'],
    ['one behind a prefix', 'vertex_ai/publishers/google/models/gemini-2.5-flash', 'google gemini-2.5-flash'],
    ['a resource of the Gemini API', 'models/gemini-2.5-flash', 'google gemini-2.5-flash'],
    ['a name of Fireworks', 'accounts/fireworks/models/deepseek-v3p2', 'fireworks deepseek-v3p2'],
    ['one that its maker has too', 'accounts/fireworks/models/deepseek-r1-0528', 'fireworks deepseek-r1-0528'],
    ['one behind a prefix', 'fireworks_ai/accounts/fireworks/models/deepseek-v4-flash-0731', 'fireworks deepseek-v4-flash'],
    ['the short form of it', 'fireworks/deepseek-v4-pro', 'fireworks deepseek-v4-pro'],
    ['a name of Cloudflare', '@cf/meta/llama-3.1-8b-instruct', 'cloudflare @cf/meta/llama-3.1-8b-instruct'],
    ['a seller behind Hugging Face', 'huggingface_novita/deepseek-ai/DeepSeek-R1', 'huggingface_novita deepseek-ai/DeepSeek-R1'],
    ["OpenRouter's name, which is the maker's", 'mistralai/mistral-medium-3', 'mistral mistral-medium-3-5'],
    ['a version on Vertex', 'vertex_ai/claude-3-5-sonnet-v2@20241022', 'google claude-3-5-sonnet'],
    ['a second version', 'anthropic.claude-3-5-sonnet-20241022-v2:0', 'aws regional.anthropic.claude-3-5-sonnet-20241022-v2:0'],
    ['a context on Bedrock', 'amazon.nova-pro-v1:0:300k', 'aws amazon.nova-pro-v1:0'],
    ['a fine-tune of a dated model', 'ft:gpt-3.5-turbo-0125:acme::a1', 'openai ft:gpt-3.5-turbo-'],
    ['a fine-tune whose price is known', 'ft:gpt-4o-mini-2024-07-18:acme:bot:a1b2', 'openai ft:gpt-4o-mini']
  ])('%s: %s', (_, name, expected) => {
    expect(found(name)).toBe(expected)
  })
})

describe('a name is not taken for another that it begins like', () => {
  test.each([
    'claude-sonnet-5-9', // the table says `claude-sonnet-5…`
    'claude-sonnet-5.7',
    'claude-opus-4-50',
    'claude-haiku-4-5-mini',
    'gemini-3.6-flash-lite',
    'gemini-2.5-pro-image',
    'gpt-4o-2027-01-01',
    'gpt-4o-nano',
    'gpt-4.1-mini-high',
    'o3x',
    'deepseek-r1-distill-qwen-32b',
    'my-claude-3-opus-20240229',
    'ft:gpt-4-0613:acme', // a base model's rule takes it in
    'ft:gpt-4.1-2025-04-14:acme:bot:a1',
    'us.anthropic.claude-sonnet-5-9-v1:0',
    'claude-sonnet-4-500', // three digits that are neither date nor version
    'claude-sonnet-4-5001',
    'claude-opus-4-100',
    'claude-opus-4-10-20',
    'claude-opus-4-012',
    'claude-3-haiku-v9',
    'gemini-3.5-flash-8b', // the table says `gemini-3.5-flash-` and a digit
    'amazon.titan-embed-text-v2:0', // a fifth of v1, and not in the table
    'gemini-2.5-pro-1000', // no day has the number 0
    'ft:gpt-3.5-turbo-16k:acme::a1',
    'ft:gpt-3.5-turbox:acme::a1',
    'mixtral-8x7b-32768', // Groq's alone
    'mixtral-8x7b-32k',
    'deepseek-r1:latest' // of Ollama
  ])('%s', (name) => {
    expect(found(name)).toBeUndefined()
  })

  // Who sells it is not said, or is nobody that we know.
  test.each([
    'accounts/fireworks/models/mixtral-8x7b-instruct',
    'accounts/acme/models/deepseek-r1-0528',
    'accounts/acme/deployments/gpt-4o',
    '/data/models/deepseek-r1',
    '/models/mistral-large',
    './models/mistral-large',
    'models/mistral-large',
    'data/deployments/gpt-4o',
    'publishers/mistralai/models/mistral-large-2411',
    'acme/us.anthropic.claude-opus-4-5-20251101-v1:0',
    'zai-org/glm-5.2', // Arcee sells it under this name, and others do
    's3://bucket/models/gpt-4o',
    'C:/models/gpt-4o'
  ])('%s', (name) => {
    expect(found(name)).toBeUndefined()
    expect(found(name, 'deepseek')).toBeUndefined()
  })

  test('however many dates stand behind it, at once', () => {
    const start = process.cpuUsage()
    for (const dates of ['-2012-12-12', '-2412-12', '-12-2012', '-1212', '-12-12-v1']) {
      expect(fits({ starts_with: 'a' }, `a${dates.repeat(28)}x`)).toBe(false)
    }
    expect(since(start)).toBeLessThan(1000)
  })

  test('with a provider that takes in much', () => {
    expect(found('o4-mini-deep-research', 'azure')).toBe('azure o4-mini-deep-research')
    expect(found('prod-o4-mini', 'azure')).toBeUndefined()
    expect(found('acme-claude-3-opus', 'google')).toBeUndefined()
  })
})

test.each([
  ['openai', 'openai'],
  ['Azure.AI.OpenAI', 'azure'],
  ['azure-openai', 'azure'],
  ['aws.bedrock', 'aws'],
  ['amazon-bedrock', 'aws'],
  ['gcp.vertex_ai', 'google'],
  ['google.generative-ai', 'google'],
  ['mistral_ai', 'mistral'],
  ['x_ai', 'x-ai'],
  ['xai', 'x-ai'],
  ['huggingface_fireworks-ai', 'huggingface_fireworks-ai'],
  ['HuggingFace.Novita', 'huggingface_novita'],
  ['__proto__', '--proto--']
])('the provider %s is %s', (name, seller) => {
  expect(sellerOf(name)).toBe(seller)
})
