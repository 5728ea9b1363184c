/**
 * Where a text stops being JSON and why, as `line:column what is wrong`; undefined if it is JSON. `JSON.parse` quotes what
 * it could not read, which may be a secret, and often tells no place.
 *
 * @example
 * jsonMistake('{"port": 1,}') // '1:11 there is a comma with nothing after it: take it out'
 */
export function jsonMistake(text: string): string | undefined {
  /** Of each object and list that is open, which it is. */
  const open: Array<'{' | '['> = []
  let wanted: Wanted = 'value'
  /** Of the last comma. */
  let comma: number | undefined
  let at = 0
  const told = (place: number, what: string): string => {
    const lines = text.slice(0, place).split('\n')
    return `${lines.length}:${(lines.at(-1) as string).length + 1} ${what}`
  }
  while (true) {
    at = after(space, text, at)
    const start = text[at]
    if (start === undefined) {
      if (wanted === 'end') return undefined
      return told(
        at,
        open.length === 0
          ? 'the file is empty: write {} at least'
          : `the file ends before its last ${closing[open.at(-1) as '{']}`
      )
    }
    if (wanted === 'end') return told(at, 'there is something after the end of the object')
    const inside = open.at(-1)
    if (start === '/' || start === '#') return told(at, 'there is a comment, and JSON has none: take it out')
    if (inside !== undefined && start === closing[inside] && canClose[wanted]) {
      if (comma !== undefined) return told(comma, 'there is a comma with nothing after it: take it out')
      open.pop()
      wanted = open.length === 0 ? 'end' : 'comma'
      at++
      continue
    }
    if (wanted === 'comma' || wanted === 'colon') {
      if (start !== (wanted === 'comma' ? ',' : ':')) return told(at, `a ${wanted} is missing before this`)
      if (wanted === 'comma') comma = at
      wanted = wanted === 'colon' ? 'value' : inside === '{' ? 'key' : 'item'
      at++
      continue
    }
    if (wanted === 'key') {
      const end = after(string, text, at)
      if (end === at) return told(at, start === '"' ? brokenString : 'a key in double quotes is wanted here')
      wanted = 'colon'
      at = end
    } else if (start === '{' || start === '[') {
      open.push(start)
      wanted = start === '{' ? 'key' : 'item'
      at++
    } else {
      const end = after(scalar, text, at)
      if (end === at)
        return told(
          at,
          start === '"' ? brokenString : 'a value is wanted here: text in double quotes, a number, true, false, null, {} or []'
        )
      wanted = inside === undefined ? 'end' : 'comma'
      at = end
    }
    comma = undefined
  }
}

/** `item`: a value of a list, or its end. */
type Wanted = 'value' | 'item' | 'key' | 'colon' | 'comma' | 'end'

const canClose: Readonly<Record<Wanted, boolean>> = { value: false, item: true, key: true, colon: false, comma: true, end: false }
const closing = { '{': '}', '[': ']' } as const
const brokenString = 'this text has no closing quote on its line, or a backslash or control character that JSON does not allow'
const space = /[ \t\n\r]*/y
const string = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[\da-fA-F]{4}))*"/y
const scalar = new RegExp(`${string.source}|-?(?:0|[1-9]\\d*)(?:\\.\\d+)?(?:[eE][+-]?\\d+)?|true|false|null`, 'y')

/** Where the pattern ends that begins at `at`; `at` if it does not. */
function after(pattern: RegExp, text: string, at: number): number {
  const found = new RegExp(pattern, 'y')
  found.lastIndex = at
  return found.test(text) ? found.lastIndex : at
}
