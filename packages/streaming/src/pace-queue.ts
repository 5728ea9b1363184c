import type { Chunk, ReasoningChunk, TextChunk } from '@millrace/core'
import { graphemeSeam, graphemeWithin, joinerSeam } from './seam.ts'

/** Chunks in their order, whose text can be taken in other pieces than it came in. */
export interface PaceQueue {
  add(chunk: Chunk, now: number): void
  /** Nothing will be added: the last letter is whole. */
  close(): void
  /** Characters of text that wait. */
  readonly chars: number
  /** When the text came that is first; undefined where something else is first, or nothing. */
  readonly since: number | undefined
  /** All that waits, in characters of text and JSON, each chunk counted as one more. */
  readonly size: number
  /** How many characters must have gone out now, for each to go out evenly within `lagMs` of its coming. */
  charsDue(lastAt: number, now: number, lagMs: number): number
  /**
   * Gives about so many characters, each piece to the end of a grapheme, and what is no text up to the next text. A last
   * letter that came after `settledAt` waits to be seen to be whole. Says how many characters were given.
   */
  give(chars: number, settledAt: number, emit: (chunk: Chunk) => void): number
}

type Paced = TextChunk | ReasoningChunk

interface Entry {
  readonly chunk: Chunk
  /** The text of it that is paced, or what of that is left. */
  text: string
  /** What of `size` is not that text. */
  readonly beside: number
  readonly cameAt: number
}

/** A grapheme is looked for within as much beyond a piece. */
const window = 64

export function createPaceQueue(segmenter: Intl.Segmenter): PaceQueue {
  let entries: Entry[] = []
  let head = 0
  let chars = 0
  let size = 0
  let closed = false

  function shift(entry: Entry): void {
    head++
    size -= entry.beside
    if (head === entries.length) entries = []
    else if (head >= 64 && head * 2 >= entries.length) entries = entries.slice(head)
    else return
    head = 0
  }

  /** The text at the front, up to `most` characters: of as many chunks as make one text. */
  function front(most: number): { readonly text: string; readonly last: Entry; readonly open: boolean } {
    let last = entries[head] as Entry
    let text = last.text
    for (let at = head + 1; text.length < most && !isSigned(last.chunk); at++) {
      const entry = entries[at]
      if (entry === undefined) return { text, last, open: !closed }
      if (entry.text === '' || entry.chunk.type !== last.chunk.type) break
      last = entry
      text += entry.text
    }
    return { text, last, open: false }
  }

  function pieceOf(most: number, settledAt: number): string {
    const { text, last, open } = front(most + window)
    let whole = text.length
    if (open) whole = last.cameAt > settledAt ? graphemeSeam(text, segmenter) : joinerSeam(text, segmenter)
    return text.slice(0, Math.min(whole, graphemeWithin(text, most, segmenter)))
  }

  /** Gives a piece of the text at the front, with the signature of the last chunk that it ends. */
  function give(piece: string, emit: (chunk: Chunk) => void): void {
    const { chunk, text } = entries[head] as Entry
    if (piece.length === text.length && (chunk as Paced).text.length === text.length) {
      shift(entries[head] as Entry)
      emit(chunk)
      return
    }
    let signature: string | undefined
    for (let left = piece.length; left > 0; ) {
      const entry = entries[head] as Entry
      if (left < entry.text.length) {
        entry.text = entry.text.slice(left)
        break
      }
      left -= entry.text.length
      if (isSigned(entry.chunk)) signature = entry.chunk.signature
      shift(entry)
    }
    const { type } = chunk as Paced
    emit(signature === undefined ? { type, text: piece } : { type: 'reasoning', text: piece, signature })
  }

  return {
    add(chunk, now) {
      const text = isPaced(chunk) ? chunk.text : ''
      const beside = 1 + sizeOf(chunk)
      entries.push({ chunk, text, beside, cameAt: now })
      chars += text.length
      size += text.length + beside
    },
    close() {
      closed = true
    },
    get chars() {
      return chars
    },
    get size() {
      return size
    },
    get since() {
      const entry = entries[head]
      return entry === undefined || entry.text === '' ? undefined : entry.cameAt
    },
    charsDue(lastAt, now, lagMs) {
      let due = 0
      let behind = 0
      for (let at = head; at < entries.length; at++) {
        const { text, cameAt } = entries[at] as Entry
        behind += text.length
        const leftMs = cameAt + lagMs - lastAt
        const share = leftMs <= now - lastAt ? behind : Math.floor((behind * (now - lastAt)) / leftMs)
        if (share > due) due = share
      }
      return due
    },
    give(most, settledAt, emit) {
      let given = 0
      for (let entry = entries[head]; entry !== undefined; entry = entries[head]) {
        if (entry.text === '') {
          shift(entry)
          emit(entry.chunk)
          continue
        }
        if (given >= most) break
        const piece = pieceOf(most - given, settledAt)
        if (piece === '') break
        given += piece.length
        chars -= piece.length
        size -= piece.length
        give(piece, emit)
      }
      return given
    }
  }
}

function isPaced(chunk: Chunk): chunk is Paced {
  return chunk.type === 'text' || chunk.type === 'reasoning' || chunk.type === 'refusal'
}

function isSigned(chunk: Chunk): chunk is ReasoningChunk & { readonly signature: string } {
  return chunk.type === 'reasoning' && chunk.signature !== undefined
}

function sizeOf(chunk: Chunk): number {
  if (chunk.type === 'tool-call') return chunk.arguments.length
  return chunk.type === 'extra' ? JSON.stringify(chunk.value).length : 0
}
