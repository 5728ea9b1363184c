import { type Batch, batch, type Outcome, type BatchOptions as RunOptions } from '@millrace/batch'
import type { CallOptions, ChatRequest, Completion } from '@millrace/core'

/** One request's outcome; `index` is its place in the input. */
export type BatchResult = Outcome<Completion>

/** What `batch` of `@millrace/batch` takes, and what every call of it is made with. With a journal, each call has a key of its own. */
export interface BatchOptions extends Omit<CallOptions, 'idempotencyKey' | 'callId' | 'signal'>, RunOptions<ChatRequest> {}

/** Runs `complete` over the requests. */
export function batchOf(
  requests: Iterable<ChatRequest> | AsyncIterable<ChatRequest>,
  complete: (request: ChatRequest, options: CallOptions) => Promise<Completion>,
  options: BatchOptions
): Batch<Completion> {
  const {
    signal: outer,
    concurrency,
    order,
    itemTimeoutMs,
    maxBuffered,
    onProgress,
    pause,
    maxPauses,
    length,
    lookahead,
    journal,
    ...call
  } = options
  return batch(requests, (request, { signal, idempotencyKey }) => complete(request, { ...call, signal, idempotencyKey }), {
    concurrency,
    order,
    signal: outer,
    itemTimeoutMs,
    maxBuffered,
    onProgress,
    pause,
    maxPauses,
    length,
    lookahead,
    journal
  })
}
