import { checkOptions } from '@millrace/core'
import { prose } from './compress-prose.ts'
import { type Kind, segmentsOf } from './compress-segment.ts'
import type { Tokenizer } from './tokenizer.ts'

export interface CompressOptions {
  /** Counts what was saved: the length does not tell. @default none, and savedTokens is undefined */
  readonly tokenizer?: Pick<Tokenizer, 'count'> | undefined
}

export interface Compressed {
  /** The very string that was given, when nothing was needless. */
  readonly text: string
  /** By the tokenizer of the options, without its safety factor; undefined when there is none. */
  readonly savedTokens: number | undefined
  /** UTF-16 code units. */
  readonly savedChars: number
}

/**
 * Takes needless whitespace out of prose: runs of spaces and tabs between words become one space, spaces at the end of a
 * line go, of several blank lines one stays. No word changes, no line is joined to another, no indentation is touched, and
 * what is quoted or may be code, data or a table stays byte for byte: a paragraph in doubt stays, such as one of several lines
 * with gaps in one that is no sentence, or with a quotation that goes on in the next line. The same text always gives the same,
 * and compressing it again changes nothing. Linear in the text.
 *
 * Two spaces at the end of a line stay where Markdown reads them as a line break. Texts that will be joined without
 * anything between them are to be joined first: spaces at the end of the last line go too.
 *
 * @throws {TypeError} when `text` is not a string or an option is wrong
 *
 * @example
 * const { text } = compress('Too   many  spaces.\n\n\n\nAnd `a  b` stays.')
 * console.log(text) // 'Too many spaces.\n\nAnd `a  b` stays.'
 */
export function compress(text: string, options: CompressOptions = {}): Compressed {
  checkOptions<CompressOptions>('compress', options, { tokenizer: 1 })
  checkTokenizer(options.tokenizer)
  if (typeof text !== 'string')
    throw new TypeError(`compress takes a string, not ${typeof text}; messages go to compressMessages`)
  const compressed = compressText(text).text
  const saved = options.tokenizer === undefined ? undefined : savedTokens(text, compressed, options.tokenizer)
  return { text: compressed, savedTokens: saved, savedChars: text.length - compressed.length }
}

export function checkTokenizer(tokenizer: Pick<Tokenizer, 'count'> | undefined): void {
  if (tokenizer !== undefined && typeof tokenizer?.count !== 'function')
    throw new TypeError("tokenizer must be a tokenizer, such as tokenizerFor('gpt-4.1')")
}

/** Below zero for no text known; it is not cut off at zero, so that it would show. */
export function savedTokens(before: string, after: string, tokenizer: Pick<Tokenizer, 'count'>): number {
  return before === after ? 0 : tokenizer.count(before) - tokenizer.count(after)
}

/** `isOpen` when the text ends inside fenced code or the like, so that what is joined to it may belong to that. */
export function compressText(text: string): { readonly text: string; readonly isOpen: boolean } {
  if (isData(text)) return { text, isOpen: false }
  const { kinds, ends, isOpen } = segmentsOf(text)
  let out = ''
  let copied = 0
  let start = 0
  for (const [index, kind] of kinds.entries()) {
    const end = ends[index] as number
    if (kind === 'prose' || (kind === 'blank' && areFree(kinds[index - 1], kinds[index + 1]))) {
      const before = text.slice(start, end)
      // Behind a paragraph one more line ending makes two, and two are all that a blank line needs.
      const after = kind === 'prose' ? prose(before) : endings(before, index === 0 ? 2 : 1)
      if (after !== before) {
        out += text.slice(copied, start) + after
        copied = end
      }
    }
    start = end
  }
  // A text of spaces alone does not become empty: some providers refuse empty texts.
  if (copied === text.length && out === '') return { text, isOpen }
  return { text: copied === 0 ? text : out + text.slice(copied), isOpen }
}

/** The whole text is JSON, or a page or document with tags. Not parsed: to stay as it is costs nothing. */
function isData(text: string): boolean {
  const first = /\S/.exec(text)?.[0]
  const last = text.trimEnd().at(-1)
  return (first === '{' && last === '}') || (first === '[' && last === ']') || (first === '<' && last === '>')
}

/** Whether the number of blank lines between these two matters to neither. */
function areFree(above: Kind | undefined, below: Kind | undefined): boolean {
  if (above === undefined && below === undefined) return true // blank lines are all there is
  return above !== 'code' && below !== 'code' && (isFree(above) || isFree(below))
}

function isFree(kind: Kind | undefined): boolean {
  return kind === 'prose' || kind === 'fence'
}

/** The first `most` line endings of these lines, of whichever sort. */
function endings(lines: string, most: number): string {
  let out = ''
  for (let at = lines.indexOf('\n'); at !== -1 && most > 0; at = lines.indexOf('\n', at + 1), most--) {
    out += lines.charCodeAt(at - 1) === 13 ? '\r\n' : '\n'
  }
  return out
}
