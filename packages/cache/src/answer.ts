import { type Chunk, checkJson, isContent, parseJson, type Usage } from '@millrace/core'

/** What is kept of a stream: its chunks without notes. */
export interface Answer {
  readonly chunks: readonly Chunk[]
  /** When each chunk came, in whole milliseconds from the call's start, where the pace is kept too. */
  readonly atMs?: readonly number[]
}

/**
 * What is to be kept of a stream. Notes are dropped: they tell of one call, not of the answer. Without times, neighbours of one
 * kind are merged; with them every chunk stays by itself.
 */
export function condense(chunks: readonly Chunk[], atMs?: readonly number[]): Answer {
  if (atMs === undefined) return { chunks: merged(chunks) }
  const isKept = (_: unknown, index: number): boolean => chunks[index]?.type !== 'note'
  return { chunks: chunks.filter(isKept), atMs: atMs.filter(isKept).map(Math.round) }
}

function merged(chunks: readonly Chunk[]): readonly Chunk[] {
  const all: Chunk[] = []
  let run: Chunk[] = []
  for (const chunk of chunks) {
    if (chunk.type === 'note') continue
    const last = run.at(-1)
    if (last !== undefined && !continues(last, chunk)) {
      all.push(merge(run))
      run = []
    }
    run.push(chunk)
  }
  if (run.length > 0) all.push(merge(run))
  return all
}

function continues(last: Chunk, chunk: Chunk): boolean {
  if (chunk.type === 'text' || chunk.type === 'refusal') return last.type === chunk.type
  if (chunk.type === 'reasoning') return last.type === 'reasoning' && last.signature === undefined
  return chunk.type === 'tool-call' && last.type === 'tool-call' && last.index === chunk.index
}

/** One chunk for a run of one kind. */
function merge(run: readonly Chunk[]): Chunk {
  const first = run[0] as Chunk
  if (run.length === 1) return first
  if (first.type === 'tool-call') {
    const calls = run as (typeof first)[]
    const id = calls.findLast((call) => call.id)?.id
    const name = calls.findLast((call) => call.name)?.name
    const head = { type: first.type, index: first.index, ...(id ? { id } : {}), ...(name ? { name } : {}) }
    return { ...head, arguments: calls.map((call) => call.arguments).join('') }
  }
  const pieces = run as readonly { readonly text: string; readonly signature?: string }[]
  const signature = pieces.at(-1)?.signature
  const text = pieces.map((piece) => piece.text).join('')
  return { type: first.type as 'text', text, ...(signature === undefined ? {} : { signature }) }
}

/**
 * Whether this is a complete, valid answer: what alone is stored, and what alone is believed when it comes back from a store
 * that others can write to (who asks must ask `isJson` as well). A finish of `stop` or `tool-calls` at the end, some content,
 * tool arguments that parse; never an answer that was cut, filtered, or ended for a reason we do not know.
 */
export function isAnswer(value: unknown): value is Answer {
  if (!isFields(value) || !Array.isArray(value.chunks)) return false
  const chunks: readonly unknown[] = value.chunks
  if (value.atMs !== undefined && !areTimes(value.atMs, chunks.length)) return false
  const last = chunks.length - 1
  let hasContent = false
  let usages = 0
  let calls: Map<unknown, string> | undefined
  for (let index = 0; index <= last; index++) {
    const chunk = chunks[index]
    if (!isChunk(chunk) || !mayStand(chunk, index, last)) return false
    hasContent ||= isContent(chunk)
    if (chunk.type === 'usage') usages++
    if (chunk.type === 'tool-call') {
      calls ??= new Map()
      calls.set(chunk.index, (calls.get(chunk.index) ?? '') + chunk.arguments)
    }
  }
  return hasContent && usages <= 1 && (calls === undefined || [...calls.values()].every(areArguments))
}

/** Start first, a good finish last, and neither anywhere else. */
function mayStand(chunk: Chunk, index: number, last: number): boolean {
  if (chunk.type === 'start') return index === 0
  if (chunk.type === 'finish') return index === last && (chunk.reason === 'stop' || chunk.reason === 'tool-calls')
  return index > 0 && index < last && chunk.type !== 'note'
}

/** Some providers send no text at all for a tool that takes nothing (seen at OpenRouter): that is how they end, not a cut. */
function areArguments(text: string): boolean {
  return text === '' || parseJson(text) !== undefined
}

function areTimes(value: unknown, length: number): boolean {
  if (!Array.isArray(value) || value.length !== length) return false
  let last = 0
  for (const at of value) {
    if (!isCount(at) || at < last) return false
    last = at
  }
  return true
}

type Fields = Readonly<Record<string, unknown>>

const isFields = (value: unknown): value is Fields => typeof value === 'object' && value !== null
const isText = (value: unknown): boolean => typeof value === 'string'
const isOptionalText = (value: unknown): boolean => value === undefined || isText(value)
const isCount = (value: unknown): value is number => typeof value === 'number' && value >= 0 && value < Number.POSITIVE_INFINITY

/** Whether this is a chunk of the contract. What an `extra` or a note holds is not looked at: see `isJson`. */
export function isChunk(chunk: unknown): chunk is Chunk {
  if (!isFields(chunk)) return false
  switch (chunk.type as Chunk['type']) {
    case 'start':
      return isText(chunk.provider) && isText(chunk.model) && isOptionalText(chunk.id)
    case 'text':
    case 'refusal':
      return isText(chunk.text)
    case 'reasoning':
      return isText(chunk.text) && isOptionalText(chunk.signature)
    case 'tool-call':
      return isCount(chunk.index) && isOptionalText(chunk.id) && isOptionalText(chunk.name) && isText(chunk.arguments)
    case 'extra':
      return isText(chunk.name) && chunk.value !== undefined
    case 'usage':
      return isUsage(chunk.usage)
    case 'finish':
      return isText(chunk.reason)
    case 'note':
      return isText(chunk.from) && isFields(chunk.facts)
    default:
      return false
  }
}

/** Whether these are all counts of a usage. */
export function isUsage(usage: unknown): usage is Usage {
  if (!isFields(usage)) return false
  const { input, output, estimated, billed } = usage
  if (!isFields(input) || !isFields(output) || typeof estimated !== 'boolean' || typeof billed !== 'boolean') return false
  const isInput = isCount(input.uncached) && isCount(input.cacheRead) && isCount(input.cacheWrite)
  return isInput && isCount(output.text) && isCount(output.reasoning)
}

/** Whether JSON carries the value unbent, and it is neither too deep nor a trap (`__proto__`). */
export function isJson(value: unknown): boolean {
  try {
    checkJson(value, 'value')
    return true
  } catch {
    return false // the error is the answer
  }
}
