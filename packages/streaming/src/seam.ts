/** How far back a grapheme cluster is looked for: the longest emoji have about fifteen code units. */
const window = 64

/** Characters that are seen to be continued only in decomposed text: everything before the combining marks, and CJK. */
const settled = /[\0-\u02ff\u2000-\u200c\u200e-\u206f\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]$/u

/** The longest prefix that does not end between the halves of a surrogate pair. */
export function pairSeam(text: string): number {
  const last = text.charCodeAt(text.length - 1)
  return last >= 0xd800 && last < 0xdc00 ? text.length - 1 : text.length
}

/**
 * The longest prefix after which more text makes no other grapheme of what was shown: a flag, a family of emoji, a letter
 * of Devanagari with its vowel sign. Only the last characters are looked at. A Latin letter is not held back for a
 * combining mark that may follow, for then every piece of English would come a letter short.
 */
export function graphemeSeam(text: string, segmenter: Intl.Segmenter): number {
  const end = pairSeam(text) // half a pair after a joiner would look like a letter of its own
  if (settled.test(text.slice(Math.max(0, end - 2), end))) return end
  const from = Math.max(0, end - window)
  let last = 0
  for (const { index } of segmenter.segment(text.slice(from, end))) last = index
  // A cluster longer than the window is no letter any more: then only the pair counts.
  return last === 0 && from > 0 ? end : from + last
}
