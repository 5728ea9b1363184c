import {
  type CallOptions,
  type ChatRequest,
  type Completion,
  type LinkedAbort,
  linkAbort,
  MillraceError,
  onAbort
} from '@millrace/core'

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
 * One failure touches no other item. Leaving the loop aborts what runs; so does `signal`: then no more is pulled, what ran
 * is yielded as rejected, and the loop ends with the signal's reason.
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
  if (typeof requests !== 'object' || requests === null || !(Symbol.asyncIterator in requests || Symbol.iterator in requests)) {
    throw new TypeError('batch takes a list of requests, or anything else that can be iterated')
  }
  return {
    [Symbol.asyncIterator]() {
      let begun: { linked: LinkedAbort; results: AsyncGenerator<BatchResult, undefined, undefined> } | undefined
      function begin(): typeof begun & object {
        const linked = linkAbort(options.signal)
        const run = (request: ChatRequest): Promise<Completion> => complete(request, { ...options, signal: linked.signal })
        return { linked, results: settle(requests, run, concurrency, linked, options.signal) }
      }
      return {
        next() {
          begun ??= begin()
          return begun.results.next()
        },
        async return() {
          if (begun === undefined) return { done: true, value: undefined }
          // First the abort: a generator returns only behind the outcome it waits for.
          begun.linked.abort(left())
          return begun.results.return(undefined)
        }
      }
    }
  }
}

async function* settle(
  requests: Iterable<ChatRequest> | AsyncIterable<ChatRequest>,
  complete: (request: ChatRequest) => Promise<Completion>,
  concurrency: number,
  linked: LinkedAbort,
  signal: AbortSignal | undefined
): AsyncGenerator<BatchResult, undefined, undefined> {
  const input = Symbol.asyncIterator in requests ? requests[Symbol.asyncIterator]() : requests[Symbol.iterator]()
  const settled: BatchResult[] = []
  let index = 0
  let running = 0
  let pulling = false
  let ended = false
  let failure: { readonly error: unknown } | undefined
  let news = Promise.withResolvers<void>()

  function wake(): void {
    const told = news
    news = Promise.withResolvers<void>()
    told.resolve()
  }
  async function run(at: number, request: ChatRequest): Promise<void> {
    running++
    try {
      settled.push({ index: at, status: 'fulfilled', value: await complete(request) })
    } catch (reason) {
      settled.push({ index: at, status: 'rejected', reason })
    }
    running--
    wake()
  }
  async function pull(): Promise<void> {
    pulling = true
    try {
      const { done, value } = await input.next()
      if (done === true) ended = true
      else if (!linked.signal.aborted) void run(index++, value)
    } catch (error) {
      ended = true
      failure = { error }
    }
    pulling = false
    wake()
  }

  const off = onAbort(linked.signal, (reason) => {
    // What runs rejects by itself; nothing more is pulled, however long the input is.
    if (signal?.aborted === true) failure ??= { error: reason }
    wake()
  })
  try {
    for (;;) {
      // Taken in the order they settled; one that hangs holds up none of the others, and neither does a slow input.
      for (let result = settled.shift(); result !== undefined; result = settled.shift()) yield result
      const over = ended || linked.signal.aborted
      if (over && running === 0 && settled.length === 0) break
      const told = news.promise
      if (!over && !pulling && running + settled.length < concurrency) void pull()
      if (settled.length === 0) await told
    }
    if (failure !== undefined) throw failure.error
  } finally {
    off()
    linked.abort(left())
    linked[Symbol.dispose]()
    // A pull that is pending would hold the return up for as long as the input is silent; its end is nobody's business now.
    if (pulling) Promise.resolve(input.return?.()).catch(() => {})
    else if (!ended) await input.return?.()
  }
}

function left(): MillraceError<'closed'> {
  return new MillraceError('closed', 'the batch was left', { details: {} })
}
