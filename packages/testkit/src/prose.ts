import { type Random, seededRandom, seedOf } from './random.ts'

/** `%` is the next topic word. No sentence has more than 18 words, so that no answer passes its upper bound. */
const openings: readonly string[] = [
  'A short way to look at % is to start from what % needs.',
  'The useful part of % becomes clear once % is written down.',
  'People who ask about % usually want to know how % behaves on an ordinary day.',
  'There is a plain answer for %, and it depends mostly on %.',
  'It helps to separate % from % before anything else is decided.',
  'Most of what matters about % can be said in a few sentences.'
]
const middles: readonly string[] = [
  'First, measure % for a while and keep the numbers next to %.',
  'When % grows, the cost of % grows more slowly than one would expect.',
  'A small example with % shows the difference better than a long description.',
  'Teams often begin with % and leave % for a later week.',
  'If the two disagree, trust % and check % again in the morning.',
  'Nothing about % is urgent, but % deserves a second look.',
  'Keep % simple, because every special case makes % harder to explain.',
  'In practice % settles down after the first few tries.',
  'A careful reader will notice that % and % share the same limit.',
  'Write the rule for % in one line and test it against %.',
  'Some steps can wait; the one that touches % cannot.',
  'With % in place, the rest is a matter of patience.'
]
const closings: readonly string[] = [
  'That is usually enough to make % work.',
  'In short, look after % and % will follow.',
  'Start small, and come back to % when there is time.',
  'If that leaves a doubt about %, ask again with a concrete case.'
]

const tooCommon: ReadonlySet<string> = new Set(
  (
    'about above after again also another because been before being between both cannot could does doing down each even ever every from ' +
    'give have here into just keep like list make many more most much need only other over please same should show some such tell than that ' +
    'their them then there these they this those through under until very want were what when where which while will with without ' +
    'would write your explain describe answer question'
  ).split(' ')
)

/** Up to eight words that say what a text is about, in their order, as they are written there. */
export function topicWords(text: string): readonly string[] {
  const topics = new Map<string, string>()
  for (const word of text.match(/\p{L}[\p{L}\p{N}-]{3,23}/gu) ?? []) {
    const lower = word.toLowerCase()
    if (!tooCommon.has(lower) && !topics.has(lower)) topics.set(lower, word)
    if (topics.size === 8) break
  }
  return [...topics.values()]
}

/**
 * Readable English of 40 to 120 words that mentions the topic words of `topic`. The same seed text gives the same prose.
 *
 * @example
 * proseAbout('How do I keep a sourdough starter alive?', 'any text')
 */
export function proseAbout(topic: string, seedText: string = topic): string {
  const random = seededRandom(seedOf(seedText))
  const topics = topicWords(topic)
  const named = topics.length > 1 ? topics : [topics[0] ?? 'the question', 'the rest']
  let turn = 0
  const fill = (sentence: string): string => {
    const filled = sentence.replace(/%/g, () => named[turn++ % named.length] as string)
    return filled.charAt(0).toUpperCase() + filled.slice(1)
  }
  const wanted = 40 + Math.floor(random() * 45)
  const sentences = [fill(pick(openings, random))]
  const left = [...middles]
  while (countWords(sentences) < wanted && left.length > 0) {
    sentences.push(fill(left.splice(Math.floor(random() * left.length), 1)[0] as string))
  }
  sentences.push(fill(pick(closings, random)))
  return sentences.join(' ')
}

function pick(list: readonly string[], random: Random): string {
  return list[Math.floor(random() * list.length)] as string
}

function countWords(sentences: readonly string[]): number {
  return sentences.reduce((sum, sentence) => sum + sentence.split(' ').length, 0)
}
