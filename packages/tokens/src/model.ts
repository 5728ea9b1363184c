/** Which vocabularies there are. */
export type Encoding = 'o200k_base' | 'cl100k_base'

/** What a model's name tells about how it counts. */
export interface ModelRule {
  readonly encoding: Encoding
  /** Whether this is the model's own vocabulary, and not the nearest we have. */
  readonly exact: boolean
  /** Multiply counts by it before using them as a limit. */
  readonly safetyFactor: number
  /** Tokens that open the answer, charged once a request. */
  readonly priming: number
}

export const maxPriming = 3

/** Reasoning models are charged one token less to open the answer: seen in what the API charges. */
const o200kReasoning: ModelRule = { encoding: 'o200k_base', exact: true, safetyFactor: 1, priming: 2 }
const o200k: ModelRule = { encoding: 'o200k_base', exact: true, safetyFactor: 1, priming: maxPriming }
const cl100k: ModelRule = { encoding: 'cl100k_base', exact: true, safetyFactor: 1, priming: maxPriming }
/** Claude 5-class models run at least 36 % above tiktoken. */
const claude: ModelRule = { encoding: 'o200k_base', exact: false, safetyFactor: 1.4, priming: maxPriming }
/** Other vocabularies of this size come near on English and code. This is a margin, not a measurement. */
const unknown: ModelRule = { encoding: 'o200k_base', exact: false, safetyFactor: 1.2, priming: maxPriming }

const rules: readonly (readonly [RegExp, ModelRule])[] = [
  [/claude/, claude],
  [/^(?:gpt-5|o[134])(?![0-9a-z])/, o200kReasoning],
  [/^(?:gpt-4o|gpt-4\.1|gpt-4\.5|gpt-oss|chatgpt-4o)(?![0-9a-z])/, o200k],
  [/^(?:gpt-4|gpt-3\.5|gpt-35|text-embedding|davinci-002|babbage-002)(?![0-9a-z.])/, cl100k]
]

/** By family, so that dated names and next month's variant are found too; `openai/`, `ft:` and the like are looked past. */
export function ruleOf(model: string): ModelRule {
  const name = model
    .slice(model.lastIndexOf('/') + 1)
    .toLowerCase()
    .replace(/^(?:ft:|openai[.:])/, '')
  return rules.find(([pattern]) => pattern.test(name))?.[1] ?? unknown
}
