import { ChunkBatches, type ChunkIterator } from './chunk-iterator.ts'
import { createSSEParser, type ServerSentEvent, type SSEOptions, type SSEParser } from './sse.ts'

/** The events of a body: one by one, or by `nextBatch` all that one read has brought. */
export type EventReader = ChunkIterator<ServerSentEvent> & AsyncIterableIterator<ServerSentEvent, undefined>

/**
 * The events of a body. Leaving the loop leaves the body.
 *
 * @throws {MillraceError} `protocol` with `reason: 'too-large'`; whatever `body` throws. What came before is given first
 * @throws {TypeError} when an option is wrong
 *
 * @example
 * for await (const { data } of parseSSE(response.body)) console.log(data)
 */
export function parseSSE(body: AsyncIterable<Uint8Array | readonly Uint8Array[]>, options: SSEOptions = {}): EventReader {
  return new Events(body, options)
}

class Events extends ChunkBatches<ServerSentEvent> implements AsyncIterable<ServerSentEvent, undefined> {
  #events: ServerSentEvent[] = []
  readonly #parser: SSEParser
  readonly #source: AsyncIterator<Uint8Array | readonly Uint8Array[]>
  #failure: { readonly error: unknown } | undefined

  constructor(body: AsyncIterable<Uint8Array | readonly Uint8Array[]>, options: SSEOptions) {
    super()
    this.#parser = createSSEParser((event) => this.#events.push(event), options)
    this.#source = body[Symbol.asyncIterator]()
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  protected async pull(): Promise<readonly ServerSentEvent[] | undefined> {
    while (!this.over) {
      await this.#read()
      if (this.#events.length === 0) continue
      const events = this.#events
      this.#events = []
      return events
    }
    const failure = this.#failure
    this.#failure = undefined
    if (failure !== undefined) throw failure.error
    return undefined
  }

  async #read(): Promise<void> {
    let batch: IteratorResult<Uint8Array | readonly Uint8Array[]>
    try {
      batch = await this.#source.next()
    } catch (error) {
      return this.#fail(error)
    }
    try {
      if (batch.done === true) {
        this.over = true
        this.#parser.end()
      } else if (batch.value instanceof Uint8Array) this.#parser.push(batch.value)
      else this.#parser.pushAll(batch.value)
    } catch (error) {
      const hasEnded = this.over
      this.#fail(error)
      if (!hasEnded) await this.#source.return?.()
    }
  }

  /** What came before the fault is not lost: it is told behind that. */
  #fail(error: unknown): void {
    this.over = true
    this.#failure = { error }
  }

  override get ended(): boolean {
    return this.#failure === undefined && super.ended
  }

  async return(): Promise<IteratorResult<ServerSentEvent, undefined>> {
    this.clear()
    this.#failure = undefined
    if (!this.over) {
      this.over = true
      await this.#source.return?.()
    }
    return { done: true, value: undefined }
  }
}
