import { getEventListeners, once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { isMillraceError, type Json } from '@millrace/core'
import { loadRecordings, probeLeaks, serveRecording } from '@millrace/testkit'
import { describe, expect, test, vi } from 'vitest'
import { createFailures, openUpstream } from '../src/fetch-upstream.ts'
import { type Cache, type CacheOptions, createCache } from '../src/index.ts'
import { decodeItem, encodeItem, type HttpItem, headOf, itemsOf, pieceOf } from '../src/wire-item.ts'
import { type Answering, type Served, serveHttp, until } from './serve-http.ts'

const path = '/v1/chat/completions'
const answer = {
  model: 'm-1',
  choices: [{ index: 0, message: { role: 'assistant', content: 'Grüße 👋' }, finish_reason: 'stop' }],
  usage: { prompt_tokens: 5, completion_tokens: 3, total_tokens: 8 }
}
const frame = (event: object | string): string => `data: ${typeof event === 'string' ? event : JSON.stringify(event)}\n\n`
const events = [
  { model: 'm-1', choices: [{ index: 0, delta: { role: 'assistant', content: '' }, finish_reason: null }] },
  { model: 'm-1', choices: [{ index: 0, delta: { content: 'Grüße ' }, finish_reason: null }] },
  { model: 'm-1', choices: [{ index: 0, delta: { content: '👋' }, finish_reason: null }] },
  { model: 'm-1', choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] },
  { model: 'm-1', choices: [], usage: { prompt_tokens: 5, completion_tokens: 3, total_tokens: 8 } },
  '[DONE]'
]
const streamed = events.map(frame).join('')

const plainly: Answering = (response) => {
  response.writeHead(200, { 'content-type': 'application/json', 'x-request-id': 'req_1', 'set-cookie': 'a=b' })
  response.end(JSON.stringify(answer))
}
const inEvents: Answering = async (response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  for (const event of events) {
    response.write(frame(event))
    await delay(1)
  }
  response.end()
}

interface Rig extends AsyncDisposable {
  readonly served: Served
  readonly cache: Cache
  readonly fetch: typeof fetch
  /** A POST of a chat request. */
  ask(options?: Ask): Promise<Response>
}

interface Ask {
  readonly body?: object | undefined
  readonly headers?: Record<string, string> | undefined
  readonly signal?: AbortSignal | undefined
}

async function rig(answering: Answering, options: CacheOptions = {}): Promise<Rig> {
  const served = await serveHttp(answering)
  const cache = createCache(options)
  const fetch = cache.fetch(globalThis.fetch)
  return {
    served,
    cache,
    fetch,
    ask: ({ body, headers, signal } = {}) =>
      fetch(`${served.origin}${path}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', authorization: 'Bearer one', ...headers },
        body: JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'Hello' }], ...body }),
        ...(signal === undefined ? {} : { signal })
      }),
    async [Symbol.asyncDispose]() {
      await cache.close()
      await served[Symbol.asyncDispose]()
    }
  }
}

const stateOf = (response: Response): string | null => response.headers.get('x-millrace-cache')
const rejection = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => new Error('it did not reject'),
    (error: unknown) => error
  )

describe('a cached fetch', () => {
  test('answers the second of two equal requests by itself, with what is true of the answer', async () => {
    await using all = await rig(plainly)
    const first = await all.ask()
    expect(stateOf(first)).toBe('miss')
    expect(first.headers.get('x-request-id')).toBe('req_1')
    expect(first.headers.getSetCookie()).toEqual(['a=b'])
    expect(await first.json()).toEqual(answer)
    const second = await all.ask({ headers: { 'user-agent': 'another', 'x-stainless-retry-count': '1' } })
    expect(stateOf(second)).toBe('hit')
    expect(second.headers.get('age')).toBe('0')
    expect([...second.headers.keys()].toSorted()).toEqual(['age', 'content-type', 'x-millrace-cache'])
    expect([second.ok, second.status, second.statusText, second.url]).toEqual([true, 200, 'OK', `${all.served.origin}${path}`])
    expect(await second.json()).toEqual(answer)
    expect(all.served.asked).toHaveLength(1)
    expect(all.cache.stats()).toMatchObject({ hits: 1, misses: 1, stored: 1, tokensSaved: 8 })
  })

  test('keeps streams and plain answers apart, and streams a hit', async () => {
    await using all = await rig((response, asked, number) =>
      (JSON.parse(asked.body) as { stream?: boolean }).stream === true
        ? inEvents(response, asked, number)
        : plainly(response, asked, number)
    )
    expect(await (await all.ask({ body: { stream: true } })).text()).toBe(streamed)
    expect(await (await all.ask()).json()).toEqual(answer)
    const hit = await all.ask({ body: { stream: true } })
    expect(stateOf(hit)).toBe('hit')
    expect(hit.headers.get('content-type')).toBe('text/event-stream')
    const pieces: Uint8Array[] = []
    for await (const piece of hit.body as unknown as AsyncIterable<Uint8Array>) pieces.push(piece)
    expect(pieces).toHaveLength(1)
    expect(Buffer.concat(pieces).toString()).toBe(streamed)
    expect(all.served.asked).toHaveLength(2)
    expect(all.cache.stats().tokensSaved).toBe(8)
  })

  test.each(['text', 'json', 'arrayBuffer', 'bytes', 'blob', 'body'] as const)(
    'can be read as %s, and its clone too',
    async (how) => {
      await using all = await rig(plainly)
      const whole = Buffer.from(JSON.stringify(answer))
      async function bytesOf(response: Response): Promise<Buffer> {
        if (how === 'json') return Buffer.from(JSON.stringify(await response.json()))
        if (how === 'text') return Buffer.from(await response.text())
        if (how === 'blob') return Buffer.from(await (await response.blob()).arrayBuffer())
        if (how !== 'body') return Buffer.from((await response[how]()) as ArrayBuffer)
        const pieces: Uint8Array[] = []
        for await (const piece of response.body as unknown as AsyncIterable<Uint8Array>) pieces.push(piece)
        return Buffer.concat(pieces)
      }
      for (const state of ['miss', 'hit']) {
        const response = await all.ask()
        expect(stateOf(response)).toBe(state)
        const clone = response.clone()
        expect(await bytesOf(response)).toEqual(whole)
        expect(await bytesOf(clone)).toEqual(whole)
        expect(response.bodyUsed).toBe(true)
        await expect(response.text()).rejects.toThrow(TypeError)
      }
    }
  )

  test('hands on what it does not cache, untouched, and says so', async () => {
    await using all = await rig((response, { method, body, headers }) => {
      response.writeHead(200, { 'content-type': 'text/plain' })
      response.end(`${method} ${headers['content-type']} ${body.length}`)
    })
    const form = new FormData()
    form.set('file', new Blob(['abc']), 'a.txt')
    const url = `${all.served.origin}${path}`
    const blob = new Blob(['{"model":"m"}'])
    for (let time = 0; time < 2; time++) {
      for (const [input, init, said] of [
        [all.served.origin, undefined, /^GET/],
        [url, { method: 'POST', body: form }, /^POST multipart/],
        [url, { method: 'POST', body: blob.stream(), duplex: 'half' }, /^POST undefined 13/],
        [url, { method: 'POST', body: 'no json' }, /^POST text.plain\S* 7/],
        [url, { method: 'POST', body: '{"model":"m","model":"n"}' }, /^POST text.plain\S* 25/],
        [`${all.served.origin}/v1/files`, { method: 'POST', body: '{}' }, /^POST/],
        [new Request(url, { method: 'POST', body: form }), undefined, /^POST multipart/],
        [new Request(url, { method: 'PUT', body: '{}' }), undefined, /^PUT/]
      ] as const) {
        const asked = input instanceof Request ? input.clone() : input
        if (init !== undefined && 'duplex' in init) {
          const response = await all.fetch(asked, { ...init, body: blob.stream() } as RequestInit)
          expect(await response.text()).toMatch(said)
          continue
        }
        const response = await all.fetch(asked, init as RequestInit)
        expect(stateOf(response)).toBe('bypass')
        expect(await response.text()).toMatch(said)
      }
      for (const body of [{ n: 2 }, { tools: [{ type: 'web_search' }] }, { background: true }]) {
        expect(stateOf(await all.ask({ body }))).toBe('bypass')
      }
    }
    expect(all.cache.stats()).toMatchObject({ hits: 0, misses: 0, bypassed: 22, stored: 0 })
  })

  test('takes a URL, a Request and bytes as well', async () => {
    await using all = await rig(plainly)
    const url = `${all.served.origin}${path}`
    const headers = { 'content-type': 'application/json' }
    const body = JSON.stringify({ model: 'm', messages: [] })
    const request = new Request(url, { method: 'POST', headers, body })
    const states = [
      await all.fetch(request),
      await all.fetch(new URL(url), { method: 'post', headers: new Headers(headers), body }),
      await all.fetch(url, { method: 'POST', headers: Object.entries(headers), body: Buffer.from(body) }),
      await all.fetch(new Request(url, { method: 'POST', headers, body: '{}' }), { body: new TextEncoder().encode(body).buffer })
    ].map(stateOf)
    expect(states).toEqual(['miss', 'joined', 'joined', 'joined'])
    expect(request.bodyUsed).toBe(false)
    expect(all.served.asked).toHaveLength(1)
    expect(all.served.asked[0]?.body).toBe(body)
  })

  test('goes past the cache where `eligible` throws or gives a promise', async () => {
    const broken = [
      () => {
        throw new Error('broken')
      },
      (async () => true) as never
    ]
    for (const eligible of broken) {
      await using all = await rig(plainly, { eligible })
      for (let round = 0; round < 2; round++) {
        const response = await all.ask()
        expect([response.status, stateOf(response)]).toEqual([200, 'bypass'])
        expect(response.headers.get('x-millrace-cache-reason')).toBe('no-key')
        expect(await response.json()).toEqual(answer)
      }
      expect(all.cache.stats()).toMatchObject({ bypassed: 2, stored: 0 })
    }
  })

  test('passes a Request on with all that it says, and another body and signal', async () => {
    const seen: unknown[] = []
    const served = await serveHttp(plainly)
    await using _ = served
    await using cache = createCache()
    const cached = cache.fetch((input, init) => {
      seen.push(input, init)
      return fetch(input, init)
    })
    const init = { method: 'POST', headers: { 'content-type': 'application/json', 'x-millrace-tenant': 'a' }, body: '{}' }
    const request = new Request(`${served.origin}${path}`, { ...init, credentials: 'omit', redirect: 'error' })
    for (const state of ['miss', 'hit']) {
      const response = await cached(request)
      expect(stateOf(response)).toBe(state)
      expect(await response.json()).toEqual(answer)
    }
    expect(seen).toHaveLength(2)
    expect(seen[0]).toBe(request)
    expect(seen[1]).not.toHaveProperty('redirect')
    expect(served.asked[0]?.headers).not.toHaveProperty('x-millrace-tenant')
    expect(served.asked[0]?.body).toBe('{}')
    expect(request.bodyUsed).toBe(false)
  })

  test('takes a body for JSON where it is called so, or nothing is said', async () => {
    await using all = await rig(plainly)
    const body = JSON.stringify({ model: 'm', messages: [] })
    const ask = async (contentType: string | undefined, sent: string | Uint8Array<ArrayBuffer> = body): Promise<unknown> => {
      const headers = contentType === undefined ? {} : { 'content-type': contentType }
      const response = await all.fetch(`${all.served.origin}${path}`, { method: 'POST', headers, body: sent })
      await response.text()
      return [stateOf(response), response.headers.get('x-millrace-cache-reason')]
    }
    expect(await ask('application/json')).toEqual(['miss', null])
    expect(await ask('application/json; charset=utf-8')).toEqual(['hit', null])
    expect(await ask('application/vnd.api+json')).toEqual(['miss', null])
    for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'application/jsonlines', '', 'json']) {
      expect(await ask(type), type).toEqual(['bypass', 'body'])
    }
    // `fetch` itself calls the one text, and says nothing of the other.
    expect(await ask(undefined)).toEqual(['miss', null])
    expect(await ask(undefined, new TextEncoder().encode(body))).toEqual(['miss', null])
    expect(await ask(undefined)).toEqual(['hit', null])
  })

  test('says why a call passes by', async () => {
    const { promise, resolve } = Promise.withResolvers<void>()
    await using all = await rig(
      async (response, asked, number) => {
        if (asked.headers.authorization !== 'Bearer three') return plainly(response, asked, number)
        await promise
        response.writeHead(401, { 'content-type': 'application/json' })
        response.end('{"error":{"message":"no"}}')
      },
      { scope: ({ tenant }) => (tenant === 'nobody' ? '' : 'shared') }
    )
    const reasonOf = async (asking: Promise<Response>): Promise<unknown> => {
      const response = await asking
      await response.text()
      return [stateOf(response), response.headers.get('x-millrace-cache-reason')]
    }
    expect(await reasonOf(all.ask({ headers: { 'x-millrace-cache': 'bypass' } }))).toEqual(['bypass', 'asked'])
    expect(await reasonOf(all.fetch(`${all.served.origin}/v1/models`))).toEqual(['bypass', 'path'])
    expect(await reasonOf(all.ask({ body: { stream: 'yes' } }))).toEqual(['bypass', 'body'])
    expect(await reasonOf(all.ask({ body: { n: 2 } }))).toEqual(['bypass', 'not-eligible'])
    expect(await reasonOf(all.ask({ headers: { 'x-millrace-tenant': 'nobody' } }))).toEqual(['bypass', 'no-key'])
    const refused = all.ask({ headers: { authorization: 'Bearer three' } })
    await until(() => all.served.asked.length === 6, 'the refused one asks')
    const other = reasonOf(all.ask())
    resolve()
    expect(await reasonOf(refused)).toEqual(['miss', null])
    expect(await other).toEqual(['bypass', 'other-credential'])
    await all.cache.close()
    expect(await reasonOf(all.ask())).toEqual(['bypass', 'closed'])
  })

  test('lets `eligible` overrule what is cached', async () => {
    const seen: unknown[] = []
    await using all = await rig(plainly, {
      eligible(request) {
        seen.push(request)
        return 'url' in request ? ((request.body as { force?: boolean }).force ?? undefined) : undefined
      }
    })
    for (let time = 0; time < 2; time++) {
      for (const [body, state] of [
        [{ n: 2, force: true }, time === 0 ? 'miss' : 'hit'],
        [{ force: false }, 'bypass'],
        [{ n: 2 }, 'bypass'],
        [{}, time === 0 ? 'miss' : 'hit']
      ] as const) {
        const response = await all.ask({ body })
        expect(stateOf(response)).toBe(state)
        await response.text()
      }
      const init = { method: 'POST', body: JSON.stringify({ force: true }), headers: { 'x-api-key': 'CANARY' } }
      const own = await all.fetch(`${all.served.origin}/my-own-model?key=CANARY&a=1`, init)
      expect(stateOf(own)).toBe(time === 0 ? 'miss' : 'hit')
      await own.text()
    }
    expect(seen).toContainEqual({ url: `${all.served.origin}/my-own-model?a=1`, body: { force: true } })
    expect(JSON.stringify(seen)).not.toContain('CANARY')
  })

  test('never gives the answer of one credential to another, nor of one tenant, unless the cache has a scope', async () => {
    await using all = await rig(plainly)
    const ask = async (headers: Record<string, string>): Promise<string | null> => {
      const response = await all.ask({ headers })
      await response.text()
      return stateOf(response)
    }
    for (const headers of [
      { authorization: 'Bearer one' },
      { authorization: 'Bearer two' },
      { authorization: '', 'x-api-key': 'one' },
      { 'openai-organization': 'org' },
      { 'x-millrace-tenant': 'a' },
      { 'x-millrace-tenant': 'b' }
    ]) {
      expect(await ask(headers as Record<string, string>)).toBe('miss')
      expect(await ask(headers as Record<string, string>)).toBe('hit')
    }
    expect(all.served.asked).toHaveLength(6)
    expect(all.served.asked.some(({ headers }) => 'x-millrace-tenant' in headers)).toBe(false)
    await using shared = await rig(plainly, { scope: 'all of us' })
    await (await shared.ask()).text()
    expect(stateOf(await shared.ask({ headers: { authorization: 'Bearer two' } }))).toBe('hit')
  })

  test('holds no prompt and no credential in a store', async () => {
    const store = new Map<string, string>()
    await using all = await rig(plainly, { store, scope: 'CANARY-scope' })
    const body = { messages: [{ role: 'user', content: 'CANARY' }] }
    const headers = {
      authorization: 'Bearer CANARY',
      cookie: 'CANARY',
      'x-millrace-tenant': 'CANARY',
      'x-millrace-cache-tags': 'CANARY'
    }
    await (await all.ask({ body, headers })).text()
    await until(() => store.size >= 2, 'the entry is written')
    expect(JSON.stringify([...store])).not.toContain('CANARY')
    await using other = await rig(plainly, { store, scope: 'CANARY-scope' })
    const hit = await other.cache.fetch(fetch)(`${all.served.origin}${path}`, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        authorization: 'Bearer CANARY',
        cookie: 'CANARY',
        'x-millrace-tenant': 'CANARY'
      },
      body: JSON.stringify({ model: 'm', ...body })
    })
    expect(stateOf(hit)).toBe('hit')
    expect(await hit.json()).toEqual(answer)
    expect(other.cache.stats().tokensSaved).toBe(8)
  })
})

describe('what one call may say', () => {
  test('is said by its headers, which do not go over the wire', async () => {
    await using all = await rig(plainly)
    const state = async (headers: Record<string, string>): Promise<string | null> => {
      const response = await all.ask({ headers })
      await response.text()
      return stateOf(response)
    }
    expect(await state({ 'x-millrace-cache': 'no-store' })).toBe('miss')
    expect(await state({ 'x-millrace-cache-ttl-ms': '0' })).toBe('miss')
    expect(await state({ 'x-millrace-cache-tags': 'a, b' })).toBe('miss')
    expect(await state({})).toBe('hit')
    expect(await state({ 'x-millrace-cache': 'bypass' })).toBe('bypass')
    expect(await state({ 'x-millrace-cache': 'refresh' })).toBe('miss')
    await delay(5) // the cache's clock may give one reading for a millisecond, and an age of 0 is not above 0
    expect(await state({ 'x-millrace-cache-max-age-ms': '0' })).toBe('miss')
    await state({ 'x-millrace-cache': 'refresh', 'x-millrace-cache-tags': 'b' })
    await all.cache.invalidate({ tags: ['b'] })
    expect(await state({})).toBe('miss')
    expect(
      all.served.asked.flatMap(({ headers }) => Object.keys(headers)).filter((name) => name.startsWith('x-millrace'))
    ).toEqual([])
  })

  test('is said by `options`, and a header counts more', async () => {
    const served = await serveHttp(plainly)
    await using _ = served
    await using cache = createCache()
    const calls: unknown[] = []
    const cached = cache.fetch(fetch, {
      options(url, init) {
        calls.push([url, init?.method])
        return { bypass: true, tenant: 'a' }
      }
    })
    const url = `${served.origin}${path}`
    expect(stateOf(await cached(url, { method: 'POST', body: '{}' }))).toBe('bypass')
    expect(stateOf(await cached(url, { method: 'POST', body: '{}', headers: { 'x-millrace-cache': 'refresh' } }))).toBe('bypass')
    expect(calls[0]).toEqual([url, 'POST'])
  })

  test('is refused when it makes no sense', async () => {
    await using all = await rig(plainly)
    for (const headers of [
      { 'x-millrace-cache': 'on' },
      { 'x-millrace-cache-ttl-ms': 'soon' },
      { 'x-millrace-cache-max-age-ms': '-1' },
      { 'x-millrace-cache-for': '1' },
      { 'x-millrace-tags': 'a' },
      { 'x-millrace-cache-tags': Array.from({ length: 65 }, String).join() }
    ]) {
      // Not thrown: clients would take it for a lost connection, and try again.
      const refused = await all.ask({ headers: headers as unknown as Record<string, string> })
      expect([refused.status, refused.headers.get('x-should-retry')]).toEqual([400, 'false'])
      expect(await refused.json()).toMatchObject({ error: { message: expect.stringMatching(/must be|no header is called/) } })
    }
    expect(all.served.asked).toHaveLength(0)
    expect(() => all.cache.fetch(fetch, { ignoreHeaders: ['X-Trace'] })).toThrow(/lower case/)
    expect(() => all.cache.fetch('fetch' as never)).toThrow(/takes a fetch/)
    expect(() => all.cache.fetch(fetch, { option: 1 } as never)).toThrow(/option/)
    expect(() => all.cache.fetch(fetch, { options: 1 } as never)).toThrow(/must be a function/)
    const ofOptions = (given: unknown): Promise<unknown> =>
      rejection(all.cache.fetch(fetch, { options: () => given as never })(all.served.origin))
    for (const wrong of [{ ttl: 1 }, [], null, 'bypass', new Map()]) {
      expect(await ofOptions(wrong)).toBeInstanceOf(TypeError)
    }
    expect(await ofOptions(Promise.resolve({ bypass: true }))).toMatchObject({ message: /gave a promise: .*at once/ })
  })

  test('takes the headers out of the key that it is told to, and no other', async () => {
    await using all = await rig(plainly)
    const cached = all.cache.fetch(fetch, { ignoreHeaders: ['x-my-trace'] })
    const state = async (headers: Record<string, string>): Promise<unknown> => {
      const response = await cached(`${all.served.origin}/v1/chat/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'x' }] })
      })
      await response.text()
      return response.headers.get('x-millrace-cache')
    }
    const states = [await state({ 'x-my-trace': '1' }), await state({ 'x-my-trace': '2' }), await state({ 'x-other': '1' })]
    expect(states).toEqual(['miss', 'hit', 'miss'])
  })

  test('leaves the clocks of the transport in, but for the total, which is its own', async () => {
    await using all = await rig(plainly)
    await (await all.ask({ headers: { 'x-millrace-total-ms': '5000', 'x-millrace-idle-ms': '700' } })).text()
    expect(all.served.asked[0]?.headers).toMatchObject({ 'x-millrace-total-ms': 'Infinity', 'x-millrace-idle-ms': '700' })
  })
})

describe('a call under way', () => {
  /** A stream that says its first event at once, and the rest when it is told to. */
  function held(): { answering: Answering; release: () => void } {
    const { promise, resolve } = Promise.withResolvers<void>()
    return {
      release: resolve,
      async answering(response) {
        response.writeHead(200, { 'content-type': 'text/event-stream', 'x-request-id': 'req_1', 'set-cookie': 'a=b' })
        response.write(events.slice(0, 2).map(frame).join(''))
        await promise
        response.end(events.slice(2).map(frame).join(''))
      }
    }
  }
  const body = { stream: true }

  test('is one for all who ask, also late, and each may leave it alone', async () => {
    const { answering, release } = held()
    await using all = await rig(answering)
    const first = await all.ask({ body })
    const others = await Promise.all(Array.from({ length: 9 }, () => all.ask({ body })))
    expect(stateOf(first)).toBe('miss')
    expect(others.map(stateOf)).toEqual(Array.from({ length: 9 }, () => 'joined'))
    expect(others[0]?.headers.get('x-request-id')).toBe('req_1')
    expect(others[0]?.headers.getSetCookie()).toEqual([])
    const reader = (first.body as ReadableStream<Uint8Array>).getReader()
    expect(Buffer.from((await reader.read()).value as Uint8Array).toString()).toBe(events.slice(0, 2).map(frame).join(''))
    await reader.cancel()
    const [gone, ...rest] = others
    await gone?.body?.cancel()
    release()
    for (const response of rest) expect(await response.text()).toBe(streamed)
    expect(all.served.asked).toHaveLength(1)
    // Who made the call has left: the bill is the next one's.
    expect(all.cache.stats()).toMatchObject({ misses: 1, joined: 9, tokensSaved: 7 * 8, stored: 1 })
    expect(stateOf(await all.ask({ body }))).toBe('hit')
  })

  test('is aborted when the last one leaves, and nothing of it is kept', async () => {
    const { answering } = held()
    await using all = await rig(answering)
    const abort = new AbortController()
    const one = await all.ask({ body, signal: abort.signal })
    const two = await all.ask({ body })
    const reading = rejection(one.text())
    abort.abort(new Error('mine'))
    expect(await reading).toEqual(new Error('mine'))
    expect(all.served.left).toBe(0)
    await two.body?.cancel()
    await until(() => all.served.left === 1, 'the upstream is aborted')
    expect(all.cache.stats()).toMatchObject({ stored: 0, notStored: 1, entries: 0 })
    expect(getEventListeners(abort.signal, 'abort')).toHaveLength(0)
  })

  test('ends for an asker that aborts before there is an answer, with its own reason', async () => {
    await using all = await rig(() => {})
    const abort = new AbortController()
    const asking = rejection(all.ask({ signal: abort.signal }))
    const other = rejection(all.ask({ signal: AbortSignal.abort('at once') }))
    expect(await other).toBe('at once')
    await until(() => all.served.asked.length === 1, 'the server is asked')
    abort.abort('enough')
    expect(await asking).toBe('enough')
    await until(() => all.served.left === 1, 'the upstream is aborted')
    expect(all.served.asked).toHaveLength(1)
  })

  test("has each asker's own total", async () => {
    const { answering, release } = held()
    await using all = await rig(answering)
    const hurried = await all.ask({ body, headers: { 'x-millrace-total-ms': '50' } })
    const patient = await all.ask({ body })
    const error = await rejection(hurried.text())
    expect(isMillraceError(error, 'timeout')).toBe(true)
    release()
    expect(await patient.text()).toBe(streamed)
  })

  test('is given up when its only response is dropped unread', async () => {
    const { answering } = held()
    await using all = await rig(answering)
    setFlagsFromString('--expose-gc')
    const gc = runInNewContext('gc') as () => void
    await (async () => void (await all.ask({ body })))()
    const deadline = performance.now() + 5000
    while (all.served.left === 0 && performance.now() < deadline) {
      gc()
      await delay(10)
    }
    expect(all.served.left).toBe(1)
  })

  test('is read no faster than its reader reads', async () => {
    let written = 0
    const piece = Buffer.alloc(64 * 1024, 'x')
    await using all = await rig(
      async (response) => {
        response.writeHead(200, { 'content-type': 'text/event-stream' })
        for (let count = 0; count < 640 && !response.destroyed; count++) {
          written += piece.length
          if (!response.write(piece)) await Promise.race([once(response, 'drain'), once(response, 'close')])
        }
        response.end()
      },
      { maxEntryBytes: 1024 * 1024 }
    )
    const response = await all.ask({ body })
    const reader = (response.body as ReadableStream<Uint8Array>).getReader()
    await reader.read()
    let before = -1
    // The sockets' own buffers fill up, and then it stands still.
    while (written !== before) {
      before = written
      await delay(100)
    }
    expect(written).toBeLessThan(30 * 1024 * 1024)
    let bytes = 0
    for (let read = await reader.read(); !read.done; read = await reader.read()) bytes += read.value.length
    expect(bytes).toBeGreaterThan(640 * piece.length - 1024 * 1024)
    expect(all.cache.stats()).toMatchObject({ stored: 0, notStored: 1 })
  })
})

describe('failures', () => {
  const fail =
    (status: number): Answering =>
    (response) => {
      response.writeHead(status, { 'content-type': 'application/json', 'retry-after': '1' })
      response.end('{"error":{"message":"no"}}')
    }

  test.each([400, 401, 403, 404, 408, 429, 500, 503])(
    'of status %s go to all who asked, untouched, and are not kept',
    async (status) => {
      await using all = await rig(fail(status))
      for (let time = 1; time <= 2; time++) {
        const responses = await Promise.all([all.ask(), all.ask()])
        expect(responses.map(stateOf)).toEqual(['miss', 'joined'])
        for (const response of responses) {
          expect(response.status).toBe(status)
          expect(response.headers.get('retry-after')).toBe('1')
          expect(await response.json()).toEqual({ error: { message: 'no' } })
        }
        expect(all.served.asked).toHaveLength(time)
      }
      expect(all.cache.stats()).toMatchObject({ stored: 0, notStored: 2, entries: 0, tokensSaved: 0 })
    }
  )

  test.each([400, 404, 413, 422])('of status %s are kept for as long as `negativeTtlMs` says', async (status) => {
    await using all = await rig(fail(status), { negativeTtlMs: 60_000 })
    await (await all.ask()).text()
    const hit = await all.ask()
    expect([stateOf(hit), hit.status]).toEqual(['hit', status])
    expect(await hit.json()).toEqual({ error: { message: 'no' } })
    expect(stateOf(await all.ask({ headers: { 'x-millrace-cache': 'refresh' } }))).toBe('miss')
    expect(all.served.asked).toHaveLength(2)
  })

  test.each([401, 403, 408, 409, 429, 500, 529])('of status %s are not kept even so', async (status) => {
    await using all = await rig(fail(status), { negativeTtlMs: 60_000 })
    await (await all.ask()).text()
    expect(stateOf(await all.ask())).toBe('miss')
  })

  test('of one credential are not told to another that shares its answers', async () => {
    const { promise, resolve } = Promise.withResolvers<void>()
    await using all = await rig(
      async (response, asked, number) => {
        if (asked.headers.authorization === 'Bearer two') return plainly(response, asked, number)
        await promise
        return fail(404)(response, asked, number)
      },
      { scope: 'all of us', negativeTtlMs: 60_000 }
    )
    const one = all.ask()
    await until(() => all.served.asked.length === 1, 'the first one asks')
    const two = all.ask({ headers: { authorization: 'Bearer two' } })
    resolve()
    const refused = await one
    expect([refused.status, await refused.json()]).toEqual([404, { error: { message: 'no' } }])
    expect([(await two).status, stateOf(await two)]).toEqual([200, 'bypass'])
    expect(stateOf(await all.ask())).toBe('hit')
    const other = await all.ask({ headers: { authorization: 'Bearer two' } })
    expect([other.status, stateOf(other)]).toEqual([200, 'miss'])
  })

  test('are answered by what was kept before, where that is allowed', async () => {
    let now = 0
    let status = 200
    await using all = await rig((response, asked, number) => (status === 200 ? plainly : fail(status))(response, asked, number), {
      now: () => now,
      ttlMs: 1000,
      staleIfErrorMs: 60_000
    })
    await (await all.ask()).text()
    now = 5000
    for (status of [429, 500, 503]) {
      const stale = await all.ask()
      expect([stateOf(stale), stale.headers.get('age')]).toEqual(['stale', '5'])
      expect(await stale.json()).toEqual(answer)
    }
    status = 401
    const refused = await all.ask()
    expect([refused.status, await refused.json()]).toEqual([401, { error: { message: 'no' } }])
    await all.served[Symbol.asyncDispose]()
    expect(stateOf(await all.ask())).toBe('stale')
  }, 10_000)

  test('to connect are what `fetch` itself throws', async () => {
    await using all = await rig(plainly)
    const url = `${all.served.origin}${path}`
    await all.served[Symbol.asyncDispose]()
    const init = { method: 'POST', body: '{}' }
    const [own, cached] = await Promise.all([rejection(fetch(url, init)), rejection(all.fetch(url, init))])
    expect(cached).toBeInstanceOf(TypeError)
    expect((cached as Error).message).toBe((own as Error).message)
    expect(((cached as Error).cause as { code: string }).code).toBe('ECONNREFUSED')
    await expect(all.fetch(url, { ...init, headers: { 'bad name': 'a' } })).rejects.toThrow(TypeError)
  })
})

describe('answers that are not whole', () => {
  test.each<[string, Answering]>([
    [
      'that break off',
      (response) => {
        response.writeHead(200, { 'content-type': 'text/event-stream' })
        response.write(events.slice(0, 3).map(frame).join(''), () => response.destroy())
      }
    ],
    [
      'that end early',
      (response) => response.writeHead(200, { 'content-type': 'text/event-stream' }).end(events.slice(0, 4).map(frame).join(''))
    ],
    [
      'that are no UTF-8',
      (response) => response.writeHead(200, { 'content-type': 'application/json' }).end(Buffer.from([0x22, 0xff, 0x22]))
    ],
    ['that are half JSON', (response) => response.writeHead(200, { 'content-type': 'application/json' }).end('{"choices":[')],
    ['that say no type', (response) => response.writeHead(200).end(JSON.stringify(answer))],
    ['that are empty', (response) => response.writeHead(204).end()],
    [
      'of another status',
      (response) => response.writeHead(202, { 'content-type': 'application/json' }).end(JSON.stringify(answer))
    ]
  ])('%s are handed on and not kept', async (_, answering) => {
    await using all = await rig(answering)
    for (let time = 1; time <= 2; time++) {
      const response = await all.ask({ body: { stream: true } })
      await response.text().catch(() => {})
      expect(all.served.asked).toHaveLength(time)
    }
    expect(all.cache.stats()).toMatchObject({ stored: 0, notStored: 2 })
  })
})

test('an answer that writes of the end is not at its end', async () => {
  const content = 'I print data: [DONE] and "message_stop" and "response.completed" when I finish'
  const all = [
    ...[content, 'message_stop', 'response.completed'].map((text) => ({
      choices: [{ index: 0, delta: { content: text }, finish_reason: null }]
    })),
    ...events.slice(1)
  ].map(frame)
  await using own = await rig(async (response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(all.slice(0, 3).join(''))
    // Longer than what has said its last word is waited for.
    await delay(1300)
    response.end(all.slice(3).join(''))
  })
  expect(await (await own.ask({ body: { stream: true } })).text()).toBe(all.join(''))
  expect(own.cache.stats().stored).toBe(1)
})

test('a stream that has said its last event and stays open is kept, and one that goes on behind it is not', async () => {
  await using all = await rig(async (response, _, number) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    // The last event in two pieces.
    response.write(streamed.slice(0, -6))
    await delay(20)
    response.write(streamed.slice(-6))
    if (number > 1) await delay(20)
    if (number > 1) response.end(frame(events[1] as object))
  })
  const reader = ((await all.ask({ body: { stream: true } })).body as ReadableStream<Uint8Array>).getReader()
  let text = ''
  while (!text.endsWith('[DONE]\n\n')) text += Buffer.from((await reader.read()).value as Uint8Array).toString()
  await reader.cancel()
  await until(() => all.cache.stats().stored === 1, 'the answer is kept')
  expect(await (await all.ask({ body: { stream: true } })).text()).toBe(streamed)
  await (await all.ask({ body: { stream: true, seed: 1 } })).text()
  expect(all.cache.stats()).toMatchObject({ stored: 1, notStored: 1 })
})

test('a body that breaks off behind its head is told as what it was, by the source and by its return', async () => {
  const served = await serveHttp((response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders()
    setTimeout(() => response.socket?.resetAndDestroy(), 20)
  })
  await using _ = served
  const items = openUpstream({
    send: () => fetch(served.origin),
    judge: () => undefined,
    maxBytes: 1000,
    by: '',
    onHead() {},
    failures: createFailures()
  })[Symbol.asyncIterator]()
  expect((await items.next()).value).toMatchObject({ kind: 'head', status: 200 })
  const error = await rejection(items.next())
  expect(isMillraceError(error, 'network')).toBe(true)
  expect(await items.return?.()).toEqual({ done: true, value: undefined })
})

test('a reader that stops at the terminal event leaves a whole answer behind', async () => {
  await using all = await rig(async (response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(streamed)
    await delay(30)
    response.end()
  })
  const reader = ((await all.ask({ body: { stream: true } })).body as ReadableStream<Uint8Array>).getReader()
  let text = ''
  while (!text.includes('[DONE]')) text += Buffer.from((await reader.read()).value as Uint8Array).toString()
  await reader.cancel()
  await until(() => all.cache.stats().stored === 1, 'the answer is kept')
})

test('a hit takes as long between its pieces as the answer took, where the cache is told to', async () => {
  await using all = await rig(
    async (response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      for (const event of events) {
        // Torn within a character.
        const bytes = Buffer.from(frame(event))
        const cut = bytes.indexOf(0xf0) + 2
        response.write(bytes.subarray(0, cut))
        await delay(40)
        response.write(bytes.subarray(cut))
      }
      response.end()
    },
    { pace: 'recorded' }
  )
  async function read(response: Response): Promise<{ text: string; pieces: number; tookMs: number }> {
    const startedAt = performance.now()
    const bytes: Uint8Array[] = []
    for await (const piece of response.body as unknown as AsyncIterable<Uint8Array>) bytes.push(piece)
    return { text: Buffer.concat(bytes).toString(), pieces: bytes.length, tookMs: performance.now() - startedAt }
  }
  const first = await read(await all.ask({ body: { stream: true } }))
  const hit = await all.ask({ body: { stream: true } })
  expect(stateOf(hit)).toBe('hit')
  const second = await read(hit)
  expect([first.text, second.text]).toEqual([streamed, streamed])
  expect(second.pieces).toBeGreaterThan(3)
  expect(second.tookMs).toBeGreaterThan(first.tookMs - 100)
  const abort = new AbortController()
  const left = await all.ask({ body: { stream: true }, signal: abort.signal })
  const reading = rejection(left.text())
  abort.abort('enough')
  expect(await reading).toBe('enough')
  await (await all.ask({ body: { stream: true } })).body?.cancel()
})

test('a stale answer comes at once while one call fetches the next, without what named the first', async () => {
  let now = 0
  await using all = await rig(plainly, { now: () => now, ttlMs: 1000, staleWhileRevalidateMs: 60_000 })
  await (await all.ask({ headers: { 'idempotency-key': 'a' } })).text()
  now = 2000
  const states = await Promise.all(
    Array.from({ length: 5 }, async () => stateOf(await all.ask({ headers: { 'idempotency-key': 'b' } })))
  )
  expect(states).toEqual(Array.from({ length: 5 }, () => 'stale'))
  await until(() => all.cache.stats().refreshes === 1, 'it is refreshed')
  expect(all.served.asked.map(({ headers }) => headers['idempotency-key'])).toEqual(['a', undefined])
  expect(stateOf(await all.ask())).toBe('hit')
})

describe('recordings', () => {
  const ids = new Map([
    ['openai.chat', path],
    ['openai.completions', '/v1/completions'],
    ['openai.responses', '/v1/responses'],
    ['anthropic.messages', '/v1/messages'],
    ['gemini.generateContent', '/v1/models/m:streamGenerateContent']
  ])
  const all = [...ids].flatMap(([api, route]) =>
    (loadRecordings({ api }) ?? [])
      .filter(({ status, body }) => status === 200 && body.length < 60_000)
      .slice(0, 12)
      .map((recording) => ({ recording, route }))
  )
  if (all.length === 0) console.warn('skipped: the recordings are not at ../shared/real/recordings')

  test.skipIf(all.length === 0)(
    'come through byte by byte, the first time and from the cache (cuts by seed 7)',
    async () => {
      let hits = 0
      for (const { recording, route } of all) {
        await using cache = createCache()
        const served = await serveRecording(recording, { seed: 7 })
        const cached = cache.fetch(fetch)
        for (let time = 0; time < 2; time++) {
          const body = JSON.stringify({ model: 'm', stream: recording.stream })
          const response = await cached(`${served.url.replace(/\/v1$/, '')}${route}`, { method: 'POST', body })
          const bytes = Buffer.from(await response.arrayBuffer())
          expect(bytes.equals(recording.body), recording.id).toBe(true)
          if (stateOf(response) === 'hit') hits++
        }
        await served.close()
      }
      expect(hits).toBeGreaterThan(20)
    },
    60_000
  )
})

describe('items for other processes', () => {
  const items: readonly HttpItem[] = itemsOf({
    status: 200,
    headers: [['content-type', 'application/json']],
    body: '{"a":"Grüße 👋"}',
    model: 'm',
    usage: {
      input: { uncached: 1, cacheRead: 0, cacheWrite: 0 },
      output: { text: 1, reasoning: 0 },
      estimated: false,
      billed: true
    }
  })

  test('come back from JSON as they were', () => {
    for (const item of items) expect(decodeItem(JSON.parse(JSON.stringify(encodeItem(item))) as Json)).toEqual(item)
    expect(Buffer.from(items[1] as string, 'latin1').toString()).toBe('{"a":"Grüße 👋"}')
  })

  test('take no more bytes than the text they stand for, and torn characters come back whole', () => {
    const text = 'Grüße 👋 你好 '.repeat(100)
    const bytes = Buffer.from(text)
    expect(Buffer.byteLength(JSON.stringify(encodeItem(pieceOf(bytes))))).toBe(bytes.length + 2)
    for (let cut = 0; cut < 30; cut++) {
      const pieces = [pieceOf(bytes.subarray(0, cut)), pieceOf(bytes.subarray(cut))]
      const told = pieces.map((piece) => JSON.stringify(encodeItem(piece)))
      expect(told.map((piece) => decodeItem(JSON.parse(piece) as Json))).toEqual(pieces)
      expect(Buffer.byteLength(told.join(''))).toBeLessThan(1.5 * bytes.length)
    }
  })

  test('are none where the answer is no answer: what is said of a failure may quote the prompt', () => {
    for (const status of [204, 400, 401, 404, 429, 500]) {
      expect(encodeItem(headOf(new Response(null, { status }), ''))).toBeUndefined()
    }
  })

  test('are refused where they cannot have come', () => {
    const [head, , tail] = items as unknown as [Record<string, Json>, string, Record<string, Json>]
    for (const bad of [
      null,
      1,
      [],
      '\ud800',
      {},
      { ...head, status: 99 },
      { ...head, by: 1 },
      { ...head, headers: [['a', 'b\r\nc: d']] },
      { ...head, headers: [['a b', 'c']] },
      { ...tail, usage: {} },
      { ...tail, model: 1 }
    ]) {
      expect(decodeItem(bad as Json)).toBeUndefined()
    }
  })
})

test('leaves nothing open behind many calls of every kind', async () => {
  const probe = probeLeaks()
  const warned = vi.fn<(warning: Error) => void>()
  process.on('warning', warned)
  const abort = new AbortController()
  {
    await using all = await rig((response, asked, number) => (number % 3 === 0 ? inEvents : plainly)(response, asked, number))
    for (let count = 0; count < 150; count++) {
      const response = await all.ask({ body: { stream: count % 2 === 0, seed: count % 20 }, signal: abort.signal })
      if (count % 5 === 0) await response.body?.cancel()
      else await response.text()
    }
    expect(getEventListeners(abort.signal, 'abort')).toHaveLength(0)
    await all.cache.close()
    expect(stateOf(await all.ask())).toBe('bypass')
  }
  await probe.check()
  process.off('warning', warned)
  expect(warned).not.toHaveBeenCalled()
})
