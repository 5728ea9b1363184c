import {
  type CallOptions,
  type ChatRequest,
  type Chunk,
  ChunkBatches,
  type Facts,
  hasEnded,
  type LinkedAbort,
  linkAbort,
  nextBatch,
  type Provider
} from '@millrace/core'

/** A request as it is sent, and what is told about it. */
export interface Prepared {
  readonly request: ChatRequest
  readonly facts?: Facts
}

/** Prepares a request; in the same tick, unless it has something to wait for, which is to end when the signal aborts. */
export type Prepare = (signal: () => AbortSignal) => Prepared | Promise<Prepared>

/** The answer to a request that is prepared when its first chunk is asked for. A note comes right after the start. */
export class BudgetChunks extends ChunkBatches {
  readonly #prepare: Prepare
  readonly #next: Provider
  readonly #options: CallOptions
  #starting: Promise<readonly Chunk[] | undefined> | undefined
  #waiting: LinkedAbort | undefined
  #source: AsyncIterator<Chunk, undefined> | undefined
  #left = false

  constructor(prepare: Prepare, next: Provider, options: CallOptions) {
    super()
    this.#prepare = prepare
    this.#next = next
    this.#options = options
  }

  protected async pull(): Promise<readonly Chunk[] | undefined> {
    if (this.#left) return undefined
    if (this.#starting === undefined) {
      this.#starting = this.#start()
      return this.#starting
    }
    // A read beside the first one waits for it; whether it failed is told there.
    if (this.#source === undefined) await this.#starting.catch(nothing)
    return this.#source === undefined ? undefined : this.#read(this.#source)
  }

  async #start(): Promise<readonly Chunk[] | undefined> {
    let prepared: Prepared
    try {
      const preparing = this.#prepare(() => this.#signal())
      prepared = preparing instanceof Promise ? await preparing : preparing
    } catch (error) {
      // Nobody reads any more: what ended the wait was the reader's leaving.
      if (this.#left) return undefined
      throw error
    } finally {
      this.#waiting?.[Symbol.dispose]()
    }
    if (this.#left) return undefined
    this.#source = this.#next(prepared.request, this.#options)[Symbol.asyncIterator]()
    const { facts } = prepared
    const batch = await this.#read(this.#source)
    return facts === undefined ? batch : batch?.toSpliced(1, 0, { type: 'note', from: 'tokens', facts })
  }

  #signal(): AbortSignal {
    this.#waiting ??= linkAbort(this.#options.signal)
    return this.#waiting.signal
  }

  async #read(source: AsyncIterator<Chunk, undefined>): Promise<readonly Chunk[] | undefined> {
    const batch = await nextBatch(source)
    this.over = batch === undefined || hasEnded(source)
    return batch
  }

  async return(): Promise<IteratorResult<Chunk, undefined>> {
    this.#left = true
    this.clear()
    this.#waiting?.abort(new DOMException('the reader has left the stream', 'AbortError'))
    await this.#source?.return?.()
    return { done: true, value: undefined }
  }
}

function nothing(): undefined {
  return undefined
}
