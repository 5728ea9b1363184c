import type { Chunk, Facts, FinishReason, NoteSource, ToolCallChunk, Usage } from './chunk.ts'
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
  /**
   * Counts the tokens of an answer that has begun and not finished, for a provider tells its usage at the end. Asked by
   * `partial()`, with what there is so far.
   */
  readonly estimateUsage?: UsageEstimate | undefined
}

/** The usage of an answer that broke off; `estimated` in it is true. It must not throw. */
export type UsageEstimate = (partial: Completion) => Usage | undefined

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
export function assemble({ maxChars = Number.POSITIVE_INFINITY, estimateUsage }: AssemblyOptions = {}): Assembly {
  if (!(maxChars >= 0)) throw new TypeError(`maxChars must be a number from 0 up, not ${maxChars}`)
  return new Assembler(maxChars, estimateUsage)
}

/** A class, for one is made for each call and runs for each chunk. What few answers have is made when it comes. */
class Assembler implements Assembly {
  clipped = false
  #left: number
  #provider = ''
  #model = ''
  #id: string | undefined
  readonly #text = new Text()
  #refusal: Text | undefined
  #finish: FinishReason | undefined
  #usage: Usage | undefined
  #notes: Partial<Record<NoteSource, Facts>> | undefined
  #reasoning: { text: Text; signature?: string }[] | undefined
  #calls: Map<number, { id: string; name: string; arguments: Text }> | undefined
  #extras: { name: string; value: Json }[] | undefined

  readonly #estimateUsage: UsageEstimate | undefined

  constructor(maxChars: number, estimateUsage: UsageEstimate | undefined) {
    this.#left = maxChars
    this.#estimateUsage = estimateUsage
  }

  get finished(): boolean {
    return this.#finish !== undefined
  }

  add(chunk: Chunk): void {
    if (this.clipped && clippable.has(chunk.type)) return
    switch (chunk.type) {
      case 'text':
        this.#text.add(this.#kept(chunk.text))
        return
      case 'refusal':
        ;(this.#refusal ??= new Text()).add(this.#kept(chunk.text))
        return
      case 'reasoning': {
        const piece = this.#kept(chunk.text)
        if (chunk.signature !== undefined) this.#kept(chunk.signature)
        this.#addReasoning(piece, this.clipped ? undefined : chunk.signature) // half a signature is none
        return
      }
      case 'tool-call':
        this.#addToolCall(chunk)
        return
      case 'extra':
        if (this.#left !== Number.POSITIVE_INFINITY) this.#left -= chunk.name.length + sizeOf(chunk.value, this.#left)
        if (this.#left < 0) this.clipped = true
        else (this.#extras ??= []).push({ name: chunk.name, value: chunk.value })
        return
      case 'usage':
        this.#usage = chunk.usage
        return
      case 'start':
        this.#provider = chunk.provider
        this.#model = chunk.model
        this.#id = chunk.id
        return
      case 'note':
        this.#notes = { ...this.#notes, [chunk.from]: chunk.facts }
        return
      case 'finish':
        this.#finish = chunk.reason
    }
  }

  partial(): Completion {
    // Each optional field that is spread in costs an object: most answers have few of them.
    const completion: Writable<Completion> = {
      provider: this.#provider,
      model: this.#model,
      text: this.#text.value,
      reasoning: this.#reasoning?.map((block) => ({ ...block, text: block.text.value })) ?? [],
      toolCalls: this.#calls === undefined ? [] : callsOf(this.#calls),
      extras: this.#extras === undefined ? [] : [...this.#extras],
      finish: this.#finish ?? 'other',
      notes: { ...this.#notes }
    }
    if (this.#id !== undefined) completion.id = this.#id
    if (this.#refusal !== undefined) completion.refusal = this.#refusal.value
    if (this.clipped) completion.clipped = true
    const usage = this.#usageOf(completion)
    if (usage !== undefined) completion.usage = usage
    return completion
  }

  #usageOf(completion: Writable<Completion>): Usage | undefined {
    const told = this.#usage
    const isOver = this.#finish !== undefined || this.#provider === '' // nothing has begun
    if (isOver || this.#estimateUsage === undefined || told?.estimated === false) return told
    return this.#estimateUsage(told === undefined ? completion : { ...completion, usage: told }) ?? told
  }

  /** As much of a piece as there is room for. */
  #kept(piece: string): string {
    if (piece.length <= this.#left) {
      this.#left -= piece.length
      return piece
    }
    const end = this.#left
    this.clipped = true
    this.#left = 0
    // A copy: a slice would keep the whole piece in memory.
    return Buffer.from(piece.slice(0, splitsPair(piece, end) ? end - 1 : end), 'utf16le').toString('utf16le')
  }

  #addToolCall(chunk: ToolCallChunk): void {
    const calls = (this.#calls ??= new Map())
    let call = calls.get(chunk.index)
    if (call === undefined) {
      if (calls.size >= maxBlocks) throw tooMany('tool calls')
      calls.set(chunk.index, (call = { id: '', name: '', arguments: new Text() }))
    }
    if (chunk.id) call.id = chunk.id
    if (chunk.name) call.name = chunk.name
    call.arguments.add(this.#kept(chunk.arguments))
  }

  #addReasoning(piece: string, signature: string | undefined): void {
    const blocks = (this.#reasoning ??= [])
    let block = blocks.at(-1)
    if (block === undefined || block.signature !== undefined) {
      if (blocks.length >= maxBlocks) throw tooMany('reasoning blocks')
      blocks.push((block = { text: new Text() }))
    }
    block.text.add(piece)
    if (signature !== undefined) block.signature = signature
  }
}

type Writable<T> = { -readonly [K in keyof T]: T[K] }

/**
 * A text that comes in pieces. V8 joins by reference: of a million letters added one by one it keeps a million objects, which
 * is thirty times the text. So every so many pieces are made one.
 */
class Text {
  #whole = ''
  #tail = ''
  #pieces = 0

  add(piece: string): void {
    this.#tail += piece
    if (++this.#pieces < 1024) return
    this.#whole += ` ${this.#tail}`.slice(1) // to cut a joined text makes it one
    this.#tail = ''
    this.#pieces = 0
  }

  get value(): string {
    return this.#whole + this.#tail
  }
}

function callsOf(calls: ReadonlyMap<number, { id: string; name: string; arguments: Text }>): ToolCall[] {
  return [...calls].toSorted(([a], [b]) => a - b).map(([, call]) => ({ ...call, arguments: call.arguments.value }))
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
