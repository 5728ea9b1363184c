import type { Json, JsonObject } from '@millrace/core'
import { loadRecordings } from '@millrace/testkit'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { apiOf, isCacheable, isUnambiguous, keyedOf } from '../src/fetch-key.ts'
import { httpKeyOf } from '../src/key.ts'
import { hasEscapedNames } from '../src/plain.ts'

const seed = 20261123

const url = 'https://api.one.example/v1/chat/completions'
const body = { model: 'm', messages: [{ role: 'user', content: 'Hello' }], temperature: 0 }

function keyOf(post: { url?: string; headers?: Record<string, string>; body?: JsonObject } = {}): string {
  const keyed = keyedOf({ url: new URL(post.url ?? url), headers: post.headers ?? {}, body: post.body ?? body })
  if (keyed === undefined) throw new Error('not keyed')
  return httpKeyOf(keyed.material, { origin: keyed.origin, scope: 'test' })
}
const credentialOf = (post: { url?: string; headers?: Record<string, string> }): string | undefined =>
  keyedOf({ url: new URL(post.url ?? url), headers: post.headers ?? {}, body })?.credential

describe('paths that ask a model', () => {
  test('are those of the known APIs, whatever stands before them', () => {
    for (const [path, api] of [
      ['https://api.openai.com/v1/chat/completions', 'chat'],
      ['https://a.azure.com/openai/deployments/d/chat/completions?api-version=1', 'chat'],
      ['https://api.openai.com/v1/completions', 'completions'],
      ['https://api.openai.com/v1/responses/', 'responses'],
      ['https://api.anthropic.com/v1/messages', 'messages'],
      ['https://api.openai.com/v1/embeddings#x', 'embeddings'],
      ['https://api.cohere.com/v2/rerank', 'rerank'],
      ['https://g.example/v1beta/models/gemini:generateContent', 'google'],
      ['https://g.example/v1beta/models/gemini:streamGenerateContent?alt=sse', 'google'],
      ['https://g.example/v1beta/models/e:batchEmbedContents', 'google-embeddings']
    ]) {
      expect(apiOf(path as string)).toBe(api)
    }
    for (const path of ['/v1/models', '/v1/files', '/v1/responses/r_1', '/v1/threads/t/messages', '/v1/messages/batches', '/']) {
      expect(apiOf(`https://api.openai.com${path}`)).toBeUndefined()
    }
  })
})

describe('requests that may share an answer', () => {
  test('have no state, no tools and no searches at the provider, and one choice', () => {
    const fn = { type: 'function', function: { name: 'f' } }
    for (const fields of [
      {},
      { n: 1, store: false, tools: [fn, { type: 'custom', name: 'c' }] },
      { tools: [{ name: 'get_weather', input_schema: {} }] },
      { tools: [{ functionDeclarations: [] }], cachedContent: 'cachedContents/1' },
      { stream: true, temperature: 1, seed: 2, background: false, conversation: null }
    ]) {
      expect(isCacheable('chat', fields), JSON.stringify(fields)).toBe(true)
    }
    for (const fields of [
      { n: 2 },
      { n: '2' },
      { best_of: 3 },
      { generationConfig: { candidateCount: 2 } },
      { background: true },
      { conversation: 'conv_1' },
      { container: { id: 'c' } },
      { mcp_servers: [{ url: 'x' }] },
      { web_search_options: {} },
      { store: true },
      { tools: [fn, { type: 'web_search' }] },
      { tools: [{ type: 'code_interpreter' }] },
      { tools: [{ type: 'mcp' }] },
      { tools: [{ type: 'computer_20250124', name: 'computer' }] },
      { tools: [{ googleSearch: {} }] },
      { tools: ['f'] },
      { tools: {} }
    ]) {
      expect(isCacheable('chat', fields as JsonObject), JSON.stringify(fields)).toBe(false)
    }
  })

  test('include responses that the provider stores, and those that go on from one by its id', () => {
    expect(isCacheable('responses', { input: 'a', store: true, previous_response_id: 'resp_1' })).toBe(true)
  })
})

describe('the key of a request', () => {
  test('does not change with property order, or headers that tell of client, connection and call', () => {
    const reversed = Object.fromEntries(Object.entries(body).toReversed()) as JsonObject
    expect(keyOf({ body: reversed })).toBe(keyOf())
    for (const name of [
      'user-agent',
      'x-stainless-retry-count',
      'content-length',
      'connection',
      'accept-encoding',
      'traceparent',
      'baggage',
      'sentry-trace',
      'x-request-id',
      'idempotency-key',
      'x-millrace-total-ms',
      'x-forwarded-for',
      'x-forwarded-proto',
      'x-forwarded-port'
    ]) {
      expect(keyOf({ headers: { [name]: 'any' } }), name).toBe(keyOf())
    }
    expect(keyOf({ body: { ...body, stream: false } })).toBe(keyOf())
  })

  test('changes with every other header, with path, query, shape, and any field of the body', () => {
    const posts = [
      {},
      { headers: { 'anthropic-version': '1' } },
      { headers: { 'anthropic-version': '2' } },
      { headers: { 'anthropic-beta': '1' } },
      { headers: { 'openai-beta': '1' } },
      { headers: { 'helicone-cache-enabled': '1' } },
      { headers: { 'x-portkey-virtual-key': '1' } },
      { headers: { accept: 'application/json' } },
      { headers: { accept: 'text/event-stream' } },
      { headers: { 'accept-language': 'de' } },
      { headers: { 'accept-language': 'en' } },
      { headers: { 'accept-profile': 'one' } },
      { headers: { 'x-forwarded-user': 'ada' } },
      { headers: { 'x-forwarded-user': 'ben' } },
      { headers: { 'x-forwarded-email': 'ada@example.com' } },
      { headers: { 'x-forwarded-host': 'one.example' } },
      { headers: { 'content-type': 'application/json' } },
      { headers: { 'content-type': 'application/vnd.one+json' } },
      { headers: { 'content-type': 'application/json; profile=one' } },
      { url: 'https://api.two.example/v1/chat/completions' },
      { url: 'https://api.one.example/v2/chat/completions' },
      { url: `${url}?api-version=1` },
      { url: `${url}?api-version=2` },
      { body: { ...body, stream: true } },
      { body: { ...body, stream: true, stream_options: { include_usage: true } } },
      { body: { ...body, temperature: '0' } },
      { body: { ...body, temperature: null } },
      { body: { ...body, user: 'a' } },
      { body: { ...body, metadata: { a: 'b' } } },
      { body: { ...body, prompt_cache_key: 'a' } },
      { body: { ...body, new_field: 1 } }
    ]
    expect(new Set(posts.map(keyOf)).size).toBe(posts.length)
  })

  test('does not change with how JSON in UTF-8 is announced', () => {
    const json = keyOf({ headers: { 'content-type': 'application/json' } })
    for (const type of ['application/json; charset=utf-8', 'Application/JSON;charset="UTF-8"', ' application/json ']) {
      expect(keyOf({ headers: { 'content-type': type } }), type).toBe(json)
    }
  })

  test('takes `stream` as it stands where the API is not known: absent is not false', () => {
    const shapes = [{}, { stream: false }, { stream: null }, { stream: true }, { stream: 'yes' }, { stream_options: null }]
    const keyOfOther = (asked: object): string => {
      const keyed = keyedOf({ url: new URL(url), headers: {}, body: { ...body, ...asked } }, { api: 'other' })
      return httpKeyOf(keyed?.material as Json, { origin: 'one', scope: 'test' })
    }
    expect(new Set(shapes.map(keyOfOther)).size).toBe(shapes.length)
  })

  test('is not made where it is not certain whether a stream is asked for', () => {
    expect(keyedOf({ url: new URL(url), headers: {}, body: { stream: 'true' } })).toBeUndefined()
  })

  test('holds no credential; all of them make the credential, in any order', () => {
    const headers = { authorization: 'Bearer CANARY', 'x-api-key': 'CANARY', 'openai-project': 'CANARY', cookie: 'CANARY' }
    const given = { url: `${url}?key=CANARY&api-key=CANARY&a=1`, headers }
    const keyed = keyedOf({ url: new URL(given.url), headers, body })
    expect(JSON.stringify(keyed?.material)).not.toContain('CANARY')
    expect(keyed?.url).toBe(`${url}?a=1`)
    expect(keyOf(given)).toBe(keyOf({ url: `${url}?a=1` }))
    expect(keyed?.credential.match(/CANARY/g)).toHaveLength(6)
    expect(credentialOf({ headers: Object.fromEntries(Object.entries(headers).toReversed()) })).toBe(credentialOf({ headers }))
    const names = [
      'authorization',
      'x-api-key',
      'api-key',
      'x-goog-api-key',
      'openai-organization',
      'proxy-authorization',
      'helicone-auth'
    ]
    const all = names.flatMap((name) => ['a', 'b'].map((value) => credentialOf({ headers: { [name]: value } })))
    expect(new Set([...all, credentialOf({})]).size).toBe(2 * names.length + 1)
    expect(credentialOf({})).toBe('')
  })

  test('is one for the equal bodies among the recordings, and differs for the others', ({ skip }) => {
    const recordings = ['openai.chat', 'openai.responses', 'anthropic.messages'].flatMap((api) => loadRecordings({ api }) ?? [])
    if (recordings.length === 0) {
      console.warn('skipped: the recordings are not at ../shared/real/recordings')
      skip()
    }
    const keys = new Map<string, Set<string>>()
    for (const { request } of recordings) {
      if (typeof request?.body !== 'object' || request.body === null) continue
      const asked = { ...(request.body as JsonObject), stream: false, stream_options: undefined }
      const text = JSON.stringify(sorted(asked as unknown as Json))
      keys.set(text, (keys.get(text) ?? new Set()).add(keyOf({ body: asked as unknown as JsonObject })))
    }
    expect([...keys.values()].every((same) => same.size === 1)).toBe(true)
    expect(new Set([...keys.values()].flatMap((same) => [...same])).size).toBe(keys.size)
  })
})

function sorted(value: Json): Json {
  if (Array.isArray(value)) return value.map(sorted)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value as JsonObject)
      .toSorted(([one], [other]) => (one < other ? -1 : 1))
      .map(([name, item]) => [name, sorted(item as Json)])
  )
}

describe(`a body that parsers may read differently (fast-check seed ${seed})`, () => {
  const parsed = (text: string): boolean => isUnambiguous(text, JSON.parse(text) as JsonObject)

  test('says a name twice or with an escape, or holds a number that JavaScript cannot', () => {
    for (const text of [
      '{"a":1,"a":2}',
      '{"a":{"b":[{"c":1,"d":2,"c":3}]}}',
      '{"a":1,"\\u0061":2}',
      '{"seed":9007199254740993}',
      '{"seed":1e400}',
      '{"a":"\\\\","a":":"}',
      '{"a":1,"\\n":1}',
      '{"a":{"\\\\" : 1}}'
    ]) {
      expect(parsed(text), text).toBe(false)
    }
    for (const text of [
      '{}',
      '{"a":"b\\":\\\\\\":","c":{":":[":"]}}',
      ' { "a" : 1.5 , "b" : [ {} , { "a" : -7 } ] } ',
      '{"__proto__":1}'
    ]) {
      expect(parsed(text), text).toBe(true)
    }
  })

  test('is found in time that grows with its length: no escape is looked for from each colon', () => {
    const text = `{${Array.from({ length: 200_000 }, (_, at) => `"a${at}":1`).join()}}`
    const parsedBody = JSON.parse(text) as JsonObject
    const startedAt = performance.now()
    JSON.parse(text)
    const parseMs = performance.now() - startedAt
    expect(isUnambiguous(text, parsedBody)).toBe(true)
    const tookMs = performance.now() - startedAt - parseMs
    // Measured: about as long as parsing it took; four hundred times as long when it searched to the end of the text.
    expect(tookMs).toBeLessThan(20 * parseMs + 500)
    const slashes = `https://one.example${'/'.repeat(100_000)}x`
    const before = performance.now()
    expect(apiOf(slashes)).toBeUndefined()
    expect(performance.now() - before).toBeLessThan(500)
  })

  test('is none that JSON.stringify writes, unless a name has an escape', () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.string({ unit: 'binary' }), fc.jsonValue({ noUnicodeString: false })),
        fc.nat(4),
        (value, indent) => {
          const text = JSON.stringify(value, null, indent)
          const hasHuge = /(?<![\w.])-?\d{16,}|e\+/.test(text)
          expect(hasHuge || parsed(text) !== hasEscapedNames(value)).toBe(true)
        }
      ),
      { seed, numRuns: 2000 }
    )
  })
})
