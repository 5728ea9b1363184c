import type { Chunk } from '@millrace/core'
import { isAsyncIterable } from './check-source.ts'

/**
 * What is written: chunks, for a `format` to write, or ready texts of whole events (`createStreams` gives such), which go out
 * as they are. As a function it is called with a signal that aborts when the client leaves or the writing ends: for a
 * source that cannot be returned while it is busy, such as an async generator.
 */
export type SSESource = SSEItems | ((signal: AbortSignal) => SSEItems)

/** `readyTexts: true`: that there are none is no fault. Whatever else gives nothing has broken: chunks come to their finish. */
type SSEItems = AsyncIterable<Chunk | string> & { readonly readyTexts?: true | undefined }

/** @throws {TypeError} when a function has given something else */
export function checkItems(items: SSEItems): void {
  if (isAsyncIterable(items)) return
  Promise.resolve(items).catch(() => {}) // refused for being a promise; what it fails with later would end the process
  throw new TypeError(
    'the function must give an async iterable, not a promise of one: await the stream first, or make it an async generator'
  )
}
