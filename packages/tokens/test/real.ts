import { existsSync, readFileSync } from 'node:fs'

/** Recorded data beside the checkout; tests that need it are skipped, with one line, where it is absent. */
export const folder: URL = new URL('../../../../shared/real/suites/tokens/', import.meta.url)
export const present: boolean = existsSync(folder)
if (!present) console.warn(`skipped: no recorded token counts at ${folder.pathname}`)

export function lines<T>(name: string): T[] {
  if (!present) return []
  return readFileSync(new URL(name, folder), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as T)
}
