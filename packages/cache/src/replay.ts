import {
  type CallTally,
  type Chunk,
  ChunkBatches,
  type ChunkIterator,
  type Facts,
  type LinkedAbort,
  linkAbort,
  sleep,
  type Usage
} from '@millrace/core'
import type { Answer } from './answer.ts'

export interface ReplayOptions {
  /**
   * `fast`: everything at once. `recorded`: each chunk as long after the first as it came then, late ones together; the wait
   * for the first is not repeated. An answer that was kept without its times is always fast.
   */
  readonly pace: 'fast' | 'recorded'
  /** Nothing is handed over behind its abort. */
  readonly signal: AbortSignal | undefined
  /** Told of the pauses of a recorded pace. */
  readonly tally?: CallTally | undefined
  /** What the cache tells, right behind `start`. */
  readonly note: Facts
  /** What becomes of the usage. Called by the first read. */
  readonly usageOf: (usage: Usage) => Usage
}

/** A legal stream of a kept answer. Its chunks are the kept ones themselves, frozen. */
export function replay(answer: Answer, options: ReplayOptions): ChunkIterator {
  return new Replay(answer, options)
}

class Replay extends ChunkBatches {
  readonly #answer: Answer
  readonly #options: ReplayOptions
  readonly #times: readonly number[] | undefined
  #chunks: readonly Chunk[] | undefined
  #startedAt = 0
  #at = 0
  #pausing: LinkedAbort | undefined

  constructor(answer: Answer, options: ReplayOptions) {
    super()
    this.#answer = answer
    this.#options = options
    if (options.pace === 'recorded') this.#times = answer.atMs
  }

  override next(): Promise<IteratorResult<Chunk, undefined>> {
    return this.#isAborted ? this.#refuse() : super.next()
  }

  override nextBatch(): Promise<readonly Chunk[] | undefined> {
    return this.#isAborted ? this.#refuse() : super.nextBatch()
  }

  async return(): Promise<IteratorResult<Chunk, undefined>> {
    this.over = true
    this.clear()
    this.#pausing?.abort(undefined)
    return { done: true, value: undefined }
  }

  protected pull(): Promise<readonly Chunk[] | undefined> {
    if (this.over) return Promise.resolve(undefined)
    this.#chunks ??= this.#annotated()
    if (this.#times === undefined) {
      this.over = true
      return Promise.resolve(this.#chunks)
    }
    return this.#dueOf(this.#chunks, this.#times)
  }

  async #dueOf(chunks: readonly Chunk[], times: readonly number[]): Promise<readonly Chunk[] | undefined> {
    if (this.#at === 0) this.#startedAt = performance.now()
    // Behind the start comes our note, with the start's time.
    const timeOf = (index: number): number => (times[Math.max(0, index - 1)] as number) - (times[0] as number)
    const from = this.#at
    const waitMs = timeOf(from) - (performance.now() - this.#startedAt)
    if (waitMs > 0 && !(await this.#pause(waitMs))) return undefined
    const elapsedMs = performance.now() - this.#startedAt
    let to = from + 1
    while (to < chunks.length && timeOf(to) <= elapsedMs) to++
    this.#at = to
    this.over = to === chunks.length
    return chunks.slice(from, to)
  }

  /** False when the reader has left meanwhile. */
  async #pause(ms: number): Promise<boolean> {
    using pausing = linkAbort(this.#options.signal)
    this.#pausing = pausing
    const startedAt = performance.now()
    try {
      await sleep(ms, pausing.signal)
    } catch (error) {
      if (!this.over) throw error
    } finally {
      this.#options.tally?.waited(performance.now() - startedAt)
    }
    return !this.over
  }

  get #isAborted(): boolean {
    return this.#options.signal?.aborted === true && !this.ended
  }

  #refuse(): Promise<never> {
    return Promise.reject(this.#options.signal?.reason)
  }

  #annotated(): readonly Chunk[] {
    const { note, usageOf } = this.#options
    const chunks: Chunk[] = []
    for (const chunk of this.#answer.chunks) {
      chunks.push(chunk.type === 'usage' ? { type: 'usage', usage: usageOf(chunk.usage) } : chunk)
      if (chunks.length === 1) chunks.push({ type: 'note', from: 'cache', facts: note })
    }
    return chunks
  }
}
