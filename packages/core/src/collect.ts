import { checkOptions } from './check-options.ts'
import type { Chunk } from './chunk.ts'
import { hasEnded, nextBatch } from './chunk-iterator.ts'
import { assemble, type Completion, type UsageEstimate } from './completion.ts'
import { annotate, MillraceError } from './error.ts'

export interface CollectOptions {
  /**
   * The longest answer, in characters: text, reasoning, signatures, refusal, arguments, extras together. `Infinity` leaves
   * the bound to the memory there is. @default 16777216
   */
  readonly maxChars?: number | undefined
  /** Counts what the provider did not tell of an answer that broke off, for `error.partial`. @default nothing is counted */
  readonly estimateUsage?: UsageEstimate | undefined
}

const none: CollectOptions = {}

/** What is kept with the error of an answer that was too long: enough to see what it was about. */
const maxPartialChars = 512 * 1024

/**
 * Reads a stream to its end and gives the whole answer. Chunks that are ready together are taken together, where
 * the iterator offers that. The stream is left (returned) at an answer longer than `maxChars`.
 *
 * @throws {MillraceError} `protocol` with `reason: 'incomplete'` when the stream ends without a `finish`, or `'too-large'`
 * past `maxChars`, with no more than 524288 characters in `error.partial`; whatever the stream throws. Every
 * `MillraceError` carries `error.partial`; other errors, such as the caller's reason, pass as they are.
 * @throws {TypeError} when an option is wrong
 *
 * @example
 * const completion = await collect(provider(request, {}))
 */
export async function collect(chunks: AsyncIterable<Chunk>, options: CollectOptions = none): Promise<Completion> {
  if (options !== none) checkOptions<CollectOptions>('collect', options, { maxChars: 1, estimateUsage: 1 })
  const { maxChars = 16_777_216, estimateUsage } = options
  const assembly = assemble({ maxChars, estimateUsage })
  const iterator = chunks[Symbol.asyncIterator]()
  try {
    for (let batch = await nextBatch(iterator); batch !== undefined; batch = await nextBatch(iterator)) {
      try {
        for (const chunk of batch) assembly.add(chunk)
        if (assembly.clipped) throw tooLong(assembly.partial(), maxChars)
      } catch (error) {
        // The stream is left, as a `for await` would leave it.
        await iterator.return?.()
        throw error
      }
      if (hasEnded(iterator)) break
    }
  } catch (error) {
    throw annotate(error, { partial: assembly.partial() })
  }
  if (!assembly.finished) throw incomplete(assembly.partial())
  return assembly.partial()
}

function tooLong(whole: Completion, maxChars: number): MillraceError<'protocol'> {
  const assembly = assemble({ maxChars: Math.min(maxChars, maxPartialChars) })
  for (const chunk of chunksOf(whole)) assembly.add(chunk)
  return new MillraceError('protocol', `the answer is longer than ${maxChars} characters (maxChars of collect)`, {
    details: { reason: 'too-large' },
    context: { provider: whole.provider || undefined, model: whole.model || undefined },
    partial: { ...assembly.partial(), clipped: true }
  })
}

/**
 * The error of a stream that ended without a finish reason: never a success, whatever text it carried.
 *
 * @example
 * if (!assembly.finished) throw incomplete(assembly.partial())
 */
export function incomplete(partial: Completion): MillraceError<'protocol'> {
  return new MillraceError('protocol', 'the stream ended without a finish reason; the text so far is in error.partial', {
    details: { reason: 'incomplete' },
    context: { provider: partial.provider || undefined, model: partial.model || undefined },
    partial
  })
}

/**
 * The way back: the chunks that `collect` would turn into this completion. A mark of `clipped` does not survive.
 *
 * @example
 * for (const chunk of chunksOf(completion)) yield chunk
 */
export function* chunksOf(completion: Completion): Generator<Chunk, void, undefined> {
  const { provider, model, id } = completion
  yield { type: 'start', provider, model, ...(id === undefined ? {} : { id }) }
  for (const [from, facts] of Object.entries(completion.notes)) {
    yield { type: 'note', from: from as keyof Completion['notes'], facts }
  }
  for (const block of completion.reasoning) yield { type: 'reasoning', ...block }
  if (completion.text !== '') yield { type: 'text', text: completion.text }
  if (completion.refusal !== undefined) yield { type: 'refusal', text: completion.refusal }
  for (const [index, call] of completion.toolCalls.entries()) yield { type: 'tool-call', index, ...call }
  for (const extra of completion.extras) yield { type: 'extra', ...extra }
  if (completion.usage !== undefined) yield { type: 'usage', usage: completion.usage }
  yield { type: 'finish', reason: completion.finish }
}
