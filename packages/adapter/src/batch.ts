import { type CallOptions, type ChatRequest, type Completion, linkAbort, MillraceError } from '@millrace/core'

/** One request's outcome; `index` is its place in the input. */
export type BatchResult =
  | { readonly index: number; readonly status: 'fulfilled'; readonly value: Completion }
  | { readonly index: number; readonly status: 'rejected'; readonly reason: unknown }

export interface BatchOptions extends CallOptions {
  /** Calls at a time. @default 16 */
  readonly concurrency?: number | undefined
}

/**
 * Runs `complete` over the requests, at most `concurrency` at a time, and yields each outcome as it is known. Requests are
 * pulled only when there is room, and room is made only when an outcome is taken, so memory stays flat for any length.
 * One failure touches no other item. Leaving the loop aborts what runs.
 *
 * @throws {TypeError} for a concurrency that is not a whole number of at least 1
 */
export function runBatch(
  requests: Iterable<ChatRequest> | AsyncIterable<ChatRequest>,
  complete: (request: ChatRequest, options: CallOptions) => Promise<Completion>,
  { concurrency = 16, ...options }: BatchOptions
): AsyncIterable<BatchResult> {
  if (!Number.isSafeInteger(concurrency) || concurrency < 1) {
    throw new TypeError(`concurrency must be a whole number of at least 1, not ${concurrency}`)
  }
  return { [Symbol.asyncIterator]: () => settle(requests, complete, concurrency, options) }
}

async function* settle(
  requests: Iterable<ChatRequest> | AsyncIterable<ChatRequest>,
  complete: (request: ChatRequest, options: CallOptions) => Promise<Completion>,
  concurrency: number,
  options: CallOptions
): AsyncGenerator<BatchResult, void, undefined> {
  const linked = linkAbort(options.signal)
  const input = Symbol.asyncIterator in requests ? requests[Symbol.asyncIterator]() : requests[Symbol.iterator]()
  const settled: BatchResult[] = []
  let index = 0
  let running = 0
  let state = 'idle' as 'idle' | 'pulling' | 'ended'
  let failure: { readonly error: unknown } | undefined
  let news = Promise.withResolvers<void>()

  function wake(): void {
    const told = news
    news = Promise.withResolvers<void>()
    told.resolve()
  }
  function start(at: number, request: ChatRequest): void {
    running++
    complete(request, { ...options, signal: linked.signal })
      .then(
        (value) => settled.push({ index: at, status: 'fulfilled', value }),
        (reason: unknown) => settled.push({ index: at, status: 'rejected', reason })
      )
      .then(() => {
        running--
        wake()
      })
  }
  async function pull(): Promise<void> {
    state = 'pulling'
    try {
      const { done, value } = await input.next()
      state = done === true ? 'ended' : 'idle'
      if (done !== true) start(index++, value)
    } catch (error) {
      state = 'ended'
      failure = { error }
    }
    wake()
  }

  try {
    for (;;) {
      // Taken in the order they settled; one that hangs holds up none of the others, and neither does a slow input.
      for (let result = settled.shift(); result !== undefined; result = settled.shift()) yield result
      if (state === 'ended' && running === 0 && settled.length === 0) break
      const told = news.promise
      if (state === 'idle' && running + settled.length < concurrency) void pull()
      if (settled.length === 0) await told
    }
    if (failure !== undefined) throw failure.error
  } finally {
    linked.abort(new MillraceError('closed', 'the batch was left', { details: {} }))
    linked[Symbol.dispose]()
    // A pull that is pending would hold the return up for as long as the input is silent; its end is nobody's business now.
    if (state === 'pulling') Promise.resolve(input.return?.()).catch(() => {})
    else if (state === 'idle') await input.return?.()
  }
}
