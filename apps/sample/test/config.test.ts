import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { type Config, ConfigError, readConfig } from '../src/config.ts'

const folder = mkdtempSync(join(tmpdir(), 'millrace-config-'))
const empty = join(folder, 'nothing-here')
afterAll(() => rmSync(folder, { recursive: true }))

type Environment = Readonly<Record<string, string>>
const read = (env: Environment): Config => readConfig(env, empty)

/** The mistakes of a file and an environment, without the file's name. */
function mistakes(env: Environment, file?: unknown): string[] {
  if (file !== undefined) writeFileSync(join(folder, 'gateway.json'), JSON.stringify(file))
  try {
    readConfig(env, file === undefined ? empty : folder)
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError)
    return (error as ConfigError).message.split('\n')
  }
  return []
}

describe('the variables', () => {
  it('need not be there: the embedded provider on this machine, with faults to inject', () => {
    expect(read({})).toMatchObject({
      host: '127.0.0.1',
      port: 8787,
      providers: [],
      model: 'scripted-large',
      contextWindow: 8192,
      processes: 1,
      graceMs: 10_000,
      cache: { ttlMs: 300_000, staleWhileRevalidateMs: 0, staleIfErrorMs: 3_600_000, maxBytes: 2 ** 26, maxEntryBytes: 2 ** 20 },
      faults: true
    })
  })

  it('make a provider of each key', () => {
    const config = read({ OPENAI_API_KEY: 'a', ANTHROPIC_API_KEY: 'b', ANTHROPIC_BASE_URL: 'http://127.0.0.1:1' })
    expect(config.providers).toMatchObject([
      { name: 'openai', api: 'openai', apiKey: 'a', baseURL: 'https://api.openai.com/v1' },
      { name: 'anthropic', api: 'anthropic', apiKey: 'b', baseURL: 'http://127.0.0.1:1' }
    ])
    expect(config).toMatchObject({ model: 'gpt-4.1-mini', contextWindow: undefined, faults: false })
    expect(read({ ANTHROPIC_API_KEY: 'b' }).model).toMatch(/^claude-/)
  })

  it('win over the file, and count as not set where they are empty', () => {
    writeFileSync(
      join(folder, 'gateway.json'),
      JSON.stringify({ port: 1, graceMs: 5, origins: ['https://a.example'], model: 'm' })
    )
    const env = { PORT: '2', MILLRACE_GRACE_MS: '', MILLRACE_ORIGINS: 'https://b.example, http://c.example:81', REDIS_URL: '' }
    expect(readConfig(env, folder)).toMatchObject({
      port: 2,
      graceMs: 5,
      model: 'm',
      origins: ['https://b.example', 'http://c.example:81'],
      redisURL: undefined
    })
  })

  it('turn the cache and the faults off', () => {
    expect(read({ MILLRACE_CACHE_TTL_MS: '0', MILLRACE_FAULTS: 'off' })).toMatchObject({ cache: undefined, faults: false })
  })

  it.each<[Environment, string]>([
    [{ PORT: '99999' }, 'PORT must be a whole number from 0 to 65535'],
    [{ PORT: ' ' }, 'PORT must be a whole number from 0 to 65535'],
    [{ MILLRACE_CACHE_TTL_MS: '1.5' }, 'MILLRACE_CACHE_TTL_MS must be a whole number from 0 to 86400000'],
    [
      { HOST: '0.0.0.0' },
      'HOST=0.0.0.0 is open to others: set MILLRACE_TOKEN to a secret that callers must send, or leave HOST out'
    ],
    [
      { MILLRACE_TOKEN: 'hunter2' },
      'MILLRACE_TOKEN must be at least 16 characters without spaces: make one with `openssl rand -hex 24`'
    ],
    [
      { OPENAI_BASE_URL: 'https://x.example/v1' },
      'OPENAI_BASE_URL is set, but OPENAI_API_KEY is not: set it (any text will do for a server that asks for none)'
    ],
    [{ OPENAI_API_KEY: 'a\nb' }, 'OPENAI_API_KEY holds a line break or a control character: trim what you read it from'],
    [
      { OPENAI_API_KEY: 'k', OPENAI_BASE_URL: 'nonsense' },
      'OPENAI_BASE_URL must be an absolute http or https address, such as https://api.openai.com/v1'
    ],
    [
      { OPENAI_API_KEY: 'k', OPENAI_BASE_URL: 'http://x.example/v1' },
      'OPENAI_BASE_URL would send the key unencrypted: use https, or http only to this machine; if you trust the network, write the provider into gateway.json with "allowInsecure": true'
    ],
    [
      { OPENAI_API_KEY: 'k', OPENAI_BASE_URL: 'https://10.0.0.1/v1' },
      'OPENAI_BASE_URL leads into a private network: if that is meant, write the provider into gateway.json with "allowInsecure": true'
    ],
    [
      { REDIS_URL: 'http://:hunter2@h' },
      'REDIS_URL must be a Redis address, such as redis://127.0.0.1:6379 or rediss://user:password@host:6380/0'
    ],
    [
      { MILLRACE_ORIGINS: '*' },
      'MILLRACE_ORIGINS (entry 1) would let every page spend your money: name the origins that may call'
    ],
    [
      { MILLRACE_ORIGINS: 'https://a.example https://b.example/' },
      'MILLRACE_ORIGINS (entry 2) must be an origin as browsers send it, such as https://app.example.com, without a path'
    ],
    [{ MILLRACE_HOSTS: 'http://a' }, 'MILLRACE_HOSTS (entry 1) must be a name as in the header host, such as gateway.test:8787'],
    [{ MILLRACE_FAULTS: 'yes' }, 'MILLRACE_FAULTS must be on or off'],
    [
      { MILLRACE_FAULTS: 'on', OPENAI_API_KEY: 'k' },
      'MILLRACE_FAULTS can be on only with the embedded provider: leave it out, or the providers'
    ],
    [
      { MILLRACE_CONFIG: 'mine.json' },
      'MILLRACE_CONFIG=mine.json: there is no such file: set it to the path of the configuration, or leave it out'
    ]
  ])('%j is one line that names it and what to write', (env, line) => {
    expect(mistakes(env)).toEqual([line])
  })

  it('are all told of at once, the file with them', () => {
    expect(mistakes({ PORT: 'x', MILLRACE_FAULTS: 'x', HOST: '::' }, { prot: 1 })).toEqual([
      'gateway.json: has no key "prot": did you mean port?',
      'PORT must be a whole number from 0 to 65535',
      'MILLRACE_FAULTS must be on or off'
    ])
  })
})

describe('what the file and the variables say together', () => {
  const openai = { name: 'openai', api: 'openai' }

  it('takes the providers of the file, and of the variables their keys only', () => {
    const file = { providers: [{ name: 'a', api: 'openai', apiKeyEnv: 'A_KEY', model: 'llama' }] }
    writeFileSync(join(folder, 'gateway.json'), JSON.stringify(file))
    const config = readConfig({ A_KEY: 'a', OPENAI_API_KEY: 'b', OPENAI_BASE_URL: 'https://x.example' }, folder)
    expect(config.providers).toMatchObject([{ name: 'a', apiKey: 'a', baseURL: 'https://api.openai.com/v1' }])
    expect(config.model).toBe('llama')
  })

  it.each([
    [
      { providers: [openai] },
      'providers[0] has no apiKeyEnv, and OPENAI_API_KEY is not set: set it (any text will do for a server that asks for none)'
    ],
    [
      { providers: [{ ...openai, apiKeyEnv: 'NOT_SET' }] },
      'providers[0].apiKeyEnv names NOT_SET, which is not set: set it (any text will do for a server that asks for none)'
    ],
    [
      {
        providers: [
          { ...openai, apiKeyEnv: 'KEY' },
          { ...openai, apiKeyEnv: 'KEY' }
        ]
      },
      "providers[1].name is another provider's too: give each a name of its own"
    ],
    [
      { providers: [{ ...openai, apiKeyEnv: 'KEY', baseURL: 'https://u:hunter2@x.example/v1' }] },
      'providers[0].baseURL must hold no user name or password: a key belongs into its variable'
    ],
    [
      { providers: [{ ...openai, apiKeyEnv: 'KEY', baseURL: 'https://x.example/v1/chat/completions' }] },
      'providers[0].baseURL must end before the endpoint: leave out /chat/completions, /messages or /responses'
    ],
    [
      { providers: [{ ...openai, apiKeyEnv: 'KEY', baseURL: 'https://x.example/v1#hunter2' }] },
      'providers[0].baseURL must have no #: leave out what begins with it'
    ],
    [
      { providers: [{ ...openai, apiKeyEnv: 'KEY', baseURL: 'http://models:8000/v1' }] },
      'providers[0].baseURL would send the key unencrypted: use https, or http only to this machine; if you trust the network, say "allowInsecure": true'
    ],
    [
      { providers: [{ ...openai, apiKeyEnv: 'KEY', baseURL: 'http://169.254.169.254/v1', allowInsecure: true }] },
      'providers[0].baseURL leads to a link-local address or a metadata service, where no provider is: write the address of a provider'
    ],
    [{ tenants: [{ name: 'a' }] }, 'tenants[0] must have either tokenEnv or tokenEnvs: name the variable that holds its token'],
    [
      { tenants: [{ name: 'a', tokenEnv: 'NOT_SET' }] },
      'tenants[0].tokenEnv names NOT_SET, which is not set: set it to the token of a'
    ],
    [
      { tenants: [{ name: 'a', tokenEnv: 'KEY' }] },
      'tenants[0].tokenEnv names KEY, which must be at least 16 characters without spaces: make one with `openssl rand -hex 24`'
    ],
    [
      {
        tenants: [
          { name: 'a', tokenEnv: 'TOKEN' },
          { name: 'b', tokenEnvs: ['OTHER', 'TOKEN'] }
        ]
      },
      'tenants[1].tokenEnvs[1] names TOKEN, which is the token of tenant a too: give each one of its own'
    ],
    [
      { tenants: [{ name: 'a', tokenEnv: 'SAME' }] },
      'tenants[0].tokenEnv names SAME, which is the token of the operator too: give each one of its own'
    ],
    [
      {
        tenants: [
          { name: 'a', tokenEnv: 'TOKEN' },
          { name: 'a', tokenEnv: 'OTHER' }
        ]
      },
      "tenants[1].name is another tenant's too: give each a name of its own"
    ],
    [{ limits: [{ only: { tenant: 'b' }, concurrency: 1 }] }, 'limits[0].only.tenant is none of the tenants: there is none'],
    [
      { budgets: [{ only: { provider: 'x' }, usd: 1 }] },
      'budgets[0].only.provider is none of the providers: there is embedded, embedded-messages'
    ],
    [{ budgets: [{ by: 'tenant' }] }, /^budgets\[0\]/],
    [
      { limits: [{ requestsPerMinute: 5 }, { requestsPerMinute: 6 }] },
      'limits holds the same one twice (same by, only and window): make them one'
    ],
    [
      { origins: ['https://a.example/x'] },
      'origins[0] must be an origin as browsers send it, such as https://app.example.com, without a path'
    ]
  ])('%j is one line that names the place and what to write', (file, line) => {
    const env = {
      KEY: 'k',
      TOKEN: 'token-0123456789',
      OTHER: 'other-0123456789',
      SAME: 'operator-0123456789',
      MILLRACE_TOKEN: 'operator-0123456789'
    }
    const told = mistakes(env, file)
    expect(told).toEqual([
      typeof line === 'string' ? `gateway.json: ${line}` : expect.stringMatching(line.source.replace('^', '^gateway\\.json: '))
    ])
    expect(told.join()).not.toContain('hunter2')
  })

  it('opens the gateway to others with a tenant alone', () => {
    const file = { host: '0.0.0.0', tenants: [{ name: 'a', tokenEnv: 'TOKEN' }] }
    expect(mistakes({ TOKEN: 'token-0123456789' }, file)).toEqual([])
    expect(mistakes({}, { host: '0.0.0.0' })).toEqual([expect.stringMatching(/^HOST=0\.0\.0\.0 is open to others/)])
  })
})
