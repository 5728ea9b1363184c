import type { Chunk } from '@millrace/core'
import { type Operator, operate } from './operate.ts'

/**
 * The text of the answer and nothing else: reasoning, refusals, tool calls, notes and usage are let go.
 *
 * @example
 * for await (const text of pipe(adapter.stream(request), onlyText())) process.stdout.write(text)
 */
export function onlyText(): Operator<Chunk, string> {
  return operate(() => ({
    take(chunk, emit) {
      if (chunk.type === 'text' && chunk.text !== '') emit(chunk.text)
      return undefined
    }
  }))
}
