import { type FileHandle, open } from 'node:fs/promises'
import { dirname } from 'node:path'
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
}

/** Locks the file, makes it where there is none, and puts the place of every outcome into `index`. */
export async function loadJournal(path: string, index: JournalIndex, options: LoadOptions): Promise<LoadedJournal> {
  const unlock = await lockFile(`${path}.lock`)
  let file: FileHandle | undefined
  try {
    file = await openFile(path)
    const { size } = await file.stat()
    const { id, end } = await readLines(path, file, index, options)
    if (id !== undefined) {
      if (end < size) await file.truncate(end)
      return { file, id, bytes: end, tornBytes: size - end, unlock }
    }
    await file.truncate(0)
    const bytes = await writeHeader(path, file, options)
    return { file, id: options.id, bytes, tornBytes: size, unlock }
  } catch (error) {
    await file?.close()
    await unlock()
    throw error
  }
}

async function openFile(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r+')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    return open(path, 'wx+', 0o600)
  }
}

async function writeHeader(path: string, file: FileHandle, { id, same }: LoadOptions): Promise<number> {
  const header = { millrace: 'journal', version, id, options: digestOptions(same, id) }
  const data = Buffer.from(sealLine(JSON.stringify(header).slice(1)))
  await file.write(data, 0, data.length, 0)
  await file.sync()
  if (process.platform === 'win32') return data.length // has no handles of folders
  // A new file is there after a power cut only when its folder was written too.
  const folder = await open(dirname(path), 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
  return data.length
}

/** Returns where the last whole line ends, and the journal's id; none where not even the header is whole. */
async function readLines(
  path: string,
  file: FileHandle,
  index: JournalIndex,
  options: LoadOptions
): Promise<{ id: string | undefined; end: number }> {
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
  let rest: Buffer = Buffer.alloc(0)
  for (;;) {
    const { bytesRead } = await file.read(chunk, 0, chunk.length, position)
    if (bytesRead === 0) break
    position += bytesRead
    const data = rest.length === 0 ? chunk.subarray(0, bytesRead) : Buffer.concat([rest, chunk.subarray(0, bytesRead)])
    let from = 0
    for (let at = data.indexOf(lineBreak); at >= 0; at = data.indexOf(lineBreak, from)) {
      readLine(data.subarray(from, at))
      from = at + 1
    }
    rest = Buffer.from(data.subarray(from))
  }
  // A crash while it was made leaves a part of the header; anything else without one is somebody's file.
  const start = '{"sum":"'
  if (number === 0 && !rest.toString('latin1', 0, start.length).startsWith(start.slice(0, rest.length))) throw noJournal(path)
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
