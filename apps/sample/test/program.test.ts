import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { startScriptedProvider } from '@millrace/testkit'
import { expect, test } from 'vitest'

const program = (name: string): string => fileURLToPath(new URL(`../src/${name}.ts`, import.meta.url))

function run(
  name: string,
  env: Record<string, string>
): { child: ChildProcess; output: () => string; ended: Promise<number | null> } {
  const { OPENAI_API_KEY: _, OPENAI_BASE_URL: __, NODE_OPTIONS: ___, ...clean } = process.env
  const child = spawn(process.execPath, ['--conditions=@millrace/source', program(name)], {
    env: { ...clean, ...env },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  let text = ''
  child.stdout?.on('data', (piece: Buffer) => (text += piece.toString()))
  child.stderr?.on('data', (piece: Buffer) => (text += piece.toString()))
  return { child, output: () => text, ended: once(child, 'close').then(([code]) => code as number | null) }
}

test('the gateway says how to call it, answers, and ends with 0 on SIGTERM, its embedded provider with it', async () => {
  const { child, output, ended } = run('main', { PORT: '0' })
  await expect.poll(output, { timeout: 15_000 }).toContain('curl')
  const url = /curl (http:\/\/127\.0\.0\.1:\d+)/.exec(output())?.[1] as string
  const provider = /embedded provider, (http:\S+)/.exec(output())?.[1] as string
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    body: '{"model":"scripted-large","messages":[{"role":"user","content":"Hi"}]}'
  })
  expect(response.status).toBe(200)
  expect((await fetch(`${provider}/models`)).status).toBe(200)
  child.kill('SIGTERM')
  expect(await ended).toBe(0)
  await expect(fetch(`${provider}/models`)).rejects.toThrow('fetch failed')
})

test.each([
  ['main', { PORT: '99999' }, /^millrace: PORT must be a whole number from 0 to 65535$/],
  ['main', { HOST: '0.0.0.0' }, /^millrace: HOST=0\.0\.0\.0 is open to others: set MILLRACE_TOKEN/],
  ['main', { OPENAI_BASE_URL: 'https://example.invalid/v1' }, /^millrace: .*OPENAI_API_KEY is not/],
  ['main', { OPENAI_API_KEY: 'k', OPENAI_BASE_URL: 'nonsense' }, /^millrace: OPENAI_BASE_URL must be an absolute/],
  ['main', { OPENAI_API_KEY: 'k', OPENAI_BASE_URL: 'http://example.invalid/v1' }, /^millrace: .*use https/],
  [
    'main',
    { HOST: '203.0.113.1', MILLRACE_TOKEN: 'letmein-letmein-letmein' },
    /^millrace: HOST=203\.0\.113\.1 is no address of this machine/
  ],
  [
    'main',
    { HOST: 'nonsense.invalid', MILLRACE_TOKEN: 'letmein-letmein-letmein' },
    /^millrace: HOST=nonsense\.invalid is no address of this machine/
  ],
  ['main', { OPENAI_API_KEY: 'k\nk' }, /^millrace: OPENAI_API_KEY holds a line break/],
  ['demo', { OPENAI_BASE_URL: 'https://example.invalid/v1' }, /^millrace: .*OPENAI_API_KEY is not/],
  [
    'demo',
    { OPENAI_API_KEY: 'k', OPENAI_BASE_URL: 'https://example.invalid/v1' },
    /millrace: https:\/\/example\.invalid\/v1 cannot be reached \(ENOTFOUND\)/
  ]
])('%s with %j ends with 1 and one clear line', async (name, env, line) => {
  const { output, ended } = run(name, { PORT: '0', ...(env as unknown as Record<string, string>) })
  expect(await ended).toBe(1)
  const lines = output().trim().split('\n')
  expect(lines.at(-1)).toMatch(line)
  expect(output()).not.toMatch(/^\s+at /m)
  expect(output()).not.toContain('k\nk')
})

test('a port in use is one line', async () => {
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  const { port } = taken.address() as AddressInfo
  const { output, ended } = run('main', { PORT: String(port) })
  expect(await ended).toBe(1)
  expect(output().trim()).toBe(`millrace: port ${port} is in use: stop what listens there, or set PORT to another one`)
  taken.close()
})

test('a key the provider does not accept is one line of the demo', async () => {
  await using provider = await startScriptedProvider({ apiKey: 'right' })
  const { output, ended } = run('demo', { OPENAI_API_KEY: 'wrong-canary', OPENAI_BASE_URL: provider.url })
  expect(await ended).toBe(1)
  expect(output()).toContain('does not accept the key (401): check OPENAI_API_KEY')
  expect(output()).not.toMatch(/canary|^\s+at /m)
})

test('the demo runs against a provider of the environment, and its figures are those the provider counted', async () => {
  await using provider = await startScriptedProvider({ tokensPerSecond: 500 })
  const { output, ended } = run('demo', { OPENAI_API_KEY: 'k', OPENAI_BASE_URL: provider.url, OPENAI_MODEL: 'scripted-small' })
  expect(await ended).toBe(0)
  const figures = (row: string): number[] =>
    (new RegExp(`${row} +([\\d,]+) +([\\d,]+)`).exec(output())?.slice(1) ?? []).map((text) => Number(text.replaceAll(',', '')))
  const [plainCalls, millraceCalls] = figures('calls sent upstream') as [number, number]
  const [plainTokens, millraceTokens] = figures('tokens in') as [number, number]
  const stats = provider.stats()
  expect(plainCalls + millraceCalls).toBe(stats.requests)
  expect(plainTokens + millraceTokens).toBe(stats.tokensIn)
  const [plainSockets, millraceSockets] = figures('sockets opened') as [number, number]
  expect(plainSockets + millraceSockets).toBe(stats.sockets)
  expect(millraceCalls).toBeLessThan(plainCalls)
  expect(output()).toContain('24 calls')
}, 60_000)

test('spans go to the collector the environment names', async () => {
  let traces = 0
  const collector = createServer((request, response) => {
    if (request.url === '/v1/traces') traces++
    request.resume().on('end', () => response.end())
  }).listen(0, '127.0.0.1')
  await once(collector, 'listening')
  const { port } = collector.address() as AddressInfo
  const { child, output, ended } = run('main', {
    PORT: '0',
    OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`,
    OTEL_METRICS_EXPORTER: 'none',
    OTEL_LOGS_EXPORTER: 'none'
  })
  await expect.poll(output, { timeout: 15_000 }).toContain('curl')
  const url = /curl (http:\/\/127\.0\.0\.1:\d+)/.exec(output())?.[1] as string
  await (
    await fetch(`${url}/v1/chat/completions`, {
      method: 'POST',
      body: '{"model":"scripted-large","messages":[{"role":"user","content":"Hi"}]}'
    })
  ).text()
  child.kill('SIGTERM')
  expect(await ended).toBe(0)
  expect(traces).toBeGreaterThan(0)
  collector.close()
})

test.each(['refuses', 'never answers'])(
  'a collector that %s neither fails a call nor holds the exit up',
  async (how) => {
    const silent = createServer((request) => request.resume()).listen(0, '127.0.0.1')
    await once(silent, 'listening')
    const { port } = silent.address() as AddressInfo
    if (how === 'refuses') await new Promise((resolve) => silent.close(resolve))
    const { child, output, ended } = run('main', {
      PORT: '0',
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`,
      OTEL_EXPORTER_OTLP_HEADERS: 'authorization=canary'
    })
    await expect.poll(output, { timeout: 15_000 }).toContain('curl')
    const url = /curl (http:\/\/127\.0\.0\.1:\d+)/.exec(output())?.[1] as string
    const body = '{"model":"scripted-large","messages":[{"role":"user","content":"Hi"}]}'
    expect((await fetch(`${url}/v1/chat/completions`, { method: 'POST', body })).status).toBe(200)
    expect(await (await fetch(`${url}/metrics`)).text()).toContain('gen_ai_client_operation_duration_count')
    const startedAt = performance.now()
    child.kill('SIGTERM')
    expect(await ended).toBe(0)
    // Two seconds for the last spans; the rest is for a busy machine.
    expect(performance.now() - startedAt).toBeLessThan(7000)
    expect(output()).not.toContain('canary')
    silent.closeAllConnections()
    silent.close()
  },
  40_000
)
