import type { FallbackOptions } from '@millrace/adapter'
import type { BudgetOptions, LimitOptions } from '@millrace/limits'

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
