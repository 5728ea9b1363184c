import type { Chunk, Facts, FinishReason, NoteSource, Usage } from './chunk.ts'
import { MillraceError } from './error.ts'
import type { Json } from './json.ts'
import type { AssistantMessage, Part, ToolCall } from './request.ts'

/** A whole answer, as `collect` assembles it. */
export interface Completion {
  readonly provider: string
  /** The model that answered, as it names itself. */
  readonly model: string
  readonly id?: string | undefined
  /** The visible answer. */
  readonly text: string
  readonly refusal?: string | undefined
  readonly reasoning: readonly Reasoning[]
  readonly toolCalls: readonly ToolCall[]
  readonly extras: readonly { readonly name: string; readonly value: Json }[]
  readonly finish: FinishReason
  /** True on an `error.partial` or `stream.partial` whose text outgrew what is kept of it (`maxChars`). */
  readonly clipped?: boolean | undefined
  /** Absent when neither the provider nor a layer counted. */
  readonly usage?: Usage | undefined
  /** What the layers did: `notes.cache`, `notes.retry` and so on. */
  readonly notes: Readonly<Partial<Record<NoteSource, Facts>>>
}

export interface Reasoning {
  readonly text: string
  readonly signature?: string | undefined
}

/** A completion in the making. */
export interface Assembly {
  /** @throws {MillraceError} `protocol` with `reason: 'too-large'` at tool call or reasoning block number 1025 */
  add(chunk: Chunk): void
  /** A `finish` has been seen. */
  readonly finished: boolean
  /** There was more content than `maxChars`. */
  readonly clipped: boolean
  /** What there is so far, with `finish: 'other'` until the stream said more. Later chunks do not change it. */
  partial(): Completion
}

export interface AssemblyOptions {
  /** How much content is kept, in characters: text, reasoning, signatures, refusal, arguments, extras together. @default Infinity */
  readonly maxChars?: number | undefined
}

/** What `maxChars` counts and, past it, lets go. */
const clippable: ReadonlySet<Chunk['type']> = new Set(['text', 'refusal', 'reasoning', 'tool-call', 'extra'])

/** More tool calls or reasoning blocks are refused: how many there are is the provider's choice, and empty ones cost no characters. */
const maxBlocks = 1024

function tooMany(what: string): MillraceError<'protocol'> {
  return new MillraceError('protocol', `the answer has more than ${maxBlocks} ${what}`, {
    details: { reason: 'too-large' }
  })
}

/**
 * Assembles chunks one by one. The piece that crosses `maxChars` is cut there, further content is let go, and the result is
 * marked `clipped`.
 *
 * @throws {TypeError} when `maxChars` is negative or NaN
 *
 * @example
 * const assembly = assemble({ maxChars: 10_000 })
 * for await (const chunk of chunks) assembly.add(chunk)
 * console.log(assembly.partial().text)
 */
export function assemble({ maxChars = Number.POSITIVE_INFINITY }: AssemblyOptions = {}): Assembly {
  if (!(maxChars >= 0)) throw new TypeError(`maxChars must be a number from 0 up, not ${maxChars}`)
  let left = maxChars
  let clipped = false
  let provider = ''
  let model = ''
  let id: string | undefined
  let text = ''
  let refusal: string | undefined
  let finish: FinishReason | undefined
  let usage: Usage | undefined
  let notes: Partial<Record<NoteSource, Facts>> | undefined
  const reasoning: { text: string; signature?: string }[] = []
  const calls = new Map<number, { id: string; name: string; arguments: string }>()
  const extras: { name: string; value: Json }[] = []

  /** As much of a piece as there is room for. */
  function kept(piece: string): string {
    if (piece.length <= left) {
      left -= piece.length
      return piece
    }
    const end = left
    clipped = true
    left = 0
    // A copy: a slice would keep the whole piece in memory.
    return Buffer.from(piece.slice(0, splitsPair(piece, end) ? end - 1 : end), 'utf16le').toString('utf16le')
  }

  function addReasoning(piece: string, signature: string | undefined): void {
    const last = reasoning.at(-1)
    const open = last !== undefined && last.signature === undefined ? last : undefined
    const block = open ?? { text: '' }
    if (open === undefined) {
      if (reasoning.length >= maxBlocks) throw tooMany('reasoning blocks')
      reasoning.push(block)
    }
    block.text += piece
    if (signature !== undefined) block.signature = signature
  }

  return {
    add(chunk) {
      if (clipped && clippable.has(chunk.type)) return
      switch (chunk.type) {
        case 'text':
          text += kept(chunk.text)
          return
        case 'refusal':
          refusal = (refusal ?? '') + kept(chunk.text)
          return
        case 'reasoning': {
          const piece = kept(chunk.text)
          if (chunk.signature !== undefined) kept(chunk.signature)
          addReasoning(piece, clipped ? undefined : chunk.signature) // half a signature is none
          return
        }
        case 'tool-call': {
          let call = calls.get(chunk.index)
          if (call === undefined) {
            if (calls.size >= maxBlocks) throw tooMany('tool calls')
            calls.set(chunk.index, (call = { id: '', name: '', arguments: '' }))
          }
          if (chunk.id) call.id = chunk.id
          if (chunk.name) call.name = chunk.name
          call.arguments += kept(chunk.arguments)
          return
        }
        case 'extra':
          if (left !== Number.POSITIVE_INFINITY) left -= chunk.name.length + sizeOf(chunk.value, left)
          if (left < 0) clipped = true
          else extras.push({ name: chunk.name, value: chunk.value })
          return
        case 'usage':
          usage = chunk.usage
          return
        case 'start':
          provider = chunk.provider
          model = chunk.model
          id = chunk.id
          return
        case 'note':
          notes = { ...notes, [chunk.from]: chunk.facts }
          return
        case 'finish':
          finish = chunk.reason
      }
    },
    get finished() {
      return finish !== undefined
    },
    get clipped() {
      return clipped
    },
    partial() {
      return {
        provider,
        model,
        ...(id === undefined ? {} : { id }),
        text,
        ...(refusal === undefined ? {} : { refusal }),
        reasoning: reasoning.map((block) => ({ ...block })),
        toolCalls: [...calls].toSorted(([a], [b]) => a - b).map(([, call]) => ({ ...call })),
        extras: [...extras],
        finish: finish ?? 'other',
        ...(clipped ? { clipped } : {}),
        ...(usage === undefined ? {} : { usage }),
        notes: { ...notes }
      }
    }
  }
}

function splitsPair(text: string, at: number): boolean {
  return at > 0 && (text.charCodeAt(at - 1) & 0xfc00) === 0xd800 && (text.charCodeAt(at) & 0xfc00) === 0xdc00
}

/** About as many characters as the value has in JSON; stops counting past `limit`. By hand, for depth is the provider's choice. */
function sizeOf(root: Json, limit: number): number {
  let size = 0
  const work: (Json | undefined)[] = [root]
  while (work.length > 0 && size <= limit) {
    const value = work.pop()
    size += typeof value === 'string' ? value.length + 2 : 4
    if (typeof value !== 'object' || value === null) continue
    for (const [key, child] of Object.entries(value)) {
      size += key.length
      work.push(child)
    }
  }
  return size
}

/**
 * The completion as a message to append to the conversation, reasoning and its signatures included; extras are not.
 *
 * @example
 * const messages = [...request.messages, messageOf(completion), { role: 'user', content: 'And then?' }]
 */
export function messageOf(completion: Completion): AssistantMessage {
  const parts: Part[] = completion.reasoning.map((block) => ({ type: 'reasoning', ...block }))
  if (parts.length > 0 && completion.text !== '') parts.push({ type: 'text', text: completion.text })
  return {
    role: 'assistant',
    content: parts.length > 0 ? parts : completion.text,
    ...(completion.toolCalls.length > 0 ? { toolCalls: completion.toolCalls } : {})
  }
}
