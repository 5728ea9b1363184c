import { type Journal, openJournal } from '@millrace/batch'
import type { BrokenLine, Item } from './batch-line.ts'
import { type Answer, isSuccess } from './batch-result.ts'
import type { BatchRun } from './batch-run.ts'
import { Exit } from './exit.ts'

/** A journal that knows whose answers it holds. */
export interface RunJournal extends Journal<Item | BrokenLine> {
  /** Recorded items that no `enter` since the last `begin` has met: of another input, or of lines that were taken out. */
  unmet(): number
}

type Recorded = Parameters<Journal['record']>[1]

/**
 * The journal beside the output. Items are told apart by what is sent, so that one that was changed runs again.
 *
 * @throws {Exit} 3 when it cannot be opened, or is of another address or format
 */
export async function openRunJournal(path: string, { asked, format, endpoint }: BatchRun): Promise<RunJournal> {
  try {
    const journal = await openJournal<Item | BrokenLine>(path, {
      options: { format, base: endpoint.base.href },
      digest: (item) => JSON.stringify('problem' in item ? [item.line] : [item.path, item.body]),
      retryRejected: asked.retryFailed,
      fresh: asked.force
    })
    return withFailedAnswers(journal)
  } catch (error) {
    throw new Exit(3, unopened(path, error), error)
  }
}

function unopened(path: string, error: unknown): string {
  const { code, message, syscall } = error as NodeJS.ErrnoException
  const [, differing] = /other options \(([^)]*)\)/.exec(message) ?? []
  if (differing !== undefined) {
    const options = differing.includes('base') ? '--base-url' : '--format'
    return `${path} was written with another ${options}: give the same one, or --force, which begins anew`
  }
  // Node's own text names a draft of the lock.
  if (syscall !== undefined) return `${path} cannot be written (${code}): see that its folder may be written and has room`
  return message.includes(path) ? message : `${path}: ${message}`
}

const code = 'answer'

/** Answers that say no are kept as rejected, so that `--retry-failed` runs them again, and come back as they were. */
function withFailedAnswers(journal: Journal<Item | BrokenLine>): RunJournal {
  const held = journal.stats().recorded
  let met = 0
  const failed = (answer: unknown): Recorded => ({
    status: 'rejected',
    reason: Object.assign(new Error(JSON.stringify(answer)), { code })
  })
  function broken(error: unknown): never {
    const { code: errno, syscall, message } = error as NodeJS.ErrnoException
    const why = typeof syscall === 'string' ? `cannot be written or read (${errno}): see that there is room` : message
    throw new Exit(3, `${journal.path} ${why}`, error)
  }
  return {
    path: journal.path,
    id: journal.id,
    unmet: () => held - met,
    begin() {
      met = 0
      return journal.begin()
    },
    enter(item) {
      const entry = journal.enter(item)
      if (entry.recorded) met++
      return entry
    },
    record(entry, outcome) {
      return journal
        .record(entry, outcome.status === 'rejected' || isSuccess(outcome.value as Answer) ? outcome : failed(outcome.value))
        .catch(broken)
    },
    async replay(entry) {
      const outcome = await Promise.resolve(journal.replay(entry)).catch(broken)
      if (outcome.status === 'fulfilled') return outcome
      const reason = outcome.reason as { code?: unknown; message: string }
      return reason.code === code ? { status: 'fulfilled', value: JSON.parse(reason.message) as Answer } : outcome
    },
    stats: () => journal.stats(),
    close: () => journal.close(),
    [Symbol.asyncDispose]: () => journal.close()
  }
}
