/** Characters of the texts whose counts are remembered, all together. */
const maxChars = 2 ** 21
/** A longer text is counted again: it would push out too many others. */
export const maxTextChars: number = maxChars / 2
/** A shorter text is counted about as fast as found. */
const minTextChars = 64

type Count = (text: string) => number

/** `count`, with the counts of the texts asked for last remembered: the messages of a conversation come again with each turn. */
export function memoised(count: Count): Count {
  // Two generations: a map that loses its oldest entry at each insertion is slow.
  let young = new Map<string, number>()
  let old = new Map<string, number>()
  let chars = 0 // of the young

  function remember(text: string, tokens: number): void {
    if (chars + text.length > maxChars / 2) {
      old = young
      young = new Map()
      chars = 0
    }
    chars += text.length
    young.set(text, tokens)
  }

  return (text) => {
    if (text.length < minTextChars || text.length > maxTextChars) return count(text)
    const known = young.get(text)
    if (known !== undefined) return known
    const tokens = old.get(text) ?? count(text)
    // A copy: a slice of a long string would keep all of it alive.
    remember(` ${text}`.slice(1), tokens)
    return tokens
  }
}
