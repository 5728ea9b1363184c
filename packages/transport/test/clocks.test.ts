import { spawn } from 'node:child_process'
import { getEventListeners } from 'node:events'
import { fileURLToPath } from 'node:url'
import { type Clock, type HttpRequest, isMillraceError, type Timeouts } from '@millrace/core'
import { createFetch, createTransport, type Transport, type TransportOptions } from '@millrace/transport'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { until } from './serve.ts'
import {
  block,
  clocked,
  counted,
  failing,
  ofCode,
  post,
  receive,
  type ServerProcess,
  startServer,
  watchTimers
} from './under-fault.ts'

let server: ServerProcess
beforeAll(async () => {
  server = await startServer(new URL('./clocks-main.ts', import.meta.url))
  // The first call of a process also loads undici.
  await using transport = createTransport({ retry: false })
  await transport.warm(server.url)
})
afterAll(() => server[Symbol.asyncDispose]())

const open: Transport[] = []
function start(options?: TransportOptions): Transport {
  const transport = createTransport(options)
  open.push(transport)
  return transport
}
afterEach(async () => {
  for (const transport of open.splice(0)) await transport.close({ graceMs: 0 })
  await counted(server, { open: 0 })
})

/** How a call is given its limits. */
type Door = 'send' | 'fetch' | 'createTransport'
const doors: readonly Door[] = ['send', 'fetch', 'createTransport']

type Call = (request: HttpRequest) => Promise<{ read(): Promise<string> }>

function doorOf(door: Door, timeouts: Timeouts, options: TransportOptions = {}): { transport: Transport; call: Call } {
  const transport = start(door === 'createTransport' ? { ...options, timeouts } : options)
  const fetch = createFetch(transport.send, { options: () => ({ timeouts }) })
  const call: Call = async (request) => {
    if (door === 'fetch') {
      const { method, url, headers, body, signal } = request
      const init = { method, headers, body: body as string, ...(signal === undefined ? {} : { signal }) }
      const response = await fetch(url, init).catch((error: TypeError) => {
        throw isMillraceError(error.cause) ? error.cause : error
      })
      return { read: () => response.text() }
    }
    const { body } = await transport.send(door === 'send' ? { ...request, timeouts } : request)
    return { read: () => body.text() }
  }
  return { transport, call }
}

/** A socket stands and everything is loaded: what is timed is the clock. */
async function warm(transport: Transport): Promise<void> {
  await (await transport.send(post(`${server.url}/late//0`, { timeouts: { headersMs: 5000 } }))).body.text()
}

/** What makes each clock fire, and the option that sets it. */
const firings: readonly (readonly [clock: Clock, option: keyof Timeouts, path: string])[] = [
  ['headers', 'headersMs', '/silent'],
  ['headers', 'headersMs', '/slow-head//30'],
  ['first-chunk', 'firstChunkMs', '/silent'],
  ['first-chunk', 'firstChunkMs', '/noise/nothing'],
  ['first-chunk', 'firstChunkMs', '/noise/comments'],
  ['first-chunk', 'firstChunkMs', '/noise/comments/0'],
  ['first-chunk', 'firstChunkMs', '/noise/pings'],
  ['first-chunk', 'firstChunkMs', '/noise/roles'],
  ['first-chunk', 'firstChunkMs', '/noise/empty'],
  ['first-chunk', 'firstChunkMs', '/noise/nulls'],
  ['first-chunk', 'firstChunkMs', '/noise/bytes/10'],
  ['total', 'totalMs', '/silent'],
  ['total', 'totalMs', '/noise/comments'],
  ['total', 'totalMs', '/content/w/10'],
  ['total', 'totalMs', '/drip-json//10'],
  ['total', 'totalMs', '/stalled-body'],
  ['total', 'totalMs', '/error-body']
]

const few: ReadonlySet<string> = new Set(['/silent', '/noise/comments'])
const silences = ['nothing', 'comments', 'pings', 'roles', 'empty', 'nulls', 'bytes']

describe.each(doors)('given to %s', (door) => {
  // Every way to be silent through one door; through the others one for each clock.
  const cases = door === 'send' ? firings : firings.filter(([, , path]) => few.has(path))
  const kinds = door === 'send' ? silences : ['nothing', 'comments']

  test.each(cases)(
    'the %s clock (%s) fires at %s in time, names itself, closes the socket, leaves nothing',
    async (clock, option, path) => {
      using timers = watchTimers()
      const limitMs = 200
      // Other clocks are off, so that it is this one.
      const { call, transport } = doorOf(door, { idleMs: Number.POSITIVE_INFINITY, [option]: limitMs })
      await warm(transport)
      const before = (await server.counts()).requests ?? 0
      const { signal } = new AbortController()
      const { error, lateMs, elapsedMs, allowedMs } = await clocked(limitMs, async () => {
        const { read } = await call(post(server.url + path, { signal }))
        return read()
      })
      const { details } = ofCode(error, 'timeout')
      expect(details).toMatchObject({ clock, limitMs })
      expect(details.elapsedMs).toBeGreaterThanOrEqual(limitMs - 1)
      expect(elapsedMs).toBeGreaterThanOrEqual(limitMs - 2)
      expect(lateMs).toBeLessThan(allowedMs)
      expect(getEventListeners(signal, 'abort')).toHaveLength(0)
      // Not tried again: the provider may be at work on it.
      await counted(server, { open: 0, requests: before + 1 })
      await until(() => timers.left === 0, 'no timer is left')
    }
  )

  test.each(kinds)('the idle clock fires behind content where the server sends %s', async (kind) => {
    using timers = watchTimers()
    const before = (await server.counts()).requests ?? 0
    const limitMs = 200
    const { call } = doorOf(door, { idleMs: limitMs })
    const { signal } = new AbortController()
    const { error, lateMs, elapsedMs, allowedMs } = await clocked(limitMs, async (started) => {
      const { read } = await call(post(`${server.url}/after-content/${kind}`, { signal }))
      started()
      return read()
    })
    expect(ofCode(error, 'timeout').details).toMatchObject({ clock: 'idle', limitMs })
    expect(elapsedMs).toBeGreaterThanOrEqual(limitMs - 20)
    expect(lateMs).toBeLessThan(allowedMs)
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
    await counted(server, { open: 0, requests: before + 1 })
    await until(() => timers.left === 0, 'no timer is left')
  })

  test('the connect clock covers the TLS handshake; it is tried again, for nothing was sent', async () => {
    using timers = watchTimers()
    const before = (await server.counts()).connections ?? 0
    const limitMs = 150
    const once = doorOf(door, { connectMs: limitMs }, { retry: false })
    const secure = server.url.replace('http:', 'https:')
    const { error, lateMs, elapsedMs, allowedMs } = await clocked(limitMs, () => once.call(post(secure)))
    expect(ofCode(error, 'timeout').details).toMatchObject({ clock: 'connect', limitMs })
    expect(elapsedMs).toBeGreaterThanOrEqual(limitMs - 2)
    expect(lateMs).toBeLessThan(allowedMs)
    await counted(server, { open: 0, connections: before + 1 })
    const again = doorOf(door, { connectMs: 50 }, { retry: { maxAttempts: 3, baseMs: 1 } })
    expect(ofCode(await failing(again.call(post(secure))), 'timeout').context.attempt).toBe(3)
    await counted(server, { open: 0, connections: before + 4 })
    await until(() => timers.left === 0, 'no timer is left')
  })

  test('the wait for a socket counts against the total, and is named queue', async () => {
    using timers = watchTimers()
    const limitMs = 200
    const { call, transport } = doorOf(door, { totalMs: limitMs }, { maxConnections: 1 })
    const stop = new AbortController()
    const blocker = failing(
      transport.send(post(`${server.url}/silent`, { signal: stop.signal, timeouts: { totalMs: Number.POSITIVE_INFINITY } }))
    )
    const { signal } = new AbortController()
    const { error, lateMs, elapsedMs, allowedMs } = await clocked(limitMs, () => call(post(`${server.url}/silent`, { signal })))
    expect(ofCode(error, 'timeout').details).toMatchObject({ clock: 'queue', limitMs })
    expect(elapsedMs).toBeGreaterThanOrEqual(limitMs - 2)
    expect(lateMs).toBeLessThan(allowedMs)
    expect(getEventListeners(signal, 'abort')).toHaveLength(0)
    stop.abort('enough')
    expect(await blocker).toBe('enough')
    expect(transport.stats().origins[server.url]).toMatchObject({ busy: 0, queued: 0 })
    await until(() => timers.left === 0, 'no timer is left')
  })
})

describe('what is slow but not silent is not cut', () => {
  const timeouts = { headersMs: 400, firstChunkMs: 400, idleMs: 400 }

  test('content that comes steadily, for longer than any clock but the total', async () => {
    const { body } = await start().send(post(`${server.url}/content/w/50/30`, { timeouts }))
    const { text, error } = await receive(body)
    expect(error).toBeUndefined()
    for (let word = 0; word < 30; word++) expect(text).toContain(`w${word} `)
  })

  test('a reader that takes its time between two reads, also while the server is held back', async () => {
    const { body } = await start().send(post(`${server.url}/content/${'long'.repeat(4000)}/0/300`, { timeouts: { idleMs: 150 } }))
    let words = 0
    let text = ''
    for await (const batch of body) {
      text += Buffer.concat(batch).toString()
      if (words++ < 4) await new Promise((resolve) => setTimeout(resolve, 400))
    }
    expect(text.match(/long\d+ /g)).toHaveLength(300)
  })

  test('an answer that is no stream, however long its silences, within the total', async () => {
    const { body } = await start().send(post(`${server.url}/drip-json//150/6`, { timeouts: { firstChunkMs: 2000, idleMs: 50 } }))
    expect(await body.text()).toBe('111111')
  })
})

test('behind 64 KiB without content the answer is let go, and its first content is still waited for', async () => {
  const timeouts = { firstChunkMs: 600, idleMs: 100 }
  const response = await start().send(post(`${server.url}/noise/flood/10`, { timeouts }))
  const { text, error } = await receive(response.body)
  expect(text.length).toBeGreaterThan(65_536)
  expect(ofCode(error, 'timeout').details).toMatchObject({ clock: 'first-chunk', limitMs: 600 })
})

test('no hidden cap ends a call: head, content and body may each take 20 minutes, seen through scaled time', async () => {
  const child = spawn(
    process.execPath,
    ['--conditions=@millrace/source', fileURLToPath(new URL('./long-main.ts', import.meta.url)), server.url],
    { stdio: ['ignore', 'pipe', 'inherit'] }
  )
  let told = ''
  for await (const text of child.stdout.setEncoding('utf8')) told += text
  const { control, ...results } = JSON.parse(told) as Record<string, string>
  // That time is scaled for undici too, whose own limits of 300 s are what must not be there.
  expect(control).toBe('UND_ERR_BODY_TIMEOUT UND_ERR_HEADERS_TIMEOUT')
  expect(results).toEqual({ head: '{"ok":true}', body: 'ab', stream: 'w0 w1 ', total: 'total after 1200000', timers: '0' })
}, 60_000)

describe('an event loop that was blocked for two seconds', () => {
  const limitMs = 1000

  test.each([
    ['headers', 'headersMs', '/late//300'],
    ['total', 'totalMs', '/late//300'],
    ['first-chunk', 'firstChunkMs', '/content/w/300/2']
  ] as const)('does not trip the %s clock when what it waits for came in time', async (_, option, path) => {
    const before = (await server.counts()).requests ?? 0
    const call = start().send(post(server.url + path, { timeouts: { [option]: limitMs } }))
    await counted(server, { requests: before + 1 })
    block(2000)
    const response = await call
    expect(response.status).toBe(200)
    expect((await receive(response.body)).error).toBeUndefined()
  })

  test('does not trip the idle clock', async () => {
    const { body } = await start().send(post(`${server.url}/content/w/400/3`, { timeouts: { idleMs: limitMs } }))
    const iterator = body[Symbol.asyncIterator]()
    await iterator.next()
    const next = iterator.next()
    await new Promise((resolve) => setTimeout(resolve, 20))
    block(2000)
    expect((await next).done).toBe(false)
    expect((await iterator.next()).done).not.toBeUndefined()
    body.cancel()
  })

  test('does not hide that nothing came', async () => {
    const before = (await server.counts()).requests ?? 0
    const startedAt = performance.now()
    const call = failing(start().send(post(`${server.url}/silent`, { timeouts: { headersMs: 300 } })))
    await counted(server, { requests: before + 1 })
    block(2000)
    expect(ofCode(await call, 'timeout').details).toMatchObject({ clock: 'headers', limitMs: 300 })
    expect(performance.now() - startedAt).toBeLessThan(2000 + 300 + 500)
  })
})
