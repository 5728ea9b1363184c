import { setTimeout as delay } from 'node:timers/promises'
import { requireRedis, startScriptedProvider } from '@millrace/testkit'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { batchRoutes } from '../src/batch-route.ts'
import { type Batches, queuedBatches } from '../src/batches.ts'
import { requestLines } from '../src/request-lines.ts'
import { type Routes, type RoutesOptions, startRoutes } from './routes-rig.ts'

interface OutputLine {
  readonly id: string
  readonly custom_id: string | null
  readonly response: { readonly status_code: number; readonly request_id: string; readonly body: Record<string, never> } | null
  readonly error: { readonly code: string; readonly message: string } | null
}

let provider: Awaited<ReturnType<typeof startScriptedProvider>>
const asked: string[] = []
let running = 0
let most = 0

beforeAll(async () => {
  provider = await startScriptedProvider({
    reply: async ({ prompt }) => {
      asked.push(prompt)
      if (prompt.startsWith('slow')) await delay(20_000, undefined, { ref: false })
      if (prompt.startsWith('counted')) {
        most = Math.max(most, ++running)
        await delay(20)
        running--
      }
      if (prompt.startsWith('status ')) return { status: Number(prompt.slice(7)), body: '{"error":{"message":"secret"}}' }
      return { text: `answer to ${prompt}` }
    }
  })
})
afterAll(() => provider.close())

async function start(options: RoutesOptions = {}, batches?: Batches): Promise<Routes> {
  const routes = await startRoutes((parts) => batchRoutes({ ...parts, batches: batches ?? parts.batches }), {
    openai: provider.url,
    cache: 'off',
    transport: { retry: false },
    ...options
  })
  onTestFinished(() => routes[Symbol.asyncDispose]())
  return routes
}

function line(custom_id: unknown, content: string, more: object = {}): string {
  const body = { model: 'scripted-large', messages: [{ role: 'user', content }] }
  return `${JSON.stringify({ custom_id, method: 'POST', url: '/v1/chat/completions', body, ...more })}\n`
}

async function send(url: string, body: string | ReadableStream, headers: Record<string, string> = {}): Promise<OutputLine[]> {
  const response = await fetch(`${url}/v1/batch`, { method: 'POST', body, headers, duplex: 'half' } as RequestInit)
  expect(response.headers.get('content-type')).toBe('application/jsonl')
  return (await response.text())
    .split('\n')
    .filter((text) => text !== '')
    .map((text) => JSON.parse(text) as OutputLine)
}

const byText = (one: string, other: string): number => one.localeCompare(other)

const textOf = ({ response }: OutputLine): unknown =>
  (response?.body as { choices?: { message: { content: string } }[] } | undefined)?.choices?.[0]?.message.content

describe.each(['in this process', 'over Redis'])('a batch %s', (where) => {
  let redis: Awaited<ReturnType<typeof requireRedis>> | undefined
  beforeAll(async () => {
    if (where === 'over Redis') redis = await requireRedis()
  })
  afterAll(() => redis?.server?.stop())

  /** Two replicas; the first has the routes. */
  async function begin(options: RoutesOptions = {}): Promise<Routes | undefined> {
    if (redis === undefined) return start(options)
    if (redis.server === undefined) return undefined
    const { url } = redis.server
    const opened: Batches[] = []
    const routes = await start(options)
    for (let replica = 0; replica < 2; replica++) {
      const { adapter, config } = routes.parts
      opened.push(await queuedBatches({ adapter, itemMs: config.streamMs, url, maxBodyBytes: config.maxBodyBytes }))
    }
    onTestFinished(async () => {
      await Promise.all(opened.map((one) => one.close({ graceMs: 0 })))
    })
    return start(options, opened[0])
  }

  test('answers each line once, bad ones with why, and stops at none', async ({ skip }) => {
    const routes = await begin()
    if (routes === undefined) return skip()
    const lines = await send(
      routes.url,
      [
        line('a', 'one'),
        'no json\n',
        '\n',
        line('a', 'again'),
        line('', 'no name'),
        line('get', 'x', { method: 'GET' }),
        line('embed', 'x', { url: '/v1/embeddings' }),
        line('stream', 'x', { body: { model: 'm', messages: [], stream: true } }),
        line('several', 'x', { body: { model: 'm', messages: [{ role: 'user', content: 'x' }], n: 2 } }),
        line('empty', 'x', { body: { model: 'm', messages: [] } }),
        line('failed', 'status 400'),
        line('b', 'two').trimEnd()
      ].join('')
    )
    const told = lines.map((one) => [one.custom_id, one.error?.code ?? one.response?.status_code, textOf(one)])
    expect(told.map(String).toSorted(byText)).toEqual(
      [
        ['a', 200, 'answer to one'],
        [null, 'invalid_json_line', undefined],
        ['a', 'duplicate_custom_id', undefined],
        [null, 'invalid_custom_id', undefined],
        ['get', 'invalid_method', undefined],
        ['embed', 'invalid_url', undefined],
        ['stream', 'invalid_request', undefined],
        ['several', 'unsupported_request', undefined],
        ['empty', 400, undefined],
        ['failed', 400, undefined],
        ['b', 200, 'answer to two']
      ]
        .map(String)
        .toSorted(byText)
    )
    expect(JSON.stringify(lines)).not.toContain('secret')
    expect(new Set(lines.map(({ id }) => id)).size).toBe(lines.length)
    for (const { response, error } of lines) expect((response === null) !== (error === null)).toBe(true)
  })

  test('gives answers out as they are known, while lines still come', async ({ skip }) => {
    const routes = await begin()
    if (routes === undefined) return skip()
    const { readable, writable } = new TransformStream<Uint8Array>()
    const writer = writable.getWriter()
    const encoder = new TextEncoder()
    void writer.write(encoder.encode(line('first', 'early')))
    const response = await fetch(`${routes.url}/v1/batch`, { method: 'POST', body: readable, duplex: 'half' } as RequestInit)
    const reader = (response.body as ReadableStream<Uint8Array>).getReader()
    expect(Buffer.from((await reader.read()).value ?? []).toString()).toContain('answer to early')
    void writer.write(encoder.encode(line('second', 'late')))
    void writer.close()
    expect(Buffer.from((await reader.read()).value ?? []).toString()).toContain('answer to late')
    expect((await reader.read()).done).toBe(true)
  })

  test('ends with its client', async ({ skip }) => {
    const routes = await begin()
    if (routes === undefined) return skip()
    const leaving = new AbortController()
    const name = `slow ${where}`
    const body = Array.from({ length: 100 }, (_, index) => line(String(index), `${name} ${index}`)).join('')
    const response = fetch(`${routes.url}/v1/batch`, { method: 'POST', body, signal: leaving.signal }).then((one) => one.text())
    await vi.waitFor(() => expect(asked.some((prompt) => prompt.startsWith(name))).toBe(true), 10_000)
    leaving.abort()
    await expect(response).rejects.toThrow(/abort/)
    await delay(1500)
    const before = asked.length
    await delay(500)
    expect(asked.length).toBe(before)
    expect(asked.filter((prompt) => prompt.startsWith(name)).length).toBeLessThanOrEqual(32)
  })
})

test('a replica that closes loses no line of a batch: another answers it', async ({ skip }) => {
  const { server } = await requireRedis()
  if (server === undefined) return skip()
  onTestFinished(() => server.stop())
  const [closing, staying] = [await start(), await start()]
  const join = ({ parts }: Routes): Promise<Batches> =>
    queuedBatches({ adapter: parts.adapter, itemMs: 60_000, url: server.url, maxBodyBytes: 2 ** 20 })
  await using gone = await join(closing)
  await using left = await join(staying)
  const asking = await start({}, left)
  const body = Array.from({ length: 200 }, (_, index) => line(`l${index}`, `counted lost ${index}`)).join('')
  const answered = send(asking.url, body)
  await vi.waitFor(() => expect(asked.some((prompt) => prompt.startsWith('counted lost'))).toBe(true), 10_000)
  await Promise.all([gone.close({ graceMs: 300 }), closing.parts.adapter.close({ graceMs: 300 })])
  const lines = await answered
  expect(lines.filter(({ response }) => response?.status_code === 200)).toHaveLength(200)
  expect(new Set(lines.map(({ custom_id }) => custom_id)).size).toBe(200)
}, 60_000)

test('asks sixteen at a time', async () => {
  const routes = await start()
  most = 0
  const lines = await send(routes.url, Array.from({ length: 60 }, (_, index) => line(`n${index}`, `counted ${index}`)).join(''))
  expect(lines.filter(({ response }) => response?.status_code === 200)).toHaveLength(60)
  expect(most).toBeGreaterThan(8)
  expect(most).toBeLessThanOrEqual(16)
})

test('a line belongs to its tenant: what one was answered another is not', async () => {
  const routes = await start({ cache: 'on' })
  const ask = (tenant: string): Promise<OutputLine[]> => send(routes.url, line('x', 'whose'), { 'x-tenant': tenant })
  for (const tenant of ['a', 'a', 'b']) await ask(tenant)
  expect(asked.filter((prompt) => prompt === 'whose')).toHaveLength(2)
})

test('a gateway that closes tells in the last line that the batch has not been finished', async () => {
  const routes = await start()
  await routes.parts.adapter.close({ graceMs: 0 })
  const lines = await send(routes.url, line('a', 'too late') + line('b', 'too late'))
  expect(lines.at(-1)).toMatchObject({ custom_id: null, response: null, error: { code: 'closed' } })
  expect(asked).not.toContain('too late')
})

test('a line that is too long is passed over without being held, and told', async () => {
  const routes = await start({ config: { maxBodyBytes: 2000 } })
  const lines = await send(routes.url, line('long', 'x'.repeat(100_000)) + line('short', 'short'))
  expect(lines.map((one) => one.error?.code ?? String(textOf(one))).toSorted(byText)).toEqual([
    'answer to short',
    'line_too_long'
  ])
})

test('lines are the same, wherever the body is cut', async () => {
  const text = 'one\n\ntwo, a little longer\nthree'
  for (let size = 1; size <= text.length; size++) {
    const pieces = Array.from({ length: Math.ceil(text.length / size) }, (_, at) =>
      Buffer.from(text.slice(at * size, (at + 1) * size))
    )
    const lines: object[] = []
    for await (const one of requestLines(ReadableStream.from(pieces), 10)) lines.push(one)
    expect(lines).toEqual([{ text: 'one' }, { text: '' }, { tooLong: true }, { text: 'three' }])
  }
})

test('a form is refused with the cure', async () => {
  const { url } = await start()
  const form = new FormData()
  form.set('file', new Blob([line('a', 'x')]))
  const refused = await fetch(`${url}/v1/batch`, { method: 'POST', body: form })
  expect([refused.status, await refused.text()]).toEqual([400, expect.stringContaining('--data-binary @in.jsonl')])
})
