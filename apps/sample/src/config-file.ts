import { z } from 'zod'
import type { Config } from './config.ts'
import { jsonMistake } from './json-mistake.ts'
import { nearest } from './nearest-word.ts'

/** A provider as the file has it: its key stands in a variable. */
export interface ProviderEntry {
  readonly name: string
  readonly api: 'openai' | 'anthropic'
  readonly baseURL?: string | undefined
  readonly apiKeyEnv?: string | undefined
  readonly model?: string | Record<string, string> | undefined
  readonly weight?: number | undefined
  readonly allowInsecure: boolean
}

/** A tenant as the file has it. */
export interface TenantEntry {
  readonly name: string
  readonly tokenEnv?: string | undefined
  readonly tokenEnvs?: readonly string[] | undefined
}

type Settled =
  | 'host'
  | 'port'
  | 'limits'
  | 'budgets'
  | 'prices'
  | 'processes'
  | 'origins'
  | 'hosts'
  | 'imageURLs'
  | 'maxBodyBytes'
  | 'maxMessages'
  | 'maxRequests'
  | 'maxRequestsPerClient'
  | 'streamMs'
  | 'stallMs'
  | 'graceMs'

/** What `gateway.json` says, with the defaults of what it does not say. */
export interface ConfigFile extends Pick<Config, Settled> {
  readonly $schema?: string | undefined
  readonly providers: readonly ProviderEntry[]
  readonly fallback?: Config['fallback']
  readonly model?: string | undefined
  readonly tenants: readonly TenantEntry[]
  readonly cache: NonNullable<Config['cache']>
  readonly contextWindow?: number | undefined
  readonly faults?: boolean | undefined
}

const dayMs = 86_400_000
const mib = 1024 * 1024

const name = text('a name of at most 64 letters, digits and . _ -', /^[\w.-]{1,64}$/)
const variable = text(
  'the name of an environment variable in capitals, such as OPENAI_API_KEY, never the secret itself',
  /^[A-Z][A-Z0-9_]{0,99}$/
)
const by = anyOf('"provider", "model" or "tenant", or a list of them', [
  z.enum(['provider', 'model', 'tenant']),
  z.array(z.enum(['provider', 'model', 'tenant']))
])
const only = object({ provider: name.optional(), model: z.string(must('a model')).optional(), tenant: name.optional() })

const provider = object({
  name: name.describe('What limits, statistics and metrics call it.'),
  api: z.enum(['openai', 'anthropic'], must('"openai" (also any server that speaks its API) or "anthropic"')),
  baseURL: z
    .string(must('an address that ends before the endpoint, such as https://api.openai.com/v1'))
    .optional()
    .describe('Ends before the endpoint. Default: https://api.openai.com/v1, or https://api.anthropic.com.'),
  apiKeyEnv: variable.optional().describe('The variable that holds its key. Default: OPENAI_API_KEY, or ANTHROPIC_API_KEY.'),
  model: anyOf('the model as this provider calls it, or an object such as { "gpt-4.1-mini": "its-own-name" }', [
    z.string().min(1),
    // Without abort the line would name the key.
    z.record(z.string(), z.string().min(1, { abort: true }))
  ])
    .optional()
    .describe('What it calls the model, where that is not what the request says: one name, or one for each.'),
  weight: positive().optional().describe('Its part of the calls where fallback.balance is "weighted". Default: 1.'),
  allowInsecure: flag().default(false).describe('Allows plain http to another machine, and addresses of a private network.')
})

const tenant = object({
  name: name.describe('What its limits, budgets and cache are kept by.'),
  tokenEnv: variable.optional().describe('The variable that holds its token, of at least 16 characters.'),
  tokenEnvs: z
    .array(variable, must('a list of names of variables'))
    .min(1, must('a list of at least one name of a variable'))
    .optional()
    .describe('Several, of which any will do: for the time in which one takes the place of another.')
})

const limit = object({
  by: by.optional().describe('Each combination of these has the limit for itself. Default: provider and model.'),
  only: only.optional().describe('Holds only for calls of this provider, model or tenant.'),
  concurrency: whole(1, 1_000_000).optional().describe('Calls at a time.'),
  requestsPerMinute: positive().optional(),
  tokensPerMinute: positive().optional().describe('Input and output together.'),
  windowMs: positive().optional().describe('How much may come at once: what the rate allows in so long. Default: 60000.'),
  adaptive: flag().optional().describe('Whether headers and refusals of the provider lower it.')
})

const budget = object({
  by: by.optional().describe('Each combination of these has the budget for itself. Default: tenant.'),
  only: only.optional().describe('Holds only for calls of this provider, model or tenant.'),
  usd: positive().optional(),
  tokens: positive().optional(),
  per: anyOf('"hour", "day" or a number of milliseconds', [z.enum(['hour', 'day']), z.number().positive()])
    .optional()
    .describe('Hours and days are those of UTC. Default: day.')
})

const price = object({
  inputPerMillion: z.number(must('USD for a million tokens')).min(0),
  outputPerMillion: z.number(must('USD for a million tokens')).min(0)
})

const cache = object({
  ttlMs: whole(0, dayMs).default(300_000).describe('How long an answer is fresh; 0 turns the cache off.'),
  staleWhileRevalidateMs: whole(0, dayMs).default(0).describe('How long after that it is still given while it is refreshed.'),
  staleIfErrorMs: whole(0, 7 * dayMs)
    .default(3_600_000)
    .describe('How long after that it is given where the provider fails.'),
  maxBytes: whole(mib, 2 ** 40)
    .default(64 * mib)
    .describe('Memory for answers.'),
  maxEntryBytes: whole(1024, 2 ** 30)
    .default(mib)
    .describe('Larger answers are not kept.')
})

/** The file, as `gateway.schema.json` describes it for editors. */
export const configFileSchema: z.ZodType<ConfigFile> = object({
  $schema: z.string(must('the address of the schema')).optional(),
  host: z.string(must('an address of this machine, such as 127.0.0.1')).min(1).default('127.0.0.1').describe('Where it listens.'),
  port: whole(0, 65_535).default(8787).describe('0 takes any that is free.'),
  providers: z
    .array(provider, must('a list of providers'))
    .max(32, 'must be a list of at most 32 providers')
    .default([])
    .describe(
      'In the order in which they are asked. Default: those of OPENAI_API_KEY and ANTHROPIC_API_KEY, or the embedded one.'
    ),
  fallback: object({
    balance: z.enum(['ordered', 'weighted'], must('"ordered" or "weighted"')).optional(),
    coolDownMs: whole(0, 600_000).optional().describe('How long a provider that failed is passed over. Default: 5000.'),
    patienceMs: whole(0, 600_000).optional().describe('The longest wait for one while another is left. Default: 1000.')
  })
    .optional()
    .describe('How one of several providers is chosen.'),
  model: z.string(must('a model')).min(1).optional().describe('The model of the page, the demo and millrace doctor.'),
  tenants: z
    .array(tenant, must('a list of tenants'))
    .max(10_000, 'must be a list of at most 10000 tenants')
    .default([])
    .describe('Who may call beside the operator, whose token is MILLRACE_TOKEN.'),
  limits: z.array(limit, must('a list of limits, such as [{ "requestsPerMinute": 500 }]')).max(1000).default([]),
  budgets: z.array(budget, must('a list of budgets, such as [{ "usd": 5, "per": "day" }]')).max(1000).default([]),
  prices: z
    .record(
      z.string().min(1),
      price,
      must('prices by model, such as { "llama-*": { "inputPerMillion": 0.1, "outputPerMillion": 0.4 } }')
    )
    .default({})
    .describe(
      'In USD for a million tokens, by model or pattern: for models the table of prices does not know. A budget in USD needs one.'
    ),
  processes: whole(1, 10_000).default(1).describe('How many gateways share one Redis.'),
  cache: cache.prefault({}),
  contextWindow: whole(256, 100_000_000)
    .optional()
    .describe('Tokens the model can hold: longer conversations lose their oldest turns. Default: sent as they are.'),
  origins: z
    .array(z.string(must('an origin, such as https://app.example.com')), must('a list of origins'))
    .default([])
    .describe('Pages of other origins that may call.'),
  hosts: z
    .array(z.string(must('a name')), must('a list of names'))
    .default([])
    .describe('Further names by which a gateway on a loopback address is called.'),
  imageURLs: z
    .enum(['public', 'data', 'any'], must('"public", "data" or "any"'))
    .default('public')
    .describe('The addresses of images and files a request may name: on the public internet, none but data: URLs, or any.'),
  maxBodyBytes: whole(1024, 2 ** 30).default(mib),
  maxMessages: whole(1, 1_000_000).default(500),
  maxRequests: whole(1, 1_000_000).default(1000).describe('Requests under way at a time.'),
  maxRequestsPerClient: whole(1, 1_000_000).default(200).describe('Of one tenant, or of one remote address without tenants.'),
  streamMs: whole(1000, dayMs).default(900_000).describe('The longest a stream may take.'),
  stallMs: whole(100, dayMs).default(60_000).describe('A client that takes nothing for so long is cut off.'),
  graceMs: whole(0, 3_600_000).default(10_000).describe('How long running answers may take after SIGTERM.'),
  faults: flag().optional().describe('Whether faults may be injected; only with the embedded provider, where it is the default.')
})

/**
 * What the file says, and every mistake in it as a line of its own, which names the place and what to write there; with
 * mistakes, `file` has the defaults only. No line repeats a value: it may be a secret in the wrong place.
 *
 * @example
 * const { file, mistakes } = readConfigFile(readFileSync('gateway.json', 'utf8'), 'gateway.json')
 */
export function readConfigFile(
  content: string,
  fileName: string
): { readonly file: ConfigFile; readonly mistakes: readonly string[] } {
  const json = content.replace(/^\ufeff/, '')
  const syntax = jsonMistake(json)
  if (syntax !== undefined) return { file: configFileSchema.parse({}), mistakes: [`${fileName}:${syntax}`] }
  const result = configFileSchema.safeParse(JSON.parse(json))
  if (result.success) return { file: result.data, mistakes: [] }
  const lines = result.error.issues.flatMap(({ path, message }) =>
    message.split('\n').map((line) => `${fileName}: ${[placeOf(path), line].filter((part) => part !== '').join(' ')}`)
  )
  return { file: configFileSchema.parse({}), mistakes: [...new Set(lines)] }
}

function placeOf(path: readonly PropertyKey[]): string {
  return path
    .map((key) => (typeof key === 'number' ? `[${key}]` : `.${String(key)}`))
    .join('')
    .replace(/^\./, '')
}

function object<Shape extends z.ZodRawShape>(shape: Shape): z.ZodObject<Shape, z.core.$strict> {
  return z.strictObject(shape, {
    error: (issue) =>
      issue.code === 'unrecognized_keys'
        ? issue.keys.map((key) => unknownKey(key, Object.keys(shape), issue.input)).join('\n')
        : 'must be an object, in {}'
  })
}

/** Keys under which people would write secrets, and what to write instead. */
const secrets: Readonly<Record<string, string>> = {
  apiKey: 'put the key into a variable, and its name here: "apiKeyEnv": "OPENAI_API_KEY"',
  token: 'put it into a variable: MILLRACE_TOKEN is the operator\'s, of a tenant name it here as "tokenEnv": "TEAM_A_TOKEN"',
  tokens: 'put them into variables, and name those here: "tokenEnvs": ["TEAM_A_TOKEN"]',
  operatorToken: 'put it into the variable MILLRACE_TOKEN',
  redisURL: 'put it into the variable REDIS_URL'
}

function unknownKey(key: string, known: readonly string[], input: unknown): string {
  const cure = Object.hasOwn(secrets, key) ? secrets[key] : undefined
  if (cure !== undefined) return `has ${key}, a secret, which must not stand in a file that is copied and committed: ${cure}`
  const near = nearest(key, known)
  if (near !== undefined) return `has no key ${JSON.stringify(key)}: did you mean ${near}?`
  // Whoever mistakes the place of a secret may have made it a key.
  return `does not know its key number ${Object.keys(input as object).indexOf(key) + 1}: it has ${known.join(', ')}`
}

function must(be: string): { readonly error: (issue: { readonly input?: unknown }) => string } {
  return { error: ({ input }) => (input === undefined ? `is missing: it must be ${be}` : `must be ${be}`) }
}

function text(be: string, pattern: RegExp): z.ZodString {
  return z.string(must(be)).regex(pattern, must(be))
}

function whole(low: number, high: number): z.ZodInt {
  const bounds = must(`a whole number from ${low} to ${high}`)
  return z.int(bounds).min(low, bounds).max(high, bounds)
}

function positive(): z.ZodNumber {
  const bounds = must('a number above 0')
  return z.number(bounds).positive(bounds)
}

function flag(): z.ZodBoolean {
  return z.boolean(must('true or false'))
}

function anyOf<const Options extends readonly z.ZodType[]>(be: string, options: Options): z.ZodUnion<Options> {
  return z.union(options, must(be))
}
