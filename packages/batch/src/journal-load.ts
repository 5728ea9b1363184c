import { type FileHandle, open, readlink, realpath, rename, rm } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { isJsonObject, type Json, MillraceError } from '@millrace/core'
import type { JournalIndex } from './journal-index.ts'
import { fieldsOf, headOf, isSound, sealLine } from './journal-line.ts'
import { lockFile } from './journal-lock.ts'
import { differing, digestOptions } from './journal-options.ts'

const version = 1
const lineBreak = 0x0a
const chunkBytes = 1_048_576

export interface LoadedJournal {
  readonly file: FileHandle
  readonly id: string
  readonly bytes: number
  readonly tornBytes: number
  readonly unlock: () => Promise<void>
}

export interface LoadOptions {
  /** What must be the same as in the header. */
  readonly same: Json
  /** The id of the journal, if it is made now. */
  readonly id: string
  readonly retryRejected: boolean
  /** Whether what is in the file is thrown away. */
  readonly fresh: boolean
}

/** Locks the file, makes it where there is none, and puts the place of every outcome into `index`. */
export async function loadJournal(path: string, index: JournalIndex, options: LoadOptions): Promise<LoadedJournal> {
  // Under one name whatever links lead to it: the lock stands beside that.
  const real = await realPath(path)
  const unlock = await lockFile(`${real}.lock`)
  let file: FileHandle | undefined
  try {
    file = await openFile(path, real)
    const size = file === undefined ? 0 : (await file.stat()).size
    if (file === undefined || size === 0 || options.fresh) {
      await file?.close()
      file = undefined
      const made = await makeFile(real, options)
      return { ...made, id: options.id, tornBytes: 0, unlock }
    }
    const { id, end } = await readLines(path, file, index, options)
    if (end < size) await file.truncate(end)
    return { file, id, bytes: end, tornBytes: size - end, unlock }
  } catch (error) {
    await file?.close()
    await unlock()
    throw error
  }
}

/** The file's own name; that of one which is yet to be made, where its folder is. */
async function realPath(path: string): Promise<string> {
  try {
    return await realpath(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ELOOP') throw wrongPath(path, 'is a link that leads to itself')
    if (!isMissing(error)) throw error
  }
  let target: string | undefined
  try {
    target = await readlink(path) // of a link to a file that is not there yet
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (!isMissing(error) && code !== 'EINVAL' && code !== 'UNKNOWN') throw error
  }
  const folder = dirname(resolve(path))
  try {
    // A link counts from the folder it stands in, under that one's own name.
    if (target !== undefined) return await realPath(resolve(await realpath(folder), target))
    return join(await realpath(folder), basename(path))
  } catch (error) {
    if (!isMissing(error)) throw error
    throw new MillraceError('invalid-request', `the folder ${folder} of the journal does not exist: make it first`, {
      details: { path: 'path' },
      cause: error
    })
  }
}

async function openFile(path: string, real: string): Promise<FileHandle | undefined> {
  let file: FileHandle
  try {
    file = await open(real, 'r+')
  } catch (error) {
    if (isMissing(error)) return undefined
    if ((error as NodeJS.ErrnoException).code === 'EISDIR') throw wrongPath(path, 'is a folder')
    throw error
  }
  const stat = await file.stat()
  if (!stat.isFile() || stat.nlink > 1) {
    await file.close()
    const problem = stat.isFile() ? 'has another name (a hard link), under which it would not be locked' : 'is not a file'
    throw wrongPath(path, problem)
  }
  if ((stat.mode & 0o077) !== 0 && stat.uid === process.getuid?.()) await file.chmod(0o600)
  return file
}

/** Makes the file beside its place and moves it there whole: there is never one with half a header. */
async function makeFile(real: string, { id, same }: LoadOptions): Promise<{ file: FileHandle; bytes: number }> {
  const draft = `${real}.lock.new`
  // Of a run that was killed; or a link, which is not followed.
  await rm(draft, { force: true })
  const file = await open(draft, 'wx+', 0o600)
  try {
    const header = { millrace: 'journal', version, id, options: digestOptions(same, id) }
    const { bytesWritten } = await file.write(sealLine(JSON.stringify(header).slice(1)))
    await file.sync()
    await rename(draft, real)
    await syncFolder(dirname(real))
    return { file, bytes: bytesWritten }
  } catch (error) {
    await file.close()
    await rm(draft, { force: true })
    throw error
  }
}

/** A new file is there after a power cut only when its folder was written too. */
async function syncFolder(path: string): Promise<void> {
  if (process.platform === 'win32') return // has no handles of folders
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

function isMissing(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException
  return code === 'ENOENT' || code === 'ENOTDIR'
}

/** Returns where the last whole line ends, and the journal's id. */
async function readLines(
  path: string,
  file: FileHandle,
  index: JournalIndex,
  options: LoadOptions
): Promise<{ id: string; end: number }> {
  let id: string | undefined
  let number = 0
  let end = 0
  /** A line that is not sound, unless it turns out to be the last one. */
  let bad: number | undefined

  function readLine(line: Buffer): void {
    number++
    if (bad !== undefined) throw damaged(path, bad)
    if (number === 1) id = readHeader(path, line, options)
    else if (!isSound(line)) bad = number
    else if (!putOutcome(index, line, end, options.retryRejected)) throw damaged(path, number)
    if (bad === undefined) end += line.length + 1
  }

  const chunk = Buffer.allocUnsafe(chunkBytes)
  let position = 0
  let begun: Buffer[] = [] // parts of a line that goes on
  for (;;) {
    const { bytesRead } = await file.read(chunk, 0, chunk.length, position)
    if (bytesRead === 0) break
    position += bytesRead
    const data = chunk.subarray(0, bytesRead)
    let from = 0
    for (let at = data.indexOf(lineBreak); at >= 0; at = data.indexOf(lineBreak, from)) {
      const part = data.subarray(from, at)
      readLine(begun.length === 0 ? part : Buffer.concat([...begun, part]))
      begun = []
      from = at + 1
    }
    if (from < data.length) begun.push(Buffer.from(data.subarray(from)))
  }
  if (id === undefined) throw noJournal(path)
  return { id, end }
}

function readHeader(path: string, line: Buffer, { same }: LoadOptions): string {
  const header = isSound(line) ? fieldsOf(line) : undefined
  if (header?.millrace !== 'journal' || typeof header.id !== 'string' || !isJsonObject(header.options)) throw noJournal(path)
  if (header.version !== version) {
    throw new MillraceError(
      'protocol',
      `${path} is a journal of version ${JSON.stringify(header.version)}; this package reads version ${version}`,
      {
        details: { reason: 'unexpected' }
      }
    )
  }
  const names = differing(header.options, digestOptions(same, header.id))
  if (names.length === 0) return header.id
  const which = names.map((name) => name || 'all of them').join(', ')
  throw new MillraceError(
    'invalid-request',
    `${path} was written with other options (${which}): give the same ones, or another file`,
    {
      details: { path: 'options' }
    }
  )
}

function putOutcome(index: JournalIndex, line: Buffer, offset: number, retryRejected: boolean): boolean {
  const head = headOf(line)
  if (head === undefined) return false
  const digest = Buffer.from(line.toString('latin1', head.digestAt, head.digestAt + 22), 'base64url')
  if (digest.length !== 16) return false
  const entry = index.entry(digest, head.nth)
  const use = head.status === 'rejected' && retryRejected ? 'run again' : 'replay'
  index.put(entry, offset, line.length, head.status, use)
  return true
}

function wrongPath(path: string, problem: string): MillraceError {
  return new MillraceError('invalid-request', `${path} ${problem}: give another path`, { details: { path: 'path' } })
}

function noJournal(path: string): MillraceError {
  return new MillraceError('protocol', `${path} is not a journal of a batch: it is left as it is`, {
    details: { reason: 'malformed' }
  })
}

function damaged(path: string, line: number): MillraceError {
  return new MillraceError('protocol', `line ${line} of ${path} is damaged: remove that line, and its item runs again`, {
    details: { reason: 'malformed' }
  })
}
