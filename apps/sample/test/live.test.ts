import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { parseSSE } from '@millrace/core'
import { startScriptedProvider } from '@millrace/testkit'
import { expect, test } from 'vitest'
import { readConfig } from '../src/config.ts'
import { createFrames } from '../src/live-frames.ts'
import { type Service, startService } from '../src/service.ts'
import type { Snapshot } from '../src/snapshot.ts'

const token = 'letmein-letmein-letmein'
const authorization = `Bearer ${token}`

async function start(more: Record<string, string> = {}): Promise<Service> {
  const env = {
    PORT: '0',
    OPENAI_API_KEY: 'k',
    OPENAI_BASE_URL: 'http://127.0.0.1:9/v1',
    OPENAI_MODEL: 'scripted-large',
    ...more
  }
  return startService(readConfig(env), env)
}

test('the page gets a snapshot at once and one a second, and what it says is what happened', async () => {
  await using provider = await startScriptedProvider()
  await using service = await start({ OPENAI_BASE_URL: provider.url })
  const body = { model: 'scripted-large', stream: true, messages: [{ role: 'user', content: 'a' }] }
  const init = { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }
  for (let n = 0; n < 2; n++) await (await fetch(`${service.url}/v1/chat/completions`, init)).text()
  const stop = new AbortController()
  const response = await fetch(`${service.url}/v1/live`, { signal: stop.signal })
  expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
  const seen: { snapshot: Snapshot; at: number }[] = []
  for await (const { event, data } of parseSSE(response.body as ReadableStream<Uint8Array>)) {
    expect(event).toBe('snapshot')
    seen.push({ snapshot: JSON.parse(data) as Snapshot, at: performance.now() })
    if (seen.length === 2) break
  }
  stop.abort()
  const [one, two] = seen as [(typeof seen)[0], (typeof seen)[0]]
  expect(two.at - one.at).toBeGreaterThan(500)
  expect(two.snapshot.at).toBeGreaterThan(one.snapshot.at)
  const { snapshot } = one
  expect(snapshot).toMatchObject({
    redis: 'off',
    embedded: false,
    model: 'scripted-large',
    stats: { calls: 2, cache: { hits: 1, misses: 1 } },
    requests: { running: 0, refused: 0, total: 2 },
    faults: { provider: 'none', redis: 'none', available: { provider: [], redis: [] } },
    calls: [{ cache: 'hit' }, { cache: 'miss' }]
  })
  expect(snapshot.histograms.duration.counts).toHaveLength(snapshot.histograms.duration.bounds.length + 1)
  for (const name of ['duration', 'firstText', 'overhead'] as const) {
    expect(snapshot.histograms[name].counts.reduce((sum, count) => sum + count, 0)).toBe(2)
  }
  expect(Object.values(snapshot.limits)).toMatchObject([{ running: 0, tokensLeft: null }])
  expect(snapshot.memory.heapUsedBytes).toBeGreaterThan(1e6)

  const stats = (await (await fetch(`${service.url}/v1/stats`)).json()) as Record<string, unknown>
  expect(stats).toMatchObject({ calls: 2, requests: { total: 2 }, streams: { running: 0 }, recorder: { failures: 0 } })
  expect(stats.replica).toBe(snapshot.replica)
})

test('only the operator may look', async () => {
  await using service = await start({ MILLRACE_TOKEN: token })
  for (const path of ['/v1/live', '/v1/stats']) {
    expect((await fetch(`${service.url}${path}`)).status).toBe(401)
    const response = await fetch(`${service.url}${path}`, { headers: { authorization } })
    expect(response.status).toBe(200)
    await response.body?.cancel()
  }
})

test('open pages hold up no close: they end in order', async () => {
  const service = await start()
  const pages = await Promise.all([1, 2, 3].map(() => fetch(`${service.url}/v1/live`)))
  const texts = pages.map((page) => page.text())
  await delay(50)
  const startedAt = performance.now()
  await service.close()
  expect(performance.now() - startedAt).toBeLessThan(5000)
  for (const text of await Promise.all(texts)) expect(text).toMatch(/^event: snapshot\ndata: \{.*\}\n\n$/s)
})

test('the hundred and first page is refused, and a place is free when one leaves', async () => {
  let taken = 0
  const frames = createFrames(
    async () => `${++taken}`,
    () => false
  )
  const stop = new AbortController()
  const late = frames.follow(stop.signal).getReader()
  const readers = Array.from({ length: 100 }, () => frames.follow(stop.signal).getReader())
  const first = await Promise.all(readers.map((reader) => reader.read()))
  expect(() => frames.follow(stop.signal)).toThrow('100 pages are open already')
  expect((await late.read()).done).toBe(true)
  expect(new Set(first.map(({ value }) => new TextDecoder().decode(value)))).toEqual(new Set(['1']))
  await readers[0]?.cancel()
  readers[0] = frames.follow(stop.signal).getReader()
  stop.abort()
  const ends = await Promise.all(readers.map((reader) => reader.read()))
  expect(ends.every(({ done }) => done)).toBe(true)
  const before = taken
  await delay(1500)
  expect(taken).toBe(before)
})

test('an answer that nobody reads takes no place and no snapshot', async () => {
  let taken = 0
  const frames = createFrames(
    async () => `${++taken}`,
    () => false
  )
  const stop = new AbortController()
  const unread = Array.from({ length: 200 }, () => frames.follow(stop.signal))
  await delay(20)
  expect(taken).toBe(0)
  await unread[0]?.cancel()
  const reader = frames.follow(stop.signal).getReader()
  expect((await reader.read()).done).toBe(false)
  stop.abort()
  expect((await reader.read()).done).toBe(true)
  expect((await (unread[1] as ReadableStream<Uint8Array>).getReader().read()).done).toBe(true)
})

test('a page from elsewhere may lead a browser to ours, but not read or hold open what we do', async () => {
  await using service = await start()
  const from = { 'sec-fetch-site': 'cross-site' }
  // A link: the page is public, and asks as our own from then on.
  expect((await fetch(service.url, { headers: from })).status).toBe(200)
  for (const path of ['/v1/live', '/v1/stats', '/metrics']) {
    expect((await fetch(service.url + path, { headers: from })).status).toBe(403)
  }
})

test('a reader that is slow misses frames and gets the latest; nothing queues up for it', async () => {
  let taken = 0
  const frames = createFrames(
    async () => `${++taken}`,
    () => false
  )
  const stop = new AbortController()
  const reader = frames.follow(stop.signal).getReader()
  const read = async (): Promise<number> => Number(new TextDecoder().decode((await reader.read()).value))
  expect(await read()).toBe(1)
  await expect.poll(() => taken, { timeout: 20_000 }).toBeGreaterThanOrEqual(4)
  expect(await read()).toBe(taken)
  stop.abort()
})

test('a snapshot that fails ends the pages, which come again, and is told once on the console', async () => {
  let fails = true
  const frames = createFrames(
    async () => {
      if (fails) throw new TypeError('broken')
      return 'fine'
    },
    () => false
  )
  const told: unknown[] = []
  const { error } = console
  console.error = (...words: unknown[]) => void told.push(words)
  try {
    const stop = new AbortController()
    expect((await frames.follow(stop.signal).getReader().read()).done).toBe(true)
    fails = false
    expect((await frames.follow(stop.signal).getReader().read()).done).toBe(false)
    stop.abort()
  } finally {
    console.error = error
  }
  expect(told).toHaveLength(1)
})

test('a page that stops reading its socket leaves the others their frames', async () => {
  await using service = await start()
  const { port, hostname } = new URL(service.url)
  const stuck = connect({ port: Number(port), host: hostname })
  stuck.pause()
  stuck.write(`GET /v1/live HTTP/1.1\r\nhost: ${hostname}:${port}\r\n\r\n`)
  await delay(100)
  const response = await fetch(`${service.url}/v1/live`)
  let frames = 0
  for await (const _ of parseSSE(response.body as ReadableStream<Uint8Array>)) if (++frames === 2) break
  expect(frames).toBe(2)
  stuck.destroy()
})
