import { type Chunk, checkOptions, type ReasoningChunk, type TextChunk, type ToolCallChunk } from '@millrace/core'
import { checkNoSource, shown } from './check-source.ts'
import { type Operator, operate, type Step } from './operate.ts'
import { graphemeSeam, joinerSeam } from './seam.ts'

export interface CoalesceOptions {
  /** A piece goes out once it has this many characters (UTF-16 code units). @default 10 */
  readonly minChars?: number | undefined
  /** A smaller piece goes out after this many milliseconds, whether or not the source goes on. @default 50 */
  readonly maxDelayMs?: number | undefined
}

type Piece = TextChunk | ReasoningChunk | ToolCallChunk

/**
 * Merges small chunks of the same field (text, refusal, reasoning, the arguments of one tool call) by size or time; all
 * else passes in order, behind what came before it. No piece ends inside a surrogate pair, nor, when it goes out for its
 * size, inside an emoji or a letter of several code points; when its time is up, only what is sure to go on is kept back:
 * half a flag, or what a joiner ends. What is held goes out before an error.
 *
 * Bound: less than `minChars` characters, and one chunk, are held.
 *
 * @throws {TypeError} at creation, when an option is wrong
 *
 * @example
 * for await (const chunk of pipe(adapter.stream(request), coalesce({ minChars: 40 }))) socket.send(JSON.stringify(chunk))
 */
export function coalesce(options: CoalesceOptions = {}): Operator<Chunk> {
  checkNoSource('coalesce', options)
  checkOptions<CoalesceOptions>('coalesce', options, { minChars: 1, maxDelayMs: 1 })
  const { minChars = 10, maxDelayMs = 50 } = options
  if (!(Number.isSafeInteger(minChars) && minChars > 0)) {
    throw new TypeError(`minChars must be a whole number above 0, not ${shown(minChars)}`)
  }
  if (!(typeof maxDelayMs === 'number' && maxDelayMs >= 0 && maxDelayMs <= 60_000)) {
    throw new TypeError(`maxDelayMs must be milliseconds from 0 to 60000, not ${shown(maxDelayMs)}`)
  }
  const segmenter = new Intl.Segmenter(undefined, { granularity: 'grapheme' })
  return operate(() => merging(minChars, maxDelayMs, segmenter))
}

function merging(minChars: number, maxDelayMs: number, segmenter: Intl.Segmenter): Step<Chunk, Chunk> {
  let held: Piece | undefined
  let text = ''
  let dueAt: number | undefined

  function hold(piece: Piece | undefined): void {
    held = piece
    text = piece === undefined ? '' : textOf(piece)
    dueAt = piece === undefined ? undefined : performance.now() + maxDelayMs
  }

  function flush(emit: (chunk: Chunk) => void): void {
    if (held !== undefined) emit(textOf(held) === text ? held : withText(held, text))
    hold(undefined)
  }

  /** Emits all but what stands behind the seam. */
  function flushTo(seam: number, emit: (chunk: Chunk) => void): void {
    if (held === undefined || seam === text.length) return flush(emit)
    if (seam === 0) return
    emit(withText(held, text.slice(0, seam)))
    hold(withText(rest(held), text.slice(seam)))
  }

  return {
    get dueAt() {
      return dueAt
    },
    take(chunk, emit) {
      if (!isPiece(chunk)) {
        flush(emit)
        emit(chunk)
        return undefined
      }
      if (held !== undefined && !continues(held, chunk)) flush(emit)
      if (held === undefined) hold(chunk)
      else {
        text += textOf(chunk)
        held = joined(held, chunk)
        dueAt ??= performance.now() // the half of a pair was overdue already
      }
      if (chunk.type === 'reasoning' && chunk.signature !== undefined) flush(emit)
      else if (text.length >= minChars) flushTo(graphemeSeam(text, segmenter), emit)
      return undefined
    },
    flush,
    overdue(emit) {
      // Time is up for an emoji that may go on, too. What must go on waits: half a pair, half a flag, a joiner and what it joins.
      const seam = joinerSeam(text, segmenter)
      if (seam > 0 || text === '') flushTo(seam, emit)
      dueAt = undefined
    }
  }
}

function isPiece(chunk: Chunk): chunk is Piece {
  return chunk.type === 'text' || chunk.type === 'tool-call' || chunk.type === 'reasoning' || chunk.type === 'refusal'
}

function continues(held: Piece, chunk: Piece): boolean {
  if (held.type !== chunk.type) return false
  return held.type !== 'tool-call' || held.index === (chunk as ToolCallChunk).index
}

function textOf(piece: Piece): string {
  return piece.type === 'tool-call' ? piece.arguments : piece.text
}

function withText(piece: Piece, text: string): Piece {
  return piece.type === 'tool-call' ? { ...piece, arguments: text } : { ...piece, text }
}

/** What is left of a piece once its beginning, with the name of the tool, has gone out. */
function rest(piece: Piece): Piece {
  return piece.type === 'tool-call' ? { type: 'tool-call', index: piece.index, arguments: '' } : piece
}

/** The fields beside the text; as in `collect`, a later one wins. */
function joined(held: Piece, chunk: Piece): Piece {
  if (chunk.type === 'tool-call') {
    if (!chunk.id && !chunk.name) return held
    return { ...(held as ToolCallChunk), ...(chunk.id ? { id: chunk.id } : {}), ...(chunk.name ? { name: chunk.name } : {}) }
  }
  if (chunk.type === 'reasoning' && chunk.signature !== undefined)
    return { ...(held as ReasoningChunk), signature: chunk.signature }
  return held
}
