import { type Chunk, ChunkBatches, type Facts, hasEnded, nextBatch, type Usage } from '@millrace/core'
import type { Items } from './question.ts'

/** The stream with our note right after its start, and usage as `usageOf` tells it. */
export class Noted extends ChunkBatches {
  readonly #items: Items<Chunk>
  readonly #facts: () => Facts
  readonly #usageOf: (usage: Usage, model: string) => Usage
  #model = ''
  #noted = false
  #pulling = false
  #dropped = false
  /** Nothing is held any more. */
  onOver: (() => void) | undefined

  constructor(items: Items<Chunk>, facts: () => Facts, usageOf: (usage: Usage, model: string) => Usage) {
    super()
    this.#items = items
    this.#facts = facts
    this.#usageOf = usageOf
  }

  /** Nobody holds it any more. A read that is still waited for comes first. */
  drop(): void {
    this.#dropped = true
    if (!this.#pulling) void this.return()
  }

  protected async pull(): Promise<readonly Chunk[] | undefined> {
    this.#pulling = true
    let batch: readonly Chunk[] | undefined
    try {
      batch = await this.#items.nextBatch()
      this.over = batch === undefined || this.#items.ended
    } catch (error) {
      this.over = true
      throw error
    } finally {
      this.#pulling = false
      if (this.over) this.onOver?.()
      else if (this.#dropped) void this.return()
    }
    if (batch === undefined) return undefined
    const out: Chunk[] = []
    for (const chunk of batch) {
      if (chunk.type === 'start') this.#model = chunk.model
      else this.#note(out)
      out.push(chunk.type === 'usage' ? { type: 'usage', usage: this.#usageOf(chunk.usage, this.#model) } : chunk)
      this.#note(out)
    }
    return out
  }

  #note(out: Chunk[]): void {
    if (this.#noted) return
    this.#noted = true
    out.push({ type: 'note', from: 'cache', facts: this.#facts() })
  }

  async return(): Promise<IteratorResult<Chunk, undefined>> {
    this.clear()
    this.onOver?.()
    await this.#items.return?.()
    return { done: true, value: undefined }
  }
}

/** A stream of a provider, read as a reply of the cache is. */
export function itemsOf(source: AsyncIterator<Chunk, undefined>): Items<Chunk> {
  return {
    next: () => source.next(),
    nextBatch: () => nextBatch(source),
    get ended() {
      return hasEnded(source)
    },
    return: async () => {
      await source.return?.()
      return { done: true, value: undefined }
    }
  }
}
