import { checkOptions } from '@millrace/core'
import { mostWithin } from './charged.ts'
import type { Tokenizer } from './tokenizer.ts'

export interface TruncateOptions {
  readonly tokenizer: Tokenizer
  /** Tokens the result may have, the tokenizer's safety factor counted in. */
  readonly budget: number
  /** Which piece of the text stays; `both` takes half of the budget for each end. @default 'start' */
  readonly keep?: 'start' | 'end' | 'both' | undefined
  /** Put where text was left out, and counted with it. @default '' */
  readonly ellipsis?: string | undefined
}

/**
 * The longest piece of a text it finds within a budget; the text itself when all of it fits. Never cuts within a grapheme
 * (an emoji with its modifiers, a letter with its accents, CR LF), so that of a text whose first does not fit nothing is
 * left. Counts a few times as much text as it keeps, however long the rest.
 *
 * @throws {TypeError} when an option is wrong
 *
 * @example
 * const short = truncateText(page, { tokenizer: tokenizerFor('gpt-4.1'), budget: 500, ellipsis: ' ...' })
 */
export function truncateText(text: string, options: TruncateOptions): string {
  checkOptions<TruncateOptions>('truncateText', options, { tokenizer: 1, budget: 1, keep: 1, ellipsis: 1 })
  const { tokenizer, budget, keep = 'start', ellipsis = '' } = options
  if (typeof text !== 'string') throw new TypeError(`truncateText takes a string, not ${typeof text}`)
  if (typeof tokenizer?.fits !== 'function') throw new TypeError("tokenizer must be a tokenizer, such as tokenizerFor('gpt-4.1')")
  if (!(budget >= 0)) throw new TypeError(`budget must be a number of tokens of at least 0, not ${budget}`)
  if (keep !== 'start' && keep !== 'end' && keep !== 'both')
    throw new TypeError(`keep must be 'start', 'end' or 'both', not ${String(keep)}`)
  if (typeof ellipsis !== 'string') throw new TypeError(`ellipsis must be a string, not ${typeof ellipsis}`)
  if (tokenizer.fits(text, budget)) return text

  const most = mostWithin(budget, tokenizer.safetyFactor)
  const start = keep === 'end' ? undefined : sideOf(text, 'start', most)
  const end = keep === 'start' ? undefined : sideOf(text, 'end', most)
  // Where pieces meet, a token more or less may come of it; then all is done once more with so much less.
  for (let room = most - tokenizer.count(ellipsis); room > 0; ) {
    const half = end === undefined ? room : Math.ceil(room / 2)
    const head = start === undefined ? '' : start.to(longest(start, half, text.length, tokenizer))
    const rest = head === '' ? room : room - tokenizer.count(head)
    const tail = end === undefined ? '' : end.to(longest(end, rest, text.length - head.length, tokenizer))
    if (head === '' && tail === '') return ''
    const piece = head + ellipsis + tail
    const over = tokenizer.count(piece) - most
    if (over <= 0) return piece
    room -= over
  }
  return ''
}

/** A text seen from one of its ends. A place is a number of characters (units of UTF-16) from there. */
interface Side {
  readonly chars: number
  /** The text from this end to a place, or between two places. */
  to(far: number, near?: number): string
  /** The last place at or before this one that is between two graphemes, and the next such place behind it. */
  around(place: number): readonly [number, number]
  /** A place at most `far` and near it where counts add up, if one is seen. */
  seam(near: number, far: number): number
}

/** The farthest place before `end` that so many tokens reach. */
function longest(side: Side, room: number, end: number, tokenizer: Tokenizer): number {
  let place = 0 // what fits
  let tokens = 0
  let next = side.around(0)[1]
  let over = Math.min(side.chars, end) // what does not
  let overTokens = 0 // not known yet
  let seam = 0
  let seamTokens = 0
  for (let turn = 0; next < over; turn++) {
    // Further by what the text took so far, then in between by turns of proportion and of halves, which always ends soon.
    let guess = place + Math.max(2 ** turn, (room - tokens) * (tokens === 0 ? 4 : place / tokens))
    if (overTokens > 0) guess = place + (over - place) * (turn % 2 === 0 ? 0.5 : (room - tokens + 0.5) / (overTokens - tokens))
    let [tried, after] = side.around(Math.min(Math.floor(guess), over - 1))
    if (tried <= place) [tried, after] = side.around(next)
    const counted = seamTokens + tokenizer.count(side.to(tried, seam))
    if (counted > room) {
      over = tried
      overTokens = counted
      continue
    }
    place = tried
    tokens = counted
    next = after
    // From here on only what lies behind the seam is counted, which makes the whole search as cheap as a few counts.
    seam = side.seam(seam, place)
    seamTokens = tokens - tokenizer.count(side.to(place, seam))
  }
  return place
}

/** Bytes of the longest token there is: a longer text cannot have fewer tokens than so many times. */
const maxTokenBytes = 128

/** How far back a seam is looked for. */
const seamChars = 256

function sideOf(whole: string, from: 'start' | 'end', most: number): Side {
  const isStart = from === 'start'
  const reach = most * maxTokenBytes + 1
  const text = isStart ? whole.slice(0, reach) : whole.slice(plainPlace(whole, whole.length - reach))
  const chars = text.length
  let segments: Intl.Segments | undefined

  function to(far: number, near = 0): string {
    return isStart ? text.slice(near, far) : text.slice(chars - far, chars - near)
  }

  return {
    chars,
    to,
    around(place) {
      // In plain text there is one everywhere; to look for them elsewhere, the whole text is copied once.
      const at = isStart ? place : chars - place
      if (isPlain(text, at) && isPlain(text, isStart ? at + 1 : at - 1)) return [place, place + 1]
      segments ??= new Intl.Segmenter(undefined, { granularity: 'grapheme' }).segment(text)
      if (isStart) {
        const { index, segment } = segments.containing(at) as Intl.SegmentData
        return [index, index + segment.length]
      }
      const { index, segment } = segments.containing(at - 1) as Intl.SegmentData
      return [chars - index - segment.length, chars - index]
    },
    seam(near, far) {
      const begin = Math.max(near, far - seamChars)
      // A word is over where a space or a sign follows, in each vocabulary and whatever is around the two.
      const index = to(far, begin).search(/(?<=\p{L})[\s.,;:!?)]/u)
      if (index === -1) return near
      return isStart ? begin + index : far - index
    }
  }
}

/** Whether a grapheme begins at this place for sure: both sides are ASCII, or the end of the text. */
function isPlain(text: string, at: number): boolean {
  return isPlainUnit(text, at - 1) && isPlainUnit(text, at)
}

function isPlainUnit(text: string, at: number): boolean {
  const unit = text.charCodeAt(at)
  return (unit >= 32 && unit < 127) || Number.isNaN(unit)
}

/** The last such place up to this one. */
function plainPlace(text: string, at: number): number {
  let place = Math.max(0, at)
  while (place > 0 && !isPlain(text, place)) place--
  return place
}
