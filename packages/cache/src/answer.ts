import { type Chunk, checkJson, isContent, parseJson, type Usage } from '@millrace/core'

/** What is kept of a stream: its chunks without notes, neighbours of one kind merged. Frozen. */
export type Answer = readonly Chunk[]

/** Merges neighbouring pieces of one kind and drops the notes: they tell of one call, not of the answer. */
export function condense(chunks: readonly Chunk[]): Answer {
  const answer: Chunk[] = []
  let run: Chunk[] = []
  for (const chunk of chunks) {
    if (chunk.type === 'note') continue
    const last = run.at(-1)
    if (last !== undefined && !continues(last, chunk)) {
      answer.push(merge(run))
      run = []
    }
    run.push(chunk)
  }
  if (run.length > 0) answer.push(merge(run))
  return answer
}

function continues(last: Chunk, chunk: Chunk): boolean {
  if (chunk.type === 'text' || chunk.type === 'refusal') return last.type === chunk.type
  if (chunk.type === 'reasoning') return last.type === 'reasoning' && last.signature === undefined
  return chunk.type === 'tool-call' && last.type === 'tool-call' && last.index === chunk.index
}

/** One chunk for a run of one kind. `join` also flattens: a concatenated string keeps all its pieces alive. */
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
 * Whether these chunks are a complete, valid answer: what alone is stored, and what alone is believed when it comes back
 * from a store that others can write to (both ask `isJson` as well). A finish of `stop` or `tool-calls` at the end, some content, tool arguments that
 * parse; never an answer that was cut, filtered, or ended for a reason we do not know.
 */
export function isAnswer(chunks: unknown): chunks is Answer {
  if (!Array.isArray(chunks) || chunks.length < 3 || !chunks.every(isChunk)) return false
  const last = chunks.at(-1) as Chunk
  if (last.type !== 'finish' || (last.reason !== 'stop' && last.reason !== 'tool-calls')) return false
  if (chunks[0]?.type !== 'start' || !chunks.some(isContent)) return false
  const count = (type: Chunk['type']): number => chunks.filter((chunk) => chunk.type === type).length
  return count('start') === 1 && count('finish') === 1 && count('usage') <= 1 && argumentsParse(chunks)
}

function argumentsParse(chunks: Answer): boolean {
  const texts = new Map<number, string>()
  for (const chunk of chunks) {
    if (chunk.type === 'tool-call') texts.set(chunk.index, (texts.get(chunk.index) ?? '') + chunk.arguments)
  }
  return [...texts.values()].every((text) => parseJson(text) !== undefined)
}

const isText = (value: unknown): boolean => typeof value === 'string'
const isOptionalText = (value: unknown): boolean => value === undefined || isText(value)
const isCount = (value: unknown): boolean => typeof value === 'number' && Number.isFinite(value)

function isChunk(chunk: unknown): chunk is Chunk {
  if (typeof chunk !== 'object' || chunk === null) return false
  const fields = chunk as Record<string, unknown>
  switch (fields.type as Chunk['type']) {
    case 'start':
      return isText(fields.provider) && isText(fields.model) && isOptionalText(fields.id)
    case 'text':
    case 'refusal':
      return isText(fields.text)
    case 'reasoning':
      return isText(fields.text) && isOptionalText(fields.signature)
    case 'tool-call':
      return isCount(fields.index) && isOptionalText(fields.id) && isOptionalText(fields.name) && isText(fields.arguments)
    case 'extra':
      return isText(fields.name) && fields.value !== undefined
    case 'usage':
      return isUsage(fields.usage)
    case 'finish':
      return isText(fields.reason)
    default:
      return false
  }
}

function isUsage(value: unknown): value is Usage {
  const usage = value as Partial<Usage> | null | undefined
  const { input, output } = usage ?? {}
  const counts = [input?.uncached, input?.cacheRead, input?.cacheWrite, output?.text, output?.reasoning]
  return counts.every(isCount) && typeof usage?.estimated === 'boolean' && typeof usage.billed === 'boolean'
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
