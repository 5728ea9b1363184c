import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import type { FallbackOptions } from '@millrace/adapter'
import { type BudgetOptions, createLimiter, type LimitOptions } from '@millrace/limits'
import { isLoopback } from './address-guard.ts'
import { type ConfigFile, readConfigFile } from './config-file.ts'
import { checkRules, readProviders, readTenants, type Sources, tokenMistake } from './config-parties.ts'
import type { PriceConfig } from './price.ts'

/** A provider behind the gateway. */
export interface ProviderConfig {
  /** What limits, notes and metrics call it; no two are called alike. */
  readonly name: string
  readonly api: 'openai' | 'anthropic'
  /** Ends before the endpoint, such as https://api.openai.com/v1 or https://api.anthropic.com (as its SDK has it). */
  readonly baseURL: string
  readonly apiKey: string
  /** What it calls the model, where that is not what the request says. */
  readonly model: string | Readonly<Record<string, string>> | undefined
  readonly weight: number | undefined
  /** Plain http to another machine, and addresses of a private network. */
  readonly allowInsecure: boolean
}

export interface TenantConfig {
  readonly name: string
  /** Any of them lets its bearer in. */
  readonly tokens: readonly string[]
}

/** Everything the gateway can be told, checked. */
export interface Config {
  readonly host: string
  readonly port: number
  /** Required, or tenants, when `host` is not a loopback address. */
  readonly operatorToken: string | undefined
  readonly tenants: readonly TenantConfig[]
  /** Empty: the embedded one. */
  readonly providers: readonly ProviderConfig[]
  readonly fallback: Pick<FallbackOptions, 'balance' | 'coolDownMs' | 'patienceMs'> | undefined
  /** The model used by the page, the demo and `millrace doctor`. */
  readonly model: string
  readonly limits: readonly LimitOptions[]
  readonly budgets: readonly BudgetOptions[]
  /** By model or pattern (`llama-*`): over the table of prices, and for models that are not in it. */
  readonly prices: Readonly<Record<string, PriceConfig>>
  /** How many replicas share one Redis: each takes its part of the limits while Redis is away. */
  readonly processes: number
  readonly cache:
    | {
        readonly ttlMs: number
        readonly staleWhileRevalidateMs: number
        readonly staleIfErrorMs: number
        readonly maxBytes: number
        readonly maxEntryBytes: number
      }
    | undefined
  /** Tokens the model can hold; longer conversations lose their oldest turns. `undefined`: sent as they are. */
  readonly contextWindow: number | undefined
  readonly redisURL: string | undefined
  /** Pages of other origins that may call, as `https://app.example.com`. */
  readonly origins: readonly string[]
  /** Further names the gateway is called by on a loopback address, as the header `host` has them. */
  readonly hosts: readonly string[]
  readonly imageURLs: 'public' | 'data' | 'any'
  readonly maxBodyBytes: number
  readonly maxMessages: number
  /** Requests under way at a time: in all, and of one client. */
  readonly maxRequests: number
  readonly maxRequestsPerClient: number
  /** The longest a stream may take. */
  readonly streamMs: number
  /** A client that takes nothing for so long is cut off. */
  readonly stallMs: number
  readonly graceMs: number
  /** Whether faults may be injected: only with the embedded provider. */
  readonly faults: boolean
}

/** What the embedded provider is called with; it asks for no key. */
export const embeddedKey = 'embedded'

/** What is wrong with the configuration: one line for each mistake, that names the key and the cure. */
export class ConfigError extends Error {}

type Environment = Readonly<Record<string, string | undefined>>

/**
 * The configuration: the variables, before the file that MILLRACE_CONFIG names or `gateway.json` in `folder`, before the
 * defaults. Providers are those of the file; where it has none, OPENAI_API_KEY and ANTHROPIC_API_KEY make one each. An empty
 * variable is one that is not set.
 *
 * @throws {ConfigError} with all mistakes, one a line
 *
 * @example
 * const config = readConfig({ OPENAI_API_KEY: 'sk-…', PORT: '0' })
 */
export function readConfig(env: Environment, folder: string = process.cwd()): Config {
  const mistakes: string[] = []
  const variable = (name: string): string | undefined => env[name] || undefined
  const whole = (name: string, low: number, high: number): number | undefined => {
    const text = variable(name)
    if (text === undefined) return undefined
    const value = Number(text)
    if (Number.isSafeInteger(value) && value >= low && value <= high && text.trim() !== '') return value
    mistakes.push(`${name} must be a whole number from ${low} to ${high}`)
    return undefined
  }
  const { fileName, content } = findFile(variable('MILLRACE_CONFIG'), folder)
  const read = readConfigFile(content, fileName)
  mistakes.push(...read.mistakes)
  // Of a file with mistakes nothing is known: then what follows is about the variables only.
  const { file } = read
  const isFileRead = read.mistakes.length === 0
  const sources: Sources = { variable, mistakes, fileName }

  const operatorToken = variable('MILLRACE_TOKEN')
  const tokenWrong = operatorToken === undefined ? undefined : tokenMistake(operatorToken)
  if (tokenWrong !== undefined) mistakes.push(`MILLRACE_TOKEN ${tokenWrong}`)
  const providers = isFileRead ? readProviders(file, sources) : []
  const { ttlMs, ...cache } = file.cache
  const freshMs = whole('MILLRACE_CACHE_TTL_MS', 0, 86_400_000) ?? ttlMs

  const config: Config = {
    host: (variable('HOST') ?? file.host).replace(/^\[|\]$/g, ''),
    port: whole('PORT', 0, 65_535) ?? file.port,
    operatorToken,
    tenants: readTenants(file, operatorToken, sources),
    providers,
    fallback: file.fallback,
    model: variable('OPENAI_MODEL') ?? file.model ?? modelOf(providers),
    limits: file.limits,
    budgets: file.budgets,
    prices: file.prices,
    processes: whole('MILLRACE_PROCESSES', 1, 10_000) ?? file.processes,
    cache: freshMs === 0 ? undefined : { ttlMs: freshMs, ...cache },
    contextWindow:
      whole('MILLRACE_CONTEXT_WINDOW', 256, 100_000_000) ?? file.contextWindow ?? (providers.length === 0 ? 8192 : undefined),
    redisURL: variable('REDIS_URL'),
    origins: listOf(variable('MILLRACE_ORIGINS')) ?? file.origins,
    hosts: (listOf(variable('MILLRACE_HOSTS')) ?? file.hosts).map((host) => host.toLowerCase()),
    imageURLs: file.imageURLs,
    maxBodyBytes: file.maxBodyBytes,
    maxMessages: file.maxMessages,
    maxRequests: file.maxRequests,
    maxRequestsPerClient: file.maxRequestsPerClient,
    streamMs: file.streamMs,
    stallMs: file.stallMs,
    graceMs: whole('MILLRACE_GRACE_MS', 0, 3_600_000) ?? file.graceMs,
    faults: readFaults(file, providers, sources)
  }
  if (isFileRead) {
    checkAccess(config, sources)
    checkLimits(file, providers, sources)
  }
  checkNames(config, sources)
  if (mistakes.length > 0) throw new ConfigError([...new Set(mistakes)].join('\n'))
  return config
}

/** The file and what it is called; no file is an empty one. */
function findFile(named: string | undefined, folder: string): { readonly fileName: string; readonly content: string } {
  const fileName = named ?? 'gateway.json'
  try {
    return { fileName, content: readFileSync(resolve(folder, fileName), 'utf8') }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' && named === undefined) return { fileName, content: '{}' }
    const cure = code === 'ENOENT' ? 'there is no such file' : `it cannot be read (${code})`
    throw new ConfigError(
      named === undefined
        ? `gateway.json: ${cure}: mend or remove it`
        : `MILLRACE_CONFIG=${named}: ${cure}: set it to the path of the configuration, or leave it out`
    )
  }
}

function listOf(text: string | undefined): string[] | undefined {
  return text?.split(/[\s,]+/).filter((part) => part !== '')
}

/** What the first provider calls its model, or what most have at its API. */
function modelOf([first]: readonly ProviderConfig[]): string {
  if (first === undefined) return 'scripted-large'
  const { model, api } = first
  const own = typeof model === 'object' ? Object.keys(model)[0] : model
  return own ?? (api === 'openai' ? 'gpt-4.1-mini' : 'claude-haiku-4-5')
}

function readFaults(file: ConfigFile, providers: readonly ProviderConfig[], { variable, mistakes, fileName }: Sources): boolean {
  const text = variable('MILLRACE_FAULTS')
  if (text !== undefined && text !== 'on' && text !== 'off') mistakes.push('MILLRACE_FAULTS must be on or off')
  const isEmbedded = providers.length === 0
  const wanted = text === undefined ? file.faults : text === 'on'
  if (wanted === true && !isEmbedded) {
    const place = text === undefined ? `${fileName}: faults` : 'MILLRACE_FAULTS'
    mistakes.push(`${place} can be on only with the embedded provider: leave it out, or the providers`)
  }
  return isEmbedded && (wanted ?? true)
}

function checkAccess({ host, operatorToken, tenants, redisURL }: Config, { mistakes }: Sources): void {
  if (!isLoopback(host) && operatorToken === undefined && tenants.length === 0) {
    mistakes.push(`HOST=${host} is open to others: set MILLRACE_TOKEN to a secret that callers must send, or leave HOST out`)
  }
  // Without a word of it: it may hold a password.
  const redis = redisURL === undefined ? undefined : URL.parse(redisURL)
  if (redis === null || (redis !== undefined && (!/^rediss?:$/.test(redis.protocol) || redis.hostname === ''))) {
    mistakes.push('REDIS_URL must be a Redis address, such as redis://127.0.0.1:6379 or rediss://user:password@host:6380/0')
  }
}

function checkLimits(file: ConfigFile, providers: readonly ProviderConfig[], sources: Sources): void {
  checkRules(file, providers, sources)
  try {
    // What only the limiter knows of its limits, such as two that are one. It opens nothing.
    createLimiter({ limits: file.limits, budgets: file.budgets })
  } catch (error) {
    if (!(error instanceof TypeError)) throw error
    sources.mistakes.push(`${sources.fileName}: ${error.message}`)
  }
}

function checkNames({ origins, hosts }: Config, { variable, mistakes, fileName }: Sources): void {
  const place = (name: string, key: string, index: number): string =>
    variable(name) === undefined ? `${fileName}: ${key}[${index}]` : `${name} (entry ${index + 1})`
  for (const [index, origin] of origins.entries()) {
    const at = place('MILLRACE_ORIGINS', 'origins', index)
    if (origin === '*') mistakes.push(`${at} would let every page spend your money: name the origins that may call`)
    else if (!/^https?:/.test(origin) || URL.parse(origin)?.origin !== origin) {
      mistakes.push(`${at} must be an origin as browsers send it, such as https://app.example.com, without a path`)
    }
  }
  for (const [index, host] of hosts.entries()) {
    const url = URL.parse(`http://${host}`)
    // The port 80 is left out by URL.
    if (url !== null && [url.host, `${url.host}:80`].includes(host) && !host.includes('*')) continue
    mistakes.push(`${place('MILLRACE_HOSTS', 'hosts', index)} must be a name as in the header host, such as gateway.test:8787`)
  }
}
