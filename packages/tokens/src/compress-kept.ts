const backtick = 0x60

/** What closes a quotation, by what opens it: some languages turn the signs around. */
const closers: Readonly<Record<string, string>> = {
  '"': '"',
  "'": "'",
  '“': '”',
  '❝': '❞',
  '＂': '＂',
  '”': '”',
  '„': '“”',
  '‘': '’',
  '’': '’',
  '‚': '‘’',
  '«': '»',
  '»': '«»',
  '‹': '›',
  '›': '‹›',
  '「': '」',
  '『': '』'
}

/** Letters that have a case, unlike those of Chinese, where a ' between two of them is no apostrophe. */
const isLetter = /[\p{Lu}\p{Ll}\p{M}\p{N}]/u

/**
 * Where the code or quotation that begins here ends, always behind `at`; `at` itself where none begins; -1 where it has no
 * sure end before `to`. What asks which gaps mean something and what takes them out both ask here, so that they agree.
 */
export function keptEnd(text: string, at: number, to: number): number {
  if (text.charCodeAt(at) === backtick) return codeEnd(text, at, to)
  return isQuote(text, at) ? quotationEnd(text, at, to) : at
}

/** Behind the next run of as many backticks. */
function codeEnd(text: string, from: number, to: number): number {
  let at = from
  while (at < to && text.charCodeAt(at) === backtick) at++
  const length = at - from
  while (at < to) {
    const run = at
    while (at < to && text.charCodeAt(at) === backtick) at++
    if (at > run && at - run === length) return at
    at++ // not a backtick
  }
  return -1
}

/** Any second reading makes it unsure: a quotation or code inside of it, inches, a possessive, a sign with spaces around it. */
function quotationEnd(text: string, open: number, to: number): number {
  const close = closers[text.charAt(open)]
  if (close === undefined || isLetterAt(text, open - 1) || isGapAt(text, open + 1)) return -1
  let at = open + 1
  while (at < to && text.charCodeAt(at) !== backtick && !isQuote(text, at)) at++
  const isSure = at < to && at > open + 1 && close.includes(text.charAt(at))
  return isSure && !isLetterAt(text, at + 1) && !isGapAt(text, at - 1) ? at + 1 : -1
}

function isQuote(text: string, at: number): boolean {
  const unit = text.charCodeAt(at)
  if (unit === 0x27 || unit === 0x2019) return !isLetterAt(text, at - 1) || !isLetterAt(text, at + 1)
  if (unit < 0xab) return unit === 0x22
  if (unit < 0x2018) return unit === 0xab || unit === 0xbb
  return unit <= 0x201f || unit === 0x2039 || unit === 0x203a || (unit >= 0x300c && unit <= 0x300f)
}

function isLetterAt(text: string, at: number): boolean {
  return isLetter.test(text.charAt(at))
}

function isGapAt(text: string, at: number): boolean {
  return text.charCodeAt(at) === 32 || text.charCodeAt(at) === 9
}
