import type { Outcome } from './outcome.ts'
import { Ring } from './ring.ts'

export type Taken<O> = IteratorResult<Outcome<O>, undefined>

export const done: IteratorReturnResult<undefined> = { done: true, value: undefined }

interface Reader<O> {
  readonly resolve: (taken: Taken<O>) => void
  readonly reject: (error: unknown) => void
}

/** Those who have asked for an outcome before there was one. */
export class Readers<O> {
  readonly #ring = new Ring<Reader<O>>()
  // One function for all of them: `Promise.withResolvers` costs more.
  readonly #enter = (resolve: Reader<O>['resolve'], reject: Reader<O>['reject']): void => this.#ring.push({ resolve, reject })

  get size(): number {
    return this.#ring.size
  }

  wait(): Promise<Taken<O>> {
    return new Promise(this.#enter)
  }

  /** To the one who asked first. */
  give(outcome: Outcome<O>): void {
    this.#ring.shift()?.resolve({ done: false, value: outcome })
  }

  /** The one who asked first hears of the failure; for all others it is the end. */
  end(failure?: { readonly error: unknown }): void {
    if (failure !== undefined) this.#ring.shift()?.reject(failure.error)
    for (let reader = this.#ring.shift(); reader !== undefined; reader = this.#ring.shift()) reader.resolve(done)
  }
}
