import { type Chunk, createSSEParser, type EventShortcut, type ReasoningChunk, type TextChunk } from '@millrace/core'
import type { AnswerReader } from './dialect.ts'

type PlainText = TextChunk | ReasoningChunk

/** Longer events are rare, and keeping two of them for each stream is not worth it. */
const maxSourceChars = 16_384

/** How often a stream may learn in a row; every sixteen events it was of use for allow it once more. */
const maxCredit = 4

/**
 * Most events of a stream differ in nothing but the words they carry, and parsing JSON is most of what reading them costs.
 * So the source text of one is kept, in two halves around its words, and an event that has the same halves is taken without
 * a parse. No guess is made on what a provider's event looks like: where the words stand is found by trying, in a reader of
 * its own, that other words there change nothing else. A string that differs from event to event for no purpose (OpenAI's
 * `obfuscation`) is passed over in the same way, once it was seen to change nothing.
 *
 * Words with an escape, with a character that JSON forbids, or none at all are left to the parser.
 */
export class TextTemplate implements EventShortcut {
  readonly #createReader: () => AnswerReader
  readonly #give: (chunk: PlainText) => void
  #type: PlainText['type'] = 'text'
  #head = ''
  /** What stands behind the words; of an event with something to be passed over, up to that. */
  #tail = ''
  /** What stands behind that; `''` where there is nothing to be passed over. */
  #rest = ''
  #credit = maxCredit
  #candidate: PlainText | undefined

  constructor(createReader: () => AnswerReader, give: (chunk: PlainText) => void) {
    this.#createReader = createReader
    this.#give = give
  }

  /** Nothing more is to be taken: the last event has come. */
  stop(): void {
    this.#head = ''
    this.#credit = 0
  }

  /** What the event that was just parsed gave; `learn` may follow. */
  parsed(chunks: readonly Chunk[], from: number): void {
    const chunk = chunks[from]
    this.#candidate = chunks.length === from + 1 && chunk !== undefined && isPlainText(chunk) ? chunk : undefined
  }

  take(text: string, start: number, bytes: Buffer): number {
    const head = this.#head
    if (head === '') return -1
    const wordsAt = start + head.length
    if (text.slice(start, wordsAt) !== head) return -1
    const wordsEnd = stringEnd(text, wordsAt)
    if (wordsEnd <= wordsAt) return -1
    let end = wordsEnd + this.#tail.length
    if (text.slice(wordsEnd, end) !== this.#tail) return -1
    if (this.#rest !== '') {
      const restAt = stringEnd(text, end)
      end = restAt + this.#rest.length
      if (restAt === -1 || text.slice(restAt, end) !== this.#rest) return -1
    }
    if (this.#credit < maxCredit) this.#credit += 1 / 16
    this.#give({ type: this.#type, text: wordsOf(text, wordsAt, wordsEnd, bytes) })
    return end
  }

  learn(text: string, start: number, end: number): void {
    const words = this.#candidate
    this.#candidate = undefined
    if (words === undefined || this.#credit < 1 || end - start > maxSourceChars) return
    if (text.charCodeAt(end - 1) !== lineFeed || stringEnd(`${words.text}"`, 0) !== words.text.length) return
    this.#credit--
    const trial = new Trial(this.#createReader(), text.slice(start, end), words)
    const halves = trial.halves()
    if (halves === undefined) return
    const [head, tail] = halves
    const around =
      this.#type === words.type && this.#head === head ? trial.around(head, this.#tail + this.#rest, tail) : undefined
    this.#type = words.type
    this.#head = head
    this.#tail = around?.[0] ?? tail
    this.#rest = around?.[1] ?? ''
  }
}

/** The words may stand elsewhere too: `"index"` as the name of a field. */
const maxTries = 8

/** Tries out in a reader of its own what a change in the source of an event does. */
class Trial {
  readonly #reader: AnswerReader
  readonly #source: string
  readonly #words: PlainText
  /** The words as they stand in the source. */
  readonly #bytes: string

  /** `source`: a character for each byte. */
  constructor(reader: AnswerReader, source: string, words: PlainText) {
    this.#reader = reader
    this.#source = source
    this.#words = words
    this.#bytes = Buffer.from(words.text).toString('latin1')
    this.#read(source) // the first event of any reader has more to tell
  }

  /** The source before and behind the words. */
  halves(): readonly [string, string] | undefined {
    const source = this.#source
    const literal = `"${this.#bytes}"`
    let at = source.indexOf(literal)
    for (let tries = 0; at !== -1 && tries < maxTries; at = source.indexOf(literal, at + 1), tries++) {
      const head = source.slice(0, at + 1)
      const tail = source.slice(at + literal.length - 1)
      if (this.#takes(head, tail)) return [head, tail]
    }
    return undefined
  }

  /** Two tails without the one string in which they differ, if that is of no meaning. */
  around(head: string, before: string, now: string): readonly [string, string] | undefined {
    let same = 0
    while (same < before.length && before.charCodeAt(same) === now.charCodeAt(same)) same++
    const valueAt = now.lastIndexOf('"', same - 1) + 1
    const valueEnd = stringEnd(now, valueAt)
    if (valueAt < 2 || valueEnd === -1) return undefined
    const tail = now.slice(0, valueAt)
    const rest = now.slice(valueEnd)
    if (!isValue(tail, rest)) return undefined
    if (!before.endsWith(rest) || stringEnd(before, valueAt) !== before.length - rest.length) return undefined
    const other = `${now.slice(valueAt, valueEnd)}0`
    return this.#takes(head, tail + other + rest) ? [tail, rest] : undefined
  }

  /** Whether other words there give those words, and nothing else. */
  #takes(head: string, tail: string): boolean {
    const chunks = this.#read(`${head}${this.#bytes}0${tail}`)
    const [chunk] = chunks ?? []
    if (chunks?.length !== 1 || chunk === undefined || !isPlainText(chunk)) return false
    return chunk.type === this.#words.type && chunk.text === `${this.#words.text}0`
  }

  #read(source: string): Chunk[] | undefined {
    const chunks: Chunk[] = []
    let isLast = false
    try {
      const parser = createSSEParser((event) => {
        isLast ||= this.#reader.event(event, chunks)
      })
      parser.push(Buffer.from(source, 'latin1'))
    } catch {
      return undefined // it is no answer any more: the change was not without meaning
    }
    const { finish, usage } = this.#reader
    // What an event tells beside its words must be told each time: another may have told something else in between.
    return isLast || finish !== undefined || usage !== undefined ? undefined : chunks
  }
}

/** Whether the string between them is the value of a field, not its name. */
function isValue(before: string, behind: string): boolean {
  return before.slice(0, -1).trimEnd().endsWith(':') && !behind.slice(1).trimStart().startsWith(':')
}

function isPlainText(chunk: Chunk): chunk is PlainText {
  if (chunk.type !== 'text' && chunk.type !== 'reasoning' && chunk.type !== 'refusal') return false
  return !('signature' in chunk)
}

const lineFeed = 10
const quote = 34
const backslash = 92

/** Where the quote stands that ends a JSON string whose content is its own text; -1 where there is an escape, or worse. */
function stringEnd(text: string, start: number): number {
  for (let at = start; ; at++) {
    const code = text.charCodeAt(at)
    if (code === quote) return at
    // JSON allows no control characters in a string (RFC 8259, section 7). Past the end, the code is NaN.
    if (!(code >= 32) || code === backslash) return -1
  }
}

/** Not a slice: it would keep the whole text alive that was read with it. Up to 12 characters V8 copies by itself. */
function wordsOf(text: string, start: number, end: number, bytes: Buffer): string {
  for (let at = start; at < end; at++) if (text.charCodeAt(at) > 127) return bytes.toString('utf8', start, end)
  const slice = text.slice(start, end)
  return slice.length < 13 ? slice : ` ${slice}`.slice(1)
}
