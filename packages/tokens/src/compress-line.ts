import { keptEnd } from './compress-kept.ts'

/**
 * What one line of a text looks like. The question is never "is this prose?", which nobody can answer, but "is there any
 * sign that its spaces mean something?". A wrong yes costs a few tokens; a wrong no damages what the user sent.
 */
export interface Line {
  /** Where the text of the line begins, and where it ends without trailing spaces. */
  readonly first: number
  readonly last: number
  /** Columns before the text, a tab going to the next multiple of four. */
  readonly indent: number
  /** Where the words begin, behind the marker of a list item or heading. */
  readonly words: number
  readonly isItem: boolean
  readonly isHeading: boolean
  readonly look: Look
  /** Runs of spaces that hold a tab. */
  readonly tabs: number
  /** `name: value`, by the number of words in the value; -1 when it is none. */
  readonly value: number
  /** Commas and semicolons. */
  readonly commas: number
  /** The columns where a run of two or more spaces begins and ends, in turn; none inside of code and quotations. */
  readonly gaps: readonly number[]
  /** Holds such a run, other than the two spaces that typists put between sentences. */
  readonly isSpaced: boolean
  /** Whether it holds a sign that something begins which goes on over blank lines. See `openRegion`. */
  readonly mayOpen: boolean
}

/** plain: no sign of structure; marked: stays as it is; code: a program, whose neighbours stay too. */
export type Look = 'plain' | 'marked' | 'code'

const space = 32
const tab = 9
const backtick = 0x60

/** Tables are not wider; of a longer line the gaps are of no use. */
const maxColumns = 1000
const maxKeyColumns = 40
const maxKeyWords = 4
/** A line of more words that names a function or a variable is about code, but is none. */
const maxCodeWords = 7

const noGaps: readonly number[] = []

const program =
  /^(?:import|from|def|class|return|const|let|var|function|func|fn|public|private|protected|static|package|using|struct|enum|interface|export|async|await|elif|except|raise|throw|switch|print|echo|sudo|namespace|module|include|require|SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE|ALTER|DROP|FROM|WHERE|GROUP BY|ORDER BY|VALUES)[ \t]/

/** Around a gap: the end of a sentence, and the beginning of another. */
const sentences = /[.!?…]["'’”»)]? {2}["'‘“«(]*\p{Lu}/u

export function lookAt(text: string, from: number, to: number): Line {
  let first = from
  let indent = 0
  for (; first < to; first++) {
    const unit = text.charCodeAt(first)
    if (unit === tab) indent += 4 - (indent % 4)
    else if (unit === space) indent++
    else break
  }
  let last = to
  while (last > first && isGap(text.charCodeAt(last - 1))) last--

  const { end: words, isItem, isHeading } = markerOf(text, first, last)
  let look: Look = 'plain'
  let tabs = 0
  let commas = 0
  let letters = 0
  let signs = 0
  let wordCount = 0
  let keyWords = -1
  let mayOpen = false
  let keptTo = 0 // where a quotation ends
  let isUnsure = false
  let isSpaced = false
  let isHint = false // a sign of code that sentences about code hold too
  let gaps: number[] | undefined
  let before = space
  for (let at = words; at < last; at++) {
    const unit = text.charCodeAt(at)
    if (unit === space || unit === tab) {
      const begin = at
      let tabbed = unit === tab
      while (isGap(text.charCodeAt(at + 1))) if (text.charCodeAt(++at) === tab) tabbed = true
      if (tabbed) tabs++
      before = space
      if (at === begin || begin < keptTo) continue
      if (at - from < maxColumns) (gaps ??= []).push(begin - from, at + 1 - from)
      isSpaced ||= at > begin + 1 || !sentences.test(text.slice(begin - 2, at + 4))
      continue
    }
    if (before === space) wordCount++
    const kept = isUnsure || at < keptTo ? at : keptEnd(text, at, last)
    if (kept === -1) {
      isUnsure = true
      look = worse(look, 'marked') // it may end on another line
    } else if (unit === backtick && kept > at) {
      at = kept - 1
      before = backtick
      continue
    } else if (kept > at) keptTo = kept // its signs may still be those of a program
    const next = at + 1 < last ? text.charCodeAt(at + 1) : space
    if (isWord(unit)) {
      letters++
      if (unit >= 0x2500 && unit <= 0x259f) look = worse(look, 'marked') // lines and blocks to draw with
      before = unit
      continue
    }
    signs++
    switch (unit) {
      case 0x22: // " and ' three times
      case 0x27:
        if (next === unit && text.charCodeAt(at + 2) === unit) {
          look = worse(look, 'marked')
          mayOpen = true
        }
        break
      case 0x3c: // <
      case 0x5c: // \
        look = worse(look, 'marked')
        mayOpen = true
        break
      case 0x28: // ( right behind a word, unless it is `item(s)`
        if (isWord(before) && before < 0x80 && !text.startsWith('(s)', at)) isHint = true
        break
      case 0x3d: // =
        look = before === space || next === space ? 'code' : worse(look, 'marked')
        break
      case 0x2f: // / twice, unless it is in an address
        if (next === unit && before !== 0x3a) look = worse(look, 'marked')
        break
      case 0x24: // $
        if (!(next >= 0x30 && next <= 0x39)) look = worse(look, 'marked')
        break
      case 0x5f: // _ inside a word
        if (isWord(before) && isWord(next)) isHint = true
        break
      case 0x26: // & twice
        if (next === unit) look = worse(look, 'marked')
        break
      case 0x3a: // :
        if (next === unit) look = worse(look, 'marked')
        else if (keyWords < 0 && next === space && at - from <= maxKeyColumns && wordCount <= maxKeyWords) keyWords = wordCount
        else if (isTime(text, at)) look = worse(look, 'marked')
        break
      case 0x2c: // , ;
      case 0x3b:
        commas++
        break
      case 0x5e: // ^ { | } > and controls
      case 0x7b:
      case 0x7c:
      case 0x7d:
      case 0x3e:
        look = worse(look, 'marked')
        break
      default:
        if (unit < space && unit !== 12) look = worse(look, 'marked')
    }
    before = unit
  }

  const lead = text.charCodeAt(first)
  const end = text.charCodeAt(last - 1)
  if (isHint && wordCount <= maxCodeWords) look = 'code'
  // ; { } at the end; # @ % / } at the beginning
  if (end === 0x3b || end === 0x7b || end === 0x7d || lead === 0x7d) look = 'code'
  else if ((lead === 0x23 && !isHeading) || lead === 0x40 || lead === 0x25) look = 'code'
  else if (lead === 0x2f) {
    look = 'code'
    mayOpen = true
  } else if (lead === 0x5b || lead === 0x2b || lead === 0x2d) {
    // [ of a section or a log, + and - of a difference
    if (!isItem && !isRule(text, first, last)) look = worse(look, 'marked')
    mayOpen = true
  } else if (signs > letters && !isRule(text, first, last)) look = worse(look, 'marked')
  return {
    first,
    last,
    indent,
    words,
    isItem,
    isHeading,
    look,
    tabs,
    value: keyWords < 0 ? -1 : wordCount - keyWords,
    commas,
    gaps: gaps ?? noGaps,
    isSpaced,
    mayOpen
  }
}

/** Whether a block that begins with this line is a program. Further down, prose may begin a line with any word. */
export function beginsProgram(text: string, { first, last }: Line): boolean {
  return program.test(text.slice(first, Math.min(last, first + 20)))
}

export function worse(one: Look, other: Look): Look {
  return one === 'plain' ? other : one
}

export function isGap(unit: number): boolean {
  return unit === space || unit === tab
}

function isWord(unit: number): boolean {
  return (unit >= 0x61 && unit <= 0x7a) || (unit >= 0x41 && unit <= 0x5a) || (unit >= 0x30 && unit <= 0x39) || unit > 0x7f
}

/** `12:34:56`, at the first colon: only logs, tables and transcripts are that exact. */
function isTime(text: string, at: number): boolean {
  return text.charCodeAt(at + 3) === 0x3a && isDigit(text, at + 1) && isDigit(text, at + 2) && isDigit(text, at + 4)
}

function isDigit(text: string, at: number): boolean {
  const unit = text.charCodeAt(at)
  return unit >= 0x30 && unit <= 0x39
}

/** A line of one sign only: a rule of Markdown, or the line under a title. */
function isRule(text: string, first: number, last: number): boolean {
  const unit = text.charCodeAt(first)
  for (let at = first + 1; at < last; at++) if (text.charCodeAt(at) !== unit) return false
  return true
}

export interface Marker {
  readonly end: number
  readonly isItem: boolean
  readonly isHeading: boolean
}

/** The marker at `first`, together with the spaces behind it: what is indented below depends on their number. */
export function markerOf(text: string, first: number, last: number): Marker {
  const none = { end: first, isItem: false, isHeading: false }
  const lead = text.charCodeAt(first)
  let end = first
  if (lead === 0x23) {
    while (end < last && end - first < 6 && text.charCodeAt(end) === 0x23) end++
  } else if (lead === 0x2d || lead === 0x2a || lead === 0x2b || lead === 0x2022) end++
  else {
    while (end < last && end - first < 9 && isDigit(text, end)) end++
    const close = text.charCodeAt(end)
    if (end === first || (close !== 0x2e && close !== 0x29)) return none
    end++
  }
  if (end < last && !isGap(text.charCodeAt(end))) return none
  while (end < last && isGap(text.charCodeAt(end))) end++
  return { end, isItem: lead !== 0x23, isHeading: lead === 0x23 }
}
