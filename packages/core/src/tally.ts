/**
 * What a call adds up on its way through the layers: one object a watched call, made by `watch`. It is also what tells one
 * call from another, for two may have one `callId`. Who makes a call may pass one of its own, to read it at any time.
 *
 * @example
 * const tally = new CallTally()
 * await adapter.complete(request, { tally })
 * console.log(tally.providerMs)
 */
export class CallTally {
  readonly #outer: CallTally | undefined
  readonly #onEnd: ((error: unknown) => void) | undefined
  #providerMs: number | undefined
  #otherMs = 0
  #spentUsd: number | undefined
  #savedUsd: number | undefined

  constructor(outer?: CallTally, onEnd?: (error: unknown) => void) {
    this.#outer = outer
    this.#onEnd = onEnd
  }

  /** Whether the call is a part of another that is watched further out. */
  get isPart(): boolean {
    return this.#outer !== undefined && (this.#outer.#onEnd !== undefined || this.#outer.isPart)
  }

  /** Milliseconds that were waited for the provider; undefined where it does not tell. */
  get providerMs(): number | undefined {
    return this.#providerMs
  }

  /** Milliseconds that were waited for anything else outside: a limit, a summary, the pace of a replay. */
  get otherMs(): number {
    return this.#otherMs
  }

  /** What the calls directly inside cost, and what they saved; undefined where no price was known. */
  get spentUsd(): number | undefined {
    return this.#spentUsd
  }
  get savedUsd(): number | undefined {
    return this.#savedUsd
  }

  /** The outermost watched call that this one is a part of; itself where there is none. */
  get root(): CallTally {
    return this.isPart && this.#outer !== undefined ? this.#outer.root : this
  }

  /** Told by a provider, of each attempt and each read until the first content. */
  waitedForProvider(ms: number): void {
    this.#providerMs = (this.#providerMs ?? 0) + ms
    this.#outer?.waitedForProvider(ms)
  }

  /** Told by whoever waits for anything else that is no work of this process. */
  waited(ms: number): void {
    this.#otherMs += ms
    this.#outer?.waited(ms)
  }

  /** Told once by a watched call, at its end, of itself and what is inside it. */
  worth({ spentUsd, savedUsd }: { readonly spentUsd: number | undefined; readonly savedUsd: number | undefined }): void {
    const outer = this.#outer
    if (outer === undefined) return
    if (spentUsd !== undefined) outer.#spentUsd = (outer.#spentUsd ?? 0) + spentUsd
    if (savedUsd !== undefined) outer.#savedUsd = (outer.#savedUsd ?? 0) + savedUsd
  }

  /** Told by a layer that ends the call though nobody reads: a deadline, an abort, a close. */
  ended(error: unknown): void {
    this.#onEnd?.(error)
  }
}
