import { crops, flat, type ImageRule, patches, sheets, tiles } from './image.ts'

/** Which vocabularies there are. */
export type Encoding = 'o200k_base' | 'cl100k_base' | 'p50k_base' | 'r50k_base'

/** What a model's name tells about how it counts. */
export interface ModelRule {
  readonly encoding: Encoding
  /** Whether this is the model's own vocabulary, and not the nearest we have. */
  readonly exact: boolean
  /** Multiply counts by it before using them as a limit. */
  readonly safetyFactor: number
  /** How messages are written down for the model. */
  readonly layout: 'chat' | 'harmony'
  /** Tokens of instructions that the provider adds to any request. */
  readonly perRequest: number
  /** Tokens of instructions that the provider adds, beside those, to a request with tools. */
  readonly perToolList: number
  /** What an image costs; undefined when that is not known. */
  readonly image: ImageRule | undefined
}

type Facts = Partial<Omit<ModelRule, 'encoding' | 'exact'>>

/** Models of OpenAI: the vocabulary is their own. */
function own(encoding: Encoding, facts: Facts = {}): ModelRule {
  return { encoding, exact: true, safetyFactor: 1, layout: 'chat', perRequest: 0, perToolList: 0, image: undefined, ...facts }
}

/**
 * Others are counted with o200k_base, the largest vocabulary here. `perRequest` and `perToolList` are the most that was seen
 * beyond the texts in recorded requests with their bills; `safetyFactor` is for the vocabulary alone.
 */
function near(safetyFactor: number, perRequest: number, perToolList: number, image?: ImageRule): ModelRule {
  return { encoding: 'o200k_base', exact: false, safetyFactor, layout: 'chat', perRequest, perToolList, image }
}

const tiles4o = tiles(85, 170)

/** One name to one vocabulary: `for('o200k_base')` is what counts texts for no model in particular. */
const encodings: ReadonlyMap<string, Encoding> = new Map([
  ['o200k_base', 'o200k_base'],
  ['o200k_harmony', 'o200k_base'],
  ['cl100k_base', 'cl100k_base'],
  ['p50k_base', 'p50k_base'],
  ['p50k_edit', 'p50k_base'],
  ['r50k_base', 'r50k_base'],
  ['gpt2', 'r50k_base']
])

/** OpenAI's. By family, so that dated names and next month's variant are found too. The first that matches holds. */
const ours: readonly (readonly [RegExp, ModelRule])[] = [
  // Multipliers of gpt-5-mini, -nano and later are those measured on the API; the documentation states others.
  [/^gpt-5-nano(?![0-9a-z])/, own('o200k_base', { layout: 'harmony', image: patches(1536, 1.5) })],
  [/^gpt-5(?:-mini|\.[23])(?![0-9a-z])/, own('o200k_base', { layout: 'harmony', image: patches(1536, 1.2) })],
  [/^gpt-5\.4(?![0-9a-z])/, own('o200k_base', { layout: 'harmony', image: patches(2500, 1.2) })],
  [/^gpt-5(?:\.1)?(?![0-9a-z.])/, own('o200k_base', { layout: 'harmony', image: tiles(70, 140) })],
  [/^gpt-5(?![0-9a-z])/, own('o200k_base', { layout: 'harmony' })],
  // Said to be about 80 for tools; not seen in the recordings, which have no such request.
  [/^(?:o4-mini|codex-mini)(?![0-9a-z])/, own('o200k_base', { layout: 'harmony', perToolList: 80, image: patches(1536, 1.72) })],
  [/^o[134](?![0-9a-z])/, own('o200k_base', { layout: 'harmony', perToolList: 80, image: tiles(75, 150) })],
  // Its template always has a system message of its own: 61 tokens in 6 recordings, 76 to 82 with tools in 4.
  [/^gpt-oss(?![0-9a-z])/, own('o200k_base', { layout: 'harmony', perRequest: 61, perToolList: 21 })],
  [/^gpt-4o-mini(?![0-9a-z])/, own('o200k_base', { image: tiles(2833, 5667) })],
  [/^gpt-4\.1-mini(?![0-9a-z])/, own('o200k_base', { image: patches(1536, 1.62) })],
  [/^gpt-4\.1-nano(?![0-9a-z])/, own('o200k_base', { image: patches(1536, 2.46) })],
  [/^computer-use-preview(?![0-9a-z])/, own('o200k_base', { image: tiles(65, 129) })],
  [/^(?:gpt-4o|gpt-4\.1|gpt-4\.5|chatgpt-4o)(?![0-9a-z])/, own('o200k_base', { image: tiles4o })],
  [/^(?:gpt-audio|gpt-realtime|omni-moderation)(?![0-9a-z])/, own('o200k_base')],
  // The names of old families are known, and others borrow them: gpt-4-all, gpt-2-chinese.
  [/^gpt-4(?:-(?:turbo|vision|preview|32k|\d\d|\d{4}))*(?![^:@])/, own('cl100k_base', { image: tiles4o })],
  [/^gpt-3\.?5(?:-(?:turbo|instruct|16k|\d{4}))*(?![^:@])/, own('cl100k_base')],
  [/^(?:text-embedding-(?:ada-002|3)|davinci-002|babbage-002)(?![0-9a-z.])/, own('cl100k_base')],
  [/^(?:text-davinci-(?:00[23]|edit)|code-davinci|code-cushman|davinci-codex|cushman-codex)(?![0-9a-z])/, own('p50k_base')],
  [/^(?:text-|code-search-)?(?:davinci|curie|babbage|ada)(?![0-9a-z])/, own('r50k_base')],
  [/^(?:gpt-2(?![^:@])|text-similarity|text-search)(?![0-9a-z])/, own('r50k_base')]
]

/**
 * Everybody else's. What stands behind the factors: bills of the recordings (number of plain requests, the worst of them
 * over our count without `perRequest`) and published figures. Nearly all of the recorded prompts are short English ones.
 */
const theirs: readonly (readonly [RegExp, ModelRule])[] = [
  // Up to 4.6: 14 requests, at most 1.19 over 1,000 tokens of English. With tools 360 to 590 more, in 8.
  [
    /claude-(?:instant|(?:[a-z]+-)?(?:v?[123](?!\d)|4(?!\d|[-.](?:[7-9]|[1-9]\d)(?!\d))))/,
    near(1.4, 2, 560, sheets(28, 1568, 1568))
  ],
  // A new vocabulary since Opus 4.7: 1.47 times the one before on English and code, at least 1.36 over tiktoken.
  [/claude/, near(1.8, 2, 560, sheets(28, 2576, 4784))],
  [/gemini-[3-9]/, near(1.25, 0, 40, flat(1120))],
  [/gemini|gemma|learnlm/, near(1.25, 3, 40, crops)],
  // A vocabulary of 32,000: 0.56 tokens a byte of Chinese where larger ones take 0.31 (cc-100), o200k_base fewer still.
  // Before Llama 3, Mistral until 2024 (a bare `mistral` is Ollama's, of 2023), and what was made of them.
  [/(?:tiny|code)-?llama|llama-?(?:v?2(?![0-9])|(?:7|13|30|33|65)b)|-l2-|alpaca|vicuna|wizardlm|phi-?3/, near(2.4, 10, 250)],
  [/mixtral|zephyr|mathstral|mistral(?!\.|-(?:small|medium|large|nemo|saba|embed|ocr))/, near(2.4, 10, 250)],
  [/mistral-(?:(?:small|medium|large)(?:-instruct)?-2[34]\d\d|large(?:$|:)|small:22b)/, near(2.4, 10, 250)],
  // 12 requests; the default instructions of the template are up to 28.
  [/llama|sonar/, near(1.35, 28, 240)],
  // 12 requests, 544 for 540 at the longest; digits are one token each.
  [/qwen|qwq/, near(1.35, 24, 240)],
  [/deepseek-v[4-9]/, near(1.3, 80, 280)],
  [/deepseek/, near(1.3, 0, 280)],
  [/grok/, near(1.3, 190, 400)],
  [/command-r(?!7b|[0-9a-z])/, near(1.35, 160, 800)],
  [/command|c4ai|aya-/, near(1.35, 500, 1000)],
  [/mistral|ministral|magistral|codestral|devstral|pixtral|voxtral/, near(1.35, 10, 80)],
  [/amazon\.nova|nova-(?:micro|lite|pro|premier|2)/, near(1.4, 38, 860)],
  [/kimi|moonshot|glm-|minimax/, near(1.4, 30, 280)]
]

/** Nothing is known: Chinese takes twice the tokens in some vocabularies, and a template may bring instructions. */
const unknown: ModelRule = near(2, 30, 300)

const all = [...ours, ...theirs].map(([, rule]) => rule)

/** A rule by which nothing costs less than by any other. */
export const dearest: ModelRule = {
  ...unknown,
  layout: 'harmony',
  perRequest: Math.max(...all.map(({ perRequest }) => perRequest)) + 1,
  perToolList: Math.max(...all.map(({ perToolList }) => perToolList)),
  image: (part) => Math.max(...all.map(({ image }) => image?.(part) ?? 0))
}

/** By the model's name; `openai/`, `ft:`, regions and the like are looked past. */
export function ruleOf(model: string): ModelRule {
  const whole = model.toLowerCase()
  const last = whole.slice(whole.lastIndexOf('/') + 1)
  // Of a fine-tune only the base: behind it stand a customer's own words.
  const name = last.replace(/^ft:([^:]*).*|^([^:]*):ft-.*/, '$1$2').replace(/^(?:[a-z]+\.)?openai[.:]/, '')
  const encoding = encodings.get(name)
  if (encoding !== undefined) return own(encoding)
  const isIt = ([pattern]: readonly [RegExp, ModelRule]): boolean => pattern.test(name)
  // What names another family is none of OpenAI's: gpt-4-x-alpaca, gpt-4o-distil-llama.
  return (theirs.find(isIt) ?? ours.find(isIt))?.[1] ?? unknown
}
