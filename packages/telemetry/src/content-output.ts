import type { Chunk, FinishReason, ToolCallChunk } from '@millrace/core'
import { object, row, type Write } from './content-json.ts'
import { createPartWriter, leastPart, omittedParts } from './content-part.ts'
import type { TextReader } from './content-text.ts'

/** What comes from the model, held until it can be redacted as a whole. */
export interface Output {
  /** @throws {TypeError} a chunk that is none */
  add(chunk: Chunk): void
  /** The JSON text of the one message, of at most `maxChars`; undefined where nothing came. */
  json(finish: FinishReason | undefined): string | undefined
}

/** Pieces of more tool calls than this are counted only. */
const maxCalls = 128
/** An id or a name that is longer is left out. */
const maxNameChars = 256

/** As the conventions call them; `cut` and `other` are ours. */
const finishReasons: ReadonlyMap<FinishReason, string> = new Map([
  ['stop', 'stop'],
  ['length', 'length'],
  ['tool-calls', 'tool_call'],
  ['content-filter', 'content_filter'],
  ['cut', 'cut']
])

interface HeldCall {
  id?: string
  name?: string
  readonly arguments: HeldText
}

export function createOutput(maxChars: number, reader: TextReader, onFailure: () => void): Output {
  const parts = createPartWriter(reader)
  const { heldChars } = reader
  // One text of each kind, as in a `Completion`: a secret is not torn by pieces of other kinds that come between.
  const texts = { reasoning: new HeldText(), text: new HeldText(), refusal: new HeldText() }
  const calls = new Map<number, HeldCall>()
  /** What all tool calls together may still hold. */
  let callRoom = heldChars
  let lostPieces = 0
  let extras = 0

  function addCall({ index, id, name, arguments: json }: ToolCallChunk): void {
    let call = calls.get(index)
    if (call === undefined) {
      if (typeof index !== 'number') throw new TypeError('not an index')
      if (calls.size >= maxCalls) {
        lostPieces++
        return
      }
      calls.set(index, (call = { arguments: new HeldText() }))
    }
    if (isName(id)) call.id = id
    if (isName(name)) call.name = name
    callRoom -= call.arguments.add(json, callRoom)
  }

  function writers(): Write[] {
    const all: Write[] = []
    if (extras > 0) all.push((room) => object('extra', room, { chunks: () => String(extras) }))
    if (lostPieces > 0) all.push((room) => object('omitted', room, { chunks: () => String(lostPieces) }))
    for (const [type, { text, length }] of Object.entries(texts)) {
      if (length > 0) all.push((room) => parts.text(type, text, room, 'output', length))
    }
    for (const [, { id, name, arguments: json }] of [...calls].toSorted(([a], [b]) => a - b)) {
      all.push((room) => parts.toolCall({ id, name, arguments: json.text }, room, 'output', json.length))
    }
    return all
  }

  return {
    add(chunk) {
      switch (chunk.type) {
        case 'text':
        case 'refusal':
        case 'reasoning': {
          const held = texts[chunk.type]
          held.add(chunk.text, heldChars - held.text.length)
          return
        }
        case 'tool-call':
          addCall(chunk)
          return
        case 'extra':
          extras++ // its value may be audio
      }
    },
    json(finish) {
      const all = writers()
      if (all.length === 0 && finish === undefined) return undefined
      const reason = finish === undefined ? 'error' : (finishReasons.get(finish) ?? 'other')
      const tail = `],"finish_reason":"${reason}"}]`
      const head = '[{"role":"assistant","parts":['
      const room = maxChars - head.length - tail.length
      const write = (index: number, left: number): string | undefined => all[index]?.(left)
      return head + row({ to: all.length, room, least: leastPart, write, omitted: omittedParts }, onFailure) + tail
    }
  }
}

function isName(value: unknown): value is string {
  return typeof value === 'string' && value !== '' && value.length <= maxNameChars
}

/** The beginning of a text that comes in pieces, and how long it is. */
class HeldText {
  text = ''
  length = 0
  #pieces = 0

  /** How much of the piece was kept. */
  add(piece: unknown, room: number): number {
    if (typeof piece !== 'string') throw new TypeError('not a text')
    const kept = Math.min(piece.length, room)
    this.length += piece.length
    if (kept === 0) return 0
    this.text += kept < piece.length ? copy(piece.slice(0, kept)) : piece
    // V8 joins by reference, which for single letters is thirty times the text; to cut a joined text makes it one.
    if (++this.#pieces % 256 === 0) this.text = ` ${this.text}`.slice(1)
    return kept
  }
}

/** A slice would keep the whole text in memory. */
function copy(text: string): string {
  return Buffer.from(text, 'utf16le').toString('utf16le')
}
