import { hash, randomUUID } from 'node:crypto'
import { link, open, readFile, unlink } from 'node:fs/promises'
import { hostname } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { isJsonObject, isMillraceError, MillraceError, parseJson } from '@millrace/core'

/**
 * Takes `path` as a lock, or that of a process that is gone. Returns what gives it back.
 *
 * @throws {MillraceError} `unavailable` while another process, or this one, has it; `invalid-request` where the file is no lock
 */
export async function lockFile(path: string): Promise<() => Promise<void>> {
  const own = JSON.stringify({ pid: process.pid, born: await bornAt(process.pid), host: hostname(), token: randomUUID() })
  for (;;) {
    if (await create(path, own)) return () => giveBack(path, own)
    const other = await readText(path)
    if (other === undefined) continue
    const holder = await living(path, other)
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

/** Who holds the lock, in words; `undefined` where that process is gone, or a crash of the system has emptied the file. */
async function living(path: string, text: string): Promise<string | undefined> {
  const lock = parseJson(text)
  if (!isJsonObject(lock) || typeof lock.pid !== 'number' || typeof lock.token !== 'string') {
    if (/^\0*$/.test(text)) return undefined
    throw new MillraceError(
      'invalid-request',
      `${path} is no lock of a journal: move it away, or give the journal another path`,
      {
        details: { path: 'path' }
      }
    )
  }
  if (lock.host !== hostname()) return `process ${lock.pid} on ${typeof lock.host === 'string' ? lock.host : 'another machine'}`
  try {
    process.kill(lock.pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return undefined
  }
  // Numbers of processes are used again, in containers at once: the same number, born at another time, is another process.
  const stat = await statOf(lock.pid)
  // Killed, and not yet waited for by its parent: it has closed all its files.
  if (stat !== undefined && /^[ZX]/.test(stat[0] ?? '')) return undefined
  const born = stat?.[19] ?? null
  return born !== null && lock.born !== born ? undefined : `process ${lock.pid}`
}

/** When a process was started, as Linux tells it; null elsewhere. */
async function bornAt(pid: number): Promise<string | null> {
  return (await statOf(pid))?.[19] ?? null
}

/** What Linux tells of a process behind its name, which may hold anything: its state first, its time of birth as the 20th. */
async function statOf(pid: number): Promise<string[] | undefined> {
  const stat = await readText(`/proc/${pid}/stat`)
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ')
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
