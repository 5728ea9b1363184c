import { once } from 'node:events'
import { Agent, get, type IncomingMessage } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'
import { requireRedis, type SpawnedProvider, spawnScriptedProvider } from '@millrace/testkit'
import { afterAll, afterEach, expect, test } from 'vitest'
import { type GatewayProcess, startProcess } from './gateway-process.ts'

const open: AsyncDisposable[] = []
afterEach(async () => {
  for (const resource of open.splice(0).toReversed()) await resource[Symbol.asyncDispose]()
})

async function startProvider(tokensPerSecond: number): Promise<SpawnedProvider> {
  const provider = await spawnScriptedProvider({ tokensPerSecond })
  open.push(provider)
  return provider
}

async function start({ url }: SpawnedProvider, graceMs: number, more: Record<string, string> = {}): Promise<GatewayProcess> {
  const started = await startProcess(
    {
      OPENAI_API_KEY: 'k',
      OPENAI_BASE_URL: url,
      OPENAI_MODEL: 'scripted-large',
      ANTHROPIC_API_KEY: 'k',
      ANTHROPIC_BASE_URL: url.replace(/\/v1$/, ''),
      MILLRACE_GRACE_MS: String(graceMs),
      ...more
    },
    { maxRequestsPerClient: 1000 }
  )
  open.push(started)
  return started
}

/** Every way to stream, how a whole stream of its kind ends, and how one that the gateway ended. */
const kinds = [
  {
    name: 'chat',
    path: 'chat/completions',
    headers: {},
    whole: /data: \[DONE\]\n\n$/,
    cut: /\ndata: \{"error":\{.*"code":"closed"\}\}\n\n$/
  },
  {
    name: 'resumable chat',
    path: 'chat/completions',
    headers: { 'x-millrace-resume': 'true' },
    whole: /data: \[DONE\]\n\n$/,
    cut: /\n(id: .*\n)?data: \{"error":\{.*"code":"closed"\}\}\n\n$/
  },
  {
    name: 'foreign chat',
    path: 'chat/completions',
    headers: {},
    whole: /data: \[DONE\]\n\n$/,
    cut: /\ndata: \{"error":\{.*"code":"closed"\}\}\n\n$/
  },
  {
    name: 'a response',
    path: 'responses',
    headers: {},
    whole: /event: response\.(completed|incomplete)\n.*\n\n$/,
    cut: /event: error\ndata: \{.*"code":"closed".*\}\n\n$/
  },
  {
    name: 'a message',
    path: 'messages',
    headers: { 'anthropic-version': '2023-06-01' },
    whole: /event: message_stop\n.*\n\n$/,
    cut: /event: error\ndata: \{"type":"error","error":\{"type":"\w+","message":".+"\}.*\}\n\n$/
  }
] as const
type Kind = (typeof kinds)[number]

function bodyOf({ name, path }: Kind, prompt: string, maxTokens: number): object {
  const common = { model: 'scripted-large', stream: true }
  if (path === 'responses') return { ...common, input: prompt, max_output_tokens: maxTokens }
  // The contract has no word for an answer without content: such a chat is passed on untouched.
  const content = name === 'foreign chat' ? [] : undefined
  const foreign = content === undefined ? [] : [{ role: 'assistant', content }]
  return { ...common, max_tokens: maxTokens, messages: [...foreign, { role: 'user', content: prompt }] }
}

/** The head of a stream; its text is for later. */
async function begin({ url }: GatewayProcess, kind: Kind, prompt: string, maxTokens: number): Promise<Response> {
  const response = await fetch(`${url}/v1/${kind.path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...kind.headers },
    body: JSON.stringify(bodyOf(kind, prompt, maxTokens))
  })
  if (response.status !== 200) throw new Error(`${kind.name}: ${response.status} ${await response.text()}`)
  return response
}

/** The status of a request on the one connection of `agent`, or the code of what failed. */
async function ask(url: string, agent: Agent | false): Promise<number | string> {
  try {
    const [response] = (await once(get(url, { agent }), 'response')) as [IncomingMessage]
    response.resume()
    await once(response, 'end')
    return response.statusCode as number
  } catch (error) {
    return (error as { code: string }).code
  }
}

/** How late a timer of this busy machine is: what the gateway is not to blame for. */
async function lateness(ms: number): Promise<number> {
  const startedAt = performance.now()
  await delay(ms)
  return performance.now() - startedAt - ms
}

test.each(['SIGTERM', 'SIGINT'] as const)(
  '%s cuts none of 200 streams within the grace, takes nothing new, and ends the process with 0, a second one all the same',
  async (signal) => {
    const provider = await startProvider(12)
    const gateway = await start(provider, 60_000)
    const running = await Promise.all(
      Array.from({ length: 200 }, async (_, number) => {
        const kind = kinds[number % kinds.length] as Kind
        return { kind, response: await begin(gateway, kind, `stream ${number}`, 40) }
      })
    )
    const kept = new Agent({ keepAlive: true, maxSockets: 1 })
    expect(await ask(`${gateway.url}/readyz`, kept)).toBe(200)
    const live = await fetch(`${gateway.url}/v1/live`)
    expect(live.status).toBe(200)
    const watched = live.text().catch(() => 'broken off')
    const texts = Promise.all(running.map(async ({ response }) => response.text().catch(String)))

    gateway.child.kill(signal)
    await expect.poll(() => ask(`${gateway.url}/healthz`, false)).toBe('ECONNREFUSED')
    expect(await ask(`${gateway.url}/readyz`, kept)).toBe(503)
    gateway.child.kill(signal)

    const whole = await texts
    const lastAt = performance.now()
    for (const [number, { kind }] of running.entries())
      expect(whole[number], `${kind.name}, stream ${number}`).toMatch(kind.whole)
    const [{ code, at }, late] = await Promise.all([gateway.ended, lateness(1000)])
    expect(code).toBe(0)
    expect(at - lastAt).toBeLessThan(2000 + 10 * late)
    await watched
    kept.destroy()
    expect((await provider.stats()).openAnswers).toBe(0)
  },
  90_000
)

test.each(['SIGTERM', 'SIGINT'] as const)(
  'what %s finds longer than the grace ends with an error in the words of its API, and the process with 0',
  async (signal) => {
    const graceMs = 1000
    const provider = await startProvider(2)
    const gateway = await start(provider, graceMs)
    const running = await Promise.all(kinds.map(async (kind) => ({ kind, response: await begin(gateway, kind, kind.name, 100) })))
    const plain = fetch(`${gateway.url}/v1/chat/completions`, {
      method: 'POST',
      body: JSON.stringify({ model: 'scripted-large', messages: [{ role: 'user', content: 'plain' }] })
    })
    // Nobody is listening: a live page, and a connection that is kept for later.
    const live = await fetch(`${gateway.url}/v1/live`)
    const watched = live.text().catch(() => 'broken off')
    const kept = new Agent({ keepAlive: true, maxSockets: 1 })
    expect(await ask(`${gateway.url}/readyz`, kept)).toBe(200)
    await expect.poll(async () => (await provider.stats()).openAnswers).toBe(kinds.length + 1)

    const texts = Promise.all(running.map(async ({ response }) => response.text().catch(String)))
    const startedAt = performance.now()
    gateway.child.kill(signal)
    await delay(200)
    gateway.child.kill(signal)
    const [{ code, at }, late] = await Promise.all([gateway.ended, lateness(1000)])
    const whole = await texts
    for (const [number, { kind }] of running.entries()) expect(whole[number], kind.name).toMatch(kind.cut)
    const refused = await plain
    expect([refused.status, await refused.json()]).toMatchObject([503, { error: { code: 'closed' } }])
    expect(code).toBe(0)
    expect(at - startedAt).toBeGreaterThan(graceMs - 50)
    expect(at - startedAt).toBeLessThan(graceMs + 2000 + 10 * late)
    await watched
    kept.destroy()
    await expect.poll(async () => (await provider.stats()).openAnswers).toBe(0)
  },
  60_000
)

test.each(['SIGTERM', 'SIGINT'] as const)(
  '%s while the embedded provider answers leaves no process behind',
  async (signal) => {
    const gateway = await startProcess({ MILLRACE_GRACE_MS: '300' })
    open.push(gateway)
    const provider = /embedded provider, (http:\S+)/.exec(gateway.output())?.[1] as string
    expect((await fetch(`${provider}/models`)).status).toBe(200)
    const responses = await Promise.all(kinds.map((kind) => begin(gateway, kind, `to the embedded one, ${kind.name}`, 500)))
    const texts = Promise.all(responses.map((response) => response.text().catch(String)))
    gateway.child.kill(signal)
    expect((await gateway.ended).code).toBe(0)
    await texts
    await expect(fetch(`${provider}/models`)).rejects.toThrow('fetch failed')
  },
  30_000
)

const { server: redis, skip } = await requireRedis()
afterAll(() => redis?.stop())

test.skipIf(skip !== undefined)(
  'a Redis that has frozen takes no stream its last word at SIGTERM',
  async () => {
    const provider = await startProvider(2)
    const gateway = await start(provider, 500, { REDIS_URL: redis?.url ?? '' })
    const running = await Promise.all(kinds.map(async (kind) => ({ kind, response: await begin(gateway, kind, kind.name, 100) })))
    redis?.pause()
    const texts = Promise.all(running.map(async ({ response }) => response.text().catch(String)))
    gateway.child.kill('SIGTERM')
    const whole = await texts
    for (const [number, { kind }] of running.entries()) expect(whole[number], kind.name).toMatch(kind.cut)
    expect((await gateway.ended).code).toBe(0)
    redis?.resume()
  },
  60_000
)
