import { hash, randomUUID } from 'node:crypto'
import { link, open, readFile, unlink } from 'node:fs/promises'
import { hostname } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { isJsonObject, isMillraceError, MillraceError, parseJson } from '@millrace/core'

/**
 * Takes `path` as a lock, or that of a process that is gone. Returns what gives it back.
 *
 * @throws {MillraceError} `unavailable` while another process, or this one, has it
 */
export async function lockFile(path: string): Promise<() => Promise<void>> {
  const own = JSON.stringify({ pid: process.pid, born: await bornAt(process.pid), host: hostname(), token: randomUUID() })
  for (;;) {
    if (await create(path, own)) return () => giveBack(path, own)
    const other = await readText(path)
    if (other === undefined) continue
    const holder = await living(other)
    if (holder !== undefined) {
      throw new MillraceError('unavailable', `${holder} has this journal open; if that is gone, remove ${path}`, { details: {} })
    }
    await removeDead(path, other)
  }
}

/**
 * Removes the lock of a dead process; whoever then creates the file has it. Only the holder of the claim on just that lock
 * may remove it, and looks once more: a lock that was taken meanwhile is never touched.
 */
async function removeDead(path: string, dead: string): Promise<void> {
  let release: () => Promise<void>
  try {
    release = await lockFile(`${path}.${hash('sha256', dead).slice(0, 16)}`)
  } catch (error) {
    if (!isMillraceError(error, 'unavailable')) throw error
    await sleep(5) // another one is at it
    return
  }
  try {
    if ((await readText(path)) === dead) await unlink(path)
  } finally {
    await release()
  }
}

async function create(path: string, text: string): Promise<boolean> {
  // Linked into place whole: nobody reads a lock that is half written.
  const draft = `${path}.${randomUUID()}`
  const file = await open(draft, 'wx', 0o600)
  try {
    await file.writeFile(text)
  } finally {
    await file.close()
  }
  try {
    await link(draft, path)
    return true
  } catch (error) {
    ignoreExisting(error)
    return false
  } finally {
    await unlink(draft)
  }
}

async function giveBack(path: string, own: string): Promise<void> {
  if ((await readText(path)) === own) await unlink(path)
}

/** Who holds the lock, in words; `undefined` where that process is gone, or the file is nobody's. */
async function living(text: string): Promise<string | undefined> {
  const lock = parseJson(text)
  if (!isJsonObject(lock) || typeof lock.pid !== 'number') return undefined
  if (lock.host !== hostname()) return `process ${lock.pid} on ${typeof lock.host === 'string' ? lock.host : 'another machine'}`
  try {
    process.kill(lock.pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return undefined
  }
  // Numbers of processes are used again, in containers at once: the same number, born at another time, is another process.
  const born = await bornAt(lock.pid)
  return born !== null && lock.born !== born ? undefined : `process ${lock.pid}`
}

/** When a process was started, as Linux tells it; null elsewhere. */
async function bornAt(pid: number): Promise<string | null> {
  const stat = await readText(`/proc/${pid}/stat`)
  // The name, in brackets, may hold anything; the time is field 22, the 20th behind it.
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    if (isAbsent(error)) return undefined
    throw error
  }
}

function isAbsent(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException
  return code === 'ENOENT' || code === 'ESRCH'
}

function ignoreExisting(error: unknown): void {
  if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
}
