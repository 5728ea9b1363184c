import type { CallOptions, Deadline } from '@millrace/core'

/**
 * The options of a call whose waits are to be short: in the queue of its limits, and between the attempts of a retry. Both
 * look at what is left of the deadline before they wait, and only that is made less: what ends the call is held further out.
 * Where no deadline is held, waits are as long as they were.
 */
export function withShortWaits(options: CallOptions, patienceMs: number): CallOptions {
  const { deadline } = options
  return deadline === undefined ? options : { ...options, deadline: new ShortWaits(deadline, patienceMs) }
}

class ShortWaits implements Deadline {
  readonly #deadline: Deadline
  readonly #patienceMs: number

  constructor(deadline: Deadline, patienceMs: number) {
    this.#deadline = deadline
    this.#patienceMs = patienceMs
  }

  remainingMs(): number {
    return Math.min(this.#deadline.remainingMs(), this.#patienceMs)
  }

  get queued(): boolean {
    return this.#deadline.queued
  }
  set queued(queued: boolean) {
    this.#deadline.queued = queued
  }

  /** It is not ours to end. */
  [Symbol.dispose](): void {}
}
