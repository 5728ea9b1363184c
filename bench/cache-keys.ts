// The ways from a request of 16 KB to its key, and to its answer in memory.
import { createHash } from 'node:crypto'
import type { ChatRequest } from '@millrace/core'
import { answering, longRequests, origin, ttlMs } from './cache-traffic.ts'
import type { Work } from './turns.ts'

type Quotes = Parameters<typeof longRequests>[0]

export const keySubjects: Readonly<Record<string, () => Promise<Work>>> = {
  'md5 of JSON.stringify': () => md5('plain'),
  'md5 of JSON.stringify again': () => md5('plain'),
  'md5 of JSON.stringify of two-byte text': () => md5('typographic'),
  'JSON.stringify': () => keyed('plain', JSON.stringify),
  keyOf: () => ourKey('plain'),
  'keyOf of two-byte text': () => ourKey('typographic'),

  async 'withCache and collect'() {
    const { createCache, withCache } = await import('@millrace/cache')
    const { collect } = await import('@millrace/core')
    let calls = 0
    const provider = answering(answerTo, () => calls++ < 64)
    const cached = withCache(createCache({ ttlMs }), { origin })(provider)
    return answered(async (request) => (await collect(cached(request, {}))).text)
  },

  async 'adapter.complete'() {
    const { createAdapter } = await import('@millrace/adapter')
    let calls = 0
    const provider = answering(answerTo, () => calls++ < 64)
    const adapter = createAdapter({ provider, origin, cache: { ttlMs } })
    return answered(async (request) => (await adapter.complete(request)).text)
  }
}

const answerTo = (prompt: string): string => `The answer to ${prompt}`.repeat(4)

const md5 = (quotes: Quotes): Promise<Work> =>
  keyed(quotes, (request) => createHash('md5').update(JSON.stringify(request)).digest('hex'))

async function ourKey(quotes: Quotes): Promise<Work> {
  const { keyOf } = await import('@millrace/cache')
  return keyed(quotes, (request) => keyOf(request, { origin, scope: 'bench' }))
}

async function keyed(quotes: Quotes, keyOf: (request: ChatRequest) => string): Promise<Work> {
  const requests = longRequests(quotes)
  if (new Set(requests.map((request) => keyOf(request))).size !== requests.length) throw new Error('two requests have one key')
  return async () => {
    for (const request of requests) if (keyOf(request) === '') throw new Error('no key')
    return { units: requests.length }
  }
}

/** Asks for all once, which makes 64 calls of the provider; whatever makes another one fails. */
async function answered(ask: (request: ChatRequest) => Promise<string>): Promise<Work> {
  const requests = longRequests('plain')
  const first = await Promise.all(requests.map(ask))
  for (const [index, request] of requests.entries()) {
    if ((await ask(request)) !== first[index] || !first[index]?.startsWith(`The answer to ${index}.0: `)) {
      throw new Error('a wrong answer')
    }
  }
  return async () => {
    for (const request of requests) if ((await ask(request)) === '') throw new Error('no answer')
    return { units: requests.length }
  }
}
