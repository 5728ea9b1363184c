import { argumentsOf } from './arguments.ts'
import type { FormatName } from './batch-line.ts'

/** What `millrace batch` was asked to do. */
export interface BatchArguments {
  /** `-` is stdin. */
  readonly input: string
  readonly out: string
  readonly errors: string | undefined
  readonly concurrency: number
  readonly resume: boolean
  readonly retryFailed: boolean
  readonly force: boolean
  readonly format: FormatName | undefined
  readonly order: 'completion' | 'input'
  readonly baseURL: string | undefined
  readonly allowInsecure: boolean
  readonly apiKeyEnv: string | undefined
  readonly headers: Readonly<Record<string, string>>
  readonly requestsPerMinute: number | undefined
  readonly tokensPerMinute: number | undefined
  readonly timeoutMs: number
  readonly graceMs: number
  readonly maxAttempts: number
  readonly progress: 'text' | 'json' | 'none'
  readonly dryRun: boolean
}

const { parse, wrong, count, seconds } = argumentsOf('batch')

const options = {
  out: { type: 'string' },
  errors: { type: 'string' },
  concurrency: { type: 'string', default: '16' },
  resume: { type: 'boolean' },
  'retry-failed': { type: 'boolean' },
  force: { type: 'boolean' },
  format: { type: 'string' },
  order: { type: 'string', default: 'completion' },
  'base-url': { type: 'string' },
  'allow-insecure': { type: 'boolean' },
  'api-key-env': { type: 'string' },
  header: { type: 'string', multiple: true },
  rpm: { type: 'string' },
  tpm: { type: 'string' },
  timeout: { type: 'string', default: '600' },
  grace: { type: 'string', default: '30' },
  'max-attempts': { type: 'string', default: '3' },
  quiet: { type: 'boolean' },
  'json-progress': { type: 'boolean' },
  'dry-run': { type: 'boolean' }
} as const

/** @throws {Exit} 2, with one line that says what to write */
export function readBatchArguments(args: readonly string[]): BatchArguments {
  const { values, positionals } = parse(args, options)
  const [input, ...more] = positionals
  if (input === undefined) throw wrong('which file? millrace batch in.jsonl --out out.jsonl (or - for stdin)')
  if (more.length > 0) throw wrong(`one input file at a time: ${JSON.stringify(more[0])} is one too many`)
  const {
    out,
    errors,
    format,
    order,
    resume = false,
    'retry-failed': retryFailed = false,
    force = false,
    quiet,
    'dry-run': dryRun = false
  } = values
  if (out === undefined && !dryRun) throw wrong('where to? give --out out.jsonl')
  for (const [name, path] of Object.entries({ out, errors })) if (path === '') throw wrong(`--${name} needs a file`)
  if (errors !== undefined && errors === out) throw wrong('--errors and --out must be two files')
  if (input === out || input === errors) throw wrong('the input file cannot be written over: give another --out')
  if (resume && force) throw wrong('--resume goes on, --force begins anew: give one of them')
  if (retryFailed && !resume) throw wrong('--retry-failed runs the failed items of an earlier run again: add --resume')
  if (resume && input === '-') throw wrong('stdin cannot be read twice: --resume needs a file')
  if (format !== undefined && format !== 'openai' && format !== 'anthropic') throw wrong('--format must be openai or anthropic')
  if (order !== 'completion' && order !== 'input') throw wrong('--order must be completion or input')
  return {
    input,
    out: out ?? '',
    errors,
    concurrency: count('concurrency', values.concurrency, 10_000),
    resume,
    retryFailed,
    force,
    format,
    order,
    baseURL: values['base-url'],
    allowInsecure: values['allow-insecure'] ?? false,
    apiKeyEnv: values['api-key-env'],
    headers: readHeaders(values.header ?? []),
    requestsPerMinute: values.rpm === undefined ? undefined : count('rpm', values.rpm),
    tokensPerMinute: values.tpm === undefined ? undefined : count('tpm', values.tpm),
    timeoutMs: seconds('timeout', values.timeout, 0.001),
    graceMs: seconds('grace', values.grace, 0),
    maxAttempts: count('max-attempts', values['max-attempts']),
    progress: quiet === true ? 'none' : values['json-progress'] === true ? 'json' : 'text',
    dryRun
  }
}

/** The value of a header may be a secret, so no error quotes it. */
function readHeaders(given: readonly string[]): Record<string, string> {
  const headers: Record<string, string> = {}
  for (const text of given) {
    const [, name = '', value = ''] = /^([^:]*):\s*(.*?)\s*$/s.exec(text) ?? []
    if (!/^[\w!#$%&'*+.^`|~-]+$/.test(name) || /[^\t\x20-\x7e\x80-\xff]/.test(value))
      throw wrong("--header must be 'name: value'")
    const lower = name.toLowerCase()
    if (owned.has(lower)) throw wrong(`--header ${lower} belongs to the connection and cannot be set`)
    if (secret.test(lower)) {
      throw wrong(
        `--header ${lower} would show a key to everyone who lists processes: put it into the environment and give --api-key-env, which sends it as the provider's own header`
      )
    }
    headers[lower] = value
  }
  return headers
}

const owned: ReadonlySet<string> = new Set([
  'host',
  'content-length',
  'content-type',
  'transfer-encoding',
  'connection',
  'idempotency-key'
])
/** Names under which keys travel, such as `x-api-key` and `ocp-apim-subscription-key`. */
const secret = /(?:^|-)(?:authorization|auth|api-?key|key|token|secret|password|cookie|credentials?)$/
