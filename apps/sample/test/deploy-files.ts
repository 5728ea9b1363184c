import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'

/** Where the files of the deployment lie. */
export const folder: string = fileURLToPath(new URL('../deploy/', import.meta.url))

export interface ComposeService {
  readonly image: string
  readonly build?: { readonly context: string; readonly dockerfile: string }
  readonly pull_policy?: string
  readonly profiles?: readonly string[]
  readonly env_file?: string
  readonly command?: readonly string[]
  readonly environment?: Readonly<Record<string, string | number | null>>
  readonly ports?: readonly string[]
  readonly volumes?: readonly string[]
  readonly networks: readonly string[]
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>
  readonly healthcheck?: { readonly test: readonly string[] }
  readonly stop_grace_period?: string
}

export interface Compose {
  readonly services: Readonly<Record<string, ComposeService>>
  readonly networks: Readonly<Record<string, unknown>>
  readonly volumes: Readonly<Record<string, unknown>>
}

export function text(name: string): Promise<string> {
  return readFile(`${folder}${name}`, 'utf8')
}

export async function yaml<T>(name: string): Promise<T> {
  return parse(await text(name), { merge: true }) as T
}

/** The variables of a file such as `.env`. */
export async function variablesOf(name: string): Promise<Record<string, string>> {
  return Object.fromEntries([...(await text(name)).matchAll(/^(\w+)=(.*)$/gm)].map(([, key = '', value = '']) => [key, value]))
}

/** As Compose fills variables in; a required one that is missing is an error. */
export function filled(value: string, variables: Readonly<Record<string, string>>): string {
  return value.replaceAll(/\$\{(\w+)(?::([-?])([^}]*))?\}/g, (_, name: string, kind?: string, rest = '') => {
    const set = variables[name]
    if (set !== undefined && set !== '') return set
    if (kind === '?') throw new Error(`${name}: ${rest}`)
    return kind === '-' ? rest : ''
  })
}
