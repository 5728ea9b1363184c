import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeEach, expect, test, vi } from 'vitest'
import { requirePackagedFile, requireProgram } from '../src/index.ts'

const cache = await mkdtemp(join(tmpdir(), 'millrace-packages-'))
afterAll(() => rm(cache, { recursive: true, force: true }))
// What a skip says is asked for here.
beforeEach(() => void vi.spyOn(console, 'warn').mockImplementation(() => {}))
afterEach(() => vi.restoreAllMocks())

test('a program that is there is found, by the arguments that it takes', async () => {
  const wanted = { name: 'node', variable: 'NO_SUCH_VARIABLE', packages: [], folder: 'none', cure: 'install it' }
  expect((await requireProgram(wanted)).program?.path).toBe('node')
  expect((await requireProgram({ ...wanted, trial: ['--eval', '0'] })).program?.path).toBe('node')
})

test('a program that does not run is a skip of one line with the cure', async () => {
  vi.stubEnv('SOME_PROGRAM', '/nowhere/program')
  const wanted = { name: 'program', variable: 'SOME_PROGRAM', packages: [], folder: 'none', cure: 'install it' }
  const { program, skip } = await requireProgram(wanted)
  expect(program).toBeUndefined()
  expect(skip).toBe('tests that need program are skipped: SOME_PROGRAM is /nowhere/program, which does not run; install it')
  expect(console.warn).toHaveBeenCalledExactlyOnceWith(skip)
  vi.unstubAllEnvs()
})

test('a file of a package is there, or a line says why not', async () => {
  const found = await requirePackagedFile('docker-compose', 'usr/share/doc/docker-compose/copyright', cache)
  if (found.path === undefined)
    expect(found.skip).toMatch(/^tests that need .* of Debian's package docker-compose are skipped: \S/)
  else expect(await readFile(found.path, 'utf8')).toContain('docker')
  const { skip } = await requirePackagedFile('docker-compose', 'no/such/file', cache)
  expect(skip).toMatch(found.path === undefined ? /are skipped/ : /docker-compose has no no\/such\/file$/)
})
