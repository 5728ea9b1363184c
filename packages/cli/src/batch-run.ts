import { createReadStream } from 'node:fs'
import { rm } from 'node:fs/promises'
import { batch } from '@millrace/batch'
import { createLimiter } from '@millrace/limits'
import { createTransport } from '@millrace/transport'
import type { BatchArguments } from './batch-arguments.ts'
import { readItems } from './batch-check.ts'
import type { BrokenLine, FormatName, Item } from './batch-line.ts'
import { answerLine, failureLine, failureOf, isSuccess } from './batch-result.ts'
import { type BatchWork, createBatchWork, maxPauses, type WorkCounts } from './batch-work.ts'
import type { Endpoint } from './endpoint.ts'
import { Exit, type ExitCode } from './exit.ts'
import type { Host } from './host.ts'
import { printable } from './printable.ts'
import { duration, startProgress } from './progress.ts'
import { openResultFile } from './result-file.ts'
import { openRunJournal, type RunJournal } from './run-journal.ts'
import { onSignals } from './signals.ts'

export interface BatchRun {
  readonly host: Host
  readonly asked: BatchArguments
  readonly format: FormatName
  readonly endpoint: Endpoint
  /** Path of the journal; `undefined` where none is kept. */
  readonly journal: string | undefined
  readonly total: number | undefined
}

/**
 * Sends the items and writes their results.
 *
 * @throws {Exit} 3, 130 or 143 when it stops before the end, with what to do about it
 */
export async function runBatch(run: BatchRun): Promise<ExitCode> {
  const { host, asked, total, journal: path } = run
  await using journal = path === undefined ? undefined : await openRunJournal(path, run)
  const counts: BatchCounts = { total, succeeded: 0, failed: 0, replayed: 0 }
  if (journal !== undefined) await checkInputOf(run, journal)
  try {
    await sendAll(run, journal, counts)
  } catch (error) {
    throw error instanceof Exit ? howToGoOn(error, run, counts) : error
  }
  await journal?.close()
  const unmet = journal?.unmet() ?? 0
  if (path !== undefined && counts.failed === 0 && unmet === 0) await rm(path)
  else if (path !== undefined && asked.progress !== 'none') {
    const retry = counts.failed === 0 ? [] : ['--resume --retry-failed runs the failed items again']
    const others = unmet === 0 ? [] : [`it holds ${unmet} answers to items that ${asked.input} does not have`]
    host.stderr.write(printable(`the journal is kept, ${path}: ${[...retry, ...others].join('; ')}\n`))
  }
  return counts.failed === 0 ? 0 : 1
}

/** Before the output is written anew: a journal of which nothing is asked would leave it empty. */
async function checkInputOf({ asked, format }: BatchRun, journal: RunJournal): Promise<void> {
  const { recorded } = journal.stats()
  if (recorded === 0) return
  const end = journal.begin()
  try {
    for await (const item of readItems(createReadStream(asked.input), format)) if (journal.enter(item).recorded) return
  } finally {
    end()
  }
  throw new Exit(
    3,
    `${journal.path} holds ${recorded} answers, and none of them is to an item of ${asked.input}: give the input they came from, another --out, or --force, which throws them away`
  )
}

interface BatchCounts {
  readonly total: number | undefined
  succeeded: number
  failed: number
  replayed: number
}

async function sendAll(run: BatchRun, journal: RunJournal | undefined, counts: BatchCounts): Promise<void> {
  const { host, asked, format, endpoint } = run
  const { concurrency, timeoutMs, graceMs, maxAttempts, requestsPerMinute, tokensPerMinute } = asked
  const out = await openResultFile(asked.out)
  const errors = asked.errors === undefined ? out : await openResultFile(asked.errors)
  await using limiter = createLimiter({
    limits: [{ requestsPerMinute, tokensPerMinute }],
    maxQueue: concurrency,
    queueMs: Number.POSITIVE_INFINITY
  })
  await using transport = createTransport({
    limits: limiter.send,
    maxConnections: concurrency,
    maxResponseBytes: 64 * 1024 * 1024,
    // A server that restarts breaks all connections at once; each of them may be tried again.
    retry: { maxAttempts, budgetReserve: 10 + 2 * concurrency }
  })
  const work = createBatchWork({ send: transport.send, endpoint, timeoutMs, graceMs })
  const startedAt = performance.now()
  const progress = startProgress(host.stderr, asked.progress, () => ({ ...counts, ...work.counts, paused: work.paused }))
  const off = onSignals(
    (code, name) => {
      progress.say(
        `${name}: waiting up to ${duration(graceMs)} for ${work.counts.running} running requests; once more ends at once`
      )
      work.stop(new Exit(code, `stopped by ${name}`))
    },
    (code, name) => progress.say(`millrace: ${howToGoOn(new Exit(code, `ended by ${name}`), run, counts).message}`)
  )
  const names = new Map<number, string | undefined>()
  try {
    const outcomes = batch(pull(run, work, names), work.run, {
      concurrency,
      order: asked.order,
      signal: work.signal,
      pause: work.pause,
      maxPauses,
      // In completion order an answer frees its place once it is on the disk: a crash can lose no more than runs at a time.
      maxBuffered: asked.order === 'completion' ? concurrency : 10 * concurrency,
      journal
    })
    for await (const outcome of outcomes) {
      const customId = names.get(outcome.index)
      names.delete(outcome.index)
      // The batch has stopped: it is for the next run.
      if (outcome.status === 'rejected' && outcome.reason instanceof Exit) continue
      const succeeded = outcome.status === 'fulfilled' && isSuccess(outcome.value)
      counts[succeeded ? 'succeeded' : 'failed']++
      if (outcome.replayed === true) counts.replayed++
      const line =
        outcome.status === 'fulfilled'
          ? answerLine(customId, outcome.value, format)
          : failureLine(customId, failureOf(outcome.reason), format)
      await (succeeded ? out : errors).write(line)
    }
    const isWhole = counts.succeeded + counts.failed === counts.total
    if (work.stopped !== undefined && !isWhole) throw work.stopped
    // What was checked and what was read are not the same file.
    if (counts.total !== undefined && !isWhole) throw new Exit(3, `${asked.input} has changed since it was checked`)
  } finally {
    off()
    work.close()
    progress.close()
    if (asked.input === '-') host.stdin.destroy()
    await out.close()
    if (errors !== out) await errors.close()
    await transport.close({ graceMs: 0 })
  }
  if (asked.progress === 'text') host.stderr.write(`${summary(counts, work.counts, performance.now() - startedAt)}\n`)
}

function summary(
  { succeeded, failed, replayed }: BatchCounts,
  { inputTokens, outputTokens }: WorkCounts,
  elapsedMs: number
): string {
  const before = replayed > 0 ? `, ${replayed} of them in an earlier run` : ''
  return `${succeeded} succeeded, ${failed} failed${before}; ${duration(elapsedMs)}, ${inputTokens} tokens in, ${outputTokens} out`
}

/** Why the run ended, and how it goes on. */
function howToGoOn(exit: Exit, { journal }: BatchRun, { succeeded, failed, total }: BatchCounts): Exit {
  const done = `${succeeded + failed}${total === undefined ? '' : ` of ${total}`} items are done`
  const cure = journal === undefined ? 'there is no journal: a new run begins anew' : 'the same command with --resume goes on'
  return new Exit(exit.code, `${exit.message}; ${done}, ${cure}`, exit.cause)
}

/** The items, until the batch is told to stop. Their names are kept while they run. */
async function* pull(
  { host, asked, format }: BatchRun,
  work: BatchWork,
  names: Map<number, string | undefined>
): AsyncGenerator<Item | BrokenLine, undefined> {
  const bytes = asked.input === '-' ? host.stdin : createReadStream(asked.input)
  let index = 0
  for await (const item of readItems(bytes, format)) {
    if (work.stopped !== undefined) return
    names.set(index++, item.customId)
    yield item
  }
}
