import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { type BatchArguments, readBatchArguments } from './batch-arguments.ts'
import { checkFile, type FileCheck } from './batch-check.ts'
import { readEndpoint } from './endpoint.ts'
import { Exit, type ExitCode } from './exit.ts'
import type { Host } from './host.ts'
import { checkDistinct, kindOf, looksLikeResults } from './paths.ts'
import { printable } from './printable.ts'

/**
 * `millrace batch`: everything that can be wrong is found before anything is sent.
 *
 * @throws {Exit} with one line for the user
 */
export async function batchCommand(args: readonly string[], host: Host): Promise<ExitCode> {
  const asked = readBatchArguments(args)
  const check = asked.dryRun || asked.input !== '-' ? await checkInput(asked, host) : undefined
  if (asked.dryRun) {
    host.stderr.write(`${asked.input}: ${check?.items} requests in the ${check?.format} format, nothing wrong, nothing sent\n`)
    return 0
  }
  const format = check?.format ?? asked.format ?? 'openai'
  const endpoint = readEndpoint(asked, format, host.env)
  const device = (await kindOf(asked.out)) === 'device'
  if (device && asked.resume) throw new Exit(2, `${asked.out} is no file: --resume needs one`)
  const journal = device || asked.input === '-' ? undefined : `${asked.out}.journal`
  await checkOutput(asked, journal)
  // Loaded now, so that help, a dry run and mistakes do not wait for the network's libraries.
  const { runBatch } = await import('./batch-run.ts')
  return runBatch({ host, asked, format, endpoint, journal, total: check?.items })
}

async function checkInput({ input, format }: BatchArguments, host: Host): Promise<FileCheck> {
  const unreadable = (error: NodeJS.ErrnoException): never => {
    throw new Exit(2, `${input} cannot be read (${error.code ?? error.name}): see that the file is there and may be read`, error)
  }
  if (input !== '-') {
    const found = await stat(input).catch(unreadable)
    if (found.isDirectory()) throw new Exit(2, `${input} is a folder: give a file`)
    if (!found.isFile()) throw new Exit(2, `${input} can be read only once, and is read twice: pipe it in as -`)
  }
  const check = await checkFile(input === '-' ? host.stdin : createReadStream(input), format).catch(unreadable)
  if (check.broken > 0) {
    for (const { line, problem } of check.problems) host.stderr.write(printable(`${input}:${line} ${problem}\n`))
    throw new Exit(
      2,
      `${check.broken} of ${check.items + check.broken} lines are broken${check.broken > 10 ? ', the first 10 above' : ''}: mend them; nothing was sent (millrace batch --help shows a right one)`
    )
  }
  if (check.items === 0) throw new Exit(2, `${input} is empty: it needs a request in each line`)
  return check
}

/** What an earlier run left is neither written over nor paid for again by accident. */
async function checkOutput(asked: BatchArguments, journal: string | undefined): Promise<void> {
  const { input, out, errors, resume, force } = asked
  await checkDistinct({
    'the input': input === '-' ? undefined : input,
    '--out': out,
    '--errors': errors,
    'the journal': journal,
    "the journal's lock": journal === undefined ? undefined : `${journal}.lock`
  })
  const results = errors === undefined ? [out] : [out, errors]
  for (const path of journal === undefined ? results : [...results, journal])
    if ((await kindOf(path)) === 'folder') throw new Exit(2, `${path} is a folder: give a file`)
  // Whether another process is at it is known once its journal is locked, and nothing is gone until then.
  if (force) return
  const kept = journal !== undefined && (await kindOf(journal)) === 'file'
  if (kept && resume) {
    if (errors === undefined || (await kindOf(errors)) !== 'file' || (await looksLikeResults(errors))) return
    throw new Exit(2, `${errors} is there already and no result file: give another --errors`)
  }
  if (kept)
    throw new Exit(
      2,
      `${journal} is there, of an earlier run: --resume goes on with it (with --retry-failed, its failed items too), --force begins anew`
    )
  for (const path of results) {
    if ((await kindOf(path)) !== 'file') continue
    if (resume)
      throw new Exit(
        2,
        `there is nothing to resume: ${path} is there but not ${journal}, so that run is complete; --force begins anew`
      )
    throw new Exit(2, `${path} is there already: --force writes over it`)
  }
}
