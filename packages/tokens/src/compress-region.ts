import { isGap, markerOf } from './compress-line.ts'

/** Fenced code that is open: it ends at a line with the same sign at least as often. */
export interface Fence {
  readonly sign: number
  readonly length: number
  /** Signs of quotation before it. */
  readonly quotes: number
  /** Column of the fence itself. */
  readonly column: number
}

const backtick = 0x60
const tilde = 0x7e

interface FenceLine extends Fence {
  readonly bare: boolean
}

/** The fence that this line holds, in a list item or a quotation too. */
export function fenceAt(text: string, from: number, to: number, inFence?: Fence): FenceLine | undefined {
  let at = from
  let quotes = 0
  for (;;) {
    while (at < to && isGap(text.charCodeAt(at))) at++
    if (at === to) return undefined
    const unit = text.charCodeAt(at)
    if (unit === backtick || unit === tilde) break
    if (unit === 0x3e) {
      quotes++
      at++
      continue
    }
    // Inside of fenced code nothing is a list.
    const marker = inFence === undefined ? markerOf(text, at, to) : undefined
    if (marker === undefined || !marker.isItem || marker.end === to) return undefined
    at = marker.end
  }
  const sign = text.charCodeAt(at)
  const column = columnOf(text, from, at)
  const begin = at
  while (at < to && text.charCodeAt(at) === sign) at++
  const length = at - begin
  if (length < 3) return undefined
  while (at < to && isGap(text.charCodeAt(at))) at++
  if (sign === backtick && at < to && inFence === undefined) {
    // ``` in one line with its end is code inside a paragraph.
    const again = text.indexOf('`', at)
    if (again !== -1 && again < to) return undefined
  }
  return { sign, length, quotes, column, bare: at === to }
}

/**
 * Whether a line ends the fenced code. `unsure` when readers differ: a fence further out than the one it closes ends it for
 * a human, and for Markdown ends the list item and opens another fence.
 */
export function closes(fence: Fence, line: FenceLine | undefined): 'no' | 'yes' | 'unsure' {
  if (line === undefined || !line.bare || line.sign !== fence.sign || line.length < fence.length) return 'no'
  if (line.quotes > fence.quotes || line.column > fence.column + 3) return 'no'
  return line.quotes < fence.quotes || line.column < fence.column ? 'unsure' : 'yes'
}

function columnOf(text: string, from: number, to: number): number {
  let column = 0
  for (let at = from; at < to; at++) column += text.charCodeAt(at) === 9 ? 4 - (column % 4) : 1
  return column
}

/** What goes on over blank lines until a line holds `end`, or, where `isOutside`, until a line that begins as `end` does. */
export interface Region {
  readonly end: RegExp
  readonly isOutside: boolean
}

const openers =
  /<(pre|code|script|style|textarea|xmp|svg|math)(?=[\s>])|<!--|<!\[CDATA\[|"""|'''|\\begin\{(\w{1,30}\*?)\}|^[ \t]*\/\*|^[ \t]*-----BEGIN|^@@ -/i

/** The region that is open behind this line: one that it opens, from `from` on, and does not close. */
export function openRegion(line: string, from = 0): Region | undefined {
  const search = new RegExp(openers, 'gi')
  search.lastIndex = from
  for (let found = search.exec(line); found !== null; found = search.exec(line)) {
    const region = regionOf(found)
    if (region === undefined) continue
    region.end.lastIndex = search.lastIndex
    if (region.end.exec(line) === null) return region
    search.lastIndex = region.end.lastIndex
  }
  return undefined
}

/** The region that is open behind a line that began inside of `region`. */
export function followRegion(region: Region, line: string): Region | undefined {
  region.end.lastIndex = 0
  return region.end.exec(line) === null ? region : openRegion(line, region.end.lastIndex)
}

function regionOf([opener, element, environment]: RegExpExecArray): Region | undefined {
  if (element !== undefined) return until(`</${element}`)
  // The whole of a document is one environment; what matters are those inside it.
  if (environment !== undefined) return environment === 'document' ? undefined : until(`\\end{${environment}}`)
  if (opener === '<!--') return until('-->')
  if (opener.startsWith('<!')) return until(']]>')
  if (opener.endsWith('/*')) return until('*/')
  if (opener.endsWith('-----BEGIN')) return until('-----END')
  // A difference goes on as long as its lines begin as lines of one do.
  if (opener.startsWith('@')) return { end: /^(?![ +\-\\@]|diff |index |$)/g, isOutside: true }
  return until(opener)
}

function until(end: string): Region {
  return { end: new RegExp(end.replace(/[\\{}*]/g, '\\$&'), 'gi'), isOutside: false }
}
