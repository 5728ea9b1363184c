import { type Chunk, checkOptions, type ReasoningChunk, type TextChunk } from '@millrace/core'
import { shown } from './check-source.ts'
import { type Operator, operate, type Running, type Step } from './operate.ts'
import {
  type CutOptions,
  checkCounter,
  checkInputTokens,
  emitCut,
  OutputCount,
  type RunningCount,
  type Tally
} from './output-count.ts'
import { pairSeam } from './seam.ts'

export type { CutOptions, RunningCount } from './output-count.ts'

/** A character (UTF-16 code unit) is at most three bytes of UTF-8, and a token at least one byte. */
const mostPerChar = 3

/** What a longer text may cost beyond its own bytes, because the piece it continues falls into other tokens. */
const regrouping = 16

/** A longer text can be fewer tokens: so far is looked for a place that is within the limit again. */
const lookahead = 256

/**
 * Ends the stream after `max` tokens of text, refusal and reasoning, counted on the joined text of each. The part within
 * the limit is delivered, to the character; the source is returned with the chunk that crosses it, so that the provider
 * stops generating; then come `usage` (marked estimated, unless the source told it before or in the same batch) and `finish`
 * with reason `cut`. Arguments of tool calls count for that usage, not for the limit: half of them would be no JSON.
 *
 * Set `maxOutputTokens` of the request too: the provider then stops by itself, and what it had generated ahead of the cut
 * is not billed.
 *
 * Of the text nothing is kept, but for half a surrogate pair until its other half comes. Where a chunk ends inside a token,
 * an answer at the very limit is cut there, for that much of it can be a token more than the whole. The counter's total may
 * rise by 3 for each character, and by 16 more: one that rises faster ends the stream up to a chunk before the limit, never
 * after it.
 *
 * @throws {TypeError} at creation, when `max` is not a whole number above 0, or an option is wrong
 *
 * @example
 * const cut = limitTokens(500, tokenizerFor('gpt-4.1').counter)(adapter.stream(request))
 */
export function limitTokens(max: number, createCounter: () => RunningCount, options: CutOptions = {}): Operator<Chunk> {
  if (!(Number.isSafeInteger(max) && max > 0)) {
    throw new TypeError(`max must be a whole number of tokens above 0, not ${shown(max)}`)
  }
  checkCounter(createCounter)
  checkOptions<CutOptions>('limitTokens', options, { inputTokens: 1 })
  const { inputTokens } = options
  checkInputTokens(inputTokens)
  return operate((running) => limiting(max, new OutputCount(createCounter), inputTokens, running))
}

function limiting(
  max: number,
  count: OutputCount,
  inputTokens: CutOptions['inputTokens'],
  { request }: Running
): Step<Chunk, Chunk> {
  let spent = 0 // by all texts together
  let half: Counted | undefined // the first half of a surrogate pair, whose other half the next chunk has

  function pass(chunk: Counted, emit: (chunk: Chunk) => void): 'stop' | undefined {
    const { text } = chunk
    const tally = count.of(chunk.type)
    const others = spent - tally.tokens
    const end = within(text, tally, max - others)
    spent = others + tally.tokens
    if (end === text.length) {
      emit(chunk)
      return undefined
    }
    // A signature vouches for the whole block, so it does not go with a part of it.
    if (end > 0) emit({ type: chunk.type, text: text.slice(0, end) })
    return 'stop'
  }

  /** Half a pair that stayed alone: a broken character, of which nothing is said where it is beyond the limit. */
  function flush(emit: (chunk: Chunk) => void): void {
    const alone = half
    half = undefined
    if (alone !== undefined) pass(alone, emit)
  }

  return {
    take(chunk, emit) {
      if (half !== undefined && half.type !== chunk.type) flush(emit)
      if (chunk.type !== 'text' && chunk.type !== 'refusal' && chunk.type !== 'reasoning') {
        count.add(chunk)
        emit(chunk)
        return undefined
      }
      const whole: Counted = half === undefined ? chunk : { ...chunk, text: half.text + chunk.text }
      half = undefined
      const { text } = whole
      const seam = pairSeam(text)
      if (seam === text.length || (whole.type === 'reasoning' && whole.signature !== undefined)) return pass(whole, emit)
      half = { type: whole.type, text: text.slice(seam) }
      return seam === 0 ? undefined : pass({ type: whole.type, text: text.slice(0, seam) }, emit)
    },
    stopped(behind, emit) {
      emitCut(behind, () => count.usage(inputTokens, request), emit)
    },
    flush
  }
}

type Counted = TextChunk | ReasoningChunk

/**
 * Counts as much of a text as costs at most so much with what came before it. A counter cannot take back, so it is given
 * no more at once than can be within the limit: near to it, single characters.
 */
function within(text: string, tally: Tally, most: number): number {
  const { counter } = tally
  let end = 0
  let total = tally.tokens
  for (let at = 0; at < text.length; ) {
    const safe = Math.floor((most - total - regrouping) / mostPerChar)
    const piece = text.length - at <= safe ? (at === 0 ? text : text.slice(at)) : pieceAt(text, at, safe)
    at += piece.length
    total = counter.push(piece)
    if (total <= most) {
      tally.tokens = total
      end = at
    } else if (at - end >= lookahead) break
  }
  return end
}

function pieceAt(text: string, at: number, safe: number): string {
  if (safe < 2) return String.fromCodePoint(text.codePointAt(at) as number)
  const piece = text.slice(at, at + safe)
  return piece.slice(0, pairSeam(piece))
}
