import { existsSync } from 'node:fs'
import { mkdir, symlink } from 'node:fs/promises'
import { spawnScriptedProvider } from '@millrace/testkit'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { canary, type Folder, makeFolder, openaiFile, openaiLine, run, sendJson, start, startServer, until } from './support.ts'

// A process of its own may take seconds to start where the machine is busy.
vi.setConfig({ testTimeout: 120_000 })

let folder: Folder
beforeEach(async () => {
  folder = await makeFolder()
})
afterEach(() => folder.close())

const ids = (count: number): string[] => Array.from({ length: count }, (_, n) => `item-${n}`).toSorted()

function batch(url: string, ...more: string[]): string[] {
  return ['batch', folder.path('in.jsonl'), '--out', folder.path('out.jsonl'), '--base-url', url, ...more]
}

describe('a whole batch', () => {
  it('of OpenAI requests gives one result each, in the format of the Batch API, and leaves no journal', async () => {
    await using provider = await spawnScriptedProvider({ apiKey: canary })
    await folder.write('in.jsonl', openaiFile(30))
    const { code, stdout, stderr } = await run(batch(provider.url, '--concurrency', '5'))
    expect({ code, stdout }, stderr).toEqual({ code: 0, stdout: '' })
    expect(stderr).toMatch(/^30 succeeded, 0 failed; \d+ s, \d{3,} tokens in, \d{3,} out\n$/)
    const results = await folder.lines('out.jsonl')
    expect(results.map((result) => result.custom_id).toSorted()).toEqual(ids(30))
    for (const result of results) {
      expect(Object.keys(result)).toEqual(['id', 'custom_id', 'response', 'error'])
      expect(result).toMatchObject({
        id: expect.stringMatching(/^batch_req_[\da-f]{24}$/) as string,
        error: null,
        response: { status_code: 200, request_id: expect.stringMatching(/^req_scripted_\d+$/) as string }
      })
      expect(result.response?.body.choices[0]?.message.content).toMatch(/\w+/)
    }
    expect(existsSync(folder.path('out.jsonl.journal'))).toBe(false)
    expect((await provider.stats()).maxOpenAnswers).toBeLessThanOrEqual(5)
  })

  it('of Anthropic requests is known by its first line, and gives results in their format', async () => {
    await using provider = await spawnScriptedProvider({ apiKey: canary })
    const params = { model: 'scripted-small', max_tokens: 50, messages: [{ role: 'user', content: 'Tides?' }] }
    const bad = { ...params, max_tokens: undefined }
    const lines = [params, bad, params].map((one, n) => JSON.stringify({ custom_id: `item-${n}`, params: one }))
    await folder.write('in.jsonl', `\ufeff${lines.join('\r\n\r\n')}`)
    const { code, stderr } = await run(batch(provider.url, '--order', 'input'))
    expect(code, stderr).toBe(1)
    const [first, second, third, ...rest] = await folder.lines('out.jsonl')
    expect(rest).toEqual([])
    for (const [n, result] of [first, undefined, third].entries()) {
      if (n === 1) continue
      expect(result).toMatchObject({ custom_id: `item-${n}`, result: { type: 'succeeded', message: { type: 'message' } } })
    }
    expect(second).toMatchObject({
      custom_id: 'item-1',
      result: { type: 'errored', error: { type: 'error', error: { type: 'invalid_request_error' } } }
    })
  })

  it('keeps the order of the input when it is asked to', async () => {
    await using server = await startServer(async ({ body }, response) => {
      const { n } = JSON.parse(body) as { n: number }
      await new Promise((resolve) => setTimeout(resolve, n % 5 === 0 ? 40 : 1))
      sendJson(response, 200, { n })
    })
    await folder.write('in.jsonl', Array.from({ length: 40 }, (_, n) => JSON.stringify(openaiLine(n, { n }))).join('\n'))
    const { code } = await run(batch(server.url, '--order', 'input'))
    expect(code).toBe(0)
    expect((await folder.lines('out.jsonl')).map(({ response }) => response?.body.n)).toEqual(
      Array.from({ length: 40 }, (_, n) => n)
    )
  })

  it('writes the answer as it came, on one line, numbers beyond doubles too', async () => {
    const text = '{\n  "seed": 12345678901234567890,\n  "note": "two\\nlines \\u2028 ä",\n  "one": 1.0\n}\n'
    await using server = await startServer((_, response) => void response.writeHead(200, { 'x-request-id': 'req_1' }).end(text))
    await folder.write('in.jsonl', openaiFile(1))
    expect((await run(batch(server.url, '--header', 'OpenAI-Organization: org-1'))).code).toBe(0)
    expect(await folder.read('out.jsonl')).toContain(
      '"response":{"status_code":200,"request_id":"req_1","body":{"seed": 12345678901234567890,"note": "two\\nlines \\u2028 ä","one": 1.0}},"error":null}\n'
    )
    expect(server.seen[0]?.headers).toMatchObject({ 'openai-organization': 'org-1', authorization: `Bearer ${canary}` })
  })

  it('waits for a rate limit without failing one item', async () => {
    await using provider = await spawnScriptedProvider({ rateLimit: { requests: 20, perMs: 1000 } })
    await folder.write('in.jsonl', openaiFile(50))
    const { code, stderr } = await run(batch(provider.url, '--concurrency', '10'))
    expect(code, stderr).toBe(0)
    expect((await folder.lines('out.jsonl')).map(({ custom_id: id }) => id).toSorted()).toEqual(ids(50))
  })

  it('is paced by --rpm', async () => {
    await using provider = await spawnScriptedProvider()
    await folder.write('in.jsonl', openaiFile(62))
    const startedAt = performance.now()
    // 60 at once after a rest, then one a second.
    const { code, stderr } = await run(batch(provider.url, '--rpm', '60'))
    expect(code, stderr).toBe(0)
    expect(performance.now() - startedAt).toBeGreaterThan(1500)
  })
})

describe('items that fail', () => {
  it('are told with the provider’s own answer, end with 1, and run again with --retry-failed only', async () => {
    let healed = false
    await using server = await startServer(({ body }, response) => {
      const { n } = JSON.parse(body) as { n: number }
      if (healed || n > 1) return sendJson(response, 200, { n })
      if (n === 0)
        return sendJson(response, 400, { error: { message: `bad, ${canary}`, code: 'bad_thing' } }, { 'x-request-id': 'req_7' })
      response.destroy()
    })
    await folder.write('in.jsonl', Array.from({ length: 10 }, (_, n) => JSON.stringify(openaiLine(n, { n }))).join('\n'))
    const args = batch(server.url, '--errors', folder.path('errors.jsonl'), '--max-attempts', '2')
    const first = await run(args)
    expect(first.code, first.stderr).toBe(1)
    expect(first.stderr).toMatch(/8 succeeded, 2 failed.*\n.*--retry-failed/)
    expect(await folder.lines('out.jsonl')).toHaveLength(8)
    const errors = (await folder.lines('errors.jsonl')).toSorted((a, b) => (a.custom_id < b.custom_id ? -1 : 1))
    expect(errors).toMatchObject([
      {
        custom_id: 'item-0',
        error: null,
        response: { status_code: 400, request_id: 'req_7', body: { error: { code: 'bad_thing', message: 'bad, [redacted]' } } }
      },
      { custom_id: 'item-1', response: null, error: { code: 'network' } }
    ])
    const files = [await folder.read('errors.jsonl'), await folder.read('out.jsonl.journal'), first.stderr]
    for (const text of files) expect(text).not.toContain('sk-canary')

    // Without --retry-failed they are as they were, and nothing is sent.
    const sent = server.seen.length
    const again = await run([...args, '--resume'])
    expect(again.code, again.stderr).toBe(1)
    expect(server.seen).toHaveLength(sent)
    expect(await folder.lines('out.jsonl')).toHaveLength(8)
    expect((await folder.lines('errors.jsonl')).toSorted((a, b) => (a.custom_id < b.custom_id ? -1 : 1))).toEqual(errors)

    healed = true
    const last = await run([...args, '--resume', '--retry-failed'])
    expect(last.code, last.stderr).toBe(0)
    expect(server.seen).toHaveLength(sent + 2)
    expect((await folder.lines('out.jsonl')).map(({ custom_id: id }) => id).toSorted()).toEqual(ids(10))
    expect(await folder.read('errors.jsonl')).toBe('')
    expect(existsSync(folder.path('out.jsonl.journal'))).toBe(false)
    const done = await run([...args, '--resume'])
    expect(done).toMatchObject({ code: 2, stderr: expect.stringContaining('nothing to resume') as string })
  })

  it('do not burn the rest when the key is wrong: the batch stops, with 3', async () => {
    await using server = await startServer((_, response) =>
      sendJson(response, 401, { error: { message: `Incorrect API key provided: ${canary}`, code: 'invalid_api_key' } })
    )
    await folder.write('in.jsonl', openaiFile(200))
    const { code, stderr } = await run(batch(server.url, '--concurrency', '4'))
    expect(code).toBe(3)
    expect(server.seen.length).toBeLessThanOrEqual(8)
    expect(stderr).toMatch(
      /^millrace: 127\.0\.0\.1:\d+ does not accept the API key \(401, invalid_api_key\).*0 of 200 items are done.*--resume/
    )
    expect(stderr.split('\n')).toHaveLength(2)
    expect(stderr + (await folder.read('out.jsonl')) + (await folder.read('out.jsonl.journal'))).not.toContain('sk-canary')
  })

  it('end with a timeout of their own when nobody answers in time', async () => {
    await using server = await startServer(({ body }, response) => {
      if (!body.includes('about 2')) sendJson(response, 200, { n: 1 })
    })
    await folder.write('in.jsonl', openaiFile(5))
    const { code } = await run(batch(server.url, '--timeout', '1.5'))
    expect(code).toBe(1)
    const failed = (await folder.lines('out.jsonl')).filter(({ error }) => error !== null)
    expect(failed).toMatchObject([
      {
        custom_id: 'item-2',
        response: null,
        error: { code: 'request_timeout', message: 'no whole answer within 1.5 s (--timeout)' }
      }
    ])
  })

  it('stop the batch when the quota is used up, and what was running is kept', async () => {
    let count = 0
    await using server = await startServer(async (_, response) => {
      if (++count === 5) return sendJson(response, 429, { error: { code: 'insufficient_quota' } })
      await new Promise((resolve) => setTimeout(resolve, 100))
      sendJson(response, 200, { n: 1 })
    })
    await folder.write('in.jsonl', openaiFile(100))
    const { code, stderr } = await run(batch(server.url, '--concurrency', '5'))
    expect({ code, stderr }).toMatchObject({ code: 3, stderr: expect.stringContaining('4 of 100 items are done') as string })
    expect(await folder.lines('out.jsonl')).toHaveLength(4)
  })

  it('stop the batch, unsent, when --tpm is less than one of them takes', async () => {
    await using server = await startServer((_, response) => sendJson(response, 200, { n: 1 }))
    await folder.write('in.jsonl', openaiFile(40))
    const { code, stderr } = await run(batch(server.url, '--tpm', '50'))
    expect({ code, stderr }).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(/needs \d+ tokens.*more than 50: raise --tpm; 0 of 40/) as string
    })
    expect(server.seen).toEqual([])
  })

  it('stop the batch when nobody answers at the address', async () => {
    await folder.write('in.jsonl', openaiFile(20))
    const { code, stderr } = await run(batch('http://127.0.0.1:1'))
    expect({ code, stderr }).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(/127\.0\.0\.1:1 cannot be reached/) as string
    })
  })
})

describe('the input', () => {
  it('is checked whole before anything is sent, and each fault is told with its line', async () => {
    await using server = await startServer((_, response) => sendJson(response, 200, {}))
    const good = JSON.stringify({ ...openaiLine(0), custom_id: 'item-0\u009b2J' })
    await folder.write(
      'in.jsonl',
      `${good}\n\n{"custom_id": \n${good}\n${JSON.stringify({ ...openaiLine(1), url: 'http://x' })}\n`
    )
    const runs = await Promise.all([run(batch(server.url)), run(['batch', folder.path('in.jsonl'), '--dry-run'])])
    for (const { code, stderr } of runs) {
      expect(code).toBe(2)
      expect(stderr).toContain('in.jsonl:3 is not valid JSON')
      expect(stderr).toContain('in.jsonl:4 has the custom_id "item-0\\u009b2J" of an earlier line')
      expect(stderr).toContain('in.jsonl:5 needs a "url"')
      expect(stderr).toContain('3 of 4 lines are broken: mend them; nothing was sent (millrace batch --help shows a right one)')
    }
    expect(server.seen).toEqual([])
    expect(existsSync(folder.path('out.jsonl'))).toBe(false)
  })

  it('--dry-run needs no key and sends nothing', async () => {
    await folder.write('in.jsonl', openaiFile(3))
    const { code, stderr } = await run(['batch', folder.path('in.jsonl'), '--dry-run'], { env: { OPENAI_API_KEY: undefined } })
    expect({ code, stderr }).toMatchObject({
      code: 0,
      stderr: expect.stringContaining('3 requests in the openai format') as string
    })
  })

  it('that is missing, a folder or empty is told with 2', async () => {
    await mkdir(folder.path('sub'))
    await folder.write('empty', '\n\n')
    const runs = await Promise.all(
      ['missing', 'sub', 'empty'].map((name) => run(['batch', folder.path(name), '--out', folder.path('o')]))
    )
    expect(runs.map(({ code }) => code)).toEqual([2, 2, 2])
    expect(runs.map(({ stderr }) => /ENOENT|is a folder|is empty/.exec(stderr)?.[0])).toEqual([
      'ENOENT',
      'is a folder',
      'is empty'
    ])
  })

  it('may be stdin: a broken line is an item that failed, and there is no journal', async () => {
    await using server = await startServer((_, response) => sendJson(response, 200, { n: 1 }))
    const stdin = `${JSON.stringify(openaiLine(0))}\nnothing\n${JSON.stringify(openaiLine(1))}\n`
    const { code, stderr } = await run(
      ['batch', '-', '--out', folder.path('out.jsonl'), '--base-url', server.url, '--order', 'input'],
      { stdin }
    )
    expect(code, stderr).toBe(1)
    expect(await folder.lines('out.jsonl')).toMatchObject([
      { custom_id: 'item-0', error: null },
      { custom_id: null, response: null, error: { code: 'invalid-request', message: 'line 2 is not valid JSON' } },
      { custom_id: 'item-1', error: null }
    ])
    expect(existsSync(folder.path('out.jsonl.journal'))).toBe(false)
  })
})

describe('the output', () => {
  it('that is there is not written over without --force', async () => {
    await using server = await startServer((_, response) => sendJson(response, 200, { n: 1 }))
    await folder.write('in.jsonl', openaiFile(2))
    await folder.write('out.jsonl', 'precious')
    const refused = await run(batch(server.url))
    expect(refused).toMatchObject({ code: 2, stderr: expect.stringContaining('is there already') as string })
    expect(await folder.read('out.jsonl')).toBe('precious')
    expect(server.seen).toEqual([])
    expect((await run(batch(server.url, '--force'))).code).toBe(0)
    expect(await folder.lines('out.jsonl')).toHaveLength(2)
  })

  it('that cannot be written stops the batch with 3', async () => {
    await using server = await startServer((_, response) => sendJson(response, 200, { n: 1 }))
    await folder.write('in.jsonl', openaiFile(500))
    await symlink('/dev/full', folder.path('out.jsonl'))
    expect(await run(batch(server.url))).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(/out\.jsonl cannot be written \(ENOSPC\): make room.*a new run begins anew/) as string
    })
    expect(server.seen.length).toBeLessThan(500)
  })

  it('and its journal may hit a full disk: what was done is not paid for again', async () => {
    await using server = await startServer((_, response) => sendJson(response, 200, { n: 1 }))
    await folder.write('in.jsonl', openaiFile(200))
    const full = await start(batch(server.url), { maxBlocks: 16 }).ended
    const [, done] = /cannot be written.*; (\d+) of 200 items are done.*--resume/.exec(full.stderr) ?? []
    expect({ code: full.code, done: Number(done) > 0 }, full.stderr).toEqual({ code: 3, done: true })
    const sent = server.seen.length
    expect(sent).toBeLessThan(200)
    const resumed = await run(batch(server.url, '--resume'))
    expect(resumed.code, resumed.stderr).toBe(0)
    expect(server.seen.length - sent).toBeLessThanOrEqual(200 - Number(done))
    expect((await folder.lines('out.jsonl')).map(({ custom_id: id }) => id).toSorted()).toEqual(ids(200))
  })

  it('grows while the batch runs', async () => {
    let open = false
    await using server = await startServer(async ({ body }, response) => {
      if (body.includes('about 9')) await until(() => open)
      sendJson(response, 200, { n: 1 })
    })
    await folder.write('in.jsonl', openaiFile(10))
    const ended = run(batch(server.url, '--json-progress'))
    await until(async () => existsSync(folder.path('out.jsonl')) && (await folder.lines('out.jsonl')).length === 9)
    open = true
    const { code, stderr } = await ended
    expect(code).toBe(0)
    expect(JSON.parse(stderr.trim().split('\n').at(-1) ?? '')).toMatchObject({ total: 10, done: 10, succeeded: 10, failed: 0 })
  })
})
