import { existsSync } from 'node:fs'

const folder = new URL('../../../../shared/real/suites/', import.meta.url)

/** Where a folder of recorded suites is, or nothing with one visible line; tests that need it are skipped then. */
export function suite(name: string): URL | undefined {
  const url = new URL(`${name}/`, folder)
  if (existsSync(url)) return url
  console.warn(`skipped: the ${name} suite is not at ../shared/real/suites/${name}`)
  return undefined
}
