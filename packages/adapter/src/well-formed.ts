import type { Chunk, ReasoningChunk, TextChunk, ToolCallChunk } from '@millrace/core'

type Piece = TextChunk | ReasoningChunk | ToolCallChunk

/**
 * Makes the text of every chunk well-formed: the halves of a surrogate pair that a provider has sent in two events are
 * joined, and half a pair without its other half becomes U+FFFD. Otherwise whoever encodes the chunks one by one, as every
 * server does, sends two wrong characters for one emoji.
 */
export class WellFormed {
  /** The first half of a pair, by field. */
  #held: Map<string, Piece> | undefined

  get isHolding(): boolean {
    return this.#held !== undefined && this.#held.size > 0
  }

  /** Sees to the chunks from number `from` on. */
  mend(chunks: Chunk[], from: number): void {
    for (let at = from; at < chunks.length; at++) {
      const chunk = chunks[at] as Chunk
      if (!isPiece(chunk)) continue
      if (!this.isHolding && textOf(chunk).isWellFormed()) continue
      const mended = this.#join(chunk)
      if (mended === undefined) chunks.splice(at--, 1)
      else chunks[at] = mended
    }
  }

  /** Adds what is still held: no other half will come. */
  end(chunks: Chunk[]): void {
    for (const half of this.#held?.values() ?? []) chunks.push(withText(half, '\ufffd'))
    this.#held = undefined
  }

  #join(chunk: Piece): Piece | undefined {
    const held = (this.#held ??= new Map())
    const field = chunk.type === 'tool-call' ? `${chunk.index}` : chunk.type
    const before = held.get(field)
    held.delete(field)
    const text = (before === undefined ? '' : textOf(before)) + textOf(chunk)
    const last = text.charCodeAt(text.length - 1)
    // A signature closes its block: no other half comes behind it.
    const isHalf = last >= 0xd800 && last < 0xdc00 && !('signature' in chunk)
    if (isHalf) held.set(field, halfOf(chunk, text.slice(-1)))
    const whole = withText(chunk, (isHalf ? text.slice(0, -1) : text).toWellFormed())
    return isHalf && text.length === 1 && isBare(chunk) ? undefined : whole
  }
}

function isPiece(chunk: Chunk): chunk is Piece {
  return chunk.type === 'text' || chunk.type === 'reasoning' || chunk.type === 'refusal' || chunk.type === 'tool-call'
}

/** It tells nothing but its text. */
function isBare(chunk: Piece): boolean {
  return !('id' in chunk || 'name' in chunk)
}

function textOf(chunk: Piece): string {
  return chunk.type === 'tool-call' ? chunk.arguments : chunk.text
}

function withText(chunk: Piece, text: string): Piece {
  return chunk.type === 'tool-call' ? { ...chunk, arguments: text } : { ...chunk, text }
}

function halfOf(chunk: Piece, text: string): Piece {
  return chunk.type === 'tool-call' ? { type: 'tool-call', index: chunk.index, arguments: text } : { type: chunk.type, text }
}
