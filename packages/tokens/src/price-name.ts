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
  return aliases.get(dashed) ?? dashed.replace(/^huggingface-/, 'huggingface_')
}

/** Whether the name is longer than any real one: nothing is looked up then. */
export function isNoName(name: string): boolean {
  return name === '' || name.length > 256
}

/** `openai/gpt-4o` and `openai:gpt-4o` have `openai`; what stands before the first of either need not be a seller. */
export function splitPrefix(name: string): { prefix: string; rest: string } | undefined {
  const at = name.search(/[/:]/)
  return at > 0 ? { prefix: name.slice(0, at), rest: name.slice(at + 1) } : undefined
}

/** `bedrock/x` is `aws/x`; what has no such prefix stays as it is. */
export function withSeller(name: string): string {
  const split = splitPrefix(name)
  return split === undefined ? name : `${sellerOf(split.prefix)}/${split.rest}`
}

const region = '(?:(?:[a-z]{2}|us-gov|apac|global)\\.)?'

/** Resource names that only one seller has, and what stands before the model in them. Any other path is a stranger's. */
const resources: readonly (readonly [string, RegExp])[] = [
  ['fireworks', /^accounts\/fireworks\/(?:models|routers)\//],
  ['cloudflare', /^(?=@cf\/)/],
  ['google', /^(?:projects\/[^/]+\/locations\/[^/]+\/)?(?:publishers\/[^/]+\/)?models\//],
  ['aws', /^arn:aws[a-z-]*:bedrock:[^/]*:(?:foundation-model|inference-profile)\//],
  // Only Bedrock writes the maker before a point: `us.anthropic.claude-sonnet-4-5-20250929-v1:0`.
  ['aws', new RegExp(`^(?=${region}(?:amazon|anthropic|cohere|deepseek|google|meta|mistral|nvidia|openai|qwen|writer)\\.[a-z])`)]
]

/** Whose resource name it is, with the model alone: of `publishers/google/models/gemini-2.5-pro` the last part. */
export function resourceOf(name: string): { seller: string; rest: string } | undefined {
  const found = resources.find(([, path]) => path.test(name))
  return found && { seller: found[0], rest: name.replace(found[1], '') }
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
  if ('regex' in rule) {
    const seen = new RegExp(rule.regex).exec(name)?.[0]
    return seen !== undefined && isVersion(name, 0, seen)
  }
  if ('equals' in rule) return name === rule.equals.toLowerCase()
  if ('starts_with' in rule) return name.startsWith(rule.starts_with.toLowerCase()) && isVersion(name, 0, rule.starts_with)
  if ('ends_with' in rule)
    return name.endsWith(rule.ends_with.toLowerCase()) && before.test(name.slice(0, -rule.ends_with.length))
  const at = name.indexOf(rule.contains.toLowerCase())
  return at >= 0 && before.test(name.slice(0, at)) && isVersion(name, at, rule.contains)
}

/** `us.` and `eu.anthropic.`, as Bedrock writes them, and what two makers put before a model's name. */
const before = new RegExp(`^(?:${region}(?:amazon\\.|anthropic\\.)?|c4ai-|minimax-)$`)

const month = '(?:0[1-9]|1[0-2])'
const day = '(?:0[1-9]|[12]\\d|3[01])'

/** As makers write them: 20250514, 250514, 2025-05-14, 05-14, 0514, 2505, 05-2025. No two ways to read one, for speed. */
const date = `(?:(?:20)?2\\d${month}${day}|20\\d\\d-${month}-${day}|${month}-?${day}|2[3-9]${month}|${month}-20\\d\\d)`
const words = 'latest|preview|exp|experimental|default|instruct'
/** A second version with a date has its first one's price; one without is another model: `titan-embed-text-v2`. */
const versions = new RegExp(`^(?::\\d(?::\\d+k)?|[-@._](?:${date}(?:-v2)?|v2@${date}|00\\d|v1|${words}))*$`)

function isVersion(name: string, at: number, literal: string): boolean {
  // Behind it a customer's own words are expected.
  if (literal.endsWith('ft-')) return true
  const isTuned = literal.startsWith('ft:')
  const whole = isTuned ? name.replace(/^(ft:[^:]*):.*/, '$1') : name
  if (versions.test(whole.slice(at + literal.length))) return true
  // The literal may end inside a word, `-2025` of `-20250514` or `-0` of `-001`, or with its separator: only such a word.
  const word = whole.slice(at + literal.search(/[-@:._][^-@:._]*$/))
  return versions.test(word) && (isTuned || /[-@:._]$/.test(literal) || /^.(?:20\d{6}|00\d)(?![a-z\d])/.test(word))
}
