import type { ErrorCode } from '@millrace/core'

/** The failure that a provider cools down from. */
export interface Failure {
  readonly code: ErrorCode
  readonly status: number | undefined
}

/** One asking of a provider; to be ended by one of `answered`, `failed` and `left`. */
export interface Trial {
  readonly model: string
  readonly number: number
  /** Set for the one call that asks whether a provider is back: what it is to be back from. */
  readonly probed: Failing | undefined
}

export interface Failing {
  readonly failure: Failure
  /** Of the last trial that had begun when it failed: what began before says nothing new. */
  readonly since: number
  readonly coolMs: number
  until: number
  isProbed: boolean
}

/** A cool-down doubles up to this. */
const maxCoolMs = 60_000
/** A provider may ask for a day. It is asked again sooner, for one call that moves on costs little. */
const maxToldMs = 600_000
/** Names of models may come from outside. Above this the one that failed first is asked again, as if it had not. */
const maxModels = 100

/** Which models of one provider are passed over just now, and until when. A class, for it is asked in every call. */
export class Cooling {
  readonly #coolDownMs: number
  readonly #now: () => number
  readonly #failing = new Map<string, Failing>()
  #begun = 0

  constructor(coolDownMs: number, now: () => number) {
    this.#coolDownMs = coolDownMs
    this.#now = now
  }

  /** How many models are cooling down or have not been answered for since. */
  get size(): number {
    return this.#failing.size
  }

  /** What is passed over for; undefined where it has not failed, or is due to be asked again and nobody does. */
  of(model: string): Failing | undefined {
    const failing = this.#failing.get(model)
    return failing === undefined || this.#isDue(failing) ? undefined : failing
  }

  begin(model: string): Trial {
    const number = ++this.#begun
    const failing = this.#failing.get(model)
    const probed = failing !== undefined && this.#isDue(failing) ? failing : undefined
    if (probed !== undefined) probed.isProbed = true
    return { model, number, probed }
  }

  answered(trial: Trial): void {
    const failing = this.#failing.get(trial.model)
    // What began before the failure may be the last thing that went well.
    if (failing !== undefined && trial.number > failing.since) this.#failing.delete(trial.model)
  }

  failed(trial: Trial, failure: Failure, toldMs: number | undefined): void {
    if (this.#coolDownMs === 0) return
    const { model } = trial
    const told = toldMs !== undefined && toldMs > 0 ? Math.min(toldMs, maxToldMs) : undefined
    const failing = this.#failing.get(model)
    if (failing !== undefined && failing !== trial.probed) {
      // One of many that failed together, or that had no other to ask: this is the same failure still.
      if (told !== undefined) failing.until = Math.max(failing.until, this.#now() + told)
      return
    }
    const coolMs = failing === undefined ? this.#coolDownMs : Math.min(failing.coolMs * 2, Math.max(maxCoolMs, this.#coolDownMs))
    const until = this.#now() + (told ?? coolMs)
    this.#failing.delete(model)
    this.#failing.set(model, { failure, since: this.#begun, coolMs, until, isProbed: false })
    if (this.#failing.size > maxModels) this.#failing.delete(this.#failing.keys().next().value as string)
  }

  /** It ended without saying how the provider is. */
  left({ probed }: Trial): void {
    if (probed !== undefined) probed.isProbed = false
  }

  #isDue(failing: Failing): boolean {
    return !failing.isProbed && this.#now() >= failing.until
  }
}
