import { beginsProgram, type Line, type Look, lookAt, worse } from './compress-line.ts'
import { closes, type Fence, fenceAt, followRegion, openRegion, type Region } from './compress-region.ts'

/** blank: lines without text; prose: what may be rewritten; the others stay as they are. */
export type Kind = 'blank' | 'prose' | 'marked' | 'code' | 'fence'

/** A text cut into runs of lines of one kind. As two lists, since a text can have millions of them. */
export interface Segments {
  readonly kinds: Kind[]
  /** Where each segment ends, its line ending included; the next begins there. */
  readonly ends: number[]
  /** Whether the text ends inside something that was begun: fenced code, a comment, a quotation. */
  readonly isOpen: boolean
}

/** A paragraph so far: lines without a blank one between them. */
interface Block {
  look: Look
  lines: number
  /** Lines that look like part of a program. */
  code: number
  /** Lines that read `name: value`, and the words in the last value. */
  pairs: number
  value: number
  headings: number
  /** Lines that could be of a table of two columns, whatever they end in. */
  columns: number
  hasRow: boolean
  /** Whether the first line is indented, a little. */
  isIndented: boolean
  /** Column of the text of the last list item; -1 outside of a list. */
  column: number
  previous: Line | undefined
}

/** Looks at each line once. */
export function segmentsOf(text: string): Segments {
  const kinds: Kind[] = []
  const ends: number[] = []
  const tabbed: number[] = [] // segments with a tab between words
  let tabbedLines = 0
  let lines = 0
  let codeLines = 0
  let block: Block | undefined
  let last: { readonly line: Line; readonly index: number } | undefined // with gaps, and its segment
  let fence: Fence | undefined
  let region: Region | undefined
  let isLost = false // where a fence was closed in a way that can be read in two ways

  function put(kind: Kind, end: number): void {
    const top = kinds.length - 1
    if (kind === kinds[top] && (kind === 'blank' || kind === 'fence')) ends[top] = end
    else {
      kinds.push(kind)
      ends.push(end)
    }
  }

  function endBlock(end: number): void {
    if (block === undefined) return
    const { look, pairs, value, headings, columns, hasRow } = block
    const isSingle = block.lines === 1
    lines += block.lines
    codeLines += block.code
    let kind: Kind = look === 'plain' ? 'prose' : look
    // A lone line with gaps has nothing to be aligned with.
    if (kind === 'prose' && (isSingle ? block.isIndented : hasRow || columns === block.lines)) kind = 'marked'
    if (headings > 1 && headings === block.lines)
      kind = 'code' // comments of a program
    else if (kind === 'prose' && (pairs > 1 || (isSingle && pairs === 1 && value > 0 && value <= maxValueWords))) kind = 'marked'
    put(kind, end)
    block = undefined
  }

  let from = 0
  while (from < text.length) {
    const newline = text.indexOf('\n', from)
    const next = newline === -1 ? text.length : newline + 1
    let to = newline === -1 ? next : newline
    if (newline > from && text.charCodeAt(newline - 1) === 13) to--

    if (isLost) {
      put('fence', text.length)
      break
    }
    if (fence !== undefined) {
      const end = closes(fence, fenceAt(text, from, to, fence))
      if (end !== 'no') fence = undefined
      isLost = end === 'unsure'
      put('fence', next)
      from = next
      continue
    }
    if (region !== undefined) {
      const after = followRegion(region, text.slice(from, to))
      const isOver = after === undefined && region.isOutside
      region = after
      if (!isOver) {
        block ??= createBlock()
        block.look = worse(block.look, 'marked')
        from = next
        continue
      }
    }
    fence = fenceAt(text, from, to)
    if (fence !== undefined) {
      endBlock(from)
      put('fence', next)
      from = next
      continue
    }

    const line = lookAt(text, from, to)
    if (line.first === line.last) {
      endBlock(from)
      put('blank', next)
      from = next
      continue
    }
    block ??= createBlock()
    grow(text, block, line)
    const index = kinds.length
    if (line.tabs > 0) {
      tabbedLines++
      tabbed.push(index)
      if (line.tabs > 1) block.look = worse(block.look, 'marked')
    }
    if (line.gaps.length > 0) {
      // Over a blank line two rows are a table; in sentences one column in common is chance.
      const isTable =
        last !== undefined && ((isRow(text, last.line) && isRow(text, line)) || shared(last.line.gaps, line.gaps) > 1)
      if (last !== undefined && last.index < index && isTable) {
        block.look = worse(block.look, 'marked')
        if (kinds[last.index] === 'prose') kinds[last.index] = 'marked'
      }
      last = { line, index }
    } else last = undefined
    if (line.mayOpen) region = openRegion(text.slice(from, to))
    if (from === 0) region ??= frontMatter(text)
    from = next
  }
  endBlock(text.length)

  // One line with a tab is prose with a tab in it; several are a table.
  if (tabbedLines > 1) for (const index of tabbed) if (kinds[index] === 'prose') kinds[index] = 'marked'
  if (codeLines * 2 >= lines && codeLines > 0) keepAll(kinds)
  else keepNeighbours(text, kinds, ends)
  return { kinds, ends, isOpen: fence !== undefined || region !== undefined || isLost }
}

/** More words behind a name and a colon are a sentence. */
const maxValueWords = 6

function createBlock(): Block {
  return {
    look: 'plain',
    lines: 0,
    code: 0,
    pairs: 0,
    value: 0,
    headings: 0,
    columns: 0,
    hasRow: false,
    isIndented: false,
    column: -1,
    previous: undefined
  }
}

function grow(text: string, block: Block, line: Line): void {
  const { previous } = block
  let { look } = line
  if (previous === undefined && beginsProgram(text, line)) look = 'code'
  // In a list a line may be indented as far as the text of its item, and a new item a little further.
  const room = block.column === -1 ? 1 : block.column + (line.isItem ? 3 : 1)
  // Two or three spaces before the first line alone are the paragraph's own.
  if (previous === undefined && !line.isItem && line.indent > room && line.indent < 4) block.isIndented = true
  else if (line.indent > room || (block.isIndented && block.lines === 1 && (line.indent > 0 || line.isItem || line.value >= 0))) {
    const opens = previous !== undefined && ':{([,'.includes(text.charAt(previous.last - 1))
    look = opens && !line.isItem ? 'code' : worse(look, 'marked')
    block.code++
  } else if (look === 'code') block.code++
  if (line.isItem) block.column = line.indent + line.words - line.first
  else if (line.indent === 0) block.column = -1
  if (line.isHeading) block.headings++
  if (line.isSpaced && line.gaps.length === 2) block.columns++
  if (isRow(text, line)) block.hasRow = true
  if (line.value >= 0) {
    block.pairs++
    block.value = line.value
  }
  if (previous !== undefined && areRows(text, previous, line)) look = worse(look, 'marked')
  block.look = look === 'code' ? look : worse(block.look, look)
  block.lines++
  block.previous = line
}

/** Whether two lines under each other look like rows of one table although they may end as sentences do. */
function areRows(text: string, above: Line, line: Line): boolean {
  const isList = line.commas > 1 && line.commas === above.commas
  if (isList && !endsSentence(text, line) && !endsSentence(text, above)) return true
  // Half of them: among many gaps one is in the same column by chance.
  const gaps = Math.min(above.gaps.length, line.gaps.length)
  return gaps > 0 && shared(above.gaps, line.gaps) * 4 >= gaps
}

function isRow(text: string, line: Line): boolean {
  return line.isSpaced && !endsSentence(text, line)
}

function endsSentence(text: string, { last }: Line): boolean {
  return '.!?'.includes(text.charAt(last - 1))
}

/** How many gaps of two lines begin, or end, in the same column. */
function shared(one: readonly number[], other: readonly number[]): number {
  return Math.max(common(one, other, 0), common(one, other, 1))
}

function common(one: readonly number[], other: readonly number[], side: 0 | 1): number {
  let count = 0
  for (let i: number = side, j: number = side; i < one.length && j < other.length; ) {
    const difference = (one[i] as number) - (other[j] as number)
    if (difference === 0) count++
    if (difference > 0) j += 2
    else i += 2
  }
  return count
}

/** The text is a program, and so are its comments and the texts in it. */
function keepAll(kinds: Kind[]): void {
  for (const [index, kind] of kinds.entries()) if (kind === 'prose' || kind === 'marked') kinds[index] = 'code'
}

/** What stands beside a program may be a part of it, unless it reads as sentences do. */
function keepNeighbours(text: string, kinds: Kind[], ends: readonly number[]): void {
  for (const [index, kind] of kinds.entries()) {
    if (kind !== 'prose') continue
    const above = kinds[index - 1] === 'blank' ? kinds[index - 2] : kinds[index - 1]
    const below = kinds[index + 1] === 'blank' ? kinds[index + 2] : kinds[index + 1]
    if (above !== 'code' && below !== 'code') continue
    if (!isSentence(text.slice(ends[index - 1] ?? 0, ends[index]))) kinds[index] = 'marked'
  }
}

function isSentence(block: string): boolean {
  return /^[ \t]?["'(]?\p{Lu}/u.test(block) && /[.!?:"')]$/.test(block.trimEnd())
}

/** YAML or TOML at the very beginning of a text, when it has an end. */
function frontMatter(text: string): Region | undefined {
  const found = /^(---|\+\+\+)[ \t]*\r?\n/.exec(text)?.[1]
  if (found === undefined || !text.includes(`\n${found}`, 3)) return undefined
  return { end: found === '---' ? /^(?:---|\.\.\.)[ \t]*$/g : /^\+\+\+[ \t]*$/g, isOutside: false }
}
