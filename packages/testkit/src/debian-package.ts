import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { buildOnce, checkoutCache } from './build-once.ts'

const run = promisify(execFile)

/** A program that runs on this machine, with the environment it needs. */
export interface Program {
  readonly path: string
  readonly env: NodeJS.ProcessEnv
}

export interface WantedProgram {
  /** As it is called on the PATH and in `usr/bin`. */
  readonly name: string
  /** The environment's variable that names its path. */
  readonly variable: string
  /** Debian's packages that have it. */
  readonly packages: readonly string[]
  /** The folder in the cache. */
  readonly folder: string
  /** How to get one, for the error's text. */
  readonly cure: string
  /** What it is called with to see whether it runs. @default ['--version'] */
  readonly trial?: readonly string[]
}

/**
 * Finds a program: named by its variable, on the PATH, or, on Debian and Ubuntu, unpacked once without root into `cache`
 * from the distribution's packages, with the libraries it links.
 *
 * @throws {Error} that says why there is none and how to get one
 */
export async function findProgram(wanted: WantedProgram, cache: string): Promise<Program> {
  const { name, variable, folder, cure, trial } = wanted
  const named = process.env[variable]
  if (named !== undefined && named !== '') {
    if (await works({ path: named, env: process.env }, trial)) return { path: named, env: process.env }
    throw new Error(`${variable} is ${named}, which does not run; ${cure}`)
  }
  const installed = { path: name, env: process.env }
  if (await works(installed, trial)) return installed
  if (!existsSync('/usr/bin/apt-get')) throw new Error(`there is no ${name}; ${cure}`)
  return programIn(await buildOnce(cache, folder, (building) => unpack(building, wanted)), name)
}

/**
 * The same for a test: where there is none, one visible line says why the tests that need it are skipped, under CI too.
 *
 * @example
 * const { program, skip } = await requireProgram({ name: 'caddy', variable: 'CADDY', packages: ['caddy'], folder: 'caddy', cure: 'install caddy' })
 * test.skipIf(program === undefined)('takes our configuration', () => {})
 */
export function requireProgram(
  wanted: WantedProgram
): Promise<{ readonly program: Program; readonly skip?: undefined } | { readonly program?: undefined; readonly skip: string }> {
  return findProgram(wanted, checkoutCache()).then(
    (program) => ({ program }),
    (error: unknown) => skipped(wanted.name, error)
  )
}

/**
 * A file of one of Debian's packages that is wanted for itself, such as a schema, unpacked once and not installed. Where it
 * cannot be had, one visible line says why the tests that need it are skipped, under CI too.
 *
 * @example
 * const { path, skip } = await requirePackagedFile('tzdata', 'usr/share/zoneinfo/Europe/Berlin')
 */
export async function requirePackagedFile(
  packageName: string,
  file: string,
  cache: string = checkoutCache()
): Promise<{ readonly path: string; readonly skip?: undefined } | { readonly path?: undefined; readonly skip: string }> {
  try {
    if (!existsSync('/usr/bin/apt-get')) throw new Error('there is no apt-get')
    const folder = await buildOnce(cache, packageName, async (building) => {
      const apt = await openApt(building)
      await apt.fetch([packageName])
      await apt.close()
    })
    const path = join(folder, file)
    if (!existsSync(path)) throw new Error(`${packageName} has no ${file}`)
    return { path }
  } catch (error) {
    return skipped(`${file} of Debian's package ${packageName}`, firstLine(error))
  }
}

function skipped(what: string, error: unknown): { readonly skip: string } {
  const skip = `tests that need ${what} are skipped: ${error instanceof Error ? error.message : String(error)}`
  console.warn(skip)
  return { skip }
}

async function works({ path, env }: Program, trial: readonly string[] = ['--version']): Promise<boolean> {
  return run(path, trial, { env, timeout: 10_000 }).then(
    () => true,
    () => false // not there, not executable, or a library of it is missing: the next way is tried
  )
}

function programIn(folder: string, name: string): Program {
  const libraries = ['usr/lib', 'lib'].flatMap((place) => [
    join(folder, place, `${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`),
    join(folder, place)
  ])
  return { path: join(folder, 'usr/bin', name), env: { ...process.env, LD_LIBRARY_PATH: libraries.join(':') } }
}

async function unpack(folder: string, wanted: WantedProgram): Promise<void> {
  try {
    await unpackPackages(folder, wanted)
  } catch (error) {
    throw new Error(`${wanted.name} could not be unpacked (${firstLine(error)}); ${wanted.cure}`, { cause: error })
  }
}

async function unpackPackages(folder: string, { name, packages, trial = ['--version'] }: WantedProgram): Promise<void> {
  const apt = await openApt(folder)
  await apt.fetch(packages)
  // A library may need another one: a few rounds until nothing is missing.
  for (let round = 0; round < 5; round++) {
    const { path, env } = programIn(folder, name)
    const { stdout } = await run('ldd', [path], { env })
    const missing = [...stdout.matchAll(/^\s*(\S+) => not found/gm)].map((match) => match[1] as string)
    if (missing.length === 0) {
      await apt.close()
      // It must run, not only link.
      await run(path, trial, { env })
      return
    }
    for (const library of new Set(missing)) await apt.fetchLibrary(library)
  }
  throw new Error(`libraries of ${name} are still missing`)
}

/** `apt-get download` as any user, first with the machine's package lists, then with lists of its own. */
async function openApt(folder: string): Promise<{
  fetch(packages: readonly string[]): Promise<void>
  fetchLibrary(library: string): Promise<void>
  close(): Promise<void>
}> {
  const limits = ['-o', 'APT::Sandbox::User=root', '-o', 'Acquire::Retries=1', '-o', 'Acquire::http::Timeout=15']
  const state = join(folder, 'apt')
  const own = [
    ...limits,
    '-o',
    `Dir::State=${state}`,
    '-o',
    `Dir::Cache=${state}`,
    '-o',
    'Dir::State::status=/var/lib/dpkg/status'
  ]
  let options = limits
  const downloads = join(folder, 'downloads')
  await mkdir(downloads, { recursive: true })

  const download = (packages: readonly string[]): Promise<unknown> =>
    run('apt-get', [...options, 'download', ...packages], { cwd: downloads, timeout: 60_000 })

  async function extract(): Promise<void> {
    for (const file of await readdir(downloads)) {
      await run('dpkg', ['-x', join(downloads, file), folder])
      await rm(join(downloads, file))
    }
  }

  return {
    async fetch(packages) {
      try {
        await download(packages)
      } catch {
        // The machine has no package lists, or old ones that name packages that are gone.
        options = own
        await mkdir(join(state, 'lists/partial'), { recursive: true })
        await mkdir(join(state, 'archives/partial'), { recursive: true })
        await run('apt-get', [...options, 'update'], { timeout: 120_000 })
        await download(packages)
      }
      await extract()
    },
    async fetchLibrary(library) {
      // Debian names a library's package by its soname: liblzf.so.1 is in liblzf1, liblua5.1.so.0 in liblua5.1-0.
      const [name = '', version = ''] = library.split('.so.')
      const packageName = `${name}${/\d$/.test(name) ? '-' : ''}${version}`
      // Since 2024 some carry the mark of the 64-bit time transition.
      await download([packageName]).catch(() => download([`${packageName}t64`]))
      await extract()
    },
    async close() {
      for (const path of [state, downloads]) await rm(path, { recursive: true, force: true })
    }
  }
}

function firstLine(error: unknown): string {
  const { stderr, message } = error as { stderr?: string; message: string }
  const lines = `${stderr ?? ''}\n${message}`.split('\n').map((line) => line.trim())
  return lines.find((line) => line.startsWith('E:')) ?? lines.find((line) => line !== '') ?? 'unknown error'
}
