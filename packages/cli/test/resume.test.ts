import { existsSync } from 'node:fs'
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { canary, type Folder, makeFolder, openaiFile, run, type Server, sendJson, start, startServer, until } from './support.ts'

// A process of its own may take seconds to start where the machine is busy.
vi.setConfig({ testTimeout: 120_000 })

let folder: Folder
beforeEach(async () => {
  folder = await makeFolder()
})
afterEach(() => folder.close())

const ids = (count: number): string[] => Array.from({ length: count }, (_, n) => `item-${n}`).toSorted()
const slowServer = (ms: number): Promise<Server> =>
  startServer(async (_, response) => {
    await new Promise((resolve) => setTimeout(resolve, ms))
    sendJson(response, 200, { n: 1 })
  })

function batch(url: string, ...more: string[]): string[] {
  return ['batch', folder.path('in.jsonl'), '--out', folder.path('out.jsonl'), '--base-url', url, ...more]
}

async function keysByBody({ seen }: Server): Promise<Map<string, Set<string | undefined>>> {
  const keys = new Map<string, Set<string | undefined>>()
  for (const { body, key } of seen) keys.set(body, (keys.get(body) ?? new Set()).add(key))
  return keys
}

it('after three kill -9 every item is in the output once, and only what was in flight was sent again, with the same key', async () => {
  const [count, concurrency] = [150, 8]
  await using server = await slowServer(15)
  await folder.write('in.jsonl', openaiFile(count))
  for (const killAt of [25, 60, 110]) {
    const running = start(batch(server.url, '--concurrency', String(concurrency), '--resume'))
    await until(() => server.seen.length >= killAt || running.child.exitCode !== null)
    expect(running.child.kill('SIGKILL'), running.errors()).toBe(true)
    await running.ended
  }
  // What a crash can leave of the output is no problem: it is written anew.
  await folder.write('out.jsonl', '{"id":"batch_req_')
  const { code, stderr } = await run(batch(server.url, '--concurrency', String(concurrency), '--resume'))
  expect(code, stderr).toBe(0)
  expect(stderr).toMatch(/150 succeeded, 0 failed, \d+ of them in an earlier run/)
  expect((await folder.lines('out.jsonl')).map(({ custom_id: id }) => id).toSorted()).toEqual(ids(count))
  expect(server.seen.length).toBeLessThanOrEqual(count + 3 * concurrency)
  const keys = await keysByBody(server)
  expect(keys.size).toBe(count)
  for (const of of keys.values()) expect(of.size).toBe(1)
  expect(new Set([...keys.values()].flatMap((of) => [...of])).size).toBe(count)
  expect(existsSync(folder.path('out.jsonl.journal'))).toBe(false)
})

it('Ctrl-C finishes what runs, says how to go on, and ends with 130; nothing is sent twice', async () => {
  await using server = await slowServer(300)
  await folder.write('in.jsonl', openaiFile(20))
  const running = start(batch(server.url, '--concurrency', '4'))
  await until(() => server.seen.length >= 4)
  running.child.kill('SIGINT')
  const { code, stderr } = await running.ended
  expect(code, stderr).toBe(130)
  expect(stderr).toMatch(/waiting up to 30 s for \d running requests/)
  const sent = server.seen.length
  expect(stderr).toContain(`${sent} of 20 items are done, the same command with --resume goes on`)
  expect(await folder.lines('out.jsonl')).toHaveLength(sent)
  expect((await folder.read('out.jsonl.journal')).includes(canary)).toBe(false)

  const refused = await run(batch(server.url))
  expect(refused).toMatchObject({ code: 2, stderr: expect.stringContaining('--resume goes on') as string })
  const other = await run(batch('http://localhost:1', '--resume'))
  expect(other.code, 'a journal of another address').toBe(3)
  expect(await folder.lines('out.jsonl')).toHaveLength(sent)
  const resumed = await run(batch(server.url, '--resume'))
  expect(resumed.code, resumed.stderr).toBe(0)
  expect(server.seen).toHaveLength(20)
  expect((await folder.lines('out.jsonl')).map(({ custom_id: id }) => id).toSorted()).toEqual(ids(20))
})

it('Ctrl-C waits no longer than --grace, and a second one ends at once', async () => {
  await using server = await startServer(() => {})
  await folder.write('in.jsonl', openaiFile(20))
  const patient = start(batch(server.url))
  await until(() => server.seen.length >= 16)
  patient.child.kill('SIGINT')
  await until(() => patient.errors().includes('waiting'))
  const askedAt = performance.now()
  patient.child.kill('SIGINT')
  expect(await patient.ended).toMatchObject({
    code: 130,
    stderr: expect.stringMatching(/ended by SIGINT; 0 of 20 items are done, .*--resume/) as string
  })
  expect(performance.now() - askedAt).toBeLessThan(5000)

  const brief = start(batch(server.url, '--resume', '--grace', '0.2'))
  await until(() => server.seen.length >= 32 || brief.child.exitCode !== null)
  brief.child.kill('SIGTERM')
  const { code, stderr } = await brief.ended
  expect({ code, stderr }).toMatchObject({ code: 143, stderr: expect.stringContaining('0 of 20 items are done') as string })
})

it('Ctrl-C while stdin is silent ends the batch', async () => {
  await using server = await slowServer(1)
  const running = start(['batch', '-', '--out', folder.path('out.jsonl'), '--base-url', server.url], { openStdin: true })
  running.child.stdin?.write(openaiFile(3))
  await until(async () => existsSync(folder.path('out.jsonl')) && (await folder.lines('out.jsonl')).length === 3)
  running.child.kill('SIGINT')
  expect((await running.ended).code).toBe(130)
})
