/** How far back a grapheme cluster is looked for: the longest emoji have about fifteen code units. */
const window = 64

/** Characters beyond Latin that are seen to be continued only in decomposed text: punctuation and CJK. */
const settled = /[\u2000-\u200c\u200e-\u206f\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]$/u

/** The longest prefix, up to `end`, that does not end between the halves of a surrogate pair. */
export function pairSeam(text: string, end: number = text.length): number {
  const last = text.charCodeAt(end - 1)
  return last >= 0xd800 && last < 0xdc00 ? end - 1 : end
}

/**
 * The longest prefix after which more text makes no other grapheme of what was shown: a flag, a family of emoji, a letter
 * of Devanagari with its vowel sign. Only the last characters are looked at. A Latin letter is not held back for a
 * combining mark that may follow, for then every piece of English would come a letter short.
 */
export function graphemeSeam(text: string, segmenter: Intl.Segmenter): number {
  const end = pairSeam(text) // half a pair after a joiner would look like a letter of its own
  const last = text.charCodeAt(end - 1)
  if ((last < firstMark && last !== carriageReturn) || settled.test(text.slice(Math.max(0, end - 2), end))) return end
  return lastCluster(text, end, segmenter)
}

/**
 * The longest prefix that could be all: it ends neither between the halves of a pair, nor behind a joiner, nor within a flag.
 */
export function joinerSeam(text: string, segmenter: Intl.Segmenter): number {
  const end = pairSeam(text)
  if (text.charCodeAt(end - 1) === joiner) return lastCluster(text, end, segmenter)
  return flagSeam(text, end)
}

/**
 * The last place up to `most` that is not inside a grapheme; where there is none, the end of the first one. For a text that
 * begins with a grapheme.
 */
export function graphemeWithin(text: string, most: number, segmenter: Intl.Segmenter): number {
  if (most >= text.length) return text.length
  if (isPlain(text.charCodeAt(most - 1)) && isPlain(text.charCodeAt(most))) return most
  const from = most <= longWindow ? 0 : flagSeam(text, pairSeam(text, most - longWindow))
  const { index, segment } = segmenter.segment(text.slice(from, most + window)).containing(most - from) ?? {
    index: 0,
    segment: ''
  }
  return from + index > 0 ? from + index : pairSeam(text.slice(0, segment.length))
}

const joiner = 0x200d
const firstMark = 0x0300
const carriageReturn = 0x0d

/** A piece may be asked for in the middle of a letter with very many marks. */
const longWindow = 512

/** Two of these never make one grapheme: no line break, no mark, no emoji that is joined to its neighbour. */
function isPlain(unit: number): boolean {
  return unit >= 0x20 && unit < firstMark
}

/** Whether a regional indicator ends there: two of them are a flag. */
function isFlagHalf(text: string, end: number): boolean {
  if (end < 2 || text.charCodeAt(end - 2) !== 0xd83c) return false
  const low = text.charCodeAt(end - 1)
  return low >= 0xdde6 && low <= 0xddff
}

/** The last place up to `end` that is not inside a flag: told only by counting back to the first of its neighbours. */
function flagSeam(text: string, end: number): number {
  let halves = 0
  while (isFlagHalf(text, end - 2 * halves)) halves++
  return halves % 2 === 0 ? end : end - 2
}

function lastCluster(text: string, end: number, segmenter: Intl.Segmenter): number {
  const from = end <= window ? 0 : flagSeam(text, pairSeam(text, end - window))
  let last = 0
  for (const { index } of segmenter.segment(text.slice(from, end))) last = index
  // A cluster longer than the window is no letter any more: then only the pair counts.
  return last === 0 && from > 0 ? end : from + last
}
