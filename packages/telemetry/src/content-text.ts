import { redactCredentials } from '@millrace/core'

/** Which attribute a text is for: the system's instructions, the input messages, the output messages or the tools' definitions. */
export type ContentPlace = 'system' | 'input' | 'output' | 'tool'

/** What may be recorded instead of a text; `undefined` leaves it out. */
export type Redact = (text: string, where: ContentPlace) => string | undefined

/** A text that may be recorded, and how many characters of the original follow it unseen. */
export interface Text {
  readonly text: string
  readonly more: number
}

/** The one way by which a text of the caller or of the model gets into an attribute. */
export interface TextReader {
  /** So much of a text is looked at; what collects one in pieces can stop there. */
  readonly heldChars: number
  /**
   * `value`, bounded, redacted and well-formed; `length` is that of the whole where `value` is only its beginning.
   *
   * @throws {TypeError} `value` is no string
   */
  read(value: unknown, where: ContentPlace, length?: number): Text | undefined
}

/**
 * Half a secret at the edge of what is seen is not recognised, so this much before the edge is never recorded. Core knows a longer
 * credential by its beginning, and a name and password in a URL up to less than this.
 */
const edgeChars = 1024

export function createTextReader(maxChars: number, redact: Redact | undefined, onFailure: () => void): TextReader {
  const heldChars = maxChars + edgeChars

  function redacted(whole: string, where: ContentPlace): string | undefined {
    const text = redactCredentials(whole)
    if (redact === undefined) return text
    try {
      const result: unknown = redact(text, where)
      if (typeof result === 'string' || result === undefined) return result
      // Nobody waits for an async hook: its rejection would end the process.
      if (result instanceof Promise) result.catch(() => {})
    } catch {
      // told by the count below: the error of a hook may quote the text
    }
    onFailure()
    return undefined
  }

  return {
    heldChars,
    read(value, where, length) {
      if (typeof value !== 'string') throw new TypeError('not a text')
      const whole = length ?? value.length
      const seen = whole > value.length || whole > heldChars ? cut(value, heldChars) : value
      const clean = redacted(seen, where)
      if (clean === undefined) return undefined
      const isPartial = whole > seen.length
      const text = cut(clean, Math.min(maxChars, isPartial ? Math.max(0, clean.length - edgeChars) : clean.length))
      return { text: text.toWellFormed(), more: whole - seen.length + clean.length - text.length }
    }
  }
}

/** The first `end` characters, or one less where that would halve a surrogate pair. */
function cut(text: string, end: number): string {
  if (end >= text.length) end = text.length
  return text.slice(0, isHighSurrogate(text.charCodeAt(end - 1)) ? end - 1 : end)
}

function isHighSurrogate(unit: number): boolean {
  return unit >= 0xd800 && unit <= 0xdbff
}

/** Room for quotes and the mark of the longest text. */
const markRoom = '"…[9007199254740991 characters more]"'.length

/** `text` as a JSON string of at most `room` characters; where it is cut, it says how much is missing. */
export function quoted({ text, more }: Text, room: number): string | undefined {
  if (more === 0 && text.length + 2 <= room) {
    const whole = JSON.stringify(text)
    if (whole.length <= room) return whole
  }
  let left = room - markRoom
  if (left < 0) return undefined
  let end = 0
  for (; end < text.length; end++) {
    left -= jsonLength(text.charCodeAt(end))
    if (left < 0) break
  }
  const kept = cut(text, end)
  return JSON.stringify(`${kept}…[${more + text.length - kept.length} characters more]`)
}

/** How many characters `JSON.stringify` writes for one. */
function jsonLength(unit: number): number {
  if (unit === 0x22 || unit === 0x5c) return 2
  if (unit >= 0x20) return 1
  return unit === 8 || unit === 9 || unit === 10 || unit === 12 || unit === 13 ? 2 : 6
}
