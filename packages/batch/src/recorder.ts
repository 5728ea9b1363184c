import { isMillraceError } from '@millrace/core'
import type { Item } from './item.ts'
import type { Journal } from './journal.ts'
import { type Outcome, outcomeOf } from './outcome.ts'

/** What a batch asks of its journal. */
export interface Recorder<I, O> {
  /** Looks the item up. Throws where it cannot be told from others. */
  enter(item: Item<I>): void
  /** Keeps the outcome; exactly one of the events follows. */
  record(item: Item<I>, outcome: Outcome<O>): void
  /** The item's outcome was decided without its work, by an abort or its time limit. What was paid for is kept for the next run. */
  late(item: Item<I>, status: Outcome<O>['status'], value: unknown): void
}

export interface RecorderEvents<I, O> {
  readonly onSafe: (outcome: Outcome<O>) => void
  /** The journal cannot be written any more. */
  readonly onUnsafe: (item: Item<I>, error: unknown) => void
}

export function createRecorder<I, O>(journal: Journal<I>, { onSafe, onUnsafe }: RecorderEvents<I, O>): Recorder<I, O> {
  return {
    enter(item) {
      item.entry = journal.enter(item.value)
    },
    record(item, outcome) {
      if (item.entry === undefined) return onSafe(outcome)
      let safe: Promise<void>
      try {
        safe = journal.record(item.entry, outcome)
      } catch (error) {
        if (isMillraceError(error, 'closed')) return onUnsafe(item, error)
        return onSafe(outcomeOf(item.index, 'rejected', error)) // no JSON; not recorded, so that it runs again
      }
      safe.then(
        () => onSafe(outcome),
        (error) => onUnsafe(item, error)
      )
    },
    late({ entry }, status, value) {
      if (status === 'rejected' || entry === undefined || entry.recorded) return
      try {
        journal.record(entry, { status, value }).catch(() => {})
      } catch {
        // The journal counts what it refused; nobody waits for this outcome any more.
      }
    }
  }
}
