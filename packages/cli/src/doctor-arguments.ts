import { argumentsOf } from './arguments.ts'
import { isLoopback } from './endpoint.ts'
import type { Host } from './host.ts'

/** In the order they are run. */
export const checkNames = ['pooling', 'cache', 'tokens', 'streaming', 'memory', 'metrics'] as const

export type CheckName = (typeof checkNames)[number]

/** What `millrace doctor` was asked to do. */
export interface DoctorArguments {
  /** Where the gateway stands; ends without `/v1` and without a slash. */
  readonly address: string
  /** On this machine: nobody is asked before calls are sent. */
  readonly local: boolean
  readonly token: string | undefined
  readonly tokenEnv: string
  readonly model: string | undefined
  readonly only: readonly CheckName[]
  /** In the row by which pooling is judged. */
  readonly calls: number
  /** Of the talk by which token optimisation is judged. */
  readonly promptTokens: number
  /** Of each request. */
  readonly timeoutMs: number
  /** Of each check. */
  readonly budgetMs: number
  readonly yes: boolean
  readonly json: boolean
  readonly quiet: boolean
}

const options = {
  'token-env': { type: 'string', default: 'MILLRACE_TOKEN' },
  model: { type: 'string' },
  only: { type: 'string', default: checkNames.join() },
  calls: { type: 'string', default: '20' },
  'prompt-tokens': { type: 'string', default: '20000' },
  timeout: { type: 'string', default: '60' },
  budget: { type: 'string', default: '120' },
  yes: { type: 'boolean' },
  json: { type: 'boolean' },
  quiet: { type: 'boolean' },
  'allow-insecure': { type: 'boolean' }
} as const

/** A gateway takes a body of 1 MiB. */
const mostPromptTokens = 150_000

const { parse, wrong, count, seconds } = argumentsOf('doctor')

/** @throws {Exit} 2, with one line that says what to write; it never quotes the token */
export function readDoctorArguments(args: readonly string[], env: Host['env']): DoctorArguments {
  const { values, positionals } = parse(args, options)
  const [address, ...more] = positionals
  if (address === undefined) throw wrong('which gateway? millrace doctor http://127.0.0.1:8787')
  if (more.length > 0) throw wrong(`one gateway at a time: ${JSON.stringify(more[0])} is one too many`)
  const url = URL.parse(address)
  if (url === null || !/^https?:$/.test(url.protocol))
    throw wrong('the gateway must be an http or https address, such as http://127.0.0.1:8787')
  if (url.username !== '' || url.password !== '') throw wrong('the address must hold no user name or password')
  const local = isLoopback(url.hostname)
  const tokenEnv = values['token-env']
  const token = env[tokenEnv]?.trim() || undefined
  if (token !== undefined && /[^\x21-\x7e]/.test(token)) throw wrong(`${tokenEnv} holds a space or a control character`)
  if (url.protocol === 'http:' && !local && values['allow-insecure'] !== true)
    throw wrong('the token and all prompts would go unencrypted: use https, or --allow-insecure if you trust the network')
  if (values.model === '') throw wrong('--model needs a name')
  return {
    address: url.origin + url.pathname.replace(/\/+$/, '').replace(/\/v1$/, ''),
    local,
    token,
    tokenEnv,
    model: values.model,
    only: readNames(values.only),
    calls: count('calls', values.calls, 1000),
    promptTokens: count('prompt-tokens', values['prompt-tokens'], mostPromptTokens),
    timeoutMs: seconds('timeout', values.timeout, 0.001),
    budgetMs: seconds('budget', values.budget, 0.001),
    yes: values.yes ?? false,
    json: values.json ?? false,
    quiet: values.quiet ?? false
  }
}

function readNames(text: string): readonly CheckName[] {
  const names = text.split(',').map((name) => name.trim())
  const unknown = names.find((name) => !checkNames.some((known) => known === name))
  if (unknown !== undefined)
    throw wrong(`--only takes names of ${checkNames.join(', ')}, and commas between, not ${JSON.stringify(unknown)}`)
  return checkNames.filter((known) => names.includes(known))
}
