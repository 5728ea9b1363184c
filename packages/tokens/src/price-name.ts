import type { MatchLogic } from '@pydantic/genai-prices'

/** Providers by the other names that SDKs, gateways and OpenTelemetry give them. All in dashes, see `sellerOf`. */
const aliases: ReadonlyMap<string, string> = new Map([
  ['azure-openai', 'azure'],
  ['azure-ai', 'azure'],
  ['azure-ai-openai', 'azure'],
  ['azure-ai-inference', 'azure'],
  ['az-ai-openai', 'azure'],
  ['bedrock', 'aws'],
  ['amazon', 'aws'],
  ['amazon-bedrock', 'aws'],
  ['aws-bedrock', 'aws'],
  ['vertex', 'google'],
  ['vertex-ai', 'google'],
  ['vertexai', 'google'],
  ['gemini', 'google'],
  ['google-vertex', 'google'],
  ['google-generative-ai', 'google'],
  ['google-genai', 'google'],
  ['gcp-gemini', 'google'],
  ['gcp-vertex-ai', 'google'],
  ['gcp-gen-ai', 'google'],
  ['mistral-ai', 'mistral'],
  ['mistralai', 'mistral'],
  ['xai', 'x-ai'],
  ['together-ai', 'together'],
  ['togetherai', 'together'],
  ['fireworks-ai', 'fireworks'],
  ['moonshot', 'moonshotai'],
  ['moonshot-ai', 'moonshotai'],
  ['z-ai', 'zai']
])

/** What the table would call this provider: `Amazon_Bedrock` is `aws`. It need not have it. */
export function sellerOf(provider: string): string {
  const dashed = provider
    .trim()
    .toLowerCase()
    .replace(/[._\s]/g, '-')
  return aliases.get(dashed) ?? dashed
}

/** Whether the name is longer than any real one: nothing is looked up then. */
export function isNoName(name: string): boolean {
  return name === '' || name.length > 256
}

/** `us-east-1/openai:x` has none; `openai/gpt-4o` and `openai:gpt-4o` have `openai`. */
export function splitPrefix(name: string): { prefix: string; rest: string } | undefined {
  const at = name.search(/[/:]/)
  return at > 0 ? { prefix: name.slice(0, at), rest: name.slice(at + 1) } : undefined
}

/** Only Amazon Bedrock writes the maker before a point: `us.anthropic.claude-sonnet-4-5-20250929-v1:0`. */
export function isBedrock(name: string): boolean {
  return /(?:^|[./])(?:amazon|anthropic|cohere|deepseek|google|meta|mistral|nvidia|openai|qwen|writer)\.[a-z]/.test(name)
}

/** Resource names: `models/gemini-2.5-pro`, `publishers/google/models/…`, a Bedrock ARN. Gives back the model alone. */
export function withoutPath(name: string): string {
  return name.replace(/^(?:.*[/:])?(?:models|deployments|foundation-model|inference-profile)\//, '')
}

/** Other spellings of one name: Azure leaves the point out of `gpt-3.5`, some write the date in one piece. */
export function spellings(name: string): readonly string[] {
  const pointed = name.replace(/^gpt-35-/, 'gpt-3.5-')
  return [...new Set([name, pointed, pointed.replace(/-(20\d\d)([01]\d)([0-3]\d)$/, '-$1-$2-$3')])]
}

/**
 * Whether a rule of the table holds for a name, and the name says no more than the rule does. The table's `starts_with:
 * claude-sonnet-5` means dates and versions behind it, but fits next month's `claude-sonnet-5-5` as well: its price would
 * be an older model's, and look right. So a remainder must be a date, a version or one of a few words.
 */
export function fits(rule: MatchLogic, name: string): boolean {
  if ('or' in rule) return rule.or.some((one) => fits(one, name))
  // Only the first says what the name is; the others take something out of it.
  if ('and' in rule) return rule.and.every((one) => ('regex' in one ? new RegExp(one.regex).test(name) : fits(one, name)))
  if ('regex' in rule) return new RegExp(rule.regex).test(name)
  if ('equals' in rule) return name === rule.equals.toLowerCase()
  if ('starts_with' in rule) return name.startsWith(rule.starts_with.toLowerCase()) && isVersion(name, 0, rule.starts_with)
  if ('ends_with' in rule) return name.endsWith(rule.ends_with.toLowerCase()) && isRegion(name.slice(0, -rule.ends_with.length))
  const at = name.indexOf(rule.contains.toLowerCase())
  return at >= 0 && isRegion(name.slice(0, at)) && isVersion(name, at, rule.contains)
}

/** `us.` and `eu.anthropic.`, as Bedrock writes them, and what two makers put before a model's name. */
function isRegion(before: string): boolean {
  return before === '' || /^(?:[a-z0-9.-]*\.|c4ai-|minimax-)$/.test(before)
}

const versions = /^(?::\d|[-@:._](?:\d{3,}|\d\d-\d\d(?:\d\d)?|v\d+|\d+k|latest|preview|exp|experimental|default|instruct))*$/

function isVersion(name: string, at: number, literal: string): boolean {
  // Behind it a customer's own words are expected.
  if (/ft[:-]/.test(literal)) return true
  let end = at + literal.length
  // The literal may end inside a word (`-2025` of `-20250514`) or with its separator: that word is looked at whole.
  const isWhole = end >= name.length || /[-@:._]/.test(name.charAt(end))
  if (!isWhole) while (end > at && !/[-@:._]/.test(name.charAt(end))) end--
  return versions.test(name.slice(end))
}
