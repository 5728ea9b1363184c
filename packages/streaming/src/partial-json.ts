import type { Json } from '@millrace/core'
import { PartialJsonReader } from './partial-json-reader.ts'

/** What the beginning of a JSON text says so far. */
export interface PartialJson {
  /**
   * `complete`: the text is JSON as it stands (a bare number may still grow). `partial`: more can make it JSON. `invalid`:
   * nothing can, or it is nested deeper than 200, or a bare number of more than 4096 characters.
   */
  readonly state: 'complete' | 'partial' | 'invalid'
  /**
   * As far as the text goes, `undefined` before a value has begun; of an invalid text, what stood before the fault. Open
   * strings, arrays and objects are shown as they grow. Held back until they are whole: numbers inside of them (`1` may
   * become `12`), `true`, `false` and `null`, names of fields, escapes, and the first half of a surrogate pair.
   */
  readonly value: Json | undefined
}

/** Reads JSON text while it arrives; its `state` and `value` are those of all pieces together. */
export interface PartialJsonParser extends PartialJson {
  /**
   * Of no effect behind `invalid`.
   *
   * @throws {TypeError} when `piece` is no text
   */
  push(piece: string): void
}

/**
 * The value of the beginning of a JSON text, such as the arguments of a tool call that are still being written. A whole text
 * gives what `JSON.parse` gives, but for the prototype: objects have none, so that a key like `__proto__` is a plain field.
 *
 * A text that cannot become JSON is `invalid`, and no error. Linear in the text, and never recursive.
 *
 * @throws {TypeError} when `text` is no text: `''` where none has come yet
 *
 * @example
 * const { state, value } = partialJson('{"city":"Ber') // 'partial', { city: 'Ber' }
 */
export function partialJson(text: string): PartialJson {
  const parser = createPartialJson()
  parser.push(text)
  return { state: parser.state, value: parser.value }
}

/**
 * As `partialJson`, for text that comes in pieces: each character is looked at once, however small the pieces are.
 *
 * Reading `state` and `value` costs next to nothing, but whoever looks through a growing string after each piece (to print
 * it, to search it) walks all of it each time.
 *
 * `value` is alive: the same objects grow with the text. `structuredClone` what must stay as it is. It takes up to about 70
 * times the memory of the text (1 MiB of `{},{},...`), so bound the text where you do not trust who writes it.
 *
 * @example
 * const parser = createPartialJson()
 * for (const piece of ['{"city":"Ber', 'lin","days":[1', ',2]}']) {
 *   parser.push(piece)
 *   console.log(parser.state, parser.value)
 * }
 */
export function createPartialJson(): PartialJsonParser {
  return new PartialJsonReader()
}
