import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { buildOnce } from '../src/build-once.ts'

let cache: string
beforeEach(async () => {
  cache = await mkdtemp(join(tmpdir(), 'millrace-build-'))
})
afterEach(() => rm(cache, { recursive: true, force: true }))

it('builds once for all who come at the same time', async () => {
  let builds = 0
  const build = async (folder: string): Promise<void> => {
    builds++
    await delay(50)
    await writeFile(join(folder, 'file'), 'x')
  }
  const folders = await Promise.all([1, 2, 3].map(() => buildOnce(cache, 'thing', build)))
  expect(builds).toBe(1)
  for (const folder of folders) expect(existsSync(join(folder, 'file'))).toBe(true)
})

it('remembers a failure instead of trying again for every file, and leaves nothing half built', async () => {
  const fail = async (folder: string): Promise<void> => {
    await writeFile(join(folder, 'half'), 'x')
    throw new Error('no network')
  }
  await expect(buildOnce(cache, 'thing', fail)).rejects.toThrow('no network')
  await expect(buildOnce(cache, 'thing', () => Promise.resolve())).rejects.toThrow('no network')
  expect(existsSync(join(cache, 'thing'))).toBe(false)
})

it('takes over the lock of a process that was killed', async () => {
  const lock = join(cache, 'thing.lock')
  await mkdir(lock)
  const longAgo = new Date(Date.now() - 600_000)
  await utimes(lock, longAgo, longAgo)
  expect(await buildOnce(cache, 'thing', () => Promise.resolve())).toBe(join(cache, 'thing'))
})
