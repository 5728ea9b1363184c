import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { readConfig } from '../src/config.ts'
import { configFileSchema, readConfigFile } from '../src/config-file.ts'
import { jsonMistake } from '../src/json-mistake.ts'

const example = new URL('../gateway.example.json', import.meta.url)
const mistakes = (content: unknown): readonly string[] =>
  readConfigFile(typeof content === 'string' ? content : JSON.stringify(content), 'gateway.json').mistakes

const withTokens = {
  OPENAI_API_KEY: 'k',
  ANTHROPIC_API_KEY: 'k',
  OUR_MODELS_KEY: 'k',
  WEBSITE_TOKEN: 'website-0123456789',
  RESEARCH_TOKEN: 'research-0123456789',
  RESEARCH_TOKEN_OLD: 'research-old-0123456789',
  MILLRACE_CONFIG: example.pathname
}

describe('the configuration file', () => {
  it('has an example that is right', () => {
    const config = readConfig(withTokens)
    expect(config.providers.map(({ name, baseURL }) => [name, baseURL])).toEqual([
      ['openai', 'https://api.openai.com/v1'],
      ['anthropic', 'https://api.anthropic.com'],
      ['ours', 'http://models.internal:8000/v1']
    ])
    expect(config).toMatchObject({ model: 'gpt-4.1-mini', contextWindow: 128_000, faults: false })
    expect(config.tenants[1]).toEqual({ name: 'research', tokens: ['research-0123456789', 'research-old-0123456789'] })
  })

  it('has a schema for editors that is what it is checked by', () => {
    const schema = z.toJSONSchema(configFileSchema, { io: 'input' })
    const file = JSON.parse(readFileSync(new URL('../gateway.schema.json', import.meta.url), 'utf8')) as unknown
    expect(file, 'run `node --conditions=@millrace/source apps/sample/test/write-schema.ts`').toEqual(schema)
  })

  it.each([
    [{ prot: 1 }, 'gateway.json: has no key "prot": did you mean port?'],
    [{ port: '8787' }, 'gateway.json: port must be a whole number from 0 to 65535'],
    [{ port: 1.5 }, 'gateway.json: port must be a whole number from 0 to 65535'],
    [[], 'gateway.json: must be an object, in {}'],
    [{ cache: { ttl: 1 } }, 'gateway.json: cache has no key "ttl": did you mean ttlMs?'],
    [{ cache: false }, 'gateway.json: cache must be an object, in {}'],
    [{ providers: {} }, 'gateway.json: providers must be a list of providers'],
    [
      { providers: [{ api: 'openai' }] },
      'gateway.json: providers[0].name is missing: it must be a name of at most 64 letters, digits and . _ -'
    ],
    [
      { providers: [{ name: 'a' }] },
      /providers\[0\]\.api is missing: it must be "openai" \(also any server that speaks its API\) or "anthropic"/
    ],
    [
      { providers: [{ name: 'a', api: 'openai', apikeyEnv: 'K' }] },
      'gateway.json: providers[0] has no key "apikeyEnv": did you mean apiKeyEnv?'
    ],
    [
      { providers: [{ name: 'a', api: 'openai', xyz: 1 }] },
      /providers\[0\] does not know its key number 3: it has name, api, baseURL, apiKeyEnv,/
    ],
    [
      { providers: [{ name: 'a', api: 'openai', model: 3 }] },
      /providers\[0\]\.model must be the model as this provider calls it, or an object such as/
    ],
    [{ limits: [{ by: 'tenants' }] }, 'gateway.json: limits[0].by must be "provider", "model" or "tenant", or a list of them'],
    [{ budgets: [{ usd: -1 }] }, 'gateway.json: budgets[0].usd must be a number above 0'],
    [{ imageURLs: 'all' }, 'gateway.json: imageURLs must be "public", "data" or "any"'],
    [
      { tenants: [{ name: 'a b', tokenEnv: 'T' }] },
      'gateway.json: tenants[0].name must be a name of at most 64 letters, digits and . _ -'
    ]
  ])('says of %j where it is wrong and what to write', (content, line) => {
    expect(mistakes(content)).toEqual([typeof line === 'string' ? line : expect.stringMatching(line)])
  })

  it('tells all mistakes at once', () => {
    expect(mistakes({ port: 0.5, hots: [], limits: [{ concurrency: 0 }, { rpm: 1 }] })).toHaveLength(4)
  })

  it('refuses secrets, says where they belong, and repeats none', () => {
    const secret = 'sk-canary0123456789'
    const lines = mistakes({
      redisURL: `redis://:${secret}@h`,
      token: secret,
      providers: [{ name: 'a', api: 'openai', apiKey: secret, apiKeyEnv: secret, [secret]: 1, baseURL: [secret] }],
      tenants: [{ name: secret.repeat(9), token: secret, tokenEnvs: [secret] }]
    }).join('\n')
    expect(lines).toContain(
      'providers[0] has apiKey, a secret, which must not stand in a file that is copied and committed: put the key'
    )
    expect(lines).toContain('tenants[0] has token, a secret')
    expect(lines).toContain('put it into the variable REDIS_URL')
    expect(lines).toContain('providers[0].apiKeyEnv must be the name of an environment variable in capitals')
    expect(lines).not.toContain('canary')
  })

  it.each(['hunter2-hunter2', 'correct horse battery staple', 'x'.repeat(100), '0123456789'])(
    'repeats no key that is none of its own, whatever it looks like: %s',
    (secret) => {
      for (const file of [
        { [secret]: 1 },
        { cache: { [secret]: 1 } },
        { providers: [{ name: 'a', api: 'openai', model: { [secret]: '' } }] },
        { providers: [{ name: 'a', api: 'openai', model: { [secret]: 1 } }] }
      ]) {
        const lines = mistakes(file)
        expect(lines).toHaveLength(1)
        expect(lines[0]).not.toContain(secret.slice(0, 8))
      }
    }
  )

  it.each([
    ['', '1:1 the file is empty: write {} at least'],
    ['{"port": 1,}', '1:11 there is a comma with nothing after it: take it out'],
    ['{\n  "port": 1\n  "host": "a"\n}', '3:3 a comma is missing before this'],
    ['{\n  // ours\n}', '2:3 there is a comment, and JSON has none: take it out'],
    ['{port: 1}', '1:2 a key in double quotes is wanted here'],
    ['{"port" 1}', '1:9 a colon is missing before this'],
    ['{"port": 01}', '1:11 a comma is missing before this'],
    ['{"host": \'a\'}', '1:10 a value is wanted here: text in double quotes, a number, true, false, null, {} or []'],
    [
      '{"host": "sk-canary',
      '1:10 this text has no closing quote on its line, or a backslash or control character that JSON does not allow'
    ],
    ['{"hosts": ["a"', '1:15 the file ends before its last ]'],
    ['{} {}', '1:4 there is something after the end of the object']
  ])('says of %j where it stops being JSON', (text, what) => {
    expect(mistakes(text)).toEqual([`gateway.json:${what}`])
  })

  it('takes for JSON what JSON.parse does, and nothing else (seed 9)', () => {
    const spoilt = fc
      .tuple(fc.json(), fc.nat(), fc.constantFrom('', ',', '{', '}', '[', ']', ':', '"', '1', ' ', '\\', '\u0001', 'e', '-'))
      .map(([text, at, put]) => text.slice(0, at % (text.length + 1)) + put + text.slice((at % (text.length + 1)) + (at % 2)))
    fc.assert(
      fc.property(fc.oneof(fc.json(), spoilt), (text) => {
        let isJSON = true
        try {
          JSON.parse(text)
        } catch {
          isJSON = false
        }
        expect(jsonMistake(text) === undefined).toBe(isJSON)
      }),
      { seed: 9, numRuns: 2000 }
    )
  })

  it('may begin with a byte order mark', () => {
    expect(mistakes('\ufeff{"port": 1}')).toEqual([])
  })
})
