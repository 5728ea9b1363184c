import { kindOfHost } from './address-guard.ts'
import type { ProviderConfig, TenantConfig } from './config.ts'
import type { ConfigFile, ProviderEntry, TenantEntry } from './config-file.ts'

/** The environment, and where mistakes are written down. */
export interface Sources {
  /** A variable; undefined where it is not set or empty. */
  readonly variable: (name: string) => string | undefined
  readonly mistakes: string[]
  /** Of the file, for messages. */
  readonly fileName: string
}

const defaults = {
  openai: { baseURL: 'https://api.openai.com/v1', apiKeyEnv: 'OPENAI_API_KEY' },
  anthropic: { baseURL: 'https://api.anthropic.com', apiKeyEnv: 'ANTHROPIC_API_KEY' }
} as const

/** The providers of the file, with their keys; where it has none, those of the variables. */
export function readProviders(file: ConfigFile, sources: Sources): ProviderConfig[] {
  if (file.providers.length === 0) {
    return (['openai', 'anthropic'] as const).flatMap((api) => providerOfVariables(api, sources) ?? [])
  }
  const { mistakes, fileName } = sources
  const names = new Set<string>()
  return file.providers.map((entry, index) => {
    const at = `${fileName}: providers[${index}]`
    if (names.has(entry.name)) mistakes.push(`${at}.name is another provider's too: give each a name of its own`)
    names.add(entry.name)
    return providerOfFile(entry, at, sources)
  })
}

function providerOfFile(entry: ProviderEntry, at: string, { variable, mistakes }: Sources): ProviderConfig {
  const { api, name, model, weight, allowInsecure, baseURL = defaults[api].baseURL, apiKeyEnv } = entry
  const wrong = baseURLMistake(baseURL, allowInsecure ? 'anything' : 'sayInFile')
  if (wrong !== undefined) mistakes.push(`${at}.baseURL ${wrong}`)
  const keyName = apiKeyEnv ?? defaults[api].apiKeyEnv
  const apiKey = variable(keyName)
  if (apiKey === undefined) {
    const key =
      apiKeyEnv === undefined
        ? `${at} has no apiKeyEnv, and ${keyName} is not set`
        : `${at}.apiKeyEnv names ${keyName}, which is not set`
    mistakes.push(`${key}: set it (any text will do for a server that asks for none)`)
  }
  checkKey(keyName, apiKey, mistakes)
  return { name, api, baseURL, apiKey: apiKey ?? '', model, weight, allowInsecure }
}

function providerOfVariables(api: 'openai' | 'anthropic', { variable, mistakes, fileName }: Sources): ProviderConfig | undefined {
  const keyName = defaults[api].apiKeyEnv
  const urlName = keyName.replace('API_KEY', 'BASE_URL')
  const given = variable(urlName)
  const apiKey = variable(keyName)
  if (given === undefined && apiKey === undefined) return undefined
  const baseURL = given ?? defaults[api].baseURL
  if (apiKey === undefined) {
    mistakes.push(`${urlName} is set, but ${keyName} is not: set it (any text will do for a server that asks for none)`)
  }
  const wrong = baseURLMistake(baseURL, 'sayInVariables')
  if (wrong !== undefined) mistakes.push(`${urlName} ${wrong.replace('$file', fileName)}`)
  checkKey(keyName, apiKey, mistakes)
  return { name: api, api, baseURL, apiKey: apiKey ?? '', model: undefined, weight: undefined, allowInsecure: false }
}

function checkKey(name: string, key: string | undefined, mistakes: string[]): void {
  if (key === undefined || !/[^\t\x20-\x7e\x80-\xff]/.test(key)) return
  mistakes.push(`${name} holds a line break or a control character: trim what you read it from`)
}

/** What is wrong with a base URL, without a word of it: it may hold a password. */
function baseURLMistake(baseURL: string, allowed: 'anything' | 'sayInFile' | 'sayInVariables'): string | undefined {
  const url = URL.parse(baseURL)
  if (url === null || !/^https?:$/.test(url.protocol)) {
    return 'must be an absolute http or https address, such as https://api.openai.com/v1'
  }
  if (url.username !== '' || url.password !== '') return 'must hold no user name or password: a key belongs into its variable'
  if (url.hash !== '') return 'must have no #: leave out what begins with it'
  if (/\/(?:chat\/completions|messages|responses)\/?$/.test(url.pathname)) {
    return 'must end before the endpoint: leave out /chat/completions, /messages or /responses'
  }
  const kind = kindOfHost(url.hostname)
  if (kind === 'metadata' || kind === 'link-local') {
    return 'leads to a link-local address or a metadata service, where no provider is: write the address of a provider'
  }
  if (kind === 'multicast' || kind === 'unspecified') return 'leads to no machine: write the address of a provider'
  if (kind === 'loopback' || allowed === 'anything') return undefined
  const cure = allowed === 'sayInFile' ? 'say "allowInsecure": true' : 'write the provider into $file with "allowInsecure": true'
  if (url.protocol === 'http:') {
    return `would send the key unencrypted: use https, or http only to this machine; if you trust the network, ${cure}`
  }
  if (kind === 'private' || kind === 'reserved') return `leads into a private network: if that is meant, ${cure}`
  return undefined
}

/** What is wrong with a token that lets its bearer in, without a word of it. */
export function tokenMistake(token: string): string | undefined {
  if (/^[\x21-\x7e]{16,}$/.test(token)) return undefined
  return 'must be at least 16 characters without spaces: make one with `openssl rand -hex 24`'
}

/** The tenants of the file with their tokens, each of which is one party's only. */
export function readTenants({ tenants }: ConfigFile, operatorToken: string | undefined, sources: Sources): TenantConfig[] {
  const owners = new Map<string, string>(operatorToken === undefined ? [] : [[operatorToken, 'the operator']])
  const names = new Set<string>()
  return tenants.map((entry, index) => {
    const at = `${sources.fileName}: tenants[${index}]`
    if (names.has(entry.name)) sources.mistakes.push(`${at}.name is another tenant's too: give each a name of its own`)
    names.add(entry.name)
    return { name: entry.name, tokens: tokensOf(entry, at, owners, sources) }
  })
}

function tokensOf(entry: TenantEntry, at: string, owners: Map<string, string>, { variable, mistakes }: Sources): string[] {
  const { name, tokenEnv, tokenEnvs } = entry
  if ((tokenEnv === undefined) === (tokenEnvs === undefined)) {
    mistakes.push(`${at} must have either tokenEnv or tokenEnvs: name the variable that holds its token`)
    return []
  }
  const places =
    tokenEnvs === undefined
      ? [[`${at}.tokenEnv`, tokenEnv as string] as const]
      : tokenEnvs.map((key, index) => [`${at}.tokenEnvs[${index}]`, key] as const)
  return places.flatMap(([place, key]) => {
    const token = variable(key)
    if (token === undefined) {
      mistakes.push(`${place} names ${key}, which is not set: set it to the token of ${name}`)
      return []
    }
    const wrong = tokenMistake(token)
    if (wrong !== undefined) mistakes.push(`${place} names ${key}, which ${wrong}`)
    const owner = owners.get(token)
    if (owner !== undefined) mistakes.push(`${place} names ${key}, which is the token of ${owner} too: give each one of its own`)
    owners.set(token, `tenant ${name}`)
    return [token]
  })
}

/** Rules for a tenant or a provider that is not there would hold nothing, and nobody would be told. */
export function checkRules(file: ConfigFile, providers: readonly ProviderConfig[], { mistakes, fileName }: Sources): void {
  const known = {
    tenant: new Set(file.tenants.map(({ name }) => name)),
    provider: new Set(providers.length === 0 ? ['embedded', 'embedded-messages'] : providers.map(({ name }) => name))
  }
  for (const list of ['limits', 'budgets'] as const) {
    for (const [index, { only = {} }] of file[list].entries()) {
      for (const part of ['tenant', 'provider'] as const) {
        const wanted = only[part]
        if (wanted === undefined || known[part].has(wanted)) continue
        const there = [...known[part]].slice(0, 10).join(', ') || 'none'
        mistakes.push(`${fileName}: ${list}[${index}].only.${part} is none of the ${part}s: there is ${there}`)
      }
    }
  }
}
