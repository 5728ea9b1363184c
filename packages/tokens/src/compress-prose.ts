import { backtick, codeEnd, isGap, markerOf } from './compress-line.ts'

const newline = 10
const singleQuote = 0x27
const doubleQuote = 0x22
const isLetter = /[\p{L}\p{N}]/u

/**
 * Takes the needless spaces out of a paragraph. What stays: what is before the first word of a line, code between
 * backticks, what is quoted, and the two spaces at the end of a line by which Markdown breaks it.
 */
export function prose(text: string): string {
  let out = ''
  let copied = 0
  let at = 0
  let lineTo = -1 // where the line ends
  let apostrophes = 0 // up to here no ' ends a quotation
  while (at < text.length) {
    if (at > lineTo) {
      lineTo = text.indexOf('\n', at)
      if (lineTo === -1) lineTo = text.length
      while (at < lineTo && isGap(text.charCodeAt(at))) at++
      const { end } = markerOf(text, at, lineTo)
      // Not where a line holds nothing but the marker: those spaces trail.
      if (!isLineEnd(text, end)) at = end
    }
    const unit = text.charCodeAt(at)
    if (isGap(unit)) {
      const gap = at
      while (isGap(text.charCodeAt(at))) at++
      const kept = isLineEnd(text, at) ? breakOf(text, gap, at) : ' '
      if (text.slice(gap, at) === kept) continue
      out += text.slice(copied, gap) + kept
      copied = at
    } else if (unit === backtick) {
      at = codeEnd(text, at, lineTo)
    } else if (unit === doubleQuote && isOpening(text, at)) {
      const close = text.indexOf('"', at + 1)
      at = close === -1 || close > lineTo ? at + 1 : close + 1
    } else if (unit === singleQuote && at >= apostrophes && isOpening(text, at)) {
      const close = closingApostrophe(text, at, lineTo)
      if (close === -1) apostrophes = lineTo
      at = close === -1 ? at + 1 : close + 1
    } else at++
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

function isOpening(text: string, at: number): boolean {
  if (at === 0) return true
  const before = text.charCodeAt(at - 1)
  return isGap(before) || before === newline || before === 0x28 || before === 0x5b
}

/** A ' inside of a word is an apostrophe. */
function closingApostrophe(text: string, open: number, to: number): number {
  let close = text.indexOf("'", open + 1)
  while (close !== -1 && close < to && isLetter.test(text.charAt(close + 1))) close = text.indexOf("'", close + 1)
  return close < to ? close : -1
}
