import { type Chunk, checkOptions, MillraceError } from '@millrace/core'
import { type Operator, operate } from './operate.ts'
import { createPartialJson, type PartialJson } from './partial-json.ts'

/** A tool call while it is being written. It is alive: the same object grows, and so does its `value`. */
export interface GrowingToolCall extends PartialJson {
  readonly index: number
  /** `''` until it has come. Where it comes again the later one counts, as in `collect`; the same goes for `name`. */
  readonly id: string
  readonly name: string
  /** JSON text so far. `state` and `value` tell what it says. */
  readonly arguments: string
}

export interface ToolCallsOptions {
  /** Characters of arguments, of all calls together; more are an error, for half an argument is of no use. @default 1048576 */
  readonly maxChars?: number | undefined
}

/** The tool calls of one answer, as far as they have come. */
export interface ToolCalls {
  /**
   * Takes any chunk and gives the call that it belongs to; `undefined` for chunks of other kinds.
   *
   * @throws {MillraceError} `protocol`: `too-large` for an index from 1024 up and for more than `maxChars` characters,
   * `malformed` for an index that is no whole number from 0 up. What was added before stays.
   */
  add(chunk: Chunk): GrowingToolCall | undefined
  /** In the order of their indices, which may have gaps. */
  readonly calls: readonly GrowingToolCall[]
}

/** As many as `collect` takes. */
const maxCalls = 1024

/**
 * Puts tool calls together while they stream in: pieces of several calls may come interleaved, id and name late. Each piece
 * of arguments is read once, so showing the value after each of them costs no more than the text itself.
 *
 * Objects inside a value have no prototype: what the model calls `__proto__` is a plain field.
 *
 * @throws {TypeError} when `maxChars` is wrong
 *
 * @example
 * const tools = createToolCalls()
 * for await (const chunk of adapter.stream(request)) {
 *   const call = tools.add(chunk)
 *   if (call !== undefined) render(call.name, call.value)
 * }
 */
export function createToolCalls(options: ToolCallsOptions = {}): ToolCalls {
  checkOptions<ToolCallsOptions>('createToolCalls', options, { maxChars: 1 })
  const { maxChars = 1_048_576 } = options
  if (!(maxChars > 0)) throw new TypeError(`maxChars must be a number above 0, not ${maxChars}`)
  const byIndex = new Map<number, OpenCall>()
  let inOrder: readonly GrowingToolCall[] | undefined
  let chars = 0

  function callAt(index: number): OpenCall {
    const known = byIndex.get(index)
    if (known !== undefined) return known
    if (!Number.isSafeInteger(index) || index < 0)
      throw refused('malformed', 'a tool call has an index that is no number from 0 up')
    if (index >= maxCalls) throw refused('too-large', `the answer has more than ${maxCalls} tool calls`)
    const call = openCall(index)
    byIndex.set(index, call)
    inOrder = undefined
    return call
  }

  return {
    add(chunk) {
      if (chunk.type !== 'tool-call') return undefined
      if (chars + chunk.arguments.length > maxChars) {
        throw refused('too-large', `the arguments of the tool calls are longer than ${maxChars} characters (maxChars)`)
      }
      const { call, push } = callAt(chunk.index)
      chars += chunk.arguments.length
      if (chunk.id) call.id = chunk.id
      if (chunk.name) call.name = chunk.name
      push(chunk.arguments)
      return call
    },
    get calls() {
      inOrder ??= [...byIndex.values()].map(({ call }) => call).toSorted((a, b) => a.index - b.index)
      return inOrder
    }
  }
}

interface OpenCall {
  readonly call: { -readonly [K in keyof GrowingToolCall]: GrowingToolCall[K] }
  push(piece: string): void
}

function openCall(index: number): OpenCall {
  const json = createPartialJson()
  const call = {
    index,
    id: '',
    name: '',
    arguments: '',
    get state() {
      return json.state
    },
    get value() {
      return json.value
    }
  }
  return {
    call,
    push(piece) {
      call.arguments += piece
      json.push(piece)
    }
  }
}

function refused(reason: 'malformed' | 'too-large', message: string): MillraceError<'protocol'> {
  return new MillraceError('protocol', message, { details: { reason } })
}

/**
 * The tool calls of an answer as they grow, once for each piece of them, and nothing else. What it gives is alive: read it
 * before you go on, or `structuredClone` what must stay.
 *
 * @throws {TypeError} when `maxChars` is wrong; the stream fails as `createToolCalls().add` does
 *
 * @example
 * for await (const call of pipe(adapter.stream(request), onlyToolCalls())) render(call.name, call.value)
 */
export function onlyToolCalls(options: ToolCallsOptions = {}): Operator<Chunk, GrowingToolCall> {
  createToolCalls(options) // wrong options are told now, not in the middle of a stream
  return operate(() => {
    const { add } = createToolCalls(options)
    return {
      take(chunk, emit) {
        const call = add(chunk)
        if (call !== undefined) emit(call)
        return undefined
      }
    }
  })
}
