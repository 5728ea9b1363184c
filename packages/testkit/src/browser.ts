import { execFile } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import type { Browser } from 'playwright-core'
import { buildOnce, checkoutCache } from './build-once.ts'
import { skipUnlessCI } from './skip.ts'

const cure = 'set CHROMIUM_PATH to a Chromium or Chrome'

/** A real headless Chromium, or the line that says why there is none. */
export type StartedBrowser =
  | { readonly browser: Browser; close(): Promise<void>; readonly skip?: undefined }
  | { readonly browser?: undefined; readonly skip: string }

/**
 * Starts a headless Chromium: the one `CHROMIUM_PATH` names, or, on Linux x64, the one of the npm package
 * `@sparticuz/chromium`, which brings its own libraries.
 *
 * @throws {Error} under CI (`CI` set in the environment), where a missing browser is a failure
 *
 * @example
 * const started = await startBrowser()
 * test.skipIf(started.skip !== undefined)('shows the page', () => {})
 */
export async function startBrowser(): Promise<StartedBrowser> {
  try {
    const { path, env } = await findBrowser()
    // Loaded here, for most tests need no browser.
    const { chromium } = await import('playwright-core')
    // Root may not use the sandbox, and containers often cannot; the pages are our own.
    const args = ['--no-sandbox', '--disable-background-networking', '--disable-gpu']
    const browser = await chromium.launch({ executablePath: path, headless: true, args, env, timeout: 30_000 })
    return { browser, close: () => browser.close() }
  } catch (error) {
    return skipUnlessCI('a browser', error)
  }
}

async function findBrowser(): Promise<{ path: string; env: Record<string, string> }> {
  const environment = Object.fromEntries(Object.entries(process.env).filter((entry) => entry[1] !== undefined)) as Record<
    string,
    string
  >
  const named = process.env.CHROMIUM_PATH
  if (named !== undefined && named !== '') return { path: named, env: environment }
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new Error(`there is no Chromium for ${process.platform} ${process.arch}; ${cure}`)
  }
  const folder = await buildOnce(checkoutCache(), 'chromium', unpack)
  const libraries = [join(folder, 'al2023/lib'), process.env.LD_LIBRARY_PATH].filter((path) => path !== undefined).join(':')
  return {
    path: join(folder, 'chromium'),
    env: { ...environment, LD_LIBRARY_PATH: libraries, FONTCONFIG_PATH: join(folder, 'fonts') }
  }
}

/** The package unpacks itself into the temporary folder and changes the environment: so it does that in a process of its own. */
async function unpack(folder: string): Promise<void> {
  const entry = pathToFileURL(createRequire(import.meta.url).resolve('@sparticuz/chromium'))
  const program = `const { default: chromium } = await import(process.argv[1]); await chromium.executablePath()`
  // The runtime's name makes it unpack its own libraries.
  const env = { ...process.env, TMPDIR: folder, AWS_LAMBDA_JS_RUNTIME: 'nodejs22.x' }
  await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', program, entry.href], { env, timeout: 120_000 })
  // Its font configuration names the temporary folder it would otherwise be in.
  const fonts = join(folder, 'fonts/fonts.conf')
  const text = await readFile(fonts, 'utf8')
  await writeFile(
    fonts,
    text.replace('<dir>/tmp/fonts</dir>', '<dir prefix="relative">.</dir>').replace('/tmp/fonts-cache/', '~/.cache/fontconfig')
  )
}
