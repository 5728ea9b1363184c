import { keptEnd } from './compress-kept.ts'
import { isGap, markerOf } from './compress-line.ts'

const newline = 10

/**
 * Takes the needless spaces out of a paragraph. What stays: what is before the first word of a line, code between
 * backticks, what is quoted, and the two spaces at the end of a line by which Markdown breaks it.
 */
export function prose(text: string): string {
  let out = ''
  let copied = 0
  let from = 0
  while (from < text.length) {
    const found = text.indexOf('\n', from)
    const to = found === -1 ? text.length : found
    let first = from
    while (first < to && isGap(text.charCodeAt(first))) first++
    const { end } = markerOf(text, first, to)
    // Where a line holds nothing but the marker the spaces behind it trail.
    if (!isLineEnd(text, end)) first = end
    for (let at = first; at < to; at++) {
      const kept = keptEnd(text, at, to)
      if (kept === -1) break // a quotation without an end: the rest of the line stays
      if (kept > at) {
        at = kept - 1
        continue
      }
      if (!isGap(text.charCodeAt(at))) continue
      const gap = at
      while (isGap(text.charCodeAt(at + 1))) at++
      const needed = isLineEnd(text, at + 1) ? breakOf(text, gap, at + 1) : ' '
      if (text.slice(gap, at + 1) === needed) continue
      out += text.slice(copied, gap) + needed
      copied = at + 1
    }
    from = to + 1
  }
  return out + text.slice(copied)
}

/** What stays of the spaces at the end of a line: two break it in Markdown, unless it is the last of its paragraph. */
function breakOf(text: string, from: number, to: number): string {
  if (to - from < 2 || text.charCodeAt(to - 1) !== 32 || text.charCodeAt(to - 2) !== 32) return ''
  const next = text.charCodeAt(to) === newline ? to + 1 : to + 2
  return next < text.length ? '  ' : ''
}

function isLineEnd(text: string, at: number): boolean {
  if (at >= text.length) return true
  const unit = text.charCodeAt(at)
  return unit === newline || (unit === 13 && text.charCodeAt(at + 1) === newline)
}
