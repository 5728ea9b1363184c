import { MillraceError } from '@millrace/core'

const maxDepth = 128

/**
 * Refuses a JSON text that has a key twice in one object, of which we would judge the last and a provider may read the first,
 * a key with letters written as `\u…`, or nesting deeper than 128. Call it before `JSON.parse`, which takes long over what is deep. A text that is no JSON
 * may pass: the parser refuses it.
 *
 * It looks at each character once and calls nothing for each level; 1 MB takes a few milliseconds.
 *
 * @throws {MillraceError} `invalid-request` with the status 400
 *
 * @example
 * checkShape(text)
 * const body = parseJson(text)
 */
export function checkShape(text: string): void {
  /** Of each object that is open its keys, of each list undefined. */
  const open: Array<Set<string> | undefined> = []
  /** Whether a string here is a key: behind `{`, and in an object behind `,`. */
  let isKeyNext = false
  for (let at = 0; at < text.length; at++) {
    switch (text.charCodeAt(at)) {
      case quote: {
        const end = endOfString(text, at)
        if (end === -1) return
        const keys = isKeyNext ? open.at(-1) : undefined
        if (keys !== undefined) {
          const key = keyOf(text.slice(at, end + 1))
          if (key === undefined) return
          if (keys.has(key)) throw refused(`${JSON.stringify(key.slice(0, 64))} stands twice in one object: leave one out`)
          keys.add(key)
        }
        isKeyNext = false
        at = end
        break
      }
      case openBrace:
      case openBracket:
        isKeyNext = text.charCodeAt(at) === openBrace
        open.push(isKeyNext ? new Set() : undefined)
        if (open.length > maxDepth) throw refused(`the body is nested deeper than ${maxDepth}: make it flatter`)
        break
      case closeBrace:
      case closeBracket:
        open.pop()
        isKeyNext = false
        break
      case comma:
        isKeyNext = open.at(-1) !== undefined
        break
    }
  }
}

const quote = 0x22
const comma = 0x2c
const openBracket = 0x5b
const backslash = 0x5c
const closeBracket = 0x5d
const openBrace = 0x7b
const closeBrace = 0x7d

/** Where the string that begins at `start` has its closing quote; -1 where it has none. */
function endOfString(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); end !== -1; end = text.indexOf('"', end + 1)) {
    // An even number of backslashes are escaped ones, and the quote behind them is none.
    let before = end - 1
    while (text.charCodeAt(before) === backslash) before--
    if ((end - before) % 2 === 1) return end
  }
  return -1
}

/** `\u` and the number of a letter, a digit or `_`. */
const needlessEscape = /\\u00(?:3\d|4[1-9a-f]|5[\daf]|6[1-9a-f]|7[\da])/i

/** What a key says, escapes read; undefined where it is no JSON. */
function keyOf(quoted: string): string | undefined {
  if (!quoted.includes('\\')) return quoted.slice(1, -1)
  // V8 takes the key "\u0075rl" for "\\u0" where any text before it, of whatever request, had that one in its place: a
  // provider would read a `url` that we never saw. Nobody who writes JSON escapes letters.
  if (needlessEscape.test(quoted)) throw refused('a key has letters written as \\u…: write the letters themselves')
  try {
    return JSON.parse(quoted) as string
  } catch {
    return undefined // told by the result: the parser of the whole refuses it
  }
}

// With a path, for what a refusal of ours says of it is told to the caller.
function refused(message: string): MillraceError<'invalid-request'> {
  return new MillraceError('invalid-request', message, { details: { status: 400, path: 'body' } })
}
