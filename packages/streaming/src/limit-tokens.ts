import type { Chunk, UsageChunk } from '@millrace/core'
import { type Operator, operate, type Step } from './operate.ts'
import { pairSeam } from './seam.ts'

/** The running total of a text that comes in pieces, such as `tokenizer.counter()` of `@millrace/tokens`. */
export interface RunningCount {
  /** Adds text; gives the tokens of everything pushed so far, joined. */
  push(text: string): number
}

/** Longer chunks are counted in pieces of this size, so that the one which crosses the limit is short to search. */
const pieceChars = 256

type Field = 'text' | 'refusal' | 'reasoning'

/**
 * Ends the stream after `max` tokens of text, refusal and reasoning, counted on the joined text of each. The part within
 * the limit is delivered, to the character; the source is returned with the chunk that crosses it, so that the provider
 * stops generating; then come `usage` (marked estimated, its input unknown and 0, unless the source told it before) and
 * `finish` with reason `cut`. Arguments of tool calls are not counted: half of them would be no JSON.
 *
 * Set `maxOutputTokens` of the request too: the provider then stops by itself, and what it had generated ahead of the cut
 * is not billed.
 *
 * Bound: the text delivered so far is kept, at most `max` tokens of it.
 *
 * @throws {TypeError} at creation, when `max` is not a whole number above 0
 *
 * @example
 * const cut = limitTokens(500, tokenizerFor('gpt-4.1').counter)(adapter.stream(request))
 */
export function limitTokens(max: number, createCounter: () => RunningCount): Operator<Chunk> {
  if (!(Number.isSafeInteger(max) && max > 0)) throw new TypeError(`max must be a whole number of tokens above 0, not ${max}`)
  if (typeof createCounter !== 'function') {
    throw new TypeError('createCounter must be a function that gives a new counter, such as tokenizer.counter')
  }
  return operate(() => limiting(max, createCounter))
}

interface Tally {
  readonly counter: RunningCount
  readonly delivered: string[]
  tokens: number
}

function limiting(max: number, createCounter: () => RunningCount): Step<Chunk, Chunk> {
  const tallies = new Map<Field, Tally>()
  let toldUsage = false

  function tallyOf(field: Field): Tally {
    let tally = tallies.get(field)
    if (tally === undefined) {
      const counter = createCounter()
      if (typeof counter?.push !== 'function')
        throw new TypeError('createCounter must give a counter: write limitTokens(500, tokenizer.counter)')
      tallies.set(field, (tally = { counter, delivered: [], tokens: 0 }))
    }
    return tally
  }

  /** How much of `text` is within the limit: its length, or the place of the cut. */
  function allowed(field: Field, text: string): number {
    const tally = tallyOf(field)
    let others = 0
    for (const other of tallies.values()) if (other !== tally) others += other.tokens
    for (let at = 0; at < text.length; ) {
      const piece = pieceAt(text, at)
      const tokens = tally.counter.push(piece)
      if (others + tokens > max) return at + cutWithin(piece, tally, max - others)
      tally.tokens = tokens
      tally.delivered.push(piece)
      at += piece.length
    }
    return text.length
  }

  /** A counter cannot take back: another one is brought to the same place, and goes on a character at a time. */
  function cutWithin(piece: string, tally: Tally, most: number): number {
    const counter = createCounter()
    counter.push(tally.delivered.join(''))
    let end = 0
    let within = 0
    for (const character of piece) {
      const tokens = counter.push(character)
      end += character.length
      if (tokens > most) continue // a longer text can be fewer tokens: `str` and `ing` are one
      within = end
      tally.tokens = tokens
    }
    return within
  }

  function usage(): UsageChunk {
    const tokensOf = (field: Field): number => tallies.get(field)?.tokens ?? 0
    return {
      type: 'usage',
      usage: {
        input: { uncached: 0, cacheRead: 0, cacheWrite: 0 },
        output: { text: tokensOf('text') + tokensOf('refusal'), reasoning: tokensOf('reasoning') },
        estimated: true,
        billed: true
      }
    }
  }

  return {
    take(chunk, emit) {
      if (chunk.type === 'usage') toldUsage = true
      if (chunk.type !== 'text' && chunk.type !== 'refusal' && chunk.type !== 'reasoning') {
        emit(chunk)
        return undefined
      }
      const { text } = chunk
      const cut = allowed(chunk.type, text)
      if (cut === text.length) {
        emit(chunk)
        return undefined
      }
      // A signature vouches for the whole block, so it does not go with a part of it.
      if (cut > 0) emit({ type: chunk.type, text: text.slice(0, cut) })
      if (!toldUsage) emit(usage())
      emit({ type: 'finish', reason: 'cut' })
      return 'stop'
    }
  }
}

function pieceAt(text: string, at: number): string {
  const piece = text.slice(at, at + pieceChars)
  return at + pieceChars < text.length ? piece.slice(0, pairSeam(piece)) : piece
}
