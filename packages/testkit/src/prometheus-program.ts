import { basename, dirname, join } from 'node:path'
import { checkoutCache } from './build-once.ts'
import { findProgram, type Program } from './debian-package.ts'

/**
 * Finds a `prometheus`: named by `PROMETHEUS`, on the PATH, or unpacked from Debian's package (19 MB, some 100 unpacked; the
 * libraries of its web pages are left out).
 *
 * @throws {Error} that says why there is none and how to get one
 */
export function findPrometheusProgram(cache: string = checkoutCache()): Promise<Program> {
  return findProgram(
    {
      name: 'prometheus',
      variable: 'PROMETHEUS',
      packages: ['prometheus'],
      folder: 'prometheus',
      cure: 'install one (Debian: apt-get install prometheus, macOS: brew install prometheus) or set PROMETHEUS to its path'
    },
    cache
  )
}

/** The `promtool` of the same package. */
export function promtoolBeside({ path, env }: Program): Program {
  return { path: basename(path) === path ? 'promtool' : join(dirname(path), 'promtool'), env }
}
