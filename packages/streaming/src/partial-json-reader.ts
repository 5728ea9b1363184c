import type { Json } from '@millrace/core'
import { beginNumber, continueNumber, isNumber, type NumberState } from './json-number.ts'
import type { PartialJson, PartialJsonParser } from './partial-json.ts'

/** As in `checkJson` of core: what is deeper cannot be walked safely by all who come after. */
const maxDepth = 200

/** Each look at a bare number reads all of it again. No double needs more digits than this to be written out in full. */
const maxBareNumberChars = 4096

type Container = unknown[] | Record<string, unknown>

/** What may come next, outside of strings, numbers and words; white space may come anyway. */
type Expected = 'value' | 'value or ]' | 'key' | 'key or }' | 'colon' | 'comma or end' | 'nothing'

/** A class, for it is hot: it runs for each character. The whole is an array of one, so that each value has a place. */
export class PartialJsonReader implements PartialJsonParser {
  readonly #whole: unknown[] = []
  readonly #around: Container[] = []
  #container: Container = this.#whole
  #expected: Expected = 'value'
  #invalid = false
  /** Where in the container the value goes: a key, or the index of an open string. */
  #slot: string | number = 0

  #open: 'string' | 'key' | undefined
  #text = ''
  /** A first half of a surrogate pair, which belongs behind `#text`. */
  #half = ''
  /** Of an escape, as far as it has come: `\`, `\u`, `\u0`... */
  #escape = ''
  /** `#text` has grown since it was last shown. */
  #unseen = false

  #number: NumberState | undefined
  #word: 'true' | 'false' | 'null' | undefined
  /** Characters of the word that have come. */
  #wordChars = 0

  get state(): PartialJson['state'] {
    if (this.#invalid) return 'invalid'
    return this.#expected === 'nothing' || this.#isBareNumber() ? 'complete' : 'partial'
  }

  get value(): Json | undefined {
    return (this.#isBareNumber() ? Number(this.#text) : this.#whole[0]) as Json | undefined
  }

  push(piece: string): void {
    if (typeof piece !== 'string') {
      throw new TypeError(`partialJson takes a text, not ${piece === null ? 'null' : typeof piece}: '' where none has come`)
    }
    for (let at = 0; at < piece.length && !this.#invalid; ) {
      if (this.#open !== undefined) at = this.#readString(piece, at)
      else if (this.#number !== undefined) at = this.#readNumber(piece, at, this.#number)
      else if (this.#word !== undefined) at = this.#readWord(piece, at, this.#word)
      else at = this.#readBetween(piece, at)
    }
    if (!this.#unseen) return
    this.#unseen = false
    this.#put(this.#text)
  }

  /** A number that nothing is around; what follows may still belong to it. */
  #isBareNumber(): boolean {
    return !this.#invalid && this.#number !== undefined && this.#container === this.#whole && isNumber(this.#number)
  }

  #readBetween(piece: string, at: number): number {
    const code = piece.charCodeAt(at)
    if (code === 32 || code === 10 || code === 13 || code === 9) return at + 1
    switch (this.#expected) {
      case 'value or ]':
        if (code === closeBracket) return this.#leave(at)
        return this.#beginValue(code, at)
      case 'value':
        return this.#beginValue(code, at)
      case 'key or }':
        if (code === closeBrace) return this.#leave(at)
        return this.#beginKey(code, at)
      case 'key':
        return this.#beginKey(code, at)
      case 'colon':
        this.#expected = 'value'
        return code === colon ? at + 1 : this.#fail(at)
      case 'comma or end': {
        const inArray = Array.isArray(this.#container)
        if (code === (inArray ? closeBracket : closeBrace)) return this.#leave(at)
        this.#expected = inArray ? 'value' : 'key'
        return code === comma ? at + 1 : this.#fail(at)
      }
      case 'nothing':
        return this.#fail(at)
    }
  }

  #beginKey(code: number, at: number): number {
    if (code !== quote) return this.#fail(at)
    this.#open = 'key'
    this.#text = ''
    return at + 1
  }

  /** Strings, arrays and objects are put in their place at once, numbers and words when they are whole. */
  #beginValue(code: number, at: number): number {
    if (Array.isArray(this.#container)) this.#slot = this.#container.length
    switch (code) {
      case quote:
        this.#open = 'string'
        this.#text = ''
        this.#put('')
        return at + 1
      case openBracket:
        return this.#enter([], 'value or ]', at)
      case openBrace:
        return this.#enter(Object.create(null) as Record<string, unknown>, 'key or }', at)
      case 116:
        this.#word = 'true'
        return at
      case 102:
        this.#word = 'false'
        return at
      case 110:
        this.#word = 'null'
        return at
    }
    this.#number = beginNumber(code)
    if (this.#number === undefined) return this.#fail(at)
    this.#text = String.fromCharCode(code)
    return at + 1
  }

  #enter(container: Container, expected: Expected, at: number): number {
    if (this.#around.length >= maxDepth) return this.#fail(at)
    this.#put(container)
    this.#around.push(this.#container)
    this.#container = container
    this.#expected = expected
    return at + 1
  }

  #leave(at: number): number {
    this.#container = this.#around.pop() as Container
    this.#ended()
    return at + 1
  }

  #ended(): void {
    this.#expected = this.#container === this.#whole ? 'nothing' : 'comma or end'
  }

  #put(value: unknown): void {
    ;(this.#container as Record<string | number, unknown>)[this.#slot] = value
  }

  #fail(at: number): number {
    this.#invalid = true
    return at
  }

  #readNumber(piece: string, from: number, state: NumberState): number {
    let at = from
    for (; at < piece.length; at++) {
      const next = continueNumber(state, piece.charCodeAt(at))
      if (next === undefined) break
      state = next
    }
    this.#text += piece.slice(from, at)
    this.#number = state
    if (this.#container === this.#whole && this.#text.length > maxBareNumberChars) return this.#fail(at)
    if (at === piece.length) return at
    if (!isNumber(state)) return this.#fail(at)
    this.#number = undefined
    this.#put(Number(this.#text))
    this.#ended()
    return at
  }

  #readWord(piece: string, at: number, word: 'true' | 'false' | 'null'): number {
    if (piece[at] !== word[this.#wordChars]) return this.#fail(at)
    if (++this.#wordChars < word.length) return at + 1
    this.#word = undefined
    this.#wordChars = 0
    this.#put(word === 'null' ? null : word === 'true')
    this.#ended()
    return at + 1
  }

  #readString(piece: string, from: number): number {
    if (this.#escape !== '') return this.#readEscape(piece, from)
    let at = from
    let code = 0
    for (; at < piece.length; at++) {
      code = piece.charCodeAt(at)
      if (code === quote || code === backslash || code < 32) break
    }
    if (at > from) this.#append(piece.slice(from, at))
    if (at === piece.length) return at
    if (code === quote) this.#endString()
    else if (code === backslash) this.#escape = '\\'
    else return this.#fail(at) // a raw line break or control character
    return at + 1
  }

  #readEscape(piece: string, at: number): number {
    const letter = piece[at] as string
    if (this.#escape === '\\' && letter !== 'u') {
      const meant = escapes.get(letter)
      if (meant === undefined) return this.#fail(at)
      this.#escape = ''
      this.#append(meant)
      return at + 1
    }
    if (this.#escape !== '\\' && !/[\da-f]/i.test(letter)) return this.#fail(at)
    this.#escape += letter
    if (this.#escape.length === '\\u0000'.length) {
      this.#append(String.fromCharCode(Number.parseInt(this.#escape.slice(2), 16)))
      this.#escape = ''
    }
    return at + 1
  }

  // The half is kept apart and never cut off again: to look at the end of a text that was joined piece by piece is to copy
  // it whole.
  #append(run: string): void {
    const last = run.charCodeAt(run.length - 1)
    const opens = last >= 0xd800 && last < 0xdc00
    this.#text += this.#half + (opens ? run.slice(0, -1) : run)
    this.#half = opens ? run.slice(-1) : ''
    this.#unseen = this.#open === 'string'
  }

  #endString(): void {
    const text = this.#text + this.#half // without its other half it stays as it is, as in JSON.parse
    this.#half = ''
    this.#unseen = false
    if (this.#open === 'key') {
      this.#slot = text
      this.#expected = 'colon'
    } else {
      this.#put(text)
      this.#ended()
    }
    this.#open = undefined
  }
}

const quote = 34
const comma = 44
const colon = 58
const openBracket = 91
const backslash = 92
const closeBracket = 93
const openBrace = 123
const closeBrace = 125

const escapes: ReadonlyMap<string, string> = new Map([
  ['"', '"'],
  ['\\', '\\'],
  ['/', '/'],
  ['b', '\b'],
  ['f', '\f'],
  ['n', '\n'],
  ['r', '\r'],
  ['t', '\t']
])
