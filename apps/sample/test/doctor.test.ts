import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { realpathSync } from 'node:fs'
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { type ScriptedOptions, startScriptedProvider } from '@millrace/testkit'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type GatewayProcess, startProcess } from './gateway-process.ts'

const token = 'operator-canary-0123456789'
const program = fileURLToPath(
  new URL('src/main.ts', `file://${realpathSync(new URL('../node_modules/@millrace/cli', import.meta.url))}/`)
)
const pace: ScriptedOptions = { tokensPerSecond: 600, firstTokenMs: 60 }

interface Examined {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** `millrace doctor` as a process of its own, as the operator. */
async function doctor(url: string, ...more: string[]): Promise<Examined> {
  const child = spawn(process.execPath, ['--conditions=@millrace/source', program, 'doctor', url, ...more], {
    env: { PATH: process.env.PATH, MILLRACE_TOKEN: token },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  const [code] = (await once(child, 'close')) as [number | null]
  expect(stdout + stderr).not.toContain(token)
  return { code, stdout, stderr }
}

/** The gateway before a provider of the test's. */
async function startGateway(
  options: ScriptedOptions = pace,
  file: Readonly<Record<string, unknown>> = {}
): Promise<AsyncDisposable & { readonly url: string; readonly process: GatewayProcess }> {
  const provider = await startScriptedProvider(options)
  const env = {
    OPENAI_BASE_URL: provider.url,
    OPENAI_API_KEY: 'key',
    OPENAI_MODEL: 'scripted-small',
    MILLRACE_TOKEN: token,
    OTEL_TRACES_EXPORTER: 'none'
  }
  const started = await startProcess(env, { contextWindow: 4000, ...file })
  return {
    url: started.url,
    process: started,
    async [Symbol.asyncDispose]() {
      await started[Symbol.asyncDispose]()
      await provider.close()
    }
  }
}

/** Passes all on to a gateway, but what `own` answers. */
async function startProxy(
  target: string,
  own: (incoming: IncomingMessage, response: ServerResponse) => boolean,
  edit?: (text: string, path: string) => string
): Promise<AsyncDisposable & { readonly url: string }> {
  const server = createServer((incoming, response) => {
    if (own(incoming, response)) return
    const { method, headers, url = '/' } = incoming
    const onward = request(new URL(url, target), { method, headers: { ...headers, 'accept-encoding': 'identity' } }, (answer) => {
      if (edit !== undefined) delete answer.headers['content-length']
      response.writeHead(answer.statusCode ?? 500, answer.headers)
      if (edit !== undefined) {
        let whole = ''
        const isStream = answer.headers['content-type']?.includes('event-stream') === true
        answer
          .setEncoding('utf8')
          .on('data', (text: string) => {
            if (isStream) response.write(edit(text, url))
            else whole += text
          })
          .on('end', () => response.end(edit(whole, url)))
          .on('error', () => response.destroy())
        response.on('close', () => onward.destroy())
        return
      }
      // The provider's side is read to its end, whoever has left on this one.
      answer.on('data', (bytes: Buffer) => response.write(bytes)).on('end', () => response.end())
    })
    onward.on('error', () => response.destroy())
    incoming.pipe(onward)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    }
  }
}

/** As it starts; what breaks a gateway has one of its own. */
let shared: Awaited<ReturnType<typeof startGateway>>
beforeAll(async () => {
  shared = await startGateway()
})
afterAll(() => shared[Symbol.asyncDispose]())

it('all six checks pass for the gateway as it starts, each with its figure', { timeout: 240_000 }, async () => {
  const { code, stdout, stderr } = await doctor(shared.url, '--calls', '10')
  expect(stderr).toBe('')
  expect(stdout.match(/^✗.*\n.*\n.*$/gm)).toBeNull()
  expect(code).toBe(0)
  for (const figure of [
    /^Millrace gateway at http:\S+, replica \S+, model scripted-small\nSends about \d+ calls to its provider/,
    /^✓ connection pooling is active\n {4}\d+ requests to the provider opened \d+ sockets?, \d+ % went over an open one$/m,
    /^✓ the cache works\n {4}asked again: hit in [\d.]+ ms instead of \d+ ms; 10 askers at once: 1 request to the provider, 9 shared/m,
    /^✓ token optimisation takes effect\n {4}of a talk of about 20,000 tokens [\d,]+ tokens went to the provider: \d+ of 82 messages dropped/m,
    /^✓ answers stream\n {4}first text after \d+ ms of \d+ ms, in \d+ arrivals; a stream that was left let go within [\d.]+ ms$/m,
    /^✓ memory does not leak\n {4}[\d.]+ KB a call stayed \(bound 8\) over [\d,]+ calls/m,
    /^✓ metrics are tracked\n {4}\/metrics rose by exactly what was done: calls \+3, seconds \+[\d.]+/m,
    /^✓ 6 of 6 passed in \d+ s\n$/m
  ]) {
    expect(stdout).toMatch(figure)
  }
})

it('a gateway that others use meanwhile passes too', { timeout: 120_000 }, async () => {
  const over = new AbortController()
  async function other(): Promise<void> {
    for (let number = 0; !over.signal.aborted; number++) {
      const response = await fetch(`${shared.url}/v1/chat/completions`, {
        method: 'POST',
        headers: { authorization: `Bearer ${token}` },
        body: JSON.stringify({
          model: 'scripted-large',
          max_tokens: 3 + (number % 7),
          messages: [{ role: 'user', content: `${number}` }]
        })
      })
      await response.text()
    }
  }
  const others = other()
  const { code, stdout } = await doctor(shared.url, '--only', 'pooling,cache,streaming,metrics', '--calls', '5')
  over.abort()
  await others
  expect(stdout).toMatch(/others call too/)
  expect({ code, failed: stdout.match(/^✗.*\n.*\n.*$/gm) }).toEqual({ code: 0, failed: null })
})

describe('a gateway that is broken fails the check with cause and cure, and exit code 1', () => {
  async function expectFailure(url: string, name: string, cause: RegExp): Promise<void> {
    const { code, stdout } = await doctor(url, '--only', name, '--json', '--calls', '5')
    const report = JSON.parse(stdout) as { checks: { name: string; pass: boolean; cause: string; cure: string }[] }
    expect(report.checks).toMatchObject([{ name, pass: false, cause: expect.stringMatching(cause) as string }])
    expect(report.checks[0]?.cure).toMatch(/\w/)
    expect(code).toBe(1)
  }

  it.concurrent('pooling, before a provider that closes each connection', { timeout: 60_000 }, async () => {
    await using gateway = await startGateway({ ...pace, reply: () => ({ headers: { connection: 'close' } }) })
    await expectFailure(gateway.url, 'pooling', /opened anew/)
  })

  it.concurrent('cache, where it is off', { timeout: 60_000 }, async () => {
    await using gateway = await startGateway(pace, { cache: { ttlMs: 0 } })
    await expectFailure(gateway.url, 'cache', /no hit/)
  })

  it.concurrent('tokens, without a context window', { timeout: 60_000 }, async () => {
    await using gateway = await startGateway(pace, { contextWindow: undefined })
    await expectFailure(gateway.url, 'tokens', /no message was dropped from a talk of about 20,000 tokens/)
  })

  it.concurrent('streaming, behind a proxy that reads on for a client that has left', { timeout: 60_000 }, async () => {
    // Slow enough that the stream does not end by itself while doctor looks.
    await using gateway = await startGateway({ tokensPerSecond: 30, firstTokenMs: 60 })
    await using proxy = await startProxy(gateway.url, () => false)
    await expectFailure(proxy.url, 'streaming', /went on, and costs/)
  })

  it.concurrent('memory and metrics, behind a proxy whose /metrics stand still', { timeout: 120_000 }, async () => {
    const headers = { authorization: `Bearer ${token}` }
    const frozen = await (await fetch(`${shared.url}/metrics`, { headers })).text()
    await using proxy = await startProxy(shared.url, ({ url }, response) => {
      if (url === '/metrics') response.end(frozen)
      return url === '/metrics'
    })
    await expectFailure(proxy.url, 'metrics', /calls/)
    await expectFailure(proxy.url, 'memory', /stands still/)
  })

  it('streaming, before a provider that answers in one lump', { timeout: 60_000 }, async () => {
    await using gateway = await startGateway({ firstTokenMs: 200 })
    await expectFailure(gateway.url, 'streaming', /all text came at once/)
  })

  it('memory, where each body is kept', { timeout: 120_000 }, async () => {
    await using gateway = await startGateway()
    // Chat requests alone: what is refused unread for being no JSON is not needed to see it.
    await gateway.process.evaluate(`{
      const { IncomingMessage } = process.getBuiltinModule('node:http')
      const { push } = IncomingMessage.prototype
      globalThis.kept = []
      IncomingMessage.prototype.push = function (bytes, ...rest) {
        if (bytes !== null && Number(this.headers['content-length']) < 100_000) kept.push(bytes.toString('latin1'))
        return push.call(this, bytes, ...rest)
      }
    }`)
    await expectFailure(gateway.url, 'memory', /the heap grew by \d+\.\d KB with each call/)
  })
})

describe('a proxy that changes what the gateway says fails the check, though the counts are right', () => {
  /** Of each piece that comes; answers are asked for uncompressed. */
  async function expectCaught(name: string, edit: (text: string, path: string) => string, cause: RegExp): Promise<void> {
    await using proxy = await startProxy(shared.url, () => false, edit)
    const { code, stdout } = await doctor(proxy.url, '--only', name, '--calls', '1')
    expect(stdout).toMatch(cause)
    expect(code).toBe(1)
  }
  const content = (text: string): string => text.replace(/("message":\{.*?"content":)"(?:[^"\\]|\\.)*"/, '$1""')

  it.concurrent('empty answers', { timeout: 60_000 }, () => expectCaught('cache', content, /why: {2}an answer was without text/))

  it.concurrent('one answer for everybody', { timeout: 60_000 }, () =>
    expectCaught(
      'cache',
      (text) => content(text).replace('"content":""', '"content":"another’s secret"'),
      /one and the same text/
    )
  )

  it.concurrent('each chunk of a stream twice', { timeout: 60_000 }, () =>
    expectCaught(
      'streaming',
      (text) => text.replace(/^data: \{.*"delta":\{.*"content":.*\n\n/gm, '$&$&'),
      /another text than the same answer/
    )
  )

  it.concurrent('durations that never rise', { timeout: 60_000 }, () =>
    expectCaught(
      'metrics',
      (text, path) => (path === '/metrics' ? text.replace(/^(gen_ai_client_operation_duration_sum\S* )\S+/gm, '$10') : text),
      /seconds rose by 0/
    )
  )
})

it('a token that is missing or wrong ends it with 2 and one line', { timeout: 60_000 }, async () => {
  const { code, stdout, stderr } = await doctor(shared.url, '--token-env', 'NOT_SET')
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
  expect(stderr).toMatch(/^millrace: http:\S+ it asks for a token: set NOT_SET to the operator's[^\n]*\n$/)
})
