import { mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const lockStaleMs = 180_000
/** So that ten test files on a machine without network do not each wait for it. */
const failureKeptMs = 600_000

/** The checkout's folder for what tests unpack; git ignores it. */
export function checkoutCache(): string {
  return fileURLToPath(new URL('../../../.cache/', import.meta.url))
}

/**
 * Builds the folder `name` in `cache` unless it is there. Several test files may come at once: the first builds behind a
 * lock folder, the others wait for it. The folder appears whole or not at all.
 *
 * @throws {Error} what `build` threw; for ten minutes the same one again, without another try
 */
export async function buildOnce(cache: string, name: string, build: (folder: string) => Promise<void>): Promise<string> {
  const folder = join(cache, name)
  const lock = join(cache, `${name}.lock`)
  const failure = join(cache, `${name}.failed`)
  if ((await ageOf(folder)) !== undefined) return folder
  await mkdir(cache, { recursive: true })
  while (!(await takeLock(lock))) await delay(100)
  const building = join(cache, `${name}.building-${process.pid}`)
  try {
    if ((await ageOf(folder)) !== undefined) return folder
    if (((await ageOf(failure)) ?? failureKeptMs) < failureKeptMs) throw new Error(await readFile(failure, 'utf8'))
    await mkdir(building)
    try {
      await build(building)
    } catch (error) {
      await writeFile(failure, error instanceof Error ? error.message : String(error))
      throw error
    }
    await rename(building, folder)
    return folder
  } finally {
    await rm(building, { recursive: true, force: true })
    await rm(lock, { recursive: true, force: true })
  }
}

async function takeLock(lock: string): Promise<boolean> {
  try {
    await mkdir(lock)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    // So old, its owner was killed.
    if (((await ageOf(lock)) ?? 0) > lockStaleMs) await rm(lock, { recursive: true, force: true })
    return false
  }
}

/** Milliseconds since it was last changed; `undefined` when it is not there. */
async function ageOf(path: string): Promise<number | undefined> {
  return stat(path).then(
    ({ mtimeMs }) => Date.now() - mtimeMs,
    () => undefined
  )
}
