import { createReadStream } from 'node:fs'
import { rm } from 'node:fs/promises'
import { type BatchArguments, readBatchArguments } from './batch-arguments.ts'
import { checkFile, type FileCheck } from './batch-check.ts'
import { readEndpoint } from './endpoint.ts'
import { Exit, type ExitCode } from './exit.ts'
import { kindOf } from './result-file.ts'

/**
 * `millrace batch`: everything that can be wrong is found before anything is sent.
 *
 * @throws {Exit} with one line for the user
 */
export async function batchCommand(args: readonly string[]): Promise<ExitCode> {
  const asked = readBatchArguments(args)
  const check = asked.dryRun || asked.input !== '-' ? await checkInput(asked) : undefined
  if (asked.dryRun) {
    process.stderr.write(`${asked.input}: ${check?.items} requests in the ${check?.format} format, nothing wrong, nothing sent\n`)
    return 0
  }
  const format = check?.format ?? asked.format ?? 'openai'
  const endpoint = readEndpoint(asked, format, process.env)
  const device = (await kindOf(asked.out)) === 'device'
  if (device && asked.resume) throw new Exit(2, `${asked.out} is no file: --resume needs one`)
  const journal = device || asked.input === '-' ? undefined : `${asked.out}.journal`
  await checkOutput(asked, journal)
  // Loaded now, so that help, a dry run and mistakes do not wait for the network's libraries.
  const { runBatch } = await import('./batch-run.ts')
  return runBatch({ asked, format, endpoint, journal, total: check?.items })
}

async function checkInput({ input, format }: BatchArguments): Promise<FileCheck> {
  const check = await checkFile(input === '-' ? process.stdin : createReadStream(input), format).catch(
    (error: NodeJS.ErrnoException) => {
      throw new Exit(
        2,
        `${input} cannot be read (${error.code ?? error.name}): see that the file is there and may be read`,
        error
      )
    }
  )
  if (check.broken > 0) {
    for (const { line, problem } of check.problems) process.stderr.write(`${input}:${line} ${problem}\n`)
    throw new Exit(
      2,
      `${check.broken} of ${check.items + check.broken} lines are broken${check.broken > 10 ? ', the first 10 above' : ''}: mend them; nothing was sent`
    )
  }
  if (check.items === 0) throw new Exit(2, `${input} is empty: it needs a request in each line`)
  return check
}

/** What an earlier run left is neither written over nor paid for again by accident. */
async function checkOutput({ out, errors, resume, force }: BatchArguments, journal: string | undefined): Promise<void> {
  const kept = journal !== undefined && (await kindOf(journal)) === 'file'
  if (force) return kept ? rm(journal) : undefined
  if (kept && resume) return
  if (kept) throw new Exit(2, `${journal} is of a run that did not finish: --resume goes on with it, --force begins anew`)
  for (const path of errors === undefined ? [out] : [out, errors]) {
    if ((await kindOf(path)) !== 'file') continue
    if (resume)
      throw new Exit(
        2,
        `there is nothing to resume: ${path} is there but not ${journal}, so that run is complete; --force begins anew`
      )
    throw new Exit(2, `${path} is there already: --force writes over it`)
  }
}
