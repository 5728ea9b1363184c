import { type Chunk, type Facts, type FinishReason, isContent, type NoteSource, type Usage } from './chunk.ts'
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

/**
 * Assembles chunks one by one. Past `maxChars` characters of text, reasoning, refusal and arguments together, further
 * content is let go and the result is marked `clipped`. `partial()` gives what there is so far at any time, with `finish: 'other'` until the
 * stream said more.
 */
export interface Assembly {
  add(chunk: Chunk): void
  readonly finished: boolean
  partial(): Completion
}

/** A tool-call index beyond this is refused: an index is a number the provider chose. */
const maxToolCalls = 1024

function tooMany(): MillraceError<'protocol'> {
  return new MillraceError('protocol', `the answer has more than ${maxToolCalls} tool calls`, {
    details: { reason: 'too-large' }
  })
}

export function assemble({ maxChars = Number.POSITIVE_INFINITY }: { maxChars?: number } = {}): Assembly {
  let chars = 0
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

  function addReasoning(piece: string, signature: string | undefined): void {
    const last = reasoning.at(-1)
    const open = last !== undefined && last.signature === undefined ? last : undefined
    const block = open ?? { text: '' }
    if (open === undefined) reasoning.push(block)
    block.text += piece
    if (signature !== undefined) block.signature = signature
  }

  return {
    add(chunk) {
      if (chars > maxChars && isContent(chunk)) return
      switch (chunk.type) {
        case 'text':
          text += chunk.text
          chars += chunk.text.length
          return
        case 'refusal':
          refusal = (refusal ?? '') + chunk.text
          chars += chunk.text.length
          return
        case 'reasoning':
          addReasoning(chunk.text, chunk.signature)
          chars += chunk.text.length
          return
        case 'tool-call': {
          let call = calls.get(chunk.index)
          if (call === undefined) {
            if (calls.size >= maxToolCalls) throw tooMany()
            calls.set(chunk.index, (call = { id: '', name: '', arguments: '' }))
          }
          if (chunk.id) call.id = chunk.id
          if (chunk.name) call.name = chunk.name
          call.arguments += chunk.arguments
          chars += chunk.arguments.length
          return
        }
        case 'extra':
          extras.push({ name: chunk.name, value: chunk.value })
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
    partial() {
      return {
        provider,
        model,
        ...(id === undefined ? {} : { id }),
        text,
        ...(refusal === undefined ? {} : { refusal }),
        reasoning: reasoning.map((block) => ({ ...block })),
        toolCalls: [...calls].sort(([a], [b]) => a - b).map(([, call]) => ({ ...call })),
        extras: [...extras],
        finish: finish ?? 'other',
        ...(chars > maxChars ? { clipped: true } : {}),
        ...(usage === undefined ? {} : { usage }),
        notes: { ...notes }
      }
    }
  }
}

/** The completion as a message to append to the conversation, reasoning and its signatures included. */
export function messageOf(completion: Completion): AssistantMessage {
  const parts: Part[] = completion.reasoning.map((block) => ({ type: 'reasoning', ...block }))
  if (parts.length > 0 && completion.text !== '') parts.push({ type: 'text', text: completion.text })
  return {
    role: 'assistant',
    content: parts.length > 0 ? parts : completion.text,
    ...(completion.toolCalls.length > 0 ? { toolCalls: completion.toolCalls } : {})
  }
}
