import { open, readlink, realpath, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { Exit } from './exit.ts'

/** What is at a path: a `file` must not be lost by accident, a `device` or a pipe keeps nothing. */
export type Kind = 'file' | 'folder' | 'device' | undefined

/** @throws {Exit} 2 when it cannot be looked at */
export async function kindOf(path: string): Promise<Kind> {
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw new Exit(2, `${path} cannot be written (${error.code}): see that its folder is there and may be used`, error)
  })
  if (found === undefined) return undefined
  return found.isFile() ? 'file' : found.isDirectory() ? 'folder' : 'device'
}

/**
 * Sees that no two of the files are one by another spelling, a link or a hard link: one would be written over by the other.
 * Devices may be named twice. `files` is by what each of them is for.
 *
 * @throws {Exit} 2 for two that are one, and for one whose folder is not there
 */
export async function checkDistinct(files: Readonly<Record<string, string | undefined>>): Promise<void> {
  const seen = new Map<string, string>()
  for (const [use, path] of Object.entries(files)) {
    const key = path === undefined ? undefined : await identityOf(path)
    if (path === undefined || key === undefined) continue
    const other = seen.get(key)
    if (other !== undefined) throw new Exit(2, `${other} and ${use} are one file, ${path}: give them two`)
    seen.set(key, use)
  }
}

async function identityOf(path: string, links = 0): Promise<string | undefined> {
  const kind = await kindOf(path)
  if (kind === 'device') return undefined
  if (kind !== undefined) {
    const { dev, ino } = await stat(path, { bigint: true })
    return `${dev}:${ino}`
  }
  // What is not there yet will be made where its link points to, or in its folder.
  const target = links < 40 ? await readlink(path).catch(() => undefined) : undefined
  if (target !== undefined) return identityOf(resolve(await folderOf(path), target), links + 1)
  return join(await folderOf(path), basename(path))
}

function folderOf(path: string): Promise<string> {
  return realpath(dirname(resolve(path))).catch((error: NodeJS.ErrnoException) => {
    throw new Exit(2, `${path} cannot be written (${error.code}): its folder is not there`, error)
  })
}

/** Whether a file is empty or begins as a file of results does, a torn one too: then a run may write it anew. */
export async function looksLikeResults(path: string): Promise<boolean> {
  await using file = await open(path)
  const { buffer, bytesRead } = await file.read(Buffer.alloc(16), 0, 16, 0)
  const start = buffer.toString('latin1', 0, bytesRead)
  return ['{"id":"batch_req_', '{"custom_id":'].some((known) => known.startsWith(start) || start.startsWith(known))
}
