import type { ServerResponse } from 'node:http'
import { describe, expect, it } from 'vitest'
import { readDoctorArguments } from '../src/doctor-arguments.ts'
import { canary, run, type Seen, sendJson, start, startServer } from './support.ts'

const stats = { calls: 0, running: 0, aborted: 0, tokensFitted: 0, retries: 0, origins: {} }

/** A gateway as far as its first questions; `more` answers what it does not. */
function answerFirst(more: (seen: Seen, response: ServerResponse) => void): (seen: Seen, response: ServerResponse) => void {
  return (seen, response) => {
    if (seen.url === '/healthz') sendJson(response, 200, { status: 'ok' })
    else more(seen, response)
  }
}

describe('what is wrong in the arguments of doctor is told in one line', () => {
  it.each<[string, string[]]>([
    ['which gateway', []],
    ['one gateway at a time: "b"', ['http://127.0.0.1', 'b']],
    ['an http or https address', ['127.0.0.1:8787']],
    ['an http or https address', ['ftp://127.0.0.1']],
    ['no user name or password', ['http://u:sk-canary@127.0.0.1']],
    ['use https, or --allow-insecure', ['http://gateway.example']],
    ['--calls must be a whole number from 1 to 1000', ['http://127.0.0.1', '--calls', '0']],
    ['--prompt-tokens must be a whole number', ['http://127.0.0.1', '--prompt-tokens', '1e9']],
    ['--timeout must be a number of seconds', ['http://127.0.0.1', '--timeout', 'x']],
    ['--budget must be a number of seconds', ['http://127.0.0.1', '--budget', '0']],
    ['--only takes names of pooling, cache', ['http://127.0.0.1', '--only', 'cache,tea']],
    ['there is no option --token', ['http://127.0.0.1', '--token', 'sk-canary']],
    ['--model needs a name', ['http://127.0.0.1', '--model', '']],
    ['millrace doctor --help', ['http://127.0.0.1', '--nope']],
    ['BAD holds a space', ['http://127.0.0.1', '--token-env', 'BAD']]
  ])('%s', (message, args) => {
    try {
      readDoctorArguments(args, { BAD: 'sk-canary two' })
    } catch (error) {
      expect(error).toMatchObject({ name: 'Exit', code: 2 })
      expect((error as Error).message).toContain(message)
      expect((error as Error).message).not.toMatch(/\n|sk-canary/)
      return
    }
    expect.unreachable('it was taken')
  })

  it('what is right is taken: an address with /v1 is the gateway’s too', () => {
    const env = { MILLRACE_TOKEN: ' secret ' }
    expect(readDoctorArguments(['http://localhost:8787/v1/'], env)).toMatchObject({
      address: 'http://localhost:8787',
      local: true,
      token: 'secret',
      calls: 20,
      only: ['pooling', 'cache', 'tokens', 'streaming', 'memory', 'metrics'],
      promptTokens: 20_000,
      timeoutMs: 60_000,
      budgetMs: 120_000
    })
    expect(readDoctorArguments(['https://gateway.example/llm', '--token-env', 'NONE'], env)).toMatchObject({
      address: 'https://gateway.example/llm',
      local: false,
      token: undefined
    })
  })
})

describe('doctor ends with 2 and one line, and sends no call', () => {
  it('where nobody listens', async () => {
    const server = await startServer(() => {})
    await server.close()
    const { code, stdout, stderr } = await start(['doctor', server.url]).ended
    expect(code).toBe(2)
    expect(stdout).toBe('')
    expect(stderr).toMatch(/^millrace: http:\/\/127\.0\.0\.1:\d+: .*ECONNREFUSED.*\n$/)
  })

  it.each<[string, number, Record<string, string>, RegExp]>([
    ['a token that is missing', 401, {}, /asks for a token: set MILLRACE_TOKEN/],
    ['a token that is refused', 401, { MILLRACE_TOKEN: canary }, /does not accept the token of MILLRACE_TOKEN/],
    ['a tenant’s token', 403, { MILLRACE_TOKEN: canary }, /the operator's token in MILLRACE_TOKEN/],
    ['a server that is no gateway', 404, {}, /no Millrace gateway/]
  ])('for %s', async (_, status, env, told) => {
    // A server that repeats what it was sent must not make us show it.
    await using server = await startServer(
      answerFirst(({ headers }, response) => sendJson(response, status, { error: { message: `no: ${headers.authorization}` } }))
    )
    const { code, stdout, stderr } = await run(['doctor', server.url], { env })
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(told)
    expect(stderr).toMatch(/^[^\n]+\n$/)
    expect(stderr).not.toContain(canary)
    expect(server.seen.filter(({ url }) => url.includes('chat'))).toEqual([])
  })

  it('for a balancer, whose replicas count apart', async () => {
    let turn = 0
    await using server = await startServer(
      answerFirst((_, response) => sendJson(response, 200, { ...stats, replica: `replica-${turn++ % 3}` }))
    )
    const { code, stderr } = await run(['doctor', server.url])
    expect(code).toBe(2)
    expect(stderr).toMatch(/3 replicas answered: run doctor against one of them/)
    expect(server.seen.filter(({ url }) => url.includes('chat'))).toEqual([])
  })

  it('for a gateway on another machine that nobody has agreed to pay for', async () => {
    await using server = await startServer(answerFirst((_, response) => sendJson(response, 200, { ...stats, model: 'large' })))
    // This machine by an address that is no loopback address.
    const url = server.url.replace('127.0.0.1', '0.0.0.0')
    const { code, stdout, stderr } = await run(['doctor', url, '--allow-insecure'])
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(
      /is on another machine\. Sends about \d+ calls .* tokens in .*\. Uploads about \d+ MB\. Add --yes to agree\n$/
    )
    expect(server.seen.filter(({ url: path }) => path.includes('chat'))).toEqual([])
    const agreed = await run(['doctor', url, '--allow-insecure', '--yes', '--quiet'])
    expect(agreed.code).toBe(1)
    expect(server.seen.filter(({ url: path }) => path.includes('chat')).length).toBeGreaterThan(0)
  })
})

it('a gateway that answers no call has failed each check that needs one, with its words and without the token', async () => {
  await using server = await startServer(
    answerFirst(({ url, headers }, response) => {
      if (url === '/v1/stats') sendJson(response, 200, { ...stats, model: 'large' })
      else sendJson(response, 502, { error: { message: `the provider\u001b[2J refuses ${headers.authorization}` } })
    })
  )
  const env = { MILLRACE_TOKEN: canary }
  const [text, json, quiet] = await Promise.all([
    run(['doctor', server.url], { env }),
    run(['doctor', server.url, '--json'], { env }),
    run(['doctor', server.url, '--quiet'], { env })
  ])
  for (const { code, stdout, stderr } of [text, json, quiet]) {
    expect({ code, stderr }).toEqual({ code: 1, stderr: '' })
    expect(stdout).not.toMatch(/sk-canary/)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: what a server says must not steer the terminal
    expect(stdout).not.toMatch(/\u001b/)
  }
  expect(text.stdout).toMatch(
    /^Millrace gateway at http:\S+, model large\nSends about [\d,]+ calls to its provider, at most [\d,]+ tokens in/
  )
  expect(text.stdout).toMatch(/why: {2}\/v1\/chat\/completions answered 502: the provider\\u001b\[2J refuses Bearer \[redacted\]/)
  expect(text.stdout).toMatch(/✗ 0 of 6 passed in \d+ s\n$/)
  expect(JSON.parse(json.stdout)).toMatchObject({
    gateway: server.url,
    model: 'large',
    pass: false,
    checks: ['pooling', 'cache', 'tokens', 'streaming', 'memory', 'metrics'].map((name) => ({ name, pass: false }))
  })
  expect(quiet.stdout).toMatch(/^✗ connection pooling is active\n/)
  expect(quiet.stdout).not.toMatch(/Sends about|of 6/)
})

describe('a gateway whose answers take long', () => {
  /** It answers after `ms`, as a hit. */
  function slow(ms: number): (seen: Seen, response: ServerResponse) => void {
    return answerFirst(({ url }, response) => {
      if (url === '/v1/stats') sendJson(response, 200, { ...stats, model: 'large' })
      else if (url === '/metrics') response.end(`nodejs_heap_size_used_bytes ${1e7 + Math.random()}\n`)
      else {
        setTimeout(() => {
          if (response.destroyed) return
          response.setHeader('x-millrace-cache', 'hit')
          sendJson(response, 200, { choices: [{ message: { content: 'x' }, finish_reason: 'stop' }] })
        }, ms).unref()
      }
    })
  }

  it.each(['memory', 'pooling'])(
    'has failed %s when its time is over, which is told with the calls that were made',
    async (name) => {
      await using server = await startServer(slow(300))
      const startedAt = performance.now()
      const { code, stdout } = await run(['doctor', server.url, '--only', name, '--budget', '1'])
      expect(code).toBe(1)
      expect(stdout).toMatch(
        /not examined: \d+ of about [\d,]+ calls in \d s\n {4}why: {2}the gateway, or its provider, is too slow/
      )
      expect(performance.now() - startedAt).toBeLessThan(20_000)
    }
  )

  it('is told which path was slower than --timeout', async () => {
    await using server = await startServer(slow(5000))
    const { stdout } = await run(['doctor', server.url, '--only', 'cache', '--timeout', '0.2'])
    expect(stdout).toMatch(
      /why: {2}\/v1\/chat\/completions gave no whole answer within 0\.2 s \(--timeout SECONDS gives it longer\)\n/
    )
  })
})

it('an error of several lines is told in one', async () => {
  await using server = await startServer(
    answerFirst(({ url }, response) => {
      if (url === '/v1/stats') sendJson(response, 200, { ...stats, model: 'large\nmodel' })
      else sendJson(response, 502, { error: { message: 'one\r\ntwo\u2028three\tfour' } })
    })
  )
  const { stdout } = await run(['doctor', server.url, '--only', 'cache'])
  expect(stdout).toMatch(/, model large model\n/)
  expect(stdout).toMatch(/why: {2}\/v1\/chat\/completions answered 502: one two three four\n {4}cure/)
  await using refusing = await startServer((_, response) => sendJson(response, 418, { error: { message: 'one\ntwo' } }))
  const { stderr } = await run(['doctor', refusing.url])
  expect(stderr).toMatch(/^[^\n]+one two\n$/)
})
