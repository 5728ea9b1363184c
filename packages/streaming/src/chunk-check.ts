import { type Chunk, MillraceError } from '@millrace/core'

const kinds: ReadonlySet<unknown> = new Set<Chunk['type']>([
  'start',
  'note',
  'text',
  'refusal',
  'reasoning',
  'tool-call',
  'extra',
  'usage',
  'finish'
])

/** Whether this may be a chunk, by its type alone. */
export function isChunk(item: unknown): item is Chunk {
  return typeof item === 'object' && item !== null && kinds.has((item as { type?: unknown }).type)
}

/**
 * What a format writes must be there: a stream of somebody else's would get `undefined` on the wire.
 *
 * @throws {MillraceError} `protocol`
 */
export function checkChunk(chunk: Chunk): void {
  switch (chunk.type) {
    case 'text':
    case 'refusal':
    case 'reasoning':
      if (typeof chunk.text !== 'string') throw notAChunk(chunk.type)
      return
    case 'tool-call':
      if (typeof chunk.arguments !== 'string') throw notAChunk(chunk.type)
      return
    case 'extra':
      if (chunk.value === undefined) throw notAChunk(chunk.type)
      return
    case 'usage':
      if (typeof chunk.usage !== 'object') throw notAChunk(chunk.type)
      return
    case 'finish':
      if (typeof chunk.reason !== 'string') throw notAChunk(chunk.type)
      return
    case 'start':
    case 'note':
      return
    default:
      throw notAChunk()
  }
}

export function notAChunk(type?: Chunk['type']): MillraceError<'protocol'> {
  const text =
    type === undefined
      ? 'the source gave what is not a chunk of @millrace/core: take adapter.stream(request); an OpenAI SDK stream is one of events, not of chunks'
      : `the source gave a ${type} chunk that is not one of @millrace/core: a field of it is missing or of another kind`
  return new MillraceError('protocol', text, { details: { reason: 'unexpected' } })
}
